//! How a clinic's day goes: busy hours, quiet nights, and now and then much at once.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::RngExt as _;
use rand::rngs::StdRng;

/// It opens and closes at these hours of its own zone.
const OPEN: std::ops::Range<i8> = 7..18;

/// How many changes a burst has at most; they come a few seconds apart.
const BURST_MAX: u32 = 25;

/// The pace of a clinic's changes.
#[derive(Debug, Clone)]
pub(crate) struct Rhythm {
    pub(crate) zone: TimeZone,
    /// Changes an hour while it is open.
    pub(crate) busy_per_hour: f64,
    /// And while it is closed.
    pub(crate) quiet_per_hour: f64,
    /// How probable it is that a change begins a burst.
    pub(crate) burst: f64,
}

/// Where a day stands.
pub(crate) struct Pulse {
    rhythm: Rhythm,
    dice: StdRng,
    burst_left: u32,
}

impl Pulse {
    pub(crate) fn new(rhythm: Rhythm, dice: StdRng) -> Self {
        Self {
            rhythm,
            dice,
            burst_left: 0,
        }
    }

    /// How long it is until the next change.
    pub(crate) fn pause(&mut self, now: Timestamp) -> Duration {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return Duration::from_millis(self.dice.random_range(200..6_000));
        }
        if self.dice.random_bool(self.rhythm.burst) {
            self.burst_left = self.dice.random_range(5..=BURST_MAX);
        }
        let hour = self.rhythm.zone.to_datetime(now).hour();
        let per_hour = if OPEN.contains(&hour) {
            self.rhythm.busy_per_hour
        } else {
            self.rhythm.quiet_per_hour
        };
        Duration::from_secs_f64(3_600.0 / per_hour * self.dice.random_range(0.2..1.8))
    }
}
