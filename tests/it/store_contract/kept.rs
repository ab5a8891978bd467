//! What was read and waits for its context, and answers that need not be newer than what was asked for.

use ehr_courier::domain::event::{Change, VersionOrder};
use ehr_courier::store::SettleResult;

use super::Home;
use super::world::*;

pub(super) fn keep(change: Change) -> SettleResult {
    SettleResult::Keep {
        change,
        due_at: at(100),
        reason: Some("a reference answered 503".to_owned()),
    }
}

/// Settles all that is due, as it is kept; answers with what it is.
async fn settle_kept(world: &World, seconds: i64) -> Vec<Change> {
    let mut kept = Vec::new();
    while let Some(claimed) = world.claim(seconds).await.first() {
        kept.push(claimed.change.clone());
        let result = SettleResult::Fetched(claimed.change.clone());
        world.settle(claimed, result).await;
    }
    kept
}

pub(super) async fn what_was_read_is_kept_while_its_context_is_waited_for(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], keep(version("1", 1))).await;
    // The source has replaced it, and says so.
    world.poll_at(10, vec![reference("1", 1), version("1", 2)]).await;
    assert!(
        world.claim(99).await.is_empty(),
        "a failure waits its back-off out"
    );
    let again = world.claim(100).await;
    assert_eq!((again[0].attempts, again[0].claims), (1, 1));
    assert_eq!(again[0].change, version("1", 1));
    let result = SettleResult::Keep {
        change: version("1", 1),
        due_at: at(200),
        reason: None,
    };
    world.settle(&again[0], result).await;
    assert_eq!(
        world.claim(200).await[0].attempts,
        1,
        "a released one counts nothing"
    );
    let world = world.reopen(home).await;
    assert_eq!(settle_kept(&world, DAY).await, [version("1", 1), version("1", 2)]);
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated"]);
}

pub(super) async fn a_newer_version_that_was_read_is_kept_in_the_place_of_the_older(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![reference("1", 3)]).await;
    let settled = world.settle(&claimed[0], keep(version("1", 2))).await;
    assert_eq!(settled.superseded, 1);
    assert_eq!(world.poll_at(10, vec![reference("1", 1)]).await.known, 1);
    assert_eq!(settle_kept(&world, 99).await, []);
    let again = world.claim(100).await;
    assert_eq!(again[0].change, version("1", 2));
    world
        .settle(&again[0], SettleResult::Fetched(version("1", 2)))
        .await;
    let last = world.claim(100).await;
    assert_eq!(last[0].change, reference("1", 3), "it is read for itself");
}

pub(super) async fn a_newer_version_that_waits_already_takes_what_was_read(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![reference("1", 2)]).await;
    world.settle(&claimed[0], keep(version("1", 2))).await;
    assert_eq!(settle_kept(&world, DAY).await, [version("1", 2)]);
    assert_eq!(world.log().await, ["1 2 updated"]);
}

pub(super) async fn what_came_along_is_not_replaced_by_what_was_read(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![version("1", 1)]).await;
    let settled = world.settle(&claimed[0], keep(version("1", 2))).await;
    assert_eq!(settled.superseded, 0);
    assert_eq!(settle_kept(&world, DAY).await, [version("1", 1), version("1", 2)]);
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated"]);
}

pub(super) async fn a_record_shown_again_is_read_again_behind_what_is_kept(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![unversioned("1")]).await;
    let settled = world.settle(&claimed[0], keep(version("1", 1))).await;
    assert_eq!(settled.shown_again, 1);
    let kept = world.claim(100).await;
    assert_eq!(kept[0].change, version("1", 1));
    world
        .settle(&kept[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(world.claim(100).await[0].change, unversioned("1"));
}

pub(super) async fn an_answer_that_is_not_known_to_be_newer_supersedes_nothing(home: &dyn Home) {
    let world = World::open(home).await;
    let of_one_second = |change: Change, id: &str| Change {
        version_id: Some(id.to_owned()),
        order: VersionOrder {
            number: None,
            stamp: Some(at(7)),
        },
        ..change
    };
    let older = || of_one_second(version("1", 4), "a");
    world.poll(vec![older()]).await;
    world.poll(vec![of_one_second(reference("1", 5), "b")]).await;
    let claimed = world.claim(0).await;
    let settled = world.settle(&claimed[0], SettleResult::Fetched(older())).await;
    assert_eq!((settled.known, settled.superseded), (1, 0));
    let again = world.claim(DAY).await;
    assert_eq!(
        (again[0].attempts, again.len()),
        (1, 1),
        "a server lagged: it is asked again"
    );
    let settled = world.settle(&again[0], keep(older())).await;
    assert_eq!(settled.superseded, 0);
    let newer = of_one_second(version("1", 5), "b");
    while let Some(claimed) = world.claim(DAY).await.first() {
        let answer = if claimed.change.content.is_some() {
            older()
        } else {
            newer.clone()
        };
        world.settle(claimed, SettleResult::Fetched(answer)).await;
    }
    assert_eq!(world.log().await, ["1 a updated", "1 b updated"]);
}
