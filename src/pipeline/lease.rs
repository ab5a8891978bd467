//! Leases: which connections are this worker's turn.
//!
//! They spare the source from being asked twice; correctness rests on the fence that every write checks.

use std::sync::Arc;

use courier_sdk::ConnectionName;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Worker;
use super::heartbeat::Part;
use crate::domain::delivery::Fence;
use crate::store::{LeaseRequest, RenewLeases, StoreError};

/// Acquisitions under way at once: enough for the store to commit them in groups.
const AT_ONCE: usize = 256;

/// Acquires and renews the leases of all connections until `stop`, then gives them back.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        worker.watch.heartbeats.beat(Part::Lease);
        renew(&worker).await?;
        let names: Vec<ConnectionName> = worker
            .connections
            .values()
            .filter(|connection| connection.fence().is_none())
            .map(|connection| connection.name.clone())
            .collect();
        let mut rounds = stream::iter(names)
            .map(|name| acquire(Arc::clone(&worker), name))
            .buffer_unordered(AT_ONCE);
        while let Some(kept) = rounds.next().await {
            kept?;
            worker.watch.heartbeats.beat(Part::Store);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(worker.limits.lease_renewal) => {}
        }
    }
    for connection in worker.connections.values() {
        if let Some(fence) = connection.fence() {
            connection.let_go();
            worker.store.release_lease(&connection.name, fence).await?;
        }
    }
    Ok(())
}

/// Renews what is held, in one write for all connections.
async fn renew(worker: &Worker) -> Result<(), StoreError> {
    let before: Vec<(ConnectionName, Fence)> = worker
        .connections
        .values()
        .filter_map(|connection| Some((connection.name.clone(), connection.fence()?)))
        .collect();
    if before.is_empty() {
        return Ok(());
    }
    let renewal = RenewLeases {
        holder: worker.holder.clone(),
        ttl: worker.limits.lease_ttl,
    };
    let asked_at = Instant::now();
    let renewed = worker.store.renew_leases(&renewal, worker.clock.now()).await?;
    worker.watch.heartbeats.beat(Part::Store);
    for (name, fence) in before {
        let Some(connection) = worker.connections.get(&name) else {
            continue;
        };
        if renewed.get(&name) == Some(&fence) {
            connection.hold(fence, asked_at, worker.limits.lease_trust);
        } else {
            warn!(connection = %name, "the lease has passed to another worker");
            connection.let_go();
        }
    }
    Ok(())
}

async fn acquire(worker: Arc<Worker>, name: ConnectionName) -> Result<(), StoreError> {
    let Some(connection) = worker.connections.get(&name) else {
        return Ok(());
    };
    let request = LeaseRequest {
        connection: connection.name.clone(),
        holder: worker.holder.clone(),
        ttl: worker.limits.lease_ttl,
    };
    let asked_at = Instant::now();
    if let Some(fence) = worker.store.acquire_lease(&request, worker.clock.now()).await? {
        info!(connection = %connection.name, fence = fence.0, "lease acquired");
        connection.hold(fence, asked_at, worker.limits.lease_trust);
        worker.bells.fetch.ring(&connection.name);
        worker.bells.fan_out.ring(&connection.name);
        worker.bells.deliver.notify_one();
    }
    Ok(())
}
