//! The HTTP face of the sandbox: FHIR for clients, and a few unfaulted paths for whoever runs it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Answer, Ehr, Request, WriteError, Written};

/// The most steps of one request, and the fastest pace per second.
const STEPS_MAX: u32 = 10_000;

/// The largest body of a direct write: beyond the largest record that the courier accepts (32 MiB).
const WRITE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often due changes are made, and the granularity of the pace.
const TICK: Duration = Duration::from_millis(20);

/// How long a cut transfer rests before it breaks.
const CUT_PAUSE: Duration = Duration::from_millis(5);

/// How long open connections may take to end after `stop`.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How many changes the clinic makes per second; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    per_second: f64,
}

impl Pace {
    /// Makes a pace; anything outside 0 to 10,000 changes per second is brought into that range.
    #[must_use]
    pub fn per_second(changes: f64) -> Self {
        let changes = if changes.is_finite() { changes } else { 0.0 };
        Self {
            per_second: changes.clamp(0.0, f64::from(STEPS_MAX)),
        }
    }
}

/// Serves a sandbox until `stop` is cancelled, while the clinic goes on at its pace.
///
/// # Errors
/// The listener's error, when it can no longer accept.
///
/// # Cancel safety
/// Dropping the future stops accepting; connections that are open end by themselves.
pub async fn serve(
    listener: TcpListener,
    ehr: Arc<Ehr>,
    pace: Pace,
    stop: CancellationToken,
) -> io::Result<()> {
    let (set_pace, get_pace) = watch::channel(pace);
    let face = Face {
        ehr: Arc::clone(&ehr),
        pace: Arc::new(set_pace),
    };
    let router = router(face);
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let ended = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        biased;
        result = server => result,
        () = ended => Ok(()),
        () = live(&ehr, get_pace) => Ok(()),
    }
}

#[derive(Clone)]
struct Face {
    ehr: Arc<Ehr>,
    pace: Arc<watch::Sender<Pace>>,
}

fn router(face: Face) -> Router {
    Router::new()
        .route("/ledger", get(ledger).delete(clear_ledger))
        .route("/kept", get(kept))
        .route("/dialect", get(dialect).put(set_dialect))
        .route("/faults", get(faults).put(set_faults))
        .route("/strikes", get(strikes))
        .route("/step", post(step))
        .route("/pace", get(pace).put(set_pace))
        .route("/write/{record_type}/{id}", post(write).delete(delete))
        .fallback(fhir)
        .layer(DefaultBodyLimit::max(WRITE_BYTES_MAX))
        .with_state(face)
}

/// Lets the clinic go on at the pace in force; never ends.
async fn live(ehr: &Ehr, pace: watch::Receiver<Pace>) {
    let mut owed = 0.0_f64;
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let per_second = pace.borrow().per_second;
        // After a pause of the whole process the clinic does not catch up for more than a second.
        owed = (owed + last.elapsed().as_secs_f64() * per_second).min(per_second.max(1.0));
        last = Instant::now();
        while owed >= 1.0 {
            owed -= 1.0;
            ehr.step();
        }
    }
}

async fn fhir(State(face): State<Face>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, WRITE_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let request = Request {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    if let Some(set) = face.ehr.key_set_for(&request)
        && let Some(keys) = set.read().await
    {
        face.ehr.world().grants.learn(&keys);
    }
    let answer = face.ehr.answer(&request);
    if let Some(delay) = answer.delay {
        tokio::time::sleep(delay).await;
    }
    response(answer, &parts.method)
}

fn response(answer: Answer, method: &Method) -> Response {
    let length = answer.body.len();
    let body = match answer.cut_at.filter(|_| *method != Method::HEAD) {
        None => Body::from(answer.body),
        Some(cut_at) => {
            let first = answer.body.slice(..cut_at.min(length));
            let broken = async {
                // Time for the first part to be written out, so that the client sees it begin and break.
                tokio::time::sleep(CUT_PAUSE).await;
                Err(io::Error::other("cut by a fault switch"))
            };
            Body::from_stream(stream::iter([Ok(first)]).chain(stream::once(broken)))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if answer.cut_at.is_some() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

async fn ledger(State(face): State<Face>) -> Response {
    Json(face.ehr.ledger()).into_response()
}

async fn clear_ledger(State(face): State<Face>) -> StatusCode {
    face.ehr.clear_ledger();
    StatusCode::NO_CONTENT
}

async fn kept(State(face): State<Face>) -> Response {
    Json(face.ehr.kept()).into_response()
}

async fn dialect(State(face): State<Face>) -> Response {
    Json(face.ehr.dialect()).into_response()
}

async fn set_dialect(State(face): State<Face>, Json(patch): Json<Value>) -> Response {
    match face.ehr.dialect().merged(&patch) {
        Ok(merged) => {
            face.ehr.set_dialect(merged);
            Json(merged).into_response()
        }
        Err(error) => refused(&error.to_string()),
    }
}

async fn faults(State(face): State<Face>) -> Response {
    Json(face.ehr.faults()).into_response()
}

async fn set_faults(State(face): State<Face>, Json(patch): Json<Value>) -> Response {
    match face.ehr.faults().merged(&patch) {
        Ok(merged) => {
            face.ehr.set_faults(merged);
            Json(merged).into_response()
        }
        Err(error) => refused(&error.to_string()),
    }
}

async fn strikes(State(face): State<Face>) -> Response {
    Json(face.ehr.strikes()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    n: Option<u32>,
}

async fn step(State(face): State<Face>, Query(steps): Query<Steps>) -> Response {
    let steps = steps.n.unwrap_or(1);
    if steps > STEPS_MAX {
        return refused(&format!("n must be at most {STEPS_MAX}"));
    }
    let written: Vec<Written> = (0..steps).flat_map(|_| face.ehr.step()).collect();
    Json(written).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPace {
    per_second: f64,
}

async fn pace(State(face): State<Face>) -> Response {
    let pace = *face.pace.borrow();
    Json(pace).into_response()
}

async fn set_pace(State(face): State<Face>, Json(wanted): Json<NewPace>) -> Response {
    let pace = Pace::per_second(wanted.per_second);
    face.pace.send_replace(pace);
    Json(pace).into_response()
}

async fn write(
    State(face): State<Face>,
    Path((record_type, id)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let Ok(text) = std::str::from_utf8(&body) else {
        return refused("the body is not UTF-8");
    };
    written(face.ehr.write(&record_type, &id, text))
}

async fn delete(State(face): State<Face>, Path((record_type, id)): Path<(String, String)>) -> Response {
    written(face.ehr.delete(&record_type, &id))
}

fn written(result: Result<Written, WriteError>) -> Response {
    match result {
        Ok(written) => Json(written).into_response(),
        Err(WriteError::Missing) => (
            StatusCode::NOT_FOUND,
            Json(json!({"error": WriteError::Missing.to_string()})),
        )
            .into_response(),
        Err(error @ (WriteError::Key | WriteError::Body(_))) => refused(&error.to_string()),
    }
}

fn refused(reason: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({"error": reason}))).into_response()
}
