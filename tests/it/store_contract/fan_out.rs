//! `fan_out`: dense numbers, positions that move with what was written, and lanes of one's own.

use ehr_courier::domain::fan_out::{From, Position, SliceLimits, Subscription};
use ehr_courier::store::Lane;

use super::Home;
use super::world::*;

fn own(name: &str) -> Lane {
    Lane::Own(subscription_name(name))
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| format!("{number} {number} 1")).collect()
}

/// Records 1 to `count`, one version each.
async fn with_events(world: &World, count: u64) {
    let changes = (1..=count)
        .map(|number| version(&number.to_string(), 1))
        .collect();
    world.poll(changes).await;
}

pub(super) async fn numbers_are_dense_per_subscription_and_connection(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    with_events(&world, 3).await;
    world.fan_out_all().await;
    assert_eq!(world.numbered("a").await, numbers(1..=3));
    assert_eq!(world.numbered("b").await, numbers(1..=3));
    let view = world.view(&Lane::Common).await;
    assert_eq!((view.position.event, view.events.len()), (3, 0));
    assert_eq!(view.members[0].1.pending, 3);
    let standings = world.store.standings(&subscription_name("a")).await.unwrap();
    assert_eq!((standings.len(), standings[0].last_number), (1, 3));
}

pub(super) async fn a_slice_of_an_older_revision_conflicts(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    with_events(&world, 1).await;
    let slice = world.cut(&Lane::Common, AMPLE).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    assert_conflict(&world.store.fan_out(&slice).await);
    assert!(world.numbered("a").await.is_empty());
}

pub(super) async fn a_slice_from_another_position_conflicts(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    with_events(&world, 2).await;
    let slice = world.cut(&Lane::Common, AMPLE).await;
    world.store.fan_out(&slice).await.unwrap();
    assert_conflict(&world.store.fan_out(&slice).await);
    let mut elsewhere = world.cut(&Lane::Common, AMPLE).await;
    elsewhere.lane = own("a");
    assert_conflict(&world.store.fan_out(&elsewhere).await);
    assert_eq!(world.numbered("a").await, numbers(1..=2));
}

pub(super) async fn an_event_given_twice_costs_no_number(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    with_events(&world, 2).await;
    let mut slice = world.cut(&Lane::Common, AMPLE).await;
    let twice = slice.owed.clone();
    slice.owed.splice(0..0, twice);
    world.store.fan_out(&slice).await.unwrap();
    assert_eq!(world.numbered("a").await, numbers(1..=2));
    world.poll(vec![version("3", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(world.numbered("a").await, numbers(1..=3));
}

pub(super) async fn one_event_may_take_many_slices(home: &dyn Home) {
    let world = World::open(home).await;
    let names = ["a", "b", "c", "d", "e"];
    world.define(&names.map(subscription)).await;
    with_events(&world, 2).await;
    let two = SliceLimits { rows: 2, ..AMPLE };
    world.fan_out(&Lane::Common, two).await;
    let within = Position {
        event: 0,
        within: Some(subscription_name("b")),
    };
    assert_eq!(world.view(&Lane::Common).await.position, within);
    for _ in 0..4 {
        world.fan_out(&Lane::Common, two).await;
    }
    assert_eq!(world.view(&Lane::Common).await.position.event, 2);
    for name in names {
        assert_eq!(world.numbered(name).await, numbers(1..=2), "{name}");
    }
}

pub(super) async fn a_suspended_subscription_catches_up_and_rejoins(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    with_events(&world, 2).await;
    world.fan_out_all().await;
    for claimed in world.take(0).await {
        if claimed.delivery.subscription == subscription_name("b") {
            world.record(&claimed, delivered()).await;
        }
    }
    world.poll(vec![version("3", 1), version("4", 1)]).await;
    // "a" still has two that are not settled: at its limit.
    let tight = SliceLimits { outbox: 3, ..AMPLE };
    world.fan_out(&Lane::Common, tight).await;
    assert_eq!(world.numbered("a").await, numbers(1..=3));
    assert_eq!(world.numbered("b").await, numbers(1..=4), "the other goes on");
    let common = world.view(&Lane::Common).await;
    assert_eq!(common.members.len(), 1);
    let view = world.view(&own("a")).await;
    assert_eq!(
        (view.position.event, view.members.len(), view.events.len()),
        (3, 1, 1)
    );

    world.fan_out(&own("a"), tight).await;
    assert_eq!(
        world.view(&own("a")).await.position.event,
        3,
        "still at its limit"
    );
    world.fan_out(&own("a"), AMPLE).await;
    assert_eq!(world.view(&Lane::Common).await.members.len(), 2, "it rejoined");
    world.poll(vec![version("5", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(world.numbered("a").await, numbers(1..=5));
    assert_eq!(world.numbered("b").await, numbers(1..=5));
}

pub(super) async fn a_lane_does_not_rejoin_within_an_event(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&["a", "b", "c"].map(subscription)).await;
    with_events(&world, 1).await;
    let tight = SliceLimits { outbox: 0, ..AMPLE };
    world.fan_out(&Lane::Common, tight).await;
    assert!(
        world.view(&Lane::Common).await.members.is_empty(),
        "all are suspended"
    );
    for name in ["b", "c"] {
        world.fan_out(&own(name), AMPLE).await;
    }
    world.poll(vec![version("2", 1)]).await;
    // The common lane stands within event 2, past "a" by name; "a" comes to the end of event 1 only now.
    world
        .fan_out(&Lane::Common, SliceLimits { rows: 1, ..AMPLE })
        .await;
    assert!(world.view(&Lane::Common).await.position.within.is_some());
    let mut slice = world.cut(&own("a"), AMPLE).await;
    slice.owed.truncate(1);
    slice.to.event = 1;
    world.store.fan_out(&slice).await.unwrap();
    assert_eq!(
        world.view(&own("a")).await.members.len(),
        1,
        "it would miss event 2"
    );
    world.fan_out(&own("a"), AMPLE).await;
    world.fan_out_all().await;
    world.poll(vec![version("3", 1)]).await;
    world.fan_out_all().await;
    for name in ["a", "b", "c"] {
        assert_eq!(world.numbered(name).await, numbers(1..=3), "{name}");
    }
}

pub(super) async fn the_view_is_bounded(home: &dyn Home) {
    let world = World::open(home).await;
    let all = Subscription {
        from: From::Beginning,
        ..subscription("a")
    };
    world.define(&[all]).await;
    with_events(&world, 5).await;
    let view = world
        .store
        .fan_out_view(&mercy(), &Lane::Common, 2)
        .await
        .unwrap();
    let positions: Vec<u64> = view.events.iter().map(|event| event.position).collect();
    assert_eq!(positions, [1, 2]);
    let nobody = world.view(&own("nobody")).await;
    assert!(nobody.members.is_empty() && nobody.events.is_empty());
}

pub(super) async fn positions_and_numbers_outlive_the_process(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    with_events(&world, 2).await;
    world
        .fan_out(&Lane::Common, SliceLimits { rows: 3, ..AMPLE })
        .await;
    let before = world.view(&Lane::Common).await;
    let world = world.reopen(home).await;
    assert_eq!(world.view(&Lane::Common).await, before);
    world.define(&[subscription("a"), subscription("b")]).await;
    assert_eq!(world.view(&Lane::Common).await.revision, before.revision);
    world.fan_out_all().await;
    assert_eq!(world.numbered("a").await, numbers(1..=2));
    assert_eq!(world.numbered("b").await, numbers(1..=2));
}
