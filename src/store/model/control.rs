//! What operators change: pauses, recoveries, and the trail that is left of it.

use courier_sdk::{ConnectionName, Cursor, FeedName};
use jiff::Timestamp;

use crate::domain::name::SubscriptionName;

/// Audit rows kept; the oldest go first. Operators act by hand: this is years of it.
pub const AUDIT_ROWS_MAX: u64 = 10_000;

/// Names one life of the state. A new store and a recovered one have a new epoch, so that nothing that others remember
/// of an earlier life (a shared deduplication) is taken for this one's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(String);

impl Epoch {
    /// Makes an epoch of 128 random bits: 32 hexadecimal digits.
    #[must_use]
    pub fn drawn(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    /// Takes back what a store kept.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text, for keys and tables.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a subscription's deliveries are attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They are.
    Flowing,
    /// They wait: numbered on, and sent when the subscription is resumed.
    Paused,
}

/// An operator's pause or resumption of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFlow {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// What it shall do.
    pub flow: Flow,
    /// Now.
    pub at: Timestamp,
}

/// A subscription that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseRow {
    /// The subscription; it need not be in force any more.
    pub subscription: SubscriptionName,
    /// Since when.
    pub since: Timestamp,
}

/// What makes a restored backup a store to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The new epoch.
    pub epoch: Epoch,
    /// Cursors to move back; the others stay where the backup has them.
    pub cursors: Vec<(ConnectionName, FeedName, Cursor)>,
    /// How far all numbers jump: further than could have been given out since the backup.
    pub numbers: u64,
    /// For the audit: what it was called with.
    pub note: String,
    /// Now.
    pub at: Timestamp,
}

/// What a recovery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Cursors moved back.
    pub cursors: u64,
    /// Numberings (a subscription on a connection) that jumped.
    pub numberings: u64,
}

/// What an operator changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When.
    pub at: Timestamp,
    /// The command: `cursors set`, `subscriptions pause`, `subscriptions resume`, `recover`.
    pub action: String,
    /// What it was about: a feed as `connection/feed`, a subscription, an epoch.
    pub subject: String,
    /// The rest, in words; no PHI.
    pub detail: String,
}
