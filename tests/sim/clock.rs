//! The world's one timeline: the wall clock follows tokio's paused clock.

use std::time::Duration;

use courier_sdk::Clock;
use jiff::Timestamp;
use tokio::time::Instant;

/// Where every world's wall clock begins: 2026-11-20T08:00:00Z.
const EPOCH_SECONDS: i64 = 1_795_161_600;

/// Wall time as simulated time has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimClock {
    origin: Instant,
}

impl SimClock {
    /// Begins now, within a paused runtime.
    pub(crate) fn begin() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// How long the world has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(EPOCH_SECONDS).unwrap() + self.origin.elapsed()
    }
}
