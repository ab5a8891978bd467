//! Context: changes of a feed that includes some wait for it, and it is frozen with the event.

use bytes::Bytes;
use courier_sdk::{Context, Record};
use ehr_courier::domain::event::Change;
use ehr_courier::store::{ContextRule, Lane, ReleaseStage, SettleResult, Unchanged};

use super::Home;
use super::world::*;

fn context() -> Context {
    Context {
        included: vec![Record::new(Bytes::from_static(b"{ \"v\":1.10}\n"))],
        missing: vec!["Patient/gone".to_owned()],
    }
}

fn with_context(mut change: Change) -> Change {
    if let Some(content) = &mut change.content {
        content.context = Some(context());
    }
    change
}

pub(super) async fn a_record_that_came_along_waits_for_its_context(home: &dyn Home) {
    let world = World::open(home).await;
    let mut page = world.page(vec![version("1", 1)], done("c")).await;
    page.context = ContextRule::Included;
    let accepted = world.store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.appended, accepted.enqueued), (0, 1));
    let claimed = world.claim(0).await;
    assert!(claimed[0].change.content.is_some(), "its record is kept");
    let settle = world.settling(&claimed[0], SettleResult::Fetched(with_context(version("1", 1))));
    assert_eq!(world.store.settle_changes(&settle).await.unwrap().appended, 1);
    assert_eq!(world.log().await, ["1 1 updated"]);
    assert_eq!(world.poll(vec![version("1", 1)]).await.known, 1);
}

pub(super) async fn a_record_that_brings_its_context_waits_for_nothing_but_its_turn(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let mut page = world
        .page(vec![version("1", 1), with_context(version("2", 1))], done("c"))
        .await;
    page.context = ContextRule::Included;
    let accepted = world.store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.appended, accepted.enqueued), (1, 1));
    world.fan_out_all().await;
    let taken = world.take(0).await;
    assert_eq!(taken[0].event.context, Some(context()));
    // Behind an earlier version that waits, it waits too, and is told of with what it refers to by then.
    let mut page = world.page(vec![with_context(version("1", 2))], done("d")).await;
    page.context = ContextRule::Included;
    let accepted = world.store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.appended, accepted.enqueued), (0, 1));
    for number in [1, 2] {
        let claimed = world.claim(0).await;
        let content = claimed[0].change.content.as_ref().unwrap();
        assert_eq!(content.context, None, "{number}");
        let change = with_context(version("1", number));
        world.settle(&claimed[0], SettleResult::Fetched(change)).await;
    }
    assert_eq!(world.log().await, ["2 1 updated", "1 1 updated", "1 2 updated"]);
}

pub(super) async fn a_released_stage_waits_for_its_context_too(home: &dyn Home) {
    let world = World::open(home).await;
    world.stage(vec![version("1", 2), version("1", 1)]).await;
    let release = ReleaseStage {
        poll: world.poll_ref().await,
        limit: 10,
        context: ContextRule::Included,
        unchanged: Unchanged::Tell,
        at: at(0),
    };
    let released = world.store.release_stage(&release).await.unwrap();
    assert_eq!((released.accepted.appended, released.accepted.enqueued), (0, 2));
    for number in [1, 2] {
        let claimed = world.claim(0).await;
        assert_eq!(claimed.len(), 1, "one after the other");
        let settle = world.settling(
            &claimed[0],
            SettleResult::Fetched(with_context(version("1", number))),
        );
        world.store.settle_changes(&settle).await.unwrap();
    }
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated"]);
}

pub(super) async fn context_is_frozen_with_the_event_byte_for_byte(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let mut page = world
        .page(vec![version("1", 1), version("2", 1)], done("c"))
        .await;
    page.context = ContextRule::Included;
    world.store.accept_page(&page).await.unwrap();
    for claimed in world.claim(0).await {
        let change = if claimed.change.key.id.as_str() == "1" {
            with_context(claimed.change.clone())
        } else {
            claimed.change.clone()
        };
        let settle = world.settling(&claimed, SettleResult::Fetched(change));
        world.store.settle_changes(&settle).await.unwrap();
    }
    world.fan_out_all().await;
    let world = world.reopen(home).await;
    let taken = world.take(0).await;
    let contexts: Vec<Option<Context>> = taken.into_iter().map(|one| one.event.context).collect();
    assert_eq!(contexts, [Some(context()), None]);
}

pub(super) async fn context_counts_in_what_one_slice_and_one_claim_hold(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    for id in ["1", "2", "3"] {
        let mut page = world.page(vec![version(id, 1)], done("c")).await;
        page.context = ContextRule::Included;
        world.store.accept_page(&page).await.unwrap();
        let mut change = version(id, 1);
        let large = Context {
            included: vec![Record::new(Bytes::from(format!(
                "{{\"v\":\"{}\"}}",
                "x".repeat(3 << 20)
            )))],
            missing: Vec::new(),
        };
        if let Some(content) = &mut change.content {
            content.context = Some(large);
        }
        let claimed = world.claim(0).await;
        world.settle(&claimed[0], SettleResult::Fetched(change)).await;
    }
    for _ in 0..3 {
        let slice = world.view(&Lane::Common).await;
        assert_eq!(slice.events.len(), 1, "two are more than a slice holds");
        world.fan_out_all().await;
    }
    for id in ["1", "2", "3"] {
        let taken = world.take(0).await;
        assert_eq!(taken.len(), 1, "two are more than a claim holds");
        assert_eq!(taken[0].event.key, key(id));
    }
}
