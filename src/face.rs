//! The HTTP face: one listener, loopback by default. So far it answers for the process only: metrics and health.
//!
//! It outlives reloads: what it answers from is replaced beneath it.

pub mod access;
pub mod admin;
mod connections;
pub mod control;
pub mod health;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pipeline::Worker;
use access::Access;

/// The recorder's histograms are drained this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// A source that keeps the key set for longer than this does not see a new key in time.
const KEYS_CACHED: &str = "public, max-age=300";

/// How long requests in progress are waited for once the face is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the face answers from.
#[derive(Clone)]
pub struct Face {
    /// The worker in force.
    pub worker: watch::Receiver<Arc<Worker>>,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// Who may ask.
    pub access: watch::Receiver<Arc<Access>>,
    /// The public keys of our assertions in JSON (RFC 7517); absent where no connection signs.
    pub key_set: watch::Receiver<Option<Arc<str>>>,
    /// How the last reload fares.
    pub reload: watch::Receiver<Reload>,
    /// Cancelled when the service drains: readiness goes first.
    pub draining: CancellationToken,
}

/// How the last reload of the configuration fares, as `/readyz` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Reload {
    /// There was none.
    None,
    /// The worker in force drains, or the next has no lease yet. The service stays ready: it is back in a moment.
    Running,
    /// The configuration was read, and this worker runs on it.
    Applied {
        /// When, RFC 3339.
        at: String,
    },
    /// It was refused whole: the configuration before stays in force. The log says why.
    Refused {
        /// When, RFC 3339.
        at: String,
        /// How many problems it has.
        problems: usize,
    },
}

impl Face {
    /// The worker in force now.
    #[must_use]
    pub fn worker(&self) -> Arc<Worker> {
        Arc::clone(&self.worker.borrow())
    }
}

/// Answers requests until `stop`; those in progress by then have two seconds to end.
pub async fn serve(listener: TcpListener, face: Face, stop: CancellationToken) {
    let metrics = face.metrics.clone();
    let router = Router::new()
        .route("/metrics", get(render))
        .layer(middleware::from_fn_with_state(
            face.access.clone(),
            access::required,
        ))
        // Below this line is open to whoever reaches the listener: those who supervise the process hold no token.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        // Sources read it to check our assertions and have no token of ours; public keys are no secret.
        .route("/.well-known/jwks.json", get(key_set))
        .with_state(face);
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    let mut serving = std::pin::pin!(connections::serve(listener, router, &stop));
    tokio::select! {
        biased;
        () = &mut serving => return,
        () = stop.cancelled() => {}
        () = upkeep => {}
    }
    // A client that never finishes its request does not keep the service alive.
    if tokio::time::timeout(STOP_GRACE, serving).await.is_err() {
        tracing::debug!("requests in progress were cut");
    }
}

async fn ready(State(face): State<Face>) -> Response {
    let (worker, reload) = (face.worker(), face.reload.borrow().clone());
    let mut report = health::report(&worker, face.draining.is_cancelled(), reload);
    health::add_paused(&mut report, &worker).await;
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn key_set(State(face): State<Face>) -> Response {
    let Some(set) = face.key_set.borrow().clone() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, KEYS_CACHED)];
    (headers, set.to_string()).into_response()
}

async fn render(State(face): State<Face>) -> String {
    health::measure(&face.worker());
    face.metrics.render()
}
