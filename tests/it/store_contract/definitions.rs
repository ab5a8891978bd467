//! `define`: what an edit of the subscriptions does to what is owed.

use std::collections::BTreeSet;

use courier_sdk::ConnectionName;
use ehr_courier::domain::delivery::{AttemptOutcome, DeliveryState};
use ehr_courier::domain::fan_out::{ConnectionSet, ContentLevel, From, Subscription};
use ehr_courier::store::{ClaimDeliveries, DeadLetterQuery, Definitions, Holder, Lane, ReplayRequest};

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
        destinations: BTreeSet::from([destination("hook")]),
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

fn narrow(name: &str) -> Subscription {
    Subscription {
        content: ContentLevel::IdOnly,
        ..subscription(name)
    }
}

fn replay_of(id: &str) -> ReplayRequest {
    ReplayRequest {
        event: event_id(id, 1),
        subscription: None,
    }
}

/// Three deliveries of `a`: a dead letter, a done one, a pending one.
async fn dead_done_and_pending(home: &dyn Home) -> World {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![version("1", 1), version("2", 1), version("3", 1)])
        .await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    world.record(&taken[0], dead()).await;
    world.record(&taken[1], delivered()).await;
    world.record(&taken[2], AttemptOutcome::Released).await;
    world
}

pub(super) async fn what_was_settled_before_content_narrowed_is_owed_again_narrow(home: &dyn Home) {
    let world = dead_done_and_pending(home).await;
    world.define(&[narrow("a")]).await;
    let all = DeadLetterQuery::default();
    assert_eq!(world.store.redrive(&all, at(1)).await.unwrap(), 1);
    assert_eq!(world.store.replay(&replay_of("2"), at(1)).await.unwrap(), 1);
    let taken = world.take(1).await;
    assert_eq!(taken.len(), 3);
    for claimed in taken {
        assert_eq!(claimed.delivery.content, ContentLevel::IdOnly);
    }
}

pub(super) async fn what_was_settled_narrow_is_not_owed_again_wider(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[narrow("a")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    world.record(&world.take(0).await[0], dead()).await;
    world.define(&[subscription("a")]).await;
    let all = DeadLetterQuery::default();
    assert_eq!(world.store.redrive(&all, at(1)).await.unwrap(), 1);
    assert_eq!(world.take(1).await[0].delivery.content, ContentLevel::IdOnly);
}

pub(super) async fn nothing_is_owed_again_to_a_removed_subscription(home: &dyn Home) {
    let world = dead_done_and_pending(home).await;
    let elsewhere = Subscription {
        connections: ConnectionSet::Named(BTreeSet::from([ConnectionName::parse("st_anne").unwrap()])),
        ..subscription("a")
    };
    for in_force in [vec![elsewhere], Vec::new()] {
        world.define(&in_force).await;
        let all = DeadLetterQuery::default();
        assert_eq!(world.store.redrive(&all, at(1)).await.unwrap(), 0);
        assert_eq!(world.store.replay(&replay_of("2"), at(1)).await.unwrap(), 0);
        assert_eq!(
            world.store.dead_letters(&all).await.unwrap(),
            [],
            "they are cancelled, as what was pending"
        );
        assert!(world.take(DAY).await.is_empty());
    }
}

pub(super) async fn a_redrive_passes_over_what_is_not_in_force(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    for claimed in world.take(0).await {
        world.record(&claimed, dead()).await;
    }
    world.define(&[subscription("b")]).await;
    let one = DeadLetterQuery {
        limit: 1,
        ..DeadLetterQuery::default()
    };
    assert_eq!(world.store.redrive(&one, at(1)).await.unwrap(), 1);
    assert_eq!(
        world.take(1).await[0].delivery.subscription,
        subscription_name("b")
    );
}

/// Leaves `mercy` only the destination `other`.
fn only_other(subscriptions: Vec<Subscription>) -> Definitions {
    Definitions {
        connections: BTreeSet::from([mercy()]),
        destinations: BTreeSet::from([destination("other")]),
        subscriptions,
    }
}

pub(super) async fn what_a_lost_destination_was_owed_goes_where_the_subscription_goes_now(home: &dyn Home) {
    let world = dead_done_and_pending(home).await;
    world.record(&world.take(0).await[0], retry_at(60)).await;
    let moved = Subscription {
        destination: destination("other"),
        ..narrow("a")
    };
    world.store.define(&only_other(vec![moved]), at(0)).await.unwrap();
    assert!(
        world.take(DAY).await.is_empty(),
        "nothing waits where nobody delivers"
    );
    let all = DeadLetterQuery::default();
    assert_eq!(world.store.redrive(&all, at(1)).await.unwrap(), 1);
    let detail = world.store.event(&event_id("3", 1)).await.unwrap().unwrap();
    let attempted = &detail.deliveries[0];
    assert_eq!(
        (&attempted.destination, attempted.content, attempted.attempts),
        (&destination("other"), ContentLevel::IdOnly, 1)
    );
    let detail = world.store.event(&event_id("1", 1)).await.unwrap().unwrap();
    let redriven = &detail.deliveries[0];
    assert_eq!(
        (&redriven.destination, redriven.content),
        (&destination("other"), ContentLevel::IdOnly)
    );
}

pub(super) async fn a_moved_delivery_does_not_grow_wider(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[narrow("a")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    world.record(&world.take(0).await[0], retry_at(60)).await;
    let moved = Subscription {
        destination: destination("other"),
        ..subscription("a")
    };
    world.store.define(&only_other(vec![moved]), at(0)).await.unwrap();
    let detail = world.store.event(&event_id("1", 1)).await.unwrap().unwrap();
    let delivery = &detail.deliveries[0];
    assert_eq!(
        (&delivery.destination, delivery.content),
        (&destination("other"), ContentLevel::IdOnly)
    );
}

pub(super) async fn a_connection_that_left_is_owed_nothing_until_it_returns(home: &dyn Home) {
    let world = dead_done_and_pending(home).await;
    let without = Definitions {
        connections: BTreeSet::new(),
        ..only_other(vec![subscription("a")])
    };
    world.store.define(&without, at(0)).await.unwrap();
    let counts = world
        .store
        .deliveries_by_state(&destination("hook"))
        .await
        .unwrap();
    assert_eq!(
        (counts.pending, counts.cancelled, counts.done, counts.dead),
        (0, 2, 1, 0)
    );
    let all = DeadLetterQuery::default();
    assert_eq!(world.store.redrive(&all, at(1)).await.unwrap(), 0);
    assert_eq!(world.store.replay(&replay_of("2"), at(1)).await.unwrap(), 0);
    world.poll(vec![version("4", 1)]).await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("5", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(
        world.numbered("a").await,
        ["1 1 1", "2 2 1", "3 3 1", "4 5 1"],
        "it begins with the next event and counts on"
    );
}

pub(super) async fn a_name_that_begins_again_is_owed_what_was_cancelled(home: &dyn Home) {
    let world = World::open(home).await;
    let whole = Subscription {
        from: From::Beginning,
        ..subscription("a")
    };
    world.define(std::slice::from_ref(&whole)).await;
    world
        .poll(vec![version("1", 1), version("2", 1), version("2", 2)])
        .await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    world.record(&taken[0], delivered()).await;
    world.record(&taken[1], retry_at(60)).await;
    world.define(&[]).await;
    world.poll(vec![version("3", 1)]).await;
    world.fan_out_all().await;
    let again = Subscription {
        destination: destination("other"),
        content: ContentLevel::IdOnly,
        ..whole
    };
    world.define(&[again]).await;
    world.fan_out(&Lane::Own(subscription_name("a")), AMPLE).await;
    assert_eq!(
        world.numbered("a").await,
        ["1 1 1", "2 2 1", "3 2 2", "4 3 1"],
        "nothing is owed twice, and no number is skipped"
    );
    let claim = ClaimDeliveries {
        holder: Holder("one".to_owned()),
        destination: destination("other"),
        limit: 10,
        at: at(0),
    };
    let mut claimed = world.store.claim_deliveries(&claim).await.unwrap();
    claimed.sort_by_key(|one| one.delivery.number);
    assert_eq!(names(&claimed), ["2 2", "3 4"], "in the order of the record");
    let revived = &claimed[0].delivery;
    assert_eq!((revived.attempts, revived.content), (0, ContentLevel::IdOnly));
    assert_eq!(world.view(&Lane::Common).await.members[0].1.pending, 3);
}
