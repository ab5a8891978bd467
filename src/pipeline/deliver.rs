//! Deliver: attempts what is due, within each destination's share, and records what came of it in batches.

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

type Attempts = JoinSet<(DestinationName, AttemptRecord)>;

/// Delivers for all connections that this worker holds, until `stop`; attempts in flight may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut attempts = Attempts::new();
    let mut in_flight: BTreeMap<DestinationName, usize> = BTreeMap::new();
    let mut look = Look::Now;
    let mut next_due_at = None;
    loop {
        worker.watch.heartbeats.beat(Part::Deliver);
        if look == Look::Now {
            next_due_at = claim(&worker, &mut attempts, &mut in_flight).await?;
        }
        let wait = next_due_at.map_or(worker.limits.fallback, |due: Timestamp| {
            let left = due.duration_since(worker.clock.now());
            Duration::try_from(left)
                .unwrap_or_default()
                .min(worker.limits.fallback)
        });
        look = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(joined) = attempts.join_next() => {
                record(&worker, joined, &mut attempts, &mut in_flight).await?
            }
            () = worker.bells.deliver.notified() => Look::Now,
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => Look::Now,
        };
    }
    let drain = async {
        while let Some(joined) = attempts.join_next().await {
            record(&worker, joined, &mut attempts, &mut in_flight).await?;
        }
        Ok(())
    };
    // What is still in flight after the grace stays owed: at worst it is sent twice, with the same id and bytes.
    let drained = tokio::time::timeout(worker.limits.shutdown_grace, drain)
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

/// Claims due deliveries while there is room, for the destinations with the fewest in flight first; answers when the
/// next falls due.
async fn claim(
    worker: &Arc<Worker>,
    attempts: &mut Attempts,
    in_flight: &mut BTreeMap<DestinationName, usize>,
) -> Result<Option<Timestamp>, StoreError> {
    let now = worker.clock.now();
    let due = worker.store.due_destinations(&worker.holder, now).await?;
    in_flight.retain(|_, flying| *flying > 0);
    for (name, room) in rooms(&due.due, in_flight, &worker.limits) {
        let Some(outlet) = worker.destinations.get(&name) else {
            debug!(destination = %name, "deliveries wait for a destination that is not configured");
            continue;
        };
        let claim = ClaimDeliveries {
            holder: worker.holder.clone(),
            destination: name.clone(),
            limit: room.min(worker.limits.in_flight.saturating_sub(attempts.len())),
            at: worker.clock.now(),
        };
        if claim.limit == 0 {
            continue;
        }
        let claimed = worker.store.claim_deliveries(&claim).await?;
        *in_flight.entry(name).or_default() += claimed.len();
        for delivery in claimed {
            begin(worker, outlet, delivery, attempts);
        }
    }
    Ok(due.next_due_at)
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

fn begin(worker: &Arc<Worker>, outlet: &Outlet, claimed: ClaimedDelivery, attempts: &mut Attempts) {
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

/// Records an ended attempt together with all others that have ended by now; says whether there is room for many.
async fn record(
    worker: &Worker,
    first: Result<(DestinationName, AttemptRecord), JoinError>,
    attempts: &mut Attempts,
    in_flight: &mut BTreeMap<DestinationName, usize>,
) -> Result<Look, StoreError> {
    let mut records = Vec::new();
    let mut look = Look::Later;
    let mut ended = Some(first);
    while let Some(joined) = ended {
        match joined {
            Ok((name, record)) => {
                let flying = in_flight.entry(name).or_default();
                *flying = flying.saturating_sub(1);
                if *flying <= worker.limits.in_flight_per_destination / 2 {
                    look = Look::Now;
                }
                records.push(record);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        ended = if records.len() < worker.limits.record_batch {
            attempts.try_join_next()
        } else {
            None
        };
    }
    let recorded = worker.store.record_attempts(&records).await?;
    if recorded.fenced > 0 {
        warn!(
            attempts = recorded.fenced,
            "attempts were left out: their lease has passed to another worker"
        );
    }
    Ok(look)
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
