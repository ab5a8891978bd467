//! The requests of a day, spread over it.
//!
//! They come evenly; an hour's worth may be saved up and sent at once, and at the beginning nothing is. So no 24 hours
//! see more than the number, over any number of restarts and in whatever zone the source begins its days, although
//! nothing is kept over a restart. Pure, on monotonic time.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// A day, and as long as a request may be under way: what was sent before a day may reach the source within it.
const DAY: Duration = Duration::from_mins(24 * 60 + 1);

/// The part of a day's requests that may be saved up.
const SAVED_PART: u32 = 24;

/// What was sent is counted in so long pieces.
const PIECE: Duration = Duration::from_mins(15);

/// An even allowance of which a part may be saved up.
#[derive(Debug)]
struct Allowance {
    /// One more comes after so long each time.
    period: Duration,
    /// So many may be saved up.
    saved: u32,
    /// When all that may be saved up will be.
    full_at: Instant,
}

impl Allowance {
    /// Of so many in a day, of which nothing is saved up yet.
    fn new(count: u32, now: Instant) -> Self {
        let count = count.max(2);
        let saved = (count / SAVED_PART).max(1);
        // What is saved up comes on top of what a day brings.
        let period = DAY / (count - saved);
        Self {
            period,
            saved,
            full_at: now + period * saved,
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        let missing = self.full_at.saturating_duration_since(now);
        missing.saturating_sub(self.period * (self.saved - 1))
    }

    fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.period;
    }
}

/// What is left of a day's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayLeft {
    /// Requests that any 24 hours may see.
    pub per_day: u32,
    /// Of these, those that the last 24 hours have left, as far as this process has counted.
    pub left: u32,
    /// A request waited for its share of the day lately.
    pub short: bool,
}

impl DayLeft {
    /// Whether the day's requests come to their end: less than a tenth of them is left, or requests wait for them.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.short || self.left < self.per_day.div_ceil(10)
    }
}

/// A day's requests.
#[derive(Debug)]
pub(super) struct Day {
    most: u32,
    all: Allowance,
    /// What reads of records may take: nine tenths. The rest is there for polls, whatever waits to be read.
    reads: Allowance,
    /// How many were sent in each piece of the last 24 hours that saw one.
    sent: VecDeque<(Instant, u32)>,
    short_at: Option<Instant>,
}

impl Day {
    pub(super) fn new(per_day: NonZeroU32, now: Instant) -> Self {
        let per_day = per_day.get();
        Self {
            most: per_day,
            all: Allowance::new(per_day, now),
            reads: Allowance::new(per_day - per_day.div_ceil(10), now),
            sent: VecDeque::new(),
            short_at: None,
        }
    }

    /// How long until one more may be sent; a wait is noted.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.all.wait(now);
        self.noted(wait, now)
    }

    /// Counts one that is sent now.
    pub(super) fn take(&mut self, now: Instant) {
        self.all.take(now);
        match self.sent.back_mut() {
            Some((began, count)) if now < *began + PIECE => *count += 1,
            Some(_) | None => self.sent.push_back((now, 1)),
        }
    }

    /// How long until a read may be begun; a wait is noted.
    pub(super) fn wait_of_reads(&mut self, now: Instant) -> Duration {
        let wait = self.reads.wait(now);
        self.noted(wait, now)
    }

    /// That of the beginning is no sign of anything.
    fn noted(&mut self, wait: Duration, now: Instant) -> Duration {
        if !wait.is_zero() && !self.sent.is_empty() {
            self.short_at = Some(now);
        }
        wait
    }

    /// Counts a read that begins now.
    pub(super) fn take_read(&mut self, now: Instant) {
        self.reads.take(now);
    }

    pub(super) fn left(&mut self, now: Instant) -> DayLeft {
        while self.sent.front().is_some_and(|(began, _)| now >= *began + DAY) {
            self.sent.pop_front();
        }
        let sent: u32 = self.sent.iter().map(|(_, count)| count).sum();
        DayLeft {
            per_day: self.most,
            left: self.most.saturating_sub(sent),
            short: self.short_at.is_some_and(|at| now < at + PIECE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn day(per_day: u32, now: Instant) -> Day {
        Day::new(NonZeroU32::new(per_day).unwrap(), now)
    }

    fn take_all(day: &mut Day, now: Instant) -> u32 {
        let mut taken = 0;
        while day.wait(now).is_zero() {
            day.take(now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn no_day_sees_more_requests_than_were_granted_however_often_the_process_starts() {
        for per_day in [24, 100, 2_400] {
            for restart_every in [u32::MAX, 7, 2] {
                let start = Instant::now();
                let mut running = day(per_day, start);
                let mut taken = Vec::new();
                for quarter in 0..49 * 4 {
                    let now = start + PIECE * quarter;
                    if quarter % restart_every == 0 {
                        running = day(per_day, now);
                    }
                    taken.push(take_all(&mut running, now));
                }
                assert_eq!(taken[0], 0, "nothing is saved up at the beginning");
                for day in taken.windows(24 * 4) {
                    let sum: u32 = day.iter().sum();
                    assert!(sum <= per_day, "{sum} of {per_day}, {restart_every}: {day:?}");
                }
                let second_day: u32 = taken[25 * 4..].iter().sum();
                if restart_every == u32::MAX {
                    assert!(
                        second_day * 100 >= per_day * 75,
                        "{second_day} of {per_day}: starved"
                    );
                }
            }
        }
    }

    #[test]
    fn reads_leave_a_tenth_of_the_day_to_polls() {
        let start = Instant::now();
        let mut day = day(2_400, start);
        let (mut reads, mut polls) = (0, 0);
        for minute in 0..24 * 60 {
            let now = start + Duration::from_mins(1) * minute;
            while day.wait(now).is_zero() && day.wait_of_reads(now).is_zero() {
                day.take_read(now);
                day.take(now);
                reads += 1;
            }
            if day.wait(now).is_zero() {
                day.take(now);
                polls += 1;
            }
        }
        assert!(reads <= 2_160, "{reads}");
        assert!(reads + polls >= 2_290 && polls >= 230, "{reads} and {polls}");
    }

    #[test]
    fn what_is_left_is_told_before_the_day_ends() {
        let start = Instant::now();
        let mut day = day(2_400, start);
        assert_eq!(day.wait(start), DAY / 2_300);
        assert!(!day.left(start).is_low(), "the wait at the beginning is no sign");
        let mut told_at = None;
        for minute in 1..=24 * 60 {
            let now = start + Duration::from_mins(1) * minute;
            if day.wait(now).is_zero() {
                day.take(now);
            }
            if day.left(now).is_low() && told_at.is_none() {
                told_at = Some(day.left(now));
            }
        }
        assert_eq!(told_at, None, "one a minute is well within the day");
        for minute in 0..24 * 60 {
            let now = start + HOUR * 24 + Duration::from_mins(1) * minute;
            for _ in 0..2 {
                if day.wait(now).is_zero() {
                    day.take(now);
                }
            }
            if day.left(now).is_low() && told_at.is_none() {
                told_at = Some(day.left(now));
            }
        }
        let told = told_at.unwrap();
        assert!(told.left > 0 || told.short, "{told:?}");
        let later = start + HOUR * 24 * 9;
        let left = DayLeft {
            per_day: 2_400,
            left: 2_400,
            short: false,
        };
        assert_eq!(day.left(later), left, "and forgotten when it is over");
    }
}
