//! Changes on their way to becoming events, and events: one changed record version, built once.

use courier_sdk::{ConnectionName, Context, FeedName, Meaning, Novelty, Record, RecordKey, Shown};
use jiff::Timestamp;

use super::canonical::ContentHash;
use super::identity::{EventId, VersionKey};
use super::trace::TraceContext;

/// What an event says happened to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The record is new, and that is proven.
    Created,
    /// The record changed, or is new without proof.
    Updated,
    /// The record is gone, by the source's own word.
    Deleted,
    /// The record was merged into another, by its own word.
    Merged,
    /// The record may not be read by us, or no longer: whether it changed or is gone, the source does not tell.
    Unavailable,
}

impl EventKind {
    /// The word used in notifications, in tables and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Merged => "merged",
            Self::Unavailable => "unavailable",
        }
    }

    /// Reads that word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Created,
            Self::Updated,
            Self::Deleted,
            Self::Merged,
            Self::Unavailable,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

/// What tells which of two versions of one record is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionOrder {
    /// The version id as a number, where the profile trusts the order of numbers.
    pub number: Option<u64>,
    /// When the record changed by the source's clock.
    pub stamp: Option<Timestamp>,
}

impl VersionOrder {
    /// Whether this version is known to lie before another. Unknown is not before: ties keep the order of the answer.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        match (self.number, other.number) {
            (Some(mine), Some(theirs)) => mine < theirs,
            _ => matches!((self.stamp, other.stamp), (Some(mine), Some(theirs)) if mine < theirs),
        }
    }
}

/// A change whose identity was worked out as far as the source's answer allows, ready for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: RecordKey,
    /// What was shown of it.
    pub shown: Shown,
    /// Whether it may become an event.
    pub novelty: Novelty,
    /// The source's version id as sent, for the notification.
    pub version_id: Option<String>,
    /// How much of the version key is known.
    pub version: VersionClue,
    /// What orders it among the record's versions.
    pub order: VersionOrder,
    /// Whether the profile takes this version id as the proof of a creation.
    pub first_version: bool,
    /// The record with its content hash, if it came along.
    pub content: Option<Content>,
    /// The poll that showed it first, where that is traced.
    pub trace: Option<TraceContext>,
}

/// A record with the hash of what counts in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The body, byte for byte.
    pub record: Record,
    /// The content hash under the connection's rule.
    pub hash: ContentHash,
    /// What it says of the record as a whole.
    pub meaning: Option<Meaning>,
    /// What it refers to, where that was asked for and read.
    pub context: Option<Context>,
}

impl Content {
    /// How many bytes it has, context included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.record.bytes().len() + self.context.as_ref().map_or(0, Context::bytes)
    }
}

/// How much of a change's version key is known before the ledger is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionClue {
    /// The key and the id that follows from it.
    Known(VersionKey, EventId),
    /// The third rung: the key needs the record's change counter from the ledger.
    ByContent,
    /// A delete without a version of its own: the key derives from the head.
    InferredDelete,
    /// Nothing is known until the record is fetched.
    Unknown,
}

/// One changed record version in a connection's event log. Immutable once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The connection.
    pub connection: ConnectionName,
    /// Its place in the connection's log: dense, from 1.
    pub position: u64,
    /// The derived id.
    pub id: EventId,
    /// Which record.
    pub key: RecordKey,
    /// The version key that the id derives from.
    pub version: VersionKey,
    /// The source's version id as sent, if there was one.
    pub version_id: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// What it means, where the record says more than that it changed; into which record it was merged.
    pub meaning: Option<Meaning>,
    /// When the record changed by the source's clock.
    pub changed_at: Option<Timestamp>,
    /// The source's time at the start of the poll that found it.
    pub fresh_as_of: Timestamp,
    /// When it was written to the log.
    pub recorded_at: Timestamp,
    /// Whether a newer version of the record was accepted before this one.
    pub timeliness: Timeliness,
    /// The feed that found it.
    pub feed: FeedName,
    /// The body; absent for deletes.
    pub record: Option<Record>,
    /// What the record refers to, where its feed includes that.
    pub context: Option<Context>,
    /// The poll that found it, where that is traced.
    pub trace: Option<TraceContext>,
}

/// Whether an event keeps its record's order of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeliness {
    /// No newer version was accepted before it.
    InOrder,
    /// A newer version was accepted before it: the one named exception to per-record order.
    Late,
}
