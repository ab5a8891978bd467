//! What a connection's source is asked to bear: requests a second, requests at once, and pauses that it asked for.
//!
//! Polls and fetches of a connection draw on one budget. Waiting costs no slot of anybody else's.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::Clock;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};

/// No source can make us wait longer than this with one answer; then it is asked again.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// When all requests that may be under way are, it is worth asking again after this.
const OCCUPIED: Duration = Duration::from_millis(20);

/// One connection's budget.
pub struct Budget {
    clock: WallClock,
    at_once: Semaphore,
    rate: Option<RateLimiter<NotKeyed, InMemoryState, WallClock, NoOpMiddleware<Nanos>>>,
    paused_until: Mutex<Option<Timestamp>>,
}

/// Leave to send one request, held while it is under way.
#[derive(Debug)]
pub struct Leave<'a>(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>);

impl Budget {
    /// Makes a budget of so many requests a second (a burst of one second's worth is allowed) and at once.
    #[must_use]
    pub fn new(per_second: Option<NonZeroU32>, at_once: usize, clock: Arc<dyn Clock>) -> Self {
        let clock = WallClock(clock);
        let rate =
            per_second.map(|count| RateLimiter::direct_with_clock(Quota::per_second(count), clock.clone()));
        Self {
            clock,
            at_once: Semaphore::new(at_once.max(1)),
            rate,
            paused_until: Mutex::new(None),
        }
    }

    /// Waits for leave to send one request. Cancel safe.
    ///
    /// Returns `None` only if the budget was closed, which never happens while its connection lives.
    pub async fn leave(&self) -> Option<Leave<'_>> {
        let permit = self.at_once.acquire().await.ok()?;
        loop {
            let wait = self.wait();
            if wait.is_zero() {
                return Some(Leave(permit));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes leave to send one request now, or says when to ask again.
    ///
    /// # Errors
    /// How long to wait, when there is no leave now.
    pub fn leave_now(&self) -> Result<Leave<'_>, Duration> {
        let permit = self.at_once.try_acquire().map_err(|_| OCCUPIED)?;
        let wait = self.wait();
        if wait.is_zero() {
            Ok(Leave(permit))
        } else {
            Err(wait)
        }
    }

    /// Keeps everybody waiting until then, as the source asked; a later pause is never shortened.
    pub fn pause(&self, pause: Duration) {
        let until = self
            .clock
            .0
            .now()
            .saturating_add(pause.min(PAUSE_MAX))
            .unwrap_or(Timestamp::MAX);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    /// How long to wait before the next request; takes one from the rate if that is nothing.
    fn wait(&self) -> Duration {
        let now = self.clock.0.now();
        let paused = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = paused.and_then(|until| Duration::try_from(until.duration_since(now)).ok())
            && !left.is_zero()
        {
            return left;
        }
        let checked = self.rate.as_ref().map_or(Ok(()), RateLimiter::check);
        // A wait of at least a millisecond: the timer has no finer steps, and zero would mean leave.
        checked.map_or_else(
            |until| {
                until
                    .wait_time_from(self.clock.now())
                    .max(Duration::from_millis(1))
            },
            |()| Duration::ZERO,
        )
    }
}

/// The courier's clock in the limiter's terms.
#[derive(Debug, Clone)]
struct WallClock(Arc<dyn Clock>);

impl governor::clock::Clock for WallClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let since_epoch = self.0.now().as_nanosecond().max(0);
        Nanos::from(u64::try_from(since_epoch).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Stopped(Mutex<Timestamp>);

    impl Stopped {
        fn forward(&self, by: Duration) {
            let mut now = self.0.lock().unwrap();
            *now = now.checked_add(by).unwrap();
        }
    }

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn budget(per_second: u32, at_once: usize) -> (Budget, Arc<Stopped>) {
        let clock = Arc::new(Stopped(Mutex::new(
            Timestamp::from_second(1_800_000_000).unwrap(),
        )));
        (
            Budget::new(
                NonZeroU32::new(per_second),
                at_once,
                Arc::clone(&clock) as Arc<dyn Clock>,
            ),
            clock,
        )
    }

    #[test]
    fn no_second_sees_more_requests_than_were_granted() {
        let (budget, clock) = budget(5, 100);
        let mut granted = 0;
        for _ in 0..10 {
            for _ in 0..50 {
                granted += u32::from(budget.leave_now().is_ok());
            }
            clock.forward(Duration::from_secs(1));
        }
        assert!(
            (46..=50).contains(&granted),
            "{granted} in ten seconds at five a second"
        );
    }

    #[test]
    fn leave_is_given_back_when_the_request_ends() {
        let (budget, _) = budget(0, 2);
        let (first, second) = (budget.leave_now().unwrap(), budget.leave_now().unwrap());
        assert!(budget.leave_now().is_err());
        drop(first);
        assert!(budget.leave_now().is_ok());
        drop(second);
    }

    #[test]
    fn a_pause_holds_everybody_and_is_never_shortened_nor_endless() {
        let (budget, clock) = budget(0, 2);
        budget.pause(Duration::from_secs(30));
        budget.pause(Duration::from_secs(5));
        assert_eq!(budget.leave_now().unwrap_err(), Duration::from_secs(30));
        clock.forward(Duration::from_secs(30));
        assert!(budget.leave_now().is_ok());
        budget.pause(Duration::from_secs(u64::from(u32::MAX)));
        assert_eq!(budget.leave_now().unwrap_err(), PAUSE_MAX);
    }
}
