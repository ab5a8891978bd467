//! The admin REST API, `/api/v1/…`: what operators ask, in HTTP's words.
//!
//! It has no access control of its own: whoever mounts it keeps strangers away (the control socket by its file mode).
//! Answers are one JSON object named after what they hold; refusals are `{"error": "…"}` with status 400, 404, 409 or
//! 500.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use courier_sdk::ConnectionName;
use serde::Deserialize;
use serde_json::json;

use crate::operate::ask::{Ask, DeadLetterFilter, EventFilter, FlowWord, SetCursor, Skip, Target};
use crate::operate::{self, Answer, Desk, Refusal};
use crate::pipeline::Worker;

/// Answers the worker in force.
pub type Current = Arc<dyn Fn() -> Arc<Worker> + Send + Sync>;

/// Makes the router; each request is answered by the worker in force then.
pub fn router(current: Current) -> Router {
    Router::new()
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/{id}", get(event))
        .route("/api/v1/events/{id}/replay", post(replay))
        .route("/api/v1/dead-letters", get(dead_letters))
        .route("/api/v1/dead-letters/redrive", post(redrive))
        .route("/api/v1/quarantine", get(quarantine))
        .route(
            "/api/v1/quarantine/{connection}/redrive",
            post(redrive_quarantine),
        )
        .route("/api/v1/cursors", get(cursors))
        .route("/api/v1/cursors/{connection}/{feed}", put(set_cursor))
        .route("/api/v1/subscriptions", get(subscriptions))
        .route("/api/v1/subscriptions/{name}/pause", post(pause))
        .route("/api/v1/subscriptions/{name}/resume", post(resume))
        .route("/api/v1/destinations/{name}/test", post(test_destination))
        .route("/api/v1/audit", get(audit))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing at this address") })
        .with_state(current)
}

type Asked<T> = Result<T, Refused>;

/// A request that cannot be read.
struct Refused(String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        error(StatusCode::BAD_REQUEST, &self.0)
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.body_text())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.body_text())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithBody {
    #[serde(default)]
    body: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    #[serde(default = "hundred")]
    limit: usize,
}

fn hundred() -> usize {
    100
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToSubscription {
    #[serde(default)]
    subscription: Option<String>,
}

/// Exactly one of `to` and `back_seconds`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Aim {
    to: Option<String>,
    back_seconds: Option<u64>,
    #[serde(default)]
    skip: bool,
}

type QueryOf<T> = Result<Query<T>, QueryRejection>;
type JsonOf<T> = Result<Json<T>, JsonRejection>;

async fn events(State(current): State<Current>, filter: QueryOf<EventFilter>) -> Asked<Response> {
    Ok(ask(&current, Ask::Events(filter?.0)).await)
}

async fn event(
    State(current): State<Current>,
    Path(id): Path<String>,
    with: QueryOf<WithBody>,
) -> Asked<Response> {
    let body = with?.0.body;
    Ok(ask(&current, Ask::Event { id, body }).await)
}

async fn replay(
    State(current): State<Current>,
    Path(id): Path<String>,
    to: JsonOf<ToSubscription>,
) -> Asked<Response> {
    let subscription = to?.0.subscription;
    Ok(ask(&current, Ask::Replay { id, subscription }).await)
}

async fn dead_letters(State(current): State<Current>, filter: QueryOf<DeadLetterFilter>) -> Asked<Response> {
    Ok(ask(&current, Ask::DeadLetters(filter?.0)).await)
}

async fn redrive(State(current): State<Current>, filter: JsonOf<DeadLetterFilter>) -> Asked<Response> {
    Ok(ask(&current, Ask::Redrive(filter?.0)).await)
}

async fn quarantine(State(current): State<Current>, limited: QueryOf<Limited>) -> Asked<Response> {
    let limit = limited?.0.limit;
    Ok(ask(&current, Ask::Quarantine { limit }).await)
}

async fn redrive_quarantine(State(current): State<Current>, Path(connection): Path<String>) -> Response {
    ask(&current, Ask::RedriveQuarantine { connection }).await
}

async fn cursors(State(current): State<Current>) -> Response {
    ask(&current, Ask::Cursors).await
}

async fn set_cursor(
    State(current): State<Current>,
    Path((connection, feed)): Path<(String, String)>,
    aim: JsonOf<Aim>,
) -> Asked<Response> {
    let aim = aim?.0;
    let target = match (aim.to, aim.back_seconds) {
        (Some(to), None) => Target::To(to),
        (None, Some(seconds)) => Target::Back(Duration::from_secs(seconds)),
        (Some(_), Some(_)) | (None, None) => {
            return Err(Refused("say either `to` or `back_seconds`".to_owned()));
        }
    };
    let skip = if aim.skip { Skip::Meant } else { Skip::Refuse };
    let set = SetCursor {
        connection,
        feed,
        target,
        skip,
    };
    Ok(ask(&current, Ask::SetCursor(set)).await)
}

async fn subscriptions(State(current): State<Current>) -> Response {
    ask(&current, Ask::Subscriptions).await
}

async fn pause(State(current): State<Current>, Path(subscription): Path<String>) -> Response {
    let flow = FlowWord::Paused;
    ask(&current, Ask::SetFlow { subscription, flow }).await
}

async fn resume(State(current): State<Current>, Path(subscription): Path<String>) -> Response {
    let flow = FlowWord::Flowing;
    ask(&current, Ask::SetFlow { subscription, flow }).await
}

async fn test_destination(State(current): State<Current>, Path(destination): Path<String>) -> Response {
    ask(&current, Ask::TestDestination { destination }).await
}

async fn audit(State(current): State<Current>, limited: QueryOf<Limited>) -> Asked<Response> {
    let limit = limited?.0.limit;
    Ok(ask(&current, Ask::Audit { limit }).await)
}

async fn ask(current: &Current, ask: Ask) -> Response {
    let worker = current();
    let answered = operate::answer(&desk(&worker), &ask).await;
    if answered.is_ok() && !ask.only_looks() {
        wake(&worker);
    }
    match answered {
        Ok(answer) => Json::<Answer>(answer).into_response(),
        Err(refusal) => {
            let status = match refusal {
                Refusal::Usage(_) => StatusCode::BAD_REQUEST,
                Refusal::Unknown(_) => StatusCode::NOT_FOUND,
                Refusal::Conflict(_) => StatusCode::CONFLICT,
                Refusal::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            error(status, &refusal.to_string())
        }
    }
}

/// What was put back is looked for at once, not at the next turn of a slow timer.
fn wake(worker: &Worker) {
    worker.bells.deliver.notify_one();
    for connection in worker.connections.keys() {
        worker.bells.fetch.ring(connection);
    }
}

fn desk(worker: &Worker) -> Desk {
    let feeds = |connection: &crate::pipeline::connection::Connection| {
        connection
            .live_feeds()
            .map(|feed| feed.spec.name.clone())
            .collect()
    };
    let mut connections: BTreeMap<ConnectionName, Vec<_>> = BTreeMap::new();
    let (mut connectors, mut overlaps, mut starts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, connection) in &worker.connections {
        for feed in connection.live_feeds() {
            let place = (name.clone(), feed.spec.name.clone());
            starts.insert(place.clone(), feed.spec.start);
            overlaps.insert(place, connection.spec_in_force(feed).overlap);
        }
        connections.insert(name.clone(), feeds(connection));
        connectors.insert(name.clone(), Arc::clone(&connection.connector));
    }
    let destinations = worker
        .destinations
        .iter()
        .map(|(name, outlet)| (name.clone(), Some(Arc::clone(&outlet.destination))))
        .collect();
    Desk {
        store: Arc::clone(&worker.store),
        clock: Arc::clone(&worker.clock),
        connections,
        connectors,
        overlaps,
        starts,
        destinations,
        subscriptions: worker.subscriptions.clone(),
    }
}

fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}
