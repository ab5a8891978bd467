//! Each of the sandbox's faults, alone and in pairs, over at least two thousand versions: nothing lost, nothing
//! invented, order kept, and each fault struck.
//!
//! `FAULT_PAIRS` says how many pairs to try (default 6, drawn evenly), or `all`.

use std::collections::BTreeMap;
use std::time::Duration;

use courier_sdk::{Detect, FetchMode, Scope};
use ehr_courier::domain::calendar::Calendar;
use ehr_courier::domain::fan_out::ContentLevel;
use ehr_courier::pipeline::connection::Overlap;
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::sandbox::{Dialect, Faults};

use crate::checker::Findings;
use crate::plan::{self, Course, FeedPlan, Kind, Plan, SourcePlan, StartPlan, SubscriptionPlan, TemperPlan};
use crate::remembering::DedupPlan;
use crate::run::{live_all, report, say};

/// Fewer versions prove little of a fault that strikes one answer in twenty.
const VERSIONS_MIN: usize = 2_000;

/// Faults that only fail an answer as others do, or sort it as others do: tried alone.
const ALONE_ONLY: [&str; 5] = ["malformed", "deep", "gzip_bomb", "slow", "wrong_sort"];

/// Pairs tried when nobody says otherwise.
const PAIRS: usize = 6;

#[expect(
    clippy::disallowed_methods,
    reason = "the tests' own switch, not configuration of the courier"
)]
fn pairs_wanted(of: usize) -> usize {
    match std::env::var("FAULT_PAIRS").as_deref() {
        Ok("all") => of,
        Ok(text) => text.parse().unwrap(),
        Err(_) => PAIRS,
    }
}

/// A quiet world of one clinic, but for the faults: whatever goes wrong is theirs.
fn world(seed: u64, names: &[&'static str]) -> Plan {
    let mut faults = Faults::default();
    for (name, patch) in plan::switches() {
        if names.contains(&name) {
            faults = faults.merged(&patch).unwrap();
        }
    }
    let feed = |record_type: &str, fetch| FeedPlan {
        name: record_type.to_lowercase(),
        record_type: record_type.to_owned(),
        start: StartPlan::Beginning,
        every: Duration::from_secs(2),
        fetch,
        detect: Detect::LastUpdated,
        include: Vec::new(),
        scope: Scope::default(),
        overlap: Overlap::Fixed,
        reconcile: None,
    };
    let source = SourcePlan {
        name: "mercy".to_owned(),
        kind: Kind::Clinic {
            faults,
            names: names.to_vec(),
            patients: 100,
            page_count: 20,
            version_read: true,
            dialect: Dialect::default(),
            expired: 0.0,
        },
        feeds: vec![
            feed("Appointment", FetchMode::FromPage),
            feed("Encounter", FetchMode::FromPage),
            feed("Observation", FetchMode::ByRead),
            feed("DiagnosticReport", FetchMode::FromPage),
            feed("Patient", FetchMode::FromPage),
        ],
        concurrent: 3,
        calendar: Calendar::default(),
        per_day: None,
    };
    let subscription = SubscriptionPlan {
        name: "everything".to_owned(),
        connection: None,
        record_type: None,
        content: ContentLevel::FullResource,
        from_beginning: true,
        temper: TemperPlan::Prompt,
        from_life: 0,
        until_life: None,
        again_from_life: None,
    };
    // Where the same question is to be asked twice, changes come less often than polls.
    let step_every = if names.contains(&"stale_cache") { 900 } else { 150 };
    Plan {
        seed,
        sources: vec![source],
        subscriptions: vec![subscription],
        blows: Vec::new(),
        rivals: false,
        limits: Limits::default(),
        step_every: Duration::from_millis(step_every),
        dedup: DedupPlan::Faithful,
        versions_min: VERSIONS_MIN,
        course: Course::Brief,
    }
}

#[test]
fn each_fault_alone_and_in_pairs_loses_nothing_and_invents_nothing() {
    let names: Vec<&'static str> = plan::switches().into_iter().map(|(name, _)| name).collect();
    let mut pairs = Vec::new();
    let paired: Vec<&'static str> = names
        .iter()
        .copied()
        .filter(|name| !ALONE_ONLY.contains(name))
        .collect();
    for (index, one) in paired.iter().enumerate() {
        pairs.extend(paired.iter().skip(index + 1).map(|other| vec![*one, *other]));
    }
    let wanted = pairs_wanted(pairs.len()).clamp(1, pairs.len());
    let chosen = (0..wanted).map(|nth| pairs[nth * pairs.len() / wanted].clone());
    let sets: Vec<Vec<&'static str>> = names.iter().map(|name| vec![*name]).chain(chosen).collect();
    let plans: Vec<Plan> = (1000..)
        .zip(&sets)
        .map(|(seed, names)| world(seed, names))
        .collect();
    let all: BTreeMap<u64, Findings> = live_all(plans);
    let mut failed = Vec::new();
    for ((seed, findings), names) in all.iter().zip(&sets) {
        assert!(
            findings.versions >= 2_000,
            "{names:?} showed {} versions",
            findings.versions
        );
        if !findings.violations.is_empty() {
            failed.push(names.clone());
            report(&format!("world {seed} under {names:?}"), findings);
        }
    }
    let sum = |of: fn(&Findings) -> u64| all.values().map(of).sum::<u64>();
    say(&format!(
        "\nfaults: {} alone, {wanted} of {} pairs, versions shown {}, arrived {}, lost {}, phantom {}, out of order {}, \
         duplicates {}, late {}",
        names.len(),
        pairs.len(),
        sum(|it| it.versions),
        sum(|it| it.delivered),
        count(&all, "lost"),
        count(&all, "phantom"),
        count(&all, "order"),
        sum(|it| it.duplicates),
        sum(|it| it.late),
    ));
    assert!(failed.is_empty(), "{failed:?}");
}

fn count(all: &BTreeMap<u64, Findings>, word: &str) -> usize {
    let violations = all.values().flat_map(|it| &it.violations);
    violations.filter(|violation| violation.starts_with(word)).count()
}
