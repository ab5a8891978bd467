//! The roll: what complete listings named, and what becomes of records that they no longer name.

use courier_sdk::{FeedName, RecordId, RecordType, Shown};
use ehr_courier::domain::delivery::Fence;
use ehr_courier::domain::event::{Change, VersionClue};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::store::{Accepted, Joins, KeepRoll, SetCursor, SettleResult};

use super::Home;
use super::world::*;

fn ids(names: &[&str]) -> Vec<RecordId> {
    names.iter().map(|name| RecordId::parse(name).unwrap()).collect()
}

fn without(world: &World, missing: &[&str]) -> KeepRoll {
    KeepRoll {
        connection: mercy(),
        feed: appointments(),
        fence: world.fence,
        record_type: RecordType::parse("Appointment").unwrap(),
        missing: ids(missing),
        fresh_as_of: at(0),
        at: at(0),
    }
}

fn joining(roll: &FeedName, names: &[&str]) -> Joins {
    Joins {
        roll: roll.clone(),
        record_type: RecordType::parse("Appointment").unwrap(),
        ids: ids(names),
    }
}

/// A page of the poll under way, with which records join a roll.
async fn page_with(world: &World, changes: Vec<Change>, joins: Joins) -> Accepted {
    let mut page = world.page(changes, next_page("p2")).await;
    page.joins = Some(joins);
    world.store.accept_page(&page).await.unwrap()
}

/// A page that names records, then a listing without others; answers how many records are read now.
async fn keep(world: &World, joined: &[&str], missing: &[&str]) -> u64 {
    page_with(world, Vec::new(), joining(&appointments(), joined)).await;
    let keep = without(world, missing);
    world.store.keep_roll(&keep).await.unwrap().asked
}

async fn news(world: &World, roll: &FeedName, names: &[&str]) -> Vec<RecordId> {
    world.store.off_roll(&mercy(), roll, &ids(names)).await.unwrap()
}

/// Whether an event of record 1 has this version key.
async fn is_told_under(world: &World, version: &str) -> bool {
    let version = VersionKey::from_stored(version.to_owned());
    let id = EventId::derive(&mercy(), &key("1"), &version);
    world.store.event(&id).await.unwrap().is_some()
}

/// A record that was told of, disappeared and was found to be gone.
async fn deleted_by_disappearance(home: &dyn Home) -> World {
    let world = World::open(home).await;
    let joins = joining(&appointments(), &["1"]);
    page_with(&world, vec![version("1", 1)], joins).await;
    world.poll(Vec::new()).await;
    keep(&world, &[], &["1"]).await;
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!(world.log().await, ["1 1 updated", "1 d:v:1 deleted"]);
    world
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
    keep(&world, &["1"], &[]).await;
    let mut late = without(&world, &["1"]);
    late.fence = Fence(world.fence.0 + 1);
    assert_fenced(&world.store.keep_roll(&late).await);
    let mut late = world.page(Vec::new(), next_page("p3")).await;
    late.joins = Some(joining(&appointments(), &["2"]));
    late.poll.fence = Fence(world.fence.0 + 1);
    assert_fenced(&world.store.accept_page(&late).await);
    assert_eq!(roll(&world).await, ["1"]);
}

pub(super) async fn records_join_a_roll_with_their_page_whether_or_not_its_poll_ends(home: &dyn Home) {
    let world = World::open(home).await;
    page_with(
        &world,
        vec![version("1", 1)],
        joining(&appointments(), &["1", "2"]),
    )
    .await;
    let world = world.reopen(home).await;
    assert_eq!(roll(&world).await, ["1", "2"]);
    assert_eq!(news(&world, &appointments(), &["1", "3", "2"]).await, ids(&["3"]));
    // A live feed's records join its sweep's roll, staged ones too.
    world.store.abandon_poll(&world.poll_ref().await).await.unwrap();
    let mut page = world.page(vec![version("4", 1)], next_page("p2")).await;
    page.joins = Some(joining(&rooms(), &["4"]));
    world.store.stage_page(&page).await.unwrap();
    assert_eq!(news(&world, &rooms(), &["4"]).await, []);
    let mut keep = without(&world, &["4"]);
    keep.feed = rooms();
    assert_eq!(world.store.keep_roll(&keep).await.unwrap().asked, 0);
    assert_eq!(news(&world, &rooms(), &["4"]).await, [], "it is staged");
    assert_eq!(roll(&world).await, ["1", "2"]);
}

pub(super) async fn a_record_that_was_asked_about_is_news_when_it_is_named_again(home: &dyn Home) {
    let world = World::open(home).await;
    page_with(&world, vec![version("1", 1)], joining(&appointments(), &["1"])).await;
    assert_eq!(keep(&world, &[], &["1"]).await, 1);
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(news(&world, &appointments(), &["1"]).await, ids(&["1"]));
    assert_eq!(keep(&world, &["1"], &[]).await, 0);
    assert!(news(&world, &appointments(), &["1"]).await.is_empty());
    assert!(
        world.claim(0).await.is_empty(),
        "it lives, and was never told otherwise"
    );
}

pub(super) async fn a_record_that_was_taken_for_deleted_and_is_listed_again_is_read(home: &dyn Home) {
    let world = deleted_by_disappearance(home).await;
    let joins = joining(&appointments(), &["1"]);
    assert_eq!(page_with(&world, Vec::new(), joins.clone()).await.enqueued, 1);
    assert_eq!(page_with(&world, Vec::new(), joins).await.enqueued, 0, "it waits");
    let claimed = world.claim(0).await;
    let change = &claimed[0].change;
    assert_eq!(
        (change.shown, &change.version),
        (Shown::State, &VersionClue::Unknown)
    );
    assert!(claimed[0].head.is_some());
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(world.log().await[2..], ["1 1 updated"]);
    assert!(is_told_under(&world, "r:d:v:1").await);
    assert!(world.claim(0).await.is_empty());
    // Its version, shown again, is no change; nor is it one that it is gone and back once more, but both are told.
    assert_eq!(world.poll(vec![version("1", 1)]).await.known, 1);
    for again in ["2", "3"] {
        let before = world.log().await.len();
        keep(&world, &["1"], &["1"]).await;
        let claimed = world.claim(0).await;
        world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
        assert_eq!(world.poll(vec![version("1", 1)]).await.enqueued, 1);
        let claimed = world.claim(0).await;
        assert!(claimed[0].change.content.is_none(), "a page is no evidence");
        world
            .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
            .await;
        let told = &world.log().await[before..];
        assert!(
            told[0].starts_with("1 d:r:") && told[0].ends_with(" deleted"),
            "{told:?}"
        );
        assert_eq!(told[1..], ["1 1 updated"]);
        assert!(is_told_under(&world, &format!("r:{again}:d:v:1")).await);
    }
}

pub(super) async fn a_record_that_is_shown_again_and_is_not_there_stays_deleted(home: &dyn Home) {
    let world = deleted_by_disappearance(home).await;
    assert_eq!(world.poll(vec![version("1", 1)]).await.enqueued, 1);
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!(world.log().await.len(), 2);
    assert!(world.claim(0).await.is_empty());
    // What waited with its record was not read just now.
    world.poll(vec![unversioned("1"), version("1", 2)]).await;
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(world.log().await.len(), 2);
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
