//! Handing a page over: known changes left out, the rest identified, cut into slices, and given to the store
//! together with the place where the poll goes on.

mod sabotaged;
mod slice;

use std::ops::ControlFlow;

use courier_sdk::{Aim, ChangePage, ChangeRef, ConnectionName, Cursor, Next, PageOrder, Resume, VersionRule};
use metrics::Label;
use tracing::{info, warn};

use self::slice::Slice;
use super::Worker;
use super::backfill::{self, Beside, Past};
use super::connection::{Connection, Feed};
use super::reconcile::{self, Horizon};
use super::traces::Begun;
use super::turn::TurnEnd;
use super::{context, overlap, roll, stage, storm};
use crate::domain::delivery::Fence;
use crate::domain::event::Change;
use crate::domain::identify::{id_at_first_rung, identify};
use crate::domain::identity::EventId;
use crate::domain::release::{self, Placed};
use crate::store::{
    AcceptPage, Accepted, BaselineProof, ContextRule, FeedState, PollId, PollRef, Progress, Sights,
    StoreError,
};

/// How many entries without a usable id a log line names by their places: enough to find them at the source.
const PLACES_TOLD_MAX: usize = 10;

/// What a poll is for.
pub(super) enum Errand {
    /// To find changes.
    Live(Beside),
    /// To list everything there is, but for what is left to the live feed.
    Sweep(Horizon),
    /// To bring what lies before the live feed's beginning.
    Backfill(Past),
}

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
    brought: u64,
    errand: Errand,
}

impl<'a> Poll<'a> {
    /// Begins a poll, or goes on with one that was left in the middle.
    pub(super) fn new(
        connection: &'a Connection,
        feed: &'a Feed,
        fence: Fence,
        (state, errand): (FeedState, Errand),
    ) -> Self {
        Self {
            connection,
            feed,
            fence,
            cursor: state.cursor,
            resume: state.resume,
            span: None,
            id: state.poll,
            brought: 0,
            errand,
        }
    }

    /// What the connector is asked for.
    pub(super) fn aim(&self) -> Aim {
        match &self.errand {
            Errand::Live(live) => live.aim,
            Errand::Sweep(_) => Aim::Everything,
            Errand::Backfill(past) => past.aim(),
        }
    }

    /// How many pages a turn takes: a backfill looks after each whether others come first.
    pub(super) fn pages_per_turn(&self, worker: &Worker) -> usize {
        match self.errand {
            Errand::Live(_) | Errand::Sweep(_) => worker.limits.pages_per_turn,
            Errand::Backfill(_) => 1,
        }
    }

    /// The cursor that the connector is asked to go on from: a sweep knows by the live feed's where that began.
    pub(super) fn asks_from(&self) -> Option<&Cursor> {
        match &self.errand {
            Errand::Sweep(horizon) => Some(horizon.cursor()),
            Errand::Live(_) | Errand::Backfill(_) => self.cursor.as_ref(),
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
        let listed = roll::gather(worker, self, &page);
        let order = self.order_of(&page);
        let mut changes = self.taken(worker, page.changes, asked_at).await;
        let joins = roll::joins(worker, self, listed, &changes).await?;
        if page.order != order {
            changes = oldest_first(changes);
        }
        context::take_along(self.connection, self.feed, &mut changes, &page.included);
        if order == PageOrder::NewestFirst
            && let Next::Inconclusive { .. } = page.next
        {
            let discarded = worker.store.abandon_poll(&self.reference()).await?;
            stage::note_lost(worker, self, discarded);
            return Ok(self.go_on(worker, page.next, order, page.fresh_as_of));
        }
        let moves_nothing = matches!(&page.next, Next::Done(cursor) if self.cursor.as_ref() == Some(cursor))
            && self.resume.is_none()
            && matches!(&self.errand, Errand::Live(live) if live.baseline == BaselineProof::Unproven);
        let progress = self.progress(&page.next);
        if changes.is_empty() && page.oversized.is_empty() && joins.is_none() && moves_nothing {
            // The commonest poll of all, an empty one, costs no write.
            self.conclude(worker).await?;
            self.note_complete(worker, page.fresh_as_of);
            return Ok(ControlFlow::Break(TurnEnd::Complete));
        }
        let template = AcceptPage {
            poll: self.reference(),
            from: self.cursor.clone(),
            changes: Vec::new(),
            oversized: page.oversized,
            joins: None,
            progress: Progress::Slice,
            context: context_rule(self.feed),
            unchanged: self.connection.unchanged(self.feed),
            sights: sights(self.feed),
            fresh_as_of: page.fresh_as_of,
            at: worker.clock.now(),
        };
        if cfg!(sabotage = "cursor_before_commit") && order == PageOrder::OldestFirst {
            return self
                .cursor_before_commit(worker, page.next, changes, template)
                .await;
        }
        self.give_slices(
            worker,
            order,
            Slice::of(changes, joins.as_ref()),
            (template, progress),
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
        let shown_again = self.aim() == Aim::Present && page.order == PageOrder::NewestFirst;
        let next = self.go_on(worker, page.next, order, page.fresh_as_of);
        if shown_again && matches!(next, ControlFlow::Break(TurnEnd::Complete)) {
            // A history's first answer only finds out where the feed begins; what it shows the next one hands over.
            return Ok(ControlFlow::Break(TurnEnd::MoreToCome));
        }
        Ok(next)
    }

    /// Gives a page to the store, slice after slice; the last one carries the page's own progress.
    async fn give_slices(
        &mut self,
        worker: &Worker,
        order: PageOrder,
        mut slices: Vec<Slice>,
        (template, progress): (AcceptPage, Progress),
    ) -> Result<(), StoreError> {
        let Slice { changes: last, joins } = slices.pop().unwrap_or_default();
        for Slice { changes, joins } in slices {
            let slice = AcceptPage {
                changes,
                joins,
                oversized: Vec::new(),
                ..template.clone()
            };
            self.give(worker, order, slice).await?;
        }
        let whole = AcceptPage {
            changes: last,
            joins,
            progress,
            ..template
        };
        self.give(worker, order, whole).await
    }

    /// Draws the conclusions from a poll that is complete and handed over.
    async fn conclude(&self, worker: &Worker) -> Result<(), StoreError> {
        storm::end_poll(worker, self.connection, self.feed).await?;
        let disappeared = roll::conclude(worker, self.connection, self.feed, self.fence).await?;
        match &self.errand {
            Errand::Live(_) => {}
            Errand::Sweep(_) => reconcile::tell(self.connection, self.feed, disappeared),
            Errand::Backfill(_) => backfill::tell(worker, self.connection, self.feed).await?,
        }
        Ok(())
    }

    /// What of a page is handed over: all but what is known, and what a sweep or a backfill leaves to its live feed.
    async fn taken(
        &mut self,
        worker: &Worker,
        changes: Vec<ChangeRef>,
        asked_at: jiff::Timestamp,
    ) -> Vec<Change> {
        let shown = match &self.errand {
            Errand::Live(_) => changes,
            Errand::Sweep(horizon) => horizon.cut(changes),
            Errand::Backfill(past) => past.cut(changes),
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
                baseline: self.proof(cursor),
            },
            Next::Inconclusive { .. } => Progress::Inconclusive,
        }
    }

    /// What the poll proves, if it is complete with this cursor.
    fn proof(&self, cursor: &Cursor) -> BaselineProof {
        match &self.errand {
            Errand::Live(live) => live.baseline,
            Errand::Sweep(_) => BaselineProof::Unproven,
            Errand::Backfill(past) => past.proof(self.connection, cursor),
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
                match self.errand {
                    Errand::Live(_) => {
                        let cursor = self.cursor.as_ref();
                        let stood_at = cursor.and_then(|cursor| self.connection.connector.describe(cursor));
                        overlap::observe(worker, self.connection, self.feed, (stood_at, &accepted));
                    }
                    Errand::Sweep(_) => reconcile::observe(worker, self.connection, self.feed, &accepted),
                    Errand::Backfill(_) => backfill::observe(worker, self.connection, self.feed, &accepted),
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
                let wait = matches!(self.errand, Errand::Sweep(_)).then_some(self.feed.every);
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
