//! Cursors: how far each feed has been handed over, and an operator's word that moves one.

use courier_sdk::{ConnectionName, FeedName};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::ask::{SetCursor, Skip, Target};
use super::view::{Answer, CursorMove, CursorView, text};
use super::{Desk, Refusal, instant};
use crate::store::{self, FeedState, StageState};

pub(super) async fn list(desk: &Desk) -> Result<Answer, Refusal> {
    let mut rows = Vec::new();
    for row in desk.store.cursors().await? {
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
        });
    }
    Ok(Answer::Cursors(rows))
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
