//! Measure: shows every few seconds what waits where, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::{Label, SharedString};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::store::{Depths, StoreError};

/// Counted this often: a scrape's usual interval. It costs the store a few index scans beside its writer.
const EVERY: Duration = Duration::from_secs(15);

/// Measures at every interval until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        let depths = worker.store.depths().await?;
        show(&worker, &depths);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Sets the gauges; connections that share a label are summed, and the oldest of them counts.
fn show(worker: &Worker, depths: &BTreeMap<courier_sdk::ConnectionName, Depths>) {
    let mut by_label: BTreeMap<SharedString, Depths> = BTreeMap::new();
    for name in worker.connections.keys() {
        let one = depths.get(name).copied().unwrap_or_default();
        let label = worker.watch.connections.of(name.as_str());
        by_label.entry(label).or_default().add(one);
    }
    // Nothing waits for a connection that left the configuration.
    for left in worker.watch.depths.replace(by_label.keys().cloned().collect()) {
        by_label.insert(left, Depths::default());
    }
    let now = worker.clock.now();
    for (label, depths) in by_label {
        for (place, rows) in depths.places() {
            let labels = [
                Label::new("connection", label.clone()),
                Label::new("place", place),
            ];
            #[expect(clippy::cast_precision_loss, reason = "a gauge of rows: exact up to 2^53")]
            metrics::gauge!("courier_waiting_rows", labels.iter()).set(rows as f64);
        }
        let age = |oldest: Timestamp| now.duration_since(oldest).as_secs_f64().max(0.0);
        metrics::gauge!("courier_oldest_waiting_seconds", "connection" => label)
            .set(depths.oldest.map_or(0.0, age));
    }
}
