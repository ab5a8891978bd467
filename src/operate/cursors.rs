//! Cursors: how far each feed has been handed over, and an operator's word that moves one.

use courier_sdk::{ConnectionName, FeedName};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::ask::{SetCursor, Skip, Target};
use super::view::{Answer, BackfillView, CursorMove, CursorView, text};
use super::{Desk, Refusal, instant};
use crate::domain::backfill::{self, Standing};
use crate::store::{self, CursorRow, FeedState, StageState};

pub(super) async fn list(desk: &Desk) -> Result<Answer, Refusal> {
    let (mut rows, states) = (Vec::new(), desk.store.cursors().await?);
    for row in &states {
        let stage = match row.state.stage {
            StageState::None => None,
            StageState::Collecting => Some("collecting"),
            StageState::Releasing => Some("releasing"),
        };
        let overlap = desk.overlaps.get(&(row.connection.clone(), row.feed.clone()));
        rows.push(CursorView {
            cursor: text(stands_at(desk, &row.connection, &row.state)),
            connection: row.connection.to_string(),
            feed: row.feed.to_string(),
            overlap_seconds: overlap.map(std::time::Duration::as_secs),
            completed_at: text(row.state.completed_at),
            found: row.state.found,
            fresh_as_of: text(row.state.fresh_as_of),
            advanced_at: text(row.state.advanced_at),
            stage: stage.map(str::to_owned),
            backfill: backfill_view(desk, row, &states),
        });
    }
    Ok(Answer::Cursors(rows))
}

/// How a backfill stands beside its feed.
fn backfill_view(desk: &Desk, row: &CursorRow, all: &[CursorRow]) -> Option<BackfillView> {
    let live = backfill::filled_by(&row.feed)?;
    let state = match standing(&row.state) {
        Standing::NotOwed => return None,
        Standing::UnderWay => "under-way",
        Standing::Complete => "complete",
    };
    let followed = all
        .iter()
        .find(|it| it.connection == row.connection && it.feed == live);
    let live_at = followed.and_then(|it| stands_at(desk, &it.connection, &it.state));
    let stands_at = stands_at(desk, &row.connection, &row.state);
    let start = desk.starts.get(&(row.connection.clone(), live));
    Some(BackfillView {
        state: state.to_owned(),
        stretches: row.state.poll.0.saturating_sub(1),
        percent: match standing(&row.state) {
            Standing::Complete => Some(100),
            Standing::NotOwed | Standing::UnderWay => {
                start.and_then(|start| backfill::percent(*start, stands_at, live_at))
            }
        },
    })
}

fn standing(state: &FeedState) -> Standing {
    Standing::of(state.poll.0, state.baseline)
}

/// Whether the backfill beside a feed is under way.
async fn is_filled(desk: &Desk, connection: &ConnectionName, feed: &FeedName) -> Result<bool, Refusal> {
    let Some(name) = backfill::beside(feed) else {
        return Ok(false);
    };
    let state = desk.store.feed(connection, &name).await?;
    Ok(standing(&state) == Standing::UnderWay)
}

/// Moves a cursor. The running poll ends without effect: nothing that it found moves the cursor any more.
pub(super) async fn set(desk: &Desk, set: &SetCursor) -> Result<Answer, Refusal> {
    let connection = ConnectionName::parse(&set.connection)?;
    let feed = FeedName::parse(&set.feed)?;
    desk.know_connection(Some(&connection))?;
    let feeds = desk.connections.get(&connection).map(Vec::as_slice);
    super::known("feed", Some(&feed), || feeds.unwrap_or_default().iter().collect())?;
    let connector = desk.connectors.get(&connection).ok_or_else(|| {
        Refusal::Conflict(format!(
            "connection {connection} is set aside: nobody reads its cursors"
        ))
    })?;
    let state = desk.store.feed(&connection, &feed).await?;
    let from = stands_at(desk, &connection, &state);
    let to = aim(&set.target, from, desk.clock.now())?;
    let skipped = from.is_some_and(|from| to > from);
    if let (true, Some(from), Skip::Refuse) = (skipped, from, set.skip) {
        return Err(Refusal::Conflict(format!(
            "that moves {connection}/{feed} forward, from {from} to {to}: nothing that changed in between and was not \
             seen yet will ever be announced; say --yes if that is meant"
        )));
    }
    let filled = is_filled(desk, &connection, &feed).await?;
    if skipped && filled {
        return Err(Refusal::Conflict(format!(
            "the backfill of {connection}/{feed} is under way and goes up to where the feed stands: it would bring what \
             is to be left out; wait for its end, or move the cursor back"
        )));
    }
    let was = from.map_or_else(|| "nowhere".to_owned(), |from| from.to_string());
    desk.store
        .set_cursor(&store::SetCursor {
            connection: connection.clone(),
            feed: feed.clone(),
            cursor: Some(connector.cursor_at(to)),
            note: format!("from {was} to {to}"),
            at: desk.clock.now(),
        })
        .await?;
    if skipped {
        warn!(%connection, %feed, from = was, %to, "an operator moved a cursor forward, past what was not seen");
    } else {
        info!(%connection, %feed, from = was, %to, "an operator moved a cursor");
    }
    Ok(Answer::CursorSet(CursorMove {
        connection: connection.to_string(),
        feed: feed.to_string(),
        from: text(from),
        to: to.to_string(),
        skipped,
        backfill: filled,
    }))
}

/// The instant that a feed's cursor stands for, if it has one and somebody can read it.
pub(super) fn stands_at(desk: &Desk, connection: &ConnectionName, state: &FeedState) -> Option<Timestamp> {
    desk.connectors.get(connection)?.describe(state.cursor.as_ref()?)
}

fn aim(target: &Target, from: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let to = match target {
        Target::To(text) => instant(text)?,
        Target::Back(by) => {
            let from = from.ok_or_else(|| {
                Refusal::Conflict("the feed has no cursor yet: name the instant with --to".to_owned())
            })?;
            SignedDuration::try_from(*by)
                .ok()
                .and_then(|by| from.checked_sub(by).ok())
                .ok_or_else(|| Refusal::Usage("that is too far back".to_owned()))?
        }
    };
    if to > now {
        return Err(Refusal::Usage(format!("{to} lies in the future")));
    }
    Ok(to)
}
