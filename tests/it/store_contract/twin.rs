//! Chance against the specification: the same random work on a store and on a fresh memory store shows the same.

use std::sync::Arc;

use async_trait::async_trait;
use courier_sdk::{Novelty, RecordId};
use ehr_courier::domain::delivery::{AttemptOutcome, ClaimedDelivery};
use ehr_courier::domain::event::Change;
use ehr_courier::domain::fan_out::{From, SliceLimits, Subscription};
use ehr_courier::domain::ledger;
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{
    ClaimedChange, DeadLetterQuery, Flow, Joins, KeepRoll, Lane, Progress, SetFlow, SettleResult, StageState,
    Store,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Home;
use super::world::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 300;

/// A memory store of its own for each opening of the twin.
struct Specification(MemoryStore);

#[async_trait]
impl Home for Specification {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopened())
    }
}

pub(super) async fn random_work_shows_what_the_specification_shows(home: &dyn Home) {
    let specification = Specification(MemoryStore::new());
    let expected = work(&specification, 1).await;
    let shown = work(home, 1).await;
    for (step, (shown, expected)) in shown.iter().zip(&expected).enumerate() {
        assert_eq!(shown, expected, "after step {step}");
    }
    let struck = |what: &str| expected.iter().filter(|line| line.starts_with(what)).count();
    for what in [
        "Poll", "Stage", "Fetch", "Define", "FanOut", "Deliver", "Redrive", "Pause", "Roll", "Crash",
    ] {
        assert!(
            struck(what) > 5,
            "{what} struck {} times: it proves nothing",
            struck(what)
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Poll,
    Stage,
    Fetch,
    Define,
    FanOut,
    Deliver,
    Redrive,
    Pause,
    Roll,
    Crash,
}

/// Does the seed's work and tells after each step what can be seen.
async fn work(home: &dyn Home, seed: u64) -> Vec<String> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut world = World::open(home).await;
    let mut told = Vec::new();
    for _ in 0..STEPS {
        let step = match dice.random_range(0..22) {
            0..5 => Step::Poll,
            5 | 6 => Step::Stage,
            7..11 => Step::Fetch,
            11 => Step::Define,
            12..15 => Step::FanOut,
            15..18 => Step::Deliver,
            18 => Step::Redrive,
            19 => Step::Pause,
            20 => Step::Roll,
            _ => Step::Crash,
        };
        let said = match step {
            Step::Poll if world.feed().await.stage == StageState::None => {
                format!("{:?}", world.poll(showings(&mut dice)).await)
            }
            Step::Poll | Step::Stage => stage(&world, &mut dice).await,
            Step::Fetch => fetch(&world, &mut dice).await,
            Step::Define => define(&world, &mut dice).await,
            Step::FanOut => fan_out(&world, &mut dice).await,
            Step::Deliver => deliver(&world, &mut dice).await,
            Step::Redrive => redrive(&world).await,
            Step::Pause => pause(&world, &mut dice).await,
            Step::Roll => roll(&world, &mut dice).await,
            Step::Crash => {
                world = world.reopen(home).await;
                String::new()
            }
        };
        told.push(format!("{step:?}: {said}; {}", look(&world).await));
    }
    told
}

/// What can be seen of everything.
async fn look(world: &World) -> String {
    let mut numbered = Vec::new();
    for name in NAMES {
        numbered.push(world.numbered(name).await);
    }
    let counts = world
        .store
        .deliveries_by_state(&destination("hook"))
        .await
        .unwrap();
    let backlog = world.store.backlog(&mercy()).await.unwrap();
    let lane = world.view(&Lane::Common).await.position;
    let depths = world.store.depths().await.unwrap();
    let depths = depths.get(&mercy()).copied().unwrap_or_default();
    format!(
        "{:?} {:?} {numbered:?} {counts:?} {} {} {} {} {lane:?} {depths:?}",
        world.feed().await,
        world.log().await,
        backlog.inbox,
        backlog.log,
        backlog.outbox,
        backlog.quarantine,
    )
}

fn showings(dice: &mut StdRng) -> Vec<Change> {
    let count = dice.random_range(0..4);
    (0..count)
        .map(|_| {
            let id = dice.random_range(1..=4u8).to_string();
            let number = dice.random_range(1..=8);
            match dice.random_range(0..10) {
                0 | 1 => reference(&id, number),
                2 => deleted(&id, number),
                3 => unversioned(&id),
                4 => Change {
                    novelty: Novelty::Silent,
                    ..version(&id, number)
                },
                5 | 6 => worded(&id, ["a", "b"][dice.random_range(0..2usize)]),
                _ => version(&id, number),
            }
        })
        .collect()
}

async fn pause(world: &World, dice: &mut StdRng) -> String {
    let set = SetFlow {
        subscription: subscription_name(NAMES[dice.random_range(0..3usize)]),
        flow: if dice.random_range(0..2) == 0 {
            Flow::Paused
        } else {
            Flow::Flowing
        },
        at: at(0),
    };
    let done = world.store.set_flow(&set).await.is_ok();
    format!("{done} {:?}", world.store.paused().await.unwrap())
}

async fn stage(world: &World, dice: &mut StdRng) -> String {
    if world.feed().await.stage == StageState::None {
        world.stage(showings(dice)).await;
    }
    format!("{:?}", world.release(dice.random_range(1..4)).await)
}

async fn fetch(world: &World, dice: &mut StdRng) -> String {
    let mut said = Vec::new();
    for claimed in world.claim(DAY).await {
        let result = fetched(&claimed, dice);
        let settled = world.settle(&claimed, result).await;
        let change = &claimed.change;
        let tries = (claimed.generation, claimed.attempts, claimed.claims);
        said.push(format!(
            "{} {:?} {tries:?} {settled:?} {:?}",
            change.key.id, change.version_id, claimed.head
        ));
    }
    if dice.random_range(0..6) == 0 {
        let redriven = world.store.redrive_quarantine(&mercy(), at(0)).await.unwrap();
        said.push(format!("{redriven} redriven"));
    }
    said.join(", ")
}

fn fetched(claimed: &ClaimedChange, dice: &mut StdRng) -> SettleResult {
    let id = claimed.change.key.id.as_str();
    let asked = claimed
        .change
        .version_id
        .as_deref()
        .and_then(|text| text.parse().ok());
    let number = asked.unwrap_or_else(|| dice.random_range(1..=8));
    match dice.random_range(0..9) {
        5 if claimed.head.is_some() => {
            let head = claimed.head.as_ref().unwrap();
            SettleResult::Stands(ledger::showing_of(head, claimed.change.clone()))
        }
        0 => SettleResult::RetryAt {
            due_at: at(60),
            reason: "503".to_owned(),
        },
        1 => SettleResult::Release { due_at: at(60) },
        2 => SettleResult::Quarantine {
            reason: "unreadable".to_owned(),
        },
        3 => SettleResult::Deleted(gone(id)),
        4 => SettleResult::Fetched(version(id, number + 1)),
        _ => SettleResult::Fetched(version(id, number)),
    }
}

/// A listing of some records: the others have disappeared.
async fn roll(world: &World, dice: &mut StdRng) -> String {
    let before = world
        .store
        .roll(&mercy(), &appointments(), None, 10)
        .await
        .unwrap();
    let listed: Vec<RecordId> = (1..=4u8)
        .filter(|_| dice.random_range(0..3) > 0)
        .map(|id| key(&id.to_string()).id)
        .collect();
    let missing = before.into_iter().filter(|id| !listed.contains(id)).collect();
    let mut page = world.page(Vec::new(), Progress::Slice).await;
    page.joins = Some(Joins {
        roll: appointments(),
        record_type: key("1").record_type,
        ids: listed,
    });
    let joined = match world.feed().await.stage {
        StageState::None => format!("{:?}", world.store.accept_page(&page).await.unwrap()),
        StageState::Collecting => format!("{:?}", world.store.stage_page(&page).await.unwrap()),
        StageState::Releasing => String::new(),
    };
    let keep = KeepRoll {
        connection: mercy(),
        feed: appointments(),
        fence: world.fence,
        record_type: key("1").record_type,
        missing,
        fresh_as_of: at(0),
        at: at(0),
    };
    let kept = world.store.keep_roll(&keep).await.unwrap();
    let after = world
        .store
        .roll(&mercy(), &appointments(), None, 10)
        .await
        .unwrap();
    let news = world.store.off_roll(&mercy(), &appointments(), &after).await;
    format!("{joined} {kept:?} {after:?} {:?}", news.unwrap())
}

async fn define(world: &World, dice: &mut StdRng) -> String {
    let subscriptions: Vec<Subscription> = NAMES
        .into_iter()
        .filter(|_| dice.random_range(0..4) > 0)
        .map(|name| Subscription {
            from: if name == "c" { From::Beginning } else { From::Now },
            ..subscription(name)
        })
        .collect();
    world.define(&subscriptions).await;
    format!("{} in force", subscriptions.len())
}

async fn fan_out(world: &World, dice: &mut StdRng) -> String {
    let limits = SliceLimits {
        rows: dice.random_range(1..6),
        outbox: dice.random_range(1..12),
    };
    world.fan_out(&Lane::Common, limits).await;
    for name in NAMES {
        let lane = Lane::Own(subscription_name(name));
        if !world.view(&lane).await.members.is_empty() {
            world.fan_out(&lane, limits).await;
        }
    }
    format!("{limits:?}")
}

async fn deliver(world: &World, dice: &mut StdRng) -> String {
    let mut taken = world.take(DAY).await;
    let name = |one: &ClaimedDelivery| (one.delivery.subscription.clone(), one.delivery.number);
    taken.sort_by_key(name);
    let mut said = Vec::new();
    for claimed in taken {
        let outcome = match dice.random_range(0..6) {
            0 => retry_at(60),
            1 => dead(),
            2 => AttemptOutcome::Released,
            _ => delivered(),
        };
        said.push(format!("{:?} {outcome:?}", name(&claimed)));
        world.record(&claimed, outcome).await;
    }
    said.join(", ")
}

async fn redrive(world: &World) -> String {
    let redriven = world
        .store
        .redrive(&DeadLetterQuery::default(), at(0))
        .await
        .unwrap();
    format!("{redriven}")
}
