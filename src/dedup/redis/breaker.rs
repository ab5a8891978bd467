//! When Redis is asked: after a failure not for a while, then by one caller at a time until it answers.
//!
//! Pure: the instants are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure: one page or two of look-ups in the store.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause: a Redis that is back is used again within it.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Leave to ask once. Of the calls that were under way when the breaker opened, only the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    round: u64,
}

/// Open or closed, and since how many failures.
#[derive(Debug)]
pub(super) struct Breaker {
    round: u64,
    failures: u32,
    probe_at: Option<Instant>,
}

impl Breaker {
    /// Returns a breaker that lets one caller try first.
    pub(super) fn untried(now: Instant) -> Self {
        Self {
            round: 0,
            failures: 0,
            probe_at: Some(now),
        }
    }

    /// Gives leave to ask, or not. While it is open, one caller gets it when the pause is over, and the next one not
    /// before `probe` has passed: the first may have been cancelled and never say what came of it.
    pub(super) fn admit(&mut self, now: Instant, probe: Duration) -> Option<Ticket> {
        match self.probe_at {
            Some(at) if now < at => return None,
            Some(_) => self.probe_at = Some(now + probe),
            None => {}
        }
        Some(Ticket { round: self.round })
    }

    /// Notes an answer. Tells whether this closed the breaker.
    pub(super) fn succeeded(&mut self, ticket: Ticket) -> bool {
        let closes = ticket.round == self.round && self.probe_at.is_some();
        if closes {
            self.probe_at = None;
            self.failures = 0;
        }
        closes
    }

    /// Notes a failure. Tells whether this opened the breaker, or opened it anew.
    pub(super) fn failed(&mut self, ticket: Ticket, now: Instant) -> bool {
        if ticket.round != self.round {
            return false;
        }
        let pause = PAUSE_MIN.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.round += 1;
        self.failures += 1;
        self.probe_at = Some(now + pause.min(PAUSE_MAX));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_secs(3);

    fn closed(now: Instant) -> Breaker {
        let mut breaker = Breaker::untried(now);
        let first = breaker.admit(now, PROBE).unwrap();
        assert_eq!(breaker.admit(now, PROBE), None, "one caller tries first");
        assert!(breaker.succeeded(first));
        breaker
    }

    #[test]
    fn a_failure_pauses_all_callers_and_one_of_them_probes() {
        let now = Instant::now();
        let mut breaker = closed(now);
        let (a, b) = (
            breaker.admit(now, PROBE).unwrap(),
            breaker.admit(now, PROBE).unwrap(),
        );
        assert!(breaker.failed(a, now));
        assert!(!breaker.failed(b, now), "those under way are not counted again");
        assert!(!breaker.succeeded(b), "nor do they close it");
        assert_eq!(breaker.admit(now + PAUSE_MIN / 2, PROBE), None);
        let later = now + PAUSE_MIN;
        let probe = breaker.admit(later, PROBE).unwrap();
        assert_eq!(breaker.admit(later, PROBE), None);
        assert!(breaker.succeeded(probe));
        assert!(breaker.admit(later, PROBE).is_some() && breaker.admit(later, PROBE).is_some());
    }

    #[test]
    fn pauses_double_up_to_their_limit_and_begin_anew_after_an_answer() {
        let mut now = Instant::now();
        let mut breaker = closed(now);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let ticket = breaker.admit(now, PROBE).unwrap();
            breaker.failed(ticket, now);
            let mut pause = Duration::ZERO;
            while breaker.admit(now + pause, Duration::ZERO).is_none() {
                pause += Duration::from_secs(1);
            }
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses[39], 30);
        let ticket = breaker.admit(now, PROBE).unwrap();
        breaker.succeeded(ticket);
        assert!(breaker.failed(ticket, now));
        assert!(breaker.admit(now + PAUSE_MIN, PROBE).is_some());
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_it_open() {
        let now = Instant::now();
        let mut breaker = Breaker::untried(now);
        assert!(breaker.admit(now, PROBE).is_some());
        assert_eq!(breaker.admit(now + PROBE / 2, PROBE), None);
        assert!(breaker.admit(now + PROBE, PROBE).is_some());
    }
}
