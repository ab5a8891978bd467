//! Events and deliveries as rows, and which delivery of a line is at its front.
//!
//! A line is what keeps its order: one record's deliveries to one subscription. Its front, the lowest pending
//! number, is marked `ready` in the row, so that a claim reads only rows that it may take. While its subscription is
//! paused no line has a front that is ready: a paused backlog costs the claims of others nothing.

use jiff::Timestamp;
use rusqlite::{CachedStatement, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, damaged, stored};
use crate::domain::delivery::{ClaimedDelivery, Delivery, DeliveryId, DeliveryState, Fence, Replay};
use crate::domain::event::{Event, EventKind, Timeliness};
use crate::domain::fan_out::{ContentLevel, Format};
use crate::domain::identity::VersionKey;
use crate::wire::sealed::Place;

/// The columns that [`event`] reads, of a table named `e`.
pub(super) const EVENT_COLUMNS: &str = "e.connection, e.position, e.id, e.record_type, e.record_id, e.version, \
     e.version_id, e.kind, e.changed_at, e.fresh_as_of, e.recorded_at, e.late, e.feed, e.body, e.context, e.trace, \
     e.meaning";

/// The columns that [`delivery`] reads, of a table named `d`.
pub(super) const DELIVERY_COLUMNS: &str = "d.id, d.subscription, d.number, d.destination, d.content, d.format, \
     d.renderer, d.state, d.attempts, d.scheduled_from, d.due_at, d.replay, d.last_outcome";

/// A subscription, a connection and a record.
pub(super) type Line = (String, String, String, String);

pub(super) fn event(db: &Connection, columns: &mut Columns<'_, '_>) -> Result<Event, Failure> {
    let (connection, position, id) = (columns.connection()?, columns.count()?, columns.event_id()?);
    let mut event = Event {
        connection,
        position,
        id,
        key: columns.key()?,
        version: VersionKey::from_stored(columns.text()?),
        version_id: columns.get()?,
        kind: columns.parsed(event_kind)?,
        meaning: None,
        changed_at: columns.instant_if_any()?,
        fresh_as_of: columns.instant()?,
        recorded_at: columns.instant()?,
        timeliness: if columns.get()? {
            Timeliness::Late
        } else {
            Timeliness::InOrder
        },
        feed: columns.feed()?,
        record: None,
        context: None,
        trace: None,
    };
    let names = [event.connection.as_str(), event.id.as_str()];
    event.record = columns.record(db, Place::new("event", &names))?;
    event.context = columns.context(db, Place::new("context", &names))?;
    event.trace = columns.trace()?;
    event.meaning = columns.meaning()?;
    Ok(event)
}

pub(super) fn event_kind(word: &str) -> Result<EventKind, Failure> {
    EventKind::parse(word).ok_or_else(|| damaged("kind of event"))
}

pub(super) fn state(word: &str) -> Result<DeliveryState, Failure> {
    DeliveryState::parse(word).ok_or_else(|| damaged("state of a delivery"))
}

pub(super) fn delivery(columns: &mut Columns<'_, '_>) -> Result<Delivery, Failure> {
    Ok(Delivery {
        id: DeliveryId(columns.count()?),
        subscription: columns.subscription()?,
        number: columns.count()?,
        destination: columns.destination()?,
        content: columns.parsed(|word| ContentLevel::parse(word).ok_or_else(|| damaged("content level")))?,
        format: columns.parsed(|word| Format::parse(word).ok_or_else(|| damaged("format")))?,
        renderer: columns.small_count()?,
        state: columns.parsed(state)?,
        attempts: columns.small_count()?,
        scheduled_from: columns.instant()?,
        due_at: columns.instant()?,
        replay: if columns.get()? {
            Replay::Replayed
        } else {
            Replay::Original
        },
        last_outcome: columns.get()?,
    })
}

/// The statement whose rows [`line`] and then [`claimed`] read: one delivery with its event, by its id.
pub(super) fn select_claimed(db: &Connection) -> Result<CachedStatement<'_>, Failure> {
    Ok(db.prepare_cached(&format!(
        "SELECT d.subscription, d.connection, d.record_type, d.record_id, c.fence, {DELIVERY_COLUMNS}, {EVENT_COLUMNS}
         FROM delivery AS d
         JOIN connection AS c ON c.name = d.connection
         JOIN event AS e ON e.connection = d.connection AND e.position = d.event
         WHERE d.id = ?1"
    ))?)
}

/// Reads one delivery with its event, whoever may attempt it.
pub(super) fn find(db: &Connection, id: DeliveryId) -> Result<Option<ClaimedDelivery>, Failure> {
    let mut select = select_claimed(db)?;
    let mut rows = select.query([stored(id.0)])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    line(&mut columns)?;
    claimed(db, &mut columns).map(Some)
}

/// Reads one delivery with its event, after its line.
pub(super) fn claimed(db: &Connection, columns: &mut Columns<'_, '_>) -> Result<ClaimedDelivery, Failure> {
    Ok(ClaimedDelivery {
        fence: Fence(columns.count()?),
        delivery: delivery(columns)?,
        event: event(db, columns)?,
    })
}

/// The line of a delivery.
pub(super) fn line_of(db: &Connection, id: DeliveryId) -> Result<Option<Line>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT subscription, connection, record_type, record_id FROM delivery WHERE id = ?1",
    )?;
    let mut rows = select.query([stored(id.0)])?;
    match rows.next()? {
        Some(row) => line(&mut Columns::of(row)).map(Some),
        None => Ok(None),
    }
}

/// When a delivery is due, and its line.
pub(super) fn due_line_of(db: &Connection, id: DeliveryId) -> Result<Option<(Timestamp, Line)>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT due_at, subscription, connection, record_type, record_id FROM delivery WHERE id = ?1",
    )?;
    let mut rows = select.query([stored(id.0)])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    Ok(Some((columns.instant()?, line(&mut columns)?)))
}

/// The four columns of a line.
pub(super) fn line(columns: &mut Columns<'_, '_>) -> Result<Line, Failure> {
    Ok((columns.text()?, columns.text()?, columns.text()?, columns.text()?))
}

/// Marks the front of a line after one of its rows was settled: nothing in front of it has changed.
pub(super) fn advance(db: &Connection, line: &Line) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE delivery SET ready = 1 WHERE id = (
             SELECT id FROM delivery
             WHERE subscription = ?1 AND connection = ?2 AND record_type = ?3 AND record_id = ?4 AND state = 'pending'
             ORDER BY number LIMIT 1) AND ready = 0
             AND NOT EXISTS (SELECT 1 FROM pause WHERE pause.subscription = ?1)",
    )?
    .execute(params![line.0, line.1, line.2, line.3])?;
    Ok(())
}

/// Marks the front of a line after one of its rows was owed again: it may stand before the old front.
pub(super) fn reorder(db: &Connection, line: &Line) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE delivery SET ready = 0
         WHERE subscription = ?1 AND connection = ?2 AND record_type = ?3 AND record_id = ?4 AND state = 'pending'
             AND ready = 1",
    )?
    .execute(params![line.0, line.1, line.2, line.3])?;
    advance(db, line)
}
