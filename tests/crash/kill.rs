//! kill -9 at random moments under load.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use ehr_courier::sandbox::{Chance, EqualTimestamps, Faults, LateCommits, ServerErrors};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::checker::Verdict;
use crate::receiver::Manner;
use crate::redis;
use crate::world::World;

/// Changes per second while it is being killed.
const PACE: u64 = 100;

/// How long SIGTERM may take.
const GRACE: Duration = Duration::from_secs(25);

#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is said by the environment"
)]
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What a clinic's server does now and then, at shares that leave the courier under way.
fn faults() -> Faults {
    Faults {
        late_commits: LateCommits {
            share: 0.05,
            delay_ms_max: 4_000,
        },
        equal_timestamps: EqualTimestamps { run: 3 },
        page_drift: Chance { share: 0.05 },
        server_errors: ServerErrors {
            share: 0.01,
            burst: 2,
        },
        truncated: Chance { share: 0.02 },
        ..Faults::default()
    }
}

#[test]
fn killed_at_random_moments_it_loses_nothing_and_repeats_only_what_was_in_flight() {
    let _turn = crate::turn();
    let (kills, seed) = (number("CRASH_KILLS", 12), number("CRASH_SEED", 7));
    let mut draws = StdRng::seed_from_u64(seed);
    let mut world = World::new(
        seed,
        &faults(),
        Manner {
            delay_ms_max: 8,
            refusals: 0.02,
        },
    );
    world.source.set_pace(PACE);
    let mut first_polls = Vec::new();
    for _ in 0..kills {
        let life = world.start();
        std::thread::sleep(Duration::from_millis(draws.random_range(50..=1_500)));
        let began = life.began;
        world.kill(life);
        first_polls.extend(world.source.journal().first_search_at().map(|at| at - began));
    }
    let mut life = world.start();
    world.await_first_poll();
    let second = world.courier.run();
    assert_eq!(
        second.ended(Duration::from_secs(15)).code(),
        Some(75),
        "a second run beside a living one"
    );
    world.become_quiet(&mut life);
    let (status, drained) = life.terminate(GRACE);
    assert_eq!(status.code(), Some(0), "SIGTERM:\n{}", world.courier.log_tail());
    let verdicts = world.judge();
    first_polls.sort_unstable();
    let median = first_polls
        .get(first_polls.len() / 2)
        .copied()
        .unwrap_or_default();
    report(
        &world,
        seed,
        &verdicts,
        &format!("restart to first poll {median:?} (median), drained in {drained:?}"),
    );
    agree_with_the_store(&world, &verdicts);
    world.assert_good(seed);
}

/// What the commands and the file itself say must be what arrived.
fn agree_with_the_store(world: &World, verdicts: &[Verdict]) {
    let rows = world.courier.rows(&[
        "events",
        "list",
        "-c",
        "courier.toml",
        "--limit",
        "1000000",
        "--json",
    ]);
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let listed: BTreeSet<String> = rows.iter().map(|row| text(row, "id")).collect();
    assert_eq!(listed.len(), rows.len(), "an event is listed twice");
    for verdict in verdicts {
        let differing: Vec<&String> = listed.symmetric_difference(&verdict.ids).take(5).collect();
        assert!(
            differing.is_empty(),
            "listed and received differ: {differing:?} …"
        );
    }
    let remembered = redis::remembered(&world.courier.database());
    assert!(!remembered.is_empty(), "Redis remembers nothing");
    let ahead: Vec<&String> = remembered.difference(&listed).take(5).collect();
    assert!(
        ahead.is_empty(),
        "Redis remembers what was not committed: {ahead:?} …"
    );
    let counted = |row: &Value| ["pending", "done", "dead"].map(|state| row[state].as_u64().unwrap());
    let states: BTreeSet<[u64; 3]> = rows.iter().map(counted).collect();
    assert_eq!(
        states,
        BTreeSet::from([[0, verdicts.len() as u64, 0]]),
        "deliveries that are not done"
    );
    assert!(
        world
            .courier
            .rows(&["dead-letters", "list", "-c", "courier.toml", "--json"])
            .is_empty()
    );

    let file = rusqlite::Connection::open(world.courier.database()).unwrap();
    let integrity: String = file
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
    for table in ["inbox", "stage", "quarantine"] {
        assert_eq!(world.courier.count(table), 0, "rows left in {table}");
    }
}

fn report(world: &World, seed: u64, verdicts: &[Verdict], times: &str) {
    let (shown, unproven, missed) = world.counts(verdicts);
    let lost: usize = verdicts.iter().map(|verdict| verdict.lost.len()).sum();
    let problems: usize = verdicts.iter().map(|verdict| verdict.problems.len()).sum();
    let late = verdicts.iter().map(|verdict| verdict.late).max().unwrap_or(0);
    let mut spread: BTreeMap<usize, usize> = BTreeMap::new();
    for verdict in verdicts {
        for life in &world.killed {
            *spread
                .entry(verdict.repeated.get(life).copied().unwrap_or(0))
                .or_default() += 1;
        }
    }
    let struck = world
        .source
        .ehr
        .strikes()
        .into_iter()
        .filter(|(_, count)| *count > 0);
    let struck: Vec<String> = struck.map(|(name, count)| format!("{name} {count}")).collect();
    let refused = world.receiver.refused();
    let duplicates = World::by_name(verdicts, Verdict::duplicates);
    let arrived = World::by_name(verdicts, Verdict::arrived);
    writeln!(
        std::io::stderr(),
        "crash: seed {seed}, kills {}, versions shown {shown} ({unproven} last seen by a courier killed then, {missed} of them overwritten before the next poll), \
         arrived ({arrived}), lost {lost}, other findings {problems}, duplicates ({duplicates}) (repeats at a kill: times) \
         {spread:?}, late {late}, refused by the receiver {refused}, struck: {}; {times}",
        world.killed.len(),
        struck.join(", ")
    )
    .unwrap();
}
