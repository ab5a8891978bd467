//! What can go wrong between a connector and its source. A variant is what the caller does next.

use std::time::Duration;

use thiserror::Error;

/// A failed poll or fetch. No message holds a record's content, a query string, a token or a secret.
#[derive(Debug, Error)]
pub enum ConnectorError {
    /// A passing fault (connection, time-out, 5xx, an answer cut short): try again with back-off.
    #[error("{operation} failed for now: {reason}")]
    Transient {
        /// What was being done, for example `search Appointment`.
        operation: String,
        /// What happened; no PHI.
        reason: String,
    },
    /// The source asks us to slow down (429, 503): the whole connection waits.
    #[error("{operation} was throttled by the source")]
    Throttled {
        /// What was being done.
        operation: String,
        /// What `Retry-After` said, if it said anything usable.
        retry_after: Option<Duration>,
    },
    /// Our own budget for the source gives no leave for so long; the request was not sent. No failure of anybody's.
    #[error("{operation} was held back by the budget of the source")]
    Held {
        /// What was being done.
        operation: String,
        /// When it is worth asking again.
        wait: Duration,
    },
    /// The credentials are not accepted (401), or there are none to show: the connection is set aside and shown.
    #[error("{operation} was not authorised: {reason}")]
    Unauthorized {
        /// What was being done.
        operation: String,
        /// Who refused, with which status; no secret.
        reason: String,
    },
    /// The link to the next page is no longer good: forget it and poll again from the cursor.
    #[error("{operation}: the page link has expired (status {status})")]
    PageExpired {
        /// What was being done.
        operation: String,
        /// The HTTP status.
        status: u16,
    },
    /// The source answered something that cannot be read (malformed, too deep, too large): this poll
    /// fails and the cursor stays; retried at the normal interval.
    #[error("{operation}: unreadable answer: {reason}")]
    Unreadable {
        /// What was being done.
        operation: String,
        /// Which rule the answer breaks; no PHI.
        reason: String,
    },
    /// The source refuses the request as such (400, 403, 404, 501 …): the feed is set aside with the reason.
    #[error("{operation} was refused (status {status}): {reason}")]
    Refused {
        /// What was being done.
        operation: String,
        /// The HTTP status.
        status: u16,
        /// In words; no PHI.
        reason: String,
    },
    /// The address guard or the configuration forbids the request: nothing was sent.
    #[error("{operation} was not sent: {reason}")]
    Forbidden {
        /// What was being done.
        operation: String,
        /// Which rule forbids it.
        reason: String,
    },
}

impl ConnectorError {
    /// How long the source itself asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => *retry_after,
            Self::Transient { .. }
            | Self::Held { .. }
            | Self::Unauthorized { .. }
            | Self::PageExpired { .. }
            | Self::Unreadable { .. }
            | Self::Refused { .. }
            | Self::Forbidden { .. } => None,
        }
    }

    /// A short constant word for metrics and logs.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Throttled { .. } => "throttled",
            Self::Held { .. } => "held",
            Self::Unauthorized { .. } => "unauthorized",
            Self::PageExpired { .. } => "page_expired",
            Self::Unreadable { .. } => "unreadable",
            Self::Refused { .. } => "refused",
            Self::Forbidden { .. } => "forbidden",
        }
    }
}
