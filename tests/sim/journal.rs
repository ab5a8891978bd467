//! A source that answers history: every version, newest first, page after page, with the page boundary repeated.
//!
//! It speaks to the courier through a connector of its own, which is the simplest that keeps the contract.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{
    Aim, ChangePage, ChangeRef, Clock, Connector, ConnectorError, Cursor, DeleteSight, Detection, FeedSpec,
    FetchMode, FetchRequest, Fetched, Granularity, Next, NotFound, Novelty, PageOrder, PollRequest, Record,
    RecordId, RecordKey, RecordType, Resume, Shown, Start, Strategy, VersionRule,
};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::book::{Answer, Asked, Book, Extent, Showing};
use crate::clock::SimClock;
use crate::identity::sha256;
use crate::life::Life;

/// One version as the journal keeps it.
#[derive(Debug, Clone)]
struct Version {
    key: RecordKey,
    number: u64,
    stamp: Timestamp,
    visible_at: Timestamp,
    shown: Shown,
    body: Option<Bytes>,
}

/// What goes wrong with it, as probabilities per request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JournalFaults {
    pub(crate) transient: f64,
    pub(crate) throttled: f64,
    pub(crate) expired: f64,
    /// Versions that become visible later than they are stamped.
    pub(crate) late: f64,
}

/// The source itself.
pub(crate) struct Journal {
    versions: Mutex<Vec<Version>>,
    faults: JournalFaults,
    late_max: Duration,
    clock: SimClock,
    dice: Mutex<StdRng>,
    calm: Arc<AtomicBool>,
    strikes: Mutex<std::collections::BTreeMap<&'static str, u64>>,
}

const TYPES: [&str; 2] = ["Visit", "Note"];

impl Journal {
    pub(crate) fn new(
        faults: JournalFaults,
        late_max: Duration,
        clock: SimClock,
        dice: StdRng,
        calm: Arc<AtomicBool>,
    ) -> Self {
        Self {
            versions: Mutex::new(Vec::new()),
            faults,
            late_max,
            clock,
            dice: Mutex::new(dice),
            calm,
            strikes: Mutex::default(),
        }
    }

    /// Writes versions as if they had come about over the last hours.
    pub(crate) fn fill(&self, count: u32) {
        for row in 0..count {
            let before = SignedDuration::from_secs(i64::from(count - row) * 97);
            let stamp = self.clock.now() - before;
            self.write(stamp, stamp);
        }
    }

    /// One change: a new record, a new version, a delete.
    pub(crate) fn step(&self) {
        let now = self.clock.now();
        let late = {
            let mut dice = self.dice.lock().unwrap();
            let strikes = !self.calm.load(Ordering::Relaxed) && dice.random_bool(self.faults.late);
            strikes.then(|| dice.random_range(0.1..1.0))
        };
        let visible_at = match late {
            Some(share) => {
                self.strike("journal_late");
                now + self.late_max.mul_f64(share)
            }
            None => now,
        };
        self.write(now, visible_at);
    }

    pub(crate) fn strikes(&self) -> std::collections::BTreeMap<&'static str, u64> {
        self.strikes.lock().unwrap().clone()
    }

    /// Every version that is visible now, for the last comparison: (type, id, number, stamp).
    /// Whether a version is a record's last and no delete.
    pub(crate) fn stands(&self, record_type: &str, id: &str, number: u64) -> bool {
        let versions = self.versions.lock().unwrap();
        let of_record = versions
            .iter()
            .filter(|it| it.key.record_type.as_str() == record_type && it.key.id.as_str() == id);
        let last = of_record.max_by_key(|it| it.number);
        last.is_some_and(|last| last.number == number && last.body.is_some())
    }

    pub(crate) fn all(&self) -> Vec<(String, String, u64, Timestamp)> {
        let now = self.clock.now();
        self.versions
            .lock()
            .unwrap()
            .iter()
            .filter(|version| version.visible_at <= now)
            .map(|version| {
                let key = &version.key;
                (
                    key.record_type.to_string(),
                    key.id.to_string(),
                    version.number,
                    version.stamp,
                )
            })
            .collect()
    }

    fn strike(&self, name: &'static str) {
        *self.strikes.lock().unwrap().entry(name).or_default() += 1;
    }

    fn write(&self, stamp: Timestamp, visible_at: Timestamp) {
        let mut dice = self.dice.lock().unwrap();
        let mut versions = self.versions.lock().unwrap();
        let record_type = TYPES[dice.random_range(0..TYPES.len())];
        let id = format!("{}-{}", record_type.to_lowercase(), dice.random_range(0..40));
        let key = RecordKey {
            record_type: RecordType::parse(record_type).unwrap(),
            id: RecordId::parse(&id).unwrap(),
        };
        let last = versions.iter().rev().find(|version| version.key == key);
        let number = last.map_or(1, |version| version.number + 1);
        let alive = last.is_some_and(|version| version.body.is_some());
        // What is visible late stays alone: a record's own versions come into sight in any order otherwise only
        // where the fault wants it.
        let shown = match (last, alive) {
            (None, _) | (Some(_), false) => Shown::Created,
            (Some(_), true) if dice.random_bool(0.06) => Shown::Deleted,
            (Some(_), true) => Shown::Updated,
        };
        let stamp = Timestamp::from_millisecond(stamp.as_millisecond()).unwrap();
        let body = (shown != Shown::Deleted).then(|| {
            let draw: u32 = dice.random_range(0..1000);
            Bytes::from(format!(
                "{{\"id\":\"{id}\",\"v\":{number},\"weight\":{draw}.10,\"note\":\"a\\/b \u{e9}\"}}"
            ))
        });
        versions.push(Version {
            key,
            number,
            stamp,
            visible_at,
            shown,
            body,
        });
    }
}

/// One life's connector to a journal.
pub(crate) struct JournalConnector {
    pub(crate) connection: String,
    pub(crate) journal: Arc<Journal>,
    pub(crate) page_size: usize,
    pub(crate) life: Arc<Life>,
    pub(crate) book: Arc<Book>,
    pub(crate) clock: SimClock,
}

/// A place in milliseconds: `watermark;start`, or for a link `as_of;lower;start;offset;floor`.
fn numbers(text: &str) -> Vec<i64> {
    text.split(';').map(|part| part.parse().unwrap()).collect()
}

fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

impl JournalConnector {
    async fn request(&self, operation: &str, resumed: bool) -> Result<(), ConnectorError> {
        self.life.gate().await;
        let journal = &self.journal;
        let (wait, draw) = {
            let mut dice = journal.dice.lock().unwrap();
            (
                Duration::from_millis(dice.random_range(1..80)),
                dice.random::<f64>(),
            )
        };
        tokio::time::sleep(wait).await;
        let operation = operation.to_owned();
        let faults = if journal.calm.load(Ordering::Relaxed) {
            JournalFaults::default()
        } else {
            journal.faults
        };
        if draw < faults.transient {
            journal.strike("journal_transient");
            let reason = "503".to_owned();
            return Err(ConnectorError::Transient { operation, reason });
        }
        if draw < faults.transient + faults.throttled {
            journal.strike("journal_throttled");
            let retry_after = Some(Duration::from_secs(2));
            return Err(ConnectorError::Throttled {
                operation,
                retry_after,
            });
        }
        if resumed && draw < faults.transient + faults.throttled + faults.expired {
            journal.strike("journal_expired");
            return Err(ConnectorError::PageExpired {
                operation,
                status: 410,
            });
        }
        Ok(())
    }

    fn note(&self, feed: &str, asked: Asked, versions: &[Version], extent: Extent) {
        let showings = versions
            .iter()
            .map(|version| Showing {
                record_type: version.key.record_type.to_string(),
                id: version.key.id.to_string(),
                number: version.number,
                stamp: version.stamp,
                extent: if version.body.is_none() {
                    Extent::Whole
                } else {
                    extent
                },
                sha256: sha256(version.body.as_deref().unwrap_or_default()),
            })
            .collect();
        let mut pages = self.book.open();
        let tick = pages.next();
        pages.answers.push(Answer {
            tick,
            life: self.life.number,
            connection: self.connection.clone(),
            feed: feed.to_owned(),
            asked,
            date: self.clock.now(),
            since: None,
            ignores: false,
            showings,
        });
    }
}

#[async_trait]
impl Connector for JournalConnector {
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        let feed = request.feed;
        self.request("history", request.resume.is_some()).await?;
        let now = self.clock.now().as_millisecond();
        if let Aim::Past { until } = feed.scope.aim {
            return Ok(self.past(&request, until));
        }
        if let (Aim::Present, None) = (feed.scope.aim, request.cursor) {
            self.note(feed.name.as_str(), Asked::FirstPage, &[], Extent::Whole);
            return Ok(begins(feed.start, instant(now)));
        }
        let place = match (request.resume, request.cursor) {
            (Some(resume), _) => numbers(resume.as_str()),
            (None, Some(cursor)) => {
                let cursor = numbers(cursor.as_str());
                let overlap = i64::try_from(feed.overlap.as_millis()).unwrap();
                vec![now, cursor[0] - overlap, cursor[1], 0, cursor[0]]
            }
            (None, None) => match feed.start {
                Start::Beginning => vec![now, 0, 0, 0, 0],
                Start::Now => vec![now, now, now, 0, now],
                Start::At(at) => vec![now, at.as_millisecond(), at.as_millisecond(), 0, 0],
            },
        };
        let (as_of, lower, start, offset) =
            (place[0], place[1], place[2], usize::try_from(place[3]).unwrap());
        let mut all: Vec<Version> = self.journal.versions.lock().unwrap().clone();
        all.retain(|version| {
            version.key.record_type == feed.record_type
                && version.visible_at <= instant(as_of)
                && version.stamp >= instant(lower)
        });
        all.sort_by_key(|version| std::cmp::Reverse((version.stamp, version.number)));
        // The boundary is repeated: the last row of a page is the first of the next.
        let begin = offset.saturating_sub(usize::from(offset > 0));
        let end = (offset + self.page_size).min(all.len());
        let page = all[begin.min(end)..end].to_vec();
        let carried = feed.fetch == FetchMode::FromPage;
        let asked = if request.resume.is_some() {
            Asked::Page
        } else {
            Asked::FirstPage
        };
        let extent = if carried { Extent::Whole } else { Extent::IdOnly };
        self.note(feed.name.as_str(), asked, &page, extent);
        let next = if end < all.len() {
            let link = [as_of, lower, start, i64::try_from(end).unwrap(), place[4]];
            Next::Page(Resume::new(link.map(|part| part.to_string()).join(";")))
        } else {
            let greatest = all.first().map_or(0, |version| version.stamp.as_millisecond());
            Next::Done(Cursor::new(format!("{};{start}", greatest.max(place[4]))))
        };
        let changes = page.iter().map(|version| shown(version, instant(start), carried));
        Ok(ChangePage {
            order: PageOrder::NewestFirst,
            ..page_of(changes.collect(), next, instant(as_of))
        })
    }

    async fn probe(&self, _feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        Ok(Detection {
            strategy: Strategy::History,
            why: "a journal lists every version".to_owned(),
            granularity: Granularity::Fraction,
            order: PageOrder::NewestFirst,
            deletes: DeleteSight::Listed,
            blind_spots: Vec::new(),
        })
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        let change = request.change;
        self.request("read", false).await?;
        let wanted = change
            .version_id
            .as_ref()
            .and_then(|text| text.parse::<u64>().ok());
        let found = self
            .journal
            .versions
            .lock()
            .unwrap()
            .iter()
            .find(|version| version.key == change.key && Some(version.number) == wanted)
            .cloned();
        let Some(version) = found else {
            return Ok(Fetched::NotFound(NotFound::BySource));
        };
        self.note("", Asked::Version, std::slice::from_ref(&version), Extent::Whole);
        let mut reference = version.reference(change.novelty);
        reference.shown = change.shown;
        Ok(version.body.map_or(Fetched::Deleted, |body| {
            Fetched::Found(reference, Record::new(body))
        }))
    }

    fn version_rule(&self, _record_type: &RecordType) -> VersionRule {
        VersionRule {
            trust_version_id: true,
            numeric_order: true,
            trust_last_updated: true,
            first_version: Some("1".to_owned()),
            volatile_paths: Vec::new(),
        }
    }

    fn cursor_at(&self, at: Timestamp) -> Cursor {
        Cursor::new(format!("{};0", at.as_millisecond()))
    }

    fn describe(&self, cursor: &Cursor) -> Option<Timestamp> {
        numbers(cursor.as_str()).first().map(|millis| instant(*millis))
    }
}

/// A feed that begins now beside a backfill: the next poll shows what this one would.
fn begins(start: Start, now: Timestamp) -> ChangePage {
    let start = match start {
        Start::At(at) => at.as_millisecond(),
        Start::Now | Start::Beginning => 0,
    };
    let cursor = Cursor::new(format!("{};{start}", now.as_millisecond()));
    page_of(Vec::new(), Next::Done(cursor), now)
}

/// A row of the history: in silence before the feed's start, with its record where that is asked for.
fn shown(version: &Version, start: Timestamp, carried: bool) -> ChangeRef {
    let novelty = if version.stamp < start {
        Novelty::Silent
    } else {
        Novelty::Announce
    };
    let mut change = version.reference(novelty);
    change.record = version.body.clone().filter(|_| carried).map(Record::new);
    change
}

fn page_of(changes: Vec<ChangeRef>, next: Next, fresh_as_of: Timestamp) -> ChangePage {
    ChangePage {
        changes,
        oversized: Vec::new(),
        unusable: Vec::new(),
        listed: None,
        included: BTreeMap::new(),
        order: PageOrder::OldestFirst,
        next,
        fresh_as_of,
    }
}

impl JournalConnector {
    /// The current versions of before an instant, oldest first; a page ends with a whole stamp.
    fn past(&self, request: &PollRequest<'_>, until: Timestamp) -> ChangePage {
        let feed = request.feed;
        let from = match (request.cursor, feed.start) {
            (Some(cursor), _) => instant(numbers(cursor.as_str())[0]),
            (None, Start::At(at)) => at,
            (None, Start::Now | Start::Beginning) => Timestamp::UNIX_EPOCH,
        };
        let now = self.clock.now();
        let mut current: BTreeMap<RecordKey, Version> = BTreeMap::new();
        for version in self.journal.versions.lock().unwrap().iter() {
            let newest = current
                .get(&version.key)
                .is_none_or(|it| it.number < version.number);
            if version.key.record_type == feed.record_type && version.visible_at <= now && newest {
                current.insert(version.key.clone(), version.clone());
            }
        }
        let within = |it: &Version| it.body.is_some() && (from..=until).contains(&it.stamp);
        let mut all: Vec<Version> = current.into_values().filter(within).collect();
        all.sort_by_key(|version| (version.stamp, version.number));
        let last = all.get(self.page_size).map(|version| version.stamp);
        let end = last.filter(|last| *last > from).unwrap_or(until);
        all.retain(|version| version.stamp <= end);
        let carried = feed.fetch == FetchMode::FromPage;
        let extent = if carried { Extent::Whole } else { Extent::IdOnly };
        self.note(feed.name.as_str(), Asked::FirstPage, &all, extent);
        let changes = all.iter().map(|version| {
            let mut change = version.reference(Novelty::Announce);
            change.shown = Shown::State;
            change.record = version.body.clone().filter(|_| carried).map(Record::new);
            change
        });
        let cursor = Cursor::new(format!("{};0", end.as_millisecond()));
        page_of(changes.collect(), Next::Done(cursor), now)
    }
}

impl Version {
    fn reference(&self, novelty: Novelty) -> ChangeRef {
        ChangeRef {
            key: self.key.clone(),
            shown: self.shown,
            novelty,
            version_id: Some(self.number.to_string()),
            last_updated: Some(self.stamp),
            record: None,
        }
    }
}
