//! `claim_changes` and `settle_changes`: one queue per record, fetched, given up or shown again.

use courier_sdk::{Cursor, Shown};
use ehr_courier::domain::event::{Change, VersionClue};
use ehr_courier::store::{BaselineProof, ClaimedChange, EventQuery, Progress, SettleResult};

use super::Home;
use super::kept::keep;
use super::world::*;

fn quarantine() -> SettleResult {
    SettleResult::Quarantine {
        reason: "not readable".to_owned(),
    }
}

pub(super) fn ids(claimed: &[ClaimedChange]) -> Vec<String> {
    claimed
        .iter()
        .map(|one| {
            let version = one.change.version_id.as_deref().unwrap_or("-");
            format!("{} {version}", one.change.key.id)
        })
        .collect()
}

pub(super) async fn a_change_without_its_record_waits_for_a_fetch(home: &dyn Home) {
    let world = World::open(home).await;
    let accepted = world.poll(vec![reference("1", 1), unversioned("2")]).await;
    assert_eq!((accepted.appended, accepted.enqueued), (0, 2));
    assert!(world.log().await.is_empty());
    let claimed = world.claim(0).await;
    assert_eq!(ids(&claimed), ["1 1", "2 -"]);
    assert_eq!(
        (claimed[0].attempts, claimed[0].claims, claimed[0].feed.clone()),
        (0, 1, appointments())
    );
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!((settled.appended, settled.superseded), (1, 0));
    let settled = world
        .settle(&claimed[1], SettleResult::Fetched(version("2", 5)))
        .await;
    assert_eq!((settled.appended, settled.superseded), (1, 0));
    assert_eq!(world.log().await, ["1 1 updated", "2 5 updated"]);
    assert!(world.claim(DAY).await.is_empty());
}

pub(super) async fn one_change_per_record_is_claimed_oldest_first(home: &dyn Home) {
    let world = World::open(home).await;
    world
        .poll(vec![reference("1", 1), reference("1", 2), reference("2", 1)])
        .await;
    let first = world.claim(0).await;
    assert_eq!(ids(&first), ["1 1", "2 1"]);
    assert!(world.claim(DAY).await.is_empty(), "none behind a claimed one");
    world
        .settle(
            &first[0],
            SettleResult::RetryAt {
                due_at: at(60),
                reason: "503".to_owned(),
            },
        )
        .await;
    assert!(
        world.claim(59).await.is_empty(),
        "none behind one that is not due"
    );
    let again = world.claim(60).await;
    assert_eq!(ids(&again), ["1 1"]);
    world
        .settle(&again[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(ids(&world.claim(60).await), ["1 2"]);
}

pub(super) async fn a_claim_ends_with_its_fence(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let old = world.claim(0).await;
    assert!(world.claim(DAY).await.is_empty());
    let fence = world
        .store
        .acquire_lease(&lease("one"), at(1))
        .await
        .unwrap()
        .unwrap();
    let world = World { fence, ..world };
    let settled = world
        .settle(&old[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(settled.appended, 0, "not claimed under this fence");
    assert_eq!(world.claim(1).await[0].claims, 2);
}

pub(super) async fn a_change_shown_again_while_it_is_fetched_stays_due(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    // The record changes between our GET and our settle, and a poll shows it.
    assert_eq!(world.poll(vec![unversioned("1")]).await.enqueued, 1);
    assert!(world.claim(0).await.is_empty(), "it is still claimed");
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!((settled.appended, settled.shown_again), (1, 1));
    let claimed = world.claim(0).await;
    assert_eq!(claimed.len(), 1, "it is fetched once more");
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
        .await;
    assert_eq!((settled.appended, settled.shown_again), (1, 0));
    assert!(world.claim(DAY).await.is_empty());
    assert_eq!(world.log().await, ["1 1 updated", "1 2 updated"]);
}

pub(super) async fn a_later_version_queues_behind_a_waiting_one(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let accepted = world.poll(vec![version("1", 2), version("2", 1)]).await;
    assert_eq!(
        (accepted.appended, accepted.enqueued),
        (1, 1),
        "another record goes straight on"
    );
    let first = world.claim(0).await;
    world
        .settle(&first[0], SettleResult::Fetched(version("1", 1)))
        .await;
    let second = world.claim(0).await;
    assert_eq!(second[0].change, version("1", 2), "it kept its body");
    world
        .settle(&second[0], SettleResult::Fetched(second[0].change.clone()))
        .await;
    assert_eq!(world.log().await, ["2 1 updated", "1 1 updated", "1 2 updated"]);
}

pub(super) async fn contents_that_wait_keep_their_order_and_number(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![worded("1", "a")]).await;
    world.poll(vec![reference("1", 1)]).await;
    for word in ["b", "b", "a"] {
        assert_eq!(world.poll(vec![worded("1", word)]).await.enqueued, 1);
    }
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], quarantine()).await;
    let mut settled = 0;
    while let Some(claimed) = world.claim(0).await.first() {
        let change = claimed.change.clone();
        settled += world
            .settle(claimed, SettleResult::Fetched(change))
            .await
            .appended;
    }
    assert_eq!(settled, 2, "b, then a again: neither replaced the other");
    assert_eq!(world.log().await.len(), 3);
}

pub(super) async fn a_superseded_version_is_entered_and_counted(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
        .await;
    assert_eq!((settled.appended, settled.superseded), (1, 1));
    let accepted = world.poll(vec![reference("1", 1), version("1", 2)]).await;
    assert_eq!((accepted.known, accepted.enqueued), (2, 0));
    assert_eq!(world.log().await, ["1 2 updated"]);
}

pub(super) async fn a_version_whose_record_came_along_while_it_was_fetched_is_not_superseded(
    home: &dyn Home,
) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    // Another feed shows the record itself; meanwhile the fetch finds a newer version.
    world.poll(vec![version("1", 1)]).await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 2)))
        .await;
    assert_eq!(
        (settled.appended, settled.superseded, settled.shown_again),
        (1, 0, 1)
    );
    let again = world.claim(0).await;
    let own = again[0].change.clone();
    let settled = world.settle(&again[0], SettleResult::Fetched(own)).await;
    assert_eq!((settled.appended, settled.late), (1, 1));
    assert!(world.claim(DAY).await.is_empty());
}

pub(super) async fn a_change_whose_record_came_along_is_not_given_up(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world.poll(vec![version("1", 1)]).await;
    let settled = world.settle(&claimed[0], quarantine()).await;
    assert_eq!((settled.quarantined, settled.shown_again), (0, 1));
    let again = world.claim(0).await;
    let own = again[0].change.clone();
    let settled = world.settle(&again[0], SettleResult::Fetched(own)).await;
    assert_eq!((settled.appended, settled.late), (1, 0));
}

pub(super) async fn the_next_change_due_is_told(home: &dyn Home) {
    let world = World::open(home).await;
    let next = async || world.store.next_change_due(&mercy()).await.unwrap();
    assert_eq!(next().await, None);
    world.poll(vec![reference("1", 1), reference("2", 1)]).await;
    assert_eq!(next().await, Some(at(0)));
    for claimed in world.claim(0).await {
        world.settle(&claimed, keep(version("1", 1))).await;
    }
    assert_eq!(next().await, Some(at(100)));
}

pub(super) async fn a_change_shown_again_waits_its_back_off_out(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    let result = SettleResult::RetryAt {
        due_at: at(100),
        reason: "503".to_owned(),
    };
    world.settle(&claimed[0], result).await;
    world.poll_at(10, vec![reference("1", 1)]).await;
    assert!(world.claim(99).await.is_empty());
    let again = world.claim(100).await;
    assert_eq!((again[0].generation, again[0].attempts), (2, 1));
}

pub(super) async fn a_change_shown_again_while_it_is_given_up_stays_due(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    let result = SettleResult::RetryAt {
        due_at: at(100),
        reason: "503".to_owned(),
    };
    world.settle(&claimed[0], result).await;
    let claimed = world.claim(100).await;
    world.poll(vec![unversioned("1")]).await;
    let settled = world.settle(&claimed[0], quarantine()).await;
    assert_eq!((settled.quarantined, settled.shown_again), (0, 1));
    let again = world.claim(0).await;
    assert_eq!((again[0].attempts, again[0].claims), (0, 1));
    assert_eq!(world.settle(&again[0], quarantine()).await.quarantined, 1);
}

pub(super) async fn a_gone_record_is_a_delete(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 1)]).await;
    world.poll(vec![reference("1", 2), unversioned("2")]).await;
    let claimed = world.claim(0).await;
    let settled = world.settle(&claimed[0], SettleResult::Deleted(gone("1"))).await;
    assert_eq!(settled.appended, 1);
    let settled = world.settle(&claimed[1], SettleResult::Deleted(gone("2"))).await;
    assert_eq!(settled.appended, 0, "no evidence that it ever lived");
    assert!(world.claim(DAY).await.is_empty());
    assert_eq!(world.log().await, ["1 1 updated", "1 d:v:1 deleted"]);
    let accepted = world.poll(vec![reference("1", 2)]).await;
    assert_eq!(
        (accepted.enqueued, accepted.stamps.len()),
        (1, 0),
        "a read tells whether it is back"
    );
    assert_eq!(accepted.ids, [event_id("1", 2)], "the showing itself is known");
    assert_eq!(world.poll(vec![reference("1", 2)]).await.known, 1);
}

pub(super) async fn an_incomplete_fetch_is_tried_again(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(unversioned("1")))
        .await;
    assert_eq!(settled.appended, 0);
    assert!(world.claim(59).await.is_empty());
    assert_eq!(world.claim(60).await[0].attempts, 1);
}

pub(super) async fn a_retry_waits_and_is_counted(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    for attempts in 0..3 {
        let seconds = i64::from(attempts) * 100;
        let claimed = world.claim(seconds).await;
        assert_eq!((claimed[0].attempts, claimed[0].claims), (attempts, 1));
        let result = SettleResult::RetryAt {
            due_at: at(seconds + 100),
            reason: "503".to_owned(),
        };
        world.settle(&claimed[0], result).await;
        assert!(world.claim(seconds + 99).await.is_empty());
    }
}

pub(super) async fn a_released_claim_counts_nothing(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    for seconds in [0, 10] {
        let claimed = world.claim(seconds).await;
        assert_eq!((claimed[0].attempts, claimed[0].claims), (0, 1));
        let due_at = at(seconds + 10);
        world.settle(&claimed[0], SettleResult::Release { due_at }).await;
        assert!(world.claim(seconds + 9).await.is_empty());
    }
}

pub(super) async fn a_row_that_is_not_claimed_is_not_settled(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Release { due_at: at(0) })
        .await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(settled, ehr_courier::store::Settled::default());
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(settled, ehr_courier::store::Settled::default());
    assert_eq!(world.log().await.len(), 1);
}

pub(super) async fn a_quarantined_version_is_not_new(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1), reference("1", 2)]).await;
    let claimed = world.claim(0).await;
    assert_eq!(world.settle(&claimed[0], quarantine()).await.quarantined, 1);
    let accepted = world.poll(vec![version("1", 1)]).await;
    assert_eq!((accepted.known, accepted.appended, accepted.enqueued), (1, 0, 0));
    assert_eq!(
        ids(&world.claim(0).await),
        ["1 2"],
        "the next version is no longer held up"
    );
    let rows = world.store.quarantine(10).await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].reason.as_str(), rows[0].shown),
        (1, "not readable", Shown::State)
    );
}

pub(super) async fn a_quarantined_record_without_a_version_is_not_asked_for_again(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    let claimed = world.claim(0).await;
    world.settle(&claimed[0], quarantine()).await;
    assert_eq!(world.poll(vec![unversioned("1")]).await.enqueued, 0);
    assert!(world.claim(DAY).await.is_empty());
    assert_eq!(world.store.quarantine(10).await.unwrap().len(), 1);
}

pub(super) async fn a_record_that_came_along_is_not_taken_for_a_quarantined_one(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![unversioned("1")]).await;
    world.settle(&world.claim(0).await[0], quarantine()).await;
    world.poll(vec![reference("1", 1)]).await;
    let accepted = world.poll(vec![worded("1", "a")]).await;
    assert_eq!((accepted.enqueued, accepted.known), (1, 0));
}

pub(super) async fn a_version_before_an_inferred_delete_does_not_undo_it(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![version("1", 4)]).await;
    world.poll(vec![reference("1", 6)]).await;
    let asked = world.claim(0).await;
    let gone = Change {
        order: asked[0].change.order,
        ..gone("1")
    };
    world.settle(&asked[0], SettleResult::Deleted(gone)).await;
    let detail = world
        .store
        .events(&EventQuery {
            limit: 1,
            ..EventQuery::default()
        })
        .await
        .unwrap();
    assert_eq!(detail[0].changed_at, None, "the source never said when");
    // A page read before the delete still shows what came between.
    let accepted = world.poll(vec![version("1", 5)]).await;
    assert_eq!((accepted.appended, accepted.late), (1, 1));
    let accepted = world.poll(vec![version("1", 7)]).await;
    assert_eq!((accepted.appended, accepted.late), (1, 0), "it lives again");
}

pub(super) async fn a_redriven_change_starts_anew(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1), unversioned("2")]).await;
    for claimed in world.claim(0).await {
        world.settle(&claimed, quarantine()).await;
    }
    world.poll(vec![version("1", 2)]).await;
    assert_eq!(world.store.redrive_quarantine(&mercy(), at(5)).await.unwrap(), 2);
    assert!(world.store.quarantine(10).await.unwrap().is_empty());
    let claimed = world.claim(5).await;
    assert_eq!(ids(&claimed), ["1 1", "2 -"]);
    assert_eq!((claimed[0].attempts, claimed[0].claims), (0, 1));
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    assert_eq!(
        (settled.appended, settled.late),
        (1, 1),
        "it comes after a newer version"
    );
    assert_eq!(world.log().await, ["1 2 updated", "1 1 updated"]);
}

pub(super) async fn claims_are_counted_through_a_crash(home: &dyn Home) {
    let mut world = World::open(home).await;
    world
        .poll(vec![Change {
            version: VersionClue::Unknown,
            ..reference("1", 1)
        }])
        .await;
    for claims in 1..=3 {
        assert_eq!(world.claim(0).await[0].claims, claims);
        world = world.reopen(home).await;
    }
}

pub(super) async fn accepted_ids_are_answered(home: &dyn Home) {
    let world = World::open(home).await;
    let accepted = world.poll(vec![version("1", 1), reference("2", 1)]).await;
    assert_eq!(accepted.ids, [event_id("1", 1)], "not what waits");
    let accepted = world.poll(vec![version("1", 1)]).await;
    assert_eq!(accepted.ids, [event_id("1", 1)], "what is known stands accepted");
    let claimed = world.claim(0).await;
    let settled = world
        .settle(&claimed[0], SettleResult::Fetched(version("2", 1)))
        .await;
    assert_eq!(settled.ids, [event_id("2", 1)]);
}

pub(super) async fn a_reported_failure_is_no_killed_worker(home: &dyn Home) {
    let world = World::open(home).await;
    world.poll(vec![reference("1", 1)]).await;
    for attempts in 0..6 {
        let claimed = world.claim(DAY).await;
        assert_eq!((claimed[0].attempts, claimed[0].claims), (attempts, 1));
        let retry = SettleResult::RetryAt {
            due_at: at(0),
            reason: "not found".to_owned(),
        };
        world.settle(&claimed[0], retry).await;
    }
}

pub(super) async fn what_may_have_killed_its_worker_is_claimed_alone(home: &dyn Home) {
    let world = World::open(home).await;
    world
        .poll(vec![reference("1", 1), reference("2", 1), reference("3", 1)])
        .await;
    assert_eq!(world.claim(0).await.len(), 3);
    let world = world.reopen(home).await;
    world.poll(vec![reference("4", 1)]).await;
    for id in ["1 1", "2 1", "3 1"] {
        let claimed = world.claim(0).await;
        assert_eq!((ids(&claimed), claimed[0].claims), (vec![id.to_owned()], 2));
        let found = version(claimed[0].change.key.id.as_str(), 1);
        world.settle(&claimed[0], SettleResult::Fetched(found)).await;
    }
    assert_eq!(ids(&world.claim(0).await), ["4 1"]);
}

pub(super) async fn what_the_baseline_showed_is_no_creation_when_it_is_fetched_later(home: &dyn Home) {
    let world = World::open(home).await;
    let done = Progress::Done {
        cursor: Cursor::new("c1".to_owned()),
        baseline: BaselineProof::Proven,
    };
    let page = world.page(vec![reference("1", 1)], done).await;
    world.store.accept_page(&page).await.unwrap();
    let claimed = world.claim(0).await;
    world
        .settle(&claimed[0], SettleResult::Fetched(version("1", 1)))
        .await;
    world.poll(vec![version("2", 1)]).await;
    assert_eq!(world.log().await, ["1 1 updated", "2 1 created"]);
}
