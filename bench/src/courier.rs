//! The courier's runs: the real pipeline on a fresh SQLite store to one webhook, with a backlog or from a source.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_fhir::{FhirConnector, Profile};
use courier_sdk::{
    ChangePage, Clock as _, Connector, ConnectorError, Cursor, Detect, Detection, FeedSpec, FetchMode,
    FetchRequest, Fetched, PollRequest, RecordType, Scope, Start, VersionRule,
};
use ehr_courier::clock::SystemClock;
use ehr_courier::dedup::memory::MemoryDedup;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::destination::webhook::{DEADLINE, Settings, Webhook};
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::connection::{Connection, Feed, Overlap};
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{self, Outlet, Worker};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{Holder, Store as _, Unchanged};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use url::Url;

use crate::Failed;
use crate::backlog::{self, Names};
use crate::meter::{Cost, Meter, Waits};
use crate::sink::{Seen, Sink};
use crate::source::{Pace, Source};

/// How far back of its cursor each poll looks again: what a source needs whose stamps come a little late.
pub(crate) const OVERLAP: Duration = Duration::from_secs(2);

/// Requests to the source at the same time: the configuration's default.
const CONCURRENT: usize = 2;

/// The way out of both runs: loopback is allowed, everything else is as in the service.
pub(crate) fn client() -> Result<Arc<GuardedClient>, Failed> {
    let policy = AddressPolicy {
        allow_networks: vec!["127.0.0.0/8".parse()?],
        ..AddressPolicy::default()
    };
    Ok(Arc::new(GuardedClient::new(policy, &ClientOptions::default())))
}

/// Drains a backlog of so many notifications; answers what that cost and what arrived.
pub(crate) async fn drain(folder: &Path, records: u32) -> Result<(Cost, Seen), Failed> {
    let names = Names::new()?;
    let store = Arc::new(SqliteStore::open(&folder.join("bench.db"), OpenMode::Service)?);
    let cursor = Silent.cursor_at(SystemClock.now());
    backlog::write(&*store, &names, records, &cursor).await?;
    let sink = Sink::open(records as usize).await?;
    let silent = Connection::new(
        names.connection.clone(),
        Arc::new(Silent),
        Vec::new(),
        Budget::new(None, 1),
        1,
    );
    let worker = worker(&store, &names, &sink.url, silent)?;
    let (cost, seen) = measure(&store, worker, &sink, &names).await?;
    Ok((cost, seen))
}

/// Runs the pipeline from a source that is polled each second until all its changes have arrived; answers what that
/// cost and what arrived.
pub(crate) async fn pipeline(folder: &Path, pace: Pace) -> Result<(Cost, Seen), Failed> {
    let names = Names::new()?;
    let store = Arc::new(SqliteStore::open(&folder.join("bench.db"), OpenMode::Service)?);
    let sink = Sink::open(pace.changes as usize).await?;
    let source = Source::open(pace).await?;
    let polled = polled(&names, &source)?;
    let worker = worker(&store, &names, &sink.url, polled)?;
    let (cost, seen) = measure(&store, worker, &sink, &names).await?;
    let cost = Cost {
        requests: source.requests(),
        waits: Waits::between(&source.shown(), &seen.arrivals),
        ..cost
    };
    Ok((cost, seen))
}

/// Runs a worker until the sink is full, and makes sure that nothing is missing.
async fn measure(
    store: &SqliteStore,
    worker: Worker,
    sink: &Sink,
    names: &Names,
) -> Result<(Cost, Seen), Failed> {
    let commits = store.commits();
    let meter = Meter::begin()?;
    // The last arrival stops the pipeline, which then records what is in flight: all of that is part of the run.
    pipeline::run(Arc::new(worker), sink.full.clone()).await?;
    let cost = meter.end(store.commits() - commits)?;
    let counts = store.deliveries_by_state(&names.destination).await?;
    let seen = sink.seen();
    let (done, arrived, expected) = (counts.done, seen.body_bytes.len(), sink.expected);
    if usize::try_from(done)? != expected || arrived != expected {
        return Err(format!("of {expected} notifications {arrived} arrived and {done} are done").into());
    }
    Ok((cost, seen))
}

/// The connection to a source whose one feed is polled each second, from the beginning on.
pub(crate) fn polled(names: &Names, source: &Source) -> Result<Connection, Failed> {
    let settings = courier_fhir::Settings {
        base_url: source.url.clone(),
        credentials: Arc::new(courier_sdk::Fixed::none()),
        profile: Profile::builtin("sandbox")?,
        http: client()?,
        clock: Arc::new(SystemClock),
        limits: courier_fhir::Limits::default(),
    };
    let feed = Feed {
        spec: FeedSpec {
            name: names.feed.clone(),
            record_type: RecordType::parse("Appointment")?,
            filter: String::new(),
            start: Start::Beginning,
            overlap: OVERLAP,
            fetch: FetchMode::FromPage,
            include: Vec::new(),
            scope: Scope::default(),
            detect: Detect::LastUpdated,
        },
        every: Duration::from_secs(1),
        overlap: Overlap::Fixed,
        unchanged: Unchanged::Tell,
        storm: None,
    };
    Ok(Connection::new(
        names.connection.clone(),
        Arc::new(FhirConnector::new(settings)),
        vec![feed],
        Budget::new(None, CONCURRENT),
        CONCURRENT,
    ))
}

fn worker(
    store: &Arc<SqliteStore>,
    names: &Names,
    url: &Url,
    connection: Connection,
) -> Result<Worker, Failed> {
    let webhook = Webhook::new(Settings {
        url: url.clone(),
        keys: vec![SigningKey::from_bytes(&[7; 32])?],
        http: client()?,
        deadline: DEADLINE,
    });
    let outlet = Outlet::new(Arc::new(webhook), Vec::new());
    let store: Arc<SqliteStore> = Arc::clone(store);
    Ok(Worker {
        store,
        dedup: Arc::new(MemoryDedup::default()),
        clock: Arc::new(SystemClock),
        connections: BTreeMap::from([(names.connection.clone(), Arc::new(connection))]),
        destinations: BTreeMap::from([(names.destination.clone(), Arc::new(outlet))]),
        subscriptions: vec![names.subscription()?],
        holder: Holder("bench".to_owned()),
        limits: Limits::default(),
        bells: Bells::default(),
        watch: Arc::default(),
        draws: Mutex::new(StdRng::seed_from_u64(1)),
    })
}

/// A source that is never asked: its connection has no feeds.
struct Silent;

impl Silent {
    fn refuse() -> ConnectorError {
        ConnectorError::Forbidden {
            operation: "asking the benchmark's source".to_owned(),
            reason: "it has nothing to say".to_owned(),
        }
    }
}

#[async_trait]
impl Connector for Silent {
    async fn poll(&self, _request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        Err(Self::refuse())
    }

    async fn fetch(&self, _request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        Err(Self::refuse())
    }

    async fn probe(&self, _feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        Err(Self::refuse())
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

    fn describe(&self, _cursor: &Cursor) -> Option<Timestamp> {
        None
    }
}
