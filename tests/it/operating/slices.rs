//! What one answer lists and what one write takes: asked of the store itself, without the binary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock as _, ConnectionName, FeedName, RecordId, RecordKey, RecordType, Resume};
use ehr_courier::clock::SystemClock;
use ehr_courier::operate::ask::DeadLetterFilter;
use ehr_courier::operate::{Answer, Ask, Desk, ROWS_MAX, Refusal, answer};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{
    AcceptPage, ContextRule, Holder, LeaseRequest, PollId, PollRef, Progress, Sights, Store, Unchanged,
};
use tempfile::TempDir;

fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

fn record(id: usize) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Location").unwrap(),
        id: RecordId::parse(&id.to_string()).unwrap(),
    }
}

fn open(folder: &TempDir) -> (Arc<SqliteStore>, Desk) {
    let path = folder.path().join("courier.db");
    let store = Arc::new(SqliteStore::open(&path, OpenMode::Service).unwrap());
    let desk = Desk {
        store: Arc::<SqliteStore>::clone(&store),
        clock: Arc::new(SystemClock),
        connections: BTreeMap::from([(mercy(), Vec::new())]),
        connectors: BTreeMap::new(),
        overlaps: BTreeMap::new(),
        starts: BTreeMap::new(),
        destinations: BTreeMap::new(),
        subscriptions: Vec::new(),
    };
    (store, desk)
}

/// Puts so many records into quarantine.
async fn quarantine(store: &SqliteStore, records: usize) {
    let now = SystemClock.now();
    let lease = LeaseRequest {
        connection: mercy(),
        holder: Holder("one".to_owned()),
        ttl: Duration::from_hours(1),
    };
    let fence = store.acquire_lease(&lease, now).await.unwrap().unwrap();
    let page = AcceptPage {
        poll: PollRef {
            connection: mercy(),
            feed: FeedName::parse("rooms").unwrap(),
            fence,
            poll: PollId(0),
        },
        from: None,
        changes: Vec::new(),
        oversized: (0..records).map(record).collect(),
        joins: None,
        progress: Progress::Page(Resume::new("2".to_owned())),
        context: ContextRule::None,
        unchanged: Unchanged::Tell,
        sights: Sights::All,
        fresh_as_of: now,
        at: now,
    };
    store.accept_page(&page).await.unwrap();
}

#[tokio::test]
async fn a_large_quarantine_is_redriven_in_slices_between_which_others_write() {
    let folder = TempDir::new().unwrap();
    let (store, desk) = open(&folder);
    quarantine(&store, 2_500).await;
    let before = store.operations();
    let ask = Ask::RedriveQuarantine {
        connection: "mercy".to_owned(),
    };
    let Answer::Redriven(redriven) = answer(&desk, &ask).await.unwrap() else {
        panic!("another answer")
    };
    assert_eq!(redriven, 2_500);
    assert_eq!(store.operations() - before, 3);
    assert_eq!(store.quarantine(10).await.unwrap(), []);
}

#[tokio::test]
async fn a_listing_of_dead_letters_is_bounded_as_every_other() {
    let folder = TempDir::new().unwrap();
    let (_store, desk) = open(&folder);
    let listed = async |limit| {
        let filter = DeadLetterFilter {
            limit,
            ..DeadLetterFilter::default()
        };
        answer(&desk, &Ask::DeadLetters(filter)).await
    };
    assert!(matches!(listed(ROWS_MAX + 1).await, Err(Refusal::Usage(_))));
    for fine in [0, 1, ROWS_MAX] {
        assert!(matches!(listed(fine).await, Ok(Answer::DeadLetters(_))));
    }
}
