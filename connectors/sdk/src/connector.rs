//! The connector itself.
//!
//! The courier drives it like this, persisting each page before it asks for the next:
//!
//! ```text
//! loop every interval:
//!     page = connector.poll(feed, cursor, resume = none)
//!     while page.next is Page(resume):
//!         store: page.changes + resume            (one transaction)
//!         page = connector.poll(feed, cursor, resume)
//!     store: page.changes + the new cursor        (one transaction)
//! ```

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::change::{ChangePage, ChangeRef};
use crate::context::{Include, Reference};
use crate::detection::{Detect, Detection};
use crate::error::ConnectorError;
use crate::id::{FeedName, RecordKey, RecordType};
use crate::meaning::Meaning;
use crate::record::{Cursor, Record, Resume};
use crate::scope::Scope;

/// Where a feed without a cursor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the source's present: what is older enters the ledger in silence.
    Now,
    /// With everything that the source shows.
    Beginning,
    /// With what changed at or after an instant by the source's clock.
    At(Timestamp),
}

/// What a connector needs to know of one feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSpec {
    /// The feed's name.
    pub name: FeedName,
    /// The kind of record that it follows.
    pub record_type: RecordType,
    /// Further search parameters in the source's own syntax (`status=booked&location=7`), or empty.
    pub filter: String,
    /// Where it begins when it has no cursor.
    pub start: Start,
    /// How far back of the cursor each poll looks again.
    pub overlap: Duration,
    /// Whether the record is taken from the page or read by itself.
    pub fetch: FetchMode,
    /// How changes are to be found.
    pub detect: Detect,
    /// Which references of a record are followed.
    pub include: Vec<Include>,
    /// Which records it looks at.
    pub scope: Scope,
}

/// Whether a changed record is taken from the page that shows it, or read by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchMode {
    /// Take the record from the page.
    FromPage,
    /// Ask for ids only and read each changed record.
    ByRead,
}

/// One page's worth of "what changed".
#[derive(Debug, Clone, Copy)]
pub struct PollRequest<'a> {
    /// The feed.
    pub feed: &'a FeedSpec,
    /// The feed's durable cursor, absent before its first complete poll. For a sweep ([`crate::Aim::Everything`]) that of
    /// the feed which it is for: what lies before that feed's start is silent. A backfill ([`crate::Aim::Past`]) has its
    /// own.
    pub cursor: Option<&'a Cursor>,
    /// Where the running poll goes on; absent for its first page.
    pub resume: Option<&'a Resume>,
}

/// One record to read.
#[derive(Debug, Clone, Copy)]
pub struct FetchRequest<'a> {
    /// What was shown of it.
    pub change: &'a ChangeRef,
    /// The version id of the record's last known version, where the current state need not be sent again if it is
    /// still that one. Absent wherever a version other than this one is asked for.
    pub known: Option<&'a str>,
}

/// What a read of one record found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The record, with its version as the answer tells it. It may be newer than the one asked for.
    Found(ChangeRef, Record),
    /// The known version that the request named is still the current one (304): its body was not sent.
    Unchanged,
    /// The source says that the record is deleted (410 on a plain read).
    Deleted,
    /// The source does not know the record (404 on a plain read): no proof of a delete by itself.
    NotFound(NotFound),
    /// We may not see it (403 on a read).
    Unavailable,
    /// The record exceeds `record_limit`.
    TooLarge,
}

/// What a 404 on a plain read is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    /// Its body is not the source's own error: something on the way may have said it.
    Unattributed,
    /// The source's own word. It may also hide what it still has.
    BySource,
    /// The source's own word; and by what is known of it, it answers so for deleted records and no others.
    MeansDeleted,
}

/// How versions of a connection's records are told apart (the version-key rungs). Data from the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRule {
    /// `meta.versionId` names one content and never comes back with another.
    pub trust_version_id: bool,
    /// Greater numeric version ids are newer.
    pub numeric_order: bool,
    /// `meta.lastUpdated` changes whenever the content does.
    pub trust_last_updated: bool,
    /// The version id that proves a creation, for servers that number from a fixed first one (`1`).
    pub first_version: Option<String>,
    /// Members left out of the content hash, as dotted paths (`text`, `meta.security`).
    pub volatile_paths: Vec<String>,
}

/// Speaks one protocol to one source system.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Asks for one page of a feed's changes: one request to the source, at most a few where the
    /// protocol needs them.
    ///
    /// # Errors
    /// [`ConnectorError`]; after any error the cursor has not moved and the same request may be repeated.
    ///
    /// # Cancel safety
    /// Safe: nothing is remembered that the caller did not persist.
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError>;

    /// Reads one changed record. Where the source offers old versions, the version asked for is read
    /// first; else the current one is answered, or that it is the known one.
    ///
    /// # Errors
    /// [`ConnectorError`]; the same request may be repeated.
    ///
    /// # Cancel safety
    /// Safe.
    async fn fetch(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError>;

    /// How many records of a type [`Connector::fetch_many`] may be asked for at once: 1 where it should not be asked.
    fn fetch_at_once(&self, _record_type: &RecordType) -> usize {
        1
    }

    /// Reads several changed records of one type with fewer requests than one each. An answer stands in the place of its
    /// request; `None` is no answer and no evidence of anything: that record is to be read by itself. What is answered
    /// holds as if it were read by itself: the version asked for, or the current one where none was asked for.
    ///
    /// # Errors
    /// [`ConnectorError`]: nothing was learnt of any of them; each may be read by itself.
    ///
    /// # Cancel safety
    /// Safe.
    async fn fetch_many(
        &self,
        requests: &[FetchRequest<'_>],
    ) -> Result<Vec<Option<Fetched>>, ConnectorError> {
        Ok(vec![None; requests.len()])
    }

    /// The references of a record that the includes name, each once, in the record's order. Pure.
    fn references(&self, _record: &Record, _include: &[Include]) -> Vec<Reference> {
        Vec::new()
    }

    /// What a record's content says of the record as a whole, if anything. Pure: the same at every showing.
    fn meaning(&self, _record: &Record) -> Option<Meaning> {
        None
    }

    /// Reads the current state of a record that another refers to; `None` where the source has none to show us.
    ///
    /// # Errors
    /// [`ConnectorError`]; the same request may be repeated.
    ///
    /// # Cancel safety
    /// Safe.
    async fn read_context(&self, _key: &RecordKey) -> Result<Option<Record>, ConnectorError> {
        Ok(None)
    }

    /// Reads the current states of several records of one type that others refer to, as many as
    /// [`Connector::fetch_at_once`] says. In the places of their keys; `None` is no answer: that one is to be read by
    /// itself.
    ///
    /// # Errors
    /// [`ConnectorError`]; each may be read by itself.
    ///
    /// # Cancel safety
    /// Safe.
    async fn read_context_many(&self, keys: &[RecordKey]) -> Result<Vec<Option<Record>>, ConnectorError> {
        Ok(vec![None; keys.len()])
    }

    /// Asks the source how a feed's changes can be found, and makes sure that they can: it asks for the feed's
    /// first page, of which nothing is kept.
    ///
    /// # Errors
    /// [`ConnectorError`]: what the feed's first poll would meet.
    ///
    /// # Cancel safety
    /// Safe: no cursor moves.
    async fn probe(&self, feed: &FeedSpec) -> Result<Detection, ConnectorError>;

    /// Asks how many records a backfill of a feed would show; `None` where the source does not say, or every poll of the
    /// feed shows them anyway.
    ///
    /// # Errors
    /// [`ConnectorError`]; the same request may be repeated.
    ///
    /// # Cancel safety
    /// Safe.
    async fn count_past(&self, _feed: &FeedSpec) -> Result<Option<u64>, ConnectorError> {
        Ok(None)
    }

    /// How versions of a record type are told apart.
    fn version_rule(&self, record_type: &RecordType) -> VersionRule;

    /// The cursor that makes the next poll begin at an instant by the source's clock.
    fn cursor_at(&self, instant: Timestamp) -> Cursor;

    /// The instant that a cursor stands for, for people and for the lag metric.
    fn describe(&self, cursor: &Cursor) -> Option<Timestamp>;

    /// The cursor moved back by so long. `None` where it stands for no instant: there is nothing to move back from. A
    /// connector whose cursors hold more than an instant keeps the rest.
    fn rewound(&self, cursor: &Cursor, by: Duration) -> Option<Cursor> {
        let by = jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX);
        let back = self
            .describe(cursor)?
            .checked_sub(by)
            .unwrap_or(Timestamp::UNIX_EPOCH);
        Some(self.cursor_at(back.max(Timestamp::UNIX_EPOCH)))
    }
}
