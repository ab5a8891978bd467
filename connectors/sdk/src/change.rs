//! What one page of a poll tells: which records changed, and where the poll goes on.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::id::{RecordId, RecordKey};
use crate::record::{Cursor, Record, Resume};

/// What the source showed of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A current or past state; whether it was created or updated is not said.
    State,
    /// The source itself says that this version created the record (a history POST).
    Created,
    /// The source itself says that this version replaced another (a history PUT).
    Updated,
    /// The source says that the record was deleted (a history DELETE, or 410 on a plain read).
    Deleted,
    /// A complete listing no longer shows it. Whether it was deleted, or only moved out of what is listed, a read of it
    /// tells.
    Missing,
}

/// Whether a version may become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// It becomes an event if the ledger does not know it.
    Announce,
    /// It lies before the feed's start: it enters the ledger in silence.
    Silent,
}

/// "This record changed", as one page says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRef {
    /// Which record.
    pub key: RecordKey,
    /// What was shown of it.
    pub shown: Shown,
    /// Whether it may become an event.
    pub novelty: Novelty,
    /// The source's version id, bare (an `ETag`'s `W/"7"` is `7`), if the source sent one.
    pub version_id: Option<String>,
    /// When the record changed by the source's clock, if the source said so.
    pub last_updated: Option<Timestamp>,
    /// The record itself if it came along. Absent when it must be fetched.
    pub record: Option<Record>,
}

/// In which order a poll answers the versions that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// At most one state per record matters, or older versions come first: pages are accepted as they come.
    OldestFirst,
    /// Several versions of one record, newer ones first (history): the poll is staged until its last
    /// page is in, and released oldest first.
    NewestFirst,
}

/// Where the poll goes on after a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// There is another page of this poll.
    Page(Resume),
    /// This was the poll's last page; the feed has been handed over up to this cursor.
    Done(Cursor),
    /// The poll is over but proved incomplete (a filter was ignored): the cursor stays where it is.
    Inconclusive {
        /// Why, in words for an operator; no PHI.
        reason: String,
    },
}

/// One answer of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePage {
    /// What changed, in the order of the answer.
    pub changes: Vec<ChangeRef>,
    /// Records of this page that were too large to carry (above `record_limit`); they go to quarantine by
    /// reference while the page proceeds.
    pub oversized: Vec<RecordKey>,
    /// Entries of the answer that name no record (no usable id), by their place in it, from 0. They can become no
    /// event and hold nothing up; whoever asked reports them.
    pub unusable: Vec<usize>,
    /// Of a poll that lists every record that the feed looks at, changed or not: the ids on this page. A record of an
    /// earlier listing that a complete one does not name has disappeared. Absent where only changes are shown.
    pub listed: Option<Vec<RecordId>>,
    /// Records that came along because changes of this page refer to them, as they stood when it was made. They are no
    /// changes; what a change refers to and is not among them is read.
    pub included: BTreeMap<RecordKey, Record>,
    /// The order that the whole poll's pages follow.
    pub order: PageOrder,
    /// Where the poll goes on.
    pub next: Next,
    /// The source's own time at the poll's start: what the answer is as fresh as.
    pub fresh_as_of: Timestamp,
}
