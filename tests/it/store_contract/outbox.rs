//! Claims of deliveries and `record_attempts`: one in flight per record, and where each attempt leads.

use std::collections::BTreeSet;

use courier_sdk::ConnectionName;
use ehr_courier::domain::delivery::{
    AttemptOutcome, AttemptRecord, ClaimedDelivery, DeliveryState, Fence, Replay,
};
use ehr_courier::domain::fan_out;
use ehr_courier::store::{
    AcceptPage, ClaimDeliveries, ContextRule, DeadLetterQuery, Definitions, FanOut, Holder, Lane,
    LeaseRequest, PollRef, ReplayRequest, Sights, Unchanged,
};

use super::Home;
use super::world::*;

/// Subscription `a` with three deliveries owed: versions 1 and 2 of one record, and another record's.
async fn owing(home: &dyn Home) -> World {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![version("1", 1), version("1", 2), version("2", 1)])
        .await;
    world.fan_out_all().await;
    world
}

pub(super) async fn at_most_one_delivery_per_record_is_in_flight(home: &dyn Home) {
    let world = owing(home).await;
    let first = world.take(0).await;
    assert_eq!(names(&first), ["1 1", "2 3"]);
    assert!(world.take(0).await.is_empty(), "both are claimed");
    world.record(&first[0], delivered()).await;
    let second = world.take(0).await;
    assert_eq!(names(&second), ["1 2"]);
    world.record(&second[0], delivered()).await;
    world.record(&first[1], delivered()).await;
    let counts = world
        .store
        .deliveries_by_state(&destination("hook"))
        .await
        .unwrap();
    assert_eq!((counts.done, counts.pending), (3, 0));
}

pub(super) async fn one_subscription_does_not_hold_up_another(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    world.poll(vec![version("1", 1), version("1", 2)]).await;
    world.fan_out_all().await;
    let first = world.take(0).await;
    assert_eq!(first.len(), 2, "one for each");
    let (a, b) = (&first[0], &first[1]);
    world.record(a, retry_at(DAY)).await;
    world.record(b, delivered()).await;
    let second = world.take(0).await;
    assert_eq!(second.len(), 1);
    assert_eq!(
        (
            second[0].delivery.subscription.as_str(),
            second[0].delivery.number
        ),
        ("b", 2)
    );
}

pub(super) async fn only_connections_leased_by_the_holder_are_claimed(home: &dyn Home) {
    let world = owing(home).await;
    let claim = |holder: &str, seconds| ClaimDeliveries {
        holder: Holder(holder.to_owned()),
        destination: destination("hook"),
        limit: 1,
        at: at(seconds),
    };
    let take = async |holder, seconds| {
        let claim = claim(holder, seconds);
        world.store.claim_deliveries(&claim).await.unwrap()
    };
    assert!(take("two", 0).await.is_empty());
    assert!(take("one", 101 * DAY).await.is_empty(), "the lease has lapsed");
    let taken = take("one", 0).await;
    assert_eq!(taken.len(), 1, "and no more than the limit");
    assert_eq!(taken[0].fence, world.fence);
}

pub(super) async fn a_retry_is_a_row_with_a_due_time(home: &dyn Home) {
    let world = owing(home).await;
    let first = world.take(0).await;
    world.record(&first[0], retry_at(60)).await;
    assert!(
        world.take(59).await.is_empty(),
        "nor does the later version overtake it"
    );
    let world = world.reopen(home).await;
    let again = world.take(60).await;
    assert_eq!(names(&again), ["1 1", "2 3"]);
    let delivery = &again[0].delivery;
    assert_eq!(
        (delivery.attempts, delivery.last_outcome.as_deref()),
        (1, Some("503"))
    );
    assert_eq!((delivery.scheduled_from, delivery.due_at), (at(0), at(60)));
    assert_eq!(delivery.replay, Replay::Original);
}

pub(super) async fn a_dead_letter_lets_the_next_version_go(home: &dyn Home) {
    let world = owing(home).await;
    let first = world.take(0).await;
    world.record(&first[0], dead()).await;
    assert_eq!(names(&world.take(0).await), ["1 2"]);
    let letters = world
        .store
        .dead_letters(&DeadLetterQuery::default())
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(
        (letter.event_id.clone(), letter.key.clone()),
        (event_id("1", 1), key("1"))
    );
    assert_eq!(
        (letter.delivery.attempts, letter.delivery.state),
        (1, DeliveryState::Dead)
    );
    assert_eq!(letter.died_at, at(0));
}

pub(super) async fn an_attempt_under_an_old_fence_is_left_out(home: &dyn Home) {
    let world = owing(home).await;
    let old = world.take(0).await;
    let fence = world
        .store
        .acquire_lease(&lease("one"), at(0))
        .await
        .unwrap()
        .unwrap();
    let recorded = world.record(&old[0], delivered()).await;
    assert_eq!((recorded.recorded, recorded.fenced), (0, 1));
    world.record(&old[1], delivered()).await;
    let again = world.take(0).await;
    assert_eq!(names(&again), ["1 1", "2 3"], "the claims have ended");
    assert_eq!(again[0].fence, fence);
    assert_eq!(again[0].delivery.attempts, 0);
}

pub(super) async fn a_released_attempt_counts_nothing(home: &dyn Home) {
    let world = owing(home).await;
    let first = world.take(0).await;
    world.record(&first[0], AttemptOutcome::Released).await;
    let again = world.take(0).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].delivery, first[0].delivery);
}

pub(super) async fn due_destinations_are_named_with_the_next_due_time(home: &dyn Home) {
    let world = owing(home).await;
    let due = async |holder: &str| {
        let holder = Holder(holder.to_owned());
        world.store.due_destinations(&holder, at(0)).await.unwrap()
    };
    assert!(due("one").await.due.contains(&destination("hook")));
    assert!(due("two").await.due.is_empty());
    for claimed in world.take(0).await {
        world.record(&claimed, retry_at(60)).await;
    }
    let answer = due("one").await;
    assert!(answer.due.is_empty());
    assert_eq!(answer.next_due_at, Some(at(60)));
    assert_eq!(due("two").await.next_due_at, None);
}

pub(super) async fn a_redriven_delivery_waits_for_the_one_in_flight(home: &dyn Home) {
    let world = owing(home).await;
    world.record(&world.take(0).await[0], dead()).await;
    let later = world.take(0).await;
    assert_eq!(names(&later), ["1 2"]);
    let redriven = world
        .store
        .redrive(&DeadLetterQuery::default(), at(5))
        .await
        .unwrap();
    assert_eq!(redriven, 1);
    assert!(world.take(5).await.is_empty(), "the later version is in flight");
    world.record(&later[0], retry_at(6)).await;
    let again = world.take(6).await;
    assert_eq!(names(&again), ["1 1"], "the lower number first");
    let delivery = &again[0].delivery;
    assert_eq!(
        (delivery.attempts, delivery.replay, delivery.scheduled_from),
        (0, Replay::Replayed, at(5))
    );
}

pub(super) async fn a_replayed_event_is_owed_again_under_its_number(home: &dyn Home) {
    let world = owing(home).await;
    let replay = ReplayRequest {
        event: event_id("2", 1),
        subscription: None,
    };
    assert_eq!(
        world.store.replay(&replay, at(0)).await.unwrap(),
        0,
        "it is still owed"
    );
    for claimed in world.take(0).await {
        world.record(&claimed, delivered()).await;
    }
    for claimed in world.take(0).await {
        world.record(&claimed, delivered()).await;
    }
    let elsewhere = ReplayRequest {
        subscription: Some(subscription_name("b")),
        ..replay.clone()
    };
    assert_eq!(world.store.replay(&elsewhere, at(9)).await.unwrap(), 0);
    assert_eq!(world.store.replay(&replay, at(9)).await.unwrap(), 1);
    let again = world.take(9).await;
    assert_eq!(names(&again), ["2 3"]);
    assert_eq!(
        (again[0].delivery.replay, again[0].delivery.attempts),
        (Replay::Replayed, 0)
    );
}

pub(super) async fn claims_are_lost_with_the_process(home: &dyn Home) {
    let world = owing(home).await;
    let lost = world.take(0).await;
    let world = world.reopen(home).await;
    let again = world.take(0).await;
    assert_eq!(names(&again), names(&lost));
    assert_eq!(again[0].event, lost[0].event);
}

/// Owes so many records of a connection to `hook` since then, under a lease of the holder `one`.
async fn owe(world: &World, connection: &str, (records, since): (u64, i64)) {
    let connection = ConnectionName::parse(connection).unwrap();
    let fence = lease_of(world, &connection).await;
    let state = world.store.feed(&connection, &appointments()).await.unwrap();
    let page = AcceptPage {
        poll: PollRef {
            connection: connection.clone(),
            feed: appointments(),
            fence,
            poll: state.poll,
        },
        from: state.cursor,
        changes: (0..records)
            .map(|number| worded(&format!("{connection}-{number}"), "a"))
            .collect(),
        oversized: Vec::new(),
        joins: None,
        progress: done("c"),
        context: ContextRule::None,
        unchanged: Unchanged::Tell,
        sights: Sights::All,
        fresh_as_of: at(since),
        at: at(since),
    };
    world.store.accept_page(&page).await.unwrap();
    let view = world
        .store
        .fan_out_view(&connection, &Lane::Common, 1_000)
        .await
        .unwrap();
    let members: Vec<_> = view.members.iter().map(|(it, standing)| (it, standing)).collect();
    let slice = fan_out::slice(&view.position, &view.events, &members, AMPLE, at(since));
    let slice = FanOut {
        connection,
        fence,
        lane: Lane::Common,
        from: view.position,
        revision: view.revision,
        owed: slice.owed,
        to: slice.to,
        suspended: slice.suspended,
        at: at(since),
    };
    world.store.fan_out(&slice).await.unwrap();
}

async fn lease_of(world: &World, connection: &ConnectionName) -> Fence {
    let request = LeaseRequest {
        connection: connection.clone(),
        ..lease("one")
    };
    world.store.acquire_lease(&request, at(0)).await.unwrap().unwrap()
}

/// Claims so many for `hook`, and says of which connections besides `mercy`.
async fn others(world: &World, limit: usize) -> (Vec<ClaimedDelivery>, Vec<String>) {
    let claim = ClaimDeliveries {
        holder: Holder("one".to_owned()),
        destination: destination("hook"),
        limit,
        at: at(100),
    };
    let claimed = world.store.claim_deliveries(&claim).await.unwrap();
    assert_eq!(claimed.len(), limit, "no place stays empty");
    let connections = claimed.iter().map(|one| one.event.connection.to_string());
    let others = connections.filter(|name| name != "mercy").collect();
    (claimed, others)
}

/// `mercy` has a backlog; `harbor` and `north` have a few records that fell due after it.
async fn backlog(home: &dyn Home) -> World {
    let world = World::open(home).await;
    let definitions = Definitions {
        connections: ["mercy", "harbor", "north"]
            .map(|name| ConnectionName::parse(name).unwrap())
            .into(),
        destinations: BTreeSet::from([destination("hook")]),
        subscriptions: vec![subscription("a")],
    };
    world.store.define(&definitions, at(0)).await.unwrap();
    owe(&world, "mercy", (200, 0)).await;
    owe(&world, "north", (3, 50)).await;
    owe(&world, "harbor", (3, 60)).await;
    world
}

pub(super) async fn a_backlog_holds_up_no_other_connection(home: &dyn Home) {
    let world = backlog(home).await;
    let (_, first) = others(&world, 32).await;
    assert_eq!(first, ["harbor", "north"]);
    let (_, second) = others(&world, 32).await;
    assert!(second.is_empty(), "one at a time beside the backlog: {second:?}");
}

pub(super) async fn waiting_connections_take_turns(home: &dyn Home) {
    let world = backlog(home).await;
    let mut served = Vec::new();
    let mut last = Vec::new();
    for _ in 0..3 {
        let (claimed, names) = others(&world, 4).await;
        last.extend(
            claimed
                .into_iter()
                .filter(|one| one.event.connection.as_str() == "harbor"),
        );
        served.push(names.join(" "));
    }
    assert_eq!(served, ["harbor", "north", ""]);
    let attempt = AttemptRecord {
        id: last[0].delivery.id,
        connection: last[0].event.connection.clone(),
        fence: last[0].fence,
        outcome: delivered(),
        at: at(100),
    };
    assert_eq!(world.store.record_attempts(&[attempt]).await.unwrap().recorded, 1);
    let (_, names) = others(&world, 4).await;
    assert_eq!(names, ["harbor"], "its turn is free again");
}

pub(super) async fn claims_of_one_place_go_round_too(home: &dyn Home) {
    let world = backlog(home).await;
    let mut served = Vec::new();
    for _ in 0..8 {
        served.extend(others(&world, 1).await.1);
    }
    assert_eq!(served, ["harbor", "north"]);
}
