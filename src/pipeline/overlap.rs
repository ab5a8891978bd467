//! The overlap that adapts: how far back a feed looks follows from how late its source was seen to show changes.
//!
//! It is remembered for as long as the process lives. After a restart a feed begins with the least again, and what that
//! leaves out the next sweep finds.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Worker;
use super::connection::{Connection, Feed};
use crate::store::Accepted;

/// An overlap looks back at least so far: it covers the late commits that were seen with real servers.
pub const LEAST: Duration = Duration::from_mins(5);

/// And at most so far. The sweep finds what is later.
const GREATEST: Duration = Duration::from_hours(24);

/// The overlap is so many times the greatest lateness.
const MARGIN: u32 = 2;

/// Lateness is remembered for so long.
const REMEMBERED_FOR: Duration = Duration::from_hours(7 * 24);

/// How late changes were, in the order in which they were seen: each entry is greater than those after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lateness(VecDeque<(Instant, Duration)>);

impl Lateness {
    /// Notes a change that came so late.
    pub(super) fn note(&mut self, late: Duration, now: Instant) {
        while self.0.back().is_some_and(|(_, earlier)| *earlier <= late) {
            self.0.pop_back();
        }
        self.0.push_back((now, late));
    }

    /// The overlap that follows.
    #[must_use]
    pub fn overlap(&self, now: Instant) -> Duration {
        let counts = |(at, _): &&(Instant, Duration)| now.saturating_duration_since(*at) < REMEMBERED_FOR;
        let greatest = self.0.iter().find(counts).map(|(_, late)| *late);
        greatest
            .unwrap_or_default()
            .saturating_mul(MARGIN)
            .clamp(LEAST, GREATEST)
    }
}

/// Notes how far before the instant that the cursor stood for what a poll brought was stamped.
pub(super) fn observe(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
    (stood_at, accepted): (Option<Timestamp>, &Accepted),
) {
    let Some(stood_at) = stood_at else {
        return;
    };
    let late = accepted.stamps.iter().filter(|stamp| **stamp < stood_at);
    let count = late.clone().count();
    let Some(earliest) = late.min() else {
        return;
    };
    let label = worker.watch.connections.of(connection.name.as_str());
    metrics::counter!("courier_late_changes_recovered_total", "connection" => label).increment(count as u64);
    let lateness = Duration::try_from(stood_at.duration_since(*earliest)).unwrap_or_default();
    connection.note_lateness(&feed.spec.name, lateness);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn the_overlap_is_twice_the_greatest_lateness_of_a_week_within_its_bounds() {
        let (mut lateness, began) = (Lateness::default(), Instant::now());
        assert_eq!(lateness.overlap(began), LEAST);
        lateness.note(MINUTE, began);
        assert_eq!(lateness.overlap(began), LEAST);
        lateness.note(10 * MINUTE, began + DAY);
        lateness.note(4 * MINUTE, began + 2 * DAY);
        assert_eq!(lateness.overlap(began + 3 * DAY), 20 * MINUTE);
        assert_eq!(
            lateness.overlap(began + 8 * DAY),
            8 * MINUTE,
            "the greatest is over"
        );
        assert_eq!(lateness.overlap(began + 9 * DAY), LEAST);
        lateness.note(100 * DAY, began + 9 * DAY);
        assert_eq!(lateness.overlap(began + 9 * DAY), GREATEST);
    }
}
