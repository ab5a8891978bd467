//! What waits where, counted for all connections at once: each statement walks one index.

use std::collections::BTreeMap;

use courier_sdk::ConnectionName;

use super::connection::Connection;
use super::rows::{Columns, Failure};
use crate::store::Depths;

/// Where a count belongs.
type Place = fn(&mut Depths) -> &mut u64;

/// Counts by connection, and where each belongs.
const COUNTS: [(&str, Place); 6] = [
    (
        "SELECT connection, count(*) FROM stage GROUP BY connection",
        |depths| &mut depths.stage,
    ),
    (
        "SELECT connection, count(*) FROM inbox GROUP BY connection",
        |depths| &mut depths.inbox,
    ),
    (
        "SELECT connection, count(*) FROM quarantine GROUP BY connection",
        |depths| &mut depths.quarantine,
    ),
    (
        "SELECT name, last_event - fanned_event FROM connection",
        |depths| &mut depths.log,
    ),
    (
        "SELECT connection, sum(pending) FROM standing GROUP BY connection",
        |depths| &mut depths.outbox,
    ),
    (
        "SELECT connection, count(*) FROM delivery WHERE state = 'dead' GROUP BY connection",
        |depths| &mut depths.dead,
    ),
];

/// The oldest that waits in each place, by connection.
const OLDEST: [&str; 3] = [
    "SELECT connection, written_at FROM inbox WHERE id IN (SELECT min(id) FROM inbox GROUP BY connection)",
    "SELECT c.name, e.recorded_at FROM connection AS c
     JOIN event AS e ON e.connection = c.name AND e.position = c.fanned_event + 1
     WHERE c.last_event > c.fanned_event",
    "SELECT name, (SELECT min(scheduled_from) FROM delivery WHERE connection = name AND state = 'pending')
     FROM connection",
];

pub(super) fn depths(db: &Connection) -> Result<BTreeMap<ConnectionName, Depths>, Failure> {
    let mut all: BTreeMap<ConnectionName, Depths> = BTreeMap::new();
    for (sql, count) in COUNTS {
        let mut select = db.prepare_cached(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut columns = Columns::of(row);
            let connection = columns.connection()?;
            *count(all.entry(connection).or_default()) = columns.count()?;
        }
    }
    for sql in OLDEST {
        let mut select = db.prepare_cached(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut columns = Columns::of(row);
            let depths = all.entry(columns.connection()?).or_default();
            depths.oldest = depths.oldest.into_iter().chain(columns.instant_if_any()?).min();
        }
    }
    Ok(all)
}
