//! A source that writes all its records anew: what changed is told of, what did not is not, once that is recognised.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use courier_sdk::Detect;
use ehr_courier::pipeline::connection::{Feed, Overlap};
use ehr_courier::store::Store as _;
use ehr_courier::store::memory::MemoryStore;

use super::ehr::*;

const HOUR: Duration = Duration::from_hours(1);
const RECORDS: usize = 1_000;

/// Twice the least that is taken for usual: 600.
fn watched(feed: Feed, factor: Option<u32>) -> Feed {
    Feed {
        storm: factor.map(|factor| NonZeroU32::new(factor).unwrap()),
        ..feed
    }
}

fn name(number: usize) -> String {
    format!("{number:04}")
}

/// A source with a thousand records, all told of, and polled for long enough to know what is usual.
async fn quiet(feed: Feed) -> (Ehr, MemoryStore, Running) {
    let (ehr, store) = (Ehr::new(), MemoryStore::new());
    for number in 0..RECORDS {
        ehr.put(&name(number), HOUR);
    }
    let running = run(&store, &ehr, vec![feed]);
    minutes(15).await;
    assert_eq!(events(&store).await.len(), RECORDS);
    (ehr, store, running)
}

/// Writes all records anew, and changes some of them.
fn reindex(ehr: &Ehr, changed: &[usize]) {
    for number in 0..RECORDS {
        if changed.contains(&number) {
            ehr.put(&name(number), Duration::ZERO);
        } else {
            ehr.touch(&name(number));
        }
    }
}

async fn told_again(store: &MemoryStore) -> BTreeSet<String> {
    let all = events(store).await;
    let again = all.into_iter().skip(RECORDS);
    again
        .filter_map(|event| Some(event.split(' ').next()?.to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn in_a_storm_what_changed_is_told_of_and_what_did_not_is_not() {
    let (ehr, store, running) = quiet(watched(listing(), Some(2))).await;
    ehr.open().takes = Duration::from_secs(2);
    reindex(&ehr, &[950, 990]);
    minutes(3).await;
    let flood = &running.report().storms["mercy"]["patients"];
    assert!(flood.versions > 600, "{}", flood.versions);
    ehr.open().takes = Duration::ZERO;
    minutes(10).await;
    assert!(running.report().storms.is_empty(), "it is over");
    assert!(running.report().ready);
    let again = told_again(&store).await;
    assert!(
        again.contains(&name(950)) && again.contains(&name(990)),
        "what changed"
    );
    // Told were those that came before anybody could know, and no others.
    assert!((600..=640).contains(&again.len()), "{}", again.len());
    let waiting = store.backlog(&mercy()).await.unwrap();
    assert_eq!((waiting.inbox, waiting.quarantine), (0, 0));
    // After it a version without a change is an event again.
    ehr.touch(&name(7));
    minutes(3).await;
    assert!(told_again(&store).await.contains(&name(7)));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_guard_and_without_a_flood_all_is_told_of() {
    let (ehr, store, running) = quiet(watched(listing(), None)).await;
    reindex(&ehr, &[]);
    minutes(10).await;
    assert_eq!(told_again(&store).await.len(), RECORDS);
    running.end().await;
    let (ehr, store, running) = quiet(watched(feed(Detect::LastUpdated, Overlap::Fixed), Some(4))).await;
    reindex(&ehr, &[]);
    minutes(10).await;
    assert_eq!(
        told_again(&store).await.len(),
        RECORDS,
        "1,000 are no more than four times 300"
    );
    running.end().await;
}
