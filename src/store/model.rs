//! What goes into the store and comes out of it.

mod control;
mod operating;
mod roll;

use std::collections::BTreeSet;
use std::time::Duration;

use courier_sdk::{ConnectionName, Cursor, FeedName, RecordKey, Resume};
use jiff::Timestamp;

use crate::domain::delivery::Fence;
use crate::domain::event::{Change, Event};
use crate::domain::fan_out::{Owed, Position, Standing, Subscription};
use crate::domain::identity::EventId;
use crate::domain::ledger::{Baseline, Head};
use crate::domain::name::{DestinationName, SubscriptionName};

pub use crate::domain::ledger::Unchanged;
pub use control::*;
pub use operating::*;
pub use roll::*;

/// The most rows of one transaction; larger pages are cut into slices.
pub const SLICE_ROWS_MAX: usize = 1_000;
/// The most body bytes of one transaction; a larger record is an operation by itself.
pub const SLICE_BYTES_MAX: usize = 4 << 20;

/// The connections and subscriptions in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definitions {
    /// The connections.
    pub connections: BTreeSet<ConnectionName>,
    /// The destinations.
    pub destinations: BTreeSet<DestinationName>,
    /// The subscriptions, in the order of their names.
    pub subscriptions: Vec<Subscription>,
}

impl Definitions {
    /// Whether a subscription covers a connection that is in force.
    #[must_use]
    pub fn cover(&self, subscription: &Subscription, connection: &ConnectionName) -> bool {
        self.connections.contains(connection) && subscription.covers(connection)
    }
}

/// Names one worker process for the time it lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(pub String);

/// Who asks for which connection, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The connection.
    pub connection: ConnectionName,
    /// The worker.
    pub holder: Holder,
    /// How long the lease lasts without renewal.
    pub ttl: Duration,
}

/// Extends all leases of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewLeases {
    /// The worker.
    pub holder: Holder,
    /// How long its leases last without a further renewal.
    pub ttl: Duration,
}

/// Counts a feed's polls; a poll that ended cannot write any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PollId(pub u64);

/// How a feed stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedState {
    /// The durable cursor; absent before the first complete poll.
    pub cursor: Option<Cursor>,
    /// The poll that is running or comes next.
    pub poll: PollId,
    /// Where the running poll goes on, if it was left in the middle.
    pub resume: Option<Resume>,
    /// Whether it has a stage.
    pub stage: StageState,
    /// How many versions its stage has collected so far; 0 unless it is collecting.
    pub staged: u64,
    /// When its cursor moved last.
    pub advanced_at: Option<Timestamp>,
    /// The source's own time at the start of the last complete poll.
    pub fresh_as_of: Option<Timestamp>,
    /// When its last complete poll ended that had anything to write.
    pub completed_at: Option<Timestamp>,
    /// How many changes its polls brought that were new.
    pub found: u64,
    /// Whether a first sight of it proves a creation; of a backfill, whether it has come to its end.
    pub baseline: Baseline,
}

/// Whether a feed has a stage, and what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StageState {
    /// It has none.
    #[default]
    None,
    /// Pages are being collected.
    Collecting,
    /// The stage is complete and is being released; the feed does not poll.
    Releasing,
}

/// What a poll had collected that was abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discarded {
    /// Versions that were staged.
    pub versions: u64,
    /// The records that they belong to: so many current states a search still shows, unless they are deleted.
    pub records: u64,
}

/// Names the poll that a write belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRef {
    /// The connection.
    pub connection: ConnectionName,
    /// The feed.
    pub feed: FeedName,
    /// The lease.
    pub fence: Fence,
    /// The poll.
    pub poll: PollId,
}

/// One slice of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptPage {
    /// The poll that it belongs to.
    pub poll: PollRef,
    /// The cursor that the poll started from.
    pub from: Option<Cursor>,
    /// The changes, in the order of the answer.
    pub changes: Vec<Change>,
    /// Records too large to carry: to quarantine by reference.
    pub oversized: Vec<RecordKey>,
    /// Records that join a roll with it.
    pub joins: Option<Joins>,
    /// What the slice does to the feed.
    pub progress: Progress,
    /// Whether records are told of with their context.
    pub context: ContextRule,
    /// Whether a version with the content of its record's last one is told of.
    pub unchanged: Unchanged,
    /// Whether the poll shows all there is; where it does not, no first sight of the feed proves a creation from now
    /// on.
    pub sights: Sights,
    /// The source's own time at the poll's start.
    pub fresh_as_of: Timestamp,
    /// Now.
    pub at: Timestamp,
}

/// Whether a feed's records are told of with the records that they refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContextRule {
    /// They travel alone.
    #[default]
    None,
    /// Their context is read first, even where the record came along.
    Included,
}

/// What a slice does to its feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More slices of the same page follow.
    Slice,
    /// The page is in; the poll goes on here.
    Page(Resume),
    /// The poll is complete: the cursor moves, the resume link is forgotten, the next poll begins.
    Done {
        /// Where the cursor moves.
        cursor: Cursor,
        /// Whether the poll saw everything from the beginning without a filter: first sights are creations from
        /// now on.
        baseline: BaselineProof,
    },
    /// The poll is over but proved incomplete: the cursor stays, the next poll begins.
    Inconclusive,
}

/// Whether a poll shows all there is of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sights {
    /// It shows every record.
    All,
    /// A filter leaves records out: what is seen first may have existed before.
    Filtered,
}

/// Whether a complete poll proves a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaselineProof {
    /// It showed everything, from the beginning and unfiltered.
    Proven,
    /// It says nothing about it.
    Unproven,
}

/// What became of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The ids among the slice's changes that stand accepted now: they may be remembered in front of the store.
    pub ids: Vec<EventId>,
    /// Events appended to the log.
    pub appended: u64,
    /// Changes put into the inbox.
    pub enqueued: u64,
    /// Changes that were known.
    pub known: u64,
    /// Changes before the feed's start.
    pub silent: u64,
    /// Changes with the content of their record's last version, which were not to be told of.
    pub unchanged: u64,
    /// Events among the appended ones that came after a newer version.
    pub late: u64,
    /// Records put into quarantine by reference.
    pub quarantined: u64,
    /// When the changes that were new (events or rows of the inbox) happened by the source's clock, where it says.
    pub stamps: Vec<Timestamp>,
}

/// Asks for the oldest part of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseStage {
    /// The feed and the lease; the poll is not checked: any later holder continues.
    pub poll: PollRef,
    /// The most changes to hand over; at most [`SLICE_ROWS_MAX`].
    pub limit: usize,
    /// Whether records are told of with their context.
    pub context: ContextRule,
    /// Whether a version with the content of its record's last one is told of.
    pub unchanged: Unchanged,
    /// Now.
    pub at: Timestamp,
}

/// What a release did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// What became of the changes.
    pub accepted: Accepted,
    /// Whether the stage is empty now, and the cursor moved.
    pub stage: StageState,
}

/// An operator's move of a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCursor {
    /// The connection.
    pub connection: ConnectionName,
    /// The feed.
    pub feed: FeedName,
    /// The new cursor; `None` forgets it, so that the feed starts anew.
    pub cursor: Option<Cursor>,
    /// For the audit: from where to where, in words.
    pub note: String,
    /// Now.
    pub at: Timestamp,
}

/// Asks for changes to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimChanges {
    /// The connection.
    pub connection: ConnectionName,
    /// The lease.
    pub fence: Fence,
    /// The most changes.
    pub limit: usize,
    /// The feeds whose changes are claimed where those of all others leave room.
    pub last: BTreeSet<FeedName>,
    /// Now.
    pub at: Timestamp,
}

/// Identifies one inbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(pub u64);

/// A change claimed for fetching, or for moving on behind an earlier one that is now settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedChange {
    /// The row.
    pub id: InboxId,
    /// How often the row had been shown when it was claimed.
    pub generation: u64,
    /// The feed that found it.
    pub feed: FeedName,
    /// The change; with its content if that came along.
    pub change: Change,
    /// The source's own time at the start of the poll that found it.
    pub fresh_as_of: Timestamp,
    /// How often it was tried and failed.
    pub attempts: u32,
    /// How often in a row it was claimed without a word of what became of it, this time included.
    pub claims: u32,
    /// The record's last accepted version, where the record must be read.
    pub head: Option<Head>,
}

/// What became of claimed changes of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleChanges {
    /// The connection.
    pub connection: ConnectionName,
    /// The lease.
    pub fence: Fence,
    /// One entry per claim.
    pub settlements: Vec<Settlement>,
    /// The feeds of which a version with the content of its record's last one is not told.
    pub unchanged_untold: BTreeSet<FeedName>,
    /// Now.
    pub at: Timestamp,
}

/// What became of one claimed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The row.
    pub id: InboxId,
    /// The generation that was claimed.
    pub generation: u64,
    /// What follows.
    pub result: SettleResult,
}

/// What follows from one fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettleResult {
    /// The record was fetched; its identity is complete. It may be a newer version than the one asked for, which is
    /// then entered as superseded.
    Fetched(Change),
    /// The source said that the version that the ledger knows is still the current one; without the record.
    Stands(Change),
    /// The source showed by 410 that the record is deleted.
    Deleted(Change),
    /// The source does not let us read the record; told under an id that is fixed
    /// ([`unavailable`](crate::domain::ledger::unavailable)). What was asked for is not asked for again.
    Unavailable(Change),
    /// It is tried again.
    RetryAt {
        /// When.
        due_at: Timestamp,
        /// Why; no PHI.
        reason: String,
    },
    /// The record was read, but not yet what it refers to: it waits with what was read, which the source may replace
    /// meanwhile. It may be a newer version than the one asked for, which is then entered as superseded.
    Keep {
        /// What was read.
        change: Change,
        /// When it is due again.
        due_at: Timestamp,
        /// Why, where that counts as a failed attempt; no PHI.
        reason: Option<String>,
    },
    /// It is given up and kept, with its reason; no PHI.
    Quarantine {
        /// Why.
        reason: String,
    },
    /// The claim ends without an attempt (shutdown, throttled).
    Release {
        /// When it is due again.
        due_at: Timestamp,
    },
}

/// What a settlement did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// The ids that stand accepted now: they may be remembered in front of the store.
    pub ids: Vec<EventId>,
    /// Events appended to the log.
    pub appended: u64,
    /// Changes that turned out to be known.
    pub known: u64,
    /// Versions that were asked for but superseded at the fetch.
    pub superseded: u64,
    /// Rows that were shown again meanwhile and stay due.
    pub shown_again: u64,
    /// Rows put into quarantine.
    pub quarantined: u64,
    /// Events among the appended ones that came after a newer version.
    pub late: u64,
    /// Changes with the content of their record's last version, which were not to be told of.
    pub unchanged: u64,
}

impl SettleChanges {
    /// Whether a version of a feed is told of that has the content of its record's last one.
    #[must_use]
    pub fn unchanged_of(&self, feed: &FeedName) -> Unchanged {
        if self.unchanged_untold.contains(feed) {
            Unchanged::Suppress
        } else {
            Unchanged::Tell
        }
    }
}

/// Which place in the log is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lane {
    /// The connection's, at which all subscriptions move that do not have their own.
    Common,
    /// One subscription's own.
    Own(SubscriptionName),
}

/// What fan-out needs to cut its next slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanOutView {
    /// Where the lane stands.
    pub position: Position,
    /// The revision of the definitions in force.
    pub revision: u64,
    /// The subscriptions in force that cover the connection, in the order of their names, with their standings.
    pub members: Vec<(Subscription, Standing)>,
    /// The subscriptions in force that have a lane of their own on the connection.
    pub own_lanes: Vec<SubscriptionName>,
    /// The next events, without a gap.
    pub events: Vec<Event>,
}

/// One slice of fan-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanOut {
    /// The connection.
    pub connection: ConnectionName,
    /// The lease.
    pub fence: Fence,
    /// Which lane moves.
    pub lane: Lane,
    /// Where it stood.
    pub from: Position,
    /// The revision that the slice was cut with.
    pub revision: u64,
    /// The deliveries, in order.
    pub owed: Vec<Owed>,
    /// Where it stands now.
    pub to: Position,
    /// Subscriptions that leave the common lane, each with the last event it was given.
    pub suspended: Vec<(SubscriptionName, u64)>,
    /// Now.
    pub at: Timestamp,
}

/// Destinations with work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DueDestinations {
    /// Those with deliveries due and not claimed.
    pub due: BTreeSet<DestinationName>,
    /// When the next delivery falls due, if none of it is due yet.
    pub next_due_at: Option<Timestamp>,
}

/// Asks for deliveries of one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimDeliveries {
    /// The worker; only connections that it leases count.
    pub holder: Holder,
    /// The destination.
    pub destination: DestinationName,
    /// The most deliveries.
    pub limit: usize,
    /// Now.
    pub at: Timestamp,
}

/// What a record of attempts did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Attempts recorded.
    pub recorded: u64,
    /// Attempts left out because the lease has passed on.
    pub fenced: u64,
}
