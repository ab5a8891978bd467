//! What a connection's source is asked to bear: requests a second, requests at once, and pauses that it asked for.
//!
//! Polls and fetches of a connection draw on one budget. Whoever waits holds nothing: neither one of the requests that
//! may be under way, nor a turn of the schedule. Time is monotonic: a wall clock that is set neither opens nor shuts it.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// No source can make us wait longer than this with one answer; then it is asked again.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// When all requests that may be under way are, it is worth asking again after this.
const OCCUPIED: Duration = Duration::from_millis(100);

const DAY: Duration = Duration::from_hours(24);

/// A day's requests come evenly, but for this part of them, which may be saved up and sent at once: an hour's worth.
const SAVED_PART: u32 = 24;

type Rate = RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Nanos>>;

/// One connection's budget.
pub struct Budget {
    clock: Elapsed,
    at_once: Semaphore,
    rate: Option<Rate>,
    day: Option<Rate>,
    paused_until: Mutex<Option<Instant>>,
}

/// Leave to send one request, held while it is under way.
#[derive(Debug)]
pub struct Leave<'a>(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>);

impl Budget {
    /// Makes a budget of so many requests a second (a burst of one second's worth is allowed) and at once.
    #[must_use]
    pub fn new(per_second: Option<NonZeroU32>, at_once: usize) -> Self {
        let clock = Elapsed(Instant::now());
        let rate = per_second.map(|count| RateLimiter::direct_with_clock(Quota::per_second(count), clock));
        Self {
            clock,
            at_once: Semaphore::new(at_once.max(1)),
            rate,
            day: None,
            paused_until: Mutex::new(None),
        }
    }

    /// Limits the requests of any 24 hours too, to 24 at least.
    ///
    /// They are spread over the day, and at the beginning none is saved up: so no restart adds to a day's requests,
    /// although nothing is kept over it.
    #[must_use]
    pub fn daily(self, per_day: Option<NonZeroU32>) -> Self {
        let rate = |count: NonZeroU32| {
            let count = count.get().max(SAVED_PART);
            let saved = NonZeroU32::new(count / SAVED_PART)?;
            // What is saved up comes on top of what a day brings.
            let quota = Quota::with_period(DAY / (count - saved.get()))?.allow_burst(saved);
            let rate = RateLimiter::direct_with_clock(quota, self.clock);
            rate.check_n(saved)
                .is_ok_and(|taken| taken.is_ok())
                .then_some(rate)
        };
        let day = per_day.and_then(rate);
        Self { day, ..self }
    }

    /// Waits for leave to send one request. Cancel safe.
    ///
    /// Returns `None` only if the budget was closed, which never happens while its connection lives.
    pub async fn leave(&self) -> Option<Leave<'_>> {
        loop {
            let paused = self.paused();
            if !paused.is_zero() {
                tokio::time::sleep(paused).await;
                continue;
            }
            let permit = self.at_once.acquire().await.ok()?;
            let wait = self.take();
            if wait.is_zero() {
                return Some(Leave(permit));
            }
            drop(permit);
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits for leave to send one request, but neither for the end of a pause nor beyond an instant. Cancel safe.
    ///
    /// # Errors
    /// How long to wait further, when there is no leave by then.
    pub async fn leave_by(&self, by: Option<Instant>) -> Result<Leave<'_>, Duration> {
        loop {
            let permit = self.at_once.acquire().await.map_err(|_| OCCUPIED)?;
            let wait = self.take();
            if wait.is_zero() {
                return Ok(Leave(permit));
            }
            drop(permit);
            if !self.paused().is_zero() || by.is_some_and(|by| Instant::now() + wait > by) {
                return Err(wait);
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
        let wait = self.take();
        if wait.is_zero() {
            Ok(Leave(permit))
        } else {
            Err(wait)
        }
    }

    /// How long there will be no leave for anybody, as far as is known: a look that takes nothing.
    #[must_use]
    pub fn closed_for(&self) -> Duration {
        let paused = self.paused();
        if paused.is_zero() && self.at_once.available_permits() == 0 {
            return OCCUPIED;
        }
        paused
    }

    /// Keeps everybody waiting for so long, as the source asked; a longer pause is never shortened.
    pub fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause.min(PAUSE_MAX);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    fn paused(&self) -> Duration {
        let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Takes one request from the rate, or says how long to wait for it.
    fn take(&self) -> Duration {
        let paused = self.paused();
        if !paused.is_zero() {
            return paused;
        }
        // The second's limit first: what it gave is no loss if the day's refuses.
        let second = self.rate.as_ref().map_or(Ok(()), RateLimiter::check);
        let checked = second.and_then(|()| self.day.as_ref().map_or(Ok(()), RateLimiter::check));
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

/// Monotonic time in the limiter's terms: simulated time drives it as it drives every delay.
#[derive(Debug, Clone, Copy)]
struct Elapsed(Instant);

impl governor::clock::Clock for Elapsed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(per_second: u32, at_once: usize) -> Budget {
        Budget::new(NonZeroU32::new(per_second), at_once)
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_requests_than_were_granted() {
        let budget = budget(5, 100);
        let mut granted = 0;
        for _ in 0..10 {
            for _ in 0..50 {
                granted += u32::from(budget.leave_now().is_ok());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(
            (46..=50).contains(&granted),
            "{granted} in ten seconds at five a second"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_day_sees_more_requests_than_were_granted_however_often_the_process_starts() {
        let made = || budget(0, 10_000).daily(NonZeroU32::new(2_400));
        for restart_every in [usize::MAX, 7] {
            let mut budget = made();
            let mut granted = Vec::new();
            for hour in 0..49 {
                if hour % restart_every == 0 {
                    budget = made();
                }
                granted.push(0);
                while let Ok(leave) = budget.leave_now() {
                    drop(leave);
                    granted[hour] += 1;
                }
                tokio::time::advance(Duration::from_hours(1)).await;
            }
            assert_eq!(granted[0], 0, "nothing is saved up at the beginning");
            for day in granted.windows(24) {
                let sum: u32 = day.iter().sum();
                assert!(sum <= 2_400, "{sum}: {day:?}");
            }
            let second_day: u32 = granted[25..].iter().sum();
            assert!(
                second_day >= 1_800,
                "{second_day}: the quota is not starved either"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leave_is_given_back_when_the_request_ends() {
        let budget = budget(0, 2);
        let (first, second) = (budget.leave_now().unwrap(), budget.leave_now().unwrap());
        assert_eq!(budget.leave_now().unwrap_err(), OCCUPIED);
        assert_eq!(budget.closed_for(), OCCUPIED);
        drop(first);
        assert!(budget.leave_now().is_ok());
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_is_never_shortened_nor_endless() {
        let budget = budget(0, 2);
        budget.pause(Duration::from_secs(30));
        budget.pause(Duration::from_secs(5));
        assert_eq!(budget.leave_now().unwrap_err(), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(budget.leave_now().is_ok());
        budget.pause(Duration::from_secs(u64::from(u32::MAX)));
        assert_eq!(budget.leave_now().unwrap_err(), PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_waited_for_until_an_instant_and_no_pause_is() {
        let budget = budget(1, 2);
        let soon = || Some(Instant::now() + Duration::from_secs(5));
        assert!(budget.leave_by(soon()).await.is_ok());
        let began = Instant::now();
        assert!(budget.leave_by(soon()).await.is_ok(), "a second later");
        assert!(began.elapsed() >= Duration::from_millis(900));
        assert!(budget.leave_by(Some(Instant::now())).await.is_err());
        budget.pause(Duration::from_secs(2));
        let began = Instant::now();
        assert_eq!(budget.leave_by(None).await.unwrap_err(), Duration::from_secs(2));
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_out_a_pause_holds_no_request() {
        let budget = budget(0, 1);
        budget.pause(Duration::from_mins(10));
        let waiting = budget.leave();
        tokio::pin!(waiting);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), &mut waiting)
                .await
                .is_err()
        );
        assert_eq!(budget.at_once.available_permits(), 1);
        assert!(waiting.await.is_some());
    }
}
