//! Deliver: attempts what is due, within each destination's share, and records what came of it in batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Outlet, Worker};
use crate::destination::{Attempt, Notification};
use crate::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery};
use crate::domain::name::DestinationName;
use crate::domain::retry::{Failure, NextAttempt, next_attempt};
use crate::store::{ClaimDeliveries, StoreError};
use crate::wire;

/// How long an ended attempt waits to be recorded together with others while there is more to send. A crash within
/// it costs duplicates; a shorter wait costs an fsync for fewer attempts.
const COMPANY_WAIT: Duration = Duration::from_millis(50);

/// Whether to look for due deliveries: not after every single attempt, but when there is room for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Now,
    Later,
}

/// Whether the store had more than there was room for, at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    Ample,
    Dry,
}

/// What the stage has under way.
struct Flight {
    attempts: JoinSet<(DestinationName, AttemptRecord)>,
    in_flight: BTreeMap<DestinationName, usize>,
    /// Ended and not yet given to the store.
    ended: Vec<AttemptRecord>,
    /// When the first of them ended.
    waiting_since: Option<Instant>,
    /// At most one: what ends while it runs is the next batch.
    recording: JoinSet<Result<(), StoreError>>,
    supply: Supply,
    next_due_at: Option<Timestamp>,
}

/// Delivers for all connections that this worker holds, until `stop`; attempts in flight may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut flight = Flight::new();
    let mut look = Look::Now;
    loop {
        if look == Look::Now {
            claim(&worker, &mut flight).await?;
        }
        flight.record_if_ripe(&worker);
        let wait = flight.wait(&worker);
        look = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(joined) = flight.recording.join_next() => {
                recorded(joined)?;
                // Its lines have moved on: there may be fronts that were not there before.
                Look::Now
            }
            Some(joined) = flight.attempts.join_next() => flight.note(&worker, joined),
            () = worker.bells.deliver.notified() => Look::Now,
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => flight.look_after_sleep(&worker),
        };
    }
    // What is still in flight after the grace stays owed: at worst it is sent twice, with the same id and bytes.
    tokio::time::timeout(worker.limits.shutdown_grace, drain(&worker, flight))
        .await
        .unwrap_or(Ok(()))
}

/// Waits for what is under way and records it as it ends.
async fn drain(worker: &Arc<Worker>, mut flight: Flight) -> Result<(), StoreError> {
    loop {
        while let Some(joined) = flight.recording.join_next().await {
            recorded(joined)?;
        }
        flight.supply = Supply::Dry;
        flight.record_if_ripe(worker);
        if flight.recording.is_empty() {
            let Some(joined) = flight.attempts.join_next().await else {
                return Ok(());
            };
            flight.note(worker, joined);
        }
    }
}

impl Flight {
    fn new() -> Self {
        Self {
            attempts: JoinSet::new(),
            in_flight: BTreeMap::new(),
            ended: Vec::new(),
            waiting_since: None,
            recording: JoinSet::new(),
            supply: Supply::Dry,
            next_due_at: None,
        }
    }

    /// How many more attempts to a destination may begin. None while a full batch waits to be recorded: a store that
    /// is slower than the destinations holds them back, so that a crash repeats no more than that.
    fn room(&self, worker: &Worker, destination: &DestinationName) -> usize {
        if self.ended.len() >= worker.limits.record_batch {
            return 0;
        }
        let flying = self.in_flight.get(destination).copied().unwrap_or_default();
        let share = worker.limits.in_flight_per_destination.saturating_sub(flying);
        share.min(worker.limits.in_flight.saturating_sub(self.attempts.len()))
    }

    /// Takes in an ended attempt and all others that have ended by now; says whether there is room for many.
    fn note(&mut self, worker: &Worker, first: Result<(DestinationName, AttemptRecord), JoinError>) -> Look {
        let mut look = Look::Later;
        let mut next = Some(first);
        while let Some(joined) = next {
            match joined {
                Ok((name, record)) => {
                    let flying = self.in_flight.entry(name).or_default();
                    *flying = flying.saturating_sub(1);
                    if self.supply == Supply::Ample && *flying <= worker.limits.in_flight_per_destination / 2
                    {
                        look = Look::Now;
                    }
                    self.ended.push(record);
                }
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
            next = self.attempts.try_join_next();
        }
        if !self.ended.is_empty() && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        look
    }

    /// Gives what has ended to the store, a batch at a time: at once when there is nothing else to send, else when
    /// the batch is full or its first has waited enough.
    fn record_if_ripe(&mut self, worker: &Arc<Worker>) {
        let Some(since) = self.waiting_since else {
            return;
        };
        let full = self.ended.len() >= worker.limits.record_batch;
        let ripe = full || self.supply == Supply::Dry || since.elapsed() >= COMPANY_WAIT;
        if !ripe || !self.recording.is_empty() {
            return;
        }
        let rest = self
            .ended
            .split_off(self.ended.len().min(worker.limits.record_batch));
        let batch = std::mem::replace(&mut self.ended, rest);
        self.waiting_since = (!self.ended.is_empty()).then_some(since);
        self.recording.spawn(record(Arc::clone(worker), batch));
    }

    /// How long nothing needs to be done unless something ends.
    fn wait(&self, worker: &Worker) -> Duration {
        let due = self.next_due_at.map_or(worker.limits.fallback, |due| {
            let left = due.duration_since(worker.clock.now());
            Duration::try_from(left)
                .unwrap_or_default()
                .min(worker.limits.fallback)
        });
        match self.waiting_since {
            Some(since) if self.recording.is_empty() => due.min(COMPANY_WAIT.saturating_sub(since.elapsed())),
            Some(_) | None => due,
        }
    }

    /// After a sleep: attempts that wait for company are no reason to look.
    fn look_after_sleep(&self, worker: &Worker) -> Look {
        let is_due = self.next_due_at.is_none_or(|due| due <= worker.clock.now());
        if is_due || self.waiting_since.is_none() {
            Look::Now
        } else {
            Look::Later
        }
    }
}

async fn record(worker: Arc<Worker>, batch: Vec<AttemptRecord>) -> Result<(), StoreError> {
    let recorded = worker.store.record_attempts(&batch).await?;
    if recorded.fenced > 0 {
        warn!(
            attempts = recorded.fenced,
            "attempts were left out: their lease has passed to another worker"
        );
    }
    Ok(())
}

fn recorded(joined: Result<Result<(), StoreError>, JoinError>) -> Result<(), StoreError> {
    match joined {
        Ok(recorded) => recorded,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}

/// Claims due deliveries while there is room, in turns over the destinations.
async fn claim(worker: &Arc<Worker>, flight: &mut Flight) -> Result<(), StoreError> {
    let now = worker.clock.now();
    let due = worker.store.due_destinations(&worker.holder, now).await?;
    flight.next_due_at = due.next_due_at;
    flight.supply = Supply::Dry;
    for name in due.due {
        let Some(outlet) = worker.destinations.get(&name) else {
            debug!(destination = %name, "deliveries wait for a destination that is not configured");
            continue;
        };
        let room = flight.room(worker, &name);
        if room == 0 {
            flight.supply = Supply::Ample;
            continue;
        }
        let claim = ClaimDeliveries {
            holder: worker.holder.clone(),
            destination: name.clone(),
            limit: room,
            at: worker.clock.now(),
        };
        let claimed = worker.store.claim_deliveries(&claim).await?;
        if claimed.len() == room {
            flight.supply = Supply::Ample;
        }
        *flight.in_flight.entry(name).or_default() += claimed.len();
        for delivery in claimed {
            begin(worker, outlet, delivery, flight);
        }
    }
    Ok(())
}

fn begin(worker: &Arc<Worker>, outlet: &Outlet, claimed: ClaimedDelivery, flight: &mut Flight) {
    let destination = Arc::clone(&outlet.destination);
    let worker = Arc::clone(worker);
    flight.attempts.spawn(async move {
        let notification = Notification {
            event_id: claimed.event.id.clone(),
            connection: claimed.event.connection.clone(),
            key: claimed.event.key.clone(),
            kind: claimed.event.kind,
            rendered: wire::render(&claimed.event, &claimed.delivery),
            replay: claimed.delivery.replay,
        };
        let attempt = destination.deliver(&notification, worker.clock.now()).await;
        let name = claimed.delivery.destination.clone();
        (name, conclude(&worker, &claimed, attempt))
    });
}

fn conclude(worker: &Worker, claimed: &ClaimedDelivery, attempt: Attempt) -> AttemptRecord {
    let at = worker.clock.now();
    let delivery = &claimed.delivery;
    let outcome = match attempt {
        Attempt::Accepted { detail } => AttemptOutcome::Delivered { detail },
        Attempt::Failed { detail, retry_after } => {
            let schedule = worker
                .destinations
                .get(&delivery.destination)
                .map_or(&[][..], |outlet| &outlet.retry);
            let failure = Failure {
                attempts: delivery.attempts.saturating_add(1),
                scheduled_from: delivery.scheduled_from,
                failed_at: at,
                retry_after,
                draw: worker.draw(),
            };
            match next_attempt(schedule, &failure) {
                NextAttempt::At(due_at) => AttemptOutcome::RetryAt { due_at, detail },
                NextAttempt::Never => AttemptOutcome::Dead { detail },
            }
        }
    };
    log(claimed, &outcome);
    AttemptRecord {
        id: delivery.id,
        connection: claimed.event.connection.clone(),
        fence: claimed.fence,
        outcome,
        at,
    }
}

fn log(claimed: &ClaimedDelivery, outcome: &AttemptOutcome) {
    let (event_id, subscription) = (&claimed.event.id, &claimed.delivery.subscription);
    let destination = &claimed.delivery.destination;
    let attempt = claimed.delivery.attempts.saturating_add(1);
    let count = |word: &'static str| {
        metrics::counter!("courier_attempts_total", "destination" => destination.to_string(), "outcome" => word)
            .increment(1);
    };
    match outcome {
        AttemptOutcome::Delivered { detail } => {
            count("delivered");
            debug!(%event_id, %subscription, %destination, attempt, detail, "delivered");
        }
        AttemptOutcome::RetryAt { due_at, detail } => {
            count("retry");
            info!(%event_id, %subscription, %destination, attempt, detail, %due_at, "attempt failed");
        }
        AttemptOutcome::Dead { detail } => {
            count("dead");
            warn!(%event_id, %subscription, %destination, attempt, detail, "dead letter: the schedule is over");
        }
        AttemptOutcome::Released => {}
    }
}
