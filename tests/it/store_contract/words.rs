//! The short words that the rules are written in: synthetic records, instants, outcomes.

use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{
    ConnectionName, Cursor, FeedName, Novelty, Record, RecordId, RecordKey, RecordType, Resume, Shown,
};
use ehr_courier::domain::canonical::ContentHash;
use ehr_courier::domain::delivery::{AttemptOutcome, ClaimedDelivery};
use ehr_courier::domain::event::{Change, Content, VersionClue, VersionOrder};
use ehr_courier::domain::fan_out::{
    ConnectionSet, ContentLevel, Format, From, SliceLimits, Subscription, Topic,
};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::store::{BaselineProof, Holder, LeaseRequest, Progress, StoreError};
use jiff::Timestamp;

/// Limits that no rule reaches by accident.
pub(super) const AMPLE: SliceLimits = SliceLimits {
    rows: 1_000,
    outbox: 1_000,
};

pub(super) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

pub(super) fn appointments() -> FeedName {
    FeedName::parse("appointments").unwrap()
}

/// A second feed of the same record type.
pub(super) fn rooms() -> FeedName {
    FeedName::parse("rooms").unwrap()
}

/// So many seconds after the beginning of the test.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

pub(super) const DAY: i64 = 86_400;

pub(super) fn lease(holder: &str) -> LeaseRequest {
    LeaseRequest {
        connection: mercy(),
        holder: Holder(holder.to_owned()),
        ttl: Duration::from_hours(24 * 100),
    }
}

pub(super) fn done(cursor: &str) -> Progress {
    Progress::Done {
        cursor: Cursor::new(cursor.to_owned()),
        baseline: BaselineProof::Unproven,
    }
}

pub(super) fn cursor(text: &str) -> Cursor {
    Cursor::new(text.to_owned())
}

pub(super) fn next_page(link: &str) -> Progress {
    Progress::Page(Resume::new(link.to_owned()))
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

/// A version that came along with its page; its number is its version, its time follows.
pub(super) fn version(id: &str, number: u64) -> Change {
    Change {
        content: Some(content(&format!(r#"{{"id":"{id}","v":{number}}}"#))),
        ..reference(id, number)
    }
}

/// A version that must be fetched.
pub(super) fn reference(id: &str, number: u64) -> Change {
    let version = VersionKey::of_version_id(&number.to_string());
    Change {
        version_id: Some(number.to_string()),
        version: VersionClue::Known(version, event_id(id, number)),
        order: VersionOrder {
            number: Some(number),
            stamp: Some(at(i64::try_from(number).unwrap())),
        },
        ..unversioned(id)
    }
}

/// A change of which only the record is known.
pub(super) fn unversioned(id: &str) -> Change {
    Change {
        key: key(id),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: None,
        version: VersionClue::Unknown,
        order: VersionOrder::default(),
        first_version: false,
        content: None,
        trace: None,
    }
}

/// A version that only its content tells from others.
pub(super) fn worded(id: &str, word: &str) -> Change {
    Change {
        version: VersionClue::ByContent,
        content: Some(content(&format!(r#"{{"id":"{id}","w":"{word}"}}"#))),
        ..unversioned(id)
    }
}

/// A delete by a history, with a version of its own.
pub(super) fn deleted(id: &str, number: u64) -> Change {
    Change {
        shown: Shown::Deleted,
        ..reference(id, number)
    }
}

/// A delete that the source did not number.
pub(super) fn gone(id: &str) -> Change {
    Change {
        shown: Shown::Deleted,
        version: VersionClue::InferredDelete,
        ..unversioned(id)
    }
}

fn content(body: &str) -> Content {
    Content {
        hash: ContentHash::of_record(body.as_bytes(), &[]).unwrap(),
        record: Record::new(Bytes::copy_from_slice(body.as_bytes())),
        meaning: None,
        context: None,
    }
}

pub(super) fn destination(name: &str) -> DestinationName {
    DestinationName::parse(name).unwrap()
}

pub(super) fn subscription_name(name: &str) -> SubscriptionName {
    SubscriptionName::parse(name).unwrap()
}

/// Everything on every connection, from now, whole, to `hook`.
pub(super) fn subscription(name: &str) -> Subscription {
    Subscription {
        name: subscription_name(name),
        connections: ConnectionSet::All,
        topic: Topic::Any,
        from: From::Now,
        content: ContentLevel::FullResource,
        format: Format::CloudEvents,
        destination: destination("hook"),
    }
}

pub(super) fn delivered() -> AttemptOutcome {
    AttemptOutcome::Delivered {
        detail: "204".to_owned(),
    }
}

pub(super) fn retry_at(seconds: i64) -> AttemptOutcome {
    AttemptOutcome::RetryAt {
        due_at: at(seconds),
        detail: "503".to_owned(),
    }
}

pub(super) fn dead() -> AttemptOutcome {
    AttemptOutcome::Dead {
        detail: "410".to_owned(),
    }
}

/// `id number` of each claimed delivery.
pub(super) fn names(claimed: &[ClaimedDelivery]) -> Vec<String> {
    claimed
        .iter()
        .map(|one| format!("{} {}", one.event.key.id, one.delivery.number))
        .collect()
}

#[track_caller]
pub(super) fn assert_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
}

#[track_caller]
pub(super) fn assert_conflict<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
}

#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Refused { .. })), "{result:?}");
}
