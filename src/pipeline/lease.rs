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
use crate::store::{LeaseRequest, StoreError};

/// Renewals under way at once: enough for the store to commit them in groups.
const AT_ONCE: usize = 256;

/// Acquires and renews the leases of all connections until `stop`, then gives them back.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        worker.watch.heartbeats.beat(Part::Lease);
        let names: Vec<ConnectionName> = worker.connections.keys().cloned().collect();
        let mut rounds = stream::iter(names)
            .map(|name| keep(Arc::clone(&worker), name))
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

async fn keep(worker: Arc<Worker>, name: ConnectionName) -> Result<(), StoreError> {
    let Some(connection) = worker.connections.get(&name) else {
        return Ok(());
    };
    let request = LeaseRequest {
        connection: connection.name.clone(),
        holder: worker.holder.clone(),
        ttl: worker.limits.lease_ttl,
    };
    let asked_at = Instant::now();
    if let Some(fence) = connection.fence() {
        match worker
            .store
            .renew_lease(&request, fence, worker.clock.now())
            .await
        {
            Ok(()) => connection.hold(fence, asked_at, worker.limits.lease_trust),
            Err(StoreError::Fenced { .. }) => {
                warn!(connection = %connection.name, "the lease has passed to another worker");
                connection.let_go();
            }
            Err(error) => return Err(error),
        }
        return Ok(());
    }
    if let Some(fence) = worker.store.acquire_lease(&request, worker.clock.now()).await? {
        info!(connection = %connection.name, fence = fence.0, "lease acquired");
        connection.hold(fence, asked_at, worker.limits.lease_trust);
        worker.bells.fetch.ring(&connection.name);
        worker.bells.fan_out.ring(&connection.name);
        worker.bells.deliver.notify_one();
    }
    Ok(())
}
