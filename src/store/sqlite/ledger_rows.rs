//! The ledger's rows: heads, accepted ids, and the event log's end.

use courier_sdk::{ConnectionName, Meaning, Record, RecordKey};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, body, meaning, nanos, stored, stored_order_number, trace};
use crate::domain::canonical::ContentHash;
use crate::domain::event::{EventKind, Timeliness, VersionOrder};
use crate::domain::identity::{EventId, VersionKey};
use crate::domain::ledger::{self, Head, Life};
use crate::store::batch::{Arrival, Batch};
use crate::wire::context;
use crate::wire::sealed::Place;

/// Reads a record's head.
pub(super) fn head(
    db: &Connection,
    connection: &ConnectionName,
    key: &RecordKey,
) -> Result<Option<Head>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT version, event_id, order_number, order_stamp, hash, deleted, changes, merged
         FROM head WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3",
    )?;
    let mut rows = select.query([connection.as_str(), key.record_type.as_str(), key.id.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    Ok(Some(Head {
        version: VersionKey::from_stored(columns.text()?),
        event_id: columns.event_id()?,
        order: columns.order()?,
        hash: columns.get::<Option<String>>()?.map(ContentHash::from_stored),
        life: if columns.get()? { Life::Deleted } else { Life::Live },
        changes: columns.count()?,
        merged: columns.get()?,
    }))
}

/// Writes a record's new head. Its id does not expire; the id of the head before it may from now on.
pub(super) fn move_head(
    db: &Connection,
    connection: &ConnectionName,
    key: &RecordKey,
    before: Option<&Head>,
    head: &Head,
) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO head (connection, record_type, record_id, version, event_id, order_number, order_stamp,
             hash, deleted, changes, merged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        connection.as_str(),
        key.record_type.as_str(),
        key.id.as_str(),
        head.version.as_str(),
        head.event_id.as_str(),
        head.order.number.map(stored_order_number),
        head.order.stamp.map(nanos),
        head.hash.as_ref().map(ContentHash::as_str),
        head.life == Life::Deleted,
        stored(head.changes),
        head.merged,
    ])?;
    let mut mark =
        db.prepare_cached("UPDATE accepted SET head = ?3 WHERE connection = ?1 AND event_id = ?2")?;
    if let Some(before) = before {
        mark.execute(params![connection.as_str(), before.event_id.as_str(), false])?;
    }
    mark.execute(params![connection.as_str(), head.event_id.as_str(), true])?;
    Ok(())
}

/// When the source last showed an accepted id, in nanoseconds; `None` for an id not accepted.
pub(super) fn shown_at(
    db: &Connection,
    connection: &ConnectionName,
    id: &EventId,
) -> Result<Option<i64>, Failure> {
    let mut select =
        db.prepare_cached("SELECT shown_at FROM accepted WHERE connection = ?1 AND event_id = ?2")?;
    let shown_at = select
        .query_row([connection.as_str(), id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(shown_at)
}

/// Enters an id as accepted, shown now.
pub(super) fn accept(
    db: &Connection,
    connection: &ConnectionName,
    id: &EventId,
    order: VersionOrder,
    at: Timestamp,
) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO accepted (connection, event_id, shown_at, stamp) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET shown_at = excluded.shown_at, stamp = excluded.stamp",
    )?
    .execute(params![
        connection.as_str(),
        id.as_str(),
        nanos(at),
        order.stamp.map(nanos)
    ])?;
    Ok(())
}

/// Renews an accepted id's last showing to the first instant, if that lies before the second.
pub(super) fn renew(
    db: &Connection,
    connection: &ConnectionName,
    id: &EventId,
    order: VersionOrder,
    (at, if_before): (Timestamp, i64),
) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO accepted (connection, event_id, shown_at, stamp) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET shown_at = excluded.shown_at WHERE shown_at < ?5",
    )?
    .execute(params![
        connection.as_str(),
        id.as_str(),
        nanos(at),
        order.stamp.map(nanos),
        if_before
    ])?;
    Ok(())
}

/// Takes an id out of the accepted ones.
pub(super) fn forget(db: &Connection, connection: &ConnectionName, id: &EventId) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM accepted WHERE connection = ?1 AND event_id = ?2")?
        .execute([connection.as_str(), id.as_str()])?;
    Ok(())
}

/// What an event has beyond its change.
pub(super) struct NewEvent<'a> {
    pub(super) id: &'a EventId,
    pub(super) version: &'a VersionKey,
    pub(super) kind: EventKind,
    pub(super) meaning: Option<&'a Meaning>,
    pub(super) timeliness: Timeliness,
    pub(super) position: u64,
}

/// Appends an event to the log; answers whether its id is new there.
pub(super) fn append(
    db: &Connection,
    batch: &Batch<'_>,
    (change, fresh_as_of): &Arrival,
    event: &NewEvent<'_>,
) -> Result<bool, Failure> {
    let context = change
        .content
        .as_ref()
        .and_then(|content| content.context.as_ref());
    let context = context.map(|context| Record::new(context::encode(context)));
    let names = [batch.connection.as_str(), event.id.as_str()];
    let mut insert = db.prepare_cached(
        "INSERT INTO event (connection, position, id, record_type, record_id, version, version_id, kind, changed_at,
             fresh_as_of, recorded_at, late, feed, body, context, trace, meaning)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (id, connection) DO NOTHING",
    )?;
    let written = insert.execute(params![
        batch.connection.as_str(),
        stored(event.position),
        event.id.as_str(),
        change.key.record_type.as_str(),
        change.key.id.as_str(),
        event.version.as_str(),
        change.version_id,
        event.kind.as_str(),
        ledger::changed_at(change).map(nanos),
        nanos(*fresh_as_of),
        nanos(batch.at),
        event.timeliness == Timeliness::Late,
        batch.feed.as_str(),
        body(
            db,
            change.content.as_ref().map(|content| &content.record),
            Place::new("event", &names),
        )?,
        body(db, context.as_ref(), Place::new("context", &names))?,
        trace(change.trace),
        meaning(event.meaning),
    ])?;
    Ok(written == 1)
}
