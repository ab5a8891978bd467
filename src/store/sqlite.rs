//! The store in one SQLite file: the default, for one machine.
//!
//! One thread writes, with group commit; another reads what people list. What is answered as written was
//! committed with fsync. A process that is killed leaves nothing to repair: opening the file is all that the next
//! one does. One courier at a time works on a file, by a lock beside it that ends with the process. It must not
//! know what the other stores look like.

pub mod backup;
mod connection;
mod control;
mod define;
mod depths;
mod fan_out;
mod feed;
mod inbox;
mod intake;
mod lease;
mod ledger_rows;
mod operate;
mod outbox;
mod outbox_claim;
mod outbox_rows;
mod quarantine;
mod roll;
mod rows;
mod schema;
mod seal_keys;
mod stage;
mod sweep;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use courier_sdk::{ConnectionName, FeedName, RecordId};
use jiff::Timestamp;

use self::connection::Connection;
use self::outbox::Claims;
use self::rows::Failure;
pub use self::schema::OpenMode;
use self::writer::{Kind, Writer};
use super::{
    AcceptPage, Accepted, AuditRow, Backlog, ClaimChanges, ClaimDeliveries, ClaimedChange, CursorRow,
    DeadLetterQuery, DeadLetterRow, Definitions, DeliveryCounts, Depths, Discarded, DueDestinations, Epoch,
    EventDetail, EventQuery, EventRow, FanOut, FanOutView, FeedState, Holder, KeepRoll, Kept, Lane,
    LeaseRequest, PauseRow, PollRef, QuarantineRow, Recorded, Recovered, Recovery, ReleaseStage, Released,
    RenewLeases, ReplayRequest, SetCursor, SetFlow, SettleChanges, Settled, StandingRow, Store, StoreError,
    Sweep, Swept,
};
use crate::domain::delivery::{AttemptRecord, ClaimedDelivery, DeliveryId, Fence};
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::wire::sealed::Seals;

/// A store in one SQLite file.
pub struct SqliteStore {
    // Dropped before the writer, which closes last and so moves its log into the file.
    reader: Writer,
    /// Absent when the file was opened for reading.
    writer: Option<Writer>,
    claims: Claims,
}

impl SqliteStore {
    /// Opens a store in plain text, as [`SqliteStore::open_sealed`] does.
    ///
    /// # Errors
    /// Those of [`SqliteStore::open_sealed`].
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        Self::open_sealed(path, mode, &Seals::plain())
    }

    /// Opens a store for this process alone, creates it where `mode` allows that, and brings an older file up to
    /// date. Leases of earlier processes end; their fences stay. What is written from now on is sealed with `seals`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open; [`StoreError::WrongKey`] when it is encrypted with a
    /// key that `seals` does not have; [`StoreError::Unusable`] when the file is missing, newer than this binary or no
    /// store at all; [`StoreError::Engine`].
    pub fn open_sealed(path: &Path, mode: OpenMode, seals: &Seals) -> Result<Self, StoreError> {
        schema::ensure_file(path, mode)?;
        let lock = schema::lock(path)?;
        let db = schema::open_for_writing(path)?;
        schema::check_origin(&db, path, mode)?;
        let db = Connection::new(db, seals.clone());
        seal_keys::admit(&db).map_err(|failure| failure.named("looking at the store's keys"))?;
        lease::void_all(&db)
            .map_err(|error| Failure::from(error).named("ending the leases of earlier runs"))?;
        let reading = Connection::new(schema::open_for_reading(path)?, seals.clone());
        Ok(Self {
            writer: Some(Writer::start("store-writer", db, Some(lock))?),
            reader: Writer::start("store-reader", reading, None)?,
            claims: Claims::default(),
        })
    }

    /// Opens a store in plain text for listings, as [`SqliteStore::read_only_sealed`] does.
    ///
    /// # Errors
    /// Those of [`SqliteStore::read_only_sealed`].
    pub fn read_only(path: &Path) -> Result<Self, StoreError> {
        Self::read_only_sealed(path, &Seals::plain())
    }

    /// Opens a store for listings, beside a running service. What writes or claims is refused.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`] when it is encrypted with a key that `seals` does not have; [`StoreError::Unusable`]
    /// when the file is missing or of another version; [`StoreError::Engine`].
    pub fn read_only_sealed(path: &Path, seals: &Seals) -> Result<Self, StoreError> {
        let reading = Connection::new(schema::open_for_reading(path)?, seals.clone());
        seal_keys::check(&reading).map_err(|failure| failure.named("looking at the store's keys"))?;
        Ok(Self {
            writer: None,
            reader: Writer::start("store-reader", reading, None)?,
            claims: Claims::default(),
        })
    }

    /// Counts the transactions that were committed since the store was opened: one fsync each.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::commits)
    }

    /// Counts the writing operations since the store was opened.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::operations)
    }

    /// Runs a write.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer()?.run(Kind::Write, operation, work).await
    }

    /// Runs a read that must see every write before it, committed or about to be.
    async fn read_latest<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = self.writer.as_ref().unwrap_or(&self.reader);
        writer.run(Kind::Read, operation, work).await
    }

    /// Runs a read of what is committed, beside the writer.
    async fn list<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.reader.run(Kind::Read, operation, work).await
    }

    fn writer(&self) -> Result<&Writer, StoreError> {
        self.writer.as_ref().ok_or_else(|| StoreError::Refused {
            reason: "the store was opened for reading only".to_owned(),
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn define(&self, definitions: &Definitions, now: Timestamp) -> Result<(), StoreError> {
        let definitions = definitions.clone();
        self.write("writing definitions", move |db| {
            define::define(db, &definitions, now)
        })
        .await
    }

    async fn acquire_lease(
        &self,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Option<Fence>, StoreError> {
        let request = request.clone();
        self.write("acquiring a lease", move |db| lease::acquire(db, &request, now))
            .await
    }

    async fn renew_leases(
        &self,
        renewal: &RenewLeases,
        now: Timestamp,
    ) -> Result<BTreeMap<ConnectionName, Fence>, StoreError> {
        let renewal = renewal.clone();
        self.write("renewing leases", move |db| lease::renew_all(db, &renewal, now))
            .await
    }

    async fn release_lease(&self, connection: &ConnectionName, fence: Fence) -> Result<(), StoreError> {
        let connection = connection.clone();
        self.write("releasing a lease", move |db| {
            lease::release(db, &connection, fence)
        })
        .await
    }

    async fn feed(&self, connection: &ConnectionName, feed: &FeedName) -> Result<FeedState, StoreError> {
        let (connection, feed) = (connection.clone(), feed.clone());
        let found = self
            .read_latest("reading a feed", move |db| feed::load(db, &connection, &feed))
            .await?;
        Ok(found.state)
    }

    async fn accept_page(&self, page: &AcceptPage) -> Result<Accepted, StoreError> {
        let page = page.clone();
        self.write("accepting a page", move |db| intake::accept_page(db, &page))
            .await
    }

    async fn stage_page(&self, page: &AcceptPage) -> Result<(), StoreError> {
        let page = page.clone();
        self.write("staging a page", move |db| stage::stage_page(db, &page))
            .await
    }

    async fn release_stage(&self, release: &ReleaseStage) -> Result<Released, StoreError> {
        let release = release.clone();
        self.write("releasing a stage", move |db| stage::release_stage(db, &release))
            .await
    }

    async fn abandon_poll(&self, poll: &PollRef) -> Result<Discarded, StoreError> {
        let poll = poll.clone();
        self.write("abandoning a poll", move |db| feed::abandon_poll(db, &poll))
            .await
    }

    async fn set_cursor(&self, set: &SetCursor) -> Result<(), StoreError> {
        let set = set.clone();
        self.write("setting a cursor", move |db| feed::set_cursor(db, &set))
            .await
    }

    async fn roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError> {
        let (connection, feed, after) = (connection.clone(), feed.clone(), after.cloned());
        self.list("reading a roll", move |db| {
            roll::list(db, (&connection, &feed), after.as_ref(), limit)
        })
        .await
    }

    async fn off_roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        ids: &[RecordId],
    ) -> Result<Vec<RecordId>, StoreError> {
        let (connection, feed, ids) = (connection.clone(), feed.clone(), ids.to_vec());
        self.list("comparing with a roll", move |db| {
            roll::without(db, (&connection, &feed), &ids)
        })
        .await
    }

    async fn keep_roll(&self, keep: &KeepRoll) -> Result<Kept, StoreError> {
        let keep = keep.clone();
        self.write("keeping a roll", move |db| roll::keep(db, &keep))
            .await
    }

    async fn claim_changes(&self, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, StoreError> {
        let claim = claim.clone();
        self.write("claiming changes", move |db| inbox::claim(db, &claim))
            .await
    }

    async fn next_change_due(&self, connection: &ConnectionName) -> Result<Option<Timestamp>, StoreError> {
        let connection = connection.clone();
        self.list("looking for the next change due", move |db| {
            inbox::next_due(db, &connection)
        })
        .await
    }

    async fn settle_changes(&self, settle: &SettleChanges) -> Result<Settled, StoreError> {
        let settle = settle.clone();
        self.write("settling changes", move |db| inbox::settle(db, &settle))
            .await
    }

    async fn fan_out_view(
        &self,
        connection: &ConnectionName,
        lane: &Lane,
        limit: usize,
    ) -> Result<FanOutView, StoreError> {
        let (connection, lane) = (connection.clone(), lane.clone());
        self.read_latest("reading the event log", move |db| {
            fan_out::view(db, &connection, &lane, limit)
        })
        .await
    }

    async fn fan_out(&self, slice: &FanOut) -> Result<(), StoreError> {
        let slice = slice.clone();
        self.write("fanning out", move |db| fan_out::fan_out(db, &slice))
            .await
    }

    async fn due_destinations(&self, holder: &Holder, now: Timestamp) -> Result<DueDestinations, StoreError> {
        let (holder, claims) = (holder.clone(), self.claims.clone());
        self.read_latest("looking for due deliveries", move |db| {
            outbox::due(db, &claims, &holder, now)
        })
        .await
    }

    async fn claim_deliveries(&self, claim: &ClaimDeliveries) -> Result<Vec<ClaimedDelivery>, StoreError> {
        let (claim, claims) = (claim.clone(), self.claims.clone());
        let handover = self
            .writer()?
            .run(Kind::Read, "claiming deliveries", move |db| {
                outbox_claim::claim(db, &claims, &claim)
            })
            .await?;
        Ok(handover.take())
    }

    async fn record_attempts(&self, attempts: &[AttemptRecord]) -> Result<Recorded, StoreError> {
        let (attempts, claims) = (attempts.to_vec(), self.claims.clone());
        self.write("recording attempts", move |db| {
            outbox::record(db, &claims, &attempts)
        })
        .await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<EventRow>, StoreError> {
        let query = query.clone();
        self.list("listing events", move |db| operate::events(db, &query))
            .await
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventDetail>, StoreError> {
        let id = id.clone();
        self.list("reading an event", move |db| operate::event(db, &id))
            .await
    }

    async fn replay(&self, replay: &ReplayRequest, now: Timestamp) -> Result<u64, StoreError> {
        let replay = replay.clone();
        self.write("replaying an event", move |db| operate::replay(db, &replay, now))
            .await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRow>, StoreError> {
        let query = query.clone();
        self.list("listing dead letters", move |db| {
            operate::dead_letters(db, &query)
        })
        .await
    }

    async fn redrive(&self, query: &DeadLetterQuery, now: Timestamp) -> Result<u64, StoreError> {
        let query = query.clone();
        self.write("redriving dead letters", move |db| {
            operate::redrive(db, &query, now)
        })
        .await
    }

    async fn quarantine(&self, limit: usize) -> Result<Vec<QuarantineRow>, StoreError> {
        self.list("listing the quarantine", move |db| quarantine::list(db, limit))
            .await
    }

    async fn redrive_quarantine(
        &self,
        connection: &ConnectionName,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let connection = connection.clone();
        self.write("redriving the quarantine", move |db| {
            quarantine::redrive(db, &connection, now)
        })
        .await
    }

    async fn set_flow(&self, set: &SetFlow) -> Result<(), StoreError> {
        let set = set.clone();
        self.write("pausing or resuming a subscription", move |db| {
            control::set_flow(db, &set)
        })
        .await
    }

    async fn paused(&self) -> Result<Vec<PauseRow>, StoreError> {
        self.list("listing pauses", control::paused).await
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.list("reading the epoch", |db| control::epoch(db)).await
    }

    async fn recover(&self, recovery: &Recovery) -> Result<Recovered, StoreError> {
        let recovery = recovery.clone();
        self.write("recovering", move |db| control::recover(db, &recovery))
            .await
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.list("listing the audit", move |db| control::audit(db, limit))
            .await
    }

    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        self.list("listing cursors", feed::cursors).await
    }

    async fn backlog(&self, connection: &ConnectionName) -> Result<Backlog, StoreError> {
        let connection = connection.clone();
        self.list("counting a backlog", move |db| operate::backlog(db, &connection))
            .await
    }

    async fn depths(&self) -> Result<BTreeMap<ConnectionName, Depths>, StoreError> {
        self.list("counting what waits", depths::depths).await
    }

    async fn sweep(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        let (sweep, claims) = (sweep.clone(), self.claims.clone());
        self.write("sweeping", move |db| sweep::sweep(db, &claims, &sweep))
            .await
    }

    async fn standings(&self, subscription: &SubscriptionName) -> Result<Vec<StandingRow>, StoreError> {
        let subscription = subscription.clone();
        self.list("listing standings", move |db| {
            fan_out::standings(db, &subscription)
        })
        .await
    }

    async fn deliveries_by_state(&self, destination: &DestinationName) -> Result<DeliveryCounts, StoreError> {
        let destination = destination.clone();
        self.list("counting deliveries", move |db| {
            operate::deliveries_by_state(db, &destination)
        })
        .await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<ClaimedDelivery>, StoreError> {
        self.list("reading a delivery", move |db| outbox_rows::find(db, id))
            .await
    }
}

#[cfg(test)]
mod tests;
