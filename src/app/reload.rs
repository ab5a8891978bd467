//! Reloading the configuration: everything is read and checked first, then the worker in force drains as at shutdown
//! and the next starts over the same store. A reload that is refused changes nothing.
//!
//! What the new configuration leaves as it was keeps its object: a connection its budget, condition and tokens, a
//! destination its connections. What is durable follows `Store::define`, as it does at a start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_sdk::{ConnectionName, FeedName};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{AppError, Clients, audit, connection, credentials, kept, outlet};
use crate::config::{Config, ConfigErrors};
use crate::face::Reload;
use crate::face::access::Access;
use crate::pipeline::bells::Bells;
use crate::pipeline::connection::Connection;
use crate::pipeline::{self, PipelineError, Worker};
use crate::store::StoreError;

/// A new worker's first lease is looked for this often.
const LOOK: Duration = Duration::from_millis(20);

/// Reads the configuration again: blocking, from the files that the process was started with.
type Load = Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

/// When the service reads its configuration again, and how.
pub struct Reloading {
    /// Notified when a reload is asked for; requests that come together count as one.
    pub asked: Arc<Notify>,
    /// How it is read.
    pub load: Load,
}

/// What the rest of the process sees of the worker in force.
pub(super) struct Shown {
    pub(super) workers: watch::Sender<Arc<Worker>>,
    pub(super) access: watch::Sender<Arc<Access>>,
    pub(super) key_set: watch::Sender<Option<Arc<str>>>,
    pub(super) reload: watch::Sender<Reload>,
}

/// A configuration that was accepted, and its worker.
struct Next {
    config: Config,
    worker: Arc<Worker>,
    key_set: Option<Arc<str>>,
}

/// Why a reload changed nothing.
enum Refused {
    Config(ConfigErrors),
    Compose(AppError),
    Store(StoreError),
}

/// Runs one worker after the other, the first being the one that is shown, until `stop`.
///
/// # Errors
/// [`PipelineError`] when a stage ends early.
pub(super) async fn supervise(
    mut config: Config,
    shown: &Shown,
    reloading: &Reloading,
    stop: &CancellationToken,
) -> Result<(), PipelineError> {
    loop {
        let worker = Arc::clone(&shown.workers.borrow());
        let turn = stop.child_token();
        let mut running = Box::pin(pipeline::run(Arc::clone(&worker), turn.clone()));
        let next = loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    kept::settled(&config).await;
                    return ended;
                }
                () = leased(&worker), if *shown.reload.borrow() == Reload::Running => {
                    shown.reload.send_replace(Reload::Applied { at: worker.clock.now().to_string() });
                }
                () = reloading.asked.notified() => {
                    if let Some(next) = prepare(&config, &worker, shown, reloading).await {
                        break next;
                    }
                }
            }
        };
        shown.reload.send_replace(Reload::Running);
        // Before the next worker signs with a key: a source that does not know it yet comes and looks.
        shown.key_set.send_replace(next.key_set);
        turn.cancel();
        running.await?;
        kept::settled(&config).await;
        if stop.is_cancelled() {
            return Ok(());
        }
        config = next.config;
        let access = Access::new(&config.http.tokens);
        shown.access.send_replace(Arc::new(access));
        shown.workers.send_replace(next.worker);
    }
}

/// Waits until a worker holds a lease, or has nothing to hold.
async fn leased(worker: &Worker) {
    let holds = || {
        worker
            .connections
            .values()
            .any(|connection| connection.fence().is_some())
    };
    while !worker.connections.is_empty() && !holds() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads and checks the configuration, and makes its worker; says why not, where it is refused.
async fn prepare(was: &Config, old: &Worker, shown: &Shown, reloading: &Reloading) -> Option<Next> {
    let at = || old.clock.now().to_string();
    match read(was, old, reloading).await {
        Ok(Some(next)) => {
            metrics::counter!("courier_reloads_total", "outcome" => "applied").increment(1);
            info!(
                connections = next.worker.connections.len(),
                subscriptions = next.worker.subscriptions.len(),
                "the configuration is reloaded: draining, then the new one comes into force"
            );
            audit(&next.config);
            Some(next)
        }
        Ok(None) => {
            metrics::counter!("courier_reloads_total", "outcome" => "unchanged").increment(1);
            info!("the configuration is read again: nothing changed");
            shown.reload.send_replace(Reload::Applied { at: at() });
            None
        }
        Err(refused) => {
            metrics::counter!("courier_reloads_total", "outcome" => "refused").increment(1);
            let (problems, reason) = match &refused {
                Refused::Config(errors) => (errors.count(), errors.to_string()),
                Refused::Compose(error) => (1, error.to_string()),
                Refused::Store(error) => (1, error.to_string()),
            };
            error!(
                problems,
                reason, "the reload is refused: the configuration before stays in force, whole"
            );
            shown.reload.send_replace(Reload::Refused { at: at(), problems });
            None
        }
    }
}

async fn read(was: &Config, old: &Worker, reloading: &Reloading) -> Result<Option<Next>, Refused> {
    let load = Arc::clone(&reloading.load);
    let mut loading = JoinSet::new();
    loading.spawn_blocking(move || load());
    let Some(Ok(loaded)) = loading.join_next().await else {
        return Err(Refused::Compose(AppError::Compose {
            what: "the configuration".to_owned(),
            reason: "reading it failed half-way".to_owned(),
        }));
    };
    let config = loaded.map_err(Refused::Config)?;
    if let Some(errors) = was.needs_restart(&config) {
        return Err(Refused::Config(errors));
    }
    if was.is_same_as(&config) {
        return Ok(None);
    }
    let worker = succeed(old, was, &config).map_err(Refused::Compose)?;
    let key_set = credentials::key_set(&config).map_err(Refused::Compose)?;
    tell_returning(old, &worker).await.map_err(Refused::Store)?;
    Ok(Some(Next {
        config,
        worker: Arc::new(worker),
        key_set,
    }))
}

/// Makes the worker that follows another one: what its configuration leaves as it was keeps its object.
fn succeed(old: &Worker, was: &Config, config: &Config) -> Result<Worker, AppError> {
    let mut clients = Clients::default();
    let mut connections = BTreeMap::new();
    for (name, entry) in &config.connections {
        let kept = old
            .connections
            .get(name)
            .filter(|_| was.keeps_connection(config, name));
        let made = match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(connection(
                entry,
                &old.clock,
                &old.watch.connections,
                &mut clients,
            )?),
        };
        connections.insert(name.clone(), made);
    }
    let mut destinations = BTreeMap::new();
    for (name, entry) in &config.destinations {
        let kept = old
            .destinations
            .get(name)
            .filter(|_| was.keeps_destination(config, name));
        let made = match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(outlet(entry, &old.watch.destinations, &mut clients)?),
        };
        destinations.insert(name.clone(), made);
    }
    Ok(Worker {
        store: Arc::clone(&old.store),
        dedup: Arc::clone(&old.dedup),
        clock: Arc::clone(&old.clock),
        connections,
        destinations,
        subscriptions: config.subscriptions.values().cloned().collect(),
        holder: old.holder.clone(),
        limits: old.limits,
        bells: Bells::default(),
        watch: Arc::clone(&old.watch),
        draws: Mutex::new(StdRng::seed_from_u64(rand::random())),
    })
}

/// Says which feeds and subscriptions come back: a name that was used before goes on where it was.
async fn tell_returning(old: &Worker, new: &Worker) -> Result<(), StoreError> {
    let feeds = |worker: &Worker| -> BTreeSet<(ConnectionName, FeedName)> {
        let of = |connection: &Arc<Connection>| {
            let name = connection.name.clone();
            let feeds = connection.feeds.iter();
            feeds
                .map(|feed| (name.clone(), feed.spec.name.clone()))
                .collect::<Vec<_>>()
        };
        worker.connections.values().flat_map(of).collect()
    };
    let added: BTreeSet<_> = feeds(new).difference(&feeds(old)).cloned().collect();
    if !added.is_empty() {
        for row in old.store.cursors().await? {
            let place = (row.connection, row.feed);
            if added.contains(&place) && row.state.cursor.is_some() {
                let (connection, feed) = place;
                info!(%connection, %feed, "a feed of this name was followed before: it goes on at its old cursor");
            }
        }
    }
    for subscription in &new.subscriptions {
        let name = &subscription.name;
        if old.subscriptions.iter().any(|other| other.name == *name) {
            continue;
        }
        let standings = old.store.standings(name).await?;
        if standings.iter().any(|standing| standing.last_number > 0) {
            info!(subscription = %name, "a subscription of this name was in force before: its numbers go on");
        }
    }
    Ok(())
}
