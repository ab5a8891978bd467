//! The world's one timeline: the wall clock follows tokio's paused clock.

use std::time::Duration;

use courier_sdk::Clock;
use jiff::Timestamp;
use tokio::time::Instant;

/// Where the wall clock of a world begins that does not say otherwise: 2026-11-20T08:00:00Z.
const EPOCH_SECONDS: i64 = 1_795_161_600;

/// The usual beginning.
pub(crate) fn usual_beginning() -> Timestamp {
    Timestamp::from_second(EPOCH_SECONDS).unwrap()
}

/// Wall time as simulated time has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimClock {
    origin: Instant,
    begins: Timestamp,
}

impl SimClock {
    /// Begins now, within a paused runtime, by the clock on the wall at an instant.
    pub(crate) fn begin(begins: Timestamp) -> Self {
        Self {
            origin: Instant::now(),
            begins,
        }
    }

    /// How long the world has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.begins + self.origin.elapsed()
    }
}
