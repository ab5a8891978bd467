//! A webhook receiver: verifies signatures and hands each notification on. Used by `listen` and `demo`.
//!
//! Guarantees: a 2xx is said only after the notification was taken by the sink; a full sink is a 503, so that
//! the sender tries again. Bodies are verified as they came, byte for byte, and never logged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::routing::any;
use bytes::Bytes;
use courier_sdk::Clock;
use jiff::Timestamp;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::destination::signature::{self, Rejection, SigningKey, Verified};
use crate::destination::webhook::{HEADER_ATTRIBUTE_PREFIX, HEADER_REPLAY};
use crate::domain::identity::EventId;

/// The largest notification accepted: a record at the default `record_limit` (32 MiB) with as much again for
/// its envelope and included records.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a request's body may take to arrive: longer than any sender's deadline.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// How long requests in progress are waited for once the receiver is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A notification that the receiver accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// The event's id: what a receiver deduplicates by.
    pub event_id: EventId,
    /// When the attempt was made, by the sender's clock.
    pub timestamp: Timestamp,
    /// Whether its signature was verified; false only for a receiver without keys.
    pub verified: bool,
    /// Whether it was sent again at an operator's wish.
    pub replay: bool,
    /// The event's attributes by their names where they stand in headers (CloudEvents' binary mode), percent-encoded as they
    /// came; else empty. They can be PHI.
    pub attributes: BTreeMap<String, String>,
    /// The body as it came. It can be PHI.
    pub body: Bytes,
    /// When it was received.
    pub received_at: Timestamp,
}

impl fmt::Debug for Received {
    /// Shows the id and the size only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Received({}, {} bytes)", self.event_id, self.body.len())
    }
}

/// The receiver ended although nobody told it to.
#[derive(Debug, Error)]
#[error("the receiver cannot accept connections")]
pub struct ReceiverFailed(#[source] std::io::Error);

#[derive(Debug)]
struct Receiver {
    keys: Vec<SigningKey>,
    clock: Arc<dyn Clock>,
    sink: mpsc::Sender<Received>,
}

/// Receives notifications at any path of the listener until told to stop. Without keys signatures are not
/// checked, and [`Received::verified`] is false.
///
/// # Errors
/// [`ReceiverFailed`] when the listener breaks.
///
/// # Cancel safety
/// Dropping the future ends the listener; requests in progress may still be answered and handed on.
pub async fn serve(
    listener: TcpListener,
    keys: Vec<SigningKey>,
    clock: Arc<dyn Clock>,
    sink: mpsc::Sender<Received>,
    stop: CancellationToken,
) -> Result<(), ReceiverFailed> {
    let receiver = Arc::new(Receiver { keys, clock, sink });
    let router = Router::new().fallback(any(receive)).with_state(receiver);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving.into_future());
    tokio::select! {
        biased;
        ended = &mut serving => return ended.map_err(ReceiverFailed),
        () = stop.cancelled() => {}
    }
    // A client that never finishes its request does not keep the receiver alive.
    match tokio::time::timeout(STOP_GRACE, serving).await {
        Ok(ended) => ended.map_err(ReceiverFailed),
        Err(_elapsed) => Ok(()),
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request<Body>) -> (StatusCode, String) {
    match receiver.take(request).await {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err(refused) => {
            tracing::warn!(reason = %refused, "notification refused");
            (refused.status(), refused.to_string())
        }
    }
}

/// Why a request was not accepted, as told to its sender.
#[derive(Debug, Error)]
enum Refused {
    #[error("notifications are posted")]
    Method,
    #[error("the body is larger than {BODY_BYTES_MAX} bytes or broke off")]
    Body,
    #[error("the body did not arrive in time")]
    Slow,
    #[error(transparent)]
    Signature(#[from] Rejection),
    #[error("webhook-id is not an event id")]
    EventId,
    #[error("busy, try again")]
    Busy,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Signature(Rejection::Header { .. }) | Self::EventId => StatusCode::BAD_REQUEST,
            Self::Signature(Rejection::Stale | Rejection::Mismatch) => StatusCode::UNAUTHORIZED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Receiver {
    async fn take(&self, request: Request<Body>) -> Result<(), Refused> {
        if request.method() != axum::http::Method::POST {
            return Err(Refused::Method);
        }
        let (head, body) = request.into_parts();
        // Refused before the body is read: a stranger's 64 MiB are not worth holding.
        signature::read_claim(&head.headers)?;
        let body = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, BODY_BYTES_MAX))
            .await
            .map_err(|_elapsed| Refused::Slow)?
            .map_err(|_too_large| Refused::Body)?;
        let received_at = self.clock.now();
        let claim = self.judge(&head.headers, &body, received_at)?;
        let received = Received {
            event_id: EventId::parse(&claim.id).ok_or(Refused::EventId)?,
            timestamp: claim.timestamp,
            verified: !self.keys.is_empty(),
            replay: head.headers.contains_key(HEADER_REPLAY),
            attributes: attributes(&head.headers),
            body,
            received_at,
        };
        self.sink
            .try_send(received)
            .map_err(|_full_or_closed| Refused::Busy)
    }

    fn judge(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Verified, Rejection> {
        if self.keys.is_empty() {
            signature::read_claim(headers)
        } else {
            signature::verify(&self.keys, headers, body, now)
        }
    }
}

fn attributes(headers: &HeaderMap) -> BTreeMap<String, String> {
    let attribute = |(name, value): (&HeaderName, &HeaderValue)| {
        let name = name.as_str().strip_prefix(HEADER_ATTRIBUTE_PREFIX)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().filter_map(attribute).collect()
}
