//! Schema migration: a file that an earlier version wrote is brought up to date and gone on with; a newer one is refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use courier_sdk::{ConnectionName, Cursor, FeedName};
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord, DeliveryState};
use ehr_courier::domain::fan_out::{ConnectionSet, ContentLevel, Format, From, Subscription, Topic};
use ehr_courier::domain::identity::EventId;
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{
    ClaimDeliveries, Definitions, Flow, Holder, LeaseRequest, SetFlow, Store as _, StoreError,
};
use jiff::Timestamp;
use rusqlite::{Connection, params};

const EVENT: &str = "ev_n7dupfsfpcb42hcyuzd7b5e3c3uobn6i";
const BODY: &str = r#"{"resourceType":"Appointment","id":"17","synthetic":1.10}"#;

/// The schema's steps as they were released: they never change.
const STEPS: [&str; 2] = [
    include_str!("../../src/store/sqlite/schema/0001.sql"),
    include_str!("../../src/store/sqlite/schema/0002.sql"),
];

/// A blob as versions 1 and 2 wrote it: the form byte, then a zstd frame, here of one raw block.
fn sealed(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    let block = (u32::from(length) << 3 | 1).to_le_bytes();
    let mut blob = vec![1, 0x28, 0xb5, 0x2f, 0xfd, 0x20, length];
    blob.extend(&block[..3]);
    blob.extend(text.as_bytes());
    blob
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

/// Writes a file of an earlier version: one event, owed as number 7, on a feed with a cursor.
fn file_of_version(path: &Path, version: usize) {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    for step in &STEPS[..version] {
        db.execute_batch(step).unwrap();
    }
    db.pragma_update(None, "user_version", i64::try_from(version).unwrap())
        .unwrap();
    let now = i64::try_from(at(0).as_nanosecond()).unwrap();
    db.execute_batch(
        "UPDATE store SET revision = 4;
         INSERT INTO connection (name, in_force, fence, holder, last_event, fanned_event)
             VALUES ('mercy', 1, 3, 'worker-gone', 1, 1);
         INSERT INTO subscription VALUES ('all', '*', '*', 'now', 'full-resource', 'cloudevents', 'hook');
         INSERT INTO standing (connection, subscription, after, last_number, in_force) VALUES ('mercy', 'all', 0, 7, 1);",
    )
    .unwrap();
    db.execute(
        "INSERT INTO feed (connection, name, cursor, poll, stage, baseline, advanced_at)
         VALUES ('mercy', 'appointments', ?1, 12, 'none', 'complete', ?2)",
        params![sealed("2026"), now],
    )
    .unwrap();
    db.execute(
        "INSERT INTO accepted (connection, event_id, shown_at, head) VALUES ('mercy', ?1, ?2, 1)",
        params![EVENT, now],
    )
    .unwrap();
    db.execute(
        "INSERT INTO event (connection, position, id, record_type, record_id, version, version_id, kind, fresh_as_of,
             recorded_at, late, feed, body)
         VALUES ('mercy', 1, ?1, 'Appointment', '17', 'v:3', '3', 'updated', ?2, ?2, 0, 'appointments', ?3)",
        params![EVENT, now, sealed(BODY)],
    )
    .unwrap();
    db.execute(
        "INSERT INTO delivery (subscription, connection, event, number, record_type, record_id, destination, content,
             format, renderer, state, ready, attempts, scheduled_from, due_at, replay)
         VALUES ('all', 'mercy', 1, 7, 'Appointment', '17', 'hook', 'full-resource', 'cloudevents', 1, 'pending', 1, 0,
             ?1, ?1, 0)",
        params![now],
    )
    .unwrap();
}

fn definitions() -> Definitions {
    let hook = DestinationName::parse("hook").unwrap();
    Definitions {
        connections: BTreeSet::from([ConnectionName::parse("mercy").unwrap()]),
        destinations: BTreeSet::from([hook.clone()]),
        subscriptions: vec![Subscription {
            name: SubscriptionName::parse("all").unwrap(),
            connections: ConnectionSet::All,
            topic: Topic::Any,
            from: From::Now,
            content: ContentLevel::FullResource,
            format: Format::CloudEvents,
            destination: hook,
        }],
    }
}

/// What was owed is delivered, under its number and with its body; what operators ask works on the old rows.
async fn goes_on(store: &SqliteStore) {
    let mercy = ConnectionName::parse("mercy").unwrap();
    store.define(&definitions(), at(1)).await.unwrap();
    assert_eq!(store.epoch().await.unwrap().as_str().len(), 32);
    let feed = store
        .feed(&mercy, &FeedName::parse("appointments").unwrap())
        .await
        .unwrap();
    assert_eq!(feed.cursor, Some(Cursor::new("2026".to_owned())));
    let holder = Holder("worker-new".to_owned());
    let lease = LeaseRequest {
        connection: mercy.clone(),
        holder: holder.clone(),
        ttl: Duration::from_mins(1),
    };
    let fence = store.acquire_lease(&lease, at(1)).await.unwrap().unwrap();
    assert_eq!(
        fence.0, 4,
        "the leases of the old process are over, its fences stay"
    );
    let claim = ClaimDeliveries {
        holder,
        destination: DestinationName::parse("hook").unwrap(),
        limit: 10,
        at: at(2),
    };
    let mut set = SetFlow {
        subscription: SubscriptionName::parse("all").unwrap(),
        flow: Flow::Paused,
        at: at(2),
    };
    store.set_flow(&set).await.unwrap();
    assert!(store.claim_deliveries(&claim).await.unwrap().is_empty());
    set.flow = Flow::Flowing;
    store.set_flow(&set).await.unwrap();
    let claimed = store.claim_deliveries(&claim).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].delivery.number, 7);
    assert_eq!(
        claimed[0].event.record.as_ref().unwrap().bytes().as_ref(),
        BODY.as_bytes()
    );
    let attempt = AttemptRecord {
        id: claimed[0].delivery.id,
        connection: mercy,
        fence,
        outcome: AttemptOutcome::Delivered {
            detail: "204".to_owned(),
        },
        at: at(3),
    };
    assert_eq!(store.record_attempts(&[attempt]).await.unwrap().recorded, 1);
    let event = store
        .event(&EventId::parse(EVENT).unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.deliveries[0].state, DeliveryState::Done);
}

#[tokio::test]
async fn schema_migration_goes_on_with_a_file_of_each_earlier_version() {
    for version in 1..=STEPS.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("courier.db");
        file_of_version(&path, version);
        let untouched = SqliteStore::read_only(&path).map(drop);
        assert!(
            matches!(&untouched, Err(StoreError::Unusable { reason }) if reason.contains("run the service once")),
            "{untouched:?}"
        );
        let store = SqliteStore::open(&path, OpenMode::Service).unwrap();
        goes_on(&store).await;
        let epoch = store.epoch().await.unwrap();
        drop(store);
        let store = SqliteStore::open(&path, OpenMode::Service).unwrap();
        assert_eq!(
            store.epoch().await.unwrap(),
            epoch,
            "it is brought up to date once"
        );
    }
}

#[test]
fn schema_migration_refuses_a_newer_file_and_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("courier.db");
    file_of_version(&path, STEPS.len());
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    for opened in [
        SqliteStore::open(&path, OpenMode::Service).map(drop),
        SqliteStore::read_only(&path).map(drop),
    ] {
        let Err(StoreError::Unusable { reason }) = opened else {
            panic!("{opened:?}");
        };
        assert!(reason.contains("version 99"), "{reason}");
    }
    let version: i64 = Connection::open(&path)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}
