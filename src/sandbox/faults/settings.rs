//! The settings of single faults: how probable each is, or when it strikes, and how hard.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sandbox::clinic::Kind;

macro_rules! fault {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// How probable it is at each occasion, from 0 (off) to 1.
            pub share: f64,
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { share: 0.0, $($field: $default,)* }
            }
        }
    };
}

fault! {
    /// A fault with a probability and nothing else.
    Chance {}
}
fault! {
    /// Versions are stamped at once but become visible only later.
    LateCommits {
        /// The longest delay, in milliseconds. 110 s is below the 122 s that a poller must allow for.
        delay_ms_max: u64 = 110_000,
    }
}
fault! {
    /// Answers 429 with `Retry-After`.
    Throttle {
        /// What `Retry-After` says, in seconds.
        seconds: u32 = 2,
    }
}
fault! {
    /// Bursts of 500, 502 and 503.
    ServerErrors {
        /// How many requests in a row fail once a burst has begun.
        burst: u32 = 3,
    }
}
fault! {
    /// A body that is larger than a client should accept.
    Oversized {
        /// The body is larger than this, in bytes. The default exceeds the courier's page limit of 64 MiB.
        bytes: usize = 68 * 1024 * 1024,
    }
}
fault! {
    /// The answer comes later.
    Slow {
        /// By how much, in milliseconds.
        delay_ms: u64 = 500,
    }
}
fault! {
    /// The same address is answered with an earlier answer, whatever `Cache-Control` asked for.
    StaleCache {
        /// The greatest age of such an answer, in seconds. 60 is what HAPI's default reuse is.
        seconds: u32 = 60,
    }
}

/// Runs of consecutive versions that share one stamp.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EqualTimestamps {
    /// How many consecutive versions share one stamp; 0 and 1 switch it off.
    pub run: u32,
}

fault! {
    /// Answers 200 with an error of the vendor's own.
    VendorError {
        /// The vendor's code. 4135 is what Epic says when a client is to try again tomorrow.
        code: u32 = 4135,
    }
}
fault! {
    /// The answer does not come.
    Hang {
        /// After how long it comes after all, in seconds: longer than anybody waits.
        seconds: u32 = 3_600,
        /// How often it strikes at most; 0 for no limit.
        times: u32 = 0,
    }
}
fault! {
    /// A fault that strikes so often at most.
    Bounded {
        /// How often; 0 for no limit.
        times: u32 = 0,
    }
}
fault! {
    /// A page shows half of its rows and links no further page.
    TruncatePage {
        /// Whether `total` still counts all rows; else it is left out.
        total: bool = false,
    }
}
fault! {
    /// One record type fails.
    FailType {
        /// Which one; none for none.
        record_type: Option<Kind> = None,
    }
}

/// At most so many requests a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// How many; 0 switches it off.
    pub per_second: u32,
}

/// At most so many requests a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DailyCap {
    /// How many; 0 switches it off.
    pub requests: u32,
    /// How long the source's day is, in seconds, from midnight on the wall on. 86,400 but for those who cannot wait.
    pub day_seconds: u32,
    /// Whether `Retry-After` says when the day ends.
    pub retry_after: bool,
}

impl Default for DailyCap {
    fn default() -> Self {
        Self {
            requests: 0,
            day_seconds: DAY_SECONDS,
            retry_after: true,
        }
    }
}

/// A part of each day in which requests cost more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeakWindow {
    /// When it begins, in seconds of the day.
    pub from_second: u32,
    /// When it ends, exclusive; 0 switches it off.
    pub until_second: u32,
    /// How long the source's day is, in seconds, from midnight on the wall on.
    pub day_seconds: u32,
    /// How many requests a minute are free within it.
    pub per_minute: u32,
}

impl Default for PeakWindow {
    fn default() -> Self {
        Self {
            from_second: 0,
            until_second: 0,
            day_seconds: DAY_SECONDS,
            per_minute: 1,
        }
    }
}

/// A part of each day in which nothing is answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// When it begins, in seconds of the day.
    pub from_second: u32,
    /// When it ends, exclusive; 0 switches it off.
    pub until_second: u32,
    /// How long the source's day is, in seconds, from midnight on the wall on.
    pub day_seconds: u32,
    /// Whether `Retry-After` says when it ends.
    pub retry_after: bool,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            from_second: 0,
            until_second: 0,
            day_seconds: DAY_SECONDS,
            retry_after: false,
        }
    }
}

const DAY_SECONDS: u32 = 86_400;

/// Where in the source's day an instant lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) struct Daily {
    /// Which day, counted from 1970.
    pub(in crate::sandbox) day: i64,
    /// Seconds since it began.
    pub(in crate::sandbox) second: i64,
}

impl Daily {
    pub(in crate::sandbox) fn of(instant: Timestamp, day_seconds: u32) -> Self {
        let length = i64::from(day_seconds.max(1));
        Self {
            day: instant.as_second().div_euclid(length),
            second: instant.as_second().rem_euclid(length),
        }
    }

    pub(in crate::sandbox) fn is_within(self, from: u32, until: u32) -> bool {
        (i64::from(from)..i64::from(until)).contains(&self.second)
    }
}
