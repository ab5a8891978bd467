//! The receiver of both runs: reads each request whole, verifies nothing, answers 204.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::any;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::Failed;
use crate::backlog::RECORD_PREFIX;

/// The record's id stands so near to a notification's beginning.
const HEAD_BYTES: usize = 512;

/// A receiver on a loopback port of its own; it ends when it is dropped.
pub(crate) struct Sink {
    /// Where it listens.
    pub(crate) url: Url,
    /// Cancelled when it has received as many requests as it expects.
    pub(crate) full: CancellationToken,
    /// How many it expects.
    pub(crate) expected: usize,
    seen: Arc<Mutex<Seen>>,
    _serving: JoinSet<std::io::Result<()>>,
}

/// What a sink received.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The headers that the sender chose, of the first request.
    pub(crate) headers: HeaderMap,
    /// The size of each body, in the order of arrival.
    pub(crate) body_bytes: Vec<usize>,
    /// The change that each body tells of, by its record's id, and when it came.
    pub(crate) arrivals: Vec<(u64, Instant)>,
}

#[derive(Clone)]
struct Expected {
    seen: Arc<Mutex<Seen>>,
    requests: usize,
    full: CancellationToken,
}

impl Sink {
    /// Begins to receive.
    pub(crate) async fn open(requests: usize) -> Result<Self, Failed> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = Url::parse(&format!("http://{}/hook", listener.local_addr()?))?;
        let (seen, full) = (Arc::default(), CancellationToken::new());
        let expected = Expected {
            seen: Arc::clone(&seen),
            requests,
            full: full.clone(),
        };
        let router = Router::new().fallback(any(receive)).with_state(expected);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            url,
            full,
            expected: requests,
            seen,
            _serving: serving,
        })
    }

    /// What it has received so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The number in the first id of a synthetic record that a body names.
fn change(body: &[u8]) -> Option<u64> {
    let head = body.get(..body.len().min(HEAD_BYTES))?;
    let prefix = RECORD_PREFIX.as_bytes();
    let at = head.windows(prefix.len()).position(|window| window == prefix)?;
    let digits = head.get(at + prefix.len()..)?.iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

async fn receive(State(expected): State<Expected>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let (now, change) = (Instant::now(), change(&body));
    let mut seen = expected.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.body_bytes.is_empty() {
        seen.headers = headers
            .into_iter()
            .filter_map(|(name, value)| name.map(|name| (name, value)))
            .filter(|(name, _)| {
                name == CONTENT_TYPE || name == ACCEPT_ENCODING || name.as_str().starts_with("webhook-")
            })
            .collect();
    }
    seen.body_bytes.push(body.len());
    seen.arrivals.extend(change.map(|change| (change, now)));
    if seen.body_bytes.len() == expected.requests {
        expected.full.cancel();
    }
    StatusCode::NO_CONTENT
}
