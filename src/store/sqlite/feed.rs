//! Feeds: their cursors, their polls, and what moves them.

use courier_sdk::{ConnectionName, Cursor, FeedName, Resume};
use jiff::Timestamp;
use rusqlite::params;

use super::connection::Connection;
use super::rows::{Columns, Failure, baseline_word, damaged, nanos, parse_baseline, stored};
use super::{control, lease, roll, stage};
use crate::domain::ledger::Baseline;
use crate::store::{
    AcceptPage, BaselineProof, CursorRow, Discarded, FeedState, PollId, PollRef, Progress, SetCursor, Sights,
    StageState,
};
use crate::wire::sealed::Place;

/// One feed's row.
#[derive(Default)]
pub(super) struct Feed {
    pub(super) state: FeedState,
    pub(super) baseline: Baseline,
    /// What releasing the stage ends with.
    pub(super) after_stage: Option<PollEnd>,
}

/// How a poll ends.
#[derive(Clone)]
pub(super) struct PollEnd {
    pub(super) cursor: Cursor,
    baseline: BaselineProof,
    fresh_as_of: Timestamp,
}

impl PollEnd {
    pub(super) fn of(page: &AcceptPage, cursor: &Cursor, baseline: BaselineProof) -> Self {
        Self {
            cursor: cursor.clone(),
            baseline,
            fresh_as_of: page.fresh_as_of,
        }
    }
}

const COLUMNS: &str = "cursor, poll, resume, stage, advanced_at, fresh_as_of, baseline, after_cursor, after_baseline, \
     after_fresh_as_of, completed_at, found";

/// Reads a feed; one never seen is empty.
pub(super) fn load(db: &Connection, connection: &ConnectionName, feed: &FeedName) -> Result<Feed, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM feed WHERE connection = ?1 AND name = ?2"
    ))?;
    let mut rows = select.query([connection.as_str(), feed.as_str()])?;
    let mut found = match rows.next()? {
        Some(row) => decode(db, (connection, feed), &mut Columns::of(row))?,
        None => Feed::default(),
    };
    if found.state.stage == StageState::Collecting {
        found.state.staged = stage::last_place(db, connection, feed)?;
    }
    Ok(found)
}

/// Whether a feed was ever polled.
pub(super) fn exists(db: &Connection, connection: &ConnectionName, feed: &FeedName) -> Result<bool, Failure> {
    let mut select = db.prepare_cached("SELECT 1 FROM feed WHERE connection = ?1 AND name = ?2")?;
    Ok(select.exists([connection.as_str(), feed.as_str()])?)
}

/// Writes a feed whole.
pub(super) fn save(
    db: &Connection,
    connection: &ConnectionName,
    name: &FeedName,
    feed: &Feed,
) -> Result<(), Failure> {
    let mut upsert = db.prepare_cached(
        "INSERT OR REPLACE INTO feed (connection, name, cursor, poll, resume, stage, advanced_at, fresh_as_of,
             baseline, after_cursor, after_baseline, after_fresh_as_of, completed_at, found)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    let state = &feed.state;
    let names = [connection.as_str(), name.as_str()];
    let seal = |kind: &'static str, text: Option<&str>| {
        text.map(|text| db.seals().seal(text.as_bytes(), Place::new(kind, &names)))
            .transpose()
    };
    let after = feed.after_stage.as_ref();
    upsert.execute(params![
        connection.as_str(),
        name.as_str(),
        seal("cursor", state.cursor.as_ref().map(Cursor::as_str))?,
        stored(state.poll.0),
        seal("resume", state.resume.as_ref().map(Resume::as_str))?,
        stage_word(state.stage),
        state.advanced_at.map(nanos),
        state.fresh_as_of.map(nanos),
        baseline_word(feed.baseline),
        seal("after_cursor", after.map(|end| end.cursor.as_str()))?,
        after.map(|end| proof_word(end.baseline)),
        after.map(|end| nanos(end.fresh_as_of)),
        state.completed_at.map(nanos),
        stored(state.found),
    ])?;
    Ok(())
}

/// The feed that a page belongs to, if it stands where the page's poll started.
pub(super) fn load_at(db: &Connection, page: &AcceptPage) -> Result<Feed, Failure> {
    let feed = load(db, &page.poll.connection, &page.poll.feed)?;
    if feed.state.poll != page.poll.poll {
        return Err(Failure::conflict("the poll"));
    }
    if feed.state.cursor != page.from {
        return Err(Failure::conflict("the cursor"));
    }
    Ok(feed)
}

pub(super) fn abandon_poll(db: &Connection, poll: &PollRef) -> Result<Discarded, Failure> {
    lease::check_fence(db, &poll.connection, poll.fence)?;
    let mut feed = load(db, &poll.connection, &poll.feed)?;
    if feed.state.poll != poll.poll {
        return Err(Failure::conflict("the poll"));
    }
    let discarded = match feed.state.stage {
        StageState::Collecting => stage::count(db, &poll.connection, &poll.feed)?,
        StageState::None | StageState::Releasing => Discarded::default(),
    };
    feed.end_poll(db, &poll.connection, &poll.feed)?;
    save(db, &poll.connection, &poll.feed, &feed)?;
    Ok(discarded)
}

pub(super) fn set_cursor(db: &Connection, set: &SetCursor) -> Result<(), Failure> {
    lease::ensure_connection(db, &set.connection)?;
    let mut feed = load(db, &set.connection, &set.feed)?;
    if feed.state.stage == StageState::Releasing {
        return Err(Failure::refused(format!(
            "the stage of feed {} is being released",
            set.feed
        )));
    }
    feed.end_poll(db, &set.connection, &set.feed)?;
    feed.state.cursor.clone_from(&set.cursor);
    feed.state.advanced_at = Some(set.at);
    // What the jump leaves out was never seen: a first sight no longer proves a creation.
    feed.baseline = Baseline::Forfeited;
    if set.cursor.is_none() {
        roll::forget(db, &set.connection, &set.feed)?;
    }
    save(db, &set.connection, &set.feed, &feed)?;
    let subject = format!("{}/{}", set.connection, set.feed);
    control::note(db, "cursors set", (&subject, &set.note), set.at)
}

pub(super) fn cursors(db: &Connection) -> Result<Vec<CursorRow>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT connection, name, {COLUMNS} FROM feed ORDER BY connection, name"
    ))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (connection, feed) = (columns.connection()?, columns.feed()?);
        let state = decode(db, (&connection, &feed), &mut columns)?.state;
        found.push(CursorRow {
            connection,
            feed,
            state,
        });
    }
    Ok(found)
}

/// Whether anything of a feed begins with this head.
pub(super) fn is_sealed_with(db: &Connection, head: &[u8]) -> Result<bool, Failure> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM feed WHERE substr(cursor, 1, ?2) = ?1 OR substr(resume, 1, ?2) = ?1
                   OR substr(after_cursor, 1, ?2) = ?1)";
    let length = stored(head.len() as u64);
    Ok(db.query_row(sql, params![head, length], |row| row.get(0))?)
}

/// Whether anything of a feed begins otherwise.
pub(super) fn is_sealed_otherwise(db: &Connection, head: &[u8]) -> Result<bool, Failure> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM feed WHERE substr(cursor, 1, ?2) <> ?1 OR substr(resume, 1, ?2) <> ?1
                   OR substr(after_cursor, 1, ?2) <> ?1)";
    let length = stored(head.len() as u64);
    Ok(db.query_row(sql, params![head, length], |row| row.get(0))?)
}

/// Seals all cursors and links anew. A feed that shows nothing, or is configured no longer, is never written otherwise.
pub(super) fn reseal(db: &Connection) -> Result<(), Failure> {
    for row in cursors(db)? {
        let feed = load(db, &row.connection, &row.feed)?;
        save(db, &row.connection, &row.feed, &feed)?;
    }
    Ok(())
}

impl Feed {
    /// What a page that was accepted does to its feed.
    pub(super) fn progress(&mut self, db: &Connection, page: &AcceptPage) -> Result<(), Failure> {
        let poll = &page.poll;
        match &page.progress {
            Progress::Slice => {}
            Progress::Page(resume) => self.state.resume = Some(resume.clone()),
            Progress::Done { cursor, baseline } => {
                self.end_poll(db, &poll.connection, &poll.feed)?;
                self.complete(PollEnd::of(page, cursor, *baseline), page.at);
            }
            Progress::Inconclusive => self.end_poll(db, &poll.connection, &poll.feed)?,
        }
        Ok(())
    }

    /// What a filter left out was never seen: a first sight proves no creation any more, not even without the filter.
    pub(super) fn note_sights(&mut self, sights: Sights) {
        match sights {
            Sights::All => {}
            Sights::Filtered => self.baseline = Baseline::Forfeited,
        }
    }

    /// Ends the running poll: its resume link and a collecting stage go, and it cannot write any more.
    pub(super) fn end_poll(
        &mut self,
        db: &Connection,
        connection: &ConnectionName,
        feed: &FeedName,
    ) -> Result<(), Failure> {
        self.state.resume = None;
        self.state.poll.0 += 1;
        match self.state.stage {
            StageState::Collecting => {
                stage::discard(db, connection, feed)?;
                self.state.stage = StageState::None;
            }
            StageState::None | StageState::Releasing => {}
        }
        Ok(())
    }

    /// Moves the cursor after a complete poll.
    pub(super) fn complete(&mut self, end: PollEnd, at: Timestamp) {
        if self.state.cursor.as_ref() != Some(&end.cursor) {
            self.state.advanced_at = Some(at);
        }
        self.state.completed_at = Some(at);
        self.state.cursor = Some(end.cursor);
        self.state.fresh_as_of = Some(end.fresh_as_of);
        match end.baseline {
            BaselineProof::Proven => self.baseline = Baseline::Complete,
            BaselineProof::Unproven => {}
        }
    }
}

/// The columns of [`COLUMNS`].
fn decode(
    db: &Connection,
    (connection, feed): (&ConnectionName, &FeedName),
    columns: &mut Columns<'_, '_>,
) -> Result<Feed, Failure> {
    let names = [connection.as_str(), feed.as_str()];
    let place = |kind| Place::new(kind, &names);
    let mut state = FeedState {
        cursor: columns.sealed_text(db, place("cursor"))?.map(Cursor::new),
        poll: PollId(columns.count()?),
        resume: columns.sealed_text(db, place("resume"))?.map(Resume::new),
        stage: parse_stage(&columns.text()?)?,
        staged: 0,
        advanced_at: columns.instant_if_any()?,
        fresh_as_of: columns.instant_if_any()?,
        completed_at: None,
        found: 0,
        baseline: Baseline::default(),
    };
    let baseline = parse_baseline(&columns.text()?)?;
    state.baseline = baseline;
    let after = (
        columns.sealed_text(db, place("after_cursor"))?,
        columns.get::<Option<String>>()?,
        columns.instant_if_any()?,
    );
    let after_stage = match after {
        (Some(cursor), Some(proof), Some(fresh_as_of)) => Some(PollEnd {
            cursor: Cursor::new(cursor),
            baseline: parse_proof(&proof)?,
            fresh_as_of,
        }),
        (None, None, None) => None,
        (_, _, _) => return Err(damaged("end of a stage")),
    };
    state.completed_at = columns.instant_if_any()?;
    state.found = columns.count()?;
    Ok(Feed {
        state,
        baseline,
        after_stage,
    })
}

fn stage_word(stage: StageState) -> &'static str {
    match stage {
        StageState::None => "none",
        StageState::Collecting => "collecting",
        StageState::Releasing => "releasing",
    }
}

fn parse_stage(word: &str) -> Result<StageState, Failure> {
    match word {
        "none" => Ok(StageState::None),
        "collecting" => Ok(StageState::Collecting),
        "releasing" => Ok(StageState::Releasing),
        _ => Err(damaged("state of a stage")),
    }
}

fn proof_word(proof: BaselineProof) -> &'static str {
    match proof {
        BaselineProof::Proven => "proven",
        BaselineProof::Unproven => "unproven",
    }
}

fn parse_proof(word: &str) -> Result<BaselineProof, Failure> {
    match word {
        "proven" => Ok(BaselineProof::Proven),
        "unproven" => Ok(BaselineProof::Unproven),
        _ => Err(damaged("proof of a baseline")),
    }
}
