//! What a service shows of itself: made once, and handed from worker to worker.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::pipeline::traces::Traces;
use crate::pipeline::watch::Watch;
use crate::telemetry::TelemetryError;
use crate::telemetry::otlp::{self, Exporter};

/// Makes what a worker shows of itself, under the labels given out already, and the exporter that takes its spans where
/// a collector is configured.
///
/// # Errors
/// [`TelemetryError::Traces`] when the client for the collector cannot be made.
pub(super) fn watch(
    traces: Option<&config::Traces>,
    composed: &Arc<Watch>,
) -> Result<(Arc<Watch>, Option<Exporter>), TelemetryError> {
    let Some(traces) = traces else {
        return Ok((Arc::clone(composed), None));
    };
    let (spans, exporter) = otlp::exporting(&traces.collector)?;
    let watch = Watch {
        traces: Traces::new(spans, f64::from(traces.percent) / 100.0),
        connections: composed.connections.clone(),
        destinations: composed.destinations.clone(),
        ..Watch::default()
    };
    Ok((Arc::new(watch), Some(exporter)))
}

/// Exports until `stop`, and then what still waits.
pub(super) async fn export(exporter: Option<Exporter>, stop: CancellationToken) {
    if let Some(exporter) = exporter {
        exporter.run(stop).await;
    }
}
