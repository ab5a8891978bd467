//! What people ask for: lists, counts, redrives and replays.

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use rusqlite::params;

use super::connection::Connection;
use super::outbox;
use super::outbox_rows::{self, DELIVERY_COLUMNS, EVENT_COLUMNS};
use super::rows::{Columns, Failure, count, instant, nanos, row_limit, stored};
use crate::domain::delivery::DeliveryId;
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::store::batch::slice_rows;
use crate::store::{
    Backlog, DeadLetterQuery, DeadLetterRow, DeliveryCounts, EventDetail, EventQuery, EventRow, ReplayRequest,
};

pub(super) fn events(db: &Connection, query: &EventQuery) -> Result<Vec<EventRow>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT connection, position, id, record_type, record_id, coalesce(version_id, version), kind, changed_at,
             recorded_at
         FROM event
         WHERE (?1 IS NULL OR connection = ?1) AND (?2 IS NULL OR recorded_at >= ?2)
             AND (?3 IS NULL OR record_type = ?3 OR record_type || '/' || record_id = ?3)
         ORDER BY recorded_at DESC, connection DESC, position DESC LIMIT ?4",
    )?;
    let mut rows = select.query(params![
        query.connection.as_ref().map(ConnectionName::as_str),
        query.since.map(nanos),
        query.record,
        row_limit(query.limit)
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (connection, position) = (columns.connection()?, columns.count()?);
        let deliveries = counts_of_event(db, &connection, position)?;
        found.push(EventRow {
            connection,
            position,
            id: columns.event_id()?,
            key: columns.key()?,
            version: columns.text()?,
            kind: outbox_rows::event_kind(&columns.text()?)?,
            changed_at: columns.instant_if_any()?,
            recorded_at: columns.instant()?,
            deliveries,
        });
    }
    Ok(found)
}

fn counts_of_event(
    db: &Connection,
    connection: &ConnectionName,
    position: u64,
) -> Result<DeliveryCounts, Failure> {
    let mut select = db.prepare_cached("SELECT state FROM delivery WHERE connection = ?1 AND event = ?2")?;
    let mut rows = select.query(params![connection.as_str(), stored(position)])?;
    let mut counts = DeliveryCounts::default();
    while let Some(row) = rows.next()? {
        counts.add(outbox_rows::state(&Columns::of(row).text()?)?);
    }
    Ok(counts)
}

pub(super) fn event(db: &Connection, id: &EventId) -> Result<Option<EventDetail>, Failure> {
    let mut select = db.prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event AS e WHERE e.id = ?1"))?;
    let mut rows = select.query([id.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let event = outbox_rows::event(db, &mut Columns::of(row))?;
    let mut select = db.prepare_cached(&format!(
        "SELECT {DELIVERY_COLUMNS} FROM delivery AS d WHERE d.connection = ?1 AND d.event = ?2
         ORDER BY d.subscription, d.number"
    ))?;
    let mut rows = select.query(params![event.connection.as_str(), stored(event.position)])?;
    let mut deliveries = Vec::new();
    while let Some(row) = rows.next()? {
        deliveries.push(outbox_rows::delivery(&mut Columns::of(row))?);
    }
    Ok(Some(EventDetail { event, deliveries }))
}

pub(super) fn replay(db: &Connection, replay: &ReplayRequest, now: Timestamp) -> Result<u64, Failure> {
    let mut select = db.prepare_cached(
        "SELECT d.id FROM event AS e
         JOIN delivery AS d ON d.connection = e.connection AND d.event = e.position
         JOIN standing AS s ON s.connection = d.connection AND s.subscription = d.subscription AND s.in_force = 1
         WHERE e.id = ?1 AND d.state <> 'pending' AND (?2 IS NULL OR d.subscription = ?2) ORDER BY d.id",
    )?;
    let only = replay.subscription.as_ref().map(SubscriptionName::as_str);
    let mut rows = select.query(params![replay.event.as_str(), only])?;
    let mut settled = Vec::new();
    while let Some(row) = rows.next()? {
        settled.push(DeliveryId(Columns::of(row).count()?));
    }
    outbox::owe_again(db, &settled, now)
}

pub(super) fn dead_letters(db: &Connection, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRow>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {DELIVERY_COLUMNS}, d.connection, e.id, d.record_type, d.record_id, d.settled_at
         FROM delivery AS d INDEXED BY delivery_dead
         CROSS JOIN event AS e ON e.connection = d.connection AND e.position = d.event
         WHERE d.state = 'dead' AND (?1 IS NULL OR d.id = ?1) AND (?2 IS NULL OR d.destination = ?2)
             AND (?3 IS NULL OR d.subscription = ?3)
         ORDER BY d.settled_at, d.id LIMIT ?4"
    ))?;
    // SQLite reads a negative limit as none.
    let limit = if query.limit == 0 {
        -1
    } else {
        row_limit(query.limit)
    };
    let mut rows = select.query(params![
        query.delivery.map(|id| stored(id.0)),
        query.destination.as_ref().map(DestinationName::as_str),
        query.subscription.as_ref().map(SubscriptionName::as_str),
        limit
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        found.push(DeadLetterRow {
            delivery: outbox_rows::delivery(&mut columns)?,
            connection: columns.connection()?,
            event_id: columns.event_id()?,
            key: columns.key()?,
            died_at: columns.instant()?,
        });
    }
    Ok(found)
}

pub(super) fn redrive(db: &Connection, query: &DeadLetterQuery, now: Timestamp) -> Result<u64, Failure> {
    let mut select = db.prepare_cached(
        "SELECT d.id FROM delivery AS d INDEXED BY delivery_dead
         CROSS JOIN standing AS s ON s.connection = d.connection AND s.subscription = d.subscription
         WHERE d.state = 'dead' AND s.in_force = 1 AND (?1 IS NULL OR d.id = ?1)
             AND (?2 IS NULL OR d.destination = ?2) AND (?3 IS NULL OR d.subscription = ?3)
         ORDER BY d.settled_at, d.id LIMIT ?4",
    )?;
    let mut rows = select.query(params![
        query.delivery.map(|id| stored(id.0)),
        query.destination.as_ref().map(DestinationName::as_str),
        query.subscription.as_ref().map(SubscriptionName::as_str),
        row_limit(slice_rows(query.limit)),
    ])?;
    let mut dead = Vec::new();
    while let Some(row) = rows.next()? {
        dead.push(DeliveryId(Columns::of(row).count()?));
    }
    outbox::owe_again(db, &dead, now)
}

pub(super) fn backlog(db: &Connection, connection: &ConnectionName) -> Result<Backlog, Failure> {
    let mut select = db.prepare_cached(
        "SELECT (SELECT count(*) FROM inbox WHERE connection = ?1),
             (SELECT last_event - fanned_event FROM connection WHERE name = ?1),
             (SELECT sum(pending) FROM standing WHERE connection = ?1),
             (SELECT count(*) FROM quarantine WHERE connection = ?1),
             (SELECT written_at FROM inbox WHERE connection = ?1 ORDER BY id LIMIT 1),
             (SELECT recorded_at FROM event WHERE connection = ?1 AND position >
                 (SELECT fanned_event FROM connection WHERE name = ?1) ORDER BY position LIMIT 1),
             (SELECT min(scheduled_from) FROM delivery WHERE connection = ?1 AND state = 'pending')",
    )?;
    let mut rows = select.query([connection.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(Backlog::default());
    };
    let mut columns = Columns::of(row);
    let mut number = || columns.get::<Option<i64>>();
    let (inbox, log, outbox, quarantine) = (number()?, number()?, number()?, number()?);
    let oldest = [number()?, number()?, number()?].into_iter().flatten().min();
    let counted = |number: Option<i64>| number.map_or(0, count);
    Ok(Backlog {
        inbox: counted(inbox),
        log: counted(log),
        outbox: counted(outbox),
        quarantine: counted(quarantine),
        oldest: oldest.map(instant),
    })
}

pub(super) fn deliveries_by_state(
    db: &Connection,
    destination: &DestinationName,
) -> Result<DeliveryCounts, Failure> {
    let mut select =
        db.prepare_cached("SELECT state, count(*) FROM delivery WHERE destination = ?1 GROUP BY state")?;
    let mut rows = select.query([destination.as_str()])?;
    let mut counts = DeliveryCounts::default();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let state = outbox_rows::state(&columns.text()?)?;
        for _ in 0..columns.count()? {
            counts.add(state);
        }
    }
    Ok(counts)
}
