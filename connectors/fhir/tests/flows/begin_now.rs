//! Feeds that begin now: what they announce, whatever `Date` and our own clock say.

use std::collections::BTreeSet;

use courier_sdk::{ChangeRef, Connector as _, Novelty, Start};

use super::server::{Server, at, connector};
use super::{done, feed, name, names, one_page, poll, set};

#[tokio::test]
async fn a_feed_from_now_on_announces_what_changes_and_not_what_was() {
    let server = Server::new(2);
    for (id, second) in [("a", 100), ("b", 900), ("c", 950)] {
        server.put(id, second);
    }
    let spec = feed(Start::Now);
    let (changes, next) = poll(&server, &spec, None).await;
    let cursor = done(next);
    // Our clock is 1000 seconds ahead: the first look sees nothing, and still begins at the server's present.
    assert!(changes.is_empty());
    assert!(names(&changes, Novelty::Announce).is_empty());
    assert_eq!(connector(&server).describe(&cursor), Some(at(1000)));

    server.set_now(1060);
    server.put("a", 1030);
    server.put("d", 960); // committed late: stamped before the start
    let (changes, next) = poll(&server, &spec, Some(&cursor)).await;
    assert_eq!(names(&changes, Novelty::Announce), set(["a@2"]));
    assert_eq!(names(&changes, Novelty::Silent), set(["b@1", "c@1", "d@1"]));
    assert_eq!(connector(&server).describe(&done(next)), Some(at(1030)));
}

/// Begins a feed at 10 000 with `Date` off by so many seconds, right again after the first poll or never, and
/// returns what is announced of 40 records from before that, of 40 from after it, and of one committed late.
async fn begin_with(skew: i64, rows_before: bool, page_size: usize) -> [usize; 3] {
    let server = Server::new(page_size);
    server.set_now(10_000);
    server.with(|state| (state.ours, state.date_skew) = (10_000, skew));
    for number in 0..40 {
        // Half of them lie before the overlap.
        let second = if rows_before {
            9400 + number * 15 - 1
        } else {
            5000 + number
        };
        server.put(&format!("old{number}"), second);
    }
    let spec = feed(Start::Now);
    let (first, next) = poll(&server, &spec, None).await;
    let mut announced = names(&first, Novelty::Announce);
    let mut known: BTreeSet<String> = first.iter().map(name).collect();
    let mut cursor = done(next);
    server.put("late", 9990);
    for round in 1..=4 {
        for number in 0..10 {
            server.put(
                &format!("new{}", round * 10 + number),
                10_000 + round * 60 - number,
            );
        }
        server.set_now(10_000 + round * 60);
        server.with(|state| {
            state.ours = state.now;
            // A date of decades hence is a passing fault; an hour stays.
            state.date_skew = if skew.abs() > 3600 { 0 } else { skew };
        });
        let (changes, next) = poll(&server, &spec, Some(&cursor)).await;
        // The ledger announces nothing twice, and nothing that it took in silence.
        let fresh: Vec<ChangeRef> = changes
            .into_iter()
            .filter(|change| known.insert(name(change)))
            .collect();
        announced.extend(names(&fresh, Novelty::Announce));
        cursor = done(next);
    }
    ["old", "new", "late"].map(|kind| announced.iter().filter(|name| name.starts_with(kind)).count())
}

#[tokio::test]
async fn nothing_that_changes_after_the_first_poll_is_lost_whatever_date_says() {
    let decades = 2_300_000_000; // 2099
    // Date's error, whether records lie within the overlap, the page size, then the old ones announced.
    for (skew, rows_before, page_size, old) in [
        (0, true, 100, 0),
        (0, true, 8, 0),
        (0, false, 100, 0),
        (3600, true, 100, 0),
        (3600, true, 8, 0),
        (3600, false, 100, 0),
        // Those within the overlap.
        (-3600, true, 100, 19),
        (-3600, true, 8, 19),
        (-3600, false, 100, 0),
        (decades, true, 100, 0),
        (decades, true, 8, 0),
        (decades, false, 100, 0),
    ] {
        let [invented, new, late] = begin_with(skew, rows_before, page_size).await;
        let case = format!("{skew} {rows_before} {page_size}");
        assert_eq!((new, invented), (40, old), "{case}");
        // A late commit stamped before the beginning is told apart from the old ones where one answer held them all.
        if page_size == 100 {
            assert_eq!(late, 1, "{case}");
        }
    }
}

#[tokio::test]
async fn the_beginning_is_kept_though_the_first_polls_further_pages_fail() {
    let server = Server::new(2);
    server.with(|state| state.ours = 1000);
    for number in 0..6 {
        server.put(&format!("old{number}"), 900 + number);
    }
    let spec = feed(Start::Now);
    let first = one_page(&server, &spec, None, None).await.unwrap();
    assert_eq!(names(&first.changes, Novelty::Announce), set([]));
    let cursor = done(first.next);
    server.put("new", 1030);
    server.with(|state| (state.now, state.fail) = (1060, Some(500)));
    assert!(one_page(&server, &spec, Some(&cursor), None).await.is_err());
    server.with(|state| (state.now, state.fail) = (1120, None));
    let (changes, _) = poll(&server, &spec, Some(&cursor)).await;
    assert_eq!(names(&changes, Novelty::Announce), set(["new@1"]));
}
