//! What lies before a feed's beginning, on the sandbox under simulated time: each current version told once, beside live
//! changes and never in front of them, over kills, links that expire, and stores of before there were backfills.

mod scene;

use std::time::Duration;

use courier_fhir::Profile;
use courier_sdk::{Detect, FetchMode, Start};
use ehr_courier::domain::ledger::Baseline;

use scene::*;

const MINUTE: Duration = Duration::from_mins(1);

/// So many records, the last of them an hour old.
async fn old(records: usize) -> Scene {
    let scene = Scene::raise();
    scene.write("old", 0..records).await;
    tokio::time::sleep(60 * MINUTE).await;
    scene
}

#[tokio::test(start_paused = true)]
async fn every_record_that_there_is_is_told_of_once_and_live_changes_in_their_order() {
    for detect in [Detect::LastUpdated, Detect::History] {
        let mut scene = old(120).await;
        scene.write("old", 0..60).await;
        // Within the overlap before the beginning: told by the live feed, or by the backfill, but once.
        scene.write("near", 0..3).await;
        scene.run(filled(detect, Start::Beginning), 100);
        scene.until_complete().await;
        tokio::time::sleep(MINUTE).await;
        let events = scene.events().await;
        assert_eq!(once(&events).len(), 123, "{detect:?}");
        assert!(events.contains(&"old0007 2 updated".to_owned()), "{detect:?}");
        scene.write("old", 7..8).await;
        scene.ehr.delete("Appointment", "old0008").unwrap();
        tokio::time::sleep(3 * MINUTE).await;
        let later = scene.events().await.split_off(events.len());
        let told = match detect {
            Detect::History => vec!["old0007 3 updated", "old0008 3 deleted"],
            Detect::Auto | Detect::LastUpdated | Detect::Window | Detect::Roster | Detect::Read => {
                vec!["old0007 3 updated"]
            }
        };
        assert_eq!(later, told, "{detect:?}");
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_tells_what_was_last_changed_since() {
    let mut scene = old(90).await;
    let since = scene.written_at(60);
    scene.write("old", 0..2).await;
    scene.run(filled(Detect::LastUpdated, Start::At(since)), 100);
    scene.until_complete().await;
    tokio::time::sleep(MINUTE).await;
    let events = scene.events().await;
    let ids = once(&events);
    assert_eq!(ids.len(), 32, "{events:?}");
    assert!(ids.contains("old0060") && ids.contains("old0001") && !ids.contains("old0059"));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_change_overtakes_thousands_of_records_that_are_yet_to_be_listed() {
    for (detect, fetch) in [
        (Detect::LastUpdated, FetchMode::FromPage),
        (Detect::History, FetchMode::FromPage),
        (Detect::LastUpdated, FetchMode::ByRead),
    ] {
        let mut scene = old(3_000).await;
        let mut feeds = filled(detect, Start::Beginning);
        for feed in &mut feeds {
            feed.spec.fetch = fetch;
        }
        scene.run(feeds, 1);
        scene
            .until("the first page", async |scene| !scene.events().await.is_empty())
            .await;
        for number in 0..5 {
            scene.write("live", number..number + 1).await;
            let told = format!("live{number:04} 1 created");
            tokio::time::sleep(Duration::from_secs(21)).await;
            let events = scene.events().await;
            assert!(
                events.contains(&told),
                "{detect:?} {fetch:?}: {told} after two polls"
            );
            assert!(events.len() < 2_900, "the backfill goes on for long");
        }
        scene.until_complete().await;
        assert_eq!(once(&scene.events().await).len(), 3_005, "{detect:?} {fetch:?}");
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_in_the_middle_repeats_a_page_at_most_and_loses_nothing() {
    let mut scene = old(1_000).await;
    let mut lives = 0;
    while !is_complete(&scene.backfill().await) {
        scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
        tokio::time::sleep(Duration::from_millis(1_930)).await;
        scene.kill().await;
        lives += 1;
        assert!(lives < 100);
    }
    assert!(lives >= 4, "{lives} lives");
    assert_eq!(once(&scene.events().await).len(), 1_000);
    // Twenty pages, and as many strips between them, because the sandbox's pages may shift.
    let asked = scene.asked_for_the_past();
    assert!(asked <= 40 + 2 * lives, "{asked} requests in {lives} lives");
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_page_links_never_work_is_brought_in_short_stretches() {
    let mut scene = old(400).await;
    *scene.source.links_expire.lock().unwrap() = true;
    scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
    scene.until_complete().await;
    assert_eq!(once(&scene.events().await).len(), 400);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_backfill_that_is_complete_asks_for_nothing_ever_again() {
    let mut scene = old(100).await;
    for _ in 0..3 {
        scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
        scene.until_complete().await;
        tokio::time::sleep(10 * MINUTE).await;
        scene.end().await;
    }
    let asked = scene.asked_for_the_past();
    scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
    // Few enough for one page of the live feed, which is asked for again and again.
    scene.write("later", 0..3).await;
    tokio::time::sleep(600 * MINUTE).await;
    scene.end().await;
    assert_eq!(scene.asked_for_the_past() - asked, 0);
    assert_eq!(once(&scene.events().await).len(), 103);
}

#[tokio::test(start_paused = true)]
async fn a_feed_of_before_there_were_backfills_goes_on_as_it_was() {
    // In the middle of its catch-up.
    let mut scene = old(500).await;
    scene.run(vec![alone(Detect::LastUpdated, Start::Beginning)], 1);
    scene
        .until("a page", async |scene| {
            scene.state("appointments").await.resume.is_some()
        })
        .await;
    scene.kill().await;
    let before = scene.events().await.len();
    assert!(before > 0 && before < 500);
    scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(once(&scene.events().await).len(), 500);
    assert_eq!(scene.backfill().await.poll.0, 0, "no backfill is owed");
    assert_eq!(scene.state("appointments").await.baseline, Baseline::Complete);
    scene.end().await;

    // With a cursor: what it started with is done.
    let mut scene = old(100).await;
    scene.run(vec![alone(Detect::LastUpdated, Start::Now)], 5);
    tokio::time::sleep(5 * MINUTE).await;
    scene.end().await;
    scene.run(filled(Detect::LastUpdated, Start::Beginning), 5);
    tokio::time::sleep(60 * MINUTE).await;
    assert!(scene.events().await.is_empty());
    assert_eq!(scene.backfill().await.poll.0, 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_sight_is_called_created_only_after_the_backfill_and_a_live_poll() {
    let mut profile = Profile::builtin("sandbox").unwrap();
    profile.first_version = String::new();
    let mut scene = Scene::of(profile);
    scene.write("old", 0..300).await;
    tokio::time::sleep(60 * MINUTE).await;
    scene.run(filled(Detect::LastUpdated, Start::Beginning), 1);
    scene
        .until("a page", async |scene| !scene.events().await.is_empty())
        .await;
    // It was there before, and is not brought by the backfill any more.
    scene.write("old", 299..300).await;
    scene.until_complete().await;
    tokio::time::sleep(3 * MINUTE).await;
    scene.write("new", 0..1).await;
    tokio::time::sleep(2 * MINUTE).await;
    let events = scene.events().await;
    assert!(events.contains(&"old0299 2 updated".to_owned()));
    let created: Vec<_> = events.iter().filter(|it| it.ends_with("created")).collect();
    assert_eq!(created, ["new0000 1 created"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_waits_for_the_end_of_the_backfill() {
    let mut scene = old(300).await;
    let feeds = filled_and_swept(&scene);
    scene.run(feeds, 1);
    scene.until_complete().await;
    assert_eq!(scene.state("appointments.sweep").await.poll.0, 0);
    // The first one comes at its names' own minute of the hour.
    tokio::time::sleep(65 * MINUTE).await;
    let sweep = scene.state("appointments.sweep").await;
    assert_eq!((sweep.poll.0, sweep.found), (1, 0), "and then finds nothing new");
    assert_eq!(once(&scene.events().await).len(), 300);
    scene.end().await;
}
