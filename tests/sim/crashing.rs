//! The store as one life sees it: each call can be its last, before or after it took effect.
//!
//! It also notes what was committed, which is all that the checker knows of the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use courier_sdk::{ConnectionName, FeedName, RecordId};
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery, DeliveryId, Fence};
use ehr_courier::domain::event::Change;
use ehr_courier::domain::identity::EventId;
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::store::{
    AcceptPage, Accepted, AuditRow, Backlog, ClaimChanges, ClaimDeliveries, ClaimedChange, CursorRow,
    DeadLetterQuery, DeadLetterRow, Definitions, DeliveryCounts, Depths, Discarded, DueDestinations, Epoch,
    EventDetail, EventQuery, EventRow, FanOut, FanOutView, FeedState, Holder, KeepRoll, Kept, Lane,
    LeaseRequest, PauseRow, PollRef, Progress, QuarantineRow, Recorded as RecordedCounts, Recovered,
    Recovery, ReleaseStage, Released, RenewLeases, ReplayRequest, SetCursor, SetFlow, SettleChanges,
    SettleResult, Settled, StandingRow, Store, StoreError, Sweep, Swept,
};
use jiff::Timestamp;

use crate::book::{Book, Recorded};
use crate::life::{Life, Op, Side};

/// One life's view of a store that outlives it.
pub(crate) struct Crashing<S> {
    pub(crate) inner: S,
    pub(crate) life: Arc<Life>,
    pub(crate) book: Arc<Book>,
}

/// Passes a call through the script; `$note` sees what took effect before the script does.
macro_rules! pass {
    ($self:ident, $op:ident, $call:expr) => {
        pass!($self, $op, $call, |_| {})
    };
    ($self:ident, $op:ident, $call:expr, $note:expr) => {{
        $self.life.at(Op::$op, Side::Before).await;
        let result = $call.await;
        if let Err(StoreError::Fenced { .. }) = &result {
            $self.book.open().fenced += 1;
        }
        if let Ok(value) = &result {
            $note(value);
        }
        $self.life.at(Op::$op, Side::After).await;
        result
    }};
}

impl<S> Crashing<S> {
    fn note_handed(&self, page: &AcceptPage) {
        let connection = page.poll.connection.to_string();
        let mut pages = self.book.open();
        let tick = pages.next();
        for change in &page.changes {
            if let Some(version) = version_of(&connection, change) {
                pages.durable.entry(version).or_insert(tick);
            }
        }
        let feed = (connection, page.poll.feed.to_string());
        match page.progress {
            Progress::Slice => {}
            Progress::Page(_) | Progress::Inconclusive => pages.handed.push((tick, self.life.number, feed)),
            Progress::Done { .. } => {
                pages.complete.entry(feed.clone()).or_insert(tick);
                pages.completed.push((tick, feed.clone()));
                pages.handed.push((tick, self.life.number, feed));
            }
        }
    }

    fn note_settled(&self, settle: &SettleChanges) {
        let connection = settle.connection.to_string();
        let mut pages = self.book.open();
        let tick = pages.next();
        for settlement in &settle.settlements {
            if let SettleResult::Fetched(change) | SettleResult::Keep { change, .. } = &settlement.result
                && let Some(version) = version_of(&connection, change)
            {
                pages.durable.entry(version).or_insert(tick);
            }
        }
        pages.settled.push((tick, self.life.number, connection));
    }

    fn note_recorded(&self, attempts: &[AttemptRecord], counts: RecordedCounts) {
        let mut pages = self.book.open();
        let tick = pages.next();
        pages.fenced += counts.fenced;
        if counts.fenced > 0 {
            // Which of them were left out is not said; the lives concerned stood still, which explains repeats.
            return;
        }
        for attempt in attempts {
            if let Some((subscription, event_id)) = pages.claims.get(&attempt.id.0).cloned() {
                pages.recorded.push(Recorded {
                    tick,
                    subscription,
                    event_id,
                    delivered: matches!(attempt.outcome, AttemptOutcome::Delivered { .. }),
                });
            }
        }
    }

    fn note_claimed(&self, claimed: &[ClaimedDelivery]) {
        let mut pages = self.book.open();
        for one in claimed {
            let names = (one.delivery.subscription.to_string(), one.event.id.to_string());
            pages.claims.insert(one.delivery.id.0, names);
        }
    }
}

fn version_of(connection: &str, change: &Change) -> Option<(crate::book::RecordRef, u64)> {
    let number = change.version_id.as_ref()?.parse().ok()?;
    let key = &change.key;
    let record = (
        connection.to_owned(),
        key.record_type.to_string(),
        key.id.to_string(),
    );
    Some((record, number))
}

#[async_trait]
impl<S: Store> Store for Crashing<S> {
    async fn define(&self, definitions: &Definitions, now: Timestamp) -> Result<(), StoreError> {
        pass!(self, Other, self.inner.define(definitions, now), |(): &()| {
            let names = definitions
                .subscriptions
                .iter()
                .map(|subscription| subscription.name.to_string())
                .collect();
            self.book.open().define(&names);
        })
    }

    async fn acquire_lease(
        &self,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Option<Fence>, StoreError> {
        pass!(self, Other, self.inner.acquire_lease(request, now))
    }

    async fn renew_leases(
        &self,
        renewal: &RenewLeases,
        now: Timestamp,
    ) -> Result<BTreeMap<ConnectionName, Fence>, StoreError> {
        pass!(self, Other, self.inner.renew_leases(renewal, now))
    }

    async fn release_lease(&self, connection: &ConnectionName, fence: Fence) -> Result<(), StoreError> {
        pass!(self, Other, self.inner.release_lease(connection, fence))
    }

    async fn feed(&self, connection: &ConnectionName, feed: &FeedName) -> Result<FeedState, StoreError> {
        pass!(self, Other, self.inner.feed(connection, feed))
    }

    async fn accept_page(&self, page: &AcceptPage) -> Result<Accepted, StoreError> {
        pass!(self, AcceptPage, self.inner.accept_page(page), |_: &Accepted| {
            self.note_handed(page);
        })
    }

    async fn stage_page(&self, page: &AcceptPage) -> Result<(), StoreError> {
        pass!(self, StagePage, self.inner.stage_page(page), |(): &()| self
            .note_handed(page))
    }

    async fn release_stage(&self, release: &ReleaseStage) -> Result<Released, StoreError> {
        pass!(self, ReleaseStage, self.inner.release_stage(release))
    }

    async fn abandon_poll(&self, poll: &PollRef) -> Result<Discarded, StoreError> {
        let abandoned = |discarded: &Discarded| {
            if discarded.versions > 0 {
                let feed = (poll.connection.to_string(), poll.feed.to_string());
                let mut pages = self.book.open();
                let tick = pages.next();
                pages.given_up.push((tick, self.life.number, feed));
                *pages.counts.entry("stages given up").or_default() += 1;
            }
        };
        pass!(self, AbandonPoll, self.inner.abandon_poll(poll), abandoned)
    }

    async fn set_cursor(&self, set: &SetCursor) -> Result<(), StoreError> {
        pass!(self, Other, self.inner.set_cursor(set))
    }

    async fn roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError> {
        pass!(self, Other, self.inner.roll(connection, feed, after, limit))
    }

    async fn off_roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        ids: &[RecordId],
    ) -> Result<Vec<RecordId>, StoreError> {
        pass!(self, Other, self.inner.off_roll(connection, feed, ids))
    }

    async fn keep_roll(&self, keep: &KeepRoll) -> Result<Kept, StoreError> {
        pass!(self, Other, self.inner.keep_roll(keep), |_: &Kept| {
            let connection = keep.connection.to_string();
            let record = |id: &RecordId| (connection.clone(), keep.record_type.to_string(), id.to_string());
            let left_out = keep.missing.iter().map(record);
            self.book
                .open()
                .left_out
                .extend(left_out.map(|record| (record, keep.at)));
        })
    }

    async fn claim_changes(&self, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, StoreError> {
        pass!(self, ClaimChanges, self.inner.claim_changes(claim))
    }

    async fn next_change_due(&self, connection: &ConnectionName) -> Result<Option<Timestamp>, StoreError> {
        pass!(self, Other, self.inner.next_change_due(connection))
    }

    async fn settle_changes(&self, settle: &SettleChanges) -> Result<Settled, StoreError> {
        pass!(
            self,
            SettleChanges,
            self.inner.settle_changes(settle),
            |settled: &Settled| {
                self.note_settled(settle);
                let mut pages = self.book.open();
                *pages.counts.entry("superseded versions").or_default() += settled.superseded;
                *pages.counts.entry("rows shown again under way").or_default() += settled.shown_again;
                *pages.counts.entry("quarantined").or_default() += settled.quarantined;
            }
        )
    }

    async fn fan_out_view(
        &self,
        connection: &ConnectionName,
        lane: &Lane,
        limit: usize,
    ) -> Result<FanOutView, StoreError> {
        pass!(self, Other, self.inner.fan_out_view(connection, lane, limit))
    }

    async fn fan_out(&self, slice: &FanOut) -> Result<(), StoreError> {
        pass!(self, FanOut, self.inner.fan_out(slice), |(): &()| {
            let mut pages = self.book.open();
            let mut count = |what: &'static str, by: usize| {
                *pages.counts.entry(what).or_default() += by as u64;
            };
            count("suspensions", slice.suspended.len());
            count(
                "slices that end within an event",
                usize::from(slice.to.within.is_some()),
            );
            count(
                "slices of a lane of its own",
                usize::from(slice.lane != Lane::Common),
            );
        })
    }

    async fn due_destinations(&self, holder: &Holder, now: Timestamp) -> Result<DueDestinations, StoreError> {
        pass!(self, Other, self.inner.due_destinations(holder, now))
    }

    async fn claim_deliveries(&self, claim: &ClaimDeliveries) -> Result<Vec<ClaimedDelivery>, StoreError> {
        pass!(
            self,
            ClaimDeliveries,
            self.inner.claim_deliveries(claim),
            |claimed: &Vec<ClaimedDelivery>| self.note_claimed(claimed)
        )
    }

    async fn record_attempts(&self, attempts: &[AttemptRecord]) -> Result<RecordedCounts, StoreError> {
        pass!(
            self,
            RecordAttempts,
            self.inner.record_attempts(attempts),
            |counts: &RecordedCounts| self.note_recorded(attempts, *counts)
        )
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<EventRow>, StoreError> {
        pass!(self, Other, self.inner.events(query))
    }

    async fn event(&self, id: &EventId) -> Result<Option<EventDetail>, StoreError> {
        pass!(self, Other, self.inner.event(id))
    }

    async fn replay(&self, replay: &ReplayRequest, now: Timestamp) -> Result<u64, StoreError> {
        pass!(self, Other, self.inner.replay(replay, now))
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRow>, StoreError> {
        pass!(self, Other, self.inner.dead_letters(query))
    }

    async fn redrive(&self, query: &DeadLetterQuery, now: Timestamp) -> Result<u64, StoreError> {
        pass!(self, Other, self.inner.redrive(query, now))
    }

    async fn quarantine(&self, limit: usize) -> Result<Vec<QuarantineRow>, StoreError> {
        pass!(self, Other, self.inner.quarantine(limit))
    }

    async fn redrive_quarantine(
        &self,
        connection: &ConnectionName,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        pass!(self, Other, self.inner.redrive_quarantine(connection, now))
    }

    async fn set_flow(&self, set: &SetFlow) -> Result<(), StoreError> {
        pass!(self, Other, self.inner.set_flow(set))
    }

    async fn paused(&self) -> Result<Vec<PauseRow>, StoreError> {
        pass!(self, Other, self.inner.paused())
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        pass!(self, Other, self.inner.epoch())
    }

    async fn recover(&self, recovery: &Recovery) -> Result<Recovered, StoreError> {
        pass!(self, Other, self.inner.recover(recovery))
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        pass!(self, Other, self.inner.audit(limit))
    }

    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        pass!(self, Other, self.inner.cursors())
    }

    async fn backlog(&self, connection: &ConnectionName) -> Result<Backlog, StoreError> {
        pass!(self, Other, self.inner.backlog(connection))
    }

    async fn depths(&self) -> Result<BTreeMap<ConnectionName, Depths>, StoreError> {
        pass!(self, Other, self.inner.depths())
    }

    async fn sweep(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        pass!(self, Other, self.inner.sweep(sweep))
    }

    async fn standings(&self, subscription: &SubscriptionName) -> Result<Vec<StandingRow>, StoreError> {
        pass!(self, Other, self.inner.standings(subscription))
    }

    async fn deliveries_by_state(&self, destination: &DestinationName) -> Result<DeliveryCounts, StoreError> {
        pass!(self, Other, self.inner.deliveries_by_state(destination))
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<ClaimedDelivery>, StoreError> {
        pass!(self, Other, self.inner.delivery(id))
    }
}
