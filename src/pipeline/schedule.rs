//! The schedule: whose turn it is to be polled, and how many polls run at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::ConnectionName;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Worker;
use super::connection::{Connection, Feed};
use super::heartbeat::Part;
use super::turn::{self, TurnEnd};
use crate::domain::plan;
use crate::store::StoreError;

/// A connection without a lease is looked at again after this.
const WITHOUT_LEASE: Duration = Duration::from_millis(200);

/// A wall clock may step back by so much without being taken for set.
const CLOCK_NOISE: SignedDuration = SignedDuration::from_secs(1);

/// A feed's place in the schedule: when it is due, and which it is.
type Entry = (Timestamp, ConnectionName, usize);

/// Polls all feeds of the connections that this worker holds, until `stop`; turns under way may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut schedule = first_turns(&worker);
    let mut looked_at = worker.clock.now();
    let mut turns: JoinSet<(ConnectionName, usize, Result<TurnEnd, StoreError>)> = JoinSet::new();
    loop {
        worker.watch.heartbeats.beat(Part::Poll);
        let now = worker.clock.now();
        schedule = set_back(schedule, looked_at, now);
        looked_at = now;
        while turns.len() < worker.limits.polls && schedule.first().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, name, index)) = schedule.pop_first() else {
                break;
            };
            begin(&worker, &mut turns, name, index, &stop);
        }
        let sleep = until_next(&worker, &schedule, turns.len());
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(joined) = turns.join_next() => {
                match joined {
                    Ok((name, index, end)) => {
                        let due = after(&worker, &name, index, end?);
                        schedule.insert((due, name, index));
                    }
                    Err(error) => if error.is_panic() { std::panic::resume_unwind(error.into_panic()) },
                }
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
    drain(&worker, turns).await
}

async fn drain(
    worker: &Worker,
    mut turns: JoinSet<(ConnectionName, usize, Result<TurnEnd, StoreError>)>,
) -> Result<(), StoreError> {
    let all = async {
        while let Some(joined) = turns.join_next().await {
            if let Ok((_, _, end)) = joined {
                end?;
            }
        }
        Ok(())
    };
    // A turn cut short here lost nothing: what it had not handed over is polled again.
    tokio::time::timeout(worker.limits.shutdown_grace, all)
        .await
        .unwrap_or(Ok(()))
}

/// Moves the schedule along with a wall clock that was set back: else nobody would be polled until it has caught up.
fn set_back(schedule: BTreeSet<Entry>, before: Timestamp, now: Timestamp) -> BTreeSet<Entry> {
    let by = before.duration_since(now);
    if by <= CLOCK_NOISE {
        return schedule;
    }
    warn!(
        seconds = by.as_secs(),
        "the wall clock was set back; the schedule moves with it"
    );
    let moved = |(due, name, index): Entry| (due.saturating_sub(by).unwrap_or(now), name, index);
    schedule.into_iter().map(moved).collect()
}

fn first_turns(worker: &Worker) -> BTreeSet<Entry> {
    let now = worker.clock.now();
    let feeds = worker
        .connections
        .values()
        .map(|connection| connection.live_feeds().count())
        .sum();
    let mut schedule = BTreeSet::new();
    for connection in worker.connections.values() {
        for (index, feed) in connection.feeds.iter().enumerate() {
            let phase = plan::phase(&connection.name, &feed.spec.name);
            schedule.insert((
                plan::first_turn(now, feed.pace(), phase, feeds),
                connection.name.clone(),
                index,
            ));
        }
    }
    schedule
}

fn begin(
    worker: &Arc<Worker>,
    turns: &mut JoinSet<(ConnectionName, usize, Result<TurnEnd, StoreError>)>,
    name: ConnectionName,
    index: usize,
    stop: &CancellationToken,
) {
    let (worker, stop) = (Arc::clone(worker), stop.clone());
    turns.spawn(async move {
        let end = match find(&worker, &name, index) {
            Some((connection, feed)) => turn::run(&worker, connection, feed, &stop).await,
            None => Ok(TurnEnd::NotNow),
        };
        (name, index, end)
    });
}

fn find<'a>(worker: &'a Worker, name: &ConnectionName, index: usize) -> Option<(&'a Connection, &'a Feed)> {
    let connection = worker.connections.get(name)?;
    Some((connection, connection.feeds.get(index)?))
}

fn until_next(worker: &Worker, schedule: &BTreeSet<Entry>, running: usize) -> Duration {
    if running >= worker.limits.polls {
        return worker.limits.fallback;
    }
    let wait = schedule.first().map_or(worker.limits.fallback, |(due, ..)| {
        Duration::try_from(due.duration_since(worker.clock.now())).unwrap_or_default()
    });
    // The timer counts milliseconds; rounding up keeps the loop from spinning on the last fraction.
    wait.min(Duration::from_mins(1)) + Duration::from_millis(1)
}

/// When a feed is polled next.
fn after(worker: &Worker, name: &ConnectionName, index: usize, end: TurnEnd) -> Timestamp {
    let now = worker.clock.now();
    let soon = |by: Duration| now.saturating_add(by).unwrap_or(Timestamp::MAX);
    let Some((connection, feed)) = find(worker, name, index) else {
        return soon(Duration::from_mins(1));
    };
    let every = connection.budget.every(feed.every);
    match end {
        TurnEnd::Complete if feed.fills().is_some() => now,
        // How long ago the last sweep was is counted from its end, over restarts too.
        TurnEnd::Complete | TurnEnd::Skipped if !feed.is_live() => soon(feed.pace()),
        TurnEnd::Complete | TurnEnd::Skipped => {
            plan::next_turn(now, every, plan::phase(&connection.name, &feed.spec.name))
        }
        TurnEnd::MoreToCome => now,
        TurnEnd::NotNow => soon(WITHOUT_LEASE),
        TurnEnd::Wait(wait) => soon(wait),
        TurnEnd::Failed { failures, wait } => {
            plan::turn_after_failure(now, every.min(feed.pace()), failures, wait)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_takes_the_schedule_along() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let name = ConnectionName::parse("c").unwrap();
        let schedule: BTreeSet<Entry> = [(at(4_100_000_060), name.clone(), 0)].into();
        let kept = set_back(schedule.clone(), at(4_100_000_000), at(4_100_000_001));
        assert_eq!(kept, schedule);
        let moved = set_back(schedule, at(4_100_000_000), at(1_800_000_000));
        assert_eq!(moved, [(at(1_800_000_060), name, 0)].into());
    }
}
