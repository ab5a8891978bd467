//! Backfills: what a feed that does not start now is to tell of the past, beside its live changes and never in front
//! of them.
//!
//! A backfill is a feed of its own beside the one that it is for, with its own cursor and polls. The live feed begins at
//! the source's present; before its first request the backfill is entered in the store as owed, so that no crash leaves
//! it out and no feed that has begun already gets one. It shows current versions only, from the feed's start up to where
//! the live feed's next poll begins to look, one page a turn. When nothing is left it is complete, for ever.
//!
//! A first sight proves a creation only after a live poll that began when the backfill was complete: what was changed
//! while it ran, and so was shown by neither, that poll shows.

use std::ops::ControlFlow;
use std::time::Duration;

use courier_sdk::{Aim, ChangeRef, Cursor, FeedName, Novelty, Start};
use jiff::{SignedDuration, Timestamp};
use tracing::info;

use super::Worker;
use super::connection::{Connection, Feed};
use super::reconcile::GIVES_WAY;
use super::turn::TurnEnd;
use crate::domain::backfill::{self, Standing};
use crate::domain::delivery::Fence;
use crate::domain::ledger::Baseline;
use crate::store::{Accepted, BaselineProof, FeedState, PollRef, StageState, StoreError};

/// A backfill that failed is tried again after this, and then ever more seldom.
pub(super) const PACE: Duration = Duration::from_secs(5);

/// One that is complete, or that nothing is owed of, is looked at this often.
const LOOK_ANYWAY: Duration = Duration::from_hours(1);

/// While so many changes wait to be read, events for fan-out, or deliveries, a backfill puts only a page a minute
/// behind them: enough to come to its end though one destination takes nothing.
const INBOX_MAX: u64 = 20;
const LOG_MAX: u64 = 200;
const OUTBOX_MAX: u64 = 1_000;
const CROWDED: Duration = Duration::from_mins(1);

impl Feed {
    /// Whether it finds changes itself: it is neither a sweep nor a backfill.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.spec.scope.aim, Aim::Changes | Aim::Present)
    }

    /// The backfill of this feed. `None` where it starts now, for a feed of our own, or where its name would be too long.
    #[must_use]
    pub fn backfill(&self) -> Option<Self> {
        if !self.is_live() || self.spec.start == Start::Now {
            return None;
        }
        let mut spec = self.spec.clone();
        spec.name = backfill::beside(&self.spec.name)?;
        // Until the live feed has begun nobody knows up to where it goes.
        spec.scope.aim = Aim::Past {
            until: Timestamp::MIN,
        };
        Some(Self {
            spec,
            every: self.every,
            overlap: self.overlap,
            unchanged: self.unchanged,
            storm: None,
        })
    }

    /// The feed that this is a backfill of.
    #[must_use]
    pub fn fills(&self) -> Option<FeedName> {
        match self.spec.scope.aim {
            Aim::Past { .. } => backfill::filled_by(&self.spec.name),
            Aim::Changes | Aim::Present | Aim::Everything => None,
        }
    }
}

/// How a live feed is polled with a view to its backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) aim: Aim,
    /// What its poll proves, once it is complete.
    pub(super) baseline: BaselineProof,
}

/// How far a backfill goes for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    until: Timestamp,
}

impl Past {
    /// What the connector is asked for.
    pub(super) fn aim(self) -> Aim {
        Aim::Past { until: self.until }
    }

    /// What a poll that ends with this cursor proves: that nothing is left, or nothing.
    pub(super) fn proof(self, connection: &Connection, cursor: &Cursor) -> BaselineProof {
        match connection.connector.describe(cursor) {
            Some(stands_at) if stands_at >= self.until => BaselineProof::Proven,
            Some(_) | None => BaselineProof::Unproven,
        }
    }

    /// Leaves out what lies before the feed's start, and what the live feed shows itself, in order.
    pub(super) fn cut(self, changes: Vec<ChangeRef>) -> Vec<ChangeRef> {
        let later = |stamp: Timestamp| stamp > self.until;
        changes
            .into_iter()
            .filter(|change| change.novelty == Novelty::Announce && !change.last_updated.is_some_and(later))
            .collect()
    }
}

/// Says how a live feed is polled, and enters its backfill in the store where it is about to begin.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn beside(
    worker: &Worker,
    (connection, feed): (&Connection, &Feed),
    fence: Fence,
    state: &FeedState,
) -> Result<Beside, StoreError> {
    let name = backfill::beside(&feed.spec.name).filter(|name| connection.feed(name).is_some());
    let Some(name) = name else {
        return Ok(alone(feed, state));
    };
    let mut filled = worker.store.feed(&connection.name, &name).await?;
    if standing(&filled) == Standing::NotOwed {
        if state.cursor.is_some() || state.resume.is_some() || state.stage != StageState::None {
            // It began without one, and brings what lies before by itself, or has brought it.
            return Ok(alone(feed, state));
        }
        let enter = PollRef {
            connection: connection.name.clone(),
            feed: name.clone(),
            fence,
            poll: filled.poll,
        };
        worker.store.abandon_poll(&enter).await?;
        filled = worker.store.feed(&connection.name, &name).await?;
        info!(connection = %connection.name, feed = %name, "the feed begins now; a backfill brings what lies before");
    }
    Ok(Beside {
        aim: if state.cursor.is_none() {
            Aim::Present
        } else {
            Aim::Changes
        },
        baseline: proof(feed, state, &filled),
    })
}

/// A feed whose own first poll shows everything from its start: it proves a baseline if that is the beginning, without a
/// filter.
fn alone(feed: &Feed, state: &FeedState) -> Beside {
    let proven = state.cursor.is_none() && shows_all(feed);
    Beside {
        aim: Aim::Changes,
        baseline: if proven {
            BaselineProof::Proven
        } else {
            BaselineProof::Unproven
        },
    }
}

/// What a live poll proves that begins now.
fn proof(feed: &Feed, state: &FeedState, backfill: &FeedState) -> BaselineProof {
    let begins = state.resume.is_none() && state.stage == StageState::None && state.cursor.is_some();
    let open = state.baseline == Baseline::Unproven;
    if begins && open && standing(backfill) == Standing::Complete && shows_all(feed) {
        BaselineProof::Proven
    } else {
        BaselineProof::Unproven
    }
}

fn standing(backfill: &FeedState) -> Standing {
    Standing::of(backfill.poll.0, backfill.baseline)
}

fn shows_all(feed: &Feed) -> bool {
    feed.spec.filter.is_empty() && feed.spec.start == Start::Beginning
}

/// Whether the backfill beside a feed is owed and has not come to its end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn is_under_way(
    worker: &Worker,
    connection: &Connection,
    live: &FeedName,
) -> Result<bool, StoreError> {
    let Some(name) = backfill::beside(live).filter(|name| connection.feed(name).is_some()) else {
        return Ok(false);
    };
    let state = worker.store.feed(&connection.name, &name).await?;
    Ok(standing(&state) == Standing::UnderWay)
}

/// Whether a backfill's turn has come; if so, how far it goes.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn review(
    worker: &Worker,
    connection: &Connection,
    (feed, live): (&Feed, &FeedName),
    state: &FeedState,
) -> Result<ControlFlow<TurnEnd, Past>, StoreError> {
    let wait = |by: Duration| Ok(ControlFlow::Break(TurnEnd::Wait(by)));
    show(worker, connection, feed, state);
    let followed = worker.store.feed(&connection.name, live).await?;
    match standing(state) {
        Standing::Complete => return wait(LOOK_ANYWAY),
        Standing::NotOwed if followed.cursor.is_some() => return wait(LOOK_ANYWAY),
        Standing::NotOwed => return wait(GIVES_WAY),
        Standing::UnderWay => {}
    }
    let stands_at = followed
        .cursor
        .as_ref()
        .and_then(|it| connection.connector.describe(it));
    let (Some(stands_at), StageState::None) = (stands_at, followed.stage) else {
        return wait(GIVES_WAY);
    };
    if connection.live_waits() || is_crowded(worker, connection, feed).await? {
        return wait(GIVES_WAY);
    }
    // The least that the live feed looks back from where it stands, now or later.
    let overlap = SignedDuration::try_from(feed.spec.overlap).unwrap_or(SignedDuration::MAX);
    let until = stands_at.saturating_sub(overlap).unwrap_or(Timestamp::MIN);
    Ok(ControlFlow::Continue(Past { until }))
}

/// Whether so much waits, or so little may be asked of the source, that a page more is put behind it only now and then.
async fn is_crowded(worker: &Worker, connection: &Connection, feed: &Feed) -> Result<bool, StoreError> {
    let paged_at = connection.condition(&feed.spec.name).and_then(|it| it.paged_at);
    if paged_at.is_none_or(|at| at.elapsed() >= CROWDED) {
        return Ok(false);
    }
    let low = connection.budget.day_left().is_some_and(|day| day.is_low());
    if low || connection.budget.is_peak() {
        return Ok(true);
    }
    let waits = worker.store.backlog(&connection.name).await?;
    Ok(waits.inbox > INBOX_MAX || waits.log > LOG_MAX || waits.outbox > OUTBOX_MAX)
}

/// Notes a page that was handed over.
pub(super) fn observe(worker: &Worker, connection: &Connection, feed: &Feed, accepted: &Accepted) {
    connection.note_paged(&feed.spec.name);
    let label = worker.watch.connections.of(connection.name.as_str());
    metrics::counter!("courier_backfill_rows_total", "connection" => label)
        .increment(accepted.appended + accepted.enqueued);
}

/// Tells that nothing is left.
pub(super) async fn tell(worker: &Worker, connection: &Connection, feed: &Feed) -> Result<(), StoreError> {
    let state = worker.store.feed(&connection.name, &feed.spec.name).await?;
    if standing(&state) == Standing::Complete {
        show(worker, connection, feed, &state);
        info!(
            connection = %connection.name, feed = %feed.spec.name, changes = state.found,
            "the backfill is complete"
        );
    }
    Ok(())
}

fn show(worker: &Worker, connection: &Connection, feed: &Feed, state: &FeedState) {
    let complete = match standing(state) {
        Standing::NotOwed => return,
        Standing::UnderWay => 0.0,
        Standing::Complete => 1.0,
    };
    let connection = worker.watch.connections.of(connection.name.as_str());
    metrics::gauge!(
        "courier_backfill_complete",
        "connection" => connection, "feed" => feed.spec.name.to_string()
    )
    .set(complete);
}
