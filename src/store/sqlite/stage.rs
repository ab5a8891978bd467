//! The stage: newest-first polls wait here until their last page is in, then leave oldest first.

use courier_sdk::{ConnectionName, FeedName};
use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};

use super::connection::Connection;
use super::intake::{self};
use super::rows::{CHANGE_COLUMNS, Columns, Failure, change_values, nanos, row_limit, text};
use super::{feed, lease};
use crate::store::batch::{Arrival, Bounds, change_bytes, page_batch};
use crate::store::{AcceptPage, PollRef, Progress, ReleaseStage, Released, SLICE_ROWS_MAX, StageState};

/// Which row of a stage leaves first: by time, then by version number; ties in the reverse of the answer.
const OLDEST_FIRST: &str = if cfg!(sabotage = "unordered_history") {
    "place"
} else {
    "order_stamp, order_number, place DESC"
};

pub(super) fn stage_page(db: &Connection, page: &AcceptPage) -> Result<(), Failure> {
    let poll = &page.poll;
    lease::check_fence(db, &poll.connection, poll.fence)?;
    let mut feed = feed::load_at(db, page)?;
    if feed.state.stage == StageState::Releasing {
        return Err(Failure::refused(format!(
            "the stage of feed {} is being released",
            poll.feed
        )));
    }
    append(db, page)?;
    feed.note_sights(page.sights);
    feed.state.stage = StageState::Collecting;
    match &page.progress {
        Progress::Slice | Progress::Page(_) | Progress::Inconclusive => feed.progress(db, page)?,
        Progress::Done { cursor, baseline } => {
            feed.state.resume = None;
            feed.state.stage = StageState::Releasing;
            feed.after_stage = Some(feed::PollEnd::of(page, cursor, *baseline));
        }
    }
    intake::quarantine_oversized(db, page, feed.baseline)?;
    feed::save(db, &poll.connection, &poll.feed, &feed)
}

pub(super) fn release_stage(db: &Connection, release: &ReleaseStage) -> Result<Released, Failure> {
    let poll = &release.poll;
    lease::check_fence(db, &poll.connection, poll.fence)?;
    let mut feed = feed::load(db, &poll.connection, &poll.feed)?;
    if feed.state.stage != StageState::Releasing {
        return Err(Failure::refused(format!(
            "feed {} has no stage to release",
            poll.feed
        )));
    }
    let arrivals = take_oldest(db, poll, release.limit.min(SLICE_ROWS_MAX))?;
    let batch = page_batch(poll, feed.baseline, release.at);
    let accepted = intake::take_in(db, &batch, &arrivals)?;
    if is_empty(db, poll)?
        && let Some(end) = feed.after_stage.take()
    {
        feed.state.stage = StageState::None;
        feed.end_poll(db, &poll.connection, &poll.feed)?;
        feed.complete(end, release.at);
        feed::save(db, &poll.connection, &poll.feed, &feed)?;
    }
    Ok(Released {
        accepted,
        stage: feed.state.stage,
    })
}

/// Forgets what a feed has staged.
pub(super) fn discard(db: &Connection, connection: &ConnectionName, feed: &FeedName) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM stage WHERE connection = ?1 AND feed = ?2")?
        .execute([connection.as_str(), feed.as_str()])?;
    Ok(())
}

fn append(db: &Connection, page: &AcceptPage) -> Result<(), Failure> {
    let (connection, feed) = (page.poll.connection.as_str(), page.poll.feed.as_str());
    let mut last =
        db.prepare_cached("SELECT coalesce(max(place), 0) FROM stage WHERE connection = ?1 AND feed = ?2")?;
    let mut place: i64 = last.query_row([connection, feed], |row| row.get(0))?;
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO stage (connection, feed, place, fresh_as_of, {CHANGE_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
    ))?;
    for change in &page.changes {
        place += 1;
        let own = [
            text(connection),
            text(feed),
            Value::Integer(place),
            Value::Integer(nanos(page.fresh_as_of)),
        ];
        insert.execute(params_from_iter(own.into_iter().chain(change_values(
            db,
            &page.poll.connection,
            change,
        )?)))?;
    }
    Ok(())
}

fn take_oldest(db: &Connection, poll: &PollRef, limit: usize) -> Result<Vec<Arrival>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT rowid, fresh_as_of, {CHANGE_COLUMNS} FROM stage WHERE connection = ?1 AND feed = ?2
         ORDER BY {OLDEST_FIRST} LIMIT ?3"
    ))?;
    let mut rows = select.query(params![
        poll.connection.as_str(),
        poll.feed.as_str(),
        row_limit(limit)
    ])?;
    let mut bounds = Bounds::new(limit);
    let (mut taken, mut arrivals) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let id: i64 = columns.get()?;
        let fresh_as_of = columns.instant()?;
        let change = columns.change(db, &poll.connection)?;
        if !bounds.admit(change_bytes(&change)) {
            break;
        }
        taken.push(id);
        arrivals.push((change, fresh_as_of));
    }
    let mut delete = db.prepare_cached("DELETE FROM stage WHERE rowid = ?1")?;
    for id in taken {
        delete.execute([id])?;
    }
    Ok(arrivals)
}

fn is_empty(db: &Connection, poll: &PollRef) -> Result<bool, Failure> {
    let mut exists =
        db.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM stage WHERE connection = ?1 AND feed = ?2)")?;
    let empty = exists.query_row([poll.connection.as_str(), poll.feed.as_str()], |row| row.get(0))?;
    Ok(empty)
}
