//! The store: everything that must survive, behind one trait with one meaning.
//!
//! Four operations are the flow's atomic points: [`Store::accept_page`], [`Store::settle_changes`],
//! [`Store::fan_out`] and [`Store::record_attempts`]. Each is one transaction, durable before it returns, and each
//! checks the fence of its connection in that transaction. What the rules say is decided by `domain`; a store
//! loads what they need, calls them, and writes what they return. All stores pass one contract suite
//! (`tests/it/store_contract`), and [`memory`] is its executable specification.

mod batch;
pub mod memory;
mod model;
pub mod sqlite;
mod turns;

use std::collections::BTreeMap;

use async_trait::async_trait;
use courier_sdk::{ConnectionName, FeedName, RecordId};
use jiff::Timestamp;
use thiserror::Error;

pub use model::*;

use crate::domain::delivery::{AttemptRecord, ClaimedDelivery, DeliveryId, Fence};
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};

/// A store operation that did not happen: nothing of it was written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another worker holds the connection now: stop working on it.
    #[error("the lease on {connection} has passed to another worker")]
    Fenced {
        /// The connection.
        connection: ConnectionName,
    },
    /// The cursor, the poll or the position moved meanwhile: read the state again and start over.
    #[error("{what} moved meanwhile")]
    Conflict {
        /// What moved.
        what: &'static str,
    },
    /// The operation needs a state that is not there (an unknown id, a stage that is being released).
    #[error("{reason}")]
    Refused {
        /// Why, in words for an operator.
        reason: String,
    },
    /// Another process has the store open: exit, and try again when it has ended.
    #[error("the store {} is locked by another ehr-courier: stop it or try later", path.display())]
    Locked {
        /// The store's file.
        path: std::path::PathBuf,
    },
    /// The store cannot be used by this process (newer schema, another renderer): exit.
    #[error("{reason}")]
    Unusable {
        /// Why, and what to do about it.
        reason: String,
    },
    /// The configured key is not the one that sealed the store: exit.
    #[error("{reason}")]
    WrongKey {
        /// Which key is needed, and what to do.
        reason: String,
    },
    /// The engine failed. After a failed fsync the process must not go on.
    #[error("the store failed while {operation}")]
    Engine {
        /// What was being done.
        operation: &'static str,
        /// The engine's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Durable state: feeds, ledger, stage, inbox, quarantine, event log, outbox, dead letters, leases.
///
/// **Cancel safety.** A write whose future is dropped may still happen, whole; every caller can repeat it.
#[async_trait]
pub trait Store: Send + Sync {
    // --- definitions and leases -------------------------------------------------------------------------

    /// Makes the subscriptions and connections in force equal to `definitions`: new subscriptions get a standing,
    /// edited ones re-render what was not attempted (or everything, if the content narrows), removed ones have
    /// their pending deliveries cancelled, and so have those of a connection that left. Numbers go on where a name
    /// was used before. What is pending for a destination that left goes where its subscription goes now.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when a pending delivery needs a renderer that this binary lacks.
    async fn define(&self, definitions: &Definitions, now: Timestamp) -> Result<(), StoreError>;

    /// Grants a connection to a holder if it is free, lapsed or already this holder's; raises the fence.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only; a connection held by another answers `None`.
    async fn acquire_lease(
        &self,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Option<Fence>, StoreError>;

    /// Extends every lease of a holder that has not passed to another, and answers them: ten thousand at the price of one
    /// write. What is missing from the answer, or has another fence, is no longer the holder's turn.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn renew_leases(
        &self,
        renewal: &RenewLeases,
        now: Timestamp,
    ) -> Result<BTreeMap<ConnectionName, Fence>, StoreError>;

    /// Gives a lease back; a lease that has passed on is left alone.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn release_lease(&self, connection: &ConnectionName, fence: Fence) -> Result<(), StoreError>;

    // --- polling ------------------------------------------------------------------------------------------

    /// Reads how a feed stands; a feed never seen answers the empty state.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn feed(&self, connection: &ConnectionName, feed: &FeedName) -> Result<FeedState, StoreError>;

    /// Atomic point 1. Hands a slice of a page's changes over: new ones to the inbox, with their record to the event
    /// log; its records to the roll ([`Joins`]); and, by [`Progress`], the resume link or the cursor, by compare-and-set on the cursor and the poll that
    /// the slice came from.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`] (another poll moved the feed), [`StoreError::Refused`] while
    /// the feed has a stage.
    async fn accept_page(&self, page: &AcceptPage) -> Result<Accepted, StoreError>;

    /// Puts a slice of a newest-first page into the feed's stage. [`Progress::Done`] ends the collection: from then
    /// on the stage is released, never discarded.
    ///
    /// # Errors
    /// As [`Store::accept_page`]; [`StoreError::Refused`] while the stage is being released.
    async fn stage_page(&self, page: &AcceptPage) -> Result<(), StoreError>;

    /// Hands the oldest `limit` staged changes over, as [`Store::accept_page`] does; with the last of them the stage
    /// ends and the cursor moves.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; [`StoreError::Refused`] when the stage is not being released.
    async fn release_stage(&self, release: &ReleaseStage) -> Result<Released, StoreError>;

    /// Ends a running poll without moving the cursor: forgets its resume link and discards a collecting stage.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; [`StoreError::Conflict`] when the poll is over already.
    async fn abandon_poll(&self, poll: &PollRef) -> Result<Discarded, StoreError>;

    /// Sets a feed's cursor by an operator's word; ends the running poll and discards a collecting stage; no first sight
    /// proves a creation any more unless a poll from the beginning proves it anew. Audited.
    ///
    /// # Errors
    /// [`StoreError::Refused`] while a stage is being released.
    async fn set_cursor(&self, set: &SetCursor) -> Result<(), StoreError>;

    /// Reads the next ids of a feed's roll, in their order, from the one behind `after` on; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError>;

    /// Which of some records are news to a feed's roll: not on it, or asked about because a listing left them out.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn off_roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        ids: &[RecordId],
    ) -> Result<Vec<RecordId>, StoreError>;

    /// Brings a feed's roll up to date with a complete listing. A record that the ledger knows alive and that is no
    /// longer named leaves the roll for the inbox, to be read by itself ([`Shown::Missing`](courier_sdk::Shown)); it
    /// stays on the roll while a change of it waits already. Forgetting the cursor forgets the roll.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    async fn keep_roll(&self, keep: &KeepRoll) -> Result<Kept, StoreError>;

    // --- fetching ------------------------------------------------------------------------------------------

    /// Claims due changes of a connection, oldest first but those of feeds that give way behind all others, at most one
    /// per record; each claim is counted durably.
    /// A claim ends when it is settled, or with its fence.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    async fn claim_changes(&self, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, StoreError>;

    /// When the next change of a connection's inbox is due, claimed ones included; nothing where none waits.
    async fn next_change_due(&self, connection: &ConnectionName) -> Result<Option<Timestamp>, StoreError>;

    /// Atomic point 2. Settles claimed changes: out of the inbox, the event into the log, the ledger moved. A row
    /// that was shown again while it was claimed stays due.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    async fn settle_changes(&self, settle: &SettleChanges) -> Result<Settled, StoreError>;

    // --- fan-out -------------------------------------------------------------------------------------------

    /// Reads a lane's position, the next events after it (at most `limit`) and the subscriptions' standings.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn fan_out_view(
        &self,
        connection: &ConnectionName,
        lane: &Lane,
        limit: usize,
    ) -> Result<FanOutView, StoreError>;

    /// Atomic point 3. Writes a slice's deliveries with their numbers and moves the lane's position, by
    /// compare-and-set on the position and the revision of the definitions. A lane of its own that has caught up
    /// joins the common one. What was owed before keeps its number: a cancelled delivery is owed again under it,
    /// any other is left as it is.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`].
    async fn fan_out(&self, slice: &FanOut) -> Result<(), StoreError>;

    // --- delivering ------------------------------------------------------------------------------------------

    /// Lists destinations that have deliveries due on connections which the holder leases, and when the next one
    /// falls due elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn due_destinations(&self, holder: &Holder, now: Timestamp) -> Result<DueDestinations, StoreError>;

    /// Claims due deliveries of one destination: at most one per subscription and record, the lowest number first. Those
    /// longest due come first; but where more is due than there are places, every fourth place goes round among the
    /// subscriptions on a connection of which nothing is in flight: a backlog holds up no other connection.
    /// The claim is this process's alone and is lost with it: it ends with [`Store::record_attempts`].
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn claim_deliveries(&self, claim: &ClaimDeliveries) -> Result<Vec<ClaimedDelivery>, StoreError>;

    /// Atomic point 4. Records what became of attempts. Those whose fence has passed are left out and counted.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn record_attempts(&self, attempts: &[AttemptRecord]) -> Result<Recorded, StoreError>;

    // --- operating -----------------------------------------------------------------------------------------------

    /// Lists events, newest first.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn events(&self, query: &EventQuery) -> Result<Vec<EventRow>, StoreError>;

    /// Reads one event whole, with its deliveries.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only; an unknown id answers `None`.
    async fn event(&self, id: &EventId) -> Result<Option<EventDetail>, StoreError>;

    /// Owes an event's settled deliveries again, marked as replayed; returns how many. A subscription that is not in
    /// force on the event's connection is owed nothing; the content is the row's or the subscription's, whichever is
    /// narrower.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn replay(&self, replay: &ReplayRequest, now: Timestamp) -> Result<u64, StoreError>;

    /// Lists dead letters, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRow>, StoreError>;

    /// Owes the oldest dead letters again with a fresh schedule, under the rules of [`Store::replay`]; returns how many.
    /// One call takes at most [`SLICE_ROWS_MAX`]: ask again while it answers as many as were asked for.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn redrive(&self, query: &DeadLetterQuery, now: Timestamp) -> Result<u64, StoreError>;

    /// Lists changes in quarantine.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn quarantine(&self, limit: usize) -> Result<Vec<QuarantineRow>, StoreError>;

    /// Puts a connection's oldest quarantined changes back into the inbox; returns how many. One call takes at most
    /// [`SLICE_ROWS_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn redrive_quarantine(
        &self,
        connection: &ConnectionName,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Pauses or resumes a subscription. A paused one is numbered on; nothing of it is claimed until it is resumed, and
    /// what is in flight ends as it would. Doing it again changes nothing. Audited.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when a subscription to pause is not in force.
    async fn set_flow(&self, set: &SetFlow) -> Result<(), StoreError>;

    /// Lists the subscriptions that are paused, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn paused(&self) -> Result<Vec<PauseRow>, StoreError>;

    /// Reads the state's epoch.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// Makes a restored backup fit to go on with: new epoch, running polls ended, cursors moved back, numbers raised. A
    /// stage that is being released goes on, and ends with the cursor given here. Audited.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn recover(&self, recovery: &Recovery) -> Result<Recovered, StoreError>;

    /// Lists what operators changed, newest first.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>, StoreError>;

    /// Lists the cursors of all feeds.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError>;

    /// Counts what waits on a connection.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn backlog(&self, connection: &ConnectionName) -> Result<Backlog, StoreError>;

    /// Counts what waits where, for every connection ever seen.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn depths(&self) -> Result<BTreeMap<ConnectionName, Depths>, StoreError>;

    /// Deletes, in one slice of at most `limit` rows of each kind, what is settled and past its retention, and
    /// accepted ids that the source can no longer show.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn sweep(&self, sweep: &Sweep) -> Result<Swept, StoreError>;

    /// Where a subscription's numbers stand, per connection, for checks and tables.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn standings(&self, subscription: &SubscriptionName) -> Result<Vec<StandingRow>, StoreError>;

    /// Counts deliveries by state for one destination.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn deliveries_by_state(&self, destination: &DestinationName) -> Result<DeliveryCounts, StoreError>;

    /// Reads one delivery.
    ///
    /// # Errors
    /// [`StoreError::Engine`] only.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<ClaimedDelivery>, StoreError>;
}
