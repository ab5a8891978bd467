//! What the atomic points 1 and 2 share: changes meet the ledger, and the verdicts are written.

use courier_sdk::{FeedName, Novelty, RecordKey};
use jiff::Timestamp;

use super::state::{AcceptedId, ConnectionState, InboxRow, QuarantinedChange};
use crate::domain::event::{Change, Event, VersionClue, VersionOrder};
use crate::domain::identity::EventId;
use crate::domain::ledger::{self, Baseline, LedgerView, Queue, RecordView, Source, Verdict};
use crate::store::batch::{
    Arrival, Batch, Effect, SHOWING_RENEWED_AFTER, Written, earlier, known_id, perhaps_returned, tally,
};
use crate::store::{Accepted, InboxId};

impl ConnectionState {
    /// Decides a batch and writes and counts what was decided.
    pub(super) fn take_in(&mut self, batch: &Batch<'_>, arrivals: &[Arrival]) -> Accepted {
        tally(arrivals, self.decide_and_write(batch, arrivals))
    }

    /// Decides a batch and writes what was decided.
    pub(super) fn decide_and_write(&mut self, batch: &Batch<'_>, arrivals: &[Arrival]) -> Vec<Written> {
        let changes: Vec<Change> = arrivals.iter().map(|(change, _)| change.clone()).collect();
        let mut view = self.ledger_view(batch, &changes);
        let verdicts = ledger::decide(batch.connection, &mut view, &changes, batch.source);
        let written = arrivals
            .iter()
            .zip(verdicts)
            .map(|(arrival, verdict)| self.write(batch, arrival, verdict))
            .collect();
        for (key, record) in view.records {
            if let Some(head) = record.head {
                self.heads.insert(key, head);
            }
        }
        written
    }

    fn ledger_view(&self, batch: &Batch<'_>, changes: &[Change]) -> LedgerView {
        let mut view = LedgerView {
            baseline: batch.baseline,
            unchanged: batch.unchanged,
            ..LedgerView::default()
        };
        for change in changes {
            let record = RecordView {
                head: self.heads.get(&change.key).cloned(),
                queue: self.queue_of(&change.key, Some(batch.feed)),
            };
            view.records.insert(change.key.clone(), record);
            if let VersionClue::Known(_, id) = &change.version
                && self.accepted.contains_key(id)
            {
                view.accepted.insert(id.clone());
            }
        }
        view
    }

    /// Whether a first sight on a feed proves a creation.
    pub(super) fn baseline_of(&self, feed: &FeedName) -> Baseline {
        self.feeds
            .get(feed)
            .map_or(Baseline::Unproven, |feed| feed.baseline)
    }

    /// A first sight is a creation only if the baseline was complete when the change was shown, and still is.
    pub(super) fn proven_by_both(&self, row: &InboxRow) -> Baseline {
        match row.baseline {
            Baseline::Unproven | Baseline::Forfeited => Baseline::Unproven,
            Baseline::Complete => self.baseline_of(&row.feed),
        }
    }

    /// A record waits behind the inbox and behind the stages of other feeds than its own.
    pub(super) fn queue_of(&self, key: &RecordKey, own: Option<&FeedName>) -> Queue {
        let in_inbox = self.inbox.holds(key);
        let in_stage = self.feeds.iter().any(|(name, feed)| {
            Some(name) != own && feed.stage.iter().any(|staged| staged.change.key == *key)
        });
        if in_inbox || in_stage {
            Queue::Waiting
        } else {
            Queue::Empty
        }
    }

    fn write(&mut self, batch: &Batch<'_>, arrival: &Arrival, verdict: Verdict) -> Written {
        let (change, fresh_as_of) = arrival;
        match verdict {
            Verdict::Append {
                version,
                event_id,
                kind,
                meaning,
                timeliness,
            } => {
                self.accept(&event_id, change.order, batch.at);
                let event = Event {
                    connection: batch.connection.clone(),
                    position: self.last_position + 1,
                    id: event_id.clone(),
                    key: change.key.clone(),
                    version,
                    version_id: change.version_id.clone(),
                    kind,
                    meaning,
                    changed_at: ledger::changed_at(change),
                    fresh_as_of: *fresh_as_of,
                    recorded_at: batch.at,
                    timeliness,
                    feed: batch.feed.clone(),
                    record: change.content.as_ref().map(|content| content.record.clone()),
                    context: change
                        .content
                        .as_ref()
                        .and_then(|content| content.context.clone()),
                    trace: change.trace,
                };
                self.append(event).of(Some(event_id))
            }
            Verdict::Silence { event_id } => {
                self.accept(&event_id, change.order, batch.at);
                Effect::Silenced.of(Some(event_id))
            }
            Verdict::Unchanged { event_id } => {
                self.accept(&event_id, change.order, batch.at);
                Effect::Unchanged.of(Some(event_id))
            }
            Verdict::Known { event_id } => {
                self.renew(&event_id, change.order, batch.at);
                Effect::Known.of(Some(event_id))
            }
            Verdict::Enqueue => self.enqueue(batch, arrival).of(None),
            Verdict::Confirm { event_id } => {
                let asked = perhaps_returned(&change.key, change.trace);
                let effect = self.enqueue(batch, &(asked, *fresh_as_of)).in_doubt();
                effect.of(event_id)
            }
            Verdict::Refuse => Effect::Refused.of(None),
        }
    }

    /// Appends an event; the unique index decides whether it is one.
    fn append(&mut self, event: Event) -> Effect {
        if self.event_ids.contains_key(&event.id) {
            return Effect::Known;
        }
        let timeliness = event.timeliness;
        self.last_position = event.position;
        self.event_ids.insert(event.id.clone(), event.position);
        self.log.insert(event.position, event);
        Effect::Appended(timeliness)
    }

    /// Enters an id as accepted, shown now.
    pub(super) fn accept(&mut self, id: &EventId, order: VersionOrder, at: Timestamp) {
        let accepted = AcceptedId {
            shown_at: at,
            stamp: order.stamp,
        };
        self.accepted.insert(id.clone(), accepted);
    }

    fn renew(&mut self, id: &EventId, order: VersionOrder, at: Timestamp) {
        match self.accepted.get_mut(id) {
            Some(accepted) if accepted.shown_at < earlier(at, SHOWING_RENEWED_AFTER) => {
                accepted.shown_at = at;
            }
            Some(_) => {}
            None => self.accept(id, order, at),
        }
    }

    fn enqueue(&mut self, batch: &Batch<'_>, arrival: &Arrival) -> Effect {
        match batch.source {
            Source::Inbox | Source::Read => Effect::Enqueued,
            Source::Page | Source::PageWithoutContext if self.is_quarantined_without_id(&arrival.0) => {
                Effect::Known
            }
            Source::Page | Source::PageWithoutContext => {
                let mut arrival = arrival.clone();
                // By its turn, what it refers to may be another version: it is gathered then.
                if let Some(content) = &mut arrival.0.content {
                    content.context = None;
                }
                self.put_into_inbox((batch.feed, batch.baseline), &arrival, batch.at);
                Effect::Enqueued
            }
        }
    }

    /// A change of which only the record is known cannot be told from a quarantined one: it waits for the operator
    /// with it.
    pub(super) fn is_quarantined_without_id(&self, change: &Change) -> bool {
        known_id(change).is_none()
            && change.content.is_none()
            && self
                .quarantine
                .values()
                .any(|row| known_id(&row.change).is_none() && row.change.key == change.key)
    }

    /// Puts a change into the inbox; a further showing of one that waits there raises that row's generation, even
    /// while it is claimed.
    pub(super) fn put_into_inbox(
        &mut self,
        (feed, baseline): (&FeedName, Baseline),
        arrival: &Arrival,
        at: Timestamp,
    ) {
        let (change, fresh_as_of) = arrival;
        if let Some(row) = self.waiting_row(change) {
            row.show_again(change, *fresh_as_of, at);
            return;
        }
        let id = InboxId(self.next_row());
        let row = InboxRow {
            feed: feed.clone(),
            change: change.clone(),
            fresh_as_of: *fresh_as_of,
            baseline,
            generation: 1,
            attempts: 0,
            claims: 0,
            due_at: at,
            claimed: None,
            written_at: at,
        };
        self.inbox.insert(id, row);
    }

    /// Whether a row waits that a change is a further showing of.
    pub(super) fn waits(&mut self, change: &Change) -> bool {
        self.waiting_row(change).is_some()
    }

    /// The row that a change is a further showing of: by event id where that is known, else the last unnamed one of
    /// the record if it carries the same content (or, like this one, none).
    fn waiting_row(&mut self, change: &Change) -> Option<&mut InboxRow> {
        let key = &change.key;
        match known_id(change) {
            Some(id) => self.inbox.last_of(key, |row| known_id(&row.change) == Some(id)),
            None => self
                .inbox
                .last_of(key, |row| known_id(&row.change).is_none())
                .filter(|row| is_same_unnamed(&row.change, change)),
        }
    }

    /// Puts a change into quarantine, unless it is there; answers whether it is new there.
    pub(super) fn put_into_quarantine(&mut self, row: QuarantinedChange) -> bool {
        let id = known_id(&row.change);
        let there = self.quarantine.values().any(|other| match id {
            Some(_) => known_id(&other.change) == id,
            None => is_same_unnamed(&other.change, &row.change),
        });
        if !there {
            let number = self.next_row();
            self.quarantine.insert(number, row);
        }
        !there
    }
}

impl InboxRow {
    fn show_again(&mut self, change: &Change, fresh_as_of: Timestamp, at: Timestamp) {
        let mut shown = change.clone();
        shown.content = shown.content.or_else(|| self.change.content.take());
        shown.trace = self.change.trace.or(shown.trace);
        if self.change.novelty == Novelty::Announce {
            shown.novelty = Novelty::Announce;
        }
        self.change = shown;
        self.fresh_as_of = fresh_as_of;
        self.generation += 1;
        // A row that failed waits its back-off out: the source shows it at every poll.
        if self.attempts == 0 {
            self.due_at = at;
        }
    }
}

/// Whether two changes without a known id cannot be told apart.
fn is_same_unnamed(one: &Change, other: &Change) -> bool {
    let hash = |change: &Change| change.content.as_ref().map(|content| content.hash.clone());
    let unnamed = known_id(one).is_none() && known_id(other).is_none();
    unnamed && one.key == other.key && hash(one) == hash(other)
}
