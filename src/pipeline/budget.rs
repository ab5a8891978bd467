//! What a connection's source is asked to bear: requests a second and a day, requests at once, quiet hours, and pauses
//! that it asked for or seems to need.
//!
//! All of a connection draw on one budget. A [`Leave`] is the right to begin something that takes requests, a page or a
//! record: it is one of those that may be under way, and is given when a request could be sent now. Each request then
//! takes its own place in the second and in the day ([`metered`]), also those that a page takes beside: statements,
//! tokens, second tries. Whoever waits for a leave holds nothing: neither one of the requests that may be under way, nor
//! a turn of the schedule. Time is monotonic: a wall clock that is set neither opens nor shuts anything but the quiet
//! hours, which are hours of the wall.

mod day;
mod line;
pub mod metered;
mod second;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use courier_sdk::{Clock, FeedName};
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::domain::calendar::{Calendar, Peak};

use day::Day;
pub use day::DayLeft;
use line::Line;
use second::Second;

/// No source can make us wait longer than this with one answer; then it is asked again.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// A source that asks for patience without saying how long gets twice as much each time, up to this.
const STRAIN_MAX: Duration = Duration::from_mins(5);

/// When all requests that may be under way are, it is worth asking again after this.
const OCCUPIED: Duration = Duration::from_millis(100);

/// Whoever lets another go first asks again after this.
const AFTER_YOU: Duration = Duration::from_millis(20);

/// A read that waits no longer than this takes turns with polls; one that waits for its share of the day does not.
const TURNS: Duration = Duration::from_secs(1);

/// Whoever waits for a place looks up this often: a pause may have come meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// One connection's budget.
pub struct Budget {
    at_once: Semaphore,
    per_second: Option<NonZeroU32>,
    hours: Option<Hours>,
    counted: Mutex<Counted>,
    /// Requests take their places in the order in which they came.
    queue: Semaphore,
    pause: Mutex<Pause>,
}

/// The quiet hours, and the clock on the wall.
struct Hours {
    calendar: Calendar,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Counted {
    second: Second,
    day: Option<Day>,
    line: Line,
    /// Whether a poll was let go last; else a read was.
    poll_went: bool,
    /// Reads that wait for the second alone.
    reads: usize,
}

#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    /// How often in a row the source asked for patience without saying how long, less how often it answered since.
    strain: u32,
}

/// Leave to begin what takes requests, held while it is under way.
#[derive(Debug)]
pub struct Leave<'a>(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>);

/// A request that is under way; its drop is its end.
#[derive(Debug)]
pub struct UnderWay<'a>(Option<&'a Mutex<Counted>>);

/// A read that waits for its turn.
struct ReadInTurn<'a>(&'a Mutex<Counted>);

impl<'a> ReadInTurn<'a> {
    fn new(counted: &'a Mutex<Counted>) -> Self {
        lock(counted).reads += 1;
        Self(counted)
    }
}

impl Drop for ReadInTurn<'_> {
    fn drop(&mut self) {
        let mut counted = lock(self.0);
        counted.reads = counted.reads.saturating_sub(1);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(counted) = self.0 {
            lock(counted).second.end(Instant::now());
        }
    }
}

/// Who asks for leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Poll,
    Read,
}

impl Budget {
    /// Makes a budget of so many requests in any second, as the source sees them, and so many at once.
    #[must_use]
    pub fn new(per_second: Option<NonZeroU32>, at_once: usize) -> Self {
        Self {
            at_once: Semaphore::new(at_once.max(1)),
            per_second,
            hours: None,
            counted: Mutex::default(),
            queue: Semaphore::new(1),
            pause: Mutex::default(),
        }
    }

    /// Limits the requests of any 24 hours too. They are spread over the day, and a tenth of them is for polls alone.
    #[must_use]
    pub fn daily(self, per_day: Option<NonZeroU32>) -> Self {
        lock(&self.counted).day = per_day.map(|count| Day::new(count, Instant::now()));
        self
    }

    /// Keeps the quiet hours of a calendar by a clock on the wall.
    #[must_use]
    pub fn keeping(self, calendar: Calendar, clock: Arc<dyn Clock>) -> Self {
        Self {
            hours: Some(Hours { calendar, clock }),
            ..self
        }
    }

    /// Waits for leave, through pauses too. Cancel safe.
    ///
    /// Returns `None` only if the budget was closed, which never happens while its connection lives.
    pub async fn leave(&self) -> Option<Leave<'_>> {
        loop {
            let closed = self.paused();
            if !closed.is_zero() {
                tokio::time::sleep(closed.min(LOOK)).await;
                continue;
            }
            let permit = self.at_once.acquire().await.ok()?;
            let wait = self.look(For::Poll);
            if wait.is_zero() {
                return Some(Leave(permit));
            }
            drop(permit);
            tokio::time::sleep(wait.min(LOOK)).await;
        }
    }

    /// Waits for leave to read, but neither for the end of a pause nor beyond an instant. Cancel safe.
    ///
    /// # Errors
    /// How long to wait further, when there is no leave by then.
    pub async fn leave_by(&self, by: Option<Instant>) -> Result<Leave<'_>, Duration> {
        loop {
            let permit = self.at_once.acquire().await.map_err(|_| OCCUPIED)?;
            let wait = self.look(For::Read);
            if wait.is_zero() {
                let mut counted = lock(&self.counted);
                counted.poll_went = false;
                if let Some(day) = &mut counted.day {
                    day.take_read(Instant::now());
                }
                return Ok(Leave(permit));
            }
            drop(permit);
            if !self.paused().is_zero() || by.is_some_and(|by| Instant::now() + wait > by) {
                return Err(wait);
            }
            let in_turn = (wait <= TURNS).then(|| ReadInTurn::new(&self.counted));
            tokio::time::sleep(wait).await;
            drop(in_turn);
        }
    }

    /// Takes leave to poll a feed now, or says when to ask again: the feed that waits longest goes first.
    ///
    /// # Errors
    /// How long to wait, when there is no leave now.
    pub fn leave_now(&self, feed: &FeedName) -> Result<Leave<'_>, Duration> {
        let paused = self.paused();
        if !paused.is_zero() {
            return Err(paused);
        }
        let permit = self.at_once.try_acquire().ok();
        let limit = self.limit();
        let (mut counted, now) = (lock(&self.counted), Instant::now());
        let free = permit
            .as_ref()
            .map_or(0, |_| self.at_once.available_permits() + 1);
        let free = free.min(counted.free(limit, now));
        let mut wait = counted.wait(limit, now);
        let free = if wait.is_zero() && counted.poll_went && counted.reads > 0 {
            // In turn with reads, where both want more than there is.
            wait = AFTER_YOU;
            0
        } else {
            free
        };
        counted.line.ask(feed, (free, wait), now)?;
        counted.poll_went = true;
        permit.map(Leave).ok_or(OCCUPIED)
    }

    /// Waits for a place for one request, which lasts until what is returned is dropped. Cancel safe.
    ///
    /// # Errors
    /// How long to wait further, where nothing is sent now: in a pause or in quiet hours, or because it would take longer
    /// than `patience`.
    pub async fn request(&self, patience: Option<Duration>) -> Result<UnderWay<'_>, Duration> {
        let _turn = self.queue.acquire().await.map_err(|_| OCCUPIED)?;
        loop {
            let paused = self.paused();
            if !paused.is_zero() {
                return Err(paused);
            }
            let limit = self.limit();
            let wait = {
                let (mut counted, now) = (lock(&self.counted), Instant::now());
                let wait = counted.wait(limit, now);
                if wait.is_zero() {
                    if let Some(day) = &mut counted.day {
                        day.take(now);
                    }
                    return Ok(if self.counts_seconds() {
                        counted.second.begin();
                        UnderWay(Some(&self.counted))
                    } else {
                        UnderWay(None)
                    });
                }
                wait
            };
            if patience.is_some_and(|patience| wait > patience) {
                return Err(wait);
            }
            tokio::time::sleep(wait.clamp(Duration::from_millis(1), LOOK)).await;
        }
    }

    /// How long there will be no leave for anybody, for a pause or for maintenance: a look that takes nothing.
    #[must_use]
    pub fn closed_for(&self) -> Duration {
        self.paused()
    }

    /// Keeps everybody waiting for so long; a longer pause is never shortened.
    pub fn pause(&self, pause: Duration) {
        lock(&self.pause).extend(pause);
    }

    /// Keeps everybody waiting because the source asks for patience: for as long as it says, else for longer each time.
    /// `draw` in `[0, 1)` keeps the couriers of one source apart. Returns for how long.
    pub fn throttled(&self, retry_after: Option<Duration>, draw: f64) -> Duration {
        let mut pause = lock(&self.pause);
        if let Some(asked) = retry_after.filter(|asked| !asked.is_zero()) {
            pause.extend(asked);
            return asked.min(PAUSE_MAX);
        }
        let left = pause.left();
        if !left.is_zero() {
            // Another answer to what was sent before the pause.
            return left;
        }
        pause.strain = pause.strain.saturating_add(1).min(16);
        let longest = Duration::from_secs(1 << pause.strain).min(STRAIN_MAX);
        let for_now = longest.mul_f64(draw.mul_add(0.5, 0.5));
        pause.extend(for_now);
        for_now
    }

    /// Notes that the source answered what it was asked: the next pause that it leaves to us is shorter.
    pub fn answered(&self) {
        let mut pause = lock(&self.pause);
        pause.strain = pause.strain.saturating_sub(1);
    }

    /// When the maintenance that is under way ends.
    #[must_use]
    pub fn maintenance_until(&self) -> Option<Timestamp> {
        let hours = self.hours.as_ref()?;
        hours.calendar.maintenance_until(hours.clock.now())
    }

    /// How often a feed is polled now, that is otherwise polled so often.
    #[must_use]
    pub fn every(&self, every: Duration) -> Duration {
        let slower = self.peak().and_then(|peak| peak.every);
        slower.map_or(every, |slower| every.max(slower))
    }

    /// What is left of the day's requests, where they are limited.
    #[must_use]
    pub fn day_left(&self) -> Option<DayLeft> {
        Some(lock(&self.counted).day.as_mut()?.left(Instant::now()))
    }

    /// How long nothing is sent: a pause, or maintenance.
    fn paused(&self) -> Duration {
        let paused = lock(&self.pause).left();
        let Some(hours) = &self.hours else {
            return paused;
        };
        let now = hours.clock.now();
        let Some(until) = hours.calendar.maintenance_until(now) else {
            return paused;
        };
        let maintenance = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        // The clock on the wall may be set meanwhile.
        paused.max(maintenance.clamp(Duration::from_millis(1), PAUSE_MAX))
    }

    /// How long there is no leave: a look that takes nothing.
    fn look(&self, who: For) -> Duration {
        let paused = self.paused();
        if !paused.is_zero() {
            return paused;
        }
        let limit = self.limit();
        let (mut counted, now) = (lock(&self.counted), Instant::now());
        let mut wait = counted.wait(limit, now);
        if who == For::Read {
            if let Some(day) = &mut counted.day {
                wait = wait.max(day.wait_of_reads(now));
            }
            // In turn with polls, where both want more than there is.
            if wait.is_zero() && !counted.poll_went && !counted.line.is_empty(now) {
                wait = AFTER_YOU;
            }
        }
        if wait.is_zero() {
            wait
        } else {
            // The timer has no finer steps, and zero would mean leave.
            wait.max(Duration::from_millis(1))
        }
    }

    /// How many requests a second may see now.
    fn limit(&self) -> Option<NonZeroU32> {
        let in_peak = self.peak().and_then(|peak| peak.requests_per_second);
        match (self.per_second, in_peak) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn counts_seconds(&self) -> bool {
        let peak = self.hours.as_ref().and_then(|hours| hours.calendar.peak.as_ref());
        self.per_second.is_some() || peak.is_some_and(|peak| peak.requests_per_second.is_some())
    }

    /// Whether the source is to be spared now, in its peak hours.
    #[must_use]
    pub fn is_peak(&self) -> bool {
        self.peak().is_some()
    }

    fn peak(&self) -> Option<&Peak> {
        let hours = self.hours.as_ref()?;
        hours.calendar.peak_at(hours.clock.now())
    }
}

impl Counted {
    /// How many requests could be sent now.
    fn free(&mut self, limit: Option<NonZeroU32>, now: Instant) -> usize {
        if !self.wait(limit, now).is_zero() {
            return 0;
        }
        limit.map_or(usize::MAX, |limit| {
            self.second
                .free(usize::try_from(limit.get()).unwrap_or(usize::MAX))
        })
    }

    fn wait(&mut self, limit: Option<NonZeroU32>, now: Instant) -> Duration {
        let second = if let Some(limit) = limit {
            let most = usize::try_from(limit.get()).unwrap_or(usize::MAX);
            self.second.wait(most, now)
        } else {
            self.second.forget(now);
            Duration::ZERO
        };
        let day = self.day.as_mut().map(|day| day.wait(now));
        second.max(day.unwrap_or_default())
    }
}

impl Pause {
    fn extend(&mut self, pause: Duration) {
        let until = Instant::now() + pause.min(PAUSE_MAX);
        self.until = Some(self.until.map_or(until, |earlier| earlier.max(until)));
    }

    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
