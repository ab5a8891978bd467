//! Fan-out: walks each connection's event log and writes what is owed to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use courier_sdk::ConnectionName;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::connection::Connection;
use crate::domain::delivery::Fence;
use crate::domain::fan_out::{SliceLimits, Standing, Subscription, slice};
use crate::domain::name::SubscriptionName;
use crate::store::{FanOut, Lane, StoreError};

/// Subscriptions that have a place of their own in a connection's log, as last looked up or seen.
#[derive(Default)]
struct OwnLanes {
    /// The turn of the lease in which they were looked up: who held it before may have made others.
    looked_up_in: Option<Fence>,
    names: BTreeSet<SubscriptionName>,
}

/// Whether a lane has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Idle,
    Joined,
}

/// Fans out for all connections that this worker holds, until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut own: BTreeMap<ConnectionName, OwnLanes> = BTreeMap::new();
    for name in worker.connections.keys() {
        worker.bells.fan_out.ring(name);
    }
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = worker.bells.fan_out.rung() => {}
            () = tokio::time::sleep(worker.limits.fallback) => {}
        }
        let mut rung = worker.bells.fan_out.take();
        rung.extend(
            own.iter()
                .filter(|(_, lanes)| !lanes.names.is_empty())
                .map(|(name, _)| name.clone()),
        );
        for name in rung {
            if stop.is_cancelled() {
                return Ok(());
            }
            let Some(connection) = worker.connections.get(&name) else {
                continue;
            };
            match one_turn(&worker, connection, own.entry(name.clone()).or_default()).await {
                Ok(Step::Moved) => worker.bells.fan_out.ring(&name),
                Ok(Step::Idle | Step::Joined) => {}
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

/// Looks up which subscriptions have a place of their own, once in each turn of the lease.
async fn look_up(
    worker: &Worker,
    connection: &Connection,
    fence: Fence,
    own: &mut OwnLanes,
) -> Result<(), StoreError> {
    if own.looked_up_in == Some(fence) {
        return Ok(());
    }
    let mut names = BTreeSet::new();
    for subscription in &worker.subscriptions {
        let rows = worker.store.standings(&subscription.name).await?;
        let here = rows.into_iter().find(|row| row.connection == connection.name);
        if here.is_some_and(|row| row.standing.own.is_some()) {
            names.insert(subscription.name.clone());
        }
    }
    *own = OwnLanes {
        looked_up_in: Some(fence),
        names,
    };
    Ok(())
}

/// One slice of every lane of a connection: a busy connection takes turns with the others.
async fn one_turn(worker: &Worker, connection: &Connection, own: &mut OwnLanes) -> Result<Step, StoreError> {
    let Some(fence) = connection.fence() else {
        return Ok(Step::Idle);
    };
    look_up(worker, connection, fence, own).await?;
    let own = &mut own.names;
    let common = step(worker, connection, Lane::Common, own).await?;
    let mut moved = common == Step::Moved;
    for name in own.clone() {
        match step(worker, connection, Lane::Own(name.clone()), own).await? {
            Step::Moved => moved = true,
            Step::Idle => {}
            Step::Joined => {
                own.remove(&name);
            }
        }
    }
    Ok(if moved { Step::Moved } else { Step::Idle })
}

async fn step(
    worker: &Worker,
    connection: &Connection,
    lane: Lane,
    own: &mut BTreeSet<SubscriptionName>,
) -> Result<Step, StoreError> {
    let Some(fence) = connection.fence() else {
        return Ok(Step::Idle);
    };
    let view = worker
        .store
        .fan_out_view(&connection.name, &lane, worker.limits.fan_out_events)
        .await?;
    if lane != Lane::Common && view.members.is_empty() {
        return Ok(Step::Joined);
    }
    let outbox = worker.limits.outbox;
    let suspended = |standing: &Standing| lane != Lane::Common && standing.pending >= outbox;
    if view.members.iter().any(|(_, standing)| suspended(standing)) {
        return Ok(Step::Idle);
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
        cut.to = crate::domain::fan_out::Position {
            event: *last,
            within: None,
        };
        cut.suspended.clear();
    }
    if cut.to == view.position && lane == Lane::Common {
        return Ok(Step::Idle);
    }
    for (name, event) in &cut.suspended {
        warn!(connection = %connection.name, subscription = %name, event, "outbox limit reached: suspended");
        own.insert(name.clone());
    }
    let owed = cut.owed.len();
    let moved = cut.to != view.position;
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
    if owed > 0 {
        metrics::counter!("courier_deliveries_owed_total").increment(owed as u64);
        worker.bells.deliver.notify_one();
    }
    Ok(if moved { Step::Moved } else { Step::Idle })
}
