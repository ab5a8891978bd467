//! Poll planning: when a feed is polled next.
//!
//! Feeds are spread over their interval by a phase that follows from their names, so that ten thousand
//! connections do not ask in the same second. A feed never overlaps itself: its next turn is planned when the
//! last has ended. Turns that were missed are made good by one poll, not by as many as were missed.

use std::time::Duration;

use aws_lc_rs::digest;
use courier_sdk::{ConnectionName, FeedName};
use jiff::Timestamp;

/// A failing feed is asked at most this seldom, whatever its interval.
const BACK_OFF_MAX: Duration = Duration::from_mins(15);

/// After a start, feeds are begun no faster than this, so that a thousand of them do not start at once.
const START_SPACING: Duration = Duration::from_millis(20);

/// A feed's share of its interval, in `[0, 1)`, that follows from its names alone.
#[must_use]
pub fn phase(connection: &ConnectionName, feed: &FeedName) -> f64 {
    let text = format!("{connection}\n{feed}");
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let head = digest
        .as_ref()
        .iter()
        .take(4)
        .fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    f64::from(head) / (f64::from(u32::MAX) + 1.0)
}

/// When a feed is polled first after a start: at once when there are few, spread over the interval when many.
#[must_use]
pub fn first_turn(now: Timestamp, every: Duration, phase: f64, feeds: usize) -> Timestamp {
    let feeds = u32::try_from(feeds.saturating_sub(1)).unwrap_or(u32::MAX);
    let window = every.min(START_SPACING.saturating_mul(feeds));
    later(now, window.mul_f64(phase))
}

/// When a feed is polled next after a turn that ended well: the next instant of its grid.
#[must_use]
pub fn next_turn(ended: Timestamp, every: Duration, phase: f64) -> Timestamp {
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let offset_ms = i64::try_from(every.mul_f64(phase).as_millis()).unwrap_or(0);
    let since_grid = (ended.as_millisecond() - offset_ms).rem_euclid(every_ms);
    let wait = u64::try_from(every_ms - since_grid).unwrap_or(1);
    later(ended, Duration::from_millis(wait))
}

/// When a feed is polled next after `failures` failed turns in a row (from 1): its interval doubled each time,
/// up to a quarter of an hour, never sooner than the source asked for.
#[must_use]
pub fn turn_after_failure(
    ended: Timestamp,
    every: Duration,
    failures: u32,
    asked: Option<Duration>,
) -> Timestamp {
    let factor = 1u32 << failures.saturating_sub(1).min(10);
    let back_off = every.saturating_mul(factor).min(BACK_OFF_MAX.max(every));
    later(ended, back_off.max(asked.unwrap_or_default()))
}

/// An instant and a duration; the end of time when that does not exist.
#[must_use]
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn phases_spread_evenly_and_follow_from_the_names() {
        let feed = FeedName::parse("appointments").unwrap();
        let phases: Vec<f64> = (0..1000)
            .map(|n| phase(&ConnectionName::parse(&format!("c{n}")).unwrap(), &feed))
            .collect();
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let count = phases.iter().filter(|p| (low..low + 0.1).contains(*p)).count();
            assert!((60..140).contains(&count), "{count} of 1000 phases from {low}");
        }
    }

    #[test]
    fn one_feed_starts_at_once_and_many_spread_over_the_interval() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(first_turn(now, MINUTE, 0.9, 1), now);
        assert_eq!(
            first_turn(now, MINUTE, 0.5, 10_000),
            Timestamp::from_second(30).unwrap()
        );
    }

    #[test]
    fn failures_double_the_interval_up_to_a_limit_and_keep_what_the_source_asked() {
        let at = Timestamp::UNIX_EPOCH;
        let seconds = |failures, asked| {
            turn_after_failure(at, MINUTE, failures, asked)
                .duration_since(at)
                .as_secs()
        };
        assert_eq!([1, 2, 3, 40].map(|n| seconds(n, None)), [60, 120, 240, 900]);
        assert_eq!(seconds(1, Some(Duration::from_mins(50))), 3000);
    }

    proptest! {
        #[test]
        fn the_next_turn_lies_ahead_within_one_interval_on_the_grid(
            ended_ms in 0i64..4_000_000_000_000, every_s in 1u64..86_400, phase in 0.0f64..1.0,
        ) {
            let ended = Timestamp::from_millisecond(ended_ms).unwrap();
            let every = Duration::from_secs(every_s);
            let next = next_turn(ended, every, phase);
            prop_assert!(next > ended);
            prop_assert!(next.duration_since(ended).as_millis() <= i128::from(every_s) * 1000);
            prop_assert_eq!(next_turn(next, every, phase).duration_since(next).as_millis(), i128::from(every_s) * 1000);
        }
    }
}
