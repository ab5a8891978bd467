//! A sandbox behind a server of its own that writes down when which request arrived.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ehr_courier::sandbox::{Ehr, Request};
use http::Method;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
}

/// How long the network takes before and after the nth request, in milliseconds.
pub(crate) type Delays = fn(u64) -> (u64, u64);

#[derive(Clone)]
pub(crate) struct Front {
    ehr: Arc<Ehr>,
    delays: Delays,
    begun: Arc<Mutex<u64>>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Front {
    pub(crate) fn new(ehr: &Arc<Ehr>, delays: Delays) -> Self {
        Self {
            ehr: Arc::clone(ehr),
            delays,
            begun: Arc::default(),
            arrivals: Arc::default(),
        }
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }

    /// Serves until `stop`.
    pub(crate) fn serve(&self, listener: TcpListener, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let router = Router::new().fallback(answer).with_state(self.clone());
        let stopped = stop.clone().cancelled_owned();
        let cut = stop.clone();
        tasks.spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
            let grace = async {
                cut.cancelled().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            };
            tokio::select! {
                biased;
                served = async { serving.await } => served.unwrap(),
                () = grace => {}
            }
        });
    }
}

async fn answer(State(front): State<Front>, request: axum::extract::Request) -> Response {
    let nth = {
        let mut begun = front.begun.lock().unwrap();
        *begun += 1;
        *begun
    };
    let (before, after) = (front.delays)(nth);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    tokio::time::sleep(Duration::from_millis(before)).await;
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    front.arrivals.lock().unwrap().push(Arrival {
        at: Instant::now(),
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
    });
    let answer = front.ehr.answer(&request);
    tokio::time::sleep(Duration::from_millis(after)).await;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
