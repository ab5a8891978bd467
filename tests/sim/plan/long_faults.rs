//! The faults of long worlds: several at once in each, as strong as polls that are minutes apart must bear.

use ehr_courier::sandbox::Faults;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::dice::pick;

/// How a source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    History,
    Search,
    Listing,
}

/// Where a fault has an occasion to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Anywhere,
    Searches,
    Reads,
    Lists,
}

/// Of these only one: an answer has one order.
const ORDERS: [&str; 2] = ["wrong_sort", "descending_pages"];

/// Some faults, with their names.
pub(super) fn chosen(dice: &mut StdRng, sort: Sort, reads: bool) -> (Faults, Vec<&'static str>) {
    let mut all = switches(dice);
    all.retain(|(_, at, _)| match at {
        Where::Anywhere => true,
        Where::Searches => sort != Sort::History,
        Where::Reads => reads,
        Where::Lists => sort == Sort::Listing,
    });
    let (mut faults, mut names) = (Faults::default(), Vec::new());
    for _ in 0..dice.random_range(3..=7) {
        let (name, _, patch) = pick(dice, &all);
        let second_order = ORDERS.contains(&name) && names.iter().any(|it| ORDERS.contains(it));
        if !names.contains(&name) && !second_order {
            faults = faults.merged(&patch).unwrap();
            names.push(name);
        }
    }
    (faults, names)
}

/// A fault, where it is met, and its settings.
type Switch = (&'static str, Where, Value);

fn switches(dice: &mut StdRng) -> Vec<Switch> {
    let more = [
        ("entered_in_error", json!({"share": 0.03})),
        ("merge", json!({"share": 0.02})),
        ("unmerge", json!({"share": 0.02})),
        ("mixed_types", json!({"share": 0.2})),
        ("fail_type", json!({"share": 0.2, "record_type": "Appointment"})),
    ];
    let more = more.map(|(name, settings)| (name, Where::Anywhere, settings));
    of_course(dice)
        .into_iter()
        .chain(of_answers(dice))
        .chain(more)
        .map(|(name, at, settings)| (name, at, json!({name: settings})))
        .collect()
}

/// Of time, order and limits.
fn of_course(dice: &mut StdRng) -> Vec<Switch> {
    let late_ms = pick(dice, &[100_000, 110_000, 1_500_000]);
    let begins = dice.random_range(0..20) * 3_600;
    let retry_after = dice.random_bool(0.5);
    vec![
        (
            "late_commits",
            Where::Anywhere,
            json!({"share": 0.1, "delay_ms_max": late_ms}),
        ),
        ("equal_timestamps", Where::Anywhere, json!({"run": 8})),
        ("page_drift", Where::Anywhere, json!({"share": 0.2})),
        ("descending_pages", Where::Searches, json!({"share": 1.0})),
        ("wrong_sort", Where::Searches, json!({"share": 1.0})),
        (
            "throttle_with_retry_after",
            Where::Anywhere,
            json!({"share": 0.04, "seconds": 90}),
        ),
        (
            "throttle_without_retry_after",
            Where::Anywhere,
            json!({"share": 0.04}),
        ),
        ("rate_limit", Where::Anywhere, json!({"per_second": 3})),
        ("daily_cap", Where::Anywhere, json!({"requests": 400})),
        (
            "peak_window",
            Where::Anywhere,
            json!({"from_second": begins, "until_second": begins + 14_400}),
        ),
        (
            "maintenance",
            Where::Anywhere,
            json!({"from_second": begins, "until_second": begins + 7_200, "retry_after": retry_after}),
        ),
        ("inband_throttled", Where::Anywhere, json!({"share": 0.03})),
        ("inband_vendor_error", Where::Anywhere, json!({"share": 0.03})),
    ]
}

/// Of single answers and records.
fn of_answers(dice: &mut StdRng) -> Vec<Switch> {
    let total = dice.random_bool(0.5);
    let skew = pick(dice, &[-90, 90, -900]);
    vec![
        ("unauthorized", Where::Anywhere, json!({"share": 0.01})),
        ("token_ends_mid_page", Where::Anywhere, json!({"share": 0.03})),
        (
            "server_errors",
            Where::Anywhere,
            json!({"share": 0.02, "burst": 4}),
        ),
        ("truncated", Where::Anywhere, json!({"share": 0.04})),
        (
            "oversized",
            Where::Anywhere,
            json!({"share": 0.02, "bytes": 2_500_000}),
        ),
        ("malformed", Where::Anywhere, json!({"share": 0.04})),
        ("deep", Where::Anywhere, json!({"share": 0.03})),
        ("slow", Where::Anywhere, json!({"share": 0.1, "delay_ms": 20_000})),
        ("hang", Where::Anywhere, json!({"share": 0.01})),
        (
            "stale_cache",
            Where::Searches,
            json!({"share": 0.1, "seconds": 240}),
        ),
        ("clock_skew_seconds", Where::Anywhere, json!(skew)),
        ("future_stamp", Where::Anywhere, json!({"share": 0.02})),
        ("ignored_filters", Where::Anywhere, json!({"share": 0.05})),
        ("ignored_where", Where::Lists, json!({"share": 0.05})),
        ("duplicates", Where::Anywhere, json!({"share": 0.1})),
        ("expired_links", Where::Anywhere, json!({"share": 0.1})),
        (
            "truncate_page",
            Where::Anywhere,
            json!({"share": 0.05, "total": total}),
        ),
        ("unversioned_ids", Where::Reads, json!({"share": 0.3})),
        ("fetch_404", Where::Reads, json!({"share": 0.05})),
        ("mutate_before_fetch", Where::Reads, json!({"share": 0.2})),
        ("touch_all", Where::Anywhere, json!({"share": 0.003})),
        ("silent_change", Where::Anywhere, json!({"share": 0.05})),
        ("moved_out", Where::Anywhere, json!({"share": 0.01})),
    ]
}
