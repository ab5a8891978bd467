//! Reconcile sweeps: now and then every record of a feed is listed, so that what all its polls missed is found.
//!
//! A sweep is a feed of its own beside the one that it is for, with its own cursor, poll and roll. It brings what lies
//! before the live feed's overlap and is not known; what is newer the live feed shows itself, in order.

use std::ops::ControlFlow;
use std::time::Duration;

use courier_sdk::{Aim, ChangeRef, Cursor, FeedName, FetchMode, VersionRule};
use jiff::Timestamp;
use tracing::{info, warn};

use super::connection::{Connection, Feed};
use super::turn::TurnEnd;
use super::{Worker, backfill, roll};
use crate::domain::delivery::Fence;
use crate::domain::plan;
use crate::store::{Accepted, FeedState, StageState, StoreError};

/// What a sweep's name ends with, after its feed's.
pub const SUFFIX: &str = ".sweep";

/// A sweep that cannot begin, or failed, is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Whoever gives way to live polls does so for so long.
pub(super) const GIVES_WAY: Duration = Duration::from_secs(1);

/// The first sweeps of all connections are spread over so long.
const SPREAD_OVER: Duration = Duration::from_hours(1);

/// A sweep that is not due is looked at this often: a wall clock may be set.
const LOOK_ANYWAY: Duration = Duration::from_hours(1);

impl Feed {
    /// The sweep of this feed, every so often. `None` for a sweep, or where its name would be too long.
    #[must_use]
    pub fn sweep(&self, every: Duration, rule: &VersionRule) -> Option<Self> {
        let name = FeedName::parse(&format!("{}{SUFFIX}", self.spec.name)).ok()?;
        let mut spec = self.spec.clone();
        spec.name = name;
        spec.scope.aim = Aim::Everything;
        // Ids and versions do where a version tells what is new; elsewhere only the record itself does, and a page of
        // records costs the source less than a read of each.
        if rule.trust_version_id {
            spec.fetch = FetchMode::ByRead;
        }
        self.is_live().then_some(Self {
            spec,
            every,
            ..self.clone()
        })
    }

    /// The feed that this is a sweep of.
    #[must_use]
    pub fn sweeps(&self) -> Option<FeedName> {
        match self.spec.scope.aim {
            Aim::Changes | Aim::Present | Aim::Past { .. } => None,
            Aim::Everything => FeedName::parse(self.spec.name.as_str().strip_suffix(SUFFIX)?).ok(),
        }
    }

    /// The pace at which failed turns are repeated, and skipped ones.
    #[must_use]
    pub fn pace(&self) -> Duration {
        match self.spec.scope.aim {
            Aim::Changes | Aim::Present => self.every,
            Aim::Past { .. } => self.every.min(backfill::PACE),
            Aim::Everything => self.every.min(LOOK_AGAIN),
        }
    }
}

/// What a sweep leaves to its live feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Horizon {
    /// What is stamped at or after this instant.
    from: Option<Timestamp>,
    /// Where the live feed stands: its cursor knows where it began.
    cursor: Cursor,
}

/// Whether a sweep's turn has come; if so, what it leaves to its live feed.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn review(
    worker: &Worker,
    connection: &Connection,
    (feed, live): (&Feed, &FeedName),
    fence: Fence,
    state: &FeedState,
) -> Result<ControlFlow<TurnEnd, Horizon>, StoreError> {
    let wait = |by: Duration| Ok(ControlFlow::Break(TurnEnd::Wait(by)));
    let followed = worker.store.feed(&connection.name, live).await?;
    let (Some(cursor), StageState::None) = (&followed.cursor, followed.stage) else {
        return wait(LOOK_AGAIN);
    };
    if backfill::is_under_way(worker, connection, live).await? {
        // It would read all that the backfill is about to show.
        return wait(LOOK_AGAIN);
    }
    if state.resume.is_none() {
        if roll::is_unfinished(connection, &feed.spec.name, fence) {
            // The inbox had no room for all that disappeared.
            roll::conclude(worker, connection, feed, fence).await?;
            return wait(LOOK_AGAIN);
        }
        let now = worker.clock.now();
        let phase = plan::phase(&connection.name, &feed.spec.name);
        let not_due = state.completed_at.map_or_else(
            || first_in((now, connection.age()), feed.every, phase),
            |completed_at| due_in(completed_at, feed.every, now),
        );
        if !not_due.is_zero() {
            return wait(not_due.min(LOOK_ANYWAY));
        }
    }
    if gives_way(connection).is_some() {
        return wait(GIVES_WAY);
    }
    let overlap = connection
        .feed(live)
        .map(|live| connection.spec_in_force(live).overlap);
    let from = connection.connector.describe(cursor).map(|stands_at| {
        let overlap = jiff::SignedDuration::try_from(overlap.unwrap_or_default());
        stands_at
            .saturating_sub(overlap.unwrap_or(jiff::SignedDuration::MAX))
            .unwrap_or(Timestamp::MIN)
    });
    Ok(ControlFlow::Continue(Horizon {
        from,
        cursor: cursor.clone(),
    }))
}

/// How long a sweep, or a feed in a storm, waits while a live feed of its connection waits for leave to ask.
pub(super) fn gives_way(connection: &Connection) -> Option<Duration> {
    connection.live_waits().then_some(GIVES_WAY)
}

/// How long until a sweep is due, counted from the end of the one before. Where that lies ahead of us the wall clock was
/// set back since, and nobody knows how long ago it was.
fn due_in(completed_at: Timestamp, every: Duration, now: Timestamp) -> Duration {
    if completed_at > now {
        return Duration::ZERO;
    }
    Duration::try_from(plan::later(completed_at, every).duration_since(now)).unwrap_or_default()
}

/// How long until the first sweep of a connection of that age: at its names' own minute of the hour, so that those of many
/// connections do not begin together when the service starts.
fn first_in((now, age): (Timestamp, Duration), every: Duration, phase: f64) -> Duration {
    let made_at = now.saturating_sub(age).unwrap_or(Timestamp::MIN);
    let first = plan::next_turn(made_at, every.min(SPREAD_OVER), phase);
    Duration::try_from(first.duration_since(now)).unwrap_or_default()
}

impl Horizon {
    /// The live feed's cursor.
    pub(super) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Leaves out what the live feed's next poll shows. What lies before its start enters in silence: of what nobody knows
    /// nobody sees that it is gone.
    pub(super) fn cut(&self, changes: Vec<ChangeRef>) -> Vec<ChangeRef> {
        let shown_live = |stamp: Timestamp| self.from.is_some_and(|from| stamp >= from);
        changes
            .into_iter()
            .filter(|change| !change.last_updated.is_some_and(shown_live))
            .collect()
    }
}

/// Notes what a sweep brought that was new: every cursor had missed it.
pub(super) fn observe(worker: &Worker, connection: &Connection, feed: &Feed, accepted: &Accepted) {
    let recovered = accepted.appended + accepted.enqueued;
    if recovered == 0 {
        return;
    }
    connection.note_recovered(&feed.spec.name, recovered);
    let label = worker.watch.connections.of(connection.name.as_str());
    metrics::counter!("courier_reconcile_recovered_total", "connection" => label).increment(recovered);
    // How late it was nobody knows, only that it was later than the overlap: that is doubled.
    if let Some(live) = feed.sweeps().and_then(|live| connection.feed(&live)) {
        let overlap = connection.spec_in_force(live).overlap;
        connection.note_lateness(&live.spec.name, overlap);
    }
}

/// Tells what a complete sweep found.
pub(super) fn tell(connection: &Connection, feed: &Feed, disappeared: u64) {
    let recovered = connection.take_recovered(&feed.spec.name);
    let (connection, feed) = (&connection.name, &feed.spec.name);
    if recovered > 0 {
        warn!(%connection, %feed, recovered, disappeared, "the sweep found changes that every poll had missed");
    } else {
        info!(%connection, %feed, recovered, disappeared, "the sweep is complete");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_due_so_long_after_the_one_before() {
        let day = Duration::from_hours(24);
        let at = |hour: i64| Timestamp::from_second(1_795_000_000 + hour * 3_600).unwrap();
        let due = |completed_at, now| due_in(completed_at, day, now).as_secs() / 3_600;
        assert_eq!(due(at(0), at(0)), 24);
        assert_eq!(due(at(0), at(20)), 4);
        assert_eq!(due(at(0), at(30)), 0);
        assert_eq!(due(at(9_000), at(0)), 0, "the clock was set back");
    }

    #[test]
    fn first_sweeps_are_spread_over_an_hour_at_most() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let minute = Duration::from_mins(1);
        let day = Duration::from_hours(24);
        let firsts: std::collections::BTreeSet<u64> = (0..10)
            .map(|tenth| first_in((now, Duration::ZERO), day, f64::from(tenth) / 10.0).as_secs())
            .collect();
        assert_eq!(firsts.len(), 10);
        assert!(firsts.iter().all(|first| *first <= 3_600), "{firsts:?}");
        let early = first_in((now, Duration::ZERO), day, 0.5);
        assert_eq!(
            first_in((now + minute, minute), day, 0.5),
            early.saturating_sub(minute)
        );
        assert_eq!(
            first_in((now + day, day), day, 0.5),
            Duration::ZERO,
            "it is overdue"
        );
        assert!(first_in((now, Duration::ZERO), minute, 0.9) <= minute);
    }
}
