//! Composition: from a configuration to a running service, its reloads and its orderly end.
//!
//! The order at the end: readiness goes first, then polling and claiming, then what is in flight (within the grace),
//! then the leases, then the store.

mod credentials;
mod dedup;
mod kept;
pub mod operate;
mod reload;
mod watching;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_fhir::{FhirConnector, Profile};
use courier_sdk::{Clock, Connector, Detect, Http};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::dedup::memory::MemoryDedup;
use crate::destination::Destination;
use crate::destination::amqp::{self, Amqp};
use crate::destination::signature::SigningKey;
use crate::destination::webhook::{self, Webhook};
use crate::egress::client::{ClientOptions, GuardedClient};
use crate::egress::guard::AddressPolicy;
use crate::face::access::Access;
use crate::face::control::{ControlError, ControlSocket};
use crate::face::{self, Face, Reload, admin};
use crate::pipeline::budget::Budget;
use crate::pipeline::budget::metered::Metered;
use crate::pipeline::connection::{Connection, Feed, Overlap};
use crate::pipeline::limits::Limits;
use crate::pipeline::watch::{Labels, Watch};
use crate::pipeline::{self, Outlet, PipelineError, Worker};
use crate::store::sqlite::{OpenMode, SqliteStore};
use crate::store::{Holder, Store, StoreError};
use crate::telemetry::{self, TelemetryError};
use crate::wire::sealed::Seals;

pub use dedup::dedup;
pub use reload::Reloading;

/// A webhook's total deadline, from connecting to the last byte of its answer.
const WEBHOOK_DEADLINE: Duration = Duration::from_secs(15);

/// Why the service did not start or did not go on.
#[derive(Debug, Error)]
pub enum AppError {
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[source] StoreError),
    /// The listener cannot be bound.
    #[error("cannot listen on {address}; write a free address as [http] listen")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A client, key or connector cannot be made from what the configuration says.
    #[error("cannot set up {what}: {reason}")]
    Compose {
        /// Which connection or destination.
        what: String,
        /// Why.
        reason: String,
    },
    /// Logs or metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A stage could not go on.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// There is no control socket, or it failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The face failed.
    #[error("the HTTP face failed")]
    Face(#[source] std::io::Error),
}

/// Runs the service until `stop`, then drains it. Asked to reload, it drains one worker and starts the next over the
/// same store and listener; the face goes on answering.
///
/// # Errors
/// [`AppError`] when it cannot start, or a part of it cannot go on. A reload that is refused is no error.
pub async fn run(config: Config, reloading: Reloading, stop: CancellationToken) -> Result<(), AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_store(&config, OpenMode::Service).map_err(AppError::Store)?;
    let mut worker = compose(&config, Arc::new(store), clock)?;
    worker.dedup = dedup(&config.dedup, worker.store.as_ref()).await?;
    let (watch, exporter) = watching::watch(config.telemetry.traces.as_ref(), &worker.watch)?;
    worker.watch = watch;
    let worker = Arc::new(worker);
    let control = ControlSocket::bind(&config.state.database)?;
    let address = config.http.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    let metrics = telemetry::init_metrics()?;
    tracing::info!(
        connections = worker.connections.len(),
        subscriptions = worker.subscriptions.len(),
        listen = %address,
        "ehr-courier is running"
    );
    audit(&config);
    let access = watch::Sender::new(Arc::new(Access::new(&config.http.tokens)));
    let key_set = watch::Sender::new(credentials::key_set(&config)?);
    let (workers, reload) = (watch::Sender::new(worker), watch::Sender::new(Reload::None));
    let in_force = workers.subscribe();
    let operating = admin::router(Arc::new(move || Arc::clone(&in_force.borrow())));
    let face = Face {
        worker: workers.subscribe(),
        metrics,
        access: access.subscribe(),
        key_set: key_set.subscribe(),
        reload: reload.subscribe(),
        draining: stop.clone(),
    };
    let (face_stop, control_failed) = (CancellationToken::new(), stop.clone());
    let pipeline = async {
        let shown = reload::Shown {
            workers,
            access,
            key_set,
            reload,
        };
        let outcome = reload::supervise(config, &shown, &reloading, &stop).await;
        face_stop.cancel();
        outcome
    };
    let serving = face::serve(listener, face, face_stop.clone());
    let controlling = async {
        let served = control.serve(operating, face_stop.clone()).await;
        // Without it nobody can operate the service: it drains, and its supervisor starts it again.
        control_failed.cancel();
        served
    };
    let exporting = watching::export(exporter, face_stop.clone());
    let (outcome, (), controlled, ()) = tokio::join!(pipeline, serving, controlling, exporting);
    outcome?;
    controlled?;
    Ok(())
}

/// Says which choices of the configuration weaken protection.
fn audit(config: &Config) {
    for choice in &config.audits {
        tracing::info!(%choice, "a choice of the configuration to know of");
    }
}

/// Makes a worker of a configuration, with a deduplication of this process: see [`dedup()`] for another.
///
/// # Errors
/// [`AppError::Compose`] when a connection or destination cannot be set up.
pub fn compose(config: &Config, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Worker, AppError> {
    let mut clients = Clients::default();
    let watch = Watch::default();
    let connections = config
        .connections
        .values()
        .map(|entry| {
            Ok((
                entry.name.clone(),
                Arc::new(connection(entry, &clock, &watch.connections, &mut clients)?),
            ))
        })
        .collect::<Result<BTreeMap<_, _>, AppError>>()?;
    let destinations = config
        .destinations
        .values()
        .map(|entry| {
            let made = outlet(entry, &watch.destinations, &mut clients)?;
            Ok((entry.name.clone(), Arc::new(made)))
        })
        .collect::<Result<BTreeMap<_, _>, AppError>>()?;
    Ok(Worker {
        store,
        dedup: Arc::new(MemoryDedup::default()),
        clock,
        connections,
        destinations,
        subscriptions: config.subscriptions.values().cloned().collect(),
        holder: Holder(format!("worker-{:016x}", rand::random::<u64>())),
        limits: Limits {
            retention: config.state.retention,
            ..Limits::default()
        },
        bells: pipeline::bells::Bells::default(),
        watch: Arc::new(watch),
        draws: Mutex::new(StdRng::seed_from_u64(rand::random())),
    })
}

/// Makes one connection of its configuration; its requests are counted under one of these labels.
///
/// # Errors
/// [`AppError::Compose`] when its client or profile cannot be set up.
pub fn connection(
    entry: &config::Connection,
    clock: &Arc<dyn Clock>,
    labels: &Labels,
    clients: &mut Clients,
) -> Result<Connection, AppError> {
    let compose = |reason: String| AppError::Compose {
        what: format!("connection {}", entry.name),
        reason,
    };
    let profile = Profile::builtin(&entry.profile).map_err(|error| compose(error.to_string()))?;
    let concurrent = entry.limits.concurrent.get();
    let budget = Budget::new(entry.limits.requests_per_second, concurrent)
        .daily(entry.limits.requests_per_day)
        .keeping(entry.limits.calendar.clone(), Arc::clone(clock));
    let budget = Arc::new(budget);
    let client = if entry.route.is_plain() {
        clients.of(&entry.egress)
    } else {
        // Its certificates and its proxy are its own: it shares no connection with others.
        let options = ClientOptions::default();
        Arc::new(GuardedClient::by(policy(&entry.egress), &options, &entry.route))
    };
    let label = labels.of(entry.name.as_str());
    let http: Arc<dyn Http> = Arc::new(Metered::new(client, Arc::clone(&budget), label));
    let credentials = credentials::of(entry, Arc::clone(&http), clock).map_err(compose)?;
    let settings = courier_fhir::Settings {
        base_url: entry.base_url.clone(),
        credentials,
        profile,
        http,
        clock: Arc::clone(clock),
        limits: courier_fhir::Limits::default(),
    };
    let connector = Arc::new(FhirConnector::new(settings));
    let feeds = entry
        .feeds
        .iter()
        .flat_map(|feed| polled(feed, entry.limits.storm, &*connector));
    let feeds = feeds.collect();
    Ok(Connection::new(
        entry.name.clone(),
        connector,
        feeds,
        budget,
        concurrent,
    ))
}

/// What is polled for a feed: itself, once what lies before it began, and, where that is asked for, everything there is
/// now and then.
fn polled(feed: &config::Feed, storm: Option<NonZeroU32>, connector: &dyn Connector) -> Vec<Feed> {
    let live = Feed {
        spec: feed.spec(),
        every: feed.every,
        overlap: if feed.adapts {
            Overlap::Adaptive
        } else {
            Overlap::Fixed
        },
        unchanged: feed.unchanged,
        storm,
    };
    let rule = connector.version_rule(&feed.record_type);
    let sweep = feed.reconcile.and_then(|every| live.sweep(every, &rule));
    // Polls that list everything bring what lies before by themselves.
    let backfill = match feed.detect {
        Detect::Auto | Detect::History | Detect::LastUpdated => live.backfill(),
        Detect::Window | Detect::Roster | Detect::Read => None,
    };
    std::iter::once(live).chain(backfill).chain(sweep).collect()
}

/// Makes one destination of its configuration; what it counts itself goes under one of these labels.
///
/// # Errors
/// [`AppError::Compose`] when it cannot be set up.
pub fn outlet(
    entry: &config::Destination,
    labels: &Labels,
    clients: &mut Clients,
) -> Result<Outlet, AppError> {
    let destination: Arc<dyn Destination> = match &entry.target {
        config::Target::Webhook { url, secret } => {
            let key = SigningKey::from_bytes(secret.expose_secret()).map_err(|error| AppError::Compose {
                what: format!("destination {}", entry.name),
                reason: error.to_string(),
            })?;
            Arc::new(Webhook::new(webhook::Settings {
                url: url.clone(),
                keys: vec![key],
                http: clients.of(&entry.egress),
                deadline: WEBHOOK_DEADLINE,
            }))
        }
        config::Target::Amqp(target) => Arc::new(Amqp::new(broker_settings(entry, target, labels))),
    };
    Ok(Outlet::new(destination, entry.retry.clone()))
}

/// What an AMQP destination is made of.
#[must_use]
pub fn broker_settings(
    entry: &config::Destination,
    target: &config::AmqpTarget,
    labels: &Labels,
) -> amqp::Settings {
    amqp::Settings {
        name: entry.name.clone(),
        label: labels.of(entry.name.as_str()),
        broker: target.broker.clone(),
        exchange: target.exchange.clone(),
        routing_key: target.routing_key.clone(),
        policy: policy(&entry.egress),
        deadline: amqp::DEADLINE,
    }
}

fn policy(egress: &config::Egress) -> AddressPolicy {
    AddressPolicy {
        allow_networks: egress.allow_networks.clone(),
        plain_http_networks: egress.plain_http_networks.clone(),
    }
}

/// The clients in use: one for each address policy, because a client holds pools and certificates.
#[derive(Default)]
pub struct Clients {
    made: BTreeMap<AddressPolicy, Arc<GuardedClient>>,
}

impl Clients {
    fn of(&mut self, egress: &config::Egress) -> Arc<GuardedClient> {
        let policy = policy(egress);
        let make = || Arc::new(GuardedClient::new(policy.clone(), &ClientOptions::default()));
        Arc::clone(self.made.entry(policy.clone()).or_insert_with(make))
    }
}

/// Opens the store of a configuration for this process alone.
///
/// # Errors
/// Those of [`SqliteStore::open_sealed`].
pub fn open_store(config: &Config, mode: OpenMode) -> Result<SqliteStore, StoreError> {
    SqliteStore::open_sealed(&config.state.database, mode, &seals(&config.state.key)?)
}

/// Opens the store of a configuration for listing, beside a running service.
///
/// # Errors
/// [`StoreError`] when there is no store, or one that this version or this key cannot read.
pub fn open_for_reading(config: &Config) -> Result<SqliteStore, StoreError> {
    SqliteStore::read_only_sealed(&config.state.database, &seals(&config.state.key)?)
}

/// What seals the store of a configuration.
///
/// # Errors
/// [`StoreError::WrongKey`] when the key was not read.
pub fn seals(key: &config::Key) -> Result<Seals, StoreError> {
    let wrong = |reason: &str| StoreError::WrongKey {
        reason: reason.to_owned(),
    };
    match key {
        config::Key::PlainText => Ok(Seals::plain()),
        config::Key::Encrypted { key, previous } => {
            let previous = previous.iter().map(ExposeSecret::expose_secret);
            Seals::encrypted(key.expose_secret(), previous).map_err(|error| wrong(&error.to_string()))
        }
        config::Key::Unread => Err(wrong("the key of the store was not read")),
    }
}
