//! A busy connection beside a quiet one, under simulated time: who has a backlog of a thousand records and a slow
//! destination does not delay who has one change now and then, and a destination that begins to hang keeps nothing that it
//! has not begun.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{
    ChangePage, ChangeRef, Clock, ConnectionName, Connector, ConnectorError, Cursor, DeleteSight, Detect,
    Detection, FeedName, FeedSpec, FetchMode, FetchRequest, Fetched, Granularity, Next, NotFound, Novelty,
    PageOrder, PollRequest, Record, RecordId, RecordKey, RecordType, Resume, Scope, Shown, Start, Strategy,
    VersionRule,
};
use ehr_courier::dedup::memory::MemoryDedup;
use ehr_courier::destination::{Attempt, Destination, Notification};
use ehr_courier::domain::fan_out::{ConnectionSet, ContentLevel, Format, From, Subscription, Topic};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::connection::{Connection, Feed, Overlap};
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{self, Outlet, Worker};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{Flow, Holder, SetFlow, Unchanged};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the busy source has to show at once.
const BACKLOG: u32 = 1_000;
const PAGE: u32 = 50;

/// How slowly the busy source and its destination answer.
const SLOW: Duration = Duration::from_secs(10);

/// From the answer that shows a change of the quiet source to its notification.
const BOUND: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
struct Simulated {
    began: Timestamp,
    origin: Instant,
}

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        self.began.checked_add(self.origin.elapsed()).unwrap()
    }
}

fn change(id: &str, at: Timestamp) -> ChangeRef {
    ChangeRef {
        key: RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse(id).unwrap(),
        },
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: Some("1".to_owned()),
        last_updated: Some(at),
        record: Some(Record::new(Bytes::from_static(br#"{"resourceType":"Patient"}"#))),
    }
}

/// A source that shows its whole backlog in pages, or one new record at each poll.
struct Source {
    name: String,
    clock: Simulated,
    /// How long a page of the backlog takes.
    backlog: Option<Duration>,
    /// When each record was shown.
    shown: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Source {
    fn show(&self, numbers: std::ops::Range<u32>, next: Next) -> ChangePage {
        let now = self.clock.now();
        let mut shown = self.shown.lock().unwrap();
        let change = |number: u32| {
            let id = format!("{}-{number}", self.name);
            shown.insert(id.clone(), Instant::now());
            change(&id, now)
        };
        ChangePage {
            changes: numbers.map(change).collect(),
            oversized: Vec::new(),
            unusable: Vec::new(),
            listed: None,
            included: BTreeMap::new(),
            order: PageOrder::OldestFirst,
            next,
            fresh_as_of: now,
        }
    }
}

#[async_trait]
impl Connector for Source {
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        let at = |text: Option<&str>| text.map_or(0, |text| text.parse::<u32>().unwrap());
        let from = at(request.cursor.map(Cursor::as_str));
        let Some(takes) = self.backlog else {
            return Ok(self.show(from..from + 1, Next::Done(Cursor::new((from + 1).to_string()))));
        };
        tokio::time::sleep(takes).await;
        let from = at(request.resume.map(Resume::as_str)).max(from);
        let to = (from + PAGE).min(BACKLOG);
        let next = if to < BACKLOG {
            Next::Page(Resume::new(to.to_string()))
        } else {
            Next::Done(Cursor::new(to.to_string()))
        };
        Ok(self.show(from..to, next))
    }

    async fn probe(&self, _feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        Ok(Detection {
            strategy: Strategy::LastUpdated,
            why: "it is written here".to_owned(),
            granularity: Granularity::Fraction,
            order: PageOrder::OldestFirst,
            deletes: DeleteSight::Unseen,
            blind_spots: Vec::new(),
        })
    }

    async fn fetch(&self, _request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        Ok(Fetched::NotFound(NotFound::Unattributed))
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

    fn cursor_at(&self, _instant: Timestamp) -> Cursor {
        Cursor::new("0".to_owned())
    }

    fn describe(&self, _cursor: &Cursor) -> Option<Timestamp> {
        None
    }
}

/// A destination that takes its time and notes when what arrived.
struct Sink {
    takes: Duration,
    arrived: Arc<Mutex<BTreeMap<String, Instant>>>,
}

#[async_trait]
impl Destination for Sink {
    async fn deliver(&self, notification: &Notification, _now: Timestamp) -> Attempt {
        let arrived_at = Instant::now();
        tokio::time::sleep(self.takes).await;
        self.arrived
            .lock()
            .unwrap()
            .insert(notification.key.id.to_string(), arrived_at);
        Attempt::Accepted {
            detail: "204".to_owned(),
        }
    }
}

type Times = Arc<Mutex<BTreeMap<String, Instant>>>;

/// One connection with a subscription to a destination; says when what was shown.
fn add(
    worker: &mut Worker,
    (name, destination): (&str, &str),
    clock: Simulated,
    backlog: Option<Duration>,
) -> Times {
    let shown = Times::default();
    let source = Source {
        name: name.to_owned(),
        clock,
        backlog,
        shown: Arc::clone(&shown),
    };
    let feed = Feed {
        spec: FeedSpec {
            name: FeedName::parse("patients").unwrap(),
            record_type: RecordType::parse("Patient").unwrap(),
            filter: String::new(),
            start: Start::Beginning,
            overlap: Duration::ZERO,
            fetch: FetchMode::FromPage,
            detect: Detect::LastUpdated,
            include: Vec::new(),
            scope: Scope::default(),
        },
        every: Duration::from_secs(5),
        overlap: Overlap::Fixed,
        unchanged: Unchanged::Tell,
        storm: None,
    };
    let (connection, destination) = (
        ConnectionName::parse(name).unwrap(),
        DestinationName::parse(destination).unwrap(),
    );
    let made = Connection::new(
        connection.clone(),
        Arc::new(source),
        vec![feed],
        Budget::new(None, 2),
        2,
    );
    worker.connections.insert(connection.clone(), Arc::new(made));
    worker.subscriptions.push(Subscription {
        name: SubscriptionName::parse(name).unwrap(),
        connections: ConnectionSet::Named([connection].into()),
        topic: Topic::Any,
        from: From::Now,
        content: ContentLevel::IdOnly,
        format: Format::CloudEvents,
        destination,
    });
    shown
}

/// A destination; says when what arrived.
fn add_destination(worker: &mut Worker, name: &str, takes: Duration) -> Times {
    let arrived = Times::default();
    let sink = Sink {
        takes,
        arrived: Arc::clone(&arrived),
    };
    let outlet = Outlet::new(Arc::new(sink), vec![Duration::from_secs(1)]);
    let name = DestinationName::parse(name).unwrap();
    worker.destinations.insert(name, Arc::new(outlet));
    arrived
}

fn worker(clock: Simulated, limits: Limits) -> Worker {
    Worker {
        store: Arc::new(MemoryStore::default()),
        dedup: Arc::new(MemoryDedup::default()),
        clock: Arc::new(clock),
        connections: BTreeMap::new(),
        destinations: BTreeMap::new(),
        subscriptions: Vec::new(),
        holder: Holder("fairness".to_owned()),
        limits,
        bells: Bells::default(),
        watch: Arc::default(),
        draws: Mutex::new(StdRng::seed_from_u64(1)),
    }
}

fn simulated() -> Simulated {
    Simulated {
        began: "2026-03-01T12:00:00Z".parse().unwrap(),
        origin: Instant::now(),
    }
}

/// Runs a worker for so long.
async fn run_for(worker: Worker, duration: Duration) {
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let running = pipeline::run(Arc::new(worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    tokio::time::sleep(duration).await;
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// Each change that was shown `before` arrived within the bound.
fn arrived_in_time(shown: &Times, arrived: &Times, before: Instant) {
    let arrived = arrived.lock().unwrap();
    let shown = shown.lock().unwrap();
    let counted: Vec<_> = shown.iter().filter(|(_, at)| **at < before).collect();
    assert!(counted.len() >= 5, "{} changes", counted.len());
    for (id, shown) in counted {
        let took = arrived
            .get(id)
            .map(|arrived| arrived.saturating_duration_since(*shown));
        assert!(took.is_some_and(|took| took <= BOUND), "{id} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connections_changes_arrive_within_seconds_beside_a_busy_ones_backlog() {
    let clock = simulated();
    // So few that the busy destination could take all of them.
    let mut worker = worker(
        clock,
        Limits {
            in_flight: 64,
            ..Limits::default()
        },
    );
    let busy_arrived = add_destination(&mut worker, "busy", SLOW);
    let quiet_arrived = add_destination(&mut worker, "quiet", Duration::from_millis(10));
    add(&mut worker, ("busy", "busy"), clock, Some(SLOW));
    let quiet_shown = add(&mut worker, ("quiet", "quiet"), clock, None);
    let began = Instant::now();
    run_for(worker, Duration::from_mins(4)).await;
    let busy = busy_arrived.lock().unwrap().len();
    assert!(
        busy > 100 && busy < BACKLOG as usize,
        "{busy} of the backlog: it must last"
    );
    let arrived = quiet_arrived.lock().unwrap().len();
    assert!(arrived >= 40, "{arrived} of the quiet connection");
    arrived_in_time(
        &quiet_shown,
        &quiet_arrived,
        began + Duration::from_mins(4) - BOUND,
    );
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_waits_for_no_backlog_at_a_destination_that_both_share() {
    let clock = simulated();
    // Eight a second: the backlog lasts for two minutes.
    let mut worker = worker(
        clock,
        Limits {
            in_flight_per_destination: 4,
            ..Limits::default()
        },
    );
    let arrived = add_destination(&mut worker, "shared", Duration::from_millis(500));
    let at_once = Some(Duration::from_millis(1));
    add(&mut worker, ("busy", "shared"), clock, at_once);
    let quiet_shown = add(&mut worker, ("quiet", "shared"), clock, None);
    let began = Instant::now();
    run_for(worker, Duration::from_mins(1)).await;
    let count = arrived.lock().unwrap().len();
    assert!(
        count > 400 && count < BACKLOG as usize,
        "{count}: the backlog must last, and no place stay empty"
    );
    arrived_in_time(&quiet_shown, &arrived, began + Duration::from_mins(1) - BOUND);
}

/// A destination that is fast until it has been sent so many, then hangs until an instant.
struct Hanging {
    after: usize,
    until: Instant,
    begun: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Destination for Hanging {
    async fn deliver(&self, notification: &Notification, _now: Timestamp) -> Attempt {
        let begun = {
            let mut begun = self.begun.lock().unwrap();
            begun.push(notification.key.id.to_string());
            begun.len()
        };
        if begun > self.after && Instant::now() < self.until {
            tokio::time::sleep_until(self.until).await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Attempt::Accepted {
            detail: "204".to_owned(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_destination_that_hangs_is_not_sent_once_its_subscription_is_paused() {
    let clock = simulated();
    let limits = Limits {
        in_flight_per_destination: 4,
        ..Limits::default()
    };
    let mut worker = worker(clock, limits);
    let (began, sent) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let hanging = Hanging {
        after: 400,
        until: began + Duration::from_secs(20),
        begun: Arc::clone(&sent),
    };
    let outlet = Outlet::new(Arc::new(hanging), vec![Duration::from_secs(1)]);
    worker
        .destinations
        .insert(DestinationName::parse("hanging").unwrap(), Arc::new(outlet));
    let at_once = Some(Duration::from_millis(1));
    add(&mut worker, ("busy", "hanging"), clock, at_once);
    let store = Arc::clone(&worker.store);
    let to = |flow| SetFlow {
        subscription: SubscriptionName::parse("busy").unwrap(),
        flow,
        at: clock.now(),
    };
    let mut running = JoinSet::new();
    running.spawn(run_for(worker, Duration::from_mins(1)));
    let count = || sent.lock().unwrap().len();

    tokio::time::sleep_until(began + Duration::from_secs(5)).await;
    assert_eq!(
        count(),
        404,
        "four hang, and others were claimed for the next places"
    );
    store.set_flow(&to(Flow::Paused)).await.unwrap();
    tokio::time::sleep_until(began + Duration::from_secs(30)).await;
    assert_eq!(count(), 404, "nothing is sent any more");
    store.set_flow(&to(Flow::Flowing)).await.unwrap();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let mut arrived = sent.lock().unwrap().clone();
    assert_eq!(arrived.len(), BACKLOG as usize, "and none is left over");
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived.len(), BACKLOG as usize, "each once");
}
