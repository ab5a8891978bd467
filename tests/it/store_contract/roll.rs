//! The roll: what complete listings named, and what becomes of records that they no longer name.

use courier_sdk::{RecordId, RecordType, Shown};
use ehr_courier::domain::delivery::Fence;
use ehr_courier::domain::event::VersionClue;
use ehr_courier::store::{KeepRoll, SetCursor, SettleResult};

use super::Home;
use super::world::*;

fn ids(names: &[&str]) -> Vec<RecordId> {
    names.iter().map(|name| RecordId::parse(name).unwrap()).collect()
}

fn difference(world: &World, joined: &[&str], missing: &[&str]) -> KeepRoll {
    KeepRoll {
        connection: mercy(),
        feed: appointments(),
        fence: world.fence,
        record_type: RecordType::parse("Appointment").unwrap(),
        joined: ids(joined),
        missing: ids(missing),
        fresh_as_of: at(0),
        at: at(0),
    }
}

/// Keeps a difference; answers how many records are read now.
async fn keep(world: &World, joined: &[&str], missing: &[&str]) -> u64 {
    let keep = difference(world, joined, missing);
    world.store.keep_roll(&keep).await.unwrap().asked
}

async fn roll(world: &World) -> Vec<String> {
    let roll = world.store.roll(&mercy(), &appointments(), None, 1_000).await;
    roll.unwrap().iter().map(ToString::to_string).collect()
}

async fn forget_or_set(world: &World, to: Option<&str>) {
    let set = SetCursor {
        connection: mercy(),
        feed: appointments(),
        cursor: to.map(cursor),
        note: "a test".to_owned(),
        at: at(1),
    };
    world.store.set_cursor(&set).await.unwrap();
}

pub(super) async fn a_roll_is_read_in_the_order_of_its_ids_and_outlives_the_process(home: &dyn Home) {
    let world = World::open(home).await;
    assert_eq!(keep(&world, &["b", "a-1", "c"], &[]).await, 0);
    assert_eq!(keep(&world, &["B", "c"], &[]).await, 0);
    let world = world.reopen(home).await;
    assert_eq!(roll(&world).await, ["B", "a-1", "b", "c"]);
    let after = RecordId::parse("a-1").unwrap();
    let next = world.store.roll(&mercy(), &appointments(), Some(&after), 1).await;
    assert_eq!(next.unwrap(), ids(&["b"]));
    let other = world.store.roll(&mercy(), &rooms(), None, 10).await;
    assert_eq!(other.unwrap(), []);
}

pub(super) async fn a_record_that_is_no_longer_listed_is_read_by_itself(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    keep(&world, &["1", "2"], &[]).await;
    assert_eq!(keep(&world, &["3"], &["1"]).await, 1);
    assert_eq!(
        roll(&world).await,
        ["1", "2", "3"],
        "until it is known to be gone"
    );
    let claimed = world.claim(0).await;
    assert_eq!(claimed.len(), 1);
    let change = &claimed[0].change;
    assert_eq!((change.key.clone(), change.shown), (key("1"), Shown::Missing));
    assert_eq!(change.version, VersionClue::Unknown);
    assert_eq!(claimed[0].head.as_ref().unwrap().version.as_str(), "v:1");
    world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!(
        world.log().await,
        ["1 1 updated", "2 1 updated", "1 d:v:1 deleted"]
    );
    assert_eq!(keep(&world, &[], &["1"]).await, 0, "its delete is told");
    assert_eq!(roll(&world).await, ["2", "3"]);
}

pub(super) async fn a_record_that_nobody_told_of_or_that_is_deleted_disappears_in_silence(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1)]).await;
    world.poll(vec![deleted("1", 2)]).await;
    keep(&world, &["1", "never-told"], &[]).await;
    assert_eq!(keep(&world, &[], &["1", "never-told"]).await, 0);
    assert!(roll(&world).await.is_empty());
    assert!(world.claim(0).await.is_empty());
}

pub(super) async fn a_record_whose_change_waits_stays_on_the_roll(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1)]).await;
    keep(&world, &["1"], &[]).await;
    world.poll(vec![reference("1", 2)]).await;
    assert_eq!(keep(&world, &[], &["1"]).await, 0);
    assert_eq!(roll(&world).await, ["1"]);
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
        .await;
    // Found alive, it may be gone a moment later: it is asked about twice.
    for rest in [&["1"][..], &[]] {
        assert_eq!(keep(&world, &[], &["1"]).await, 1);
        assert_eq!(keep(&world, &[], &["1"]).await, 0, "it waits");
        let claimed = world.claim(0).await;
        world
            .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
            .await;
        assert_eq!(roll(&world).await, rest);
    }
    assert_eq!(keep(&world, &[], &["1"]).await, 0);
}

pub(super) async fn a_record_in_quarantine_waits_for_the_operator(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1), unversioned("1")]).await;
    keep(&world, &["1"], &[]).await;
    let claimed = world.claim(0).await;
    let reason = "404".to_owned();
    world
        .settle(&claimed[0], SettleResult::Quarantine { reason })
        .await;
    assert_eq!(keep(&world, &[], &["1"]).await, 0);
    assert_eq!(roll(&world).await, ["1"]);
}

pub(super) async fn a_roll_is_kept_under_the_lease_only(home: &dyn Home) {
    let world = World::open(home).await;
    let mut late = difference(&world, &["1"], &[]);
    late.fence = Fence(world.fence.0 + 1);
    assert_fenced(&world.store.keep_roll(&late).await);
    assert!(roll(&world).await.is_empty());
}

pub(super) async fn forgetting_the_cursor_forgets_the_roll(home: &dyn Home) {
    let world = World::open(home).await;
    keep(&world, &["1"], &[]).await;
    forget_or_set(&world, Some("back")).await;
    assert_eq!(roll(&world).await, ["1"]);
    forget_or_set(&world, None).await;
    assert!(roll(&world).await.is_empty());
}

pub(super) async fn a_feed_knows_when_it_completed_last_and_what_it_found(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(vec![version("1", 1)], next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    assert_eq!(
        (world.feed().await.completed_at, world.feed().await.found),
        (None, 1)
    );
    let accepted = world.poll_at(60, vec![version("1", 1), reference("2", 9)]).await;
    assert_eq!(accepted.stamps, [at(9)], "only what is new");
    world.poll_at(120, Vec::new()).await;
    world.stage(vec![version("3", 1)]).await;
    world.release(10).await;
    let world = world.reopen(home).await;
    let feed = world.feed().await;
    assert_eq!((feed.completed_at, feed.found), (Some(at(0)), 3), "released last");
}
