//! The sweep: deletes, slice by slice, what is settled and past its retention.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{ConnectionName, FeedName};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Worker;
use super::heartbeat::Part;
use crate::dedup::REMEMBERED_MAX;
use crate::store::{CursorRow, FeedState, StoreError, Sweep, Swept};

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
        let bounds = bounds(&worker).await?;
        loop {
            let swept = worker.store.sweep(&bounds).await?;
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

async fn bounds(worker: &Worker) -> Result<Sweep, StoreError> {
    let rewind = worker.limits.rewind_max.saturating_mul(3);
    let cursors = worker.store.cursors().await?;
    Ok(Sweep {
        at: worker.clock.now(),
        retention: worker.limits.retention,
        unseen_for: rewind.max(UNSEEN_MIN) + SHOWING_UNNOTED_MAX,
        stamped_before: stamped_before(worker, &cursors, rewind),
        limit: SLICE,
    })
}

/// Before which instant a version must be stamped so that no feed of its connection asks for it again: a cursor may stand
/// still for weeks, and then shows what lies around it as on the first day.
fn stamped_before(
    worker: &Worker,
    cursors: &[CursorRow],
    rewind: Duration,
) -> BTreeMap<ConnectionName, Timestamp> {
    let states: BTreeMap<(&ConnectionName, &FeedName), &FeedState> = cursors
        .iter()
        .map(|row| ((&row.connection, &row.feed), &row.state))
        .collect();
    let mut before = BTreeMap::new();
    for connection in worker.connections.values() {
        let mut oldest = worker.clock.now();
        // A sweep shows the current state, whose ids do not expire.
        let all_begun = connection.live_feeds().all(|feed| {
            let state = states.get(&(&connection.name, &feed.spec.name));
            let Some(cursor) = state.and_then(|state| state.cursor.as_ref()) else {
                return false;
            };
            // A cursor that stands for no instant has shown nothing yet.
            if let Some(instant) = connection.connector.describe(cursor) {
                oldest = oldest.min(instant);
            }
            true
        });
        if all_begun {
            let before_all = oldest.checked_sub(rewind).unwrap_or(Timestamp::MIN);
            before.insert(connection.name.clone(), before_all);
        }
    }
    before
}
