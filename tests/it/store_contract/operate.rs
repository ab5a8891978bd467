//! Lists, backlog and the sweep.

use std::collections::BTreeMap;
use std::time::Duration;

use courier_sdk::ConnectionName;
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord};
use ehr_courier::domain::event::Change;
use ehr_courier::domain::fan_out::{SliceLimits, Subscription};
use ehr_courier::store::{
    DeadLetterQuery, Depths, EventQuery, Lane, SLICE_ROWS_MAX, SettleResult, Sweep, Swept,
};
use jiff::Timestamp;

use super::Home;
use super::world::*;

/// Sweeps where the source may be asked again for the last hour.
async fn sweep(world: &World, days: i64) -> Swept {
    let an_hour_ago = at(days * DAY - 3_600);
    sweep_before(world, days, [(mercy(), an_hour_ago)].into()).await
}

async fn sweep_before(
    world: &World,
    days: i64,
    stamped_before: BTreeMap<ConnectionName, Timestamp>,
) -> Swept {
    let sweep = Sweep {
        at: at(days * DAY),
        retention: Duration::from_hours(24 * 7),
        unseen_for: Duration::from_hours(24 * 7),
        stamped_before,
        limit: 100,
    };
    world.store.sweep(&sweep).await.unwrap()
}

pub(super) async fn what_a_cursor_that_stands_still_may_show_again_is_not_forgotten(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1), version("1", 2)]).await;
    let before_all = at(-1);
    for stamped_before in [BTreeMap::new(), [(mercy(), before_all)].into()] {
        assert_eq!(sweep_before(&world, 90, stamped_before).await.accepted, 0);
    }
    assert_eq!(sweep(&world, 90).await.accepted, 1, "the head stays");
}

pub(super) async fn events_are_listed_newest_first_with_their_deliveries(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.poll_at(60, vec![version("1", 2)]).await;
    world.fan_out_all().await;
    world.record(&world.take(0).await[0], delivered()).await;
    let list = async |query: EventQuery| {
        let rows = world.store.events(&query).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(
        list(all.clone()).await,
        [event_id("1", 2), event_id("2", 1), event_id("1", 1)]
    );
    let two = EventQuery {
        limit: 2,
        ..all.clone()
    };
    assert_eq!(list(two).await.len(), 2);
    let since = EventQuery {
        since: Some(at(60)),
        ..all.clone()
    };
    assert_eq!(list(since).await, [event_id("1", 2)]);
    let record = |text: &str| EventQuery {
        record: Some(text.to_owned()),
        ..all.clone()
    };
    assert_eq!(
        list(record("Appointment/1")).await,
        [event_id("1", 2), event_id("1", 1)]
    );
    assert_eq!(list(record("Appointment")).await.len(), 3);
    assert_eq!(list(record("Patient")).await.len(), 0);

    let rows = world.store.events(&all).await.unwrap();
    let oldest = rows.last().unwrap();
    assert_eq!((oldest.deliveries.done, oldest.deliveries.pending), (1, 1));
    let detail = world.store.event(&event_id("1", 1)).await.unwrap().unwrap();
    let names: Vec<_> = detail
        .deliveries
        .iter()
        .map(|one| one.subscription.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(world.store.event(&event_id("7", 7)).await.unwrap(), None);
}

pub(super) async fn dead_letters_are_chosen_by_destination_subscription_and_id(home: &dyn Home) {
    let world = World::open(home).await;
    let other = Subscription {
        destination: destination("other"),
        ..subscription("b")
    };
    world.define(&[subscription("a"), other]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    for claimed in &taken {
        world.record(claimed, dead()).await;
    }
    let count = async |query: DeadLetterQuery| world.store.dead_letters(&query).await.unwrap().len();
    let all = DeadLetterQuery::default();
    assert_eq!(count(all.clone()).await, 2);
    assert_eq!(
        count(DeadLetterQuery {
            limit: 1,
            ..all.clone()
        })
        .await,
        1
    );
    let by_other = DeadLetterQuery {
        destination: Some(destination("other")),
        ..all.clone()
    };
    assert_eq!(count(by_other).await, 0);
    let by_name = DeadLetterQuery {
        subscription: Some(subscription_name("a")),
        ..all.clone()
    };
    assert_eq!(count(by_name).await, 2);
    let by_id = DeadLetterQuery {
        delivery: Some(taken[1].delivery.id),
        ..all.clone()
    };
    assert_eq!(world.store.redrive(&by_id, at(1)).await.unwrap(), 1);
    assert_eq!(count(all).await, 1);
    assert_eq!(names(&world.take(1).await), ["2 2"]);
}

pub(super) async fn a_redrive_takes_the_oldest_and_one_slice_at_most(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let all = SLICE_ROWS_MAX + 5;
    world
        .poll((1..=all).map(|id| version(&id.to_string(), 1)).collect())
        .await;
    let ample = SliceLimits {
        rows: 2 * all,
        outbox: 2 * all as u64,
    };
    for _ in 0..2 {
        world.fan_out(&Lane::Common, ample).await;
    }
    let mut died = 0;
    while died < all {
        let taken = world.take(0).await;
        died += taken.len();
        let attempts: Vec<AttemptRecord> = taken
            .iter()
            .map(|one| AttemptRecord {
                id: one.delivery.id,
                connection: mercy(),
                fence: one.fence,
                outcome: dead(),
                at: at(0),
            })
            .collect();
        world.store.record_attempts(&attempts).await.unwrap();
    }
    let redrive = async |limit| {
        let query = DeadLetterQuery {
            limit,
            ..DeadLetterQuery::default()
        };
        world.store.redrive(&query, at(1)).await.unwrap()
    };
    assert_eq!(redrive(3).await, 3);
    assert_eq!(names(&world.take(1).await), ["1 1", "2 2", "3 3"]);
    assert_eq!(redrive(0).await, SLICE_ROWS_MAX as u64);
    assert_eq!(redrive(0).await, 2);
    assert_eq!(redrive(0).await, 0);
}

pub(super) async fn the_backlog_counts_what_waits(home: &dyn Home) {
    let world = World::open(home).await;
    assert_eq!(world.store.backlog(&mercy()).await.unwrap().oldest, None);
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![version("1", 1), reference("2", 1), reference("3", 1)])
        .await;
    let quarantine = SettleResult::Quarantine {
        reason: "no".to_owned(),
    };
    world.settle(&world.claim(0).await[0], quarantine).await;
    let backlog = world.store.backlog(&mercy()).await.unwrap();
    assert_eq!(
        (backlog.inbox, backlog.log, backlog.outbox, backlog.quarantine),
        (1, 1, 0, 1)
    );
    assert_eq!(backlog.oldest, Some(at(0)));
    world.fan_out_all().await;
    let backlog = world.store.backlog(&mercy()).await.unwrap();
    assert_eq!((backlog.inbox, backlog.log, backlog.outbox), (1, 0, 1));
}

pub(super) async fn depths_count_what_waits_in_every_place(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    let changes = vec![
        version("1", 1),
        version("4", 1),
        reference("2", 1),
        reference("3", 1),
    ];
    world.poll(changes).await;
    let quarantine = SettleResult::Quarantine {
        reason: "no".to_owned(),
    };
    world.settle(&world.claim(0).await[0], quarantine).await;
    let depths = async || world.store.depths().await.unwrap()[&mercy()];
    let places = |depths: Depths| depths.places().map(|(_, rows)| rows);
    // Stage, inbox, quarantine, log, outbox, dead letters.
    assert_eq!(places(depths().await), [0, 1, 1, 2, 0, 0]);
    assert_eq!(depths().await.oldest, Some(at(0)));
    world.fan_out_all().await;
    let dead = AttemptOutcome::Dead {
        detail: "no".to_owned(),
    };
    world.record(&world.take(0).await[0], dead).await;
    world
        .stage(vec![version("5", 1), version("6", 1), version("7", 1)])
        .await;
    assert_eq!(places(depths().await), [3, 1, 1, 0, 1, 1]);
}

pub(super) async fn cursors_and_quarantine_are_listed(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(Vec::new()).await;
    let mut page = world.page_of(&rooms(), Vec::new(), done("r")).await;
    page.oversized = vec![key("1"), key("2")];
    world.store.accept_page(&page).await.unwrap();
    let rows = world.store.cursors().await.unwrap();
    let feeds: Vec<_> = rows.iter().map(|row| row.feed.clone()).collect();
    assert_eq!(feeds, [appointments(), rooms()]);
    assert_eq!(rows[0].state, world.feed().await);
    assert_eq!(world.store.quarantine(10).await.unwrap().len(), 2);
    assert_eq!(world.store.quarantine(1).await.unwrap().len(), 1);
}

pub(super) async fn the_sweep_takes_what_is_settled_and_old(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![version("1", 1), version("2", 1), version("3", 1)])
        .await;
    world.fan_out_all().await;
    let taken = world.take(0).await;
    world.record(&taken[0], delivered()).await;
    world.record(&taken[1], dead()).await;
    let swept = sweep(&world, 6).await;
    assert_eq!((swept.deliveries, swept.events), (0, 0), "nothing is old yet");
    let swept = sweep(&world, 8).await;
    assert_eq!((swept.deliveries, swept.events), (1, 1));
    assert!(world.store.event(&event_id("1", 1)).await.unwrap().is_none());
    assert!(
        world.store.event(&event_id("2", 1)).await.unwrap().is_some(),
        "a dead letter stays"
    );
    assert!(
        world.store.event(&event_id("3", 1)).await.unwrap().is_some(),
        "it is owed"
    );
    let accepted = world.poll(vec![version("1", 1), version("4", 1)]).await;
    assert_eq!((accepted.known, accepted.appended), (1, 1));
    let newest = world.store.event(&event_id("4", 1)).await.unwrap().unwrap();
    assert_eq!(newest.event.position, 4, "positions go on");
}

pub(super) async fn the_sweep_keeps_events_that_a_lane_has_not_passed(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    assert_eq!(sweep(&world, 8).await.events, 0, "not fanned out");
    let tight = SliceLimits { outbox: 1, ..AMPLE };
    world.fan_out(&Lane::Common, tight).await;
    world.record(&world.take(0).await[0], delivered()).await;
    assert_eq!(
        sweep(&world, 8).await.events,
        1,
        "the suspended one needs the second"
    );
    world.fan_out(&Lane::Own(subscription_name("a")), AMPLE).await;
    assert_eq!(world.numbered("a").await, ["2 2 1"]);
}

pub(super) async fn accepted_ids_expire_when_the_source_cannot_show_them(home: &dyn Home) {
    let world = World::open(home).await;
    let undated = |number| Change {
        order: ehr_courier::domain::event::VersionOrder::default(),
        ..version("2", number)
    };
    world
        .poll(vec![version("1", 1), version("1", 2), undated(1), undated(2)])
        .await;
    assert_eq!(sweep(&world, 6).await.accepted, 0, "shown lately");
    world.poll_at(5 * DAY, vec![undated(1)]).await;
    let swept = sweep(&world, 8).await;
    assert_eq!(swept.accepted, 1, "not the heads, not what was shown again");
    let accepted = world.poll(vec![version("1", 2), undated(1), undated(2)]).await;
    assert_eq!(accepted.known, 3);
}
