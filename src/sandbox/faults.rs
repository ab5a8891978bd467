//! The sandbox's fault switches: what can be switched on, how a switch is written, and how often it struck.
//!
//! Every switch is off by default. Shares are probabilities; a switch whose count of strikes is 0 has
//! proved nothing, so every name is counted from the start. This file knows nothing of answers.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// The names of all faults, as they are written in switches and counted in strikes.
pub const FAULT_NAMES: [&str; 22] = [
    "clock_skew_seconds",
    "date_skew_seconds",
    "deep",
    "descending_pages",
    "equal_timestamps",
    "future_stamp",
    "gzip_bomb",
    "ignored_filters",
    "ignored_where",
    "late_commits",
    "malformed",
    "oversized",
    "page_drift",
    "server_errors",
    "slow",
    "stale_cache",
    "throttle_with_retry_after",
    "throttle_without_retry_after",
    "truncated",
    "unversioned_ids",
    "wrong_sort",
    "all",
];

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

/// All fault switches. Each is off by default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// A version is stamped now and visible only later.
    pub late_commits: LateCommits,
    /// Consecutive versions share one stamp.
    pub equal_timestamps: EqualTimestamps,
    /// Live offset paging, with changes between the pages of one search that shift its rows.
    pub page_drift: Chance,
    /// Searches are answered newest first, whatever `_sort` said.
    pub descending_pages: Chance,
    /// 429 with `Retry-After`.
    pub throttle_with_retry_after: Throttle,
    /// 429 without `Retry-After`.
    pub throttle_without_retry_after: Chance,
    /// Bursts of 500, 502 and 503.
    pub server_errors: ServerErrors,
    /// The body breaks off in the middle.
    pub truncated: Chance,
    /// The body is too large.
    pub oversized: Oversized,
    /// The body is not JSON.
    pub malformed: Chance,
    /// The body is JSON of depth 10,000.
    pub deep: Chance,
    /// The body is small on the wire and expands to more than 256 MiB.
    pub gzip_bomb: Chance,
    /// The answer is late.
    pub slow: Slow,
    /// An earlier answer to the same address is given again.
    pub stale_cache: StaleCache,
    /// Shifts `Date` and the stamps of versions, in seconds; negative is behind.
    pub clock_skew_seconds: i64,
    /// Shifts `Date` alone, on top of the clock's own skew, in seconds; negative is behind.
    pub date_skew_seconds: i64,
    /// A version is stamped 2099-01-01.
    pub future_stamp: Chance,
    /// `_lastUpdated` is ignored and absent from `self`; everything is returned.
    pub ignored_filters: Chance,
    /// Every parameter that chooses records but `_lastUpdated` is ignored and absent from `self`.
    pub ignored_where: Chance,
    /// A page of ids says when its records changed, but not which versions they are.
    pub unversioned_ids: Chance,
    /// `_sort` is ignored and absent from `self`; rows come by id.
    pub wrong_sort: Chance,
}

/// Why a fault switch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FaultError {
    /// There is no such fault.
    #[error("unknown fault {name:?}; there are: {}", known())]
    UnknownName {
        /// What was written.
        name: String,
    },
    /// The value is not usable.
    #[error("fault switch refused: {reason}")]
    Value {
        /// What is wrong with it.
        reason: String,
    },
}

/// One parsed switch: what it changes of [`Faults`].
#[derive(Debug, Clone, PartialEq)]
pub struct FaultSwitch(Value);

impl FromStr for FaultSwitch {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_fault(text)
    }
}

/// Parses `name`, `name=value` or `name=value,key=value…`, for example `late_commits=0.2,delay_ms_max=90000`.
///
/// A bare value is the fault's main number: the share, or `run`, or the seconds of a skew. A name
/// alone switches on a share of 0.1 (1 for `descending_pages` and `wrong_sort`). `all` means a share of 0.02
/// of every fault that has one.
///
/// # Errors
/// [`FaultError`] for an unknown name or an unusable value.
pub fn parse_fault(text: &str) -> Result<FaultSwitch, FaultError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value)),
        None => (text.trim(), None),
    };
    if !FAULT_NAMES.contains(&name) {
        return Err(FaultError::UnknownName {
            name: name.to_owned(),
        });
    }
    let patch = match name {
        "clock_skew_seconds" => number(value.unwrap_or("-90"))?,
        "date_skew_seconds" => number(value.unwrap_or("-3600"))?,
        "all" => return everywhere(value.unwrap_or("0.02")),
        _ => settings(name, value)?,
    };
    let switch = FaultSwitch(Value::Object(Map::from_iter([(name.to_owned(), patch)])));
    Faults::default().with(&switch)?;
    Ok(switch)
}

impl Faults {
    /// Returns these switches with one changed.
    ///
    /// # Errors
    /// [`FaultError::Value`] when the result would not be valid.
    pub fn with(self, switch: &FaultSwitch) -> Result<Self, FaultError> {
        self.merged(&switch.0)
    }

    /// Returns these switches with a JSON object merged in, member by member.
    ///
    /// # Errors
    /// [`FaultError::Value`] for unknown members, wrong types and shares outside 0 to 1.
    pub fn merged(self, patch: &Value) -> Result<Self, FaultError> {
        let refused = |error: serde_json::Error| FaultError::Value {
            reason: error.to_string(),
        };
        let mut current = serde_json::to_value(self).map_err(refused)?;
        merge(&mut current, patch);
        let merged: Self = serde_json::from_value(current.clone()).map_err(refused)?;
        check_shares(&current)?;
        Ok(merged)
    }
}

/// Counts how often each fault struck.
#[derive(Debug, Clone)]
pub(super) struct Strikes(BTreeMap<&'static str, u64>);

impl Strikes {
    pub(super) fn new() -> Self {
        Self(
            FAULT_NAMES
                .iter()
                .filter(|name| **name != "all")
                .map(|name| (*name, 0))
                .collect(),
        )
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.clone()
    }
}

fn known() -> String {
    FAULT_NAMES.join(", ")
}

fn number(text: &str) -> Result<Value, FaultError> {
    let text = text.trim().trim_start_matches('+');
    serde_json::from_str::<serde_json::Number>(text)
        .map(Value::Number)
        .map_err(|_| FaultError::Value {
            reason: format!("{text:?} is not a number"),
        })
}

fn settings(name: &str, value: Option<&str>) -> Result<Value, FaultError> {
    let main = if name == "equal_timestamps" {
        "run"
    } else {
        "share"
    };
    let mut members = Map::new();
    let default = match name {
        "equal_timestamps" => "20",
        "descending_pages" | "wrong_sort" => "1",
        _ => "0.1",
    };
    members.insert(main.to_owned(), number(default)?);
    for part in value.into_iter().flat_map(|value| value.split(',')) {
        let (key, text) = part.split_once('=').unwrap_or((main, part));
        members.insert(key.trim().to_owned(), number(text)?);
    }
    Ok(Value::Object(members))
}

fn everywhere(share: &str) -> Result<FaultSwitch, FaultError> {
    let share = number(share)?;
    let mut members = Map::new();
    let defaults = serde_json::to_value(Faults::default()).unwrap_or(Value::Null);
    for (name, value) in defaults.as_object().into_iter().flatten() {
        if value.get("share").is_some() {
            members.insert(
                name.clone(),
                Value::Object(Map::from_iter([("share".to_owned(), share.clone())])),
            );
        }
    }
    let switch = FaultSwitch(Value::Object(members));
    Faults::default().with(&switch)?;
    Ok(switch)
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn check_shares(faults: &Value) -> Result<(), FaultError> {
    for (name, fault) in faults.as_object().into_iter().flatten() {
        let share = fault.get("share").and_then(Value::as_f64).unwrap_or(0.0);
        if !(0.0..=1.0).contains(&share) {
            return Err(FaultError::Value {
                reason: format!("the share of {name} must be from 0 to 1"),
            });
        }
    }
    // A date may be wrong by decades, as after a lost clock battery; stamps are kept near the present.
    for (name, days_max) in [("clock_skew_seconds", 400), ("date_skew_seconds", 36_500)] {
        let skew = faults.get(name).and_then(Value::as_i64).unwrap_or(0);
        if skew.unsigned_abs() > days_max * 86_400 {
            return Err(FaultError::Value {
                reason: format!("{name} must be within {days_max} days"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_written() {
        let with = |text: &str| Faults::default().with(&parse_fault(text).unwrap()).unwrap();
        assert_eq!(
            with("late_commits=0.2,delay_ms_max=90000")
                .late_commits
                .delay_ms_max,
            90_000
        );
        assert!((with("late_commits").late_commits.share - 0.1).abs() < 1e-9);
        assert_eq!(with("clock_skew_seconds=-90").clock_skew_seconds, -90);
        assert_eq!(with("date_skew_seconds=3600").date_skew_seconds, 3600);
        assert_eq!(with("date_skew_seconds").date_skew_seconds, -3600);
        assert_eq!(with("equal_timestamps=50").equal_timestamps.run, 50);
        assert!((with("descending_pages").descending_pages.share - 1.0).abs() < 1e-9);
        assert!((with("all=0.5").gzip_bomb.share - 0.5).abs() < 1e-9);
    }

    #[test]
    fn unusable_switches_are_refused() {
        for bad in [
            "nonsense",
            "truncated=2",
            "truncated=-0.1",
            "truncated=x",
            "truncated=0.1,size=3",
            "slow=",
            "equal_timestamps=1.5",
            "clock_skew_seconds=40000000",
            "date_skew_seconds=4000000000",
        ] {
            assert!(parse_fault(bad).is_err(), "{bad}");
        }
        let patch = serde_json::json!({"deep": {"share": 0.5, "depth": 3}});
        assert!(Faults::default().merged(&patch).is_err());
    }

    #[test]
    fn every_switch_is_counted_from_the_start() {
        let names: Vec<_> = Strikes::new().all().into_keys().collect();
        let switches = serde_json::to_value(Faults::default()).unwrap();
        let mut fields: Vec<_> = switches.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(names, fields);
    }
}
