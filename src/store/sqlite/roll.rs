//! The roll: what complete listings named, and what becomes of records that they no longer name.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordKey};
use rusqlite::{OptionalExtension as _, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, row_limit};
use super::{inbox, lease, ledger_rows, quarantine};
use crate::domain::ledger::{Baseline, Life, Source, Unchanged};
use crate::store::batch::{Batch, missing};
use crate::store::{KeepRoll, Kept};

pub(super) fn list(
    db: &Connection,
    (connection, feed): (&ConnectionName, &FeedName),
    after: Option<&RecordId>,
    limit: usize,
) -> Result<Vec<RecordId>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT record_id FROM roll WHERE connection = ?1 AND feed = ?2 AND record_id > ?3
         ORDER BY record_id LIMIT ?4",
    )?;
    let after = after.map_or("", RecordId::as_str);
    let mut rows = select.query(params![
        connection.as_str(),
        feed.as_str(),
        after,
        row_limit(limit)
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = Columns::of(row).parsed(|text| RecordId::parse(text).map_err(Failure::engine))?;
        found.push(id);
    }
    Ok(found)
}

pub(super) fn keep(db: &Connection, keep: &KeepRoll) -> Result<Kept, Failure> {
    lease::check_fence(db, &keep.connection, keep.fence)?;
    let (connection, feed) = (keep.connection.as_str(), keep.feed.as_str());
    let batch = Batch {
        connection: &keep.connection,
        feed: &keep.feed,
        source: Source::Page,
        baseline: Baseline::Unproven,
        unchanged: Unchanged::Tell,
        at: keep.at,
    };
    let mut standing =
        db.prepare_cached("SELECT asked FROM roll WHERE connection = ?1 AND feed = ?2 AND record_id = ?3")?;
    let mut mark = db
        .prepare_cached("UPDATE roll SET asked = 1 WHERE connection = ?1 AND feed = ?2 AND record_id = ?3")?;
    let mut leave =
        db.prepare_cached("DELETE FROM roll WHERE connection = ?1 AND feed = ?2 AND record_id = ?3")?;
    let mut kept = Kept::default();
    for id in &keep.missing {
        let key = RecordKey {
            record_type: keep.record_type.clone(),
            id: id.clone(),
        };
        let row = [connection, feed, id.as_str()];
        let asked: Option<bool> = standing.query_row(row, |row| row.get(0)).optional()?;
        let change = missing(&key);
        // What waits is read anyway, and what is in quarantine is people's; both stay on the roll.
        if asked.is_none()
            || inbox::holds(db, &keep.connection, &key)?
            || quarantine::holds_unnamed(db, &keep.connection, &change)?
        {
            continue;
        }
        let head = ledger_rows::head(db, &keep.connection, &key)?;
        let lives = head.is_some_and(|head| head.life == Life::Live);
        if asked == Some(false) && lives {
            mark.execute(row)?;
        } else {
            leave.execute(row)?;
        }
        if lives {
            inbox::put(db, &batch, &(change, keep.fresh_as_of))?;
            kept.asked += 1;
        }
    }
    let mut join = db.prepare_cached(
        "INSERT INTO roll (connection, feed, record_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?;
    for id in &keep.joined {
        join.execute([connection, feed, id.as_str()])?;
    }
    Ok(kept)
}

/// Forgets what a feed's listings named.
pub(super) fn forget(db: &Connection, connection: &ConnectionName, feed: &FeedName) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM roll WHERE connection = ?1 AND feed = ?2")?
        .execute([connection.as_str(), feed.as_str()])?;
    Ok(())
}
