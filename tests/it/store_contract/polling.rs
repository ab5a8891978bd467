//! `accept_page`: cursors, polls and what becomes of changes.

use courier_sdk::{Cursor, Novelty, Resume};
use ehr_courier::domain::event::Change;
use ehr_courier::store::{BaselineProof, FeedState, PollId, Progress, SetCursor, Sights, StageState};

use super::Home;
use super::world::*;

pub(super) async fn a_complete_poll_moves_the_cursor(home: &dyn Home) {
    let world = World::open(home).await;
    assert_eq!(world.feed().await.cursor, None);
    world.poll(Vec::new()).await;
    let feed = world.feed().await;
    assert_eq!(
        (feed.cursor, feed.poll, feed.resume),
        (Some(cursor("c")), PollId(1), None)
    );
    assert_eq!((feed.advanced_at, feed.fresh_as_of), (Some(at(0)), Some(at(0))));
    world.poll_at(60, Vec::new()).await;
    let feed = world.feed().await;
    assert_eq!(feed.poll, PollId(2));
    assert_eq!(feed.advanced_at, Some(at(0)), "the cursor stayed where it was");
}

pub(super) async fn a_page_keeps_its_resume_link_and_leaves_the_cursor(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(vec![version("1", 1)], next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let feed = world.feed().await;
    assert_eq!(feed.resume, Some(Resume::new("p2".to_owned())));
    assert_eq!(
        (feed.cursor, feed.poll, feed.stage),
        (None, PollId(0), StageState::None)
    );
    world.poll(vec![version("2", 1)]).await;
    assert_eq!(world.feed().await.resume, None);
    assert_eq!(world.log().await.len(), 2);
}

pub(super) async fn a_slice_leaves_the_feed_alone(home: &dyn Home) {
    let world = World::open(home).await;
    let before = world.feed().await;
    let page = world.page(vec![version("1", 1)], Progress::Slice).await;
    world.store.accept_page(&page).await.unwrap();
    assert_eq!(world.feed().await, FeedState { found: 1, ..before });
    assert_eq!(world.log().await, ["1 1 updated"]);
}

pub(super) async fn an_inconclusive_poll_leaves_the_cursor(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(Vec::new()).await;
    let page = world.page(Vec::new(), next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let page = world.page(vec![version("1", 1)], Progress::Inconclusive).await;
    world.store.accept_page(&page).await.unwrap();
    let feed = world.feed().await;
    assert_eq!(
        (feed.cursor, feed.poll, feed.resume),
        (Some(cursor("c")), PollId(2), None)
    );
    assert_eq!(world.log().await.len(), 1, "what was shown is kept");
}

pub(super) async fn a_page_of_a_poll_that_is_over_conflicts(home: &dyn Home) {
    let world = World::open(home).await;
    let late = world.page(vec![version("1", 1)], done("late")).await;
    world.store.abandon_poll(&late.poll).await.unwrap();
    assert_conflict(&world.store.accept_page(&late).await);
    assert_conflict(&world.store.stage_page(&late).await);
    assert_conflict(&world.store.abandon_poll(&late.poll).await);
    assert!(world.log().await.is_empty());
}

pub(super) async fn a_page_from_another_cursor_conflicts(home: &dyn Home) {
    let world = World::open(home).await;
    let mut page = world.page(vec![version("1", 1)], done("c")).await;
    page.from = Some(cursor("elsewhere"));
    assert_conflict(&world.store.accept_page(&page).await);
    assert_conflict(&world.store.stage_page(&page).await);
    assert!(world.log().await.is_empty());
}

pub(super) async fn an_abandoned_poll_forgets_its_link(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(Vec::new(), next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    world.store.abandon_poll(&page.poll).await.unwrap();
    let feed = world.feed().await;
    assert_eq!((feed.resume, feed.poll, feed.cursor), (None, PollId(1), None));
}

pub(super) async fn setting_the_cursor_ends_the_running_poll(home: &dyn Home) {
    let world = World::open(home).await;
    let page = world.page(Vec::new(), next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let running = world.page(vec![version("1", 1)], done("c")).await;
    let set = SetCursor {
        connection: mercy(),
        feed: appointments(),
        cursor: Some(cursor("back")),
        note: "to the beginning of the test".to_owned(),
        at: at(1),
    };
    world.store.set_cursor(&set).await.unwrap();
    let feed = world.feed().await;
    assert_eq!(
        (feed.cursor, feed.poll, feed.resume),
        (Some(cursor("back")), PollId(1), None)
    );
    assert_conflict(&world.store.accept_page(&running).await);
}

pub(super) async fn records_that_came_along_are_events_at_dense_positions(home: &dyn Home) {
    let world = World::open(home).await;
    let accepted = world
        .poll(vec![version("1", 1), version("2", 1), deleted("3", 4)])
        .await;
    assert_eq!((accepted.appended, accepted.enqueued, accepted.known), (3, 0, 0));
    world.poll(vec![version("1", 2)]).await;
    let log = ["1 1 updated", "2 1 updated", "3 4 deleted", "1 2 updated"];
    assert_eq!(world.log().await, log);
    let detail = world.store.event(&event_id("1", 2)).await.unwrap().unwrap();
    assert_eq!(
        detail.event.record,
        version("1", 2).content.map(|content| content.record)
    );
    assert_eq!(detail.event.changed_at, Some(at(2)));
    let gone = world.store.event(&event_id("3", 4)).await.unwrap().unwrap();
    assert_eq!(gone.event.record, None);
}

pub(super) async fn a_page_shown_again_is_known(home: &dyn Home) {
    let world = World::open(home).await;
    let changes = vec![version("1", 1), version("2", 1), version("1", 2)];
    world.poll(changes.clone()).await;
    for days in [0, 2] {
        let accepted = world.poll_at(days * DAY, changes.clone()).await;
        assert_eq!((accepted.appended, accepted.enqueued, accepted.known), (0, 0, 3));
    }
    let known_without_body = world.poll(vec![reference("1", 1)]).await;
    assert_eq!((known_without_body.enqueued, known_without_body.known), (0, 1));
    assert_eq!(world.log().await.len(), 3);
}

pub(super) async fn a_version_shown_twice_in_one_page_is_one_event(home: &dyn Home) {
    let world = World::open(home).await;
    let accepted = world.poll(vec![version("1", 1), version("1", 1)]).await;
    assert_eq!((accepted.appended, accepted.known), (1, 1));
}

pub(super) async fn a_version_shown_by_two_feeds_is_one_event(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1)]).await;
    let page = world.page_of(&rooms(), vec![version("1", 1)], done("c")).await;
    let accepted = world.store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.appended, accepted.known), (0, 1));
}

pub(super) async fn content_that_changes_back_is_three_events(home: &dyn Home) {
    let world = World::open(home).await;
    for word in ["a", "a", "b", "b", "a", "a"] {
        world.poll(vec![worded("1", word)]).await;
    }
    let log = world.log().await;
    assert_eq!(log.len(), 3, "{log:?}");
    for (line, number) in log.iter().zip(1..) {
        assert!(line.contains(&format!(":{number} ")), "{line}");
    }
}

pub(super) async fn a_version_before_the_start_enters_in_silence(home: &dyn Home) {
    let world = World::open(home).await;
    let old = Change {
        novelty: Novelty::Silent,
        ..reference("1", 1)
    };
    let accepted = world.poll(vec![old]).await;
    assert_eq!((accepted.silent, accepted.appended, accepted.enqueued), (1, 0, 0));
    assert!(world.log().await.is_empty());
    let accepted = world.poll(vec![version("1", 1), version("1", 2)]).await;
    assert_eq!((accepted.known, accepted.appended), (1, 1));
}

pub(super) async fn created_is_said_only_after_a_proven_baseline(home: &dyn Home) {
    let world = World::open(home).await;
    let proven = Progress::Done {
        cursor: Cursor::new("c".to_owned()),
        baseline: BaselineProof::Proven,
    };
    let page = world.page(vec![version("1", 1)], proven).await;
    world.store.accept_page(&page).await.unwrap();
    world.poll(vec![version("1", 2), version("2", 1)]).await;
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated", "2 1 created"]);
}

pub(super) async fn created_is_not_said_once_a_filter_hid_records(home: &dyn Home) {
    let world = World::open(home).await;
    let proven = Progress::Done {
        cursor: Cursor::new("c".to_owned()),
        baseline: BaselineProof::Proven,
    };
    let page = world.page(vec![version("1", 1)], proven).await;
    world.store.accept_page(&page).await.unwrap();
    let mut filtered = world.page(vec![version("2", 1)], done("d")).await;
    filtered.sights = Sights::Filtered;
    world.store.accept_page(&filtered).await.unwrap();
    world.poll(vec![version("3", 1)]).await;
    assert_eq!(world.log().await, ["1 1 updated", "2 1 updated", "3 1 updated"]);
}

pub(super) async fn a_version_older_than_the_head_is_late(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 3)]).await;
    let accepted = world.poll(vec![version("1", 2), version("1", 4)]).await;
    assert_eq!((accepted.appended, accepted.late), (2, 1));
    let accepted = world.poll(vec![version("1", 3)]).await;
    assert_eq!(accepted.known, 1, "the late version did not become the head");
}

pub(super) async fn an_inferred_delete_needs_a_living_record(home: &dyn Home) {
    let world = World::open(home).await;
    assert_eq!(
        world.poll(vec![gone("1")]).await.appended,
        0,
        "nobody knows the record"
    );
    world.poll(vec![version("1", 1)]).await;
    assert_eq!(world.poll(vec![gone("1")]).await.appended, 1);
    assert_eq!(
        world.poll(vec![gone("1")]).await.appended,
        0,
        "it is deleted already"
    );
    assert_eq!(world.log().await, ["1 1 updated", "1 d:v:1 deleted"]);
}

pub(super) async fn an_oversized_record_is_quarantined_once(home: &dyn Home) {
    let world = World::open(home).await;
    for quarantined in [1, 0] {
        let mut page = world.page(vec![version("1", 1)], done("c")).await;
        page.oversized = vec![key("9")];
        let accepted = world.store.accept_page(&page).await.unwrap();
        assert_eq!(accepted.quarantined, quarantined);
    }
    let rows = world.store.quarantine(10).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].key, key("9"));
    assert_eq!(rows[0].reason, "larger than the record limit");
    assert_eq!(world.log().await, ["1 1 updated"], "the page went on");
}

pub(super) async fn what_was_accepted_outlives_the_process(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1), reference("2", 1)]).await;
    let page = world.page(Vec::new(), next_page("p2")).await;
    world.store.accept_page(&page).await.unwrap();
    let before = world.feed().await;
    let world = world.reopen(home).await;
    assert_eq!(world.feed().await, before);
    let accepted = world.poll(vec![version("1", 1)]).await;
    assert_eq!(accepted.known, 1);
    assert_eq!(world.claim(0).await.len(), 1);
    let detail = world.store.event(&event_id("1", 1)).await.unwrap().unwrap();
    assert_eq!(
        detail.event.record,
        version("1", 1).content.map(|content| content.record)
    );
}
