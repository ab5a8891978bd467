//! The sandbox behind the real FHIR connector, in process and under simulated time, and a worker that may be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits as FhirLimits, Profile, Settings};
use courier_sdk::{
    Clock, ConnectionName, Detect, FeedName, FeedSpec, FetchMode, Http, HttpError, HttpRequest, HttpResponse,
    RecordType, Scope, Start, VersionRule,
};
use ehr_courier::dedup::memory::MemoryDedup;
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::budget::metered::Metered;
use ehr_courier::pipeline::connection::{Connection, Feed, Overlap};
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::sandbox::{Ehr, Options, Request};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{EventQuery, FeedState, Holder, Store as _, Unchanged};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Records on a page.
pub(crate) const PAGE: u32 = 50;

/// What a request takes there and back.
const TRIP: Duration = Duration::from_millis(20);

/// A simulated time until something holds; enough for a day of polls.
const PATIENCE: Duration = Duration::from_hours(24);

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

/// The way to the sandbox: what was asked, and whether page links are of no use.
pub(crate) struct Source {
    ehr: Arc<Ehr>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) links_expire: Mutex<bool>,
}

#[async_trait]
impl Http for Source {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        tokio::time::sleep(TRIP).await;
        let query = request.url.query().unwrap_or_default().to_owned();
        let expired = *self.links_expire.lock().unwrap() && query.contains("_page=");
        self.asked
            .lock()
            .unwrap()
            .push(format!("{}?{query}", request.url.path()));
        if expired {
            return Ok(HttpResponse {
                status: StatusCode::GONE,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            });
        }
        let answer = self
            .ehr
            .answer(&Request::new(request.method, &request.url, request.headers));
        Ok(HttpResponse {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        })
    }
}

pub(crate) struct Scene {
    pub(crate) clock: Simulated,
    pub(crate) ehr: Arc<Ehr>,
    pub(crate) source: Arc<Source>,
    pub(crate) store: MemoryStore,
    profile: Profile,
    running: Option<(CancellationToken, JoinSet<()>)>,
}

impl Scene {
    pub(crate) fn raise() -> Self {
        Self::of(Profile::builtin("sandbox").unwrap())
    }

    pub(crate) fn of(profile: Profile) -> Self {
        let clock = Simulated {
            began: "2026-03-01T12:00:00Z".parse().unwrap(),
            origin: Instant::now(),
        };
        let base_url: url::Url = "http://127.0.0.1:1/fhir".parse().unwrap();
        let ehr = Arc::new(Ehr::new(Options::new(1, base_url.clone()), Arc::new(clock)));
        let source = Arc::new(Source {
            ehr: Arc::clone(&ehr),
            asked: Mutex::default(),
            links_expire: Mutex::default(),
        });
        Self {
            clock,
            ehr,
            source,
            store: MemoryStore::new(),
            profile,
            running: None,
        }
    }

    /// A version of each of these records, one a second.
    pub(crate) async fn write(&self, prefix: &str, records: std::ops::Range<usize>) {
        for number in records {
            self.ehr
                .write("Appointment", &format!("{prefix}{number:04}"), "{}")
                .unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// When a record was written that [`Scene::write`] began with at the world's beginning.
    pub(crate) fn written_at(&self, number: u64) -> Timestamp {
        self.clock.began.checked_add(Duration::from_secs(number)).unwrap()
    }

    /// Begins a worker's life, with so many requests a second.
    pub(crate) fn run(&mut self, feeds: Vec<Feed>, per_second: u32) {
        let budget = Arc::new(Budget::new(NonZeroU32::new(per_second), 2));
        let source = Arc::<Source>::clone(&self.source);
        let http = Metered::new(source, Arc::clone(&budget), "mercy".into());
        let connector = FhirConnector::new(Settings {
            base_url: "http://127.0.0.1:1/fhir".parse().unwrap(),
            credentials: Arc::new(courier_sdk::Fixed::none()),
            profile: self.profile.clone(),
            http: Arc::new(http),
            clock: Arc::new(self.clock),
            limits: FhirLimits {
                page_count: PAGE,
                ..FhirLimits::default()
            },
        });
        let connection = Connection::new(mercy(), Arc::new(connector), feeds, budget, 2);
        let worker = Arc::new(Worker {
            store: Arc::new(self.store.reopened()),
            dedup: Arc::new(MemoryDedup::default()),
            clock: Arc::new(self.clock),
            connections: [(mercy(), Arc::new(connection))].into(),
            destinations: BTreeMap::new(),
            subscriptions: Vec::new(),
            holder: Holder("backfilling".to_owned()),
            limits: Limits::default(),
            bells: Bells::default(),
            watch: Arc::default(),
            draws: Mutex::new(StdRng::seed_from_u64(1)),
        });
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let running = pipeline::run(worker, stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        self.running = Some((stop, tasks));
    }

    /// Ends the life at once, in the middle of whatever it does.
    pub(crate) async fn kill(&mut self) {
        let (_, mut tasks) = self.running.take().unwrap();
        tasks.shutdown().await;
    }

    pub(crate) async fn end(&mut self) {
        let (stop, mut tasks) = self.running.take().unwrap();
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self).await {
            assert!(began.elapsed() < PATIENCE, "{what} never came");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn until_complete(&self) {
        self.until("the end of the backfill", async |scene| {
            is_complete(&scene.backfill().await)
        })
        .await;
    }

    pub(crate) async fn backfill(&self) -> FeedState {
        self.state("appointments.backfill").await
    }

    pub(crate) async fn state(&self, feed: &str) -> FeedState {
        self.store
            .feed(&mercy(), &FeedName::parse(feed).unwrap())
            .await
            .unwrap()
    }

    /// The events so far of what was written here, as `id version kind`, oldest first.
    pub(crate) async fn events(&self) -> Vec<String> {
        let query = EventQuery {
            limit: 100_000,
            ..EventQuery::default()
        };
        let mut rows = self.store.events(&query).await.unwrap();
        rows.sort_by_key(|row| row.position);
        let ours = |id: &str| {
            ["old", "near", "live", "later", "new"]
                .iter()
                .any(|it| id.starts_with(it))
        };
        rows.iter()
            .filter(|row| ours(row.key.id.as_str()))
            .map(|row| format!("{} {} {}", row.key.id, row.version, row.kind.as_str()))
            .collect()
    }

    /// How many requests for the past there were, further pages among them.
    pub(crate) fn asked_for_the_past(&self) -> usize {
        let asked = self.source.asked.lock().unwrap();
        asked
            .iter()
            .filter(|it| it.contains("=le") || it.contains("_page="))
            .count()
    }
}

/// Whether a backfill has come to its end.
pub(crate) fn is_complete(state: &FeedState) -> bool {
    state.poll.0 > 0 && state.baseline == ehr_courier::domain::ledger::Baseline::Complete
}

/// The ids of events, each of which must be there once.
pub(crate) fn once(events: &[String]) -> BTreeSet<String> {
    let ids: Vec<String> = events
        .iter()
        .map(|event| event.split(' ').next().unwrap().to_owned())
        .collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "a record twice");
    set
}

pub(crate) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

/// A feed by itself, polled every ten seconds.
pub(crate) fn alone(detect: Detect, start: Start) -> Feed {
    Feed {
        spec: FeedSpec {
            name: FeedName::parse("appointments").unwrap(),
            record_type: RecordType::parse("Appointment").unwrap(),
            filter: String::new(),
            start,
            overlap: Duration::from_mins(5),
            fetch: FetchMode::FromPage,
            detect,
            include: Vec::new(),
            scope: Scope::default(),
        },
        every: Duration::from_secs(10),
        overlap: Overlap::Fixed,
        unchanged: Unchanged::Tell,
        storm: None,
    }
}

/// A feed and its backfill.
pub(crate) fn filled(detect: Detect, start: Start) -> Vec<Feed> {
    let live = alone(detect, start);
    let backfill = live.backfill().unwrap();
    vec![live, backfill]
}

/// The same with a sweep each day.
pub(crate) fn filled_and_swept(scene: &Scene) -> Vec<Feed> {
    let feeds = filled(Detect::LastUpdated, Start::Beginning);
    let rule = VersionRule {
        trust_version_id: scene.profile.trust_version_id,
        numeric_order: true,
        trust_last_updated: true,
        first_version: None,
        volatile_paths: Vec::new(),
    };
    let sweep = feeds[0].sweep(Duration::from_hours(24), &rule).unwrap();
    [feeds, vec![sweep]].concat()
}
