//! Worlds that last a day or a week: nothing lost, nothing invented, no delete made up and none passed over, whatever
//! way changes are found and whatever strikes; beside it what a poller by the letter of the FHIR page would have lost.
//!
//! `SIM_DAYS` and `SIM_WEEKS` say how many seeds to run, `DAY` or `WEEK` runs one alone.

use std::collections::BTreeMap;

use crate::checker::Findings;
use crate::naive::Naive;
use crate::plan::{Plan, Span};
use crate::run::{live_all, report, say, switch};

/// Run when nobody says otherwise.
const DAYS: u64 = 40;
const WEEKS: u64 = 10;

/// What a set of days and weeks must have seen strike: a fault that never struck proves nothing.
const MUST_STRIKE: [&str; 29] = [
    "clock_skew_seconds",
    "daily_cap",
    "descending_pages",
    "duplicates",
    "equal_timestamps",
    "expired_links",
    "fetch_404",
    "future_stamp",
    "hang",
    "ignored_filters",
    "ignored_where",
    "inband_throttled",
    "inband_vendor_error",
    "late_commits",
    "maintenance",
    "mixed_types",
    "moved_out",
    "page_drift",
    "server_errors",
    "silent_change",
    "slow",
    "stale_cache",
    "throttle_with_retry_after",
    "throttle_without_retry_after",
    "touch_all",
    "truncate_page",
    "unauthorized",
    "wrong_sort",
    "deletes that stand",
];

/// And what the full form must have seen beside: single reads are rare.
const MUST_STRIKE_IN_FULL: [&str; 1] = ["mutate_before_fetch"];

/// From so many days on it is the full form.
const FULL: usize = 1_000;

fn seeds(span: Span) -> Vec<u64> {
    let (one, other, count) = match span {
        Span::Day => ("DAY", "WEEK", switch("SIM_DAYS").unwrap_or(DAYS)),
        Span::Week => ("WEEK", "DAY", switch("SIM_WEEKS").unwrap_or(WEEKS)),
    };
    match (switch(one), switch(other)) {
        (Some(seed), _) => vec![seed],
        (None, Some(_)) => Vec::new(),
        (None, None) => (1..=count).collect(),
    }
}

fn live(span: Span, name: &str) -> (BTreeMap<u64, Findings>, Vec<String>) {
    let seeds = seeds(span);
    let all = live_all(seeds.iter().map(|seed| Plan::long(*seed, span)).collect());
    let mut failed = Vec::new();
    for (seed, findings) in all.iter().filter(|(_, it)| !it.violations.is_empty()) {
        let command = format!("{name}={seed} cargo test --test sim long_");
        report(&command, findings);
        for source in &Plan::long(*seed, span).sources {
            say(&format!("  {}", source.told()));
        }
        failed.push(command);
    }
    (all, failed)
}

#[test]
fn long_worlds_of_days_and_weeks_lose_nothing_and_make_up_no_delete() {
    let (days, mut failed) = live(Span::Day, "DAY");
    let (weeks, more) = live(Span::Week, "WEEK");
    failed.extend(more);
    let all: Vec<&Findings> = days.values().chain(weeks.values()).collect();
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut naive = Naive::default();
    for findings in &all {
        let struck = findings
            .strikes
            .iter()
            .map(|(name, count)| (name.as_str(), count));
        for (name, count) in struck.chain(findings.counts.iter().map(|(name, count)| (*name, count))) {
            let entry = counts.entry(name).or_default();
            entry.0 += u64::from(*count > 0);
            entry.1 += count;
        }
        naive += findings.naive;
    }
    say("\nfault                                    seeds   strikes");
    for (name, (seeds, count)) in &counts {
        say(&format!("{name:<40} {seeds:>5} {count:>9}"));
    }
    tell((days.len(), weeks.len()), &all, naive);
    assert!(failed.is_empty(), "{} seeds failed: {failed:#?}", failed.len());
    if all.len() as u64 >= DAYS + WEEKS {
        let rare = MUST_STRIKE_IN_FULL.iter().filter(|_| days.len() >= FULL);
        for name in MUST_STRIKE.iter().chain(rare) {
            assert!(
                counts.get(*name).is_some_and(|(seeds, _)| *seeds > 0),
                "{name}: never"
            );
        }
    }
}

fn tell((days, weeks): (usize, usize), all: &[&Findings], naive: Naive) {
    let sum = |of: fn(&Findings) -> u64| all.iter().map(|it| of(it)).sum::<u64>();
    let counted = |word: &str| {
        let violations = all.iter().flat_map(|it| &it.violations);
        violations.filter(|it| it.starts_with(word)).count()
    };
    say(&format!(
        "\nsim, long: days {days}, weeks {weeks}, versions shown {}, delivered {}, lost {}, phantom {}, \
         deletes that stand {}, lost of them {}, duplicates {} (explained), late {}, crashes {}",
        sum(|it| it.versions),
        sum(|it| it.delivered),
        counted("lost:"),
        counted("phantom"),
        sum(|it| it.counts.get("deletes that stand").copied().unwrap_or_default()),
        counted("lost delete"),
        sum(|it| it.duplicates),
        sum(|it| it.late),
        sum(|it| it.crashes.values().sum()),
    ));
    say(&format!(
        "a poller by gt[last seen] would have lost {} of {} states that stood at its polls, and {} deletes; \
         it could not have asked for {} more",
        naive.missed, naive.states, naive.deletes, naive.out_of_reach,
    ));
}
