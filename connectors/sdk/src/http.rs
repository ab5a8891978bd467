//! The seam through which connectors and webhooks send HTTP requests.
//!
//! In production it is one guarded client per egress policy; the simulation answers it in process.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use thiserror::Error;
use url::Url;

/// One request with the limits that its answer must keep.
#[derive(Clone)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The absolute address.
    pub url: Url,
    /// The headers; values may be secrets.
    pub headers: HeaderMap,
    /// The body, empty for none.
    pub body: Bytes,
    /// The total deadline, from the first byte sent to the last byte received.
    pub deadline: Duration,
    /// The most body bytes to accept, counted after decompression.
    pub response_bytes_max: usize,
    /// What happens at that limit.
    pub at_limit: AtLimit,
}

/// What happens when an answer's body exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    /// The request fails with [`HttpError::TooLarge`].
    Fail,
    /// The body is cut there and the rest is not read; one that breaks off or stalls is cut where it did, because
    /// only the status counts.
    Cut,
}

impl fmt::Debug for HttpRequest {
    /// Shows the method and the host only: paths and queries can be PHI, headers can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HttpRequest({} {})",
            self.method,
            self.url.host_str().unwrap_or("-")
        )
    }
}

/// A complete answer.
#[derive(Clone)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
}

impl fmt::Debug for HttpResponse {
    /// Shows the status and the size only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HttpResponse({}, {} bytes)",
            self.status.as_u16(),
            self.body.len()
        )
    }
}

/// A request that has no complete answer. Messages name no path, query or header.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address guard refused the address; nothing was sent.
    #[error("address refused: {reason}")]
    Blocked {
        /// Which rule refused it.
        reason: String,
    },
    /// Our own budget for the other side gives no leave for so long; nothing was sent.
    #[error("held back for {} ms", wait.as_millis())]
    Held {
        /// When it is worth asking again.
        wait: Duration,
    },
    /// No connection could be made (DNS, TCP, TLS); nothing was sent.
    #[error("cannot connect: {reason}")]
    Connect {
        /// In words.
        reason: String,
    },
    /// The deadline passed; the request may have been processed.
    #[error("no complete answer within {} ms", deadline.as_millis())]
    Timeout {
        /// The deadline that passed.
        deadline: Duration,
    },
    /// The answer exceeds its limit.
    #[error("the answer exceeds {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer broke off or could not be decoded; the request may have been processed.
    #[error("the answer broke off: {reason}")]
    Broken {
        /// In words.
        reason: String,
    },
}

/// Sends requests. Never follows a redirect; never uses a proxy that it was not told of.
#[async_trait]
pub trait Http: Send + Sync {
    /// Sends one request and reads its answer whole.
    ///
    /// # Errors
    /// [`HttpError`] when there is no complete answer within the request's limits. Any status is an answer.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request; the other side may have processed it.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;
}
