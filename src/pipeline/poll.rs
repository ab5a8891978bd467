//! Handing a page over: known changes left out, the rest identified, cut into slices, and given to the store
//! together with the place where the poll goes on.

mod sabotaged;

use std::ops::ControlFlow;

use courier_sdk::{ChangePage, ChangeRef, ConnectionName, Cursor, Next, PageOrder, Resume, VersionRule};
use metrics::Label;
use tracing::{info, warn};

use super::Worker;
use super::connection::{Connection, Feed};
use super::reconcile::{self, Horizon};
use super::traces::Begun;
use super::turn::{TurnEnd, proves_baseline};
use super::{overlap, roll, stage, storm};
use crate::domain::delivery::Fence;
use crate::domain::event::Change;
use crate::domain::identify::{id_at_first_rung, identify};
use crate::domain::identity::EventId;
use crate::domain::release::{self, Placed};
use crate::store::{
    AcceptPage, Accepted, BaselineProof, ContextRule, FeedState, PollId, PollRef, Progress, SLICE_BYTES_MAX,
    SLICE_ROWS_MAX, Sights, StoreError,
};

/// How many entries without a usable id a log line names by their places: enough to find them at the source.
const PLACES_TOLD_MAX: usize = 10;

/// A poll under way.
pub(super) struct Poll<'a> {
    /// The connection.
    pub(super) connection: &'a Connection,
    /// The feed.
    pub(super) feed: &'a Feed,
    /// The lease.
    pub(super) fence: Fence,
    /// The cursor that it started from.
    pub(super) cursor: Option<Cursor>,
    /// Where it goes on.
    pub(super) resume: Option<Resume>,
    /// The span of the answer at hand, where it is traced.
    pub(super) span: Option<Begun>,
    id: PollId,
    baseline: BaselineProof,
    brought: u64,
    /// What is left to the live feed, where this is a sweep.
    horizon: Option<Horizon>,
}

impl<'a> Poll<'a> {
    /// Begins a poll, or goes on with one that was left in the middle.
    pub(super) fn new(
        connection: &'a Connection,
        feed: &'a Feed,
        fence: Fence,
        (state, horizon): (FeedState, Option<Horizon>),
    ) -> Self {
        let baseline = if proves_baseline(feed, &state) {
            BaselineProof::Proven
        } else {
            BaselineProof::Unproven
        };
        Self {
            connection,
            feed,
            fence,
            cursor: state.cursor,
            resume: state.resume,
            span: None,
            id: state.poll,
            baseline,
            brought: 0,
            horizon,
        }
    }

    /// The cursor that the connector is asked to go on from: a sweep knows by the live feed's where that began.
    pub(super) fn asks_from(&self) -> Option<&Cursor> {
        match &self.horizon {
            Some(horizon) => Some(horizon.cursor()),
            None => self.cursor.as_ref(),
        }
    }

    /// Names the poll to the store.
    pub(super) fn reference(&self) -> PollRef {
        PollRef {
            connection: self.connection.name.clone(),
            feed: self.feed.spec.name.clone(),
            fence: self.fence,
            poll: self.id,
        }
    }

    /// How many changes of the answer at hand were taken in, for its span; forgets them.
    pub(super) fn take_brought(&mut self) -> u64 {
        std::mem::take(&mut self.brought)
    }

    /// Hands a page over and says whether the poll goes on, or how the turn ends.
    ///
    /// # Errors
    /// [`StoreError`] when the store did not take it: then nothing after the last slice it took is remembered.
    pub(super) async fn hand_over(
        &mut self,
        worker: &Worker,
        page: ChangePage,
        asked_at: jiff::Timestamp,
    ) -> Result<ControlFlow<TurnEnd>, StoreError> {
        self.note_unusable(worker, &page.unusable);
        roll::gather(worker, self, &page);
        let order = self.order_of(&page);
        let mut changes = self.taken(worker, page.changes, asked_at).await;
        if page.order != order {
            changes = oldest_first(changes);
        }
        if order == PageOrder::NewestFirst
            && let Next::Inconclusive { .. } = page.next
        {
            let discarded = worker.store.abandon_poll(&self.reference()).await?;
            stage::note_lost(worker, self, discarded);
            return Ok(self.go_on(worker, page.next, order, page.fresh_as_of));
        }
        let moves_nothing = matches!(&page.next, Next::Done(cursor) if self.cursor.as_ref() == Some(cursor))
            && self.resume.is_none()
            && self.horizon.is_none();
        let progress = self.progress(&page.next);
        if changes.is_empty() && page.oversized.is_empty() && moves_nothing {
            // The commonest poll of all, an empty one, costs no write.
            self.conclude(worker).await?;
            self.note_complete(worker, page.fresh_as_of);
            return Ok(ControlFlow::Break(TurnEnd::Complete));
        }
        let mut slices = slices(changes);
        let last = slices.pop().unwrap_or_default();
        let template = AcceptPage {
            poll: self.reference(),
            from: self.cursor.clone(),
            changes: Vec::new(),
            oversized: page.oversized,
            progress: Progress::Slice,
            context: context_rule(self.feed),
            unchanged: self.connection.unchanged(self.feed),
            sights: sights(self.feed),
            fresh_as_of: page.fresh_as_of,
            at: worker.clock.now(),
        };
        if cfg!(sabotage = "cursor_before_commit") && order == PageOrder::OldestFirst {
            return self.cursor_before_commit(worker, page.next, last, template).await;
        }
        for changes in slices {
            let slice = AcceptPage {
                changes,
                oversized: Vec::new(),
                ..template.clone()
            };
            self.give(worker, order, slice).await?;
        }
        self.give(
            worker,
            order,
            AcceptPage {
                changes: last,
                progress,
                ..template
            },
        )
        .await?;
        if cfg!(sabotage = "cursor_with_the_first_page") && order == PageOrder::OldestFirst {
            self.cursor_with_the_first_page(worker, &page.next, page.fresh_as_of)
                .await?;
        }
        if order == PageOrder::OldestFirst
            && let Next::Done(_) = page.next
        {
            self.conclude(worker).await?;
        }
        Ok(self.go_on(worker, page.next, order, page.fresh_as_of))
    }

    /// Draws the conclusions from a poll that is complete and handed over.
    async fn conclude(&self, worker: &Worker) -> Result<(), StoreError> {
        storm::end_poll(worker, self.connection, self.feed).await?;
        let disappeared = roll::conclude(worker, self.connection, self.feed, self.fence).await?;
        if self.horizon.is_some() {
            reconcile::tell(self.connection, self.feed, disappeared);
        }
        Ok(())
    }

    /// What of a page is handed over: all but what is known, and what a sweep leaves to its live feed.
    async fn taken(
        &mut self,
        worker: &Worker,
        changes: Vec<ChangeRef>,
        asked_at: jiff::Timestamp,
    ) -> Vec<Change> {
        let shown = match &self.horizon {
            Some(horizon) => horizon.cut(changes),
            None => changes,
        };
        self.identified(worker, shown, asked_at).await
    }

    /// Leaves out what is known, and works out the rest's identities; what is new begins a trace.
    async fn identified(
        &mut self,
        worker: &Worker,
        changes: Vec<ChangeRef>,
        asked_at: jiff::Timestamp,
    ) -> Vec<Change> {
        let connection = &self.connection.name;
        let connector = &self.connection.connector;
        let rule = connector.version_rule(&self.feed.spec.record_type);
        let shown = changes.len();
        let unknown = leave_out_known(worker, connection, changes, &rule).await;
        metrics::counter!("courier_duplicates_suppressed_total", "by" => worker.dedup.name())
            .increment((shown - unknown.len()) as u64);
        if !unknown.is_empty() {
            self.span = worker.begin_trace(asked_at);
        }
        let trace = self.span.as_ref().map(|span| span.context);
        unknown
            .into_iter()
            .map(|change| Change {
                trace,
                ..identify(connection, change, &rule, |record| connector.meaning(record))
            })
            .collect()
    }

    /// Tells of what named no record and so can become no event.
    fn note_unusable(&self, worker: &Worker, places: &[usize]) {
        if places.is_empty() {
            return;
        }
        let connection = &self.connection.name;
        let first = places.get(..PLACES_TOLD_MAX).unwrap_or(places);
        warn!(
            %connection, feed = %self.feed.spec.name, records = places.len(), places = ?first,
            "the answer holds entries without a usable id, which are left out"
        );
        let label = worker.watch.connections.of(connection.as_str());
        metrics::counter!("courier_unusable_entries_total", "connection" => label)
            .increment(places.len() as u64);
    }

    /// A poll of one page needs no stage: what is whole can be turned round at once.
    fn order_of(&self, page: &ChangePage) -> PageOrder {
        match (&page.next, &self.resume) {
            (Next::Done(_) | Next::Inconclusive { .. }, None) => PageOrder::OldestFirst,
            (Next::Page(_), None) | (_, Some(_)) => page.order,
        }
    }

    fn progress(&self, next: &Next) -> Progress {
        match next {
            Next::Page(resume) => Progress::Page(resume.clone()),
            Next::Done(cursor) => Progress::Done {
                cursor: cursor.clone(),
                baseline: self.baseline,
            },
            Next::Inconclusive { .. } => Progress::Inconclusive,
        }
    }

    async fn give(&mut self, worker: &Worker, order: PageOrder, slice: AcceptPage) -> Result<(), StoreError> {
        match order {
            PageOrder::NewestFirst => {
                let staged = slice.changes.len() as u64;
                self.brought += staged;
                worker.store.stage_page(&slice).await?;
                self.note_new(worker, staged);
                Ok(())
            }
            PageOrder::OldestFirst => {
                let accepted = worker.store.accept_page(&slice).await?;
                self.brought += accepted.appended + accepted.enqueued;
                self.note_new(worker, accepted.appended + accepted.enqueued + accepted.unchanged);
                if self.horizon.is_some() {
                    reconcile::observe(worker, self.connection, self.feed, &accepted);
                } else {
                    let cursor = self.cursor.as_ref();
                    let stood_at = cursor.and_then(|cursor| self.connection.connector.describe(cursor));
                    overlap::observe(worker, self.connection, self.feed, (stood_at, &accepted));
                }
                worker.announce(&self.connection.name, &accepted).await;
                Ok(())
            }
        }
    }

    /// Counts new versions for the storm guard. A feed's first poll brings all there is.
    fn note_new(&self, worker: &Worker, versions: u64) {
        if self.cursor.is_some() {
            storm::observe(worker, self.connection, self.feed, (self.id, versions));
        }
    }

    fn go_on(
        &mut self,
        worker: &Worker,
        next: Next,
        order: PageOrder,
        fresh_as_of: jiff::Timestamp,
    ) -> ControlFlow<TurnEnd> {
        match next {
            Next::Page(resume) => {
                self.resume = Some(resume);
                ControlFlow::Continue(())
            }
            // A complete stage is released at the feed's next turn, which then comes at once.
            Next::Done(_) if order == PageOrder::NewestFirst => ControlFlow::Break(TurnEnd::MoreToCome),
            Next::Done(_) => {
                self.note_complete(worker, fresh_as_of);
                ControlFlow::Break(TurnEnd::Complete)
            }
            Next::Inconclusive { reason } => {
                let (connection, feed) = (&self.connection.name, &self.feed.spec.name);
                warn!(%connection, %feed, reason, "the poll proved incomplete; the cursor stays");
                let labels = [
                    Label::new("connection", worker.watch.connections.of(connection.as_str())),
                    Label::new("class", "inconclusive"),
                ];
                metrics::counter!("courier_polls_failed_total", labels.iter()).increment(1);
                // Repeated at the feed's pace it would read the whole source every minute for nothing.
                let failures = self.connection.note_failure(feed, reason);
                let wait = self.horizon.as_ref().map(|_| self.feed.every);
                ControlFlow::Break(TurnEnd::Failed { failures, wait })
            }
        }
    }

    fn note_complete(&self, worker: &Worker, fresh_as_of: jiff::Timestamp) {
        self.connection
            .note_success(&self.feed.spec.name, worker.clock.now(), Some(fresh_as_of));
    }
}

impl Worker {
    /// Rings for what a hand-over brought, counts it, and remembers the accepted ids: only now, after the commit.
    pub(super) async fn announce(&self, connection: &ConnectionName, accepted: &Accepted) {
        self.dedup.mark(connection, &accepted.ids).await;
        let label = self.watch.connections.of(connection.as_str());
        metrics::counter!("courier_events_total", "connection" => label).increment(accepted.appended);
        metrics::counter!("courier_late_events_total").increment(accepted.late);
        metrics::counter!("courier_duplicates_suppressed_total", "by" => "store").increment(accepted.known);
        self.count_unchanged(connection, accepted.unchanged);
        if accepted.appended > 0 {
            self.bells.fan_out.ring(connection);
            info!(%connection, events = accepted.appended, late = accepted.late, "changes accepted");
        }
        if accepted.enqueued > 0 {
            self.bells.fetch.ring(connection);
        }
        if accepted.quarantined > 0 {
            warn!(%connection, records = accepted.quarantined, "records above the record limit went to quarantine");
        }
    }

    /// Counts versions that were not told of because nothing changed.
    pub(super) fn count_unchanged(&self, connection: &ConnectionName, versions: u64) {
        let label = self.watch.connections.of(connection.as_str());
        metrics::counter!("courier_unchanged_suppressed_total", "connection" => label).increment(versions);
    }
}

/// Turns a newest-first answer round.
fn oldest_first(changes: Vec<Change>) -> Vec<Change> {
    let placed: Vec<Placed<'_>> = changes
        .iter()
        .zip(0..)
        .map(|(change, place)| Placed {
            key: &change.key,
            order: change.order,
            place,
        })
        .collect();
    let order = release::oldest_first(&placed);
    let mut changes: Vec<Option<Change>> = changes.into_iter().map(Some).collect();
    let take = |index: usize| changes.get_mut(index).and_then(Option::take);
    order.into_iter().filter_map(take).collect()
}

/// Leaves out what is known to be accepted, by the ids that need no look at the record.
async fn leave_out_known(
    worker: &Worker,
    connection: &ConnectionName,
    changes: Vec<ChangeRef>,
    rule: &VersionRule,
) -> Vec<ChangeRef> {
    let ids: Vec<Option<EventId>> = changes
        .iter()
        .map(|change| id_at_first_rung(connection, change, rule).map(|(_, id)| id))
        .collect();
    let asked: Vec<EventId> = ids.iter().flatten().cloned().collect();
    if asked.is_empty() {
        return changes;
    }
    let mut seen = worker.dedup.seen(connection, &asked).await.into_iter();
    if cfg!(sabotage = "mark_before_commit") {
        worker.dedup.mark(connection, &asked).await;
    }
    changes
        .into_iter()
        .zip(ids)
        .filter(|(_, id)| id.is_none() || !seen.next().unwrap_or(false))
        .map(|(change, _)| change)
        .collect()
}

/// Whether a feed's records are told of with their context.
pub(super) fn context_rule(feed: &Feed) -> ContextRule {
    if feed.spec.include.is_empty() {
        ContextRule::None
    } else {
        ContextRule::Included
    }
}

fn sights(feed: &Feed) -> Sights {
    if feed.spec.filter.is_empty() {
        Sights::All
    } else {
        Sights::Filtered
    }
}

/// Cuts changes into slices that one transaction may hold; a larger record stands alone.
fn slices(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut slices: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = change
            .content
            .as_ref()
            .map_or(0, |content| content.record.bytes().len());
        match slices.last_mut() {
            Some(slice) if slice.len() < SLICE_ROWS_MAX && bytes + size <= SLICE_BYTES_MAX => {
                slice.push(change);
                bytes += size;
            }
            Some(_) | None => {
                slices.push(vec![change]);
                bytes = size;
            }
        }
    }
    slices
}
