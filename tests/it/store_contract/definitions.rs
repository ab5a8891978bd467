//! `define`: what an edit of the subscriptions does to what is owed.

use std::collections::BTreeSet;

use courier_sdk::ConnectionName;
use ehr_courier::domain::delivery::DeliveryState;
use ehr_courier::domain::fan_out::{ContentLevel, From, Subscription};
use ehr_courier::store::{Definitions, Lane};

use super::Home;
use super::world::*;

pub(super) async fn the_revision_moves_only_with_a_change(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let first = world.view(&Lane::Common).await.revision;
    world.define(&[subscription("a")]).await;
    assert_eq!(world.view(&Lane::Common).await.revision, first);
    let edited = Subscription {
        content: ContentLevel::IdOnly,
        ..subscription("a")
    };
    world.define(&[edited]).await;
    assert_eq!(world.view(&Lane::Common).await.revision, first + 1);
}

pub(super) async fn a_new_subscription_begins_now_or_at_the_beginning(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("first")]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.fan_out_all().await;
    let beginning = Subscription {
        from: From::Beginning,
        ..subscription("all")
    };
    let subscriptions = [beginning, subscription("first"), subscription("late")];
    world.define(&subscriptions).await;
    world.poll(vec![version("3", 1)]).await;
    world.fan_out_all().await;
    world.fan_out(&Lane::Own(subscription_name("all")), AMPLE).await;
    assert_eq!(world.numbered("late").await, ["1 3 1"]);
    assert_eq!(world.numbered("all").await, ["1 1 1", "2 2 1", "3 3 1"]);
    assert_eq!(world.numbered("first").await, ["1 1 1", "2 2 1", "3 3 1"]);
    assert_eq!(
        world.view(&Lane::Common).await.members.len(),
        3,
        "all move together now"
    );
}

pub(super) async fn a_new_connection_is_covered_by_all(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let other = ConnectionName::parse("st_anne").unwrap();
    let definitions = Definitions {
        connections: BTreeSet::from([mercy(), other.clone()]),
        subscriptions: vec![subscription("a")],
    };
    world.store.define(&definitions, at(0)).await.unwrap();
    let view = world.store.fan_out_view(&other, &Lane::Common, 10).await.unwrap();
    assert_eq!(view.members.len(), 1);
    let standings = world.store.standings(&subscription_name("a")).await.unwrap();
    assert_eq!(standings.len(), 2);
}

pub(super) async fn a_removed_subscription_is_cancelled_and_its_name_counts_on(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.fan_out_all().await;
    world.record(&world.take(0).await[0], delivered()).await;
    world.define(&[]).await;
    let counts = world
        .store
        .deliveries_by_state(&destination("hook"))
        .await
        .unwrap();
    assert_eq!((counts.done, counts.cancelled, counts.pending), (1, 1, 0));
    assert!(world.take(DAY).await.is_empty());
    world.poll(vec![version("3", 1)]).await;
    world.fan_out_all().await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("4", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(world.numbered("a").await, ["1 1 1", "2 2 1", "3 4 1"]);
}

pub(super) async fn an_edit_applies_to_what_was_not_attempted(home: &dyn Home) {
    let world = World::open(home).await;
    let narrow = Subscription {
        content: ContentLevel::IdOnly,
        ..subscription("a")
    };
    world.define(std::slice::from_ref(&narrow)).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    world.record(&taken[0], retry_at(60)).await;
    let edited = Subscription {
        destination: destination("other"),
        ..subscription("a")
    };
    world.define(&[edited]).await;
    let read = async |index: usize| {
        let id = taken[index].delivery.id;
        world.store.delivery(id).await.unwrap().unwrap().delivery
    };
    let (attempted, fresh) = (read(0).await, read(1).await);
    assert_eq!(
        (attempted.content, attempted.destination),
        (ContentLevel::IdOnly, destination("hook"))
    );
    assert_eq!(
        (fresh.content, fresh.destination),
        (ContentLevel::FullResource, destination("other"))
    );
    assert_eq!((attempted.number, fresh.number), (1, 2));
}

pub(super) async fn narrower_content_applies_to_everything_pending(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![version("1", 1), version("2", 1), version("3", 1)])
        .await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    world.record(&taken[0], retry_at(60)).await;
    world.record(&taken[1], delivered()).await;
    let narrow = Subscription {
        content: ContentLevel::IdOnly,
        ..subscription("a")
    };
    world.define(&[narrow]).await;
    for one in taken {
        let delivery = world
            .store
            .delivery(one.delivery.id)
            .await
            .unwrap()
            .unwrap()
            .delivery;
        let expected = match delivery.state {
            DeliveryState::Pending => ContentLevel::IdOnly,
            DeliveryState::Done | DeliveryState::Dead | DeliveryState::Cancelled => {
                ContentLevel::FullResource
            }
        };
        assert_eq!(delivery.content, expected);
    }
}
