//! What a version means goes with its change, by every way that leads to an event; one that changes nothing is none where
//! that is asked for.

use std::collections::BTreeSet;

use courier_sdk::{FeedName, Meaning};
use ehr_courier::domain::event::{Change, Content, EventKind};
use ehr_courier::store::{ClaimedChange, Lane, SettleResult, Unchanged};

use super::Home;
use super::world::*;

fn into(id: &str) -> Meaning {
    Meaning::merged_into(Some(format!("Patient/{id}")))
}

fn saying(change: Change, meaning: Meaning) -> Change {
    let content = change.content.map(|content| Content {
        meaning: Some(meaning),
        ..content
    });
    Change { content, ..change }
}

async fn told(world: &World) -> Vec<(String, EventKind, Option<Meaning>)> {
    let log = world.view(&Lane::Common).await.events;
    log.into_iter()
        .map(|event| (event.key.id.to_string(), event.kind, event.meaning))
        .collect()
}

pub(super) async fn what_a_version_means_goes_into_the_event_and_to_the_delivery(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![
            saying(version("1", 1), into("7")),
            reference("2", 1),
            version("3", 1),
        ])
        .await;
    let claimed = world.claim(60).await;
    let fetched = saying(version("2", 1), Meaning::MergedInto(None));
    world.settle(&claimed[0], SettleResult::Fetched(fetched)).await;
    world
        .stage(vec![saying(version("4", 1), Meaning::Cancelled)])
        .await;
    world.release(10).await;
    let expected = [
        ("1".to_owned(), EventKind::Merged, Some(into("7"))),
        ("3".to_owned(), EventKind::Updated, None),
        ("2".to_owned(), EventKind::Merged, Some(Meaning::MergedInto(None))),
        ("4".to_owned(), EventKind::Updated, Some(Meaning::Cancelled)),
    ];
    assert_eq!(told(&world).await, expected);
    world.fan_out_all().await;
    let taken: Vec<_> = world
        .take(60)
        .await
        .into_iter()
        .map(|one| (one.event.key.id.to_string(), one.event.kind, one.event.meaning))
        .collect();
    assert_eq!(taken, expected);
}

pub(super) async fn what_waits_with_its_record_keeps_what_that_says(home: &dyn Home) {
    let world = World::open(home).await;
    // Behind an unread version of the record, with what it says; and shown again without its record.
    world.poll(vec![reference("1", 1)]).await;
    world
        .poll(vec![saying(version("1", 2), Meaning::EnteredInError)])
        .await;
    world.poll(vec![reference("1", 2)]).await;
    // Whatever came along last counts.
    world
        .poll(vec![saying(worded("2", "a"), Meaning::Cancelled)])
        .await;
    let first = world.claim(60).await;
    world
        .settle(&first[0], SettleResult::Fetched(version("1", 1)))
        .await;
    let behind = world.claim(60).await;
    let given_up = SettleResult::Quarantine {
        reason: "for a test".to_owned(),
    };
    world.settle(&behind[0], given_up).await;
    world.store.redrive_quarantine(&mercy(), at(60)).await.unwrap();
    let again = world.claim(60).await;
    let carried = again[0].change.clone();
    world.settle(&again[0], SettleResult::Fetched(carried)).await;
    let told = told(&world).await;
    assert_eq!(
        told,
        [
            ("2".to_owned(), EventKind::Updated, Some(Meaning::Cancelled)),
            ("1".to_owned(), EventKind::Updated, None),
            ("1".to_owned(), EventKind::Updated, Some(Meaning::EnteredInError)),
        ]
    );
}

pub(super) async fn a_merged_record_is_remembered_until_it_no_longer_says_so(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![saying(version("1", 1), into("7"))]).await;
    world.poll(vec![version("1", 2)]).await;
    world.poll(vec![version("1", 3)]).await;
    let meanings: Vec<_> = told(&world)
        .await
        .into_iter()
        .map(|(_, _, meaning)| meaning)
        .collect();
    assert_eq!(meanings, [Some(into("7")), Some(Meaning::Unmerged), None]);
}

/// A numbered version with this content.
fn with_content(id: &str, number: u64, word: &str) -> Change {
    Change {
        content: worded(id, word).content,
        ..version(id, number)
    }
}

pub(super) async fn a_version_without_a_change_moves_the_head_and_is_no_event_where_that_is_asked_for(
    home: &dyn Home,
) {
    let world = World::open(home).await;
    let suppressing = async |changes: Vec<Change>| {
        let mut page = world.page(changes, done("c")).await;
        page.unchanged = Unchanged::Suppress;
        world.store.accept_page(&page).await.unwrap()
    };
    suppressing(vec![with_content("1", 1, "a"), reference("2", 1)]).await;
    let accepted = suppressing(vec![with_content("1", 2, "a"), with_content("1", 3, "b")]).await;
    assert_eq!(
        (accepted.appended, accepted.unchanged, accepted.ids.len()),
        (1, 1, 2)
    );
    let again = suppressing(vec![with_content("1", 2, "a")]).await;
    assert_eq!((again.known, again.unchanged), (1, 0), "its id is accepted");
    // Compared is with the version before it, which was not told of.
    world.poll(vec![with_content("3", 1, "a")]).await;
    suppressing(vec![with_content("3", 2, "a")]).await;
    assert_eq!(suppressing(vec![with_content("3", 3, "a")]).await.unchanged, 1);
    // A feed that is told of all is told of it.
    assert_eq!(world.poll(vec![with_content("3", 4, "a")]).await.appended, 1);
    let log = world.log().await;
    assert_eq!(log, ["1 1 updated", "1 3 updated", "3 1 updated", "3 4 updated"]);
}

pub(super) async fn a_version_without_a_change_is_no_event_when_it_was_staged_or_fetched(home: &dyn Home) {
    let world = World::open(home).await;
    world
        .poll(vec![with_content("1", 1, "a"), reference("2", 1)])
        .await;
    let first = world.claim(60).await;
    let fetched = SettleResult::Fetched(with_content("2", 1, "a"));
    world.settle(&first[0], fetched).await;
    world.poll(vec![reference("2", 2)]).await;
    let second = world.claim(60).await;
    let fetched = SettleResult::Fetched(with_content("2", 2, "a"));
    let mut settle = world.settling(&second[0], fetched);
    settle.unchanged_untold = BTreeSet::from([appointments()]);
    let settled = world.store.settle_changes(&settle).await.unwrap();
    assert_eq!(
        (settled.appended, settled.unchanged, settled.ids.len()),
        (0, 1, 1)
    );
    assert!(world.claim(60).await.is_empty(), "it is settled");
    world
        .stage(vec![with_content("1", 3, "b"), with_content("1", 2, "a")])
        .await;
    let mut release = world.releasing(10).await;
    release.unchanged = Unchanged::Suppress;
    let released = world.store.release_stage(&release).await.unwrap();
    assert_eq!((released.accepted.appended, released.accepted.unchanged), (1, 1));
    assert_eq!(world.log().await, ["1 1 updated", "2 1 updated", "1 3 updated"]);
}

pub(super) async fn changes_of_feeds_that_give_way_are_claimed_behind_all_others(home: &dyn Home) {
    let world = World::open(home).await;
    let flood = world.page(
        vec![reference("1", 1), reference("2", 1), reference("3", 1)],
        done("c"),
    );
    world.store.accept_page(&flood.await).await.unwrap();
    let other = FeedName::parse("other").unwrap();
    // Of one record the order stays: its first change is the flood's.
    let later = world.page_of(
        &other,
        vec![reference("1", 2), reference("4", 1), reference("5", 1)],
        done("c"),
    );
    world.store.accept_page(&later.await).await.unwrap();
    let claim = |limit| {
        let mut claim = world.claiming(60);
        claim.limit = limit;
        claim.last = BTreeSet::from([appointments()]);
        claim
    };
    let ids = |claimed: Vec<ClaimedChange>| -> Vec<String> {
        claimed.iter().map(|one| one.change.key.id.to_string()).collect()
    };
    assert_eq!(ids(world.store.claim_changes(&claim(1)).await.unwrap()), ["4"]);
    assert_eq!(
        ids(world.store.claim_changes(&claim(2)).await.unwrap()),
        ["5", "1"]
    );
    assert_eq!(
        ids(world.store.claim_changes(&claim(9)).await.unwrap()),
        ["2", "3"]
    );
}
