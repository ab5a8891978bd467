//! The stage: newest-first polls wait here until their last page is in, then leave oldest first.

use std::collections::BTreeMap;

use courier_sdk::{ConnectionName, FeedName, RecordKey};
use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};

use super::connection::Connection;
use super::intake::{self};
use super::rows::{self, CHANGE_COLUMNS, Columns, Failure, change_values, nanos, row_limit, stored, text};
use super::{feed, lease, roll};
use crate::domain::event::{Change, VersionOrder};
use crate::domain::identity::EventId;
use crate::domain::release::{Placed, oldest_first};
use crate::store::batch::{Arrival, Bounds, change_bytes, known_id, page_batch};
use crate::store::{
    AcceptPage, Discarded, PollRef, Progress, ReleaseStage, Released, SLICE_ROWS_MAX, StageState,
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
    roll::join(db, page)?;
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
    let batch = page_batch(
        poll,
        feed.baseline,
        (release.context, release.unchanged, release.at),
    );
    let accepted = intake::take_in(db, &batch, &arrivals)?;
    feed.state.found += accepted.appended + accepted.enqueued;
    if is_empty(db, poll)?
        && let Some(end) = feed.after_stage.take()
    {
        feed.state.stage = StageState::None;
        feed.end_poll(db, &poll.connection, &poll.feed)?;
        feed.complete(end, release.at);
    }
    feed::save(db, &poll.connection, &poll.feed, &feed)?;
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

/// The last place given out: how many versions a stage that is being collected holds.
pub(super) fn last_place(
    db: &Connection,
    connection: &ConnectionName,
    feed: &FeedName,
) -> Result<u64, Failure> {
    let mut last =
        db.prepare_cached("SELECT coalesce(max(place), 0) FROM stage WHERE connection = ?1 AND feed = ?2")?;
    let place = last.query_row([connection.as_str(), feed.as_str()], |row| row.get(0))?;
    Ok(rows::count(place))
}

/// Counts a stage's versions and their records.
pub(super) fn count(
    db: &Connection,
    connection: &ConnectionName,
    feed: &FeedName,
) -> Result<Discarded, Failure> {
    let mut count = db.prepare_cached(
        "SELECT coalesce(sum(versions), 0), count(*) FROM (
             SELECT count(*) AS versions FROM stage WHERE connection = ?1 AND feed = ?2 GROUP BY record_type, record_id)",
    )?;
    let (versions, records) = count.query_row([connection.as_str(), feed.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(Discarded {
        versions: rows::count(versions),
        records: rows::count(records),
    })
}

fn append(db: &Connection, page: &AcceptPage) -> Result<(), Failure> {
    let (connection, feed) = (page.poll.connection.as_str(), page.poll.feed.as_str());
    let mut place = stored(last_place(db, &page.poll.connection, &page.poll.feed)?);
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO stage (connection, feed, place, fresh_as_of, {CHANGE_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)"
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
    let staged = oldest_with_their_records(db, poll, limit)?;
    let placed: Vec<Placed<'_>> = staged.values().map(Staged::placed).collect();
    let rows: Vec<i64> = staged.keys().copied().collect();
    let mut select = db.prepare_cached(&format!(
        "SELECT fresh_as_of, {CHANGE_COLUMNS} FROM stage WHERE rowid = ?1"
    ))?;
    let mut bounds = Bounds::new(limit);
    let (mut taken, mut arrivals) = (Vec::new(), Vec::new());
    for row in oldest_first(&placed)
        .into_iter()
        .filter_map(|index| rows.get(index))
    {
        let mut found = select.query([row])?;
        let Some(columns) = found.next()? else {
            break;
        };
        let mut columns = Columns::of(columns);
        let fresh_as_of = columns.instant()?;
        let change = columns.change(db, &poll.connection)?;
        if !bounds.admit(change_bytes(&change)) {
            break;
        }
        taken.push(*row);
        arrivals.push((change, fresh_as_of));
    }
    let mut delete = db.prepare_cached("DELETE FROM stage WHERE rowid = ?1")?;
    for id in taken {
        delete.execute([id])?;
    }
    Ok(arrivals)
}

/// One staged row, without its body.
struct Staged {
    key: RecordKey,
    order: VersionOrder,
    place: u64,
}

impl Staged {
    fn placed(&self) -> Placed<'_> {
        Placed {
            key: &self.key,
            order: self.order,
            place: self.place,
        }
    }
}

/// The oldest rows of a stage by time, and all other rows of their records, by row: as much as the domain needs to
/// say which leave first.
fn oldest_with_their_records(
    db: &Connection,
    poll: &PollRef,
    limit: usize,
) -> Result<BTreeMap<i64, Staged>, Failure> {
    let mut select = db.prepare_cached(
        "WITH oldest AS (
             SELECT record_type, record_id FROM stage WHERE connection = ?1 AND feed = ?2
             ORDER BY order_stamp, place DESC LIMIT ?3)
         SELECT stage.rowid, record_type, record_id, order_number, order_stamp, place
         FROM (SELECT DISTINCT record_type, record_id FROM oldest)
             CROSS JOIN stage INDEXED BY stage_by_record USING (record_type, record_id)
         WHERE connection = ?1 AND feed = ?2",
    )?;
    let (connection, feed) = (poll.connection.as_str(), poll.feed.as_str());
    let mut rows = select.query(params![connection, feed, row_limit(limit)])?;
    let mut staged = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let row = columns.get()?;
        let one = Staged {
            key: columns.key()?,
            order: columns.order()?,
            place: columns.count()?,
        };
        staged.insert(row, one);
    }
    Ok(staged)
}

fn is_empty(db: &Connection, poll: &PollRef) -> Result<bool, Failure> {
    let mut exists =
        db.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM stage WHERE connection = ?1 AND feed = ?2)")?;
    let empty = exists.query_row([poll.connection.as_str(), poll.feed.as_str()], |row| row.get(0))?;
    Ok(empty)
}

/// Whether a stage holds a version with its record: it is still to be told of, whatever a read found.
pub(super) fn holds(db: &Connection, connection: &ConnectionName, change: &Change) -> Result<bool, Failure> {
    let mut select = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM stage INDEXED BY stage_by_record
                        WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3 AND event_id = ?4
                            AND body IS NOT NULL)",
    )?;
    let key = &change.key;
    let id = known_id(change).map(EventId::as_str);
    Ok(select.query_row(
        params![connection.as_str(), key.record_type.as_str(), key.id.as_str(), id],
        |row| row.get(0),
    )?)
}
