//! Schema migration: a file that an earlier version wrote is brought up to date, keeps every row and is gone on with; a
//! newer one is refused.

mod earlier;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{Cursor, FeedName, Meaning, Novelty, Record, Resume, Shown};
use ehr_courier::domain::canonical::ContentHash;
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord, DeliveryState, Fence};
use ehr_courier::domain::event::{Change, Content, VersionClue, VersionOrder};
use ehr_courier::domain::fan_out::{
    self, ConnectionSet, ContentLevel, Format, From, SliceLimits, Subscription, Topic,
};
use ehr_courier::domain::identity::VersionKey;
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{
    AcceptPage, BaselineProof, ClaimChanges, ClaimDeliveries, ContextRule, DeadLetterQuery, Definitions,
    EventQuery, FanOut, Flow, Holder, Lane, LeaseRequest, PollId, PollRef, Progress, ReleaseStage, SetFlow,
    SettleChanges, SettleResult, Settlement, Sights, StageState, Store as _, StoreError, Sweep, Unchanged,
};
use rusqlite::Connection;

use earlier::{
    CONTEXT, CONTROL, DEAD, DONE, EPOCH, INCLUDED, MEANING, OWED, QUARANTINED, STAGED, STEPS, TRACE, TRACES,
    WAITING, at, body, event_id, file_of_version, key, mercy,
};

fn feed(name: &str) -> FeedName {
    FeedName::parse(name).unwrap()
}

fn cursor(text: &str) -> Cursor {
    Cursor::new(text.to_owned())
}

fn all() -> SubscriptionName {
    SubscriptionName::parse("all").unwrap()
}

fn hook() -> DestinationName {
    DestinationName::parse("hook").unwrap()
}

fn holder() -> Holder {
    Holder("worker-new".to_owned())
}

fn definitions() -> Definitions {
    Definitions {
        connections: BTreeSet::from([mercy()]),
        destinations: BTreeSet::from([hook()]),
        subscriptions: vec![Subscription {
            name: all(),
            connections: ConnectionSet::All,
            topic: Topic::Any,
            from: From::Now,
            content: ContentLevel::FullResource,
            format: Format::CloudEvents,
            destination: hook(),
        }],
    }
}

/// A version that came along with its page, or was fetched.
fn version(id: &str, number: u64) -> Change {
    let version = VersionKey::of_version_id(&number.to_string());
    Change {
        key: key(id),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: Some(number.to_string()),
        version: VersionClue::Known(version, event_id(id, number)),
        order: VersionOrder {
            number: Some(number),
            stamp: Some(at(i64::try_from(number).unwrap())),
        },
        first_version: false,
        content: Some(Content {
            record: Record::new(Bytes::from(body(id, number))),
            hash: ContentHash::from_stored(format!("hash {number}")),
            meaning: None,
            context: None,
        }),
        trace: None,
    }
}

/// What was kept reads as it was written.
async fn keeps_its_rows(store: &SqliteStore, written_by: usize) {
    let appointments = store.feed(&mercy(), &feed("appointments")).await.unwrap();
    assert_eq!(appointments.cursor, Some(cursor("2026")));
    assert_eq!(appointments.resume, Some(Resume::new("page 3".to_owned())));
    assert_eq!(appointments.poll, PollId(12));
    assert_eq!(
        (appointments.advanced_at, appointments.fresh_as_of),
        (Some(at(0)), Some(at(0)))
    );
    let history = store.feed(&mercy(), &feed("history")).await.unwrap();
    assert_eq!(
        (history.cursor, history.stage),
        (Some(cursor("2025")), StageState::Releasing)
    );
    let query = EventQuery {
        limit: 100,
        ..EventQuery::default()
    };
    assert_eq!(store.events(&query).await.unwrap().len(), 3);
    for (id, state, number) in [
        (DONE, DeliveryState::Done, 5),
        (DEAD, DeliveryState::Dead, 6),
        (OWED, DeliveryState::Pending, 7),
    ] {
        let detail = store.event(&event_id(id, 1)).await.unwrap().unwrap();
        let record = detail.event.record.unwrap();
        assert_eq!(record.bytes().as_ref(), body(id, 1).as_bytes());
        assert_eq!(
            (detail.deliveries[0].state, detail.deliveries[0].number),
            (state, number)
        );
        assert_eq!(detail.deliveries[0].last_outcome.as_deref(), Some("503"));
        let trace = detail.event.trace.map(|trace| trace.to_string());
        assert_eq!(trace.as_deref(), (written_by >= TRACES).then_some(TRACE));
        let context = detail.event.context.map(|context| context.included);
        let included = Record::new(Bytes::from_static(INCLUDED.as_bytes()));
        assert_eq!(context, (written_by >= CONTEXT).then_some(vec![included]));
        let merged = Meaning::merged_into(Some("Patient/7".to_owned()));
        assert_eq!(detail.event.meaning, (written_by >= MEANING).then_some(merged));
    }
    let depths = store.depths().await.unwrap()[&mercy()];
    let counts = depths.places().map(|(_, count)| count);
    assert_eq!(counts, [1, 1, 1, 0, 1, 1], "{:?}", depths.places());
    let quarantined = store.quarantine(10).await.unwrap();
    assert_eq!(quarantined[0].key, key(QUARANTINED));
    assert_eq!(quarantined[0].reason, "larger than the limit");
    let (paused, audit) = (store.paused().await.unwrap(), store.audit(10).await.unwrap());
    let epoch = store.epoch().await.unwrap();
    if written_by >= CONTROL {
        assert_eq!((paused[0].subscription.clone(), paused[0].since), (all(), at(0)));
        assert_eq!(audit[0].action, "subscriptions pause");
        assert_eq!(epoch.as_str(), EPOCH);
    } else {
        assert!(paused.is_empty() && audit.is_empty());
        assert_eq!(epoch.as_str().len(), 32);
    }
}

/// Every stage goes on from its rows: what was shown is known, what waited becomes events, and they are numbered on.
async fn takes_in(store: &SqliteStore, fence: Fence) {
    polls(store, fence).await;
    fetches(store, fence).await;
    fans_out(store, fence).await;
}

async fn polls(store: &SqliteStore, fence: Fence) {
    let poll_of = |name: &str, poll: u64| PollRef {
        connection: mercy(),
        feed: feed(name),
        fence,
        poll: PollId(poll),
    };
    let page = AcceptPage {
        poll: poll_of("appointments", 12),
        from: Some(cursor("2026")),
        changes: vec![version(DONE, 1), version(OWED, 1), version(OWED, 2)],
        oversized: Vec::new(),
        joins: None,
        progress: Progress::Done {
            cursor: cursor("2027"),
            baseline: BaselineProof::Unproven,
        },
        context: ContextRule::None,
        unchanged: Unchanged::Tell,
        sights: Sights::All,
        fresh_as_of: at(2),
        at: at(2),
    };
    let accepted = store.accept_page(&page).await.unwrap();
    assert_eq!((accepted.known, accepted.appended), (2, 1));
    let release = ReleaseStage {
        poll: poll_of("history", 4),
        limit: 10,
        context: ContextRule::None,
        unchanged: Unchanged::Tell,
        at: at(2),
    };
    let released = store.release_stage(&release).await.unwrap();
    assert_eq!(
        (released.accepted.appended, released.stage),
        (1, StageState::None)
    );
    let history = store.feed(&mercy(), &feed("history")).await.unwrap();
    assert_eq!(history.cursor, Some(cursor("2026")));
}

async fn fetches(store: &SqliteStore, fence: Fence) {
    assert_eq!(store.redrive_quarantine(&mercy(), at(2)).await.unwrap(), 1);
    let claim = ClaimChanges {
        connection: mercy(),
        fence,
        limit: 10,
        last: BTreeSet::new(),
        at: at(3),
    };
    let claimed = store.claim_changes(&claim).await.unwrap();
    let waited: Vec<_> = claimed
        .iter()
        .map(|one| (one.change.key.id.as_str(), one.attempts))
        .collect();
    assert_eq!(waited, [(WAITING, 2), (QUARANTINED, 0)]);
    let settle = SettleChanges {
        connection: mercy(),
        fence,
        unchanged_untold: BTreeSet::new(),
        settlements: claimed
            .iter()
            .map(|one| Settlement {
                id: one.id,
                generation: one.generation,
                result: SettleResult::Fetched(version(one.change.key.id.as_str(), 1)),
            })
            .collect(),
        at: at(3),
    };
    assert_eq!(store.settle_changes(&settle).await.unwrap().appended, 2);
}

async fn fans_out(store: &SqliteStore, fence: Fence) {
    let view = store.fan_out_view(&mercy(), &Lane::Common, 100).await.unwrap();
    assert_eq!(view.events.len(), 4);
    let members: Vec<_> = view.members.iter().map(|(it, standing)| (it, standing)).collect();
    let limits = SliceLimits {
        rows: 100,
        outbox: 100,
    };
    let slice = fan_out::slice(&view.position, &view.events, &members, limits, at(3));
    let slice = FanOut {
        connection: mercy(),
        fence,
        lane: Lane::Common,
        from: view.position,
        revision: view.revision,
        owed: slice.owed,
        to: slice.to,
        suspended: slice.suspended,
        at: at(3),
    };
    store.fan_out(&slice).await.unwrap();
}

/// All that is owed is delivered, record by record, under the numbers that follow the old ones.
async fn delivers(store: &SqliteStore) {
    let mut flow = SetFlow {
        subscription: all(),
        flow: Flow::Paused,
        at: at(4),
    };
    let claim = ClaimDeliveries {
        holder: holder(),
        destination: hook(),
        limit: 10,
        at: at(4),
    };
    store.set_flow(&flow).await.unwrap();
    assert!(store.claim_deliveries(&claim).await.unwrap().is_empty());
    flow.flow = Flow::Flowing;
    store.set_flow(&flow).await.unwrap();
    let dead = DeadLetterQuery::default();
    assert_eq!(store.redrive(&dead, at(4)).await.unwrap(), 1);
    let mut sent = Vec::new();
    loop {
        let claimed = store.claim_deliveries(&claim).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        for one in claimed {
            let id = one.event.key.id.as_str();
            let number = if one.event.version.as_str() == "v:2" { 2 } else { 1 };
            let record = one.event.record.as_ref().unwrap();
            assert_eq!(record.bytes().as_ref(), body(id, number).as_bytes());
            sent.push((one.delivery.number, format!("{id} v:{number}")));
            let attempt = AttemptRecord {
                id: one.delivery.id,
                connection: mercy(),
                fence: one.fence,
                outcome: AttemptOutcome::Delivered {
                    detail: "204".to_owned(),
                },
                at: at(5),
            };
            assert_eq!(store.record_attempts(&[attempt]).await.unwrap().recorded, 1);
        }
    }
    let place = |wanted: &str| {
        sent.iter()
            .position(|(_, what)| *what == format!("{OWED} {wanted}"))
    };
    assert!(place("v:1") < place("v:2"), "one record's versions in order");
    sent.sort();
    let named: Vec<_> = sent
        .iter()
        .map(|(number, what)| (*number, what.as_str()))
        .collect();
    let wanted = [
        (6, format!("{DEAD} v:1")),
        (7, format!("{OWED} v:1")),
        (8, format!("{OWED} v:2")),
        (9, format!("{STAGED} v:1")),
        (10, format!("{WAITING} v:1")),
        (11, format!("{QUARANTINED} v:1")),
    ];
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(number, what)| (*number, what.as_str()))
        .collect();
    assert_eq!(named, wanted);
    sweeps(store).await;
}

async fn sweeps(store: &SqliteStore) {
    let sweep = Sweep {
        at: at(1_000),
        retention: Duration::from_secs(1),
        unseen_for: Duration::from_hours(24),
        stamped_before: [(mercy(), at(1_000 - 24 * 3_600))].into(),
        limit: 100,
    };
    let swept = store.sweep(&sweep).await.unwrap();
    assert_eq!((swept.deliveries, swept.events), (7, 7), "all of it is settled");
}

#[tokio::test]
async fn schema_migration_goes_on_with_a_file_of_each_earlier_version() {
    for version in 1..=STEPS.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("courier.db");
        file_of_version(&path, version);
        let untouched = SqliteStore::read_only(&path).map(drop);
        if version < STEPS.len() {
            assert!(
                matches!(&untouched, Err(StoreError::Unusable { reason }) if reason.contains("run the service once")),
                "{untouched:?}"
            );
        }
        let store = SqliteStore::open(&path, OpenMode::Service).unwrap();
        keeps_its_rows(&store, version).await;
        store.define(&definitions(), at(1)).await.unwrap();
        keeps_its_rows(&store, version).await;
        let lease = LeaseRequest {
            connection: mercy(),
            holder: holder(),
            ttl: Duration::from_mins(1),
        };
        let fence = store.acquire_lease(&lease, at(1)).await.unwrap().unwrap();
        assert_eq!(
            fence.0, 4,
            "the leases of the old process are over, its fences stay"
        );
        takes_in(&store, fence).await;
        let epoch = store.epoch().await.unwrap();
        drop(store);
        let store = SqliteStore::open(&path, OpenMode::Service).unwrap();
        assert_eq!(
            store.epoch().await.unwrap(),
            epoch,
            "it is brought up to date once"
        );
        store.acquire_lease(&lease, at(4)).await.unwrap().unwrap();
        delivers(&store).await;
    }
}

/// A step that is added to the schema is added here, with rows of what it brought.
#[test]
fn schema_migration_is_tried_from_every_step_that_there_is() {
    let folder = crate::tidy::root().join("src/store/sqlite/schema");
    let mut steps: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    steps.sort();
    let texts: Vec<String> = steps
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(texts, STEPS);
}

#[test]
fn schema_migration_refuses_a_newer_file_and_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("courier.db");
    file_of_version(&path, STEPS.len());
    set_version(&path, 99);
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

fn set_version(path: &Path, version: i64) {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
}
