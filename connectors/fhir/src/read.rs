//! Reads one changed record: the version asked for where the source offers it, else the current one, which need not be
//! sent where it is the version that the caller knows.

use courier_sdk::{
    ChangeRef, ConnectorError, FetchRequest, Fetched, HttpError, HttpResponse, NotFound, Novelty, Record,
    Shown,
};
use http::header::ETAG;
use http::{HeaderValue, StatusCode};
use url::Url;

use crate::answer::{self, Asked};
use crate::bundle::Item;
use crate::exchange::{NoAnswer, Wanted};
use crate::{FhirConnector, bundle, query};

/// A read that was answered, or whose answer is too large.
enum Answer {
    Response(HttpResponse),
    TooLarge,
}

impl FhirConnector {
    pub(crate) async fn read(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        let change = request.change;
        let base = &self.exchange.base;
        if self.profile.version_read
            && let Some(version_id) = &change.version_id
        {
            let url = query::version_read(base, &change.key, version_id);
            match self.ask(change, url, Wanted::Record).await? {
                Answer::TooLarge => return Ok(Fetched::TooLarge),
                // The version is gone, or such reads are not offered or not allowed: no word on the record itself.
                Answer::Response(response)
                    if matches!(response.status.as_u16(), 400 | 403 | 404 | 405 | 410 | 501) => {}
                Answer::Response(response) => return self.judge(change, &response),
            }
        }
        if let Some(known) = request.known
            && let Some(tag) = entity_tag(known)
        {
            let url = query::read(base, &change.key);
            match self.ask(change, url, Wanted::RecordUnless(&tag)).await? {
                Answer::Response(response) if response.status == StatusCode::NOT_MODIFIED => {
                    if etag(&response).is_none_or(|tag| tag == known) {
                        return Ok(Fetched::Unchanged);
                    }
                    // It names another version than the one that we know: only the record itself can tell.
                }
                answer @ (Answer::Response(_) | Answer::TooLarge) => {
                    return self.judge_current(change, answer);
                }
            }
        }
        let answer = self
            .ask(change, query::read(base, &change.key), Wanted::Record)
            .await?;
        self.judge_current(change, answer)
    }

    /// What a read of the current state says.
    fn judge_current(&self, change: &ChangeRef, answer: Answer) -> Result<Fetched, ConnectorError> {
        match answer {
            Answer::TooLarge => Ok(Fetched::TooLarge),
            Answer::Response(response) => match response.status.as_u16() {
                404 => Ok(Fetched::NotFound(self.not_found(&response))),
                410 => Ok(Fetched::Deleted),
                _ => self.judge(change, &response),
            },
        }
    }

    /// Whose word a 404 is: a proxy says it with a page of its own, a FHIR server with an `OperationOutcome`.
    fn not_found(&self, response: &HttpResponse) -> NotFound {
        let own = bundle::is_outcome(&response.body, self.limits.json_depth_max);
        match (own, self.profile.not_found_is_deleted) {
            (false, _) => NotFound::Unattributed,
            (true, false) => NotFound::BySource,
            (true, true) => NotFound::MeansDeleted,
        }
    }

    async fn ask(&self, change: &ChangeRef, url: Url, wanted: Wanted<'_>) -> Result<Answer, ConnectorError> {
        let operation = operation(change);
        let bytes_max = self.limits.record_bytes_max;
        match self.exchange.get(&operation, url, wanted, bytes_max).await {
            Ok(response) if response.body.len() > bytes_max => Ok(Answer::TooLarge),
            Ok(response) => Ok(Answer::Response(response)),
            Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => Ok(Answer::TooLarge),
            Err(error) => Err(error.of(&operation)),
        }
    }

    fn judge(&self, change: &ChangeRef, response: &HttpResponse) -> Result<Fetched, ConnectorError> {
        match response.status.as_u16() {
            200 => {}
            403 => return Ok(Fetched::Unavailable),
            _ => {
                return Err(answer::refusal(
                    operation(change),
                    response,
                    Asked::Read,
                    self.clock.now(),
                ));
            }
        }
        let item = bundle::record(&response.body, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation(change), &error))?;
        if item.key != change.key {
            let reason = "the answer is another record than the one asked for".to_owned();
            return Err(ConnectorError::Unreadable {
                operation: operation(change),
                reason,
            });
        }
        let version_id = item.version_id.or_else(|| etag(response));
        Ok(self.taken(change, Item { version_id, ..item }))
    }

    /// The record that a change led to.
    pub(crate) fn taken(&self, change: &ChangeRef, item: Item) -> Fetched {
        if item.body.len() > self.limits.record_bytes_max {
            return Fetched::TooLarge;
        }
        let version_id = item.version_id;
        let same = version_id == change.version_id && item.last_updated == change.last_updated;
        let found = ChangeRef {
            key: item.key,
            shown: Shown::State,
            // What was shown before the feed's start is silent, a version that came since then is not.
            novelty: if same { change.novelty } else { Novelty::Announce },
            version_id,
            last_updated: item.last_updated,
            record: None,
        };
        Fetched::Found(found, Record::new(item.body))
    }
}

fn operation(change: &ChangeRef) -> String {
    format!("read {}", change.key.record_type)
}

/// The tag of a version, as a source's reads carry it; none where the id cannot stand in one.
fn entity_tag(version_id: &str) -> Option<HeaderValue> {
    let fits = version_id
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"');
    HeaderValue::try_from(format!("W/\"{version_id}\""))
        .ok()
        .filter(|_| fits)
}

fn etag(response: &HttpResponse) -> Option<String> {
    bundle::bare_etag(response.headers.get(ETAG)?.to_str().ok()?)
}
