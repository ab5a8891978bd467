//! Fan-out: walks each connection's event log and writes what is owed to whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use courier_sdk::ConnectionName;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::connection::Connection;
use super::heartbeat::Part;
use crate::domain::fan_out::{Position, SliceLimits, Standing, Subscription, slice};
use crate::domain::name::SubscriptionName;
use crate::store::{FanOut, Lane, StoreError};

/// Whether a lane has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Idle,
    /// The lease is not ours, or in doubt: whoever rang is remembered.
    Unheld,
}

/// What a lane's step found: whether it moved, and which subscriptions have lanes of their own.
struct Stepped {
    step: Step,
    own_lanes: Vec<SubscriptionName>,
}

/// Fans out for all connections that this worker holds, until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    // Connections on which some subscription waits for room, or whose lease was in doubt: nobody rings for them.
    let mut waiting: BTreeSet<ConnectionName> = BTreeSet::new();
    for name in worker.connections.keys() {
        worker.bells.fan_out.ring(name);
    }
    loop {
        worker.watch.heartbeats.beat(Part::FanOut);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = worker.bells.fan_out.rung() => {}
            () = tokio::time::sleep(worker.limits.fallback) => {}
        }
        let mut rung = worker.bells.fan_out.take();
        rung.append(&mut waiting);
        for name in rung {
            if stop.is_cancelled() {
                return Ok(());
            }
            let Some(connection) = worker.connections.get(&name) else {
                continue;
            };
            worker.watch.heartbeats.beat(Part::FanOut);
            match one_turn(&worker, connection).await {
                Ok(Stepped {
                    step: Step::Moved, ..
                }) => worker.bells.fan_out.ring(&name),
                Ok(Stepped {
                    step: Step::Unheld, ..
                }) => {
                    waiting.insert(name);
                }
                Ok(Stepped { own_lanes, .. }) if !own_lanes.is_empty() => {
                    waiting.insert(name);
                }
                Ok(_) => {}
                Err(StoreError::Fenced { .. }) => connection.let_go(),
                Err(StoreError::Conflict { what }) => {
                    debug!(connection = %name, what, "fan-out starts over");
                    worker.bells.fan_out.ring(&name);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// One slice of every lane of a connection: a busy connection takes turns with the others.
async fn one_turn(worker: &Worker, connection: &Connection) -> Result<Stepped, StoreError> {
    let mut common = step(worker, connection, Lane::Common).await?;
    for name in &common.own_lanes {
        let own = step(worker, connection, Lane::Own(name.clone())).await?;
        if own.step == Step::Moved {
            common.step = Step::Moved;
        }
    }
    Ok(common)
}

async fn step(worker: &Worker, connection: &Connection, lane: Lane) -> Result<Stepped, StoreError> {
    let stepped = |step, own_lanes| Stepped { step, own_lanes };
    let idle = |own_lanes| stepped(Step::Idle, own_lanes);
    let Some(fence) = connection.fence() else {
        return Ok(stepped(Step::Unheld, Vec::new()));
    };
    let view = worker
        .store
        .fan_out_view(&connection.name, &lane, worker.limits.fan_out_events)
        .await?;
    if lane != Lane::Common && view.members.is_empty() {
        return Ok(idle(view.own_lanes));
    }
    let outbox = worker.limits.outbox;
    let suspended = |standing: &Standing| lane != Lane::Common && standing.pending >= outbox;
    if view.members.iter().any(|(_, standing)| suspended(standing)) {
        return Ok(idle(view.own_lanes));
    }
    let members: Vec<(&Subscription, &Standing)> = view.members.iter().map(|(a, b)| (a, b)).collect();
    let limits = SliceLimits {
        rows: worker.limits.fan_out_rows,
        outbox,
    };
    let now = worker.clock.now();
    let mut cut = slice(&view.position, &view.events, &members, limits, now);
    if let (Lane::Own(_), Some((_, last))) = (&lane, cut.suspended.first()) {
        // A lane of its own stops where its outbox is full, and goes on from there later.
        let (event, within) = (*last, None);
        cut.to = Position { event, within };
        cut.suspended.clear();
    }
    if cut.to == view.position && lane == Lane::Common {
        return Ok(idle(view.own_lanes));
    }
    for (name, event) in &cut.suspended {
        warn!(connection = %connection.name, subscription = %name, event, "outbox limit reached: suspended");
    }
    let owed = cut.owed.len();
    let moved = cut.to != view.position;
    let spans = worker.begin_fan_out(&view.events, view.position.event, cut.to.event);
    let fan_out = FanOut {
        connection: connection.name.clone(),
        fence,
        lane,
        from: view.position,
        revision: view.revision,
        owed: cut.owed,
        to: cut.to,
        suspended: cut.suspended,
        at: now,
    };
    worker.store.fan_out(&fan_out).await?;
    worker.end_fan_out(spans, &connection.name);
    if owed > 0 {
        metrics::counter!("courier_deliveries_owed_total").increment(owed as u64);
        worker.bells.deliver.notify_one();
    }
    Ok(Stepped {
        step: if moved { Step::Moved } else { Step::Idle },
        own_lanes: view.own_lanes,
    })
}
