//! Context: the records that a changed record refers to, taken from the page that showed it where they came along, else
//! read before its change is settled, and frozen with its event.
//!
//! A reference that cannot be followed is named as missing and holds nothing back; a source that is away is waited for.

use std::collections::BTreeMap;

use courier_sdk::{ConnectorError, Context, Include, Novelty, Record, RecordKey, Reference, Shown};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::Worker;
use super::connection::{Connection, Feed};
use super::read::{SOURCE_LIVES, Turn};
use crate::domain::event::Change;
use crate::store::ClaimedChange;

/// The most references of a record that are followed; the others are missing.
const REFERENCES_MAX: usize = 20;

/// The most bytes of a record's context; what exceeds them is missing. As much as one transaction of the store.
const CONTEXT_BYTES_MAX: usize = 4 << 20;

/// Whether a change's feed includes context.
pub(super) fn is_included(connection: &Connection, claimed: &ClaimedChange) -> bool {
    let feed = connection.feed(&claimed.feed);
    feed.is_some_and(|feed| !feed.spec.include.is_empty())
}

/// The records that a record refers to and that are followed.
pub(super) fn followed(connection: &Connection, record: &Record, include: &[Include]) -> Vec<RecordKey> {
    let references = connection.connector.references(record, include);
    let first = references.into_iter().take(REFERENCES_MAX);
    first.filter_map(|reference| reference.key).collect()
}

/// Whether a change waits for its context: its feed includes some, and it carries a record that will be told of.
pub(super) fn is_due(connection: &Connection, claimed: &ClaimedChange, change: &Change) -> bool {
    is_included(connection, claimed)
        && change.shown != Shown::Deleted
        && change.novelty == Novelty::Announce
        && change.content.is_some()
}

/// Gives the changes of a page the context that came along with them. A change of which not everything came is left to
/// be read: what is missing from a page is no evidence of anything.
pub(super) fn take_along(
    connection: &Connection,
    feed: &Feed,
    changes: &mut [Change],
    included: &BTreeMap<RecordKey, Record>,
) {
    if included.is_empty() || feed.spec.include.is_empty() {
        return;
    }
    for change in changes
        .iter_mut()
        .filter(|change| change.novelty == Novelty::Announce)
    {
        if let Some(content) = &mut change.content {
            let references = connection
                .connector
                .references(&content.record, &feed.spec.include);
            content.context = at_hand(references, included);
        }
    }
}

/// The context of these references, if all that would be read is at hand.
fn at_hand(references: Vec<Reference>, included: &BTreeMap<RecordKey, Record>) -> Option<Context> {
    let mut context = Context::default();
    for (nth, reference) in references.into_iter().enumerate() {
        match reference.key.filter(|_| nth < REFERENCES_MAX) {
            Some(key) => context.included.push(included.get(&key)?.clone()),
            None => context.missing.push(reference.text),
        }
    }
    (context.bytes() <= CONTEXT_BYTES_MAX).then_some(context)
}

/// Why a context is not there yet.
pub(super) enum Hindered {
    /// The source is away, throttles or does not know us.
    Failed(ConnectorError),
    /// No leave to ask: not before then.
    NoLeave(Timestamp),
}

/// Reads a change's context, one reference after the other. Cancel safe: nothing of it is remembered anywhere.
///
/// # Errors
/// [`Hindered`]; on the change's last try a failure only where nothing else is read from the source either.
pub(super) async fn gather(
    worker: &Worker,
    connection: &Connection,
    claimed: &ClaimedChange,
    change: &Change,
    turn: &Turn,
) -> Result<Context, Hindered> {
    let mut context = Context::default();
    let (Some(feed), Some(shown)) = (connection.feed(&claimed.feed), &change.content) else {
        return Ok(context);
    };
    let limits = &worker.limits;
    let killed = claimed.claims > limits.fetch_claims;
    let last = claimed.attempts + 1 >= limits.fetch_attempts;
    let references = connection.connector.references(&shown.record, &feed.spec.include);
    for (nth, reference) in references.into_iter().enumerate() {
        let key = reference.key.filter(|_| nth < REFERENCES_MAX && !killed);
        let found = match key {
            None => None,
            Some(key) => {
                // Once begun it is read to its end: a rate may be lower than a turn is long.
                let by = (nth == 0).then_some(turn.ends);
                match read_once(worker, connection, &key, (turn, by)).await {
                    Ok(found) => found,
                    Err(Hindered::Failed(error)) => pass_over(connection, error, last)?,
                    Err(hindered @ Hindered::NoLeave(_)) => return Err(hindered),
                }
            }
        };
        match found.filter(|record| context.bytes() + record.bytes().len() <= CONTEXT_BYTES_MAX) {
            Some(record) => context.included.push(record),
            None => context.missing.push(reference.text),
        }
    }
    Ok(context)
}

/// Reads a record that is referred to, unless the batch has read it; what failed is not kept.
async fn read_once(
    worker: &Worker,
    connection: &Connection,
    key: &RecordKey,
    (turn, by): (&Turn, Option<Instant>),
) -> Result<Option<Record>, Hindered> {
    let kept = turn.contexts.of(key);
    let read = async || {
        let leave = turn.leave(worker, connection, by).await;
        let leave = leave.map_err(Hindered::NoLeave)?;
        let answer = connection.connector.read_context(key).await;
        drop(leave);
        let found = answer.map_err(Hindered::Failed)?;
        connection.note_fetched();
        Ok(found)
    };
    kept.get_or_try_init(read).await.cloned()
}

/// Whether the context can do without a reference that could not be read.
fn pass_over(connection: &Connection, error: ConnectorError, last: bool) -> Result<Option<Record>, Hindered> {
    match error {
        ConnectorError::Throttled { .. } | ConnectorError::Held { .. } => Err(Hindered::Failed(error)),
        ConnectorError::Unauthorized { .. } if !(last && connection.fetched_within(SOURCE_LIVES)) => {
            Err(Hindered::Failed(error))
        }
        ConnectorError::Transient { .. } if !last => Err(Hindered::Failed(error)),
        error @ (ConnectorError::Transient { .. }
        | ConnectorError::Unauthorized { .. }
        | ConnectorError::PageExpired { .. }
        | ConnectorError::Unreadable { .. }
        | ConnectorError::Refused { .. }
        | ConnectorError::Forbidden { .. }) => {
            debug!(connection = %connection.name, %error, "a reference could not be followed");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use courier_sdk::{RecordId, RecordType};

    use super::*;

    fn key(id: &str) -> RecordKey {
        RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse(id).unwrap(),
        }
    }

    fn reference(id: &str) -> Reference {
        Reference {
            text: format!("Patient/{id}"),
            key: Some(key(id)),
        }
    }

    #[test]
    fn context_is_at_hand_only_if_nothing_of_it_would_be_read() {
        let record = |bytes: usize| Record::new(Bytes::from(vec![b' '; bytes]));
        let included = BTreeMap::from([(key("a"), record(2)), (key("large"), record(CONTEXT_BYTES_MAX))]);
        let elsewhere = Reference {
            text: "https://other.example/Patient/9".to_owned(),
            key: None,
        };
        let context = at_hand(vec![reference("a"), elsewhere.clone()], &included).unwrap();
        assert_eq!(
            (context.included.len(), context.missing),
            (1, vec![elsewhere.text])
        );
        assert!(at_hand(vec![reference("a"), reference("b")], &included).is_none());
        assert!(at_hand(vec![reference("a"), reference("large")], &included).is_none());
        // Beyond the most that are followed nothing is read either.
        let many = vec![reference("a"); REFERENCES_MAX]
            .into_iter()
            .chain([reference("b")]);
        let context = at_hand(many.collect(), &included).unwrap();
        assert_eq!(
            (context.included.len(), context.missing.len()),
            (REFERENCES_MAX, 1)
        );
        assert_eq!(at_hand(Vec::new(), &included), Some(Context::default()));
    }
}
