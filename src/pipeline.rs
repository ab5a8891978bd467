//! The stages: schedule, poll, fetch, fan out, deliver, sweep.
//!
//! Each stage is a loop that claims bounded work from the store, does at most one network thing for each piece, and
//! settles it in one transaction. Nothing crosses a stage in memory: the [`bells`] that wake the next stage carry no
//! data, and a lost ring costs seconds, never work. So crash recovery is the next claim.
//!
//! The loops live here; connectors, destinations and stores do one thing and return. A stage that ends early or
//! panics ends the process: the state is safe, and a supervisor starts it again.

mod agenda;
pub mod backfill;
pub mod bells;
pub mod budget;
pub mod connection;
mod context;
pub mod deliver;
pub mod fan_out;
pub mod fetch;
pub mod gone;
pub mod heartbeat;
pub mod lease;
pub mod limits;
pub mod measure;
pub mod overlap;
pub mod poll;
mod read;
pub mod reconcile;
pub mod record;
pub mod roll;
pub mod schedule;
mod stage;
pub mod storm;
pub mod sweep;
mod together;
pub mod traces;
pub mod turn;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName};
use rand::RngExt as _;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dedup::Dedup;
use crate::destination::Destination;
use crate::domain::fan_out::Subscription;
use crate::domain::name::DestinationName;
use crate::store::{Definitions, Holder, Store, StoreError};
use bells::Bells;
use connection::Connection;
use limits::Limits;
use watch::Watch;

/// One worker: what the stages share.
pub struct Worker {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What stands in front of it.
    pub dedup: Arc<dyn Dedup>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The connections, with their connectors and budgets. Shared, because one that a reload leaves as it was goes on
    /// with the next worker.
    pub connections: BTreeMap<ConnectionName, Arc<Connection>>,
    /// The destinations; shared likewise.
    pub destinations: BTreeMap<DestinationName, Arc<Outlet>>,
    /// The subscriptions in force, in the order of their names.
    pub subscriptions: Vec<Subscription>,
    /// Who this worker is.
    pub holder: Holder,
    /// The limits.
    pub limits: Limits,
    /// What wakes the stages.
    pub bells: Bells,
    /// What it shows of itself; shared with the worker that a reload puts in its place.
    pub watch: Arc<Watch>,
    /// Where jitter comes from.
    pub draws: Mutex<StdRng>,
}

/// A destination and its retry schedule.
pub struct Outlet {
    /// Where notifications go.
    pub destination: Arc<dyn Destination>,
    /// When failed ones are tried again.
    pub retry: Vec<Duration>,
    trouble: Mutex<Option<Failing>>,
}

/// How a destination fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Attempts that failed since the last one that was accepted.
    pub attempts: u32,
    /// What the last one said; no PHI.
    pub detail: String,
}

impl Outlet {
    /// Makes an outlet of which no failure is known.
    #[must_use]
    pub fn new(destination: Arc<dyn Destination>, retry: Vec<Duration>) -> Self {
        Self {
            destination,
            retry,
            trouble: Mutex::new(None),
        }
    }

    /// How the destination fails, if its last attempt did.
    #[must_use]
    pub fn failing(&self) -> Option<Failing> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note_accepted(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note_failed(&self, detail: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = trouble
            .as_ref()
            .map_or(0, |failing| failing.attempts)
            .saturating_add(1);
        *trouble = Some(Failing {
            attempts,
            detail: detail.to_owned(),
        });
    }
}

/// Why the pipeline ended before it was asked to.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A stage could not go on.
    #[error("the {stage} stage cannot go on")]
    Stage {
        /// Which one.
        stage: &'static str,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A stage panicked.
    #[error("a stage panicked")]
    Panicked,
}

impl Worker {
    /// Draws a number in `[0, 1)`.
    #[must_use]
    pub fn draw(&self) -> f64 {
        let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
        draws.random::<f64>()
    }

    /// The definitions that this worker brings into force.
    #[must_use]
    pub fn definitions(&self) -> Definitions {
        Definitions {
            connections: self.connections.keys().cloned().collect(),
            destinations: self.destinations.keys().cloned().collect(),
            subscriptions: self.subscriptions.clone(),
        }
    }
}

/// Runs all stages until `stop`, then drains: polling and claiming end at once, what is in flight may finish within
/// `limits.shutdown_grace`, leases are given back.
///
/// # Errors
/// [`PipelineError`] when a stage ends early; the other stages are stopped first.
pub async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), PipelineError> {
    let definitions = worker.definitions();
    let define = worker.store.define(&definitions, worker.clock.now()).await;
    define.map_err(|source| PipelineError::Stage {
        stage: "define",
        source,
    })?;
    worker.watch.heartbeats.start();
    let ended = CancellationToken::new();
    let mut stages: JoinSet<Result<(), PipelineError>> = JoinSet::new();
    macro_rules! stage {
        ($name:literal, $run:path, $token:expr) => {{
            let (worker, token) = (Arc::clone(&worker), $token.clone());
            stages.spawn(async move {
                $run(worker, token)
                    .await
                    .map_err(|source| PipelineError::Stage { stage: $name, source })
            });
        }};
    }
    // Leases outlive the stages that rest on them: what is in flight may still be recorded.
    let mut leases = JoinSet::new();
    let (lease_worker, lease_stop) = (Arc::clone(&worker), ended.clone());
    leases.spawn(async move { lease::run(lease_worker, lease_stop).await });
    stage!("poll", schedule::run, stop);
    stage!("fetch", fetch::run, stop);
    stage!("fan-out", fan_out::run, stop);
    stage!("deliver", deliver::run, stop);
    stage!("sweep", sweep::run, stop);
    stage!("measure", measure::run, stop);
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            biased;
            joined = stages.join_next() => match joined {
                None => break,
                Some(result) => note(flatten(result), &mut outcome, &stop),
            },
            Some(result) = leases.join_next() => {
                let result = flatten(result.map(|r| r.map_err(|source| PipelineError::Stage { stage: "lease", source })));
                note(result, &mut outcome, &stop);
            }
        }
    }
    ended.cancel();
    while let Some(result) = leases.join_next().await {
        note(
            flatten(result.map(|r| {
                r.map_err(|source| PipelineError::Stage {
                    stage: "lease",
                    source,
                })
            })),
            &mut outcome,
            &stop,
        );
    }
    outcome
}

fn flatten(joined: Result<Result<(), PipelineError>, tokio::task::JoinError>) -> Result<(), PipelineError> {
    joined.unwrap_or(Err(PipelineError::Panicked))
}

/// Keeps the first failure and stops the other stages: one that ends without being asked to is a failure too.
fn note(
    result: Result<(), PipelineError>,
    outcome: &mut Result<(), PipelineError>,
    stop: &CancellationToken,
) {
    stop.cancel();
    if outcome.is_ok() {
        *outcome = result;
    }
}
