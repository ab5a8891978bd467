//! Reads what a batch of changes needs with fewer requests than one for each record: the changed records, and what they
//! refer to, each once.
//!
//! Nothing here is evidence but what was found: whatever is missing is read by itself, and whatever failed once is too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use courier_sdk::{
    ChangeRef, ConnectorError, FetchRequest, Fetched, Novelty, Record, RecordKey, RecordType, Shown,
};
use tokio::sync::OnceCell;
use tracing::debug;

use super::Worker;
use super::connection::Connection;
use super::context;
use super::read::{self, Turn};
use crate::store::{ClaimedChange, InboxId};

/// What the changes of one batch refer to, each read once.
#[derive(Default)]
pub(super) struct Contexts {
    read: Mutex<BTreeMap<RecordKey, Arc<OnceCell<Option<Record>>>>>,
}

impl Contexts {
    /// Where a record is kept once it is read; whoever comes first reads it, others wait.
    pub(super) fn of(&self, key: &RecordKey) -> Arc<OnceCell<Option<Record>>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(read.entry(key.clone()).or_default())
    }
}

/// Reads the records of the changes that were claimed for the first time, as many at once as their source allows.
/// Cancel safe: nothing of it is remembered.
pub(super) async fn records(
    worker: &Worker,
    connection: &Connection,
    claimed: &[ClaimedChange],
    turn: &Turn,
) -> BTreeMap<InboxId, Fetched> {
    let mut found = BTreeMap::new();
    let mut by_type: BTreeMap<&RecordType, Vec<&ClaimedChange>> = BTreeMap::new();
    for one in claimed {
        let is_carried = one.change.content.is_some() || one.change.shown == Shown::Deleted;
        if !is_carried && is_fresh(one) {
            by_type.entry(&one.change.key.record_type).or_default().push(one);
        }
    }
    for (record_type, changes) in by_type {
        for part in parts(connection, record_type, &changes) {
            let wanted: Vec<(&ClaimedChange, ChangeRef)> = part
                .iter()
                .map(|one| (*one, read::as_reference(&one.change)))
                .collect();
            let requests: Vec<FetchRequest<'_>> = wanted
                .iter()
                .map(|(one, change)| FetchRequest {
                    change,
                    known: read::head_that_may_stand(connection, one).map(|(_, version_id)| version_id),
                })
                .collect();
            let Ok(leave) = turn.leave(worker, connection, Some(turn.ends)).await else {
                return found;
            };
            let answers = tokio::select! {
                biased;
                () = turn.stop.cancelled() => return found,
                answers = connection.connector.fetch_many(&requests) => answers,
            };
            drop(leave);
            match answers {
                Ok(answers) => {
                    let before = found.len();
                    let pairs = part.iter().zip(answers);
                    found.extend(pairs.filter_map(|(one, answer)| Some((one.id, answer?))));
                    if found.len() > before {
                        connection.note_fetched();
                    }
                }
                Err(error) => failed(worker, connection, &error),
            }
        }
    }
    found
}

/// Reads what the changes refer to, as many at once as their source allows; `found` are the records that were read.
pub(super) async fn contexts(
    worker: &Worker,
    connection: &Connection,
    claimed: &[ClaimedChange],
    found: &BTreeMap<InboxId, Fetched>,
    turn: &Turn,
) {
    let mut by_type: BTreeMap<RecordType, Vec<RecordKey>> = BTreeMap::new();
    for one in claimed {
        let feed = connection
            .feed(&one.feed)
            .filter(|feed| !feed.spec.include.is_empty());
        let Some(feed) = feed.filter(|_| is_fresh(one)) else {
            continue;
        };
        let record = match (&one.change.content, found.get(&one.id)) {
            (Some(content), _) if one.change.novelty == Novelty::Announce => &content.record,
            (None, Some(Fetched::Found(change, record))) if change.novelty == Novelty::Announce => record,
            _ => continue,
        };
        for key in context::followed(connection, record, &feed.spec.include) {
            let of_type = by_type.entry(key.record_type.clone()).or_default();
            if !of_type.contains(&key) {
                of_type.push(key);
            }
        }
    }
    for (record_type, keys) in by_type {
        for part in parts(connection, &record_type, &keys) {
            let Ok(leave) = turn.leave(worker, connection, Some(turn.ends)).await else {
                return;
            };
            let answers = tokio::select! {
                biased;
                () = turn.stop.cancelled() => return,
                answers = connection.connector.read_context_many(part) => answers,
            };
            drop(leave);
            match answers {
                Ok(answers) => {
                    for (key, record) in part.iter().zip(answers) {
                        if let Some(record) = record {
                            connection.note_fetched();
                            let kept = turn.contexts.of(key);
                            kept.get_or_init(async || Some(record)).await;
                        }
                    }
                }
                Err(error) => failed(worker, connection, &error),
            }
        }
    }
}

/// Whether a change was never tried before: what failed, or ended its worker, would take the others along.
fn is_fresh(claimed: &ClaimedChange) -> bool {
    claimed.claims <= 1 && claimed.attempts == 0
}

/// Cuts into what may be asked for at once; nothing where each is read by itself, and nothing of one alone.
fn parts<'a, T>(connection: &Connection, record_type: &RecordType, all: &'a [T]) -> Vec<&'a [T]> {
    match connection.connector.fetch_at_once(record_type) {
        0 | 1 => Vec::new(),
        at_once => all.chunks(at_once).filter(|part| part.len() > 1).collect(),
    }
}

/// Each is read by itself now, and meets what is wrong with the source, or with itself.
fn failed(worker: &Worker, connection: &Connection, error: &ConnectorError) {
    debug!(connection = %connection.name, %error, "several records could not be read at once");
    if let ConnectorError::Throttled { retry_after, .. } = error {
        connection.budget.throttled(*retry_after, worker.draw());
    }
}
