//! The courier's run: the real pipeline on a fresh SQLite store with a backlog, to one webhook.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use courier_sdk::{
    ChangePage, ChangeRef, Clock, Connector, ConnectorError, Cursor, Detection, FeedSpec, Fetched,
    PollRequest, RecordType, VersionRule,
};
use ehr_courier::clock::SystemClock;
use ehr_courier::dedup::memory::MemoryDedup;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::destination::webhook::{DEADLINE, Settings, Webhook};
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::connection::Connection;
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{self, Outlet, Worker};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{Holder, Store as _};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use url::Url;

use crate::Failed;
use crate::backlog::{self, Names};
use crate::meter::{Cost, Meter};
use crate::sink::{Seen, Sink};

/// The way out of both runs: loopback is allowed, everything else is as in the service.
pub(crate) fn client() -> Result<Arc<GuardedClient>, Failed> {
    let policy = AddressPolicy {
        allow_networks: vec!["127.0.0.0/8".parse()?],
        ..AddressPolicy::default()
    };
    Ok(Arc::new(GuardedClient::new(policy, &ClientOptions::default())))
}

/// Drains a backlog of so many notifications; answers what that cost and what arrived.
pub(crate) async fn run(folder: &Path, records: u32) -> Result<(Cost, Seen), Failed> {
    let names = Names::new()?;
    let store = Arc::new(SqliteStore::open(&folder.join("bench.db"), OpenMode::Service)?);
    backlog::write(&*store, &names, records).await?;
    let sink = Sink::open(records as usize).await?;
    let worker = Arc::new(worker(&store, &names, &sink.url)?);
    let commits = store.commits();
    let meter = Meter::begin()?;
    // The last arrival stops the pipeline, which then records what is in flight: all of that is part of the run.
    pipeline::run(worker, sink.full.clone()).await?;
    let cost = meter.end(store.commits() - commits)?;
    let counts = store.deliveries_by_state(&names.destination).await?;
    let seen = sink.seen();
    if counts.done != u64::from(records) || seen.body_bytes.len() != records as usize {
        let (done, arrived) = (counts.done, seen.body_bytes.len());
        return Err(format!("of {records} notifications {arrived} arrived and {done} are done").into());
    }
    Ok((cost, seen))
}

fn worker(store: &Arc<SqliteStore>, names: &Names, url: &Url) -> Result<Worker, Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let budget = Budget::new(None, 1);
    let connection = Connection::new(names.connection.clone(), Arc::new(Silent), Vec::new(), budget, 1);
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
        clock,
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

    async fn fetch(&self, _change: &ChangeRef) -> Result<Fetched, ConnectorError> {
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
