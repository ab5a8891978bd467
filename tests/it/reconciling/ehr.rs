//! A source in memory whose records can be hidden, withheld and removed, and a worker that polls it under simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{
    Aim, ChangePage, ChangeRef, Clock, ConnectionName, Connector, ConnectorError, Cursor, DeleteSight,
    Detect, Detection, FeedName, FeedSpec, FetchMode, FetchRequest, Fetched, Granularity, Next, NotFound,
    Novelty, PageOrder, PollRequest, Record, RecordId, RecordKey, RecordType, Resume, Scope, Shown, Start,
    Strategy, VersionRule,
};
use ehr_courier::dedup::memory::MemoryDedup;
use ehr_courier::face::{Reload, health};
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::connection::{Connection, Feed, Overlap};
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{EventQuery, FeedState, Holder, Store as _, Unchanged};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Records on a page of a listing.
pub(crate) const PAGE: usize = 10;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Simulated {
    began: Timestamp,
    origin: Instant,
}

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        self.began.checked_add(self.origin.elapsed()).unwrap()
    }
}

/// How the source answers reads of a record that it does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Found,
    Gone,
    NotFound(NotFound),
    Withheld,
}

pub(crate) struct Row {
    version: u64,
    /// What the record says: as many times was it changed.
    content: u64,
    stamp: Timestamp,
    /// Whether searches for changes show it.
    pub(crate) searched: bool,
    /// Whether listings name it, and as what.
    pub(crate) listed: bool,
    pub(crate) novelty: Novelty,
    pub(crate) read: Read,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<String, Row>,
    /// Entries of every listing that name no record.
    pub(crate) unusable: usize,
    /// Polls hang from now on.
    pub(crate) hangs: bool,
    /// The links to further pages of a listing are refused.
    pub(crate) expires: bool,
    /// How long a page of a listing takes.
    pub(crate) takes: Duration,
    /// When pages of listings and of searches were asked for, the latter with their overlap.
    pub(crate) listings: Vec<Instant>,
    pub(crate) searches: Vec<(Instant, Duration)>,
    pub(crate) reads: Vec<String>,
}

/// A source.
#[derive(Clone)]
pub(crate) struct Ehr {
    pub(crate) clock: Simulated,
    state: Arc<Mutex<State>>,
}

impl Ehr {
    pub(crate) fn new() -> Self {
        Self {
            clock: Simulated {
                began: "2026-03-01T12:00:00Z".parse().unwrap(),
                origin: Instant::now(),
            },
            state: Arc::default(),
        }
    }

    pub(crate) fn open(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A version of a record, stamped so long ago.
    pub(crate) fn put(&self, id: &str, ago: Duration) {
        let stamp = self.clock.now().checked_sub(ago).unwrap();
        let mut state = self.open();
        let version = state.rows.get(id).map_or(1, |row| row.version + 1);
        let content = state.rows.get(id).map_or(1, |row| row.content + 1);
        let row = Row {
            version,
            content,
            stamp,
            searched: true,
            listed: true,
            novelty: Novelty::Announce,
            read: Read::Found,
        };
        state.rows.insert(id.to_owned(), row);
    }

    /// A version in which nothing changed, stamped now.
    pub(crate) fn touch(&self, id: &str) {
        let stamp = self.clock.now();
        let mut state = self.open();
        let row = state.rows.get_mut(id).unwrap();
        (row.version, row.stamp) = (row.version + 1, stamp);
    }

    /// The same, which no search for changes shows.
    pub(crate) fn put_unseen(&self, id: &str, ago: Duration) {
        self.put(id, ago);
        self.open().rows.get_mut(id).unwrap().searched = false;
    }

    /// A record that is there again as it was.
    pub(crate) fn restore(&self, id: &str) {
        let mut state = self.open();
        let row = state.rows.get_mut(id).unwrap();
        (row.searched, row.listed, row.read) = (true, true, Read::Found);
    }

    /// A record that nothing shows any more, and what reads of it are answered.
    pub(crate) fn remove(&self, id: &str, read: Read) {
        let mut state = self.open();
        let row = state.rows.get_mut(id).unwrap();
        (row.searched, row.listed, row.read) = (false, false, read);
    }
}

fn key(id: &str) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Patient").unwrap(),
        id: RecordId::parse(id).unwrap(),
    }
}

fn change(id: &str, row: &Row) -> ChangeRef {
    ChangeRef {
        key: key(id),
        shown: Shown::State,
        novelty: row.novelty,
        version_id: Some(row.version.to_string()),
        last_updated: Some(row.stamp),
        record: None,
    }
}

fn body(row: &Row) -> Record {
    let (version, content) = (row.version, row.content);
    let body = format!(
        r#"{{"resourceType":"Patient","meta":{{"versionId":"{version}"}},"multipleBirthInteger":{content}}}"#
    );
    Record::new(Bytes::from(body))
}

#[async_trait]
impl Connector for Ehr {
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        let lists = request.feed.scope.aim == Aim::Everything || request.feed.detect == Detect::Window;
        let now = self.clock.now();
        let (hangs, takes) = {
            let mut state = self.open();
            if lists {
                state.listings.push(Instant::now());
            } else {
                state.searches.push((Instant::now(), request.feed.overlap));
            }
            (state.hangs, state.takes)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if lists {
            tokio::time::sleep(takes).await;
        }
        let state = self.open();
        if lists && state.expires && request.resume.is_some() {
            return Err(ConnectorError::PageExpired {
                operation: "a page".to_owned(),
                status: 410,
            });
        }
        let page = |changes: Vec<ChangeRef>, next: Next| ChangePage {
            changes,
            oversized: Vec::new(),
            unusable: Vec::new(),
            listed: None,
            included: BTreeMap::new(),
            order: PageOrder::OldestFirst,
            next,
            fresh_as_of: now,
        };
        if lists {
            let from: usize = request
                .resume
                .map_or(0, |resume| resume.as_str().parse().unwrap());
            let rows: Vec<_> = state.rows.iter().filter(|(_, row)| row.listed).collect();
            let next = if from + PAGE < rows.len() {
                Next::Page(Resume::new((from + PAGE).to_string()))
            } else {
                Next::Done(Cursor::new("listed".to_owned()))
            };
            let shown: Vec<_> = rows.into_iter().skip(from).take(PAGE).collect();
            return Ok(ChangePage {
                unusable: (0..state.unusable).collect(),
                listed: Some(shown.iter().map(|(id, _)| key(id).id).collect()),
                ..page(shown.iter().map(|(id, row)| change(id, row)).collect(), next)
            });
        }
        let cursor = request.cursor.map(|cursor| self.describe(cursor).unwrap());
        let since = cursor.map(|cursor| cursor.checked_sub(request.feed.overlap).unwrap());
        let found = state.rows.iter().filter(|(_, row)| {
            let since = since.is_none_or(|since| row.stamp >= since);
            row.searched && row.stamp <= now && since
        });
        let changes: Vec<ChangeRef> = found
            .map(|(id, row)| ChangeRef {
                record: Some(body(row)),
                ..change(id, row)
            })
            .collect();
        let greatest = changes.iter().filter_map(|change| change.last_updated).max();
        let to = greatest.max(cursor).unwrap_or(now);
        Ok(page(changes, Next::Done(self.cursor_at(to))))
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        let id = request.change.key.id.as_str();
        let mut state = self.open();
        state.reads.push(id.to_owned());
        let row = &state.rows[id];
        Ok(match row.read {
            Read::Found if request.known == Some(row.version.to_string().as_str()) => Fetched::Unchanged,
            Read::Found => Fetched::Found(change(id, row), body(row)),
            Read::Gone => Fetched::Deleted,
            Read::NotFound(word) => Fetched::NotFound(word),
            Read::Withheld => Fetched::Unavailable,
        })
    }

    async fn probe(&self, _feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        Ok(Detection {
            strategy: Strategy::Window,
            why: "it is written here".to_owned(),
            granularity: Granularity::Fraction,
            order: PageOrder::OldestFirst,
            deletes: DeleteSight::OnDisappearance,
            blind_spots: Vec::new(),
        })
    }

    fn version_rule(&self, _record_type: &RecordType) -> VersionRule {
        VersionRule {
            trust_version_id: true,
            numeric_order: true,
            trust_last_updated: true,
            first_version: None,
            volatile_paths: Vec::new(),
        }
    }

    fn cursor_at(&self, instant: Timestamp) -> Cursor {
        Cursor::new(instant.to_string())
    }

    fn describe(&self, cursor: &Cursor) -> Option<Timestamp> {
        cursor.as_str().parse().ok()
    }
}

/// A feed that finds changes so, polled each minute.
pub(crate) fn feed(detect: Detect, overlap: Overlap) -> Feed {
    Feed {
        spec: FeedSpec {
            name: FeedName::parse("patients").unwrap(),
            record_type: RecordType::parse("Patient").unwrap(),
            filter: String::new(),
            start: Start::Beginning,
            overlap: Duration::from_mins(5),
            fetch: FetchMode::FromPage,
            detect,
            include: Vec::new(),
            scope: Scope::default(),
        },
        every: Duration::from_mins(1),
        overlap,
        unchanged: Unchanged::Tell,
        storm: None,
    }
}

/// A feed that lists everything at each poll, and reads what it does not know.
pub(crate) fn listing() -> Feed {
    feed(Detect::Window, Overlap::Fixed)
}

/// A feed that searches, and its sweep each day.
pub(crate) fn swept(ehr: &Ehr) -> Vec<Feed> {
    swept_every(ehr, Duration::from_hours(24))
}

pub(crate) fn swept_every(ehr: &Ehr, every: Duration) -> Vec<Feed> {
    let live = feed(Detect::LastUpdated, Overlap::Adaptive);
    let rule = ehr.version_rule(&live.spec.record_type);
    let sweep = live.sweep(every, &rule).unwrap();
    vec![live, sweep]
}

pub(crate) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

/// A worker over a store, while it runs.
pub(crate) struct Running {
    pub(crate) worker: Arc<Worker>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

pub(crate) fn run(store: &MemoryStore, ehr: &Ehr, feeds: Vec<Feed>) -> Running {
    run_within(store, ehr, feeds, Budget::new(None, 2))
}

pub(crate) fn run_within(store: &MemoryStore, ehr: &Ehr, feeds: Vec<Feed>, budget: Budget) -> Running {
    let connection = Connection::new(mercy(), Arc::new(ehr.clone()), feeds, budget, 2);
    let worker = Arc::new(Worker {
        store: Arc::new(store.reopened()),
        dedup: Arc::new(MemoryDedup::default()),
        clock: Arc::new(ehr.clock),
        connections: [(mercy(), Arc::new(connection))].into(),
        destinations: BTreeMap::new(),
        subscriptions: Vec::new(),
        holder: Holder("reconciling".to_owned()),
        limits: Limits::default(),
        bells: Bells::default(),
        watch: Arc::default(),
        draws: Mutex::new(StdRng::seed_from_u64(1)),
    });
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    Running { worker, stop, tasks }
}

impl Running {
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    pub(crate) fn report(&self) -> health::Report {
        health::report(&self.worker, false, Reload::None)
    }
}

/// The events so far, as `id version kind`, oldest first.
pub(crate) async fn events(store: &MemoryStore) -> Vec<String> {
    let query = EventQuery {
        limit: 10_000,
        ..EventQuery::default()
    };
    let mut rows = store.events(&query).await.unwrap();
    rows.sort_by_key(|row| row.position);
    let shown =
        |row: &ehr_courier::store::EventRow| format!("{} {} {}", row.key.id, row.version, row.kind.as_str());
    rows.iter().map(shown).collect()
}

/// The ids of events of one kind.
pub(crate) async fn told(store: &MemoryStore, kind: &str) -> BTreeSet<String> {
    let ending = format!(" {kind}");
    let of_kind = |event: String| Some(event.strip_suffix(&ending)?.split(' ').next()?.to_owned());
    events(store).await.into_iter().filter_map(of_kind).collect()
}

pub(crate) async fn state(store: &MemoryStore, feed: &str) -> FeedState {
    store
        .feed(&mercy(), &FeedName::parse(feed).unwrap())
        .await
        .unwrap()
}

pub(crate) async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_mins(count)).await;
}
