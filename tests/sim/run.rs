//! Runs seeds on all cores and tells what they came to.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Builder;

use crate::checker::{self, Findings};
use crate::life::{Op, Side};
use crate::plan::Plan;
use crate::world::UNSTRUCK;
use crate::world::World;

/// Seeds run when nobody says otherwise.
const SEEDS: u64 = 60;

/// What one world shows of what went wrong in it.
const VIOLATIONS_SAID: usize = 12;

/// The atomic points: each must be hit on both sides over a full set of seeds.
const ATOMIC_POINTS: [Op; 6] = [
    Op::AcceptPage,
    Op::StagePage,
    Op::ReleaseStage,
    Op::SettleChanges,
    Op::FanOut,
    Op::RecordAttempts,
];

/// What a full set of seeds must have seen strike at least once, beside each sandbox's own faults: a fault that never
/// struck proves nothing.
const MUST_STRIKE: [&str; 18] = [
    "broker_connection_lost",
    "broker_nacked",
    "broker_returned",
    "broker_unconfirmed",
    "dedup_evicted",
    "dedup_flushed",
    "dedup_restarted_empty",
    "dedup_slow",
    "destination_hung",
    "destination_refused",
    "journal_expired",
    "journal_late",
    "page links expired",
    "searches for several ids",
    "stages given up",
    "records with context",
    "deletes told by histories",
    "records that lived again",
];

/// Lives one world through.
fn run(plan: Plan) -> Findings {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::begin(plan);
        world.live().await;
        checker::check(&world).await
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests' own switches, not configuration of the courier"
)]
pub(crate) fn switch(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// A drawn world may be such that one of its faults has no occasion to strike; so few of them may be.
const UNSTRUCK_ONE_IN: usize = 500;

/// The fixed seeds, or the one asked for; then those that failed once.
fn seeds() -> Vec<u64> {
    if let Some(seed) = switch("SEED") {
        return vec![seed];
    }
    let count = switch("SIM_SEEDS").unwrap_or(SEEDS);
    let kept = include_str!("seeds.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| !word.starts_with('#'))
        .map(|word| word.parse().unwrap());
    (1..=count).chain(kept).collect()
}

/// Lives worlds through on all cores; the findings by seed. With `SIM_FAIL_FAST` none begins after the first that fails.
pub(crate) fn live_all(plans: Vec<Plan>) -> BTreeMap<u64, Findings> {
    let all = Mutex::new(BTreeMap::new());
    let waiting = Mutex::new(plans.into_iter());
    let (fail_fast, failed) = (switch("SIM_FAIL_FAST").is_some(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                loop {
                    if fail_fast && failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let Some(plan) = waiting.lock().unwrap().next() else {
                        break;
                    };
                    let seed = plan.seed;
                    // One world that cannot be judged is a finding, not the end of all others.
                    let lived = panic::catch_unwind(AssertUnwindSafe(|| run(plan)));
                    let findings = lived.unwrap_or_else(|_| Findings {
                        violations: vec!["the world ended in a panic, see above".to_owned()],
                        ..Findings::default()
                    });
                    failed.fetch_or(!findings.violations.is_empty(), Ordering::Relaxed);
                    all.lock().unwrap().insert(seed, findings);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// Says what was found wrong in one world.
pub(crate) fn report(title: &str, findings: &Findings) {
    say(&format!("\n{title}"));
    for violation in findings.violations.iter().take(VIOLATIONS_SAID) {
        say(&format!("  {violation}"));
    }
    if findings.violations.len() > VIOLATIONS_SAID {
        say(&format!("  … {} in all", findings.violations.len()));
    }
}

/// Past the test harness, which keeps the words of tests that pass to itself.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").unwrap();
}

#[test]
fn every_version_shown_arrives_once_in_order_whatever_strikes() {
    let seeds = seeds();
    if let [seed] = seeds.as_slice() {
        say(&format!("{:#?}", Plan::of(*seed)));
    }
    let all = live_all(seeds.iter().map(|seed| Plan::of(*seed)).collect());
    let (mut failed, mut unstruck) = (Vec::new(), Vec::new());
    for (seed, findings) in &all {
        if findings.violations.is_empty() {
            continue;
        }
        if seeds.len() > 1 && findings.violations.iter().all(|it| it.starts_with(UNSTRUCK)) {
            unstruck.push(*seed);
            continue;
        }
        failed.push(*seed);
        report(&format!("SEED={seed} cargo test --test sim"), findings);
    }
    tell(&all);
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
    say(&format!("worlds of which a fault never struck: {unstruck:?}"));
    assert!(unstruck.len() * UNSTRUCK_ONE_IN <= seeds.len(), "{unstruck:?}");
    if seeds.len() >= usize::try_from(SEEDS).unwrap() {
        for op in ATOMIC_POINTS {
            for side in [Side::Before, Side::After] {
                let hit = all.values().any(|it| it.crashes.contains_key(&(op, side)));
                assert!(hit, "no crash {side:?} {op:?} in the whole set of seeds");
            }
        }
        for name in MUST_STRIKE {
            let struck = all.values().any(|it| {
                it.strikes.get(name).is_some_and(|strikes| *strikes > 0)
                    || it.counts.get(name).is_some_and(|count| *count > 0)
            });
            assert!(struck, "{name}: never in the whole set of seeds");
        }
    }
}

#[test]
fn the_same_seed_lives_the_same_world() {
    let (one, other) = (run(Plan::of(3)), run(Plan::of(3)));
    assert_eq!(one.digest, other.digest);
    assert_eq!(one.delivered, other.delivered);
}

fn tell(all: &BTreeMap<u64, Findings>) {
    let sum = |of: fn(&Findings) -> u64| all.values().map(of).sum::<u64>();
    let counted = |word: &str| {
        all.values()
            .flat_map(|it| &it.violations)
            .filter(|it| it.starts_with(word))
            .count()
    };
    say("\nfault                                    seeds   strikes");
    let mut strikes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut crashes: BTreeMap<(Op, Side), u64> = BTreeMap::new();
    for findings in all.values() {
        for (name, count) in &findings.strikes {
            let entry = strikes.entry(name).or_default();
            entry.0 += u64::from(*count > 0);
            entry.1 += count;
        }
        for (name, count) in &findings.counts {
            let entry = counts.entry(name).or_default();
            entry.0 += u64::from(*count > 0);
            entry.1 += count;
        }
        for (point, count) in &findings.crashes {
            *crashes.entry(*point).or_default() += count;
        }
    }
    for (name, (seeds, count)) in strikes.iter().chain(&counts) {
        say(&format!("{name:<40} {seeds:>5} {count:>9}"));
    }
    say("\ncrash at                                before     after");
    let ops: std::collections::BTreeSet<Op> = crashes.keys().map(|(op, _)| *op).collect();
    for op in ops {
        let at = |side| crashes.get(&(op, side)).copied().unwrap_or_default();
        say(&format!(
            "{:<36} {:>9} {:>9}",
            format!("{op:?}"),
            at(Side::Before),
            at(Side::After)
        ));
    }
    let blows: u64 = crashes.values().sum();
    say(&format!(
        "\nsim: seeds {}, versions shown {}, delivered {}, lost {}, phantom {}, duplicates {} (explained), \
         dead letters {}, late {}, crashes {blows}",
        all.len(),
        sum(|it| it.versions),
        sum(|it| it.delivered),
        counted("lost"),
        counted("phantom"),
        sum(|it| it.duplicates),
        sum(|it| it.dead),
        sum(|it| it.late),
    ));
}
