//! The roll: what a feed's listings named, and what becomes of records that they no longer name.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordKey};
use rusqlite::{OptionalExtension as _, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, row_limit};
use super::{inbox, intake, lease, ledger_rows, quarantine};
use crate::domain::ledger::{self, Baseline, Life, Queue, Source, Unchanged};
use crate::store::batch::{Batch, missing, perhaps_returned};
use crate::store::{AcceptPage, KeepRoll, Kept};

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

pub(super) fn without(
    db: &Connection,
    (connection, feed): (&ConnectionName, &FeedName),
    ids: &[RecordId],
) -> Result<Vec<RecordId>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT 1 FROM roll WHERE connection = ?1 AND feed = ?2 AND record_id = ?3 AND asked = 0",
    )?;
    let mut news = Vec::new();
    for id in ids {
        if !select.exists([connection.as_str(), feed.as_str(), id.as_str()])? {
            news.push(id.clone());
        }
    }
    Ok(news)
}

/// Puts a page's records on the roll; answers how many of them are read now, because they were taken for deleted.
pub(super) fn join(db: &Connection, page: &AcceptPage) -> Result<u64, Failure> {
    let Some(joins) = &page.joins else {
        return Ok(0);
    };
    let connection = &page.poll.connection;
    let batch = Batch {
        connection,
        feed: &page.poll.feed,
        source: Source::Page,
        baseline: Baseline::Unproven,
        unchanged: Unchanged::Tell,
        at: page.at,
    };
    let mut insert = db.prepare_cached(
        "INSERT INTO roll (connection, feed, record_id) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET asked = 0 WHERE asked = 1",
    )?;
    let mut doubted = 0;
    for id in &joins.ids {
        if insert.execute([connection.as_str(), joins.roll.as_str(), id.as_str()])? == 0 {
            continue;
        }
        let key = RecordKey {
            record_type: joins.record_type.clone(),
            id: id.clone(),
        };
        let change = perhaps_returned(&key, None);
        if ledger::is_taken_for_deleted(ledger_rows::head(db, connection, &key)?.as_ref())
            && intake::queue_of(db, connection, None, &key)? == Queue::Empty
            && !quarantine::holds_unnamed(db, connection, &change)?
        {
            inbox::put(db, &batch, &(change, page.fresh_as_of))?;
            doubted += 1;
        }
    }
    Ok(doubted)
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
        // What waits is read or told of anyway, and what is in quarantine is people's; both stay on the roll.
        if asked.is_none()
            || intake::queue_of(db, &keep.connection, None, &key)? == Queue::Waiting
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
    Ok(kept)
}

/// Forgets what a feed's listings named.
pub(super) fn forget(db: &Connection, connection: &ConnectionName, feed: &FeedName) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM roll WHERE connection = ?1 AND feed = ?2")?
        .execute([connection.as_str(), feed.as_str()])?;
    Ok(())
}
