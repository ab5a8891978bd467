//! The retry schedule: when a failed delivery is tried again, and when it becomes a dead letter.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The schedule of design: 5 s to 24 h, ten steps, a little over three days in all.
pub const DEFAULT_SCHEDULE: [Duration; 10] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// Each delay is spread by this share to either side, so that a recovered destination is not met by all at once.
const JITTER: f64 = 0.2;

/// A destination may ask for at most this much patience with one `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// What is known of a failed delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failure {
    /// Attempts made, this one included; from 1.
    pub attempts: u32,
    /// When the schedule began.
    pub scheduled_from: Timestamp,
    /// When the attempt failed.
    pub failed_at: Timestamp,
    /// What the destination asked for, if anything.
    pub retry_after: Option<Duration>,
    /// A random number in `[0, 1)`, drawn by the caller.
    pub draw: f64,
}

/// What follows from a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAttempt {
    /// Try again then.
    At(Timestamp),
    /// The schedule is over.
    Never,
}

/// Works out when a failed delivery is tried again.
///
/// A version that waited behind an earlier one keeps the schedule of its row: if that is over when its turn
/// comes, its one attempt was the last.
#[must_use]
pub fn next_attempt(schedule: &[Duration], failure: &Failure) -> NextAttempt {
    let index = usize::try_from(failure.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let total: Duration = schedule.iter().sum::<Duration>().mul_f64(1.0 + JITTER);
    let elapsed =
        Duration::try_from(failure.failed_at.duration_since(failure.scheduled_from)).unwrap_or_default();
    match schedule.get(index) {
        Some(step) if elapsed <= total => {
            let spread = step.mul_f64(1.0 - JITTER + 2.0 * JITTER * failure.draw);
            let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            let delay = spread.max(asked);
            NextAttempt::At(failure.failed_at.saturating_add(delay).unwrap_or(Timestamp::MAX))
        }
        Some(_) | None => NextAttempt::Never,
    }
}

/// When a schedule counts from that stood still from `since` until `now`: a pause uses none of it up.
#[must_use]
pub fn after_pause(scheduled_from: Timestamp, since: Timestamp, now: Timestamp) -> Timestamp {
    let stood = now.duration_since(scheduled_from.max(since));
    scheduled_from
        .saturating_add(stood.max(SignedDuration::ZERO))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(attempts: u32, elapsed_s: i64) -> Failure {
        let start = Timestamp::UNIX_EPOCH;
        let failed_at = Timestamp::from_second(elapsed_s).unwrap();
        Failure {
            attempts,
            scheduled_from: start,
            failed_at,
            retry_after: None,
            draw: 0.5,
        }
    }

    #[test]
    fn each_step_follows_its_attempt_and_the_last_is_final() {
        let mut at = 0;
        for (index, step) in DEFAULT_SCHEDULE.iter().enumerate() {
            let attempts = u32::try_from(index).unwrap() + 1;
            let NextAttempt::At(next) = next_attempt(&DEFAULT_SCHEDULE, &failure(attempts, at)) else {
                panic!("attempt {attempts} was the last")
            };
            assert_eq!(next.as_second() - at, i64::try_from(step.as_secs()).unwrap());
            at = next.as_second();
        }
        assert_eq!(
            next_attempt(&DEFAULT_SCHEDULE, &failure(11, at)),
            NextAttempt::Never
        );
    }

    #[test]
    fn a_version_whose_schedule_passed_while_it_waited_gets_one_try() {
        let ten_days = 10 * 24 * 3600;
        assert_eq!(
            next_attempt(&DEFAULT_SCHEDULE, &failure(1, ten_days)),
            NextAttempt::Never
        );
    }

    #[test]
    fn retry_after_is_kept_but_bounded() {
        let mut asked = failure(1, 0);
        asked.retry_after = Some(Duration::from_mins(1));
        assert_eq!(
            next_attempt(&DEFAULT_SCHEDULE, &asked),
            NextAttempt::At(Timestamp::from_second(60).unwrap())
        );
        asked.retry_after = Some(Duration::from_secs(u64::MAX / 2));
        assert_eq!(
            next_attempt(&DEFAULT_SCHEDULE, &asked),
            NextAttempt::At(Timestamp::from_second(3600).unwrap())
        );
    }

    proptest! {
        #[test]
        fn every_delay_stays_within_the_spread(attempts in 1u32..=10, draw in 0.0f64..1.0) {
            let mut failed = failure(attempts, 0);
            failed.draw = draw;
            let step = DEFAULT_SCHEDULE[attempts as usize - 1].as_secs_f64();
            let NextAttempt::At(next) = next_attempt(&DEFAULT_SCHEDULE, &failed) else { panic!("final") };
            let delay = next.duration_since(failed.failed_at).as_secs_f64();
            prop_assert!(delay >= step * 0.8 - 1e-6 && delay <= step * 1.2 + 1e-6);
        }
    }
}
