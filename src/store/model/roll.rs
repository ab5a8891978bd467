//! The roll: which records a feed's listings named.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordType};
use jiff::Timestamp;

use crate::domain::delivery::Fence;

/// How a complete listing differs from a feed's roll; at most [`SLICE_ROWS_MAX`](super::SLICE_ROWS_MAX) ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepRoll {
    /// The connection.
    pub connection: ConnectionName,
    /// The feed.
    pub feed: FeedName,
    /// The lease.
    pub fence: Fence,
    /// The kind of record that the feed follows.
    pub record_type: RecordType,
    /// Records that it names and the roll does not.
    pub joined: Vec<RecordId>,
    /// Records that the roll names and it does not. Those that live are read: at first they stay on the roll, for they may
    /// be gone a moment after the read; missing once more they leave it.
    pub missing: Vec<RecordId>,
    /// The source's own time at the listing's start.
    pub fresh_as_of: Timestamp,
    /// Now.
    pub at: Timestamp,
}

/// What became of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Records that disappeared and are read by themselves now.
    pub asked: u64,
}
