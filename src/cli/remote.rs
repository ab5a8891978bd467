//! The way in through a running service: what is asked, as a request to its control socket.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{AtLimit, Http as _, HttpError, HttpRequest};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::CliError;
use crate::egress::socket::SocketClient;
use crate::operate::Answer;
use crate::operate::ask::{Ask, FlowWord, SetCursor, Skip, Target};

/// A service under load answers within seconds; one that does not is stopped or hangs.
const DEADLINE: Duration = Duration::from_mins(1);

/// A million listed events.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// The host in addresses of requests to the socket; it names nobody.
const HOST: &str = "http://courier/api/v1/";

/// Asks the service that listens on a socket; answers `None` where nobody does.
pub(super) async fn ask(socket: &Path, ask: &Ask) -> Result<Option<Answer>, CliError> {
    if !socket.exists() {
        return Ok(None);
    }
    let failed = |what: String| CliError::Failed(format!("the running service cannot be asked: {what}"));
    let client = SocketClient::new(socket).map_err(|error| failed(error.to_string()))?;
    let request = request(ask).map_err(|error| failed(error.to_string()))?;
    let answer = match client.send(request).await {
        Ok(answer) => answer,
        // The file outlived its service: the store can be opened.
        Err(HttpError::Connect { .. }) => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    if answer.status == StatusCode::OK {
        let answer = serde_json::from_slice(&answer.body)
            .map_err(|_| failed("it is of another version: use the ehr-courier that it runs".to_owned()))?;
        return Ok(Some(answer));
    }
    let refused: Refused = serde_json::from_slice(&answer.body)
        .map_err(|_| failed(format!("it answered with status {}", answer.status.as_u16())))?;
    match answer.status {
        StatusCode::BAD_REQUEST => Err(CliError::Usage(refused.error)),
        _ => Err(CliError::Failed(refused.error)),
    }
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// What is sent along.
enum Sent {
    Nothing,
    Query(Value),
    Body(Value),
}

fn request(ask: &Ask) -> Result<HttpRequest, url::ParseError> {
    let (method, segments, sent) = call(ask);
    let mut url = Url::parse(HOST)?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    let mut headers = HeaderMap::new();
    let body = match sent {
        Sent::Nothing => Bytes::new(),
        Sent::Query(query) => {
            for (name, value) in query.as_object().into_iter().flatten() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                url.query_pairs_mut().append_pair(name, &text);
            }
            Bytes::new()
        }
        Sent::Body(body) => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(body.to_string())
        }
    };
    Ok(HttpRequest {
        method,
        url,
        headers,
        body,
        deadline: DEADLINE,
        response_bytes_max: ANSWER_BYTES_MAX,
        at_limit: AtLimit::Fail,
    })
}

/// Method, path below `/api/v1/` and what goes along: the other half of `face::admin`.
fn call(ask: &Ask) -> (Method, Vec<&str>, Sent) {
    match ask {
        Ask::Events(filter) => (Method::GET, vec!["events"], query(filter)),
        Ask::Event { id, body } => (
            Method::GET,
            vec!["events", id],
            Sent::Query(json!({ "body": body })),
        ),
        Ask::Replay { id, subscription } => (
            Method::POST,
            vec!["events", id, "replay"],
            Sent::Body(json!({ "subscription": subscription })),
        ),
        Ask::DeadLetters(filter) => (Method::GET, vec!["dead-letters"], query(filter)),
        Ask::Redrive(filter) => (
            Method::POST,
            vec!["dead-letters", "redrive"],
            Sent::Body(json!(filter)),
        ),
        Ask::Quarantine { limit } => (
            Method::GET,
            vec!["quarantine"],
            Sent::Query(json!({ "limit": limit })),
        ),
        Ask::RedriveQuarantine { connection } => (
            Method::POST,
            vec!["quarantine", connection, "redrive"],
            Sent::Nothing,
        ),
        Ask::Cursors => (Method::GET, vec!["cursors"], Sent::Nothing),
        Ask::SetCursor(set) => (
            Method::PUT,
            vec!["cursors", &set.connection, &set.feed],
            Sent::Body(aim(set)),
        ),
        Ask::Subscriptions => (Method::GET, vec!["subscriptions"], Sent::Nothing),
        Ask::SetFlow { subscription, flow } => {
            let verb = match flow {
                FlowWord::Paused => "pause",
                FlowWord::Flowing => "resume",
            };
            (
                Method::POST,
                vec!["subscriptions", subscription, verb],
                Sent::Nothing,
            )
        }
        Ask::TestDestination { destination } => (
            Method::POST,
            vec!["destinations", destination, "test"],
            Sent::Nothing,
        ),
        Ask::Audit { limit } => (Method::GET, vec!["audit"], Sent::Query(json!({ "limit": limit }))),
    }
}

fn query(filter: &impl Serialize) -> Sent {
    Sent::Query(json!(filter))
}

fn aim(set: &SetCursor) -> Value {
    let skip = set.skip == Skip::Meant;
    match &set.target {
        Target::To(to) => json!({ "to": to, "skip": skip }),
        Target::Back(by) => json!({ "back_seconds": by.as_secs(), "skip": skip }),
    }
}
