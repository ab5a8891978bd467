//! Which of the sandbox's faults a world switches on: each alone in turn, then some together.

use ehr_courier::sandbox::Faults;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::LATE_MAX;
use crate::dice::pick;

/// Each fault alone in turn, then some together.
pub(super) fn faults_of(seed: u64, dice: &mut StdRng) -> (Vec<&'static str>, Faults) {
    let switches = switches();
    match usize::try_from(seed % 24).unwrap() {
        0 => (Vec::new(), Faults::default()),
        alone if alone <= switches.len() => {
            let (name, patch) = &switches[alone - 1];
            (vec![*name], Faults::default().merged(patch).unwrap())
        }
        _ => mixed(dice, 4),
    }
}

pub(super) fn mixed(dice: &mut StdRng, most: usize) -> (Vec<&'static str>, Faults) {
    let switches = switches();
    let mut names = Vec::new();
    let mut faults = Faults::default();
    for _ in 0..dice.random_range(0..=most) {
        let (name, patch) = pick(dice, &switches);
        // An answer has one order only.
        let orders = ["wrong_sort", "descending_pages"];
        let second_order = orders.contains(&name) && names.iter().any(|it| orders.contains(it));
        if !names.contains(&name) && !second_order {
            faults = faults.merged(&patch).unwrap();
            names.push(name);
        }
    }
    (names, faults)
}

/// Every fault with the strength that the worlds give it.
pub(crate) fn switches() -> Vec<(&'static str, Value)> {
    let share = |name: &str, share: f64| json!({name: {"share": share}});
    let late_ms = u64::try_from(LATE_MAX.as_millis()).unwrap();
    vec![
        (
            "late_commits",
            json!({"late_commits": {"share": 0.2, "delay_ms_max": late_ms}}),
        ),
        ("equal_timestamps", json!({"equal_timestamps": {"run": 8}})),
        ("page_drift", share("page_drift", 0.3)),
        ("descending_pages", share("descending_pages", 1.0)),
        (
            "throttle_with_retry_after",
            share("throttle_with_retry_after", 0.06),
        ),
        (
            "throttle_without_retry_after",
            share("throttle_without_retry_after", 0.05),
        ),
        (
            "server_errors",
            json!({"server_errors": {"share": 0.04, "burst": 3}}),
        ),
        ("truncated", share("truncated", 0.06)),
        (
            "oversized",
            json!({"oversized": {"share": 0.05, "bytes": 3_000_000}}),
        ),
        ("malformed", share("malformed", 0.06)),
        ("deep", share("deep", 0.05)),
        ("gzip_bomb", share("gzip_bomb", 0.05)),
        ("slow", json!({"slow": {"share": 0.2, "delay_ms": 1500}})),
        (
            "stale_cache",
            json!({"stale_cache": {"share": 0.3, "seconds": 20}}),
        ),
        ("clock_skew_seconds", json!({"clock_skew_seconds": -90})),
        ("future_stamp", share("future_stamp", 0.02)),
        ("ignored_filters", share("ignored_filters", 0.1)),
        ("wrong_sort", share("wrong_sort", 1.0)),
    ]
}
