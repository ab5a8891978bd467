//! Reads fault switches as they are written on a command line, and as JSON.

use std::str::FromStr;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{FAULT_NAMES, Faults, OF_ALL};

/// Why a fault switch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FaultError {
    /// There is no switch of that name.
    #[error("unknown switch {name:?}; there are: {known}")]
    UnknownName {
        /// What was written.
        name: String,
        /// What there is.
        known: String,
    },
    /// The value is not usable.
    #[error("switch refused: {reason}")]
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
/// A bare value is the fault's main member: the share, or `run`, the seconds of a skew, `per_second`, `requests`,
/// `per_minute`, `until_second`, `record_type`. A name alone switches on a share of 0.1 (1 for `descending_pages`
/// and `wrong_sort`), or what is usual for it. `all` means a share of 0.02 of every fault that spoils single answers,
/// orders and stamps.
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
            known: FAULT_NAMES.join(", "),
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

fn number(text: &str) -> Result<Value, FaultError> {
    let text = text.trim().trim_start_matches('+');
    serde_json::from_str::<serde_json::Number>(text)
        .map(Value::Number)
        .map_err(|_| FaultError::Value {
            reason: format!("{text:?} is not a number"),
        })
}

/// Reads a number, `true`, `false` or a plain word.
pub(in crate::sandbox) fn scalar(text: &str) -> Option<Value> {
    let text = text.trim();
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ if text.starts_with(|c: char| c.is_ascii_alphabetic()) => Some(Value::from(text)),
        _ => number(text).ok(),
    }
}

/// What a name alone switches on, and which member a bare value sets.
fn usual(name: &str) -> (&'static str, Value) {
    match name {
        "equal_timestamps" => ("run", json!({"run": 20})),
        "descending_pages" | "wrong_sort" => ("share", json!({"share": 1})),
        "rate_limit" => ("per_second", json!({"per_second": 20})),
        "daily_cap" => ("requests", json!({"requests": 10_000})),
        "peak_window" => (
            "per_minute",
            json!({"from_second": 25_200, "until_second": 68_400}),
        ),
        "maintenance" => (
            "until_second",
            json!({"from_second": 7_200, "until_second": 12_600}),
        ),
        "fail_type" => ("record_type", json!({"share": 1, "record_type": "Appointment"})),
        _ => ("share", json!({"share": 0.1})),
    }
}

fn settings(name: &str, value: Option<&str>) -> Result<Value, FaultError> {
    let (main, mut members) = usual(name);
    for part in value.into_iter().flat_map(|value| value.split(',')) {
        let (key, text) = part.split_once('=').unwrap_or((main, part));
        let value = scalar(text).ok_or_else(|| FaultError::Value {
            reason: format!("{text:?} is neither a number nor a word"),
        })?;
        if let Some(members) = members.as_object_mut() {
            members.insert(key.trim().to_owned(), value);
        }
    }
    Ok(members)
}

fn everywhere(share: &str) -> Result<FaultSwitch, FaultError> {
    let share = number(share)?;
    let each = |name: &&str| ((*name).to_owned(), json!({"share": share}));
    let switch = FaultSwitch(Value::Object(OF_ALL.iter().map(each).collect::<Map<_, _>>()));
    Faults::default().with(&switch)?;
    Ok(switch)
}

/// Merges a JSON object into another, member by member.
pub(in crate::sandbox) fn merge(target: &mut Value, patch: &Value) {
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
    use crate::sandbox::clinic::Kind;

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
        assert!(with("all=0.5").touch_all.share.abs() < 1e-9);
        assert_eq!(
            with("fail_type=Patient").fail_type.record_type,
            Some(Kind::Patient)
        );
        assert!(!with("daily_cap=9,retry_after=false").daily_cap.retry_after);
        assert_eq!(with("maintenance").maintenance.until_second, 12_600);
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
            "fail_type=Rocket",
            "truncate_page=1,total=7",
            "clock_skew_seconds=40000000",
            "date_skew_seconds=4000000000",
        ] {
            assert!(parse_fault(bad).is_err(), "{bad}");
        }
        let patch = serde_json::json!({"deep": {"share": 0.5, "depth": 3}});
        assert!(Faults::default().merged(&patch).is_err());
    }
}
