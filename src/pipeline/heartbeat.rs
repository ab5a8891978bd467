//! Heartbeats: each loop says that it turns, and one that has been silent for too long is named.
//!
//! A loop that stands still has not failed: it waits for something that does not come, most likely the store. Nobody
//! would notice from its absence alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The schedule of polls.
    Poll,
    /// The reading of records.
    Fetch,
    /// The walk over the event logs.
    FanOut,
    /// The attempts at deliveries.
    Deliver,
    /// The deletion of what is over.
    Sweep,
    /// The renewal of leases.
    Lease,
    /// The store: a lease's renewal is a commit with fsync, so it shows that the store can be written.
    Store,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Poll,
        Self::Fetch,
        Self::FanOut,
        Self::Deliver,
        Self::Sweep,
        Self::Lease,
        Self::Store,
    ];

    /// Its name in `/readyz` and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Fetch => "fetch",
            Self::FanOut => "fan_out",
            Self::Deliver => "deliver",
            Self::Sweep => "sweep",
            Self::Lease => "lease",
            Self::Store => "store",
        }
    }

    /// How long it may be silent. The schedule sleeps for up to a minute, the sweep between its rounds; the other
    /// loops turn every few seconds, and leases are renewed every ten.
    #[must_use]
    pub fn silence_max(self) -> Duration {
        match self {
            Self::Poll => Duration::from_secs(90),
            Self::Fetch | Self::FanOut | Self::Deliver => Duration::from_secs(30),
            Self::Lease | Self::Store => Duration::from_secs(40),
            Self::Sweep => Duration::from_mins(5),
        }
    }
}

/// When each part turned last.
#[derive(Debug, Default)]
pub struct Heartbeats {
    last: Mutex<BTreeMap<Part, Instant>>,
}

impl Heartbeats {
    /// Begins to watch all parts: from now on each must turn.
    pub fn start(&self) {
        for part in Part::ALL {
            self.beat(part);
        }
    }

    /// Says that a part turned.
    pub fn beat(&self, part: Part) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(part, Instant::now());
    }

    /// The parts that have been silent for longer than they may, each with how long.
    #[must_use]
    pub fn silent(&self) -> BTreeMap<Part, Duration> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter()
            .map(|(part, at)| (*part, at.elapsed()))
            .filter(|(part, silence)| *silence > part.silence_max())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_part_that_falls_silent_is_named_and_forgiven_when_it_turns_again() {
        for part in Part::ALL {
            let heartbeats = Heartbeats::default();
            heartbeats.start();
            let others = || Part::ALL.into_iter().filter(|other| *other != part);
            tokio::time::advance(part.silence_max()).await;
            others().for_each(|other| heartbeats.beat(other));
            assert!(heartbeats.silent().is_empty(), "{part:?} may be silent so long");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(heartbeats.silent().into_keys().collect::<Vec<_>>(), [part]);
            heartbeats.beat(part);
            assert!(heartbeats.silent().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_started_is_not_missed() {
        let heartbeats = Heartbeats::default();
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(heartbeats.silent().is_empty());
    }
}
