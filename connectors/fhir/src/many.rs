//! Reads several records of one type with one request, where the profile says how: a search for their ids, or a `batch`
//! Bundle.
//!
//! What it answers holds as if each were read by itself. So a record that is missing from an answer is no evidence of
//! anything, and one whose version is another than the one that was shown is left to a read by itself: a search may be
//! answered from an index that lags behind, and the version asked for may still be there. A server that does not take
//! such requests is read one by one for an hour.

use std::collections::{BTreeMap, VecDeque};

use courier_sdk::{ConnectorError, FetchRequest, Fetched, HttpError, Record, RecordKey, RecordType};

use crate::answer::{self, Asked};
use crate::bundle::{self, Item, batch};
use crate::exchange::{NoAnswer, Wanted};
use crate::profile::ReadMany;
use crate::{FhirConnector, query};

/// The most characters of ids in an address: less than the 2,000 that every server and gateway takes.
const IDS_CHARS_MAX: usize = 1_500;

/// What came of one request.
enum Answer {
    /// These records, all that were asked for and exist or only some.
    Records(Vec<Item>),
    TooLarge,
    /// The server does not take such requests.
    Refused,
}

impl FhirConnector {
    /// See [`courier_sdk::Connector::fetch_at_once`].
    pub(crate) fn at_once(&self, record_type: &RecordType) -> usize {
        if self.profile.read_many == ReadMany::None {
            return 1;
        }
        let most = usize::try_from(self.profile.read_many_max)
            .unwrap_or(usize::MAX)
            .max(1);
        self.read_at_once.of(record_type, most, self.clock.now())
    }

    pub(crate) async fn read_many(
        &self,
        requests: &[FetchRequest<'_>],
    ) -> Result<Vec<Option<Fetched>>, ConnectorError> {
        // Where neither version nor stamp was shown, only the record's own address can tell: it is not asked for here.
        let told = |request: &&FetchRequest<'_>| {
            request.change.version_id.is_some() || request.change.last_updated.is_some()
        };
        let keys: Vec<&RecordKey> = requests
            .iter()
            .filter(told)
            .map(|request| &request.change.key)
            .collect();
        let found = self.records_of(&keys).await?;
        let fetched = |request: &FetchRequest<'_>| {
            let item = found.get(&request.change.key)?;
            is_as_shown(request, item).then(|| self.taken(request.change, item.clone()))
        };
        Ok(requests.iter().map(fetched).collect())
    }

    pub(crate) async fn read_referred_many(
        &self,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Record>>, ConnectorError> {
        let mut found = self.records_of(&keys.iter().collect::<Vec<_>>()).await?;
        let record = |key: &RecordKey| {
            let item = found.remove(key)?;
            (item.body.len() <= self.limits.record_bytes_max).then(|| Record::new(item.body))
        };
        Ok(keys.iter().map(record).collect())
    }

    /// Asks for records of one type; an answer that is too large is asked for in halves.
    async fn records_of(&self, keys: &[&RecordKey]) -> Result<BTreeMap<RecordKey, Item>, ConnectorError> {
        let mut found = BTreeMap::new();
        let Some(record_type) = keys.first().map(|key| &key.record_type) else {
            return Ok(found);
        };
        let mut askable: Vec<&RecordKey> = keys.iter().copied().filter(|key| is_askable(key)).collect();
        askable.sort_unstable();
        askable.dedup();
        let mut parts: VecDeque<&[&RecordKey]> = parts(&askable).into();
        while let Some(part) = parts.pop_front() {
            match self.ask_for(record_type, part).await {
                Ok(Answer::Records(items)) => {
                    found.extend(items.into_iter().map(|item| (item.key.clone(), item)));
                }
                Ok(Answer::TooLarge) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    self.remember(record_type, first.len());
                    parts.extend([first, second]);
                }
                Ok(Answer::TooLarge) => {}
                Ok(Answer::Refused) => self.remember(record_type, 1),
                Err(error) if found.is_empty() => return Err(error),
                // What was learnt is worth having; the rest meets the error again.
                Err(_) => break,
            }
        }
        Ok(found)
    }

    async fn ask_for(&self, record_type: &RecordType, keys: &[&RecordKey]) -> Result<Answer, ConnectorError> {
        let operation = format!("read several {record_type}");
        let bytes_max = self.limits.page_bytes_max;
        let answer = if self.profile.read_many == ReadMany::Batch {
            let bundle = batch::of_reads(keys.iter().copied());
            self.exchange.batch(&operation, bundle, bytes_max).await
        } else {
            let url = query::by_ids(&self.exchange.base, record_type, keys);
            self.exchange
                .get(&operation, url, Wanted::Search, bytes_max)
                .await
        };
        let response = match answer {
            Ok(response) if response.body.len() > bytes_max => return Ok(Answer::TooLarge),
            Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => return Ok(Answer::TooLarge),
            Err(error) => return Err(error.of(&operation)),
            Ok(response) => response,
        };
        if response.status.as_u16() != 200 {
            let error = answer::refusal(operation, &response, Asked::Read, self.clock.now());
            return if matches!(error, ConnectorError::Refused { .. }) {
                Ok(Answer::Refused)
            } else {
                Err(error)
            };
        }
        let depth_max = self.limits.json_depth_max;
        let items = if self.profile.read_many == ReadMany::Batch {
            batch::records(&response.body, depth_max)
        } else {
            bundle::page(&response.body, record_type, depth_max).map(|page| {
                let unasked = |item: &Item| keys.binary_search(&&item.key).is_err();
                if page.items.iter().any(unasked) {
                    // `_id` was ignored: what is asked for would be found by chance alone.
                    self.remember(record_type, 1);
                } else if page.next.is_some() {
                    self.remember(record_type, page.items.len().max(1));
                }
                page.items
            })
        };
        let mut items = items.map_err(|error| answer::unusable(operation, &error))?;
        items.retain(|item| !item.subsetted && keys.binary_search(&&item.key).is_ok());
        Ok(Answer::Records(items))
    }

    /// Notes that no more than so many records of a type should be asked for at once for a while.
    pub(crate) fn remember(&self, record_type: &RecordType, most: usize) {
        self.read_at_once.remember(record_type, most, self.clock.now());
    }
}

/// Whether what was found is what a read by itself would have to answer: the version that was shown, or, where none was
/// named, one that is not older. Where neither version nor stamp was shown, only the record's own address can tell.
fn is_as_shown(request: &FetchRequest<'_>, item: &Item) -> bool {
    let change = request.change;
    match (&change.version_id, change.last_updated) {
        (Some(_), _) => item.version_id == change.version_id,
        (None, Some(shown)) => item.last_updated.is_some_and(|found| found >= shown),
        (None, None) => false,
    }
}

/// Whether an id can stand in a list of ids: as FHIR defines them, which leaves no room for a comma.
fn is_askable(key: &RecordKey) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    key.id.as_str().bytes().all(plain)
}

/// Cuts keys into what an address can hold.
fn parts<'a, 'k>(keys: &'a [&'k RecordKey]) -> Vec<&'a [&'k RecordKey]> {
    let (mut parts, mut rest) = (Vec::new(), keys);
    while !rest.is_empty() {
        let mut chars = 0;
        let fits = rest.iter().take_while(|key| {
            chars += key.id.as_str().len() + 1;
            chars <= IDS_CHARS_MAX
        });
        let (part, others) = rest.split_at(fits.count().max(1));
        parts.push(part);
        rest = others;
    }
    parts
}
