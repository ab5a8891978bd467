//! The schedule: whose turn it is to be polled, and how many polls run at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::connection::{Connection, Feed};
use super::turn::{self, TurnEnd};
use crate::domain::plan;
use crate::store::StoreError;

/// A connection without a lease is looked at again after this.
const WITHOUT_LEASE: Duration = Duration::from_millis(200);

/// A feed's place in the schedule: when it is due, and which it is.
type Entry = (Timestamp, ConnectionName, usize);

/// Polls all feeds of the connections that this worker holds, until `stop`; turns under way may end.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut schedule = first_turns(&worker);
    let mut turns: JoinSet<(ConnectionName, usize, Result<TurnEnd, StoreError>)> = JoinSet::new();
    loop {
        let now = worker.clock.now();
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

fn first_turns(worker: &Worker) -> BTreeSet<Entry> {
    let now = worker.clock.now();
    let feeds = worker
        .connections
        .values()
        .map(|connection| connection.feeds.len())
        .sum();
    let mut schedule = BTreeSet::new();
    for connection in worker.connections.values() {
        for (index, feed) in connection.feeds.iter().enumerate() {
            let phase = plan::phase(&connection.name, &feed.spec.name);
            schedule.insert((
                plan::first_turn(now, feed.every, phase, feeds),
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
    match end {
        TurnEnd::Complete | TurnEnd::Skipped => {
            plan::next_turn(now, feed.every, plan::phase(&connection.name, &feed.spec.name))
        }
        TurnEnd::MoreToCome => now,
        TurnEnd::NotNow => soon(WITHOUT_LEASE),
        TurnEnd::Wait(wait) => soon(wait),
        TurnEnd::Failed { failures, wait } => plan::turn_after_failure(now, feed.every, failures, wait),
    }
}
