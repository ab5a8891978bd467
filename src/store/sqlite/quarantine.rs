//! Quarantine: changes that were given up wait here, with their reason, for people.

use courier_sdk::{ConnectionName, FeedName};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};

use super::connection::Connection;
use super::rows::{CHANGE_COLUMNS, Columns, Failure, baseline_word, change_values, nanos, row_limit, text};
use super::{inbox, lease, ledger_rows};
use crate::domain::event::Change;
use crate::domain::ledger::{Baseline, Source, Unchanged};
use crate::store::batch::{Batch, known_id};
use crate::store::{QuarantineRow, SLICE_ROWS_MAX};

/// One change to give up.
pub(super) struct Entry<'a> {
    pub(super) connection: &'a ConnectionName,
    pub(super) feed: &'a FeedName,
    pub(super) change: &'a Change,
    pub(super) fresh_as_of: Timestamp,
    pub(super) baseline: Baseline,
    pub(super) reason: &'a str,
    pub(super) at: Timestamp,
}

/// Puts a change into quarantine, unless it is there; answers whether it is new there.
pub(super) fn put(db: &Connection, entry: &Entry<'_>) -> Result<bool, Failure> {
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO quarantine (connection, feed, fresh_as_of, baseline, reason, at, {CHANGE_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
         ON CONFLICT DO NOTHING"
    ))?;
    let own = [
        text(entry.connection.as_str()),
        text(entry.feed.as_str()),
        Value::Integer(nanos(entry.fresh_as_of)),
        text(baseline_word(entry.baseline)),
        text(entry.reason),
        Value::Integer(nanos(entry.at)),
    ];
    let written = insert.execute(params_from_iter(own.into_iter().chain(change_values(
        db,
        entry.connection,
        entry.change,
    )?)))?;
    Ok(written == 1)
}

/// Whether a change of which only the record is known has its like in quarantine.
pub(super) fn holds_unnamed(
    db: &Connection,
    connection: &ConnectionName,
    change: &Change,
) -> Result<bool, Failure> {
    if known_id(change).is_some() || change.content.is_some() {
        return Ok(false);
    }
    let mut exists = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM quarantine
         WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3 AND event_id IS NULL)",
    )?;
    let key = &change.key;
    let found = exists.query_row(
        params![connection.as_str(), key.record_type.as_str(), key.id.as_str()],
        |row| row.get(0),
    )?;
    Ok(found)
}

pub(super) fn list(db: &Connection, limit: usize) -> Result<Vec<QuarantineRow>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT connection, feed, reason, at, {CHANGE_COLUMNS} FROM quarantine ORDER BY connection, id LIMIT ?1"
    ))?;
    let mut rows = select.query([row_limit(limit)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (connection, feed) = (columns.connection()?, columns.feed()?);
        let (reason, at) = (columns.text()?, columns.instant()?);
        let change = columns.change(db, &connection)?;
        found.push(QuarantineRow {
            connection,
            feed,
            key: change.key,
            shown: change.shown,
            novelty: change.novelty,
            reason,
            at,
        });
    }
    Ok(found)
}

/// Puts a connection's oldest quarantined changes back into the inbox, one slice at most; answers how many.
pub(super) fn redrive(db: &Connection, connection: &ConnectionName, now: Timestamp) -> Result<u64, Failure> {
    lease::ensure_connection(db, connection)?;
    let mut redriven = 0;
    let mut after = 0;
    while redriven < SLICE_ROWS_MAX as u64
        && let Some(held) = next(db, connection, after)?
    {
        if let Some(id) = known_id(&held.change) {
            ledger_rows::forget(db, connection, id)?;
        }
        let batch = Batch {
            connection,
            feed: &held.feed,
            source: Source::Page,
            baseline: held.baseline,
            unchanged: Unchanged::Tell,
            at: now,
        };
        inbox::put(db, &batch, &(held.change, held.fresh_as_of))?;
        db.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?
            .execute([held.id])?;
        after = held.id;
        redriven += 1;
    }
    Ok(redriven)
}

struct Held {
    id: i64,
    feed: FeedName,
    fresh_as_of: Timestamp,
    baseline: Baseline,
    change: Change,
}

fn next(db: &Connection, connection: &ConnectionName, after: i64) -> Result<Option<Held>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT id, feed, fresh_as_of, baseline, {CHANGE_COLUMNS} FROM quarantine
         WHERE connection = ?1 AND id > ?2 ORDER BY id LIMIT 1"
    ))?;
    let mut rows = select.query(params![connection.as_str(), after])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    Ok(Some(Held {
        id: columns.get()?,
        feed: columns.feed()?,
        fresh_as_of: columns.instant()?,
        baseline: columns.baseline()?,
        change: columns.change(db, connection)?,
    }))
}
