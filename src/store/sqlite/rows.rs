//! Codecs between the domain's values and the file's columns, and the one error of the store's inner parts.
//!
//! What cannot be read back is named by its kind, never by its content.

use std::error::Error;

use bytes::Bytes;
use courier_sdk::{
    ConnectionName, Context, FeedName, Meaning, Novelty, Record, RecordId, RecordKey, RecordType, Shown,
};
use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSql, Value};
use thiserror::Error;

use super::connection::Connection;
use crate::domain::canonical::ContentHash;
use crate::domain::event::{Change, Content, VersionClue, VersionOrder};
use crate::domain::identity::{EventId, VersionKey};
use crate::domain::ledger::Baseline;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::domain::trace::TraceContext;
use crate::store::StoreError;
use crate::wire::context;
use crate::wire::sealed::{Place, SealError};

/// Why an operation did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is answered so.
    Answer(StoreError),
    /// The engine failed, or the file is damaged.
    Engine(Box<dyn Error + Send + Sync>),
}

impl Failure {
    pub(super) fn engine(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Engine(Box::new(source))
    }

    pub(super) fn refused(reason: String) -> Self {
        Self::Answer(StoreError::Refused { reason })
    }

    pub(super) fn conflict(what: &'static str) -> Self {
        Self::Answer(StoreError::Conflict { what })
    }

    /// The error for the caller, with the name of the operation that failed.
    pub(super) fn named(self, operation: &'static str) -> StoreError {
        match self {
            Self::Answer(error) => error,
            Self::Engine(source) => StoreError::Engine { operation, source },
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::engine(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::engine(error)
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self::engine(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Answer(error)
    }
}

/// A stored value that no version of the courier wrote there: the file is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the stored {what} cannot be read: the store is damaged")]
pub(super) struct Damaged {
    what: &'static str,
}

pub(super) fn damaged(what: &'static str) -> Failure {
    Failure::engine(Damaged { what })
}

/// Reads a row's columns from left to right.
pub(super) struct Columns<'a, 'b> {
    row: &'a Row<'b>,
    next: usize,
}

impl<'a, 'b> Columns<'a, 'b> {
    pub(super) fn of(row: &'a Row<'b>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn get<T: FromSql>(&mut self) -> Result<T, Failure> {
        let value = self.row.get(self.next)?;
        self.next += 1;
        Ok(value)
    }

    pub(super) fn text(&mut self) -> Result<String, Failure> {
        self.get()
    }

    pub(super) fn count(&mut self) -> Result<u64, Failure> {
        self.get().map(count)
    }

    pub(super) fn small_count(&mut self) -> Result<u32, Failure> {
        self.get::<i64>()
            .map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp, Failure> {
        self.get().map(instant)
    }

    pub(super) fn instant_if_any(&mut self) -> Result<Option<Timestamp>, Failure> {
        Ok(self.get::<Option<i64>>()?.map(instant))
    }

    /// A text, parsed where it lies: most are read to become a name, and a copy of each would be dropped at once.
    pub(super) fn parsed<T>(&mut self, parse: impl FnOnce(&str) -> Result<T, Failure>) -> Result<T, Failure> {
        let value = self.row.get_ref(self.next)?;
        self.next += 1;
        parse(value.as_str().map_err(Failure::engine)?)
    }

    pub(super) fn connection(&mut self) -> Result<ConnectionName, Failure> {
        self.parsed(|text| ConnectionName::parse(text).map_err(Failure::engine))
    }

    pub(super) fn feed(&mut self) -> Result<FeedName, Failure> {
        self.parsed(|text| FeedName::parse(text).map_err(Failure::engine))
    }

    pub(super) fn subscription(&mut self) -> Result<SubscriptionName, Failure> {
        self.parsed(|text| SubscriptionName::parse(text).map_err(Failure::engine))
    }

    pub(super) fn destination(&mut self) -> Result<DestinationName, Failure> {
        self.parsed(|text| DestinationName::parse(text).map_err(Failure::engine))
    }

    pub(super) fn key(&mut self) -> Result<RecordKey, Failure> {
        Ok(RecordKey {
            record_type: self.parsed(|text| RecordType::parse(text).map_err(Failure::engine))?,
            id: self.parsed(|text| RecordId::parse(text).map_err(Failure::engine))?,
        })
    }

    pub(super) fn event_id(&mut self) -> Result<EventId, Failure> {
        self.parsed(|text| EventId::parse(text).ok_or_else(|| damaged("event id")))
    }

    pub(super) fn order(&mut self) -> Result<VersionOrder, Failure> {
        Ok(VersionOrder {
            number: self.get::<Option<i64>>()?.map(order_number),
            stamp: self.instant_if_any()?,
        })
    }

    pub(super) fn baseline(&mut self) -> Result<Baseline, Failure> {
        parse_baseline(&self.text()?)
    }

    /// A sealed blob, opened.
    pub(super) fn sealed(&mut self, db: &Connection, place: Place<'_>) -> Result<Option<Vec<u8>>, Failure> {
        match self.get::<Option<Vec<u8>>>()? {
            Some(sealed) => Ok(Some(db.seals().open(&sealed, place)?)),
            None => Ok(None),
        }
    }

    pub(super) fn sealed_text(
        &mut self,
        db: &Connection,
        place: Place<'_>,
    ) -> Result<Option<String>, Failure> {
        match self.sealed(db, place)? {
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| damaged("text")),
            None => Ok(None),
        }
    }

    pub(super) fn context(&mut self, db: &Connection, place: Place<'_>) -> Result<Option<Context>, Failure> {
        match self.sealed(db, place)? {
            Some(stored) => context::decode(Bytes::from(stored))
                .map(Some)
                .ok_or_else(|| damaged("context")),
            None => Ok(None),
        }
    }

    pub(super) fn record(&mut self, db: &Connection, place: Place<'_>) -> Result<Option<Record>, Failure> {
        Ok(self.sealed(db, place)?.map(|body| Record::new(Bytes::from(body))))
    }

    /// A trace's context; one that cannot be read ends the trace and nothing else.
    pub(super) fn trace(&mut self) -> Result<Option<TraceContext>, Failure> {
        let stored: Option<String> = self.get()?;
        Ok(stored.as_deref().and_then(TraceContext::parse))
    }

    /// What a version means; the word, and the reference that belongs to a merge behind it.
    pub(super) fn meaning(&mut self) -> Result<Option<Meaning>, Failure> {
        let Some(stored) = self.get::<Option<String>>()? else {
            return Ok(None);
        };
        let (word, reference) = match stored.split_once(' ') {
            Some((word, reference)) => (word, Some(reference.to_owned())),
            None => (stored.as_str(), None),
        };
        [
            Meaning::MergedInto(reference),
            Meaning::Unmerged,
            Meaning::EnteredInError,
            Meaning::Cancelled,
        ]
        .into_iter()
        .find(|meaning| meaning.word() == word)
        .map(Some)
        .ok_or_else(|| damaged("meaning"))
    }

    /// The columns of [`CHANGE_COLUMNS`], of a change on this connection.
    pub(super) fn change(&mut self, db: &Connection, connection: &ConnectionName) -> Result<Change, Failure> {
        let key = self.key()?;
        let shown = parse_shown(&self.text()?)?;
        let novelty = parse_novelty(&self.text()?)?;
        let version_id = self.get()?;
        let version = self.clue()?;
        let order = self.order()?;
        let first_version = self.get()?;
        let hash: Option<String> = self.get()?;
        let names = change_names(connection, &key, hash.as_deref());
        let body = self.record(db, Place::new("change", &names))?;
        let meaning = self.meaning()?;
        let content = match (body, hash) {
            (Some(record), Some(hash)) => Some(Content {
                record,
                hash: ContentHash::from_stored(hash),
                meaning,
                context: None,
            }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(damaged("content")),
        };
        Ok(Change {
            key,
            shown,
            novelty,
            version_id,
            version,
            order,
            first_version,
            content,
            trace: self.trace()?,
        })
    }

    fn clue(&mut self) -> Result<VersionClue, Failure> {
        let word = self.text()?;
        let version: Option<String> = self.get()?;
        let event_id: Option<String> = self.get()?;
        match (word.as_str(), version, event_id) {
            ("known", Some(version), Some(id)) => {
                let id = EventId::parse(&id).ok_or_else(|| damaged("event id"))?;
                Ok(VersionClue::Known(VersionKey::from_stored(version), id))
            }
            ("by-content", None, None) => Ok(VersionClue::ByContent),
            ("inferred-delete", None, None) => Ok(VersionClue::InferredDelete),
            ("unknown", None, None) => Ok(VersionClue::Unknown),
            (_, _, _) => Err(damaged("version clue")),
        }
    }
}

/// The columns of a change, in the order in which [`change_values`] writes and [`Columns::change`] reads them.
pub(super) const CHANGE_COLUMNS: &str = "record_type, record_id, shown, novelty, version_id, clue, version, event_id, \
     order_number, order_stamp, first_version, hash, body, meaning, trace";

/// The values of [`CHANGE_COLUMNS`].
pub(super) fn change_values(
    db: &Connection,
    connection: &ConnectionName,
    change: &Change,
) -> Result<[Value; 15], Failure> {
    let (clue, version, event_id) = match &change.version {
        VersionClue::Known(version, id) => ("known", Some(version.as_str()), Some(id.as_str())),
        VersionClue::ByContent => ("by-content", None, None),
        VersionClue::InferredDelete => ("inferred-delete", None, None),
        VersionClue::Unknown => ("unknown", None, None),
    };
    let record = change.content.as_ref().map(|content| &content.record);
    let hash = change.content.as_ref().map(|content| content.hash.as_str());
    let names = change_names(connection, &change.key, hash);
    Ok([
        text(change.key.record_type.as_str()),
        text(change.key.id.as_str()),
        text(shown_word(change.shown)),
        text(novelty_word(change.novelty)),
        text_if_any(change.version_id.as_deref()),
        text(clue),
        text_if_any(version),
        text_if_any(event_id),
        int_if_any(change.order.number.map(stored_order_number)),
        int_if_any(change.order.stamp.map(nanos)),
        Value::Integer(i64::from(change.first_version)),
        text_if_any(hash),
        body(db, record, Place::new("change", &names))?,
        meaning(
            change
                .content
                .as_ref()
                .and_then(|content| content.meaning.as_ref()),
        ),
        trace(change.trace),
    ])
}

/// What a change's body is bound to: it stays with its record and its hash, in whichever table it waits.
fn change_names<'a>(
    connection: &'a ConnectionName,
    key: &'a RecordKey,
    hash: Option<&'a str>,
) -> [&'a str; 4] {
    [
        connection.as_str(),
        key.record_type.as_str(),
        key.id.as_str(),
        hash.unwrap_or_default(),
    ]
}

pub(super) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

pub(super) fn text_if_any(value: Option<&str>) -> Value {
    value.map_or(Value::Null, text)
}

pub(super) fn int_if_any(value: Option<i64>) -> Value {
    value.map_or(Value::Null, Value::Integer)
}

/// The context of a trace, as the `traceparent` header spells it.
pub(super) fn trace(context: Option<TraceContext>) -> Value {
    context.map_or(Value::Null, |context| Value::Text(context.to_string()))
}

/// What a version means, as [`Columns::meaning`] reads it.
pub(super) fn meaning(meaning: Option<&Meaning>) -> Value {
    match meaning {
        Some(Meaning::MergedInto(Some(reference))) => {
            Value::Text(format!("{} {reference}", Meaning::MergedInto(None).word()))
        }
        other => text_if_any(other.map(Meaning::word)),
    }
}

/// A body, sealed.
pub(super) fn body(db: &Connection, record: Option<&Record>, place: Place<'_>) -> Result<Value, Failure> {
    Ok(match record {
        Some(record) => Value::Blob(db.seals().seal(record.bytes(), place)?),
        None => Value::Null,
    })
}

/// An instant as nanoseconds since 1970; years 1677 to 2262.
pub(super) fn nanos(at: Timestamp) -> i64 {
    let nanos = at.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

pub(super) fn instant(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A count as SQLite holds it; no count of ours comes near the limit.
pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A row limit as SQLite holds it.
pub(super) fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A version number moved down by 2^63: all of `u64` fits and keeps its order.
pub(super) fn stored_order_number(number: u64) -> i64 {
    number.cast_signed() ^ i64::MIN
}

fn order_number(stored: i64) -> u64 {
    (stored ^ i64::MIN).cast_unsigned()
}

pub(super) fn baseline_word(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::Unproven => "unproven",
        Baseline::Forfeited => "forfeited",
        Baseline::Complete => "complete",
    }
}

pub(super) fn parse_baseline(word: &str) -> Result<Baseline, Failure> {
    match word {
        "unproven" => Ok(Baseline::Unproven),
        "forfeited" => Ok(Baseline::Forfeited),
        "complete" => Ok(Baseline::Complete),
        _ => Err(damaged("baseline")),
    }
}

fn shown_word(shown: Shown) -> &'static str {
    match shown {
        Shown::State => "state",
        Shown::Created => "created",
        Shown::Updated => "updated",
        Shown::Deleted => "deleted",
        Shown::Missing => "missing",
    }
}

fn parse_shown(word: &str) -> Result<Shown, Failure> {
    match word {
        "state" => Ok(Shown::State),
        "created" => Ok(Shown::Created),
        "updated" => Ok(Shown::Updated),
        "deleted" => Ok(Shown::Deleted),
        "missing" => Ok(Shown::Missing),
        _ => Err(damaged("kind of showing")),
    }
}

fn novelty_word(novelty: Novelty) -> &'static str {
    match novelty {
        Novelty::Announce => "announce",
        Novelty::Silent => "silent",
    }
}

fn parse_novelty(word: &str) -> Result<Novelty, Failure> {
    match word {
        "announce" => Ok(Novelty::Announce),
        "silent" => Ok(Novelty::Silent),
        _ => Err(damaged("novelty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers_keep_their_order_over_all_of_u64() {
        let numbers = [0, 1, i64::MAX.cast_unsigned(), 1 << 63, u64::MAX];
        let stored: Vec<i64> = numbers.iter().map(|n| stored_order_number(*n)).collect();
        assert!(stored.is_sorted());
        assert_eq!(
            stored.iter().map(|s| order_number(*s)).collect::<Vec<_>>(),
            numbers
        );
    }

    #[test]
    fn instants_keep_their_nanoseconds_and_stay_in_their_range() {
        for text in [
            "2026-11-20T10:00:12.123456789Z",
            "1970-01-01T00:00:00Z",
            "2099-12-31T23:59:59.999Z",
        ] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(instant(nanos(at)), at);
        }
        assert_eq!(nanos(Timestamp::MAX), i64::MAX);
        assert_eq!(nanos(Timestamp::MIN), i64::MIN);
    }
}
