//! Atomic point 1, and what it shares with the second: changes meet the ledger, and the verdicts are written.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::{ConnectionName, FeedName, RecordKey};
use rusqlite::{OptionalExtension, params};

use super::connection::Connection;
use super::rows::{Failure, count, nanos, stored};
use super::{feed, inbox, lease, ledger_rows, quarantine, roll};
use crate::domain::identity::EventId;
use crate::domain::ledger::{self, Baseline, Head, LedgerView, Queue, RecordView, Source, Verdict};
use crate::store::batch::{
    Arrival, Batch, Effect, OVERSIZED, SHOWING_RENEWED_AFTER, Written, change_by_reference, earlier,
    known_id, page_batch, perhaps_returned, tally,
};
use crate::store::{AcceptPage, Accepted, StageState};

pub(super) fn accept_page(db: &Connection, page: &AcceptPage) -> Result<Accepted, Failure> {
    lease::check_fence(db, &page.poll.connection, page.poll.fence)?;
    let mut feed = feed::load_at(db, page)?;
    if feed.state.stage != StageState::None {
        return Err(Failure::refused(format!("feed {} has a stage", page.poll.feed)));
    }
    feed.note_sights(page.sights);
    let arrivals: Vec<Arrival> = page
        .changes
        .iter()
        .map(|change| (change.clone(), page.fresh_as_of))
        .collect();
    let mut accepted = take_in(
        db,
        &page_batch(&page.poll, feed.baseline, (page.context, page.unchanged, page.at)),
        &arrivals,
    )?;
    accepted.enqueued += roll::join(db, page)?;
    accepted.quarantined = quarantine_oversized(db, page, feed.baseline)?;
    feed.state.found += accepted.appended + accepted.enqueued;
    feed.progress(db, page)?;
    feed::save(db, &page.poll.connection, &page.poll.feed, &feed)?;
    Ok(accepted)
}

/// Decides a batch and writes and counts what was decided.
pub(super) fn take_in(db: &Connection, batch: &Batch<'_>, arrivals: &[Arrival]) -> Result<Accepted, Failure> {
    Ok(tally(arrivals, decide_and_write(db, batch, arrivals)?))
}

/// Decides a batch and writes what was decided.
pub(super) fn decide_and_write(
    db: &Connection,
    batch: &Batch<'_>,
    arrivals: &[Arrival],
) -> Result<Vec<Written>, Failure> {
    let mut loaded = Loaded::of(db, batch, arrivals)?;
    let before: BTreeMap<RecordKey, Option<Head>> = loaded
        .view
        .records
        .iter()
        .map(|(key, record)| (key.clone(), record.head.clone()))
        .collect();
    let mut written = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let changes = std::slice::from_ref(&arrival.0);
        let verdicts = ledger::decide(batch.connection, &mut loaded.view, changes, batch.source);
        for verdict in verdicts {
            written.push(write(db, batch, arrival, verdict, &mut loaded)?);
        }
    }
    for (key, record) in &loaded.view.records {
        let earlier = before.get(key).and_then(Option::as_ref);
        if let Some(head) = &record.head
            && earlier != Some(head)
        {
            ledger_rows::move_head(db, batch.connection, key, earlier, head)?;
        }
    }
    loaded.log.save(db, batch.connection)?;
    Ok(written)
}

/// Puts records that were too large to carry into quarantine; answers how many are new there.
pub(super) fn quarantine_oversized(
    db: &Connection,
    page: &AcceptPage,
    baseline: Baseline,
) -> Result<u64, Failure> {
    let mut quarantined = 0;
    for key in &page.oversized {
        let entry = quarantine::Entry {
            connection: &page.poll.connection,
            feed: &page.poll.feed,
            change: &change_by_reference(key),
            fresh_as_of: page.fresh_as_of,
            baseline,
            reason: OVERSIZED,
            at: page.at,
        };
        quarantined += u64::from(quarantine::put(db, &entry)?);
    }
    Ok(quarantined)
}

/// A batch's records and ids as the ledger has them.
struct Loaded {
    view: LedgerView,
    /// When the batch's accepted ids were shown last.
    shown_at: BTreeMap<EventId, i64>,
    /// Where the connection's log ends.
    log: LogEnd,
}

impl Loaded {
    fn of(db: &Connection, batch: &Batch<'_>, arrivals: &[Arrival]) -> Result<Self, Failure> {
        let mut loaded = Self {
            view: LedgerView {
                baseline: batch.baseline,
                unchanged: batch.unchanged,
                ..LedgerView::default()
            },
            shown_at: BTreeMap::new(),
            log: LogEnd::load(db, batch.connection)?,
        };
        let keys: BTreeSet<&RecordKey> = arrivals.iter().map(|(change, _)| &change.key).collect();
        for key in keys {
            let record = RecordView {
                head: ledger_rows::head(db, batch.connection, key)?,
                queue: if batch.source.is_inbox() {
                    Queue::Empty
                } else {
                    queue_of(db, batch.connection, Some(batch.feed), key)?
                },
            };
            loaded.view.records.insert(key.clone(), record);
        }
        for id in arrivals.iter().filter_map(|(change, _)| known_id(change)) {
            if let Some(shown_at) = ledger_rows::shown_at(db, batch.connection, id)? {
                loaded.view.accepted.insert(id.clone());
                loaded.shown_at.insert(id.clone(), shown_at);
            } else if is_in_log(db, batch.connection, id)? {
                loaded.view.accepted.insert(id.clone());
            }
        }
        Ok(loaded)
    }
}

/// A record waits behind the inbox and behind the stages of other feeds than its own.
pub(super) fn queue_of(
    db: &Connection,
    connection: &ConnectionName,
    own: Option<&FeedName>,
    key: &RecordKey,
) -> Result<Queue, Failure> {
    let mut exists = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM inbox WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3)
             OR EXISTS (SELECT 1 FROM stage
                        WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3 AND feed IS NOT ?4)",
    )?;
    let waits: bool = exists.query_row(
        params![
            connection.as_str(),
            key.record_type.as_str(),
            key.id.as_str(),
            own.map(FeedName::as_str)
        ],
        |row| row.get(0),
    )?;
    Ok(if waits { Queue::Waiting } else { Queue::Empty })
}

/// An event still in the log is known, even when its accepted id has expired.
fn is_in_log(db: &Connection, connection: &ConnectionName, id: &EventId) -> Result<bool, Failure> {
    let mut select = db.prepare_cached("SELECT 1 FROM event WHERE id = ?1 AND connection = ?2")?;
    let found: Option<i64> = select
        .query_row([id.as_str(), connection.as_str()], |row| row.get(0))
        .optional()?;
    Ok(found.is_some())
}

fn write(
    db: &Connection,
    batch: &Batch<'_>,
    arrival: &Arrival,
    verdict: Verdict,
    loaded: &mut Loaded,
) -> Result<Written, Failure> {
    let order = arrival.0.order;
    match verdict {
        Verdict::Append {
            version,
            event_id,
            kind,
            meaning,
            timeliness,
        } => {
            ledger_rows::accept(db, batch.connection, &event_id, order, batch.at)?;
            let row = ledger_rows::NewEvent {
                id: &event_id,
                version: &version,
                kind,
                meaning: meaning.as_ref(),
                timeliness,
                position: loaded.log.last + 1,
            };
            // The unique index decides whether it is an event.
            let effect = if ledger_rows::append(db, batch, arrival, &row)? {
                loaded.log.last += 1;
                Effect::Appended(timeliness)
            } else {
                Effect::Known
            };
            Ok(Written::with_id(effect, event_id))
        }
        Verdict::Silence { event_id } => {
            ledger_rows::accept(db, batch.connection, &event_id, order, batch.at)?;
            Ok(Written::with_id(Effect::Silenced, event_id))
        }
        Verdict::Unchanged { event_id } => {
            ledger_rows::accept(db, batch.connection, &event_id, order, batch.at)?;
            Ok(Written::with_id(Effect::Unchanged, event_id))
        }
        Verdict::Known { event_id } => {
            let shown_before = nanos(earlier(batch.at, SHOWING_RENEWED_AFTER));
            let shown_at = loaded.shown_at.get(&event_id);
            if shown_at.is_none_or(|shown_at| *shown_at < shown_before) {
                ledger_rows::renew(db, batch.connection, &event_id, order, (batch.at, shown_before))?;
            }
            Ok(Written::with_id(Effect::Known, event_id))
        }
        Verdict::Enqueue => Ok(Written::without_id(enqueue(db, batch, arrival)?)),
        Verdict::Confirm { event_id: id } => {
            let asked = perhaps_returned(&arrival.0.key, arrival.0.trace);
            let effect = enqueue(db, batch, &(asked, arrival.1))?.in_doubt();
            Ok(Written { effect, id })
        }
        Verdict::Refuse => Ok(Written::without_id(Effect::Refused)),
    }
}

impl Written {
    fn with_id(effect: Effect, id: EventId) -> Self {
        Self { effect, id: Some(id) }
    }

    fn without_id(effect: Effect) -> Self {
        Self { effect, id: None }
    }
}

fn enqueue(db: &Connection, batch: &Batch<'_>, arrival: &Arrival) -> Result<Effect, Failure> {
    match batch.source {
        Source::Inbox | Source::Read => Ok(Effect::Enqueued),
        // A change of which only the record is known cannot be told from a quarantined one: it waits for the operator
        // with it.
        Source::Page | Source::PageWithoutContext
            if quarantine::holds_unnamed(db, batch.connection, &arrival.0)? =>
        {
            Ok(Effect::Known)
        }
        Source::Page | Source::PageWithoutContext => {
            inbox::put(db, batch, arrival)?;
            Ok(Effect::Enqueued)
        }
    }
}

/// The end of a connection's log.
struct LogEnd {
    stored: u64,
    last: u64,
}

impl LogEnd {
    fn load(db: &Connection, connection: &ConnectionName) -> Result<Self, Failure> {
        let mut select = db.prepare_cached("SELECT last_event FROM connection WHERE name = ?1")?;
        let last = count(select.query_row([connection.as_str()], |row| row.get(0))?);
        Ok(Self { stored: last, last })
    }

    fn save(&self, db: &Connection, connection: &ConnectionName) -> Result<(), Failure> {
        if self.last != self.stored {
            db.prepare_cached("UPDATE connection SET last_event = ?2 WHERE name = ?1")?
                .execute(params![connection.as_str(), stored(self.last)])?;
        }
        Ok(())
    }
}
