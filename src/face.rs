//! The HTTP face: one listener, loopback by default. So far it answers for the process only: metrics and health.

pub mod admin;
pub mod control;
pub mod health;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pipeline::Worker;

/// The recorder's histograms are drained this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long requests in progress are waited for once the face is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the face answers from.
#[derive(Clone)]
pub struct Face {
    /// The worker.
    pub worker: Arc<Worker>,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// Cancelled when the service drains: readiness goes first.
    pub draining: CancellationToken,
}

/// Answers requests until `stop`; those in progress by then have two seconds to end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, face: Face, stop: CancellationToken) -> std::io::Result<()> {
    let metrics = face.metrics.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(face);
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving.into_future());
    tokio::select! {
        biased;
        ended = &mut serving => return ended,
        () = stop.cancelled() => {}
        () = upkeep => {}
    }
    // A client that never finishes its request does not keep the service alive.
    tokio::time::timeout(STOP_GRACE, serving).await.unwrap_or(Ok(()))
}

async fn ready(State(face): State<Face>) -> Response {
    let mut report = health::report(&face.worker, face.draining.is_cancelled());
    health::add_paused(&mut report, &face.worker).await;
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn render(State(face): State<Face>) -> String {
    health::measure(&face.worker);
    face.metrics.render()
}
