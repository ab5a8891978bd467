//! The sweep: deletes, a slice at a time, what is settled and past its time.

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use rusqlite::params;

use super::connection::Connection;
use super::outbox::Claims;
use super::rows::{Columns, Failure, nanos, row_limit, stored};
use crate::store::batch::earlier;
use crate::store::{Sweep, Swept};

pub(super) fn sweep(db: &Connection, claims: &Claims, sweep: &Sweep) -> Result<Swept, Failure> {
    let before = earlier(sweep.at, sweep.retention);
    let deliveries = sweep_deliveries(db, claims, before, sweep.limit)?;
    let (mut events, mut accepted) = (0, 0);
    for connection in connections(db)? {
        events += sweep_events(db, &connection, before, sweep.limit.saturating_sub(events))?;
        accepted += sweep_accepted(db, &connection, sweep, sweep.limit.saturating_sub(accepted))?;
    }
    Ok(Swept {
        deliveries: deliveries as u64,
        events: events as u64,
        accepted: accepted as u64,
    })
}

fn connections(db: &Connection) -> Result<Vec<ConnectionName>, Failure> {
    let mut select = db.prepare_cached("SELECT name FROM connection ORDER BY name")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Columns::of(row).connection()?);
    }
    Ok(found)
}

/// Dead letters stay until they are redriven; what is being attempted stays until that is recorded.
fn sweep_deliveries(
    db: &Connection,
    claims: &Claims,
    before: Timestamp,
    limit: usize,
) -> Result<usize, Failure> {
    let claimed: Vec<i64> = claims.ids().into_iter().map(|id| stored(id.0)).collect();
    let mut select = db.prepare_cached(
        "SELECT id FROM delivery INDEXED BY delivery_over
         WHERE state IN ('done', 'cancelled') AND settled_at < ?1 ORDER BY settled_at LIMIT ?2",
    )?;
    let mut rows = select.query([nanos(before), row_limit(limit.saturating_add(claimed.len()))])?;
    let mut over: Vec<i64> = Vec::new();
    while let Some(row) = rows.next()? {
        let id = Columns::of(row).get()?;
        if over.len() < limit && claimed.binary_search(&id).is_err() {
            over.push(id);
        }
    }
    let mut delete = db.prepare_cached("DELETE FROM delivery WHERE id = ?1")?;
    for id in &over {
        delete.execute([id])?;
    }
    Ok(over.len())
}

/// Deletes old events that every lane has passed and that no delivery needs.
fn sweep_events(
    db: &Connection,
    connection: &ConnectionName,
    before: Timestamp,
    limit: usize,
) -> Result<usize, Failure> {
    let mut delete = db.prepare_cached(
        "DELETE FROM event WHERE seq IN (
             SELECT e.seq FROM event AS e
             WHERE e.connection = ?1 AND e.recorded_at < ?2
                 AND e.position <= (SELECT fanned_event FROM connection WHERE name = ?1)
                 AND e.position <= (SELECT coalesce(min(own), 9223372036854775807) FROM standing
                                    WHERE connection = ?1 AND in_force = 1 AND own IS NOT NULL)
                 AND NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.connection = ?1 AND d.event = e.position)
             ORDER BY e.position LIMIT ?3)",
    )?;
    Ok(delete.execute(params![connection.as_str(), nanos(before), row_limit(limit)])?)
}

/// Deletes accepted ids that the source can no longer show. Heads and quarantined ids stay.
fn sweep_accepted(
    db: &Connection,
    connection: &ConnectionName,
    sweep: &Sweep,
    limit: usize,
) -> Result<usize, Failure> {
    let Some(stamped_before) = sweep.stamped_before.get(connection) else {
        return Ok(0);
    };
    let mut delete = db.prepare_cached(
        "DELETE FROM accepted WHERE connection = ?1 AND event_id IN (
             SELECT a.event_id FROM accepted AS a INDEXED BY accepted_to_expire
             WHERE a.connection = ?1 AND a.head = 0 AND a.shown_at < ?2 AND (a.stamp IS NULL OR a.stamp < ?3)
                 AND NOT EXISTS (SELECT 1 FROM quarantine AS q WHERE q.connection = ?1 AND q.event_id = a.event_id)
             ORDER BY a.shown_at LIMIT ?4)",
    )?;
    Ok(delete.execute(params![
        connection.as_str(),
        nanos(earlier(sweep.at, sweep.unseen_for)),
        nanos(*stamped_before),
        row_limit(limit)
    ])?)
}
