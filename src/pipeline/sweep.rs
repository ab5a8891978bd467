//! The sweep: deletes, slice by slice, what is settled and past its retention.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Worker;
use super::heartbeat::Part;
use crate::dedup::REMEMBERED_MAX;
use crate::store::{StoreError, Sweep, Swept};

/// Rows of each kind in one transaction, so that nobody waits long behind the sweep.
const SLICE: usize = 1_000;

/// An accepted id is kept at least this long after the source last showed it.
const UNSEEN_MIN: Duration = Duration::from_hours(168);

/// The store may know of a showing that much later: the deduplication in front of it answers for a while, and then the
/// store writes a showing at most once a day.
const SHOWING_UNNOTED_MAX: Duration = REMEMBERED_MAX.saturating_add(Duration::from_hours(24));

/// Sweeps at every interval until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        worker.watch.heartbeats.beat(Part::Sweep);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(worker.limits.sweep_every) => {}
        }
        let mut total = Swept::default();
        loop {
            let swept = worker.store.sweep(&bounds(&worker)).await?;
            worker.watch.heartbeats.beat(Part::Sweep);
            total.deliveries += swept.deliveries;
            total.events += swept.events;
            total.accepted += swept.accepted;
            if swept == Swept::default() || stop.is_cancelled() {
                break;
            }
        }
        if total != Swept::default() {
            info!(
                deliveries = total.deliveries,
                events = total.events,
                accepted_ids = total.accepted,
                "swept"
            );
        }
    }
}

fn bounds(worker: &Worker) -> Sweep {
    let rewind = worker.limits.rewind_max.saturating_mul(3);
    Sweep {
        at: worker.clock.now(),
        retention: worker.limits.retention,
        unseen_for: rewind.max(UNSEEN_MIN) + SHOWING_UNNOTED_MAX,
        stamped_before: rewind,
        limit: SLICE,
    }
}
