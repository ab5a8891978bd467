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
