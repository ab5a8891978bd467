//! `claim_changes` and `settle_changes` where the source may spare the record: what the ledger knows of it goes with the
//! claim, and a version that still stands is known.

use ehr_courier::domain::ledger;
use ehr_courier::store::{ClaimedChange, SettleResult};

use super::Home;
use super::inbox::ids;
use super::world::*;

/// What the source says of a record whose head is still its current version.
fn stands(claimed: &ClaimedChange) -> SettleResult {
    let head = claimed.head.as_ref().unwrap();
    SettleResult::Stands(ledger::showing_of(head, claimed.change.clone()))
}

pub(super) async fn a_claim_tells_the_head_of_a_record_that_must_be_read(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 3), version("2", 1)]).await;
    world
        .poll(vec![unversioned("1"), unversioned("2"), unversioned("new")])
        .await;
    world.poll(vec![version("2", 2)]).await;
    let claimed = world.claim(0).await;
    assert_eq!(ids(&claimed), ["1 -", "2 -", "new -"]);
    let heads: Vec<Option<&str>> = claimed
        .iter()
        .map(|one| one.head.as_ref().map(|head| head.version.as_str()))
        .collect();
    assert_eq!(heads, [Some("v:3"), Some("v:1"), None]);
    let head = claimed[0].head.as_ref().unwrap();
    assert_eq!(
        (&head.event_id, head.order),
        (&event_id("1", 3), version("1", 3).order)
    );
    world.settle(&claimed[1], stands(&claimed[1])).await;
    let carried = world.claim(0).await;
    assert_eq!(ids(&carried), ["2 2"]);
    assert_eq!(carried[0].head, None, "its record came along");
}

pub(super) async fn a_record_that_may_not_be_read_is_told_of_once_and_keeps_its_head(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 3)]).await;
    let withheld = |claimed: &ClaimedChange| {
        let (change, head) = (claimed.change.clone(), claimed.head.as_ref());
        SettleResult::Unavailable(ledger::unavailable(&mercy(), change, head))
    };
    for told in [1, 0] {
        world.poll(vec![unversioned("1"), unversioned("new")]).await;
        let claimed = world.claim(0).await;
        assert_eq!(ids(&claimed), ["1 -", "new -"]);
        for one in &claimed {
            let settled = world.settle(one, withheld(one)).await;
            assert_eq!((settled.appended, settled.known), (told, 1 - told));
        }
    }
    world.poll(vec![reference("1", 4)]).await;
    let claimed = world.claim(0).await;
    let settled = world.settle(&claimed[0], withheld(&claimed[0])).await;
    assert_eq!((settled.appended, settled.superseded), (1, 0));
    let again = world.poll(vec![reference("1", 4)]).await;
    assert_eq!((again.known, again.enqueued), (1, 0), "it is not asked for again");
    assert_eq!(world.poll(vec![version("1", 5), gone("1")]).await.appended, 2);
    let log = [
        "1 3 updated",
        "1 u:v:3 unavailable",
        "new u: unavailable",
        "1 4 unavailable",
        "1 5 updated",
        "1 d:v:5 deleted",
    ];
    assert_eq!(world.log().await, log);
}

pub(super) async fn a_version_that_still_stands_settles_as_known(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 3)]).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    // It may change after the source's answer: what is shown again meanwhile is read again.
    world.poll(vec![unversioned("1")]).await;
    let settled = world.settle(&claimed[0], stands(&claimed[0])).await;
    assert_eq!((settled.known, settled.appended, settled.shown_again), (1, 0, 1));
    assert_eq!(settled.ids, [event_id("1", 3)]);
    let again = world.claim(0).await;
    assert_eq!(ids(&again), ["1 -"]);
    let settled = world.settle(&again[0], stands(&again[0])).await;
    assert_eq!((settled.known, settled.shown_again), (1, 0));
    assert!(world.claim(DAY).await.is_empty());
    assert_eq!(world.log().await, ["1 3 updated"]);
}

pub(super) async fn what_was_shown_before_a_read_is_told_of_before_the_delete_that_it_found(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1)]).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    // Shown before the read, handed over after it: the record is gone since.
    world.poll(vec![version("1", 2)]).await;
    let settled = world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!((settled.appended, settled.shown_again), (0, 1));
    let claimed = world.claim(0).await;
    assert_eq!(ids(&claimed), ["1 2"]);
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
        .await;
    let claimed = world.claim(0).await;
    assert_eq!(ids(&claimed), ["1 -"]);
    world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!(
        world.log().await,
        ["1 1 updated", "1 2 updated", "1 d:v:2 deleted"]
    );
    assert!(world.claim(DAY).await.is_empty());
}

pub(super) async fn what_is_shown_again_at_every_poll_keeps_nothing_else_waiting(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![unversioned("1"), unversioned("2")]).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    let claimed = world.claim(0).await;
    assert_eq!(
        ids(&claimed),
        ["2 -", "1 -"],
        "the one that was read goes behind the other"
    );
    world.poll(vec![unversioned("3"), unversioned("2")]).await;
    for (one, id) in claimed.iter().zip(["2", "1"]) {
        world.settle(one, SettleResult::Fetched(version(id, 1))).await;
    }
    assert_eq!(ids(&world.claim(0).await), ["3 -", "2 -"]);
}
