//! `stage_page` and `release_stage`: newest-first polls leave oldest first.

use courier_sdk::Cursor;
use ehr_courier::domain::event::Change;
use ehr_courier::store::{FeedState, PollId, Progress, SetCursor, SettleResult, StageState};

use super::Home;
use super::world::*;

pub(super) async fn nothing_staged_shows_before_the_last_page(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(vec![version("1", 3)], next_page("p2")).await;
    world.store.stage_page(&page).await.unwrap();
    let feed = world.feed().await;
    assert_eq!((feed.stage, &feed.cursor), (StageState::Collecting, &None));
    assert!(feed.resume.is_some());
    assert!(world.log().await.is_empty());
    let slice = world.page(vec![version("1", 2)], Progress::Slice).await;
    world.store.stage_page(&slice).await.unwrap();
    let grown = FeedState { staged: 2, ..feed };
    assert_eq!(world.feed().await, grown, "a slice adds rows only");
    world.stage(vec![version("1", 1)]).await;
    let feed = world.feed().await;
    assert_eq!(
        (feed.stage, feed.cursor, feed.poll),
        (StageState::Releasing, None, PollId(0))
    );
    world.release(100).await;
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated", "1 3 updated"]);
}

pub(super) async fn a_stage_is_released_oldest_first(home: &dyn Home) {
    let world = World::open(home).await;
    let untimed = Change {
        order: ehr_courier::domain::event::VersionOrder::default(),
        ..version("9", 1)
    };
    world
        .stage(vec![
            version("1", 4),
            version("2", 3),
            version("1", 2),
            version("2", 1),
            untimed,
        ])
        .await;
    let released = world.release(100).await;
    assert_eq!((released.accepted.appended, released.accepted.late), (5, 0));
    let log = [
        "9 1 updated",
        "2 1 updated",
        "1 2 updated",
        "2 3 updated",
        "1 4 updated",
    ];
    assert_eq!(world.log().await, log);
}

pub(super) async fn versions_of_one_instant_leave_in_reverse_of_the_answer(home: &dyn Home) {
    let world = World::open(home).await;
    let same_instant = |number| {
        let mut change = version("1", number);
        change.order.number = None;
        change.order.stamp = Some(at(0));
        change
    };
    world
        .stage(vec![same_instant(7), same_instant(5), same_instant(6)])
        .await;
    world.release(100).await;
    assert_eq!(world.log().await, ["1 6 updated", "1 5 updated", "1 7 updated"]);
}

pub(super) async fn the_cursor_moves_with_the_last_staged_change(home: &dyn Home) {
    let world = World::open(home).await;
    world
        .stage(vec![version("1", 3), version("1", 2), version("1", 1)])
        .await;
    for appended in [1, 2] {
        let released = world.release(1).await;
        assert_eq!(
            (released.accepted.appended, released.stage),
            (1, StageState::Releasing)
        );
        assert_eq!(world.feed().await.cursor, None);
        assert_eq!(world.log().await.len(), appended);
    }
    assert_eq!(world.release(1).await.stage, StageState::None);
    let feed = world.feed().await;
    assert_eq!(feed.cursor, Some(Cursor::new("staged".to_owned())));
    assert_eq!((feed.poll, feed.stage), (PollId(1), StageState::None));
}

pub(super) async fn a_staged_feed_accepts_no_page(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(vec![version("1", 2)], next_page("p2")).await;
    world.store.stage_page(&page).await.unwrap();
    let direct = world.page(vec![version("1", 1)], done("c")).await;
    assert_refused(&world.store.accept_page(&direct).await);
    world.stage(Vec::new()).await;
    assert_refused(&world.store.stage_page(&direct).await);
    let set = SetCursor {
        connection: mercy(),
        feed: appointments(),
        cursor: None,
        note: String::new(),
        at: at(0),
    };
    assert_refused(&world.store.set_cursor(&set).await);
    world.release(100).await;
    assert_eq!(world.log().await, ["1 2 updated"]);
    let release = ehr_courier::store::ReleaseStage {
        poll: world.poll_ref().await,
        limit: 1,
        context: ehr_courier::store::ContextRule::None,
        unchanged: ehr_courier::store::Unchanged::Tell,
        at: at(0),
    };
    assert_refused(&world.store.release_stage(&release).await);
}

pub(super) async fn a_collecting_stage_goes_with_its_poll(home: &dyn Home) {
    let world = World::open(home).await;
    let set = SetCursor {
        connection: mercy(),
        feed: appointments(),
        cursor: None,
        note: String::new(),
        at: at(0),
    };
    for round in 0..3 {
        let page = world.page(vec![version("1", 1)], next_page("p2")).await;
        world.store.stage_page(&page).await.unwrap();
        match round {
            0 => assert_eq!(world.store.abandon_poll(&page.poll).await.unwrap().versions, 1),
            1 => world.store.set_cursor(&set).await.unwrap(),
            _ => {
                let page = world.page(vec![version("2", 1)], Progress::Inconclusive).await;
                world.store.stage_page(&page).await.unwrap();
            }
        }
        let feed = world.feed().await;
        assert_eq!(
            (feed.stage, feed.resume, feed.cursor),
            (StageState::None, None, None)
        );
        assert_eq!(feed.poll, PollId(round + 1));
    }
    world.poll(vec![version("3", 1)]).await;
    assert_eq!(
        world.log().await,
        ["3 1 updated"],
        "what was discarded never showed"
    );
}

pub(super) async fn a_releasing_stage_goes_on_under_the_next_fence(home: &dyn Home) {
    let world = World::open(home).await;
    world.stage(vec![version("1", 2), version("1", 1)]).await;
    world.release(1).await;
    let world = world.reopen(home).await;
    assert_eq!(world.feed().await.stage, StageState::Releasing);
    assert_eq!(world.release(1).await.stage, StageState::None);
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated"]);
}

pub(super) async fn an_empty_stage_ends_at_once(home: &dyn Home) {
    let world = World::open(home).await;
    world.stage(Vec::new()).await;
    assert_eq!(world.release(100).await.stage, StageState::None);
    assert_eq!(world.feed().await.cursor, Some(Cursor::new("staged".to_owned())));
}

pub(super) async fn a_record_in_another_feeds_stage_waits(home: &dyn Home) {
    let world = World::open(home).await;
    world.stage(vec![version("1", 1)]).await;
    let page = world.page_of(&rooms(), vec![version("1", 2)], done("c")).await;
    let accepted = world.store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.appended, accepted.enqueued), (0, 1));
}

pub(super) async fn a_version_that_is_staged_with_its_record_is_not_superseded(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page_of(&rooms(), vec![reference("1", 1)], done("c")).await;
    world.store.accept_page(&page).await.unwrap();
    let claimed = world.claim(0).await;
    world.stage(vec![version("1", 1)]).await;
    let result = SettleResult::Fetched(version("1", 2));
    assert_eq!(world.settle(&claimed[0], result).await.superseded, 0);
    assert_eq!(world.release(10).await.accepted.late, 1);
    assert_eq!(world.log().await, ["1 2 updated", "1 1 updated"]);
}

pub(super) async fn numbers_go_before_stamps_within_a_record(home: &dyn Home) {
    let world = World::open(home).await;
    // A node's clock was behind: version 3 is stamped before version 2 and before another record's version 9.
    let stamped = |id: &str, number, second| {
        let mut change = version(id, number);
        change.order.stamp = Some(at(second));
        change
    };
    world
        .stage(vec![
            stamped("1", 2, 50),
            stamped("2", 9, 40),
            stamped("1", 3, 30),
            stamped("1", 1, 20),
        ])
        .await;
    // Slice by slice as in one.
    for _ in 0..4 {
        assert_eq!(world.release(1).await.accepted.late, 0);
    }
    let log = ["1 1 updated", "1 2 updated", "1 3 updated", "2 9 updated"];
    assert_eq!(world.log().await, log);
}

pub(super) async fn a_collecting_stage_is_counted_and_what_is_discarded_is_told(home: &dyn Home) {
    let world = World::open(home).await;
    let changes = vec![version("1", 3), version("1", 2), version("2", 1)];
    let page = world.page(changes, next_page("p2")).await;
    world.store.stage_page(&page).await.unwrap();
    assert_eq!(world.feed().await.staged, 3);
    let discarded = world.store.abandon_poll(&page.poll).await.unwrap();
    assert_eq!((discarded.versions, discarded.records), (3, 2));
    assert_eq!(world.feed().await.staged, 0);
    let page = world.page(vec![version("1", 1)], next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let discarded = world.store.abandon_poll(&page.poll).await.unwrap();
    assert_eq!(discarded, ehr_courier::store::Discarded::default());
}
