//! The requests of a second, exactly as the source sees them.
//!
//! When a request reaches the source is not known here, only that it does so between its sending and its end. So it
//! counts from its sending until one second after its end: however the network delays requests, those that reach the
//! source within any second are never more than may count at once. Nobody knows here what an earlier process, or an earlier
//! configuration, sent just before: so the first request waits for a second. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// The requests that count.
#[derive(Debug, Default)]
pub(super) struct Second {
    /// When the first may be sent, once somebody has asked.
    opens_at: Option<Instant>,
    under_way: usize,
    /// When the others ended, in order; each counts for one second more.
    ended: VecDeque<Instant>,
}

impl Second {
    /// How long until one more may be sent, where so many may count at once: zero for now. While requests are under
    /// way it may take longer.
    pub(super) fn wait(&mut self, most: usize, now: Instant) -> Duration {
        self.forget(now);
        let opens_at = *self.opens_at.get_or_insert(now + SECOND);
        let closed = opens_at.saturating_duration_since(now);
        let counting = self.under_way + self.ended.len();
        let Some(must_pass) = (counting + 1).checked_sub(most.max(1)).filter(|count| *count > 0) else {
            return closed;
        };
        // One that is under way counts for a second more at least.
        let passes = self.ended.get(must_pass - 1);
        closed.max(passes.map_or(SECOND, |ended| *ended + SECOND - now))
    }

    /// How many more may count beside those that do, as of the last look.
    pub(super) fn free(&self, most: usize) -> usize {
        most.saturating_sub(self.under_way + self.ended.len())
    }

    /// Forgets those that no longer count.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.ended.front().is_some_and(|ended| now >= *ended + SECOND) {
            self.ended.pop_front();
        }
    }

    /// Counts one that is sent now.
    pub(super) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// Counts the end of one: its answer, its failure, or that nobody waits for it any more.
    pub(super) fn end(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.ended.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has stood open for long.
    fn open(now: Instant) -> Second {
        Second {
            opens_at: Some(now),
            ..Second::default()
        }
    }

    #[test]
    fn the_first_request_waits_for_a_second() {
        let (start, mut second) = (Instant::now(), Second::default());
        assert_eq!(second.wait(5, start), SECOND);
        assert_eq!(second.wait(5, start + ms(400)), ms(600));
        assert_eq!(second.wait(5, start + SECOND), Duration::ZERO);
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_request_counts_from_its_sending_until_a_second_after_its_end() {
        let start = Instant::now();
        let mut second = open(start);
        for _ in 0..2 {
            assert_eq!(second.wait(2, start), Duration::ZERO);
            second.begin();
        }
        assert_eq!(second.wait(2, start), SECOND, "both are under way");
        second.end(start + ms(300));
        assert_eq!(second.wait(2, start + ms(400)), ms(900));
        assert_eq!(second.wait(2, start + ms(1_300)), Duration::ZERO);
        second.end(start + ms(5_000));
        assert_eq!(second.wait(1, start + ms(5_000)), SECOND);
    }

    #[test]
    fn a_limit_that_falls_lets_nothing_through_until_enough_has_passed() {
        let start = Instant::now();
        let mut second = open(start);
        for nth in 0..5 {
            second.begin();
            second.end(start + ms(nth * 100));
        }
        assert_eq!(second.wait(5, start + ms(500)), ms(500));
        assert_eq!(second.wait(1, start + ms(500)), ms(900));
    }

    #[test]
    fn however_requests_are_delayed_no_second_at_the_source_sees_more() {
        for seed in 1..=200_u64 {
            let (start, mut second) = (Instant::now(), Second::default());
            let mut dice = seed;
            let mut draw = |below: u64| {
                dice = dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (dice >> 33) % below
            };
            let (most, mut now) = (usize::try_from(1 + draw(6)).unwrap(), 0);
            let (mut under_way, mut arrived): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
            for _ in 0..400 {
                now += draw(120);
                under_way.sort_unstable_by(|one, other| other.cmp(one));
                while under_way.last().is_some_and(|ends| *ends <= now) {
                    second.end(start + ms(under_way.pop().unwrap()));
                }
                if second.wait(most, start + ms(now)).is_zero() {
                    second.begin();
                    let takes = draw(1_500);
                    under_way.push(now + takes);
                    arrived.push(now + draw(takes + 1));
                }
            }
            arrived.sort_unstable();
            for window in arrived.windows(most + 1) {
                let apart = window[most] - window[0];
                assert!(apart >= 1_000, "seed {seed}: {} within {apart} ms", most + 1);
            }
        }
    }
}
