//! What no search shows, under simulated time: records that disappear, that may not be read any more, and changes that
//! every poll missed; each told once, and none imagined.

mod ehr;
mod storms;

use std::time::Duration;

use courier_sdk::{Detect, NotFound, Novelty};
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::connection::Overlap;
use ehr_courier::store::Store as _;
use ehr_courier::store::memory::MemoryStore;

use ehr::*;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A source with so many records, and a worker that has told of them by now, each listed at every poll.
async fn listed(records: usize) -> (Ehr, MemoryStore, Running) {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    for number in 0..records {
        ehr.put(&format!("{number:03}"), HOUR);
    }
    let running = run(&store, &ehr, vec![listing()]);
    minutes(3).await;
    assert_eq!(told(&store, "updated").await.len(), records);
    (ehr, store, running)
}

#[tokio::test(start_paused = true)]
async fn a_record_that_disappears_and_is_not_found_twice_is_deleted() {
    let (ehr, store, running) = listed(25).await;
    ehr.remove("007", Read::NotFound(NotFound::BySource));
    ehr.remove("008", Read::Gone);
    minutes(5).await;
    assert_eq!(
        told(&store, "deleted").await,
        ["007".to_owned(), "008".to_owned()].into()
    );
    let reads = ehr.open().reads.iter().filter(|id| *id == "007").count();
    assert_eq!(reads, 3, "once to fetch it, twice to be sure");
    minutes(60).await;
    assert_eq!(events(&store).await.len(), 27, "and that was all");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_only_listed_no_longer_is_not_deleted() {
    let (ehr, store, running) = listed(25).await;
    ehr.remove("007", Read::Found);
    minutes(10).await;
    assert_eq!(events(&store).await.len(), 25);
    let reads = ehr.open().reads.iter().filter(|id| *id == "007").count();
    assert_eq!(reads, 3, "it is asked about twice, not at every listing");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_404_that_is_not_the_sources_own_word_deletes_nothing() {
    let (ehr, store, running) = listed(25).await;
    ehr.remove("007", Read::NotFound(NotFound::Unattributed));
    minutes(60).await;
    assert!(told(&store, "deleted").await.is_empty());
    let quarantine = store.quarantine(10).await.unwrap();
    assert_eq!(quarantine.len(), 1);
    assert!(quarantine[0].reason.contains("404"), "{}", quarantine[0].reason);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_has_disappeared_from_a_listing_that_may_hide_an_entry() {
    let (ehr, store, running) = listed(25).await;
    ehr.open().unusable = 1;
    ehr.remove("007", Read::Gone);
    minutes(10).await;
    assert!(told(&store, "deleted").await.is_empty());
    ehr.open().unusable = 0;
    minutes(3).await;
    assert_eq!(told(&store, "deleted").await.len(), 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_has_disappeared_from_a_listing_whose_first_pages_another_life_saw() {
    let (ehr, store, running) = listed(25).await;
    // Each page takes half a minute: the process ends between two pages of a listing.
    ehr.open().takes = MINUTE / 2;
    minutes(3).await;
    while state(&store, "patients").await.resume.is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    running.end().await;
    let before = state(&store, "patients").await;
    assert!(before.resume.is_some());
    let listings = ehr.open().listings.len();
    ehr.remove("024", Read::Gone);
    let running = run(&store, &ehr, vec![listing()]);
    while state(&store, "patients").await.poll == before.poll {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        ehr.open().listings.len() < listings + 4,
        "it went on where it was"
    );
    minutes(1).await;
    assert!(told(&store, "deleted").await.is_empty(), "half a listing");
    minutes(5).await;
    assert_eq!(told(&store, "deleted").await.len(), 1, "a whole one");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_listing_that_never_ended_is_missed_when_it_is_gone() {
    let (ehr, store, running) = listed(25).await;
    // From now on no listing comes to its end; the new record stands on the first page of each.
    ehr.open().expires = true;
    ehr.put("0055", Duration::ZERO);
    minutes(5).await;
    assert!(told(&store, "created").await.contains("0055"));
    running.end().await;
    ehr.remove("0055", Read::Gone);
    ehr.open().expires = false;
    let running = run(&store, &ehr, vec![listing()]);
    minutes(5).await;
    assert_eq!(told(&store, "deleted").await, ["0055".to_owned()].into());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_came_and_went_between_two_sweeps_is_missed_by_the_next() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put("001", HOUR);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(70).await;
    ehr.put("002", Duration::ZERO);
    minutes(10).await;
    assert!(told(&store, "created").await.contains("002"));
    ehr.remove("002", Read::Gone);
    minutes(25 * 60).await;
    assert_eq!(told(&store, "deleted").await, ["002".to_owned()].into());
    assert_eq!(events(&store).await.len(), 3);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_sweep_runs_is_not_missing_from_it() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    for number in 0..25 {
        ehr.put(&format!("{number:03}"), HOUR);
    }
    ehr.open().takes = 5 * MINUTE;
    let running = run(&store, &ehr, swept(&ehr));
    while ehr.open().listings.len() < 2 {
        minutes(1).await;
    }
    ehr.put("0005", Duration::ZERO);
    minutes(60).await;
    assert!(told(&store, "created").await.contains("0005"));
    let reads = ehr.open().reads.iter().filter(|id| *id == "0005").count();
    assert_eq!(reads, 0, "it came with its page, and nobody doubts it");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_enters_what_was_there_before_in_silence_and_tells_of_its_delete() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put_unseen("001", 48 * HOUR);
    ehr.open().rows.get_mut("001").unwrap().novelty = Novelty::Silent;
    ehr.put("002", HOUR);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(70).await;
    assert_eq!(events(&store).await, ["002 1 updated".to_owned()]);
    ehr.remove("001", Read::Gone);
    minutes(24 * 60).await;
    assert_eq!(events(&store).await[1..], ["001 d:v:1 deleted".to_owned()]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_lives_again_under_its_old_version_is_told_of_each_time() {
    let (ehr, store, running) = listed(25).await;
    for _ in 0..3 {
        let before = events(&store).await.len();
        ehr.remove("007", Read::NotFound(NotFound::BySource));
        minutes(5).await;
        ehr.restore("007");
        minutes(5).await;
        let log = events(&store).await;
        assert_eq!(log[before..].len(), 2, "{:?}", &log[before..]);
        assert!(log[before].ends_with(" deleted"), "{}", log[before]);
        assert_eq!(log[before + 1], "007 1 updated");
    }
    ehr.put("007", Duration::ZERO);
    minutes(5).await;
    assert_eq!(events(&store).await[31..], ["007 2 updated".to_owned()]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_showing_of_a_deleted_record_brings_it_not_back() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put("001", HOUR);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(70).await;
    ehr.remove("001", Read::Gone);
    minutes(24 * 60).await;
    assert_eq!(told(&store, "deleted").await.len(), 1);
    // An index that lags shows it for a day.
    let reads = ehr.open().reads.len();
    let lags = |lags: bool| {
        let mut state = ehr.open();
        let row = state.rows.get_mut("001").unwrap();
        (row.searched, row.listed) = (lags, lags);
    };
    lags(true);
    minutes(24 * 60).await;
    let asked = ehr.open().reads.len() - reads;
    assert!((3..=6).contains(&asked), "it was asked about {asked} times");
    assert_eq!(events(&store).await.len(), 2);
    assert!(store.quarantine(10).await.unwrap().is_empty());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_deletes_is_held_until_a_read_says_the_same_an_hour_later() {
    let (ehr, store, running) = listed(60).await;
    for number in 0..40 {
        ehr.remove(&format!("{number:03}"), Read::Gone);
    }
    minutes(30).await;
    assert_eq!(told(&store, "deleted").await.len(), 20);
    // They come back: it was the source's mistake.
    for number in 35..40 {
        ehr.put(&format!("{number:03}"), Duration::ZERO);
    }
    minutes(60).await;
    assert_eq!(told(&store, "deleted").await.len(), 35);
    assert!(store.quarantine(10).await.unwrap().is_empty());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_may_not_be_read_is_told_of_once_as_unavailable() {
    let (ehr, store, running) = listed(3).await;
    ehr.put("001", Duration::ZERO);
    ehr.open().rows.get_mut("001").unwrap().read = Read::Withheld;
    minutes(120).await;
    let unavailable = ["001 2 unavailable".to_owned()];
    assert_eq!(events(&store).await[3..], unavailable);
    let reads = ehr.open().reads.len();
    minutes(120).await;
    assert_eq!(ehr.open().reads.len(), reads, "it is not asked for again");
    ehr.put("001", Duration::ZERO);
    minutes(5).await;
    assert_eq!(events(&store).await[4..], ["001 3 updated".to_owned()]);
    assert!(store.quarantine(10).await.unwrap().is_empty());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_finds_what_every_poll_missed_once_a_day_over_restarts() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    for number in 0..25 {
        ehr.put(&format!("{number:03}"), HOUR);
    }
    ehr.put_unseen("100", 2 * HOUR);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(70).await;
    assert_eq!(ehr.open().listings.len(), 3, "one sweep of three pages");
    assert!(events(&store).await.contains(&"100 1 updated".to_owned()));
    assert_eq!(events(&store).await.len(), 26);
    assert_eq!(state(&store, "patients.sweep").await.found, 1);
    running.end().await;

    ehr.put_unseen("101", 3 * HOUR);
    ehr.remove("007", Read::Gone);
    for _ in 0..3 {
        let running = run(&store, &ehr, swept(&ehr));
        minutes(7 * 60).await;
        running.end().await;
    }
    assert_eq!(ehr.open().listings.len(), 3, "a restart repeats no sweep");
    assert_eq!(events(&store).await.len(), 26);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(3 * 60 + 10).await;
    assert_eq!(ehr.open().listings.len(), 6, "nor does it postpone one");
    let log = events(&store).await;
    assert_eq!(log[26..].len(), 2, "{:?}", &log[26..]);
    assert!(log.contains(&"101 1 updated".to_owned()) && log.contains(&"007 d:v:1 deleted".to_owned()));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_leaves_what_is_newer_than_the_overlap_to_the_live_feed() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put("001", HOUR);
    ehr.put("002", Duration::ZERO);
    ehr.put_unseen("003", MINUTE);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(70).await;
    assert_eq!(ehr.open().listings.len(), 1);
    assert_eq!(
        told(&store, "updated").await,
        ["001".to_owned(), "002".to_owned()].into()
    );
    ehr.remove("003", Read::Gone);
    minutes(24 * 60).await;
    assert!(told(&store, "deleted").await.is_empty(), "nobody was told of it");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_gives_way_to_live_polls() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    for number in 0..999 {
        ehr.put(&format!("{number:03}"), HOUR + number * MINUTE);
    }
    let feeds = swept_every(&ehr, Duration::from_secs(1));
    let mut other = feeds[0].clone();
    other.spec.name = courier_sdk::FeedName::parse("others").unwrap();
    other.every = Duration::from_secs(2);
    let budget = Budget::new(std::num::NonZeroU32::new(1), 2);
    let running = run_within(&store, &ehr, [feeds, vec![other]].concat(), budget);
    minutes(6).await;
    let listings = ehr.open().listings.len();
    let searches = ehr.open().searches.len();
    // Of 360 requests the live feeds want 186.
    assert!(searches >= 175, "{searches} polls");
    assert!(listings >= 90, "{listings} pages of the sweep");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_overlap_adapts_to_how_late_changes_come() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put("001", Duration::ZERO);
    let running = run(&store, &ehr, vec![feed(Detect::LastUpdated, Overlap::Adaptive)]);
    minutes(10).await;
    let overlap = || ehr.open().searches.last().unwrap().1;
    ehr.put("002", Duration::ZERO);
    minutes(2).await;
    assert_eq!(overlap(), 5 * MINUTE);
    // Committed late: the cursor stands two minutes ago, and this lies four and a half before it.
    ehr.put("003", 6 * MINUTE + MINUTE / 2);
    minutes(2).await;
    assert_eq!(events(&store).await.len(), 3);
    assert_eq!(overlap(), 9 * MINUTE);
    minutes(8 * 24 * 60).await;
    assert_eq!(overlap(), 5 * MINUTE, "a week later it is forgotten");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_feed_whose_source_hangs_is_reported_as_frozen() {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    ehr.put("001", HOUR);
    let running = run(&store, &ehr, swept(&ehr));
    minutes(20).await;
    assert!(running.report().frozen_feeds.is_empty());
    ehr.open().hangs = true;
    minutes(14).await;
    assert!(running.report().frozen_feeds.is_empty());
    minutes(3).await;
    let report = running.report();
    let stale = report.frozen_feeds["mercy"]["patients"].stale_seconds;
    assert!((15 * 60..18 * 60).contains(&stale), "{stale} s");
    assert!(
        report.ready,
        "one source that hangs is no reason to send the work elsewhere"
    );
    running.end().await;
    let running = run(&store, &ehr, swept(&ehr));
    minutes(16).await;
    assert_eq!(
        running.report().frozen_feeds["mercy"].len(),
        1,
        "after a restart too"
    );
    running.end().await;
}
