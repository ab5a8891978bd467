//! Reads one change: its record, unless that came along, and what it refers to; and says what follows from each answer.

use std::time::Duration;

use courier_sdk::{ChangeRef, ConnectorError, FetchRequest, Fetched, NotFound, Shown};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::budget::Leave;
use super::connection::Connection;
use super::context::{self, Hindered};
use super::gone;
use super::together::Contexts;
use crate::domain::delivery::Fence;
use crate::domain::event::{Change, VersionClue};
use crate::domain::identify::identify;
use crate::domain::ledger::{self, Head};
use crate::domain::plan;
use crate::store::{ClaimedChange, SettleResult};

/// A failed fetch is tried again after this, doubled each time.
const RETRY: Duration = Duration::from_secs(5);

/// So many reads say in a row that a record is gone which was shown again; then it is.
const CONFIRMED_WITHIN: u32 = 3;

/// A source that was read from so recently is not away.
pub(super) const SOURCE_LIVES: Duration = Duration::from_mins(1);

/// One connection's turn at being fetched for.
pub(super) struct Turn {
    pub(super) fence: Fence,
    /// Nothing new is begun after this.
    pub(super) ends: Instant,
    pub(super) stop: CancellationToken,
    /// What its changes refer to.
    pub(super) contexts: Contexts,
}

impl Turn {
    /// Leave for one request under the turn's lease, or when to ask for it again.
    pub(super) async fn leave<'a>(
        &self,
        worker: &Worker,
        connection: &'a Connection,
        by: Option<Instant>,
    ) -> Result<Leave<'a>, Timestamp> {
        let now = || worker.clock.now();
        let leave = connection.budget.leave_by(by).await;
        let leave = leave.map_err(|wait| after(now(), wait))?;
        // Whoever holds the lease now asks the source.
        if connection.fence() == Some(self.fence) {
            Ok(leave)
        } else {
            Err(now())
        }
    }
}

/// Fetches a change's record, unless it came along or was read together with others, and its context, where its feed
/// includes some.
pub(super) async fn whole(
    worker: &Worker,
    connection: &Connection,
    (claimed, found): (ClaimedChange, Option<Fetched>),
    turn: &Turn,
) -> SettleResult {
    let stopped = || SettleResult::Release {
        due_at: worker.clock.now(),
    };
    let carried = claimed.change.content.is_some();
    let read = if carried {
        SettleResult::Fetched(claimed.change.clone())
    } else if let Some(found) = found {
        judged(worker, connection, &claimed, Ok(found))
    } else {
        tokio::select! {
            biased;
            () = turn.stop.cancelled() => stopped(),
            result = record(worker, connection, &claimed, turn) => result,
        }
    };
    let SettleResult::Fetched(mut change) = read else {
        return read;
    };
    if !context::is_due(connection, &claimed, &change) {
        return SettleResult::Fetched(change);
    }
    let gathered = tokio::select! {
        biased;
        () = turn.stop.cancelled() => Err(stopped()),
        gathered = context::gather(worker, connection, &claimed, &change, turn) => {
            gathered.map_err(|hindered| match hindered {
                Hindered::Failed(error) => after_error(worker, connection, &claimed, error),
                Hindered::NoLeave(due_at) => SettleResult::Release { due_at },
            })
        }
    };
    match gathered {
        Ok(context) => {
            if let Some(content) = &mut change.content {
                content.context = Some(context);
            }
            SettleResult::Fetched(change)
        }
        Err(result) if carried => result,
        // That it lives again counts only with a read of just now.
        Err(result) if ledger::is_taken_for_deleted(claimed.head.as_ref()) => result,
        Err(result) => keep(change, result, worker.clock.now()),
    }
}

/// What was read just now outlasts what its context came to: the source may replace it before the next try.
fn keep(change: Change, result: SettleResult, now: Timestamp) -> SettleResult {
    let (due_at, reason) = match result {
        SettleResult::RetryAt { due_at, reason } => (due_at, Some(reason)),
        SettleResult::Release { due_at } => (due_at, None),
        // Its next try is its last, and does without.
        SettleResult::Quarantine { reason } => (after(now, RETRY), Some(reason)),
        other @ (SettleResult::Fetched(_)
        | SettleResult::Stands(_)
        | SettleResult::Deleted(_)
        | SettleResult::Unavailable(_)
        | SettleResult::Keep { .. }) => {
            return other;
        }
    };
    SettleResult::Keep {
        change,
        due_at,
        reason,
    }
}

async fn record(
    worker: &Worker,
    connection: &Connection,
    claimed: &ClaimedChange,
    turn: &Turn,
) -> SettleResult {
    let wanted = as_reference(&claimed.change);
    let head = head_that_may_stand(connection, claimed);
    let request = FetchRequest {
        change: &wanted,
        known: head.map(|(_, version_id)| version_id),
    };
    let leave = match turn.leave(worker, connection, Some(turn.ends)).await {
        Ok(leave) => leave,
        Err(due_at) => return SettleResult::Release { due_at },
    };
    let answer = connection.connector.fetch(request).await;
    drop(leave);
    judged(worker, connection, claimed, answer)
}

/// What follows from an answer.
fn judged(
    worker: &Worker,
    connection: &Connection,
    claimed: &ClaimedChange,
    answer: Result<Fetched, ConnectorError>,
) -> SettleResult {
    let failed = |reason: String| retry_or_quarantine(worker, claimed, reason);
    if answer.is_ok() {
        connection.gone.note_read(Instant::now());
    }
    match answer {
        Ok(Fetched::Found(mut found, record)) => {
            connection.note_fetched();
            connection.gone.note_found(&claimed.change.key);
            let rule = connection.connector.version_rule(&found.key.record_type);
            found.record = Some(record);
            let mut fetched = identify(&connection.name, found, &rule, |record| {
                connection.connector.meaning(record)
            });
            fetched.trace = claimed.change.trace;
            if fetched.version == claimed.change.version {
                // A read shows the state only; what showed the change may have told how it came about.
                fetched.shown = claimed.change.shown;
                fetched.first_version |= claimed.change.first_version;
            }
            if fetched.order.is_before(&claimed.change.order) {
                // A cache's answer from before the change: taken for an answer, it would pass for a newer version.
                return failed("the source answered an older version than it had shown".to_owned());
            }
            SettleResult::Fetched(fetched)
        }
        Ok(Fetched::Unchanged) => match head_that_may_stand(connection, claimed) {
            Some((head, _)) => {
                connection.note_fetched();
                connection.gone.note_found(&claimed.change.key);
                SettleResult::Stands(ledger::showing_of(head, claimed.change.clone()))
            }
            None => failed("the source answered by a version that it was not asked about".to_owned()),
        },
        Ok(Fetched::Deleted | Fetched::NotFound(NotFound::BySource | NotFound::MeansDeleted))
            if perhaps_returned(claimed) =>
        {
            if claimed.attempts + 1 < CONFIRMED_WITHIN {
                failed("the record is shown again and still not found".to_owned())
            } else {
                // It was shown by an answer from before its delete, or by an index that lags: it stays deleted.
                gone::stays_deleted(claimed)
            }
        }
        Ok(Fetched::Deleted) => gone::deleted(worker, connection, claimed),
        Ok(Fetched::NotFound(word)) if gone::counts(word, &claimed.change) => {
            gone::doubted(worker, connection, claimed)
        }
        Ok(Fetched::NotFound(_)) => failed("the source does not know the record (404)".to_owned()),
        Ok(Fetched::Unavailable) if is_last_attempt(worker, claimed) => {
            let (change, head) = (claimed.change.clone(), claimed.head.as_ref());
            SettleResult::Unavailable(ledger::unavailable(&connection.name, change, head))
        }
        Ok(Fetched::Unavailable) => failed("the source does not let us read the record (403)".to_owned()),
        Ok(Fetched::TooLarge) => SettleResult::Quarantine {
            reason: "the record exceeds the record limit".to_owned(),
        },
        Err(error) => after_error(worker, connection, claimed, error),
    }
}

/// Whether a record is read only because it was shown over a delete that was inferred, under no version that is new.
pub(super) fn perhaps_returned(claimed: &ClaimedChange) -> bool {
    let change = &claimed.change;
    let unnamed = change.version == VersionClue::Unknown && change.shown == Shown::State;
    unnamed && ledger::is_taken_for_deleted(claimed.head.as_ref())
}

/// The record's head with its version id, where the source may answer that it still stands. Where version ids are no
/// longer trusted, heads that were named by them are not either.
pub(super) fn head_that_may_stand<'a>(
    connection: &Connection,
    claimed: &'a ClaimedChange,
) -> Option<(&'a Head, &'a str)> {
    let head = claimed.head.as_ref()?;
    let rule = connection.connector.version_rule(&claimed.change.key.record_type);
    let version_id = ledger::version_that_may_stand(head, &claimed.change)?;
    rule.trust_version_id.then_some((head, version_id))
}

/// What follows from a request that failed.
fn after_error(
    worker: &Worker,
    connection: &Connection,
    claimed: &ClaimedChange,
    error: ConnectorError,
) -> SettleResult {
    let failed = |reason: String| retry_or_quarantine(worker, claimed, reason);
    if connection.budget.maintenance_until().is_some() {
        // What fails while the source is worked on is no word about the record.
        return SettleResult::Release {
            due_at: after(worker.clock.now(), connection.budget.closed_for()),
        };
    }
    match error {
        // What is said of one record is no word about the source while others are read: the record's attempts count.
        error @ ConnectorError::Unauthorized { .. } if connection.fetched_within(SOURCE_LIVES) => {
            failed(error.to_string())
        }
        ConnectorError::Throttled { retry_after, .. } => {
            let pause = connection.budget.throttled(retry_after, worker.draw());
            SettleResult::Release {
                due_at: after(worker.clock.now(), pause),
            }
        }
        ConnectorError::Held { wait, .. } => SettleResult::Release {
            due_at: after(worker.clock.now(), wait),
        },
        ConnectorError::Unauthorized { reason, .. } => {
            connection.budget.pause(Duration::from_mins(1));
            warn!(connection = %connection.name, reason, "fetch was not authorised; the connection waits");
            SettleResult::Release {
                due_at: after(worker.clock.now(), Duration::from_mins(1)),
            }
        }
        // The source is away: that never costs the change one of its attempts. But where others are read, it is the
        // record that cannot be.
        error @ ConnectorError::Transient { .. } if connection.fetched_within(SOURCE_LIVES) => {
            failed(error.to_string())
        }
        error @ ConnectorError::Transient { .. } => {
            debug!(connection = %connection.name, %error, "fetch failed for now");
            SettleResult::Release {
                due_at: after(worker.clock.now(), RETRY),
            }
        }
        error @ (ConnectorError::PageExpired { .. }
        | ConnectorError::Unreadable { .. }
        | ConnectorError::Refused { .. }
        | ConnectorError::Forbidden { .. }) => failed(error.to_string()),
    }
}

fn retry_or_quarantine(worker: &Worker, claimed: &ClaimedChange, reason: String) -> SettleResult {
    if is_last_attempt(worker, claimed) {
        return SettleResult::Quarantine { reason };
    }
    let due_at = plan::turn_after_failure(worker.clock.now(), RETRY, claimed.attempts + 1, None);
    SettleResult::RetryAt { due_at, reason }
}

fn is_last_attempt(worker: &Worker, claimed: &ClaimedChange) -> bool {
    claimed.attempts + 1 >= worker.limits.fetch_attempts
}

pub(super) fn as_reference(change: &Change) -> ChangeRef {
    ChangeRef {
        key: change.key.clone(),
        shown: change.shown,
        novelty: change.novelty,
        version_id: change.version_id.clone(),
        last_updated: change.order.stamp,
        record: None,
    }
}

fn after(now: Timestamp, by: Duration) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}
