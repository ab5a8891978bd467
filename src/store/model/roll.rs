//! The roll: which records a feed's listings named.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordType};
use jiff::Timestamp;

use crate::domain::delivery::Fence;

/// Records that a page proves to be there; at most [`SLICE_ROWS_MAX`](super::SLICE_ROWS_MAX) ids.
///
/// They join the roll in the transaction that accepts the page: a listing that never concludes, and a change that was seen
/// before the first listing, leave them on it all the same. One that was taken for deleted is read by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joins {
    /// The feed whose roll it is: the page's own, or its sweep's.
    pub roll: FeedName,
    /// The kind of record that it follows.
    pub record_type: RecordType,
    /// The records.
    pub ids: Vec<RecordId>,
}

/// What a complete listing leaves out of a feed's roll; at most [`SLICE_ROWS_MAX`](super::SLICE_ROWS_MAX) ids.
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
    /// Records that the roll names and it does not. Those that live are read: at first they stay on the roll, for they may
    /// be gone a moment after the read; missing once more they leave it.
    pub missing: Vec<RecordId>,
    /// The source's own time at the listing's start.
    pub fresh_as_of: Timestamp,
    /// Now.
    pub at: Timestamp,
}

/// What became of what a listing left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Records that disappeared and are read by themselves now.
    pub asked: u64,
}
