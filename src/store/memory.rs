//! The store in memory: the executable specification of [`Store`], for tests and the simulation.
//!
//! One mutex over ordered maps, so that every operation is one transaction and every answer repeats. Nothing is
//! durable: what stands for a crash is [`MemoryStore::reopened`]. Operations check before they write, because
//! nothing is rolled back. It must not know what the other stores look like.

mod control;
mod definitions;
mod fan_out;
mod inbox;
mod intake;
mod lease;
mod operate;
mod outbox;
mod polling;
mod roll;
mod stage;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use courier_sdk::{ConnectionName, FeedName, RecordId};
use jiff::Timestamp;

use self::state::State;
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

/// A store that lives as long as its last clone.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers the store as the next process finds it: claims of deliveries are lost, leases have lapsed, fences
    /// stay.
    #[must_use]
    pub fn reopened(&self) -> Self {
        self.state().forget_what_is_volatile();
        self.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn define(&self, definitions: &Definitions, now: Timestamp) -> Result<(), StoreError> {
        self.state().define(definitions, now)
    }

    async fn acquire_lease(
        &self,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Option<Fence>, StoreError> {
        Ok(self.state().acquire_lease(request, now))
    }

    async fn renew_leases(
        &self,
        renewal: &RenewLeases,
        now: Timestamp,
    ) -> Result<BTreeMap<ConnectionName, Fence>, StoreError> {
        Ok(self.state().renew_leases(renewal, now))
    }

    async fn release_lease(&self, connection: &ConnectionName, fence: Fence) -> Result<(), StoreError> {
        self.state().release_lease(connection, fence);
        Ok(())
    }

    async fn feed(&self, connection: &ConnectionName, feed: &FeedName) -> Result<FeedState, StoreError> {
        Ok(self.state().feed(connection, feed))
    }

    async fn accept_page(&self, page: &AcceptPage) -> Result<Accepted, StoreError> {
        self.state().accept_page(page)
    }

    async fn stage_page(&self, page: &AcceptPage) -> Result<(), StoreError> {
        self.state().stage_page(page)
    }

    async fn release_stage(&self, release: &ReleaseStage) -> Result<Released, StoreError> {
        self.state().release_stage(release)
    }

    async fn abandon_poll(&self, poll: &PollRef) -> Result<Discarded, StoreError> {
        self.state().abandon_poll(poll)
    }

    async fn set_cursor(&self, set: &SetCursor) -> Result<(), StoreError> {
        self.state().set_cursor(set)
    }

    async fn roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError> {
        Ok(self.state().roll(connection, feed, after, limit))
    }

    async fn off_roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        ids: &[RecordId],
    ) -> Result<Vec<RecordId>, StoreError> {
        Ok(self.state().off_roll(connection, feed, ids))
    }

    async fn keep_roll(&self, keep: &KeepRoll) -> Result<Kept, StoreError> {
        self.state().keep_roll(keep)
    }

    async fn claim_changes(&self, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, StoreError> {
        self.state().claim_changes(claim)
    }

    async fn next_change_due(&self, connection: &ConnectionName) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state().connection(connection).inbox.next_due())
    }

    async fn settle_changes(&self, settle: &SettleChanges) -> Result<Settled, StoreError> {
        self.state().settle_changes(settle)
    }

    async fn fan_out_view(
        &self,
        connection: &ConnectionName,
        lane: &Lane,
        limit: usize,
    ) -> Result<FanOutView, StoreError> {
        Ok(self.state().fan_out_view(connection, lane, limit))
    }

    async fn fan_out(&self, slice: &FanOut) -> Result<(), StoreError> {
        self.state().fan_out(slice)
    }

    async fn due_destinations(&self, holder: &Holder, now: Timestamp) -> Result<DueDestinations, StoreError> {
        Ok(self.state().due_destinations(holder, now))
    }

    async fn claim_deliveries(&self, claim: &ClaimDeliveries) -> Result<Vec<ClaimedDelivery>, StoreError> {
        Ok(self.state().claim_deliveries(claim))
    }

    async fn record_attempts(&self, attempts: &[AttemptRecord]) -> Result<Recorded, StoreError> {
        Ok(self.state().record_attempts(attempts))
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<EventRow>, StoreError> {
        Ok(self.state().events(query))
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventDetail>, StoreError> {
        Ok(self.state().event(id))
    }

    async fn replay(&self, replay: &ReplayRequest, now: Timestamp) -> Result<u64, StoreError> {
        Ok(self.state().replay(replay, now))
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRow>, StoreError> {
        Ok(self.state().dead_letters(query))
    }

    async fn redrive(&self, query: &DeadLetterQuery, now: Timestamp) -> Result<u64, StoreError> {
        Ok(self.state().redrive(query, now))
    }

    async fn quarantine(&self, limit: usize) -> Result<Vec<QuarantineRow>, StoreError> {
        Ok(self.state().quarantine(limit))
    }

    async fn redrive_quarantine(
        &self,
        connection: &ConnectionName,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        Ok(self.state().redrive_quarantine(connection, now))
    }

    async fn set_flow(&self, set: &SetFlow) -> Result<(), StoreError> {
        self.state().set_flow(set)
    }

    async fn paused(&self) -> Result<Vec<PauseRow>, StoreError> {
        Ok(self.state().paused())
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(self.state().epoch())
    }

    async fn recover(&self, recovery: &Recovery) -> Result<Recovered, StoreError> {
        Ok(self.state().recover(recovery))
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        Ok(self.state().audit(limit))
    }

    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        Ok(self.state().cursors())
    }

    async fn backlog(&self, connection: &ConnectionName) -> Result<Backlog, StoreError> {
        Ok(self.state().backlog(connection))
    }

    async fn depths(&self) -> Result<BTreeMap<ConnectionName, Depths>, StoreError> {
        Ok(self.state().depths())
    }

    async fn sweep(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        Ok(self.state().sweep(sweep))
    }

    async fn standings(&self, subscription: &SubscriptionName) -> Result<Vec<StandingRow>, StoreError> {
        Ok(self.state().standings(subscription))
    }

    async fn deliveries_by_state(&self, destination: &DestinationName) -> Result<DeliveryCounts, StoreError> {
        Ok(self.state().deliveries_by_state(destination))
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<ClaimedDelivery>, StoreError> {
        Ok(self.state().delivery(id))
    }
}
