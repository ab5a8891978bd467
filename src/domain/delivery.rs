//! Deliveries: notifications owed, the attempts made at them, and where they end.

use courier_sdk::ConnectionName;
use jiff::Timestamp;

use super::event::Event;
use super::fan_out::{ContentLevel, Format};
use super::name::{DestinationName, SubscriptionName};

/// The renderer that writes today's notifications. A delivery row names the one it was frozen with; a binary
/// that lacks a pending row's renderer refuses to start. 2 writes what 1 wrote, and `cloudevents-binary`; 3
/// what 2 wrote, and what a change means.
pub const RENDERER: u32 = 3;

/// The oldest renderer whose bytes are still written as they were.
pub const RENDERER_FIRST: u32 = 1;

/// Identifies one delivery row in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// Everything that a notification's bytes depend on besides its event, frozen in fan-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The row.
    pub id: DeliveryId,
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Its dense number within (subscription, connection), from 1.
    pub number: u64,
    /// Where it goes.
    pub destination: DestinationName,
    /// How much of the record it carries.
    pub content: ContentLevel,
    /// How it is written.
    pub format: Format,
    /// Which renderer writes it.
    pub renderer: u32,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts made since the schedule began.
    pub attempts: u32,
    /// When the retry schedule began: when the row was written, or when it was redriven or replayed; later by as long as
    /// its subscription was paused since.
    pub scheduled_from: Timestamp,
    /// When the next attempt is due.
    pub due_at: Timestamp,
    /// Whether it is sent again at an operator's wish.
    pub replay: Replay,
    /// What the last attempt said, for people; no PHI.
    pub last_outcome: Option<String>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// It is owed.
    Pending,
    /// The destination accepted it.
    Done,
    /// The schedule ran out: a dead letter, redrivable.
    Dead,
    /// Its subscription was removed before it was delivered.
    Cancelled,
}

impl DeliveryState {
    /// The word used in tables and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads that word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Done, Self::Dead, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// Whether a delivery is sent again at an operator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replay {
    /// It follows from the event alone.
    Original,
    /// It was replayed or redriven; a header says so.
    Replayed,
}

/// A delivery claimed for one attempt, with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDelivery {
    /// The delivery.
    pub delivery: Delivery,
    /// The event that it tells of.
    pub event: Event,
    /// The fence under which it was claimed.
    pub fence: Fence,
}

/// The number of a lease's turn; raised at every grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// What one attempt leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The delivery.
    pub id: DeliveryId,
    /// Its connection.
    pub connection: ConnectionName,
    /// The fence of the claim.
    pub fence: Fence,
    /// What follows.
    pub outcome: AttemptOutcome,
    /// When the attempt ended.
    pub at: Timestamp,
}

/// What follows from one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The destination accepted it.
    Delivered {
        /// What the destination said, in a few words.
        detail: String,
    },
    /// It is tried again.
    RetryAt {
        /// When.
        due_at: Timestamp,
        /// Why the attempt failed; no PHI.
        detail: String,
    },
    /// The schedule ran out.
    Dead {
        /// Why the last attempt failed; no PHI.
        detail: String,
    },
    /// The attempt was not made (shutdown): the claim ends, nothing is counted.
    Released,
}
