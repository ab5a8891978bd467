//! What operators change: pauses, recoveries, and the trail that is left of it.

use ehr_courier::domain::delivery::{AttemptOutcome, ClaimedDelivery};
use ehr_courier::store::{
    AuditRow, Epoch, Flow, PauseRow, Recovered, Recovery, SetCursor, SetFlow, StageState,
};

use super::Home;
use super::world::*;

async fn set(world: &World, name: &str, flow: Flow) -> Result<(), ehr_courier::store::StoreError> {
    let set = SetFlow {
        subscription: subscription_name(name),
        flow,
        at: at(5),
    };
    world.store.set_flow(&set).await
}

async fn pause(world: &World, name: &str) {
    set(world, name, Flow::Paused).await.unwrap();
}

async fn resume(world: &World, name: &str) {
    set(world, name, Flow::Flowing).await.unwrap();
}

fn recovery(cursors: &[&str]) -> Recovery {
    let move_to = |text: &&str| (mercy(), appointments(), cursor(text));
    Recovery {
        epoch: Epoch::drawn(7),
        cursors: cursors.iter().map(move_to).collect(),
        numbers: 1_000_000,
        note: "by an hour".to_owned(),
        at: at(9),
    }
}

pub(super) async fn a_paused_subscription_is_numbered_on_and_claims_nothing(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    pause(&world, "a").await;
    world.poll(vec![version("2", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(
        world.numbered("a").await,
        ["1 1 1", "2 2 1"],
        "numbers go on while it waits"
    );
    let taken = world.take(0).await;
    assert_eq!(names(&taken), ["1 1", "2 2"]);
    let others = taken
        .iter()
        .all(|one| one.delivery.subscription == subscription_name("b"));
    assert!(others, "what is paused is not claimed");
    for one in &taken {
        world.record(one, delivered()).await;
    }
    let holder = lease("one").holder;
    let due = world.store.due_destinations(&holder, at(0)).await.unwrap();
    assert_eq!((due.due.len(), due.next_due_at), (0, None), "nor looked for");
    let swept = world.store.backlog(&mercy()).await.unwrap();
    assert_eq!(swept.outbox, 2, "it stays owed");
    resume(&world, "a").await;
    assert_eq!(names(&world.take(5).await), ["1 1", "2 2"]);
}

pub(super) async fn a_pause_outlives_the_process_and_names_what_is_in_force(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    assert_refused(&set(&world, "nobody", Flow::Paused).await);
    pause(&world, "a").await;
    pause(&world, "a").await;
    let world = world.reopen(home).await;
    let row = PauseRow {
        subscription: subscription_name("a"),
        since: at(5),
    };
    assert_eq!(world.store.paused().await.unwrap(), [row]);
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    assert_eq!(names(&world.take(0).await), [] as [&str; 0]);
    resume(&world, "a").await;
    resume(&world, "a").await;
    assert_eq!(world.store.paused().await.unwrap(), []);
    assert_eq!(names(&world.take(5).await), ["1 1"]);
}

pub(super) async fn a_resumed_line_goes_on_with_its_lowest_number(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    let flying = world.take(0).await;
    pause(&world, "a").await;
    world.poll(vec![version("1", 2), version("1", 3)]).await;
    world.fan_out_all().await;
    world.record(&flying[0], delivered()).await;
    assert_eq!(names(&world.take(0).await), [] as [&str; 0], "its next one waits");
    resume(&world, "a").await;
    let taken = world.take(5).await;
    assert_eq!(names(&taken), ["1 2"]);
    pause(&world, "a").await;
    world.record(&taken[0], dead()).await;
    let id = taken[0].delivery.id;
    let query = ehr_courier::store::DeadLetterQuery {
        delivery: Some(id),
        ..Default::default()
    };
    assert_eq!(world.store.redrive(&query, at(1)).await.unwrap(), 1);
    assert_eq!(
        names(&world.take(5).await),
        [] as [&str; 0],
        "a redrive waits too"
    );
    resume(&world, "a").await;
    assert_eq!(names(&world.take(5).await), ["1 2"]);
}

pub(super) async fn a_pause_uses_up_no_retry_schedule(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a"), subscription("b")]).await;
    world.poll(vec![version("1", 1), version("2", 1)]).await;
    world.fan_out_all().await;
    let tried = world.take(0).await;
    for one in tried.iter().filter(|one| one.event.key == key("1")) {
        world.record(one, retry_at(8)).await;
    }
    for one in tried.iter().filter(|one| one.event.key == key("2")) {
        world.record(one, AttemptOutcome::Released).await;
    }
    pause(&world, "a").await;
    let world = world.reopen(home).await;
    let resume = SetFlow {
        subscription: subscription_name("a"),
        flow: Flow::Flowing,
        at: at(5 + 10 * DAY),
    };
    world.store.set_flow(&resume).await.unwrap();
    let taken = world.take(11 * DAY).await;
    let stand = |name: &str, id: &str| {
        let of = |one: &&ClaimedDelivery| {
            one.delivery.subscription == subscription_name(name) && one.event.key == key(id)
        };
        let one = taken.iter().find(of).unwrap();
        (one.delivery.scheduled_from, one.delivery.due_at)
    };
    let (seconds, resumed) = (at(10 * DAY), at(5 + 10 * DAY));
    assert_eq!(stand("a", "1"), (seconds, at(8)), "it goes on where it stood");
    assert_eq!(
        stand("a", "2"),
        (seconds, resumed),
        "it takes its place behind what is due"
    );
    assert_eq!(stand("b", "1"), (at(0), at(8)), "others are left alone");
    assert_eq!(stand("b", "2"), (at(0), at(0)));
}

pub(super) async fn the_epoch_stays_until_a_recovery(home: &dyn Home) {
    let world = World::open(home).await;
    let first = world.store.epoch().await.unwrap();
    assert_eq!(first.as_str().len(), 32);
    let world = world.reopen(home).await;
    assert_eq!(world.store.epoch().await.unwrap(), first);
    world.store.recover(&recovery(&[])).await.unwrap();
    let world = world.reopen(home).await;
    let second = world.store.epoch().await.unwrap();
    assert_eq!(second, Epoch::drawn(7));
    assert_ne!(second, first);
}

pub(super) async fn a_recovery_rewinds_ends_polls_and_raises_numbers(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world.poll(vec![version("1", 1)]).await;
    world.fan_out_all().await;
    let page = world.page(vec![version("2", 1)], next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let running = world.page(vec![version("3", 1)], done("c")).await;
    let recovered = world.store.recover(&recovery(&["back"])).await.unwrap();
    assert_eq!(
        recovered,
        Recovered {
            cursors: 1,
            numberings: 1
        }
    );
    let feed = world.feed().await;
    assert_eq!((feed.cursor, feed.resume), (Some(cursor("back")), None));
    assert_conflict(&world.store.accept_page(&running).await);
    let known = world.poll(vec![version("1", 1), version("3", 1)]).await;
    assert_eq!((known.known, known.appended), (1, 1), "the ledger stays");
    world.fan_out_all().await;
    assert_eq!(
        world.numbered("a").await,
        ["1 1 1", "1000002 2 1", "1000003 3 1"],
        "what was owed keeps its number, what follows has jumped"
    );
    let unknown = Recovery {
        cursors: vec![(mercy(), rooms(), cursor("r"))],
        ..recovery(&[])
    };
    assert_eq!(world.store.recover(&unknown).await.unwrap().cursors, 0);
    assert_eq!(
        world.store.cursors().await.unwrap().len(),
        1,
        "no feed is invented"
    );
}

pub(super) async fn a_releasing_stage_ends_where_the_recovery_says(home: &dyn Home) {
    let world = World::open(home).await;
    world.stage(vec![version("1", 2), version("1", 1)]).await;
    world.store.recover(&recovery(&["back"])).await.unwrap();
    assert_eq!(
        world.feed().await.stage,
        StageState::Releasing,
        "it is never discarded"
    );
    world.release(100).await;
    assert_eq!(world.log().await.len(), 2);
    assert_eq!(world.feed().await.cursor, Some(cursor("back")));
}

pub(super) async fn what_operators_change_is_audited(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    pause(&world, "a").await;
    pause(&world, "a").await;
    resume(&world, "a").await;
    let set = SetCursor {
        connection: mercy(),
        feed: appointments(),
        cursor: Some(cursor("c")),
        note: "to noon".to_owned(),
        at: at(6),
    };
    world.store.set_cursor(&set).await.unwrap();
    world.store.recover(&recovery(&[])).await.unwrap();
    let world = world.reopen(home).await;
    let epoch = format!("epoch {}", Epoch::drawn(7));
    let row = |seconds, action: &str, subject: &str, detail: &str| AuditRow {
        at: at(seconds),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail: detail.to_owned(),
    };
    let all = [
        row(9, "recover", &epoch, "by an hour"),
        row(6, "cursors set", "mercy/appointments", "to noon"),
        row(5, "subscriptions resume", "a", ""),
        row(5, "subscriptions pause", "a", ""),
    ];
    assert_eq!(world.store.audit(10).await.unwrap(), all);
    assert_eq!(world.store.audit(1).await.unwrap(), all[..1]);
}
