//! Files as earlier versions wrote them: one connection in the middle of its work, with a row in every table that the
//! version had.

use std::path::Path;

use courier_sdk::{ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::domain::identity::{EventId, VersionKey};
use jiff::Timestamp;
use rusqlite::{Connection, params};

/// The schema's steps as they were released: they never change.
pub(super) const STEPS: [&str; 8] = [
    include_str!("../../../src/store/sqlite/schema/0001.sql"),
    include_str!("../../../src/store/sqlite/schema/0002.sql"),
    include_str!("../../../src/store/sqlite/schema/0003.sql"),
    include_str!("../../../src/store/sqlite/schema/0004.sql"),
    include_str!("../../../src/store/sqlite/schema/0005.sql"),
    include_str!("../../../src/store/sqlite/schema/0006.sql"),
    include_str!("../../../src/store/sqlite/schema/0007.sql"),
    include_str!("../../../src/store/sqlite/schema/0008.sql"),
];

/// The versions that brought an epoch with pauses and an audit, traces, context, and meaning.
pub(super) const CONTROL: usize = 3;
pub(super) const TRACES: usize = 4;
pub(super) const CONTEXT: usize = 5;
pub(super) const MEANING: usize = 8;

/// The records by what became of their first event: arrived, given up, and still owed.
pub(super) const DONE: &str = "17";
pub(super) const DEAD: &str = "18";
pub(super) const OWED: &str = "19";
/// The records whose change waits: for a fetch, in quarantine, and in a stage that is being released.
pub(super) const WAITING: &str = "20";
pub(super) const QUARANTINED: &str = "21";
pub(super) const STAGED: &str = "22";

pub(super) const TRACE: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
pub(super) const EPOCH: &str = "000102030405060708090a0b0c0d0e0f";
pub(super) const INCLUDED: &str = r#"{"resourceType":"Patient","id":"7","synthetic":true}"#;

pub(super) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

pub(super) fn key(id: &str) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Appointment").unwrap(),
        id: RecordId::parse(id).unwrap(),
    }
}

pub(super) fn event_id(id: &str, version: u64) -> EventId {
    let version = VersionKey::of_version_id(&version.to_string());
    EventId::derive(&mercy(), &key(id), &version)
}

pub(super) fn body(id: &str, version: u64) -> String {
    format!(r#"{{"resourceType":"Appointment","id":"{id}","v":{version},"synthetic":1.10}}"#)
}

fn now() -> i64 {
    i64::try_from(at(0).as_nanosecond()).unwrap()
}

/// A blob as every version writes it without a key: the form byte, then a zstd frame, here of one raw block.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    let block = (u32::from(length) << 3 | 1).to_le_bytes();
    let mut blob = vec![1, 0x28, 0xb5, 0x2f, 0xfd, 0x20, length];
    blob.extend(&block[..3]);
    blob.extend(bytes);
    blob
}

/// The stored form of a context: how many records, each after its length, and no reference that leads nowhere.
fn context() -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(1_u64.to_be_bytes());
    bytes.extend((INCLUDED.len() as u64).to_be_bytes());
    bytes.extend(INCLUDED.as_bytes());
    bytes.extend(0_u64.to_be_bytes());
    sealed(&bytes)
}

/// Writes the file.
pub(super) fn file_of_version(path: &Path, version: usize) {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    for step in &STEPS[..version] {
        db.execute_batch(step).unwrap();
    }
    db.pragma_update(None, "user_version", i64::try_from(version).unwrap())
        .unwrap();
    db.execute_batch(
        "UPDATE store SET revision = 4;
         INSERT INTO connection (name, in_force, fence, holder, last_event, fanned_event)
             VALUES ('mercy', 1, 3, 'worker-gone', 3, 3);
         INSERT INTO subscription VALUES ('all', '*', '*', 'now', 'full-resource', 'cloudevents', 'hook');
         INSERT INTO standing (connection, subscription, after, last_number, in_force) VALUES ('mercy', 'all', 0, 7, 1);",
    )
    .unwrap();
    if version >= 2 {
        db.execute("INSERT INTO destination VALUES ('hook')", []).unwrap();
    }
    write_feeds(&db);
    write_what_waits(&db);
    for (position, id, state) in [(1, DONE, "done"), (2, DEAD, "dead"), (3, OWED, "pending")] {
        write_event(&db, position, id);
        write_delivery(&db, position, (id, state), version);
    }
    if version >= CONTROL {
        db.execute("UPDATE store SET epoch = ?1", [EPOCH]).unwrap();
        db.execute("INSERT INTO pause VALUES ('all', ?1)", [now()])
            .unwrap();
        db.execute(
            "INSERT INTO audit (at, action, subject, detail) VALUES (?1, 'subscriptions pause', 'all', '')",
            [now()],
        )
        .unwrap();
    }
    if version >= TRACES {
        for table in ["stage", "inbox", "quarantine", "event"] {
            db.execute(&format!("UPDATE {table} SET trace = ?1"), [TRACE])
                .unwrap();
        }
    }
    if version >= CONTEXT {
        db.execute("UPDATE event SET context = ?1", [context()]).unwrap();
    }
    if version >= MEANING {
        db.execute("UPDATE event SET meaning = 'merged Patient/7'", [])
            .unwrap();
        db.execute("UPDATE stage SET meaning = 'cancelled'", []).unwrap();
        db.execute("UPDATE head SET merged = 1", []).unwrap();
    }
}

/// One feed in the middle of a poll's pages, and one whose stage is being released.
fn write_feeds(db: &Connection) {
    db.execute(
        "INSERT INTO feed (connection, name, cursor, poll, resume, stage, baseline, advanced_at, fresh_as_of)
         VALUES ('mercy', 'appointments', ?1, 12, ?2, 'none', 'complete', ?3, ?3)",
        params![sealed(b"2026"), sealed(b"page 3"), now()],
    )
    .unwrap();
    db.execute(
        "INSERT INTO feed (connection, name, cursor, poll, stage, baseline, after_cursor, after_baseline,
             after_fresh_as_of)
         VALUES ('mercy', 'history', ?1, 4, 'releasing', 'unproven', ?2, 'unproven', ?3)",
        params![sealed(b"2025"), sealed(b"2026"), now()],
    )
    .unwrap();
}

fn write_what_waits(db: &Connection) {
    // Version 1 less 2^63, as order numbers are kept.
    let number = 1 ^ i64::MIN;
    db.execute(
        "INSERT INTO stage (connection, feed, place, fresh_as_of, record_type, record_id, shown, novelty, version_id,
             clue, version, event_id, order_number, order_stamp, first_version, hash, body)
         VALUES ('mercy', 'history', 1, ?1, 'Appointment', ?2, 'updated', 'announce', '1', 'known', 'v:1', ?3, ?4, ?1,
             0, 'a hash', ?5)",
        params![
            now(),
            STAGED,
            event_id(STAGED, 1).as_str(),
            number,
            sealed(body(STAGED, 1).as_bytes())
        ],
    )
    .unwrap();
    db.execute(
        "INSERT INTO inbox (connection, feed, fresh_as_of, record_type, record_id, shown, novelty, version_id, clue,
             version, event_id, order_number, order_stamp, first_version, baseline, generation, attempts, claims,
             due_at, written_at, last_reason)
         VALUES ('mercy', 'appointments', ?1, 'Appointment', ?2, 'state', 'announce', '1', 'known', 'v:1', ?3, ?4, ?1,
             0, 'complete', 1, 2, 0, ?1, ?1, '503')",
        params![now(), WAITING, event_id(WAITING, 1).as_str(), number],
    )
    .unwrap();
    db.execute(
        "INSERT INTO quarantine (connection, feed, fresh_as_of, record_type, record_id, shown, novelty, clue,
             first_version, baseline, reason, at)
         VALUES ('mercy', 'appointments', ?1, 'Appointment', ?2, 'state', 'announce', 'unknown', 0, 'complete',
             'larger than the limit', ?1)",
        params![now(), QUARANTINED],
    )
    .unwrap();
}

/// The first event of a record, and what the ledger keeps of it.
fn write_event(db: &Connection, position: i64, id: &str) {
    let event = event_id(id, 1);
    db.execute(
        "INSERT INTO event (connection, position, id, record_type, record_id, version, version_id, kind, fresh_as_of,
             recorded_at, late, feed, body)
         VALUES ('mercy', ?1, ?2, 'Appointment', ?3, 'v:1', '1', 'updated', ?4, ?4, 0, 'appointments', ?5)",
        params![position, event.as_str(), id, now(), sealed(body(id, 1).as_bytes())],
    )
    .unwrap();
    db.execute(
        "INSERT INTO head (connection, record_type, record_id, version, event_id, order_number, order_stamp, hash,
             deleted, changes)
         VALUES ('mercy', 'Appointment', ?1, 'v:1', ?2, ?3, ?4, 'a hash', 0, 1)",
        params![id, event.as_str(), 1 ^ i64::MIN, now()],
    )
    .unwrap();
    db.execute(
        "INSERT INTO accepted (connection, event_id, shown_at, stamp, head) VALUES ('mercy', ?1, ?2, ?2, 1)",
        params![event.as_str(), now()],
    )
    .unwrap();
}

/// The delivery of an event, numbered from 5. While its subscription is paused none is ready.
fn write_delivery(db: &Connection, position: i64, (id, state): (&str, &str), version: usize) {
    let settled = (state != "pending").then(now);
    db.execute(
        "INSERT INTO delivery (subscription, connection, event, number, record_type, record_id, destination, content,
             format, renderer, state, ready, attempts, scheduled_from, due_at, replay, last_outcome, settled_at)
         VALUES ('all', 'mercy', ?1, ?2, 'Appointment', ?3, 'hook', 'full-resource', 'cloudevents', 1, ?4, ?5, 1,
             ?6, ?6, 0, '503', ?7)",
        params![
            position,
            position + 4,
            id,
            state,
            settled.is_none() && version < CONTROL,
            now(),
            settled
        ],
    )
    .unwrap();
}
