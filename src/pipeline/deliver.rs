//! Deliver: attempts what is due, within each destination's share, and gives what came of it to the recorder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::heartbeat::Part;
use super::limits::Limits;
use super::record::{Recorder, Supply, unwrap_panic};
use super::traces::Begun;
use super::{Outlet, Worker};
use crate::destination::{Attempt, Notification};
use crate::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery};
use crate::domain::name::DestinationName;
use crate::domain::retry::{Failure, NextAttempt, next_attempt};
use crate::domain::trace::{SpanOutcome, Stage};
use crate::store::{ClaimDeliveries, StoreError};
use crate::wire;

/// Whether to look for due deliveries: not after every single attempt, but when there is room for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Now,
    Later,
}

/// What the stage has under way.
struct Flight {
    attempts: JoinSet<(DestinationName, AttemptRecord)>,
    /// Attempts by destination.
    flying: BTreeMap<DestinationName, usize>,
    recorder: Recorder,
    supply: Supply,
    next_due_at: Option<Timestamp>,
}

/// Delivers for all connections that this worker holds, until `stop`; attempts in flight may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut flight = Flight {
        attempts: JoinSet::new(),
        flying: BTreeMap::new(),
        recorder: Recorder::new(Arc::clone(&worker)),
        supply: Supply::Dry,
        next_due_at: None,
    };
    let mut look = Look::Now;
    loop {
        worker.watch.heartbeats.beat(Part::Deliver);
        if look == Look::Now {
            claim(&worker, &mut flight).await?;
        }
        flight.recorder.write_if_ripe(flight.supply);
        let idle_for = idle_for(&worker, flight.next_due_at);
        let sleep = flight
            .recorder
            .ripe_in()
            .map_or(idle_for, |ripe| ripe.min(idle_for));
        look = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(written) = flight.recorder.written() => {
                written?;
                // Lines have moved on, and there is room again.
                Look::Now
            }
            Some(joined) = flight.attempts.join_next() => flight.note(&worker, joined),
            () = worker.bells.deliver.notified() => Look::Now,
            () = tokio::time::sleep(sleep + Duration::from_millis(1)) => {
                if sleep < idle_for { Look::Later } else { Look::Now }
            }
        };
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

/// Waits for what is under way and records it as it ends.
async fn drain(worker: &Worker, mut flight: Flight) -> Result<(), StoreError> {
    loop {
        flight.recorder.flush().await?;
        let Some(joined) = flight.attempts.join_next().await else {
            return Ok(());
        };
        flight.note(worker, joined);
    }
}

impl Flight {
    /// Takes in an ended attempt and all others that have ended by now; says whether there is room for many.
    fn note(&mut self, worker: &Worker, first: Result<(DestinationName, AttemptRecord), JoinError>) -> Look {
        let mut look = Look::Later;
        let mut next = Some(first);
        while let Some(joined) = next {
            if let Some((name, record)) = unwrap_panic(joined) {
                let flying = self.flying.entry(name).or_default();
                *flying = flying.saturating_sub(1);
                if *flying <= worker.limits.in_flight_per_destination / 2 {
                    look = Look::Now;
                }
                self.recorder.take(record);
            }
            next = self.attempts.try_join_next();
        }
        if self.supply == Supply::Dry || self.recorder.is_full() {
            // There is nothing to claim before something is recorded.
            look = Look::Later;
        }
        look
    }
}

/// Claims due deliveries while there is room, for the destinations with the fewest in flight first.
async fn claim(worker: &Arc<Worker>, flight: &mut Flight) -> Result<(), StoreError> {
    let now = worker.clock.now();
    let due = worker.store.due_destinations(&worker.holder, now).await?;
    flight.next_due_at = due.next_due_at;
    flight.flying.retain(|_, flying| *flying > 0);
    let rooms = rooms(&due.due, &flight.flying, &worker.limits);
    flight.supply = if rooms.len() < due.due.len() {
        Supply::Ample
    } else {
        Supply::Dry
    };
    for (name, room) in rooms {
        let Some(outlet) = worker.destinations.get(&name) else {
            debug!(destination = %name, "deliveries wait for a destination that is not configured");
            continue;
        };
        let left = worker.limits.in_flight.saturating_sub(flight.attempts.len());
        let limit = room.min(left);
        if limit == 0 || flight.recorder.is_full() {
            flight.supply = Supply::Ample;
            continue;
        }
        let claim = ClaimDeliveries {
            holder: worker.holder.clone(),
            destination: name.clone(),
            limit,
            at: worker.clock.now(),
        };
        let claimed = worker.store.claim_deliveries(&claim).await?;
        if claimed.len() == limit {
            flight.supply = Supply::Ample;
        }
        *flight.flying.entry(name).or_default() += claimed.len();
        for delivery in claimed {
            begin(worker, outlet, delivery, &mut flight.attempts);
        }
    }
    Ok(())
}

/// How many more each due destination may have in flight: its own limit, and no more than an even share of all that
/// may be, so that destinations which hang leave room for those that answer. The emptiest come first.
fn rooms(
    due: &BTreeSet<DestinationName>,
    in_flight: &BTreeMap<DestinationName, usize>,
    limits: &Limits,
) -> Vec<(DestinationName, usize)> {
    let claimants: BTreeSet<&DestinationName> = due.iter().chain(in_flight.keys()).collect();
    // One share more than there are claimants stays free for whoever comes next.
    let even = (limits.in_flight / (claimants.len() + 1)).max(1);
    let share = limits.in_flight_per_destination.min(even);
    let flying = |name: &DestinationName| in_flight.get(name).copied().unwrap_or_default();
    let mut rooms: Vec<(DestinationName, usize)> = due
        .iter()
        .map(|name| (name.clone(), share.saturating_sub(flying(name))))
        .collect();
    rooms.retain(|(_, room)| *room > 0);
    rooms.sort_by_key(|(name, _)| flying(name));
    rooms
}

fn begin(
    worker: &Arc<Worker>,
    outlet: &Outlet,
    claimed: ClaimedDelivery,
    attempts: &mut JoinSet<(DestinationName, AttemptRecord)>,
) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DestinationName {
        DestinationName::parse(text).unwrap()
    }

    #[test]
    fn destinations_that_hang_leave_room_for_those_that_answer() {
        let limits = Limits::default();
        let due: BTreeSet<DestinationName> = ["a", "b", "c", "d", "e", "f", "g", "h", "z"].map(name).into();
        let mut in_flight = BTreeMap::new();
        for hanging in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            in_flight.insert(name(hanging), 50);
        }
        let rooms = rooms(&due, &in_flight, &limits);
        assert_eq!(rooms.first().map(|(name, _)| name.as_str()), Some("z"));
        let wanted: usize = rooms.iter().map(|(_, room)| room).sum();
        assert!(wanted + 400 <= limits.in_flight, "nobody is crowded out");
    }

    #[test]
    fn a_single_destination_has_its_whole_limit() {
        let limits = Limits::default();
        let rooms = rooms(&[name("only")].into(), &BTreeMap::new(), &limits);
        assert_eq!(rooms, [(name("only"), limits.in_flight_per_destination)]);
    }
}
