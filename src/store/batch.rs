//! What every store does alike with a batch of changes: where it comes from, what was written of it, how much of it
//! one transaction holds. No store's own rows.

use std::time::Duration;

use courier_sdk::{ConnectionName, Context, FeedName, Novelty, RecordKey, Shown};
use jiff::Timestamp;

use super::{Accepted, ContextRule, PollRef, SLICE_BYTES_MAX, SLICE_ROWS_MAX};
use crate::domain::event::{Change, Content, Event, Timeliness, VersionClue, VersionOrder};
use crate::domain::identity::EventId;
use crate::domain::ledger::{Baseline, Source, Unchanged};
use crate::domain::trace::TraceContext;

/// A known version's last showing is written at most once in this time: a page that is shown again costs no write.
pub(super) const SHOWING_RENEWED_AFTER: Duration = Duration::from_hours(24);

/// A fetch that brought nothing the ledger can use is tried again after this long.
pub(super) const INCOMPLETE_RETRIED_AFTER: Duration = Duration::from_mins(1);

/// The reason of a record that is quarantined by reference.
pub(super) const OVERSIZED: &str = "larger than the record limit";

/// Where a batch of changes comes from.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a ConnectionName,
    pub(super) feed: &'a FeedName,
    pub(super) source: Source,
    /// Whether a first sight proved a creation when the changes were shown.
    pub(super) baseline: Baseline,
    /// Whether a version with the content of its record's last one is told of.
    pub(super) unchanged: Unchanged,
    pub(super) at: Timestamp,
}

/// A batch that came with a page or out of a stage.
pub(super) fn page_batch(
    poll: &PollRef,
    baseline: Baseline,
    (context, unchanged, at): (ContextRule, Unchanged, Timestamp),
) -> Batch<'_> {
    Batch {
        connection: &poll.connection,
        feed: &poll.feed,
        source: match context {
            ContextRule::None => Source::Page,
            ContextRule::Included => Source::PageWithoutContext,
        },
        baseline,
        unchanged,
        at,
    }
}

/// A change with the source's time at the start of the poll that found it.
pub(super) type Arrival = (Change, Timestamp);

/// What was written of one change, and the id that it turned out to have.
pub(super) struct Written {
    pub(super) effect: Effect,
    pub(super) id: Option<EventId>,
}

/// What was written of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// An event.
    Appended(Timeliness),
    /// An accepted id without an event.
    Silenced,
    /// An accepted id without an event, because nothing changed.
    Unchanged,
    /// An inbox row; for a change out of the inbox: nothing, it is not complete.
    Enqueued,
    /// An inbox row: a read is to confirm that a deleted record lives again.
    Doubted,
    /// At most a newer showing.
    Known,
    /// Nothing.
    Refused,
}

/// A record that a complete listing no longer names: whether it is gone, a read of it tells.
pub(super) fn missing(key: &RecordKey) -> Change {
    Change {
        shown: Shown::Missing,
        ..change_by_reference(key)
    }
}

/// A record that is shown again over its inferred delete: whether it lives, a read of it tells.
pub(super) fn perhaps_returned(key: &RecordKey, trace: Option<TraceContext>) -> Change {
    Change {
        trace,
        ..change_by_reference(key)
    }
}

/// Where a change stands that settles a row of the inbox: one that came with its record was not read just now.
pub(super) fn settling_source(row: &Change) -> Source {
    if row.content.is_some() {
        Source::Inbox
    } else {
        Source::Read
    }
}

impl Effect {
    /// What was written, under the id that the change has now, if that is known.
    pub(super) fn of(self, id: Option<EventId>) -> Written {
        Written { effect: self, id }
    }

    /// The same, of a row that asks whether a deleted record lives again.
    pub(super) fn in_doubt(self) -> Self {
        if self == Self::Enqueued {
            Self::Doubted
        } else {
            self
        }
    }
}

/// Counts what was written of a page's or a stage's changes, in their order.
pub(super) fn tally(arrivals: &[Arrival], written: Vec<Written>) -> Accepted {
    let mut accepted = Accepted::default();
    for ((change, _), one) in arrivals.iter().zip(written) {
        if matches!(one.effect, Effect::Appended(_) | Effect::Enqueued) {
            accepted.stamps.extend(change.order.stamp);
        }
        match one.effect {
            Effect::Appended(timeliness) => {
                accepted.appended += 1;
                accepted.late += u64::from(timeliness == Timeliness::Late);
            }
            Effect::Silenced => accepted.silent += 1,
            Effect::Unchanged => accepted.unchanged += 1,
            Effect::Enqueued | Effect::Doubted => accepted.enqueued += 1,
            Effect::Known => accepted.known += 1,
            Effect::Refused => {}
        }
        accepted.ids.extend(one.id);
    }
    accepted
}

/// The event id of a change, where it is known before the ledger is asked.
pub(super) fn known_id(change: &Change) -> Option<&EventId> {
    match &change.version {
        VersionClue::Known(_, id) => Some(id),
        VersionClue::ByContent | VersionClue::InferredDelete | VersionClue::Unknown => None,
    }
}

/// Whether a version that was read is known to have replaced the one that was asked for. Where neither order nor time
/// tells, two numbers do: a read may be answered by a server that lags behind.
pub(super) fn has_replaced(read: &Change, asked_for: &Change) -> bool {
    let number = |change: &Change| change.version_id.as_ref()?.parse::<u64>().ok();
    let counted_on = matches!((number(read), number(asked_for)), (Some(read), Some(asked)) if read > asked);
    counted_on || read.shown == Shown::Deleted || asked_for.order.is_before(&read.order)
}

/// A change of which nothing is known but its record.
pub(super) fn change_by_reference(key: &RecordKey) -> Change {
    Change {
        key: key.clone(),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: None,
        version: VersionClue::Unknown,
        order: VersionOrder::default(),
        first_version: false,
        content: None,
        trace: None,
    }
}

/// Whether a change's record must be read: then its claim says what the ledger knows of it.
pub(super) fn must_be_read(change: &Change) -> bool {
    change.content.is_none() && change.shown != Shown::Deleted
}

/// The bytes of a change's body.
pub(super) fn change_bytes(change: &Change) -> usize {
    change.content.as_ref().map_or(0, Content::bytes)
}

/// The bytes of an event's body and of its context.
pub(super) fn event_bytes(event: &Event) -> usize {
    let context = event.context.as_ref().map_or(0, Context::bytes);
    context + event.record.as_ref().map_or(0, |record| record.bytes().len())
}

/// How many rows one transaction takes where so many are asked for; 0 asks for all.
pub(super) fn slice_rows(limit: usize) -> usize {
    match limit {
        0 => SLICE_ROWS_MAX,
        limit => limit.min(SLICE_ROWS_MAX),
    }
}

/// Bounds one transaction by rows and body bytes; a larger body goes by itself.
pub(super) struct Bounds {
    rows_left: usize,
    bytes: usize,
}

impl Bounds {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            rows_left: rows,
            bytes: 0,
        }
    }

    /// Whether one more body fits; if so, it is counted.
    pub(super) fn admit(&mut self, body_bytes: usize) -> bool {
        let fits = self.bytes == 0 || self.bytes + body_bytes <= SLICE_BYTES_MAX;
        if self.rows_left == 0 || !fits {
            return false;
        }
        self.rows_left -= 1;
        self.bytes += body_bytes;
        true
    }
}

/// An instant and a duration; the end of time when that does not exist.
pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// An instant less a duration; the beginning of time when that does not exist.
pub(super) fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}
