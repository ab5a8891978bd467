//! Polls whose newest versions come first: their stage is released oldest first, or given up where it comes to
//! nothing; then the feed catches up by its current state.
//!
//! A stage that is complete is never given up: any later worker goes on releasing it.

use std::ops::ControlFlow;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Worker;
use super::connection::{Connection, Feed};
use super::overlap;
use super::poll::{self, Poll};
use super::storm;
use super::turn::TurnEnd;
use crate::domain::delivery::Fence;
use crate::store::{
    Discarded, FeedState, PollId, PollRef, ReleaseStage, SLICE_ROWS_MAX, StageState, StoreError,
};

/// Stages in a row that came to nothing (their links expired, or the poll proved incomplete) after which the feed
/// catches up by its current state.
const LOST_STAGES_MAX: u32 = 3;

/// Gives up what a feed has collected where it cannot be completed; then the turn is over.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn review(
    worker: &Worker,
    poll: &Poll<'_>,
    state: &FeedState,
) -> Result<ControlFlow<TurnEnd>, StoreError> {
    if state.stage != StageState::Collecting {
        return Ok(ControlFlow::Continue(()));
    }
    if state.staged >= worker.limits.stage {
        let discarded = worker.store.abandon_poll(&poll.reference()).await?;
        catch_up(worker, poll, discarded, "more versions than a stage holds");
        return Ok(ControlFlow::Break(TurnEnd::MoreToCome));
    }
    if state.resume.is_none() {
        // The worker ended while it handed over the first page: nothing says where to go on.
        worker.store.abandon_poll(&poll.reference()).await?;
        return Ok(ControlFlow::Break(TurnEnd::MoreToCome));
    }
    Ok(ControlFlow::Continue(()))
}

/// Notes that what a poll had collected came to nothing.
pub(super) fn note_lost(worker: &Worker, poll: &Poll<'_>, discarded: Discarded) {
    if discarded == Discarded::default() {
        return;
    }
    let feed = &poll.feed.spec.name;
    let lost = poll.connection.note_lost_stage(feed);
    warn!(
        connection = %poll.connection.name, %feed, versions = discarded.versions, lost,
        "the pages collected so far are of no use; the poll begins anew"
    );
    if lost >= LOST_STAGES_MAX {
        catch_up(
            worker,
            poll,
            discarded,
            "its pages could not be collected three times in a row",
        );
    }
}

/// Lets the feed catch up by a search for its current state.
fn catch_up(worker: &Worker, poll: &Poll<'_>, discarded: Discarded, reason: &str) {
    let (connection, feed) = (&poll.connection.name, &poll.feed.spec.name);
    let unseen = discarded.versions.saturating_sub(discarded.records);
    error!(
        %connection, %feed, reason, versions_not_seen = unseen,
        "the feed catches up by its current state: earlier versions and deletes meanwhile are not told of"
    );
    let label = worker.watch.connections.of(connection.as_str());
    metrics::counter!("courier_versions_not_seen_total", "connection" => label).increment(unseen);
    poll.connection.search_instead(feed);
}

/// Releases a complete stage, slice by slice.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn release(
    worker: &Worker,
    (connection, feed): (&Connection, &Feed),
    fence: Fence,
    state: &FeedState,
    stop: &CancellationToken,
) -> Result<TurnEnd, StoreError> {
    let of = PollRef {
        connection: connection.name.clone(),
        feed: feed.spec.name.clone(),
        fence,
        poll: PollId::default(),
    };
    let cursor = state.cursor.as_ref();
    let stood_at = cursor.and_then(|cursor| connection.connector.describe(cursor));
    loop {
        let request = ReleaseStage {
            poll: of.clone(),
            limit: SLICE_ROWS_MAX,
            context: poll::context_rule(feed),
            unchanged: connection.unchanged(feed),
            at: worker.clock.now(),
        };
        let released = worker.store.release_stage(&request).await?;
        overlap::observe(worker, connection, feed, (stood_at, &released.accepted));
        worker.announce(&connection.name, &released.accepted).await;
        if released.stage == StageState::None {
            storm::end_poll(worker, connection, feed).await?;
            let state = worker.store.feed(&connection.name, &feed.spec.name).await?;
            connection.note_success(&feed.spec.name, worker.clock.now(), state.fresh_as_of);
            return Ok(TurnEnd::Complete);
        }
        if stop.is_cancelled() {
            return Ok(TurnEnd::MoreToCome);
        }
    }
}
