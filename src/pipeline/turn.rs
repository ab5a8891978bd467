//! One feed's turn: page after page of one poll, each handed over before the next is asked for.

use std::ops::ControlFlow;
use std::time::Duration;

use courier_sdk::{ConnectorError, PollRequest};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::connection::{Connection, Feed};
use super::poll::{Errand, Poll};
use super::{backfill, reconcile, stage, storm};
use crate::domain::delivery::Fence;
use crate::domain::trace::SpanOutcome;
use crate::store::{FeedState, StageState, StoreError};

/// Failed turns in a row after which a poll that was left in the middle is begun anew.
const FAILURES_BEFORE_RESTART: u32 = 3;

/// A refused feed or an unauthorised connection is tried again this seldom: people must act first.
const SET_ASIDE: Duration = Duration::from_mins(5);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnEnd {
    /// The poll is complete.
    Complete,
    /// The poll goes on at the feed's next turn, which may come at once.
    MoreToCome,
    /// Too much waits downstream: the source keeps the changes for us.
    Skipped,
    /// The lease is not ours, or the state moved: look again soon.
    NotNow,
    /// The budget has no leave for a request now.
    Wait(Duration),
    /// The poll failed.
    Failed {
        /// So many turns in a row have.
        failures: u32,
        /// The source asked for this pause, or the failure needs people.
        wait: Option<Duration>,
    },
}

/// Takes one turn of a feed.
///
/// # Errors
/// [`StoreError`] when the store fails; a lost lease or a moved cursor only ends the turn.
pub(super) async fn run(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
    stop: &CancellationToken,
) -> Result<TurnEnd, StoreError> {
    let Some(fence) = connection.fence() else {
        return Ok(TurnEnd::NotNow);
    };
    connection.note_waits_no_longer(&feed.spec.name);
    let closed_for = connection.budget.closed_for();
    let state = worker.store.feed(&connection.name, &feed.spec.name).await?;
    let ended = if state.stage == StageState::Releasing {
        // What was collected needs no request.
        stage::release(worker, (connection, feed), fence, &state, stop).await
    } else if !closed_for.is_zero() {
        note_waits(connection, feed);
        return Ok(TurnEnd::Wait(closed_for));
    } else if let Some(end) = is_backed_up(worker, connection, feed).await? {
        return Ok(end);
    } else {
        poll(worker, (connection, feed), fence, state, stop).await
    };
    match ended {
        Err(StoreError::Fenced { .. }) => {
            warn!(connection = %connection.name, "the lease has passed to another worker");
            connection.let_go();
            Ok(TurnEnd::NotNow)
        }
        Err(StoreError::Conflict { what }) => {
            debug!(connection = %connection.name, feed = %feed.spec.name, what, "the feed moved meanwhile");
            Ok(TurnEnd::NotNow)
        }
        Err(StoreError::Refused { reason }) => {
            warn!(connection = %connection.name, feed = %feed.spec.name, reason, "the store refused the page");
            Ok(TurnEnd::Failed {
                failures: connection.note_failure(&feed.spec.name, reason),
                wait: None,
            })
        }
        other => other,
    }
}

async fn poll(
    worker: &Worker,
    (connection, feed): (&Connection, &Feed),
    fence: Fence,
    state: FeedState,
    stop: &CancellationToken,
) -> Result<TurnEnd, StoreError> {
    let errand = match errand(worker, (connection, feed), fence, &state).await? {
        ControlFlow::Continue(errand) => errand,
        ControlFlow::Break(end) => return Ok(end),
    };
    let poll = Poll::new(connection, feed, fence, (state.clone(), errand));
    match stage::review(worker, &poll, &state).await? {
        ControlFlow::Continue(()) => pages(worker, poll, stop).await,
        ControlFlow::Break(end) => Ok(end),
    }
}

/// What the turn is for, or why it is not the feed's now.
async fn errand(
    worker: &Worker,
    (connection, feed): (&Connection, &Feed),
    fence: Fence,
    state: &FeedState,
) -> Result<ControlFlow<TurnEnd, Errand>, StoreError> {
    if let Some(live) = feed.sweeps() {
        let reviewed = reconcile::review(worker, connection, (feed, &live), fence, state).await?;
        return Ok(reviewed.map_continue(Errand::Sweep));
    }
    if let Some(live) = feed.fills() {
        let reviewed = backfill::review(worker, connection, (feed, &live), state).await?;
        return Ok(reviewed.map_continue(Errand::Backfill));
    }
    let live = backfill::beside(worker, (connection, feed), fence, state).await?;
    Ok(ControlFlow::Continue(Errand::Live(live)))
}

/// Whether a feed lets the others of its connection go first: a sweep, a backfill, and one in a storm.
fn gives_way(connection: &Connection, feed: &Feed) -> bool {
    !feed.is_live() || connection.storms.of(&feed.spec.name).is_some()
}

/// Notes a live feed that is refused leave: those that give way wait for it.
fn note_waits(connection: &Connection, feed: &Feed) {
    if !gives_way(connection, feed) {
        connection.note_waits(&feed.spec.name);
    }
}

/// How a turn ends before it begins because too much waits downstream.
async fn is_backed_up(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
) -> Result<Option<TurnEnd>, StoreError> {
    let backlog = worker.store.backlog(&connection.name).await?;
    if storm::fills_its_share(worker, connection, feed, &backlog) {
        return Ok(Some(TurnEnd::Wait(reconcile::GIVES_WAY)));
    }
    let full = backlog.inbox > worker.limits.inbox || backlog.log > worker.limits.log;
    if full {
        warn!(
            connection = %connection.name, inbox = backlog.inbox, log = backlog.log,
            "too much waits downstream: the poll is skipped, the source keeps the changes"
        );
    }
    Ok(full.then_some(TurnEnd::Skipped))
}

async fn pages(worker: &Worker, mut poll: Poll<'_>, stop: &CancellationToken) -> Result<TurnEnd, StoreError> {
    let mut spec = poll.connection.spec_in_force(poll.feed);
    spec.scope.aim = poll.aim();
    for _ in 0..poll.pages_per_turn(worker) {
        let request = PollRequest {
            feed: &spec,
            cursor: poll.asks_from(),
            resume: poll.resume.as_ref(),
        };
        if gives_way(poll.connection, poll.feed)
            && let Some(wait) = reconcile::gives_way(poll.connection)
        {
            return Ok(TurnEnd::Wait(wait));
        }
        // Whoever has to wait gives the turn back: a paused source must not keep others from being polled.
        let leave = match poll.connection.budget.leave_now(&poll.feed.spec.name) {
            Ok(leave) => leave,
            Err(wait) => {
                note_waits(poll.connection, poll.feed);
                return Ok(TurnEnd::Wait(wait));
            }
        };
        let asked_at = worker.clock.now();
        // Cancel safe: until a page is handed over nothing of it is remembered anywhere.
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(TurnEnd::NotNow),
            answer = poll.connection.connector.poll(request) => answer,
        };
        drop(leave);
        if poll.connection.fence() != Some(poll.fence) {
            return Ok(TurnEnd::NotNow);
        }
        match answer {
            Ok(page) => {
                poll.connection.budget.answered();
                poll.connection.note_answered();
                let handed_over = poll.hand_over(worker, page, asked_at).await;
                end_span(worker, &mut poll);
                if let ControlFlow::Break(end) = handed_over? {
                    return Ok(end);
                }
                poll.connection.note_progress(&poll.feed.spec.name);
                if poll.connection.storms.of(&poll.feed.spec.name).is_some() {
                    // What waits downstream is looked at again before each further page.
                    return Ok(TurnEnd::MoreToCome);
                }
            }
            Err(error) => return failed(worker, &poll, &error).await,
        }
    }
    Ok(TurnEnd::MoreToCome)
}

/// Ends the answer's span. One that brought nothing new is not exported: most polls are so.
fn end_span(worker: &Worker, poll: &mut Poll<'_>) {
    let changes = poll.take_brought();
    if let Some(span) = poll.span.take().filter(|_| changes > 0) {
        let feed = poll.feed.spec.name.to_string();
        let fields = vec![("feed", feed), ("changes", changes.to_string())];
        worker.end_span(span, SpanOutcome::Done, &poll.connection.name, fields);
    }
}

async fn failed(worker: &Worker, poll: &Poll<'_>, error: &ConnectorError) -> Result<TurnEnd, StoreError> {
    let (connection, feed) = (poll.connection, &poll.feed.spec.name);
    if let Some(wait) = held_back(connection, error) {
        return Ok(TurnEnd::Wait(wait));
    }
    let failures = connection.note_failure(feed, error.to_string());
    warn!(connection = %connection.name, feed = %feed, class = error.class(), failures, %error, "poll failed");
    metrics::counter!(
        "courier_polls_failed_total",
        "connection" => worker.watch.connections.of(connection.name.as_str()), "class" => error.class()
    )
    .increment(1);
    let restart = match error {
        ConnectorError::PageExpired { .. } | ConnectorError::Refused { .. } => true,
        ConnectorError::Transient { .. } | ConnectorError::Unreadable { .. } => {
            failures.is_multiple_of(FAILURES_BEFORE_RESTART)
        }
        ConnectorError::Throttled { .. }
        | ConnectorError::Held { .. }
        | ConnectorError::Unauthorized { .. }
        | ConnectorError::Forbidden { .. } => false,
    };
    if restart && poll.resume.is_some() {
        let discarded = worker.store.abandon_poll(&poll.reference()).await?;
        stage::note_lost(worker, poll, discarded);
    }
    if poll.feed.sweeps().is_some()
        && let ConnectorError::PageExpired { .. } | ConnectorError::Refused { .. } = error
    {
        // A sweep that outlasts its links, or is not allowed, would list half the source again and again.
        let wait = Some(poll.feed.every);
        return Ok(TurnEnd::Failed { failures, wait });
    }
    if let ConnectorError::PageExpired { .. } = error {
        // An old link says nothing of how the source fares: the poll begins anew at the feed's own pace.
        return Ok(TurnEnd::Failed {
            failures: 1,
            wait: None,
        });
    }
    let wait = match error {
        ConnectorError::Throttled { retry_after, .. } => {
            // The whole connection waits.
            Some(connection.budget.throttled(*retry_after, worker.draw()))
        }
        ConnectorError::Unauthorized { .. } => {
            connection.budget.pause(SET_ASIDE);
            Some(SET_ASIDE)
        }
        ConnectorError::Refused { .. } | ConnectorError::Forbidden { .. } => Some(SET_ASIDE),
        ConnectorError::Held { wait, .. } => Some(*wait),
        ConnectorError::Transient { .. }
        | ConnectorError::PageExpired { .. }
        | ConnectorError::Unreadable { .. } => None,
    };
    Ok(TurnEnd::Failed { failures, wait })
}

/// How long a poll waits that did not fail: our own budget held it back, or maintenance has begun meanwhile.
fn held_back(connection: &Connection, error: &ConnectorError) -> Option<Duration> {
    let maintenance = || {
        let closed_for = connection.budget.closed_for();
        connection.budget.maintenance_until().map(|_| closed_for)
    };
    match error {
        ConnectorError::Held { wait, .. } => Some(*wait),
        ConnectorError::Transient { .. }
        | ConnectorError::Throttled { .. }
        | ConnectorError::Unauthorized { .. }
        | ConnectorError::PageExpired { .. }
        | ConnectorError::Unreadable { .. }
        | ConnectorError::Refused { .. }
        | ConnectorError::Forbidden { .. } => maintenance(),
    }
}
