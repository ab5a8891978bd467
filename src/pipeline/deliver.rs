//! Deliver: attempts what is due, within each destination's share, and gives what came of it to the recorder.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Worker;
use super::claim::{Claiming, Look, Turn};
use super::heartbeat::Part;
use super::record::{Recorder, Supply, unwrap_panic};
use super::traces::Begun;
use crate::destination::{Attempt, Notification};
use crate::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery};
use crate::domain::name::DestinationName;
use crate::domain::retry::{Failure, NextAttempt, next_attempt};
use crate::domain::trace::{SpanOutcome, Stage};
use crate::store::StoreError;
use crate::wire;

/// What the stage has under way.
struct Flight {
    attempts: JoinSet<(DestinationName, AttemptRecord)>,
    claiming: Claiming,
    recorder: Recorder,
}

/// Delivers for all connections that this worker holds, until `stop`; attempts in flight may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut flight = Flight {
        attempts: JoinSet::new(),
        claiming: Claiming::new(Arc::clone(&worker)),
        recorder: Recorder::new(Arc::clone(&worker)),
    };
    flight.claiming.ask(Look::ForNew);
    loop {
        worker.watch.heartbeats.beat(Part::Deliver);
        flight.begin(&worker);
        flight.recorder.write_if_ripe(flight.claiming.supply());
        let idle_for = idle_for(&worker, flight.claiming.next_due_at());
        let sleep = flight
            .recorder
            .ripe_in()
            .map_or(idle_for, |ripe| ripe.min(idle_for));
        let look = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(written) = flight.recorder.written() => {
                written?;
                // Lines have moved on, and there is room again.
                Some(match flight.claiming.supply() {
                    Supply::Ample => Look::ForMore,
                    Supply::Dry => Look::ForNew,
                })
            }
            Some(found) = flight.claiming.found() => {
                found?;
                None
            }
            Some(joined) = flight.attempts.join_next() => flight.note(joined),
            () = worker.bells.deliver.notified() => Some(Look::ForNew),
            () = tokio::time::sleep(sleep + Duration::from_millis(1)) => {
                (sleep == idle_for).then_some(Look::ForNew)
            }
        };
        if let Some(look) = look {
            flight.claiming.ask(look);
        }
    }
    // What is still in flight after the grace stays owed: at worst it is sent twice, with the same id and bytes.
    let drained = tokio::time::timeout(worker.limits.shutdown_grace, drain(&worker, flight))
        .await
        .unwrap_or(Ok(()));
    join_all(
        worker
            .destinations
            .values()
            .map(|outlet| outlet.destination.close()),
    )
    .await;
    drained
}

/// How long nothing falls due.
fn idle_for(worker: &Worker, next_due_at: Option<Timestamp>) -> Duration {
    next_due_at.map_or(worker.limits.fallback, |due| {
        let left = due.duration_since(worker.clock.now());
        Duration::try_from(left)
            .unwrap_or_default()
            .min(worker.limits.fallback)
    })
}

/// Gives back what was not attempted, waits for what is in flight and records it as it ends.
async fn drain(worker: &Worker, mut flight: Flight) -> Result<(), StoreError> {
    for claimed in flight.claiming.give_up().await? {
        flight.recorder.take(given_back(worker, &claimed));
    }
    loop {
        flight.recorder.flush().await?;
        let Some(joined) = flight.attempts.join_next().await else {
            return Ok(());
        };
        flight.note(joined);
    }
}

impl Flight {
    /// Claims if somebody asked for it, and attempts what was claimed as far as there are places. What is unrecorded is
    /// sent again after a crash: while that is much, nothing more begins.
    fn begin(&mut self, worker: &Arc<Worker>) {
        if self.recorder.is_full() {
            return;
        }
        self.claiming.begin();
        for turn in self.claiming.turns() {
            match turn {
                Turn::Attempt(claimed) => begin(worker, claimed, &mut self.attempts),
                Turn::GiveBack(claimed) => self.recorder.take(given_back(worker, &claimed)),
            }
        }
    }

    /// Takes in an ended attempt and all others that have ended by now; says whether there is room for many.
    fn note(&mut self, first: Result<(DestinationName, AttemptRecord), JoinError>) -> Option<Look> {
        let mut look = None;
        let mut next = Some(first);
        while let Some(joined) = next {
            if let Some((name, record)) = unwrap_panic(joined) {
                if self.claiming.ended(&name) {
                    look = Some(Look::ForMore);
                }
                self.recorder.take(record);
            }
            next = self.attempts.try_join_next();
        }
        if self.claiming.supply() == Supply::Dry || self.recorder.is_full() {
            // There is nothing to claim before something is recorded.
            look = None;
        }
        look
    }
}

/// Ends the claim of a delivery that was not attempted.
fn given_back(worker: &Worker, claimed: &ClaimedDelivery) -> AttemptRecord {
    AttemptRecord {
        id: claimed.delivery.id,
        connection: claimed.event.connection.clone(),
        fence: claimed.fence,
        outcome: AttemptOutcome::Released,
        at: worker.clock.now(),
    }
}

fn begin(
    worker: &Arc<Worker>,
    claimed: ClaimedDelivery,
    attempts: &mut JoinSet<(DestinationName, AttemptRecord)>,
) {
    let Some(outlet) = worker.destinations.get(&claimed.delivery.destination) else {
        return;
    };
    let destination = Arc::clone(&outlet.destination);
    let worker = Arc::clone(worker);
    attempts.spawn(async move {
        let span = worker.begin_span(Stage::Deliver, claimed.event.trace);
        let notification = Notification {
            event_id: claimed.event.id.clone(),
            connection: claimed.event.connection.clone(),
            key: claimed.event.key.clone(),
            kind: claimed.event.kind,
            rendered: wire::render(&claimed.event, &claimed.delivery),
            replay: claimed.delivery.replay,
            trace: span.as_ref().map(|span| span.context),
        };
        let began = Instant::now();
        let attempt = destination.deliver(&notification, worker.clock.now()).await;
        let label = worker
            .watch
            .destinations
            .of(claimed.delivery.destination.as_str());
        metrics::histogram!("courier_attempt_seconds", "destination" => label).record(began.elapsed());
        if let Some(span) = span {
            end_span(&worker, &claimed, &attempt, span);
        }
        let name = claimed.delivery.destination.clone();
        (name, conclude(&worker, &claimed, attempt))
    });
}

fn end_span(worker: &Worker, claimed: &ClaimedDelivery, attempt: &Attempt, span: Begun) {
    let outcome = match attempt {
        Attempt::Accepted { .. } => SpanOutcome::Done,
        Attempt::Failed { .. } => SpanOutcome::Failed,
    };
    let delivery = &claimed.delivery;
    let fields = vec![
        ("subscription", delivery.subscription.to_string()),
        ("destination", delivery.destination.to_string()),
        ("event_id", claimed.event.id.to_string()),
        ("attempt", delivery.attempts.saturating_add(1).to_string()),
    ];
    worker.end_span(span, outcome, &claimed.event.connection, fields);
}

fn conclude(worker: &Worker, claimed: &ClaimedDelivery, attempt: Attempt) -> AttemptRecord {
    let at = worker.clock.now();
    let delivery = &claimed.delivery;
    let outlet = worker.destinations.get(&delivery.destination);
    let outcome = match attempt {
        Attempt::Accepted { detail } => {
            if let Some(outlet) = outlet {
                outlet.note_accepted();
            }
            AttemptOutcome::Delivered { detail }
        }
        Attempt::Failed { detail, retry_after } => {
            if let Some(outlet) = outlet {
                outlet.note_failed(&detail);
            }
            let schedule = outlet.map_or(&[][..], |outlet| &outlet.retry);
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
    log(worker, claimed, &outcome);
    AttemptRecord {
        id: delivery.id,
        connection: claimed.event.connection.clone(),
        fence: claimed.fence,
        outcome,
        at,
    }
}

fn log(worker: &Worker, claimed: &ClaimedDelivery, outcome: &AttemptOutcome) {
    let (event_id, subscription) = (&claimed.event.id, &claimed.delivery.subscription);
    let destination = &claimed.delivery.destination;
    let attempt = claimed.delivery.attempts.saturating_add(1);
    let count = |word: &'static str| {
        let label = worker.watch.destinations.of(destination.as_str());
        metrics::counter!("courier_attempts_total", "destination" => label, "outcome" => word).increment(1);
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
