//! Destinations: where notifications go. Each does one bounded attempt and says what came of it.
//!
//! A destination never retries, never sleeps and remembers nothing: the retry is a row in the store.

pub mod amqp;
pub mod signature;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::{ConnectionName, RecordKey};
use jiff::Timestamp;

use crate::domain::delivery::Replay;
use crate::domain::event::EventKind;
use crate::domain::identity::EventId;
use crate::domain::trace::TraceContext;
use crate::wire::Rendered;

/// An event rendered for one subscription, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The event's id: the message id, the same at every attempt.
    pub event_id: EventId,
    /// The connection.
    pub connection: ConnectionName,
    /// Which record.
    pub key: RecordKey,
    /// What happened.
    pub kind: EventKind,
    /// The frozen body.
    pub rendered: Rendered,
    /// Whether it is sent again at an operator's wish.
    pub replay: Replay,
    /// The attempt's span, where it is traced: a header tells the receiver.
    pub trace: Option<TraceContext>,
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The destination accepted the notification.
    Accepted {
        /// What it said, in a few words, for example `204`.
        detail: String,
    },
    /// It did not, or may not have.
    Failed {
        /// Why, for people; no PHI, no secret, no path or query.
        detail: String,
        /// How long the destination asked us to wait.
        retry_after: Option<Duration>,
    },
}

/// Sends one notification.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Makes one attempt, within the destination's own total deadline.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt; the other side may have accepted the notification.
    async fn deliver(&self, notification: &Notification, now: Timestamp) -> Attempt;

    /// Ends what the destination keeps open, within its own deadline. Called once, after the last attempt; those that
    /// are still under way fail.
    ///
    /// # Cancel safety
    /// Dropping the future cuts what is still open.
    async fn close(&self) {}

    /// Finds out whether the other side is there, within the same deadline, without sending a notification.
    ///
    /// # Cancel safety
    /// Safe.
    async fn probe(&self) -> Attempt {
        Attempt::Accepted {
            detail: "not asked: only a sample can tell (`destinations test`)".to_owned(),
        }
    }
}
