//! Fetch: reads the full record of changes whose page did not bring it, and moves on what waited behind them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{ChangeRef, ConnectionName, ConnectorError, FetchRequest, Fetched, Shown};
use futures_util::future;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::connection::Connection;
use super::context;
use super::heartbeat::Part;
use crate::domain::delivery::Fence;
use crate::domain::event::{Change, Content, VersionClue};
use crate::domain::identify::identify;
use crate::domain::ledger::{self, Head};
use crate::domain::plan;
use crate::domain::trace::{SpanOutcome, Stage};
use crate::store::{
    ClaimChanges, ClaimedChange, SLICE_BYTES_MAX, SettleChanges, SettleResult, Settlement, StoreError,
};

/// A failed fetch is tried again after this, doubled each time.
const RETRY: Duration = Duration::from_secs(5);

/// A source that was read from so recently is not away.
const SOURCE_LIVES: Duration = Duration::from_mins(1);

/// Inboxes are looked at this often even if nobody rang: for retries that fell due.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What a batch found: whether it is worth looking again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    Full,
    Empty,
}

/// Fetches for all connections that this worker holds, one batch a connection at a time, until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut waiting: BTreeMap<ConnectionName, Timestamp> = BTreeMap::new();
    let mut batches: JoinSet<(ConnectionName, Result<Batch, StoreError>)> = JoinSet::new();
    let mut running: std::collections::BTreeSet<ConnectionName> = std::collections::BTreeSet::new();
    for name in worker.connections.keys() {
        worker.bells.fetch.ring(name);
    }
    loop {
        worker.watch.heartbeats.beat(Part::Fetch);
        let now = worker.clock.now();
        for name in worker.bells.fetch.take() {
            waiting.insert(name, now);
        }
        let due: Vec<ConnectionName> = waiting
            .iter()
            .filter(|(name, at)| **at <= now && !running.contains(*name))
            .map(|(n, _)| n.clone())
            .collect();
        let room = worker.limits.fetch_batches.saturating_sub(batches.len());
        for name in due.into_iter().take(room) {
            waiting.remove(&name);
            running.insert(name.clone());
            let (worker, stop) = (Arc::clone(&worker), stop.clone());
            batches.spawn(async move {
                let result = batch(&worker, &name, &stop).await;
                (name, result)
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(joined) = batches.join_next() => match joined {
                Ok((name, result)) => {
                    running.remove(&name);
                    let again = match result? {
                        Batch::Full => Duration::ZERO,
                        Batch::Empty => LOOK_AGAIN,
                    };
                    let at = worker.clock.now().saturating_add(again).unwrap_or(Timestamp::MAX);
                    waiting.entry(name).or_insert(at);
                }
                Err(error) => if error.is_panic() { std::panic::resume_unwind(error.into_panic()) },
            },
            () = worker.bells.fetch.rung() => {}
            () = tokio::time::sleep(worker.limits.fallback) => {}
        }
    }
    let all = async { while batches.join_next().await.is_some() {} };
    // A batch cut short here is claimed again under the next lease.
    if tokio::time::timeout(worker.limits.shutdown_grace, all)
        .await
        .is_err()
    {
        debug!("fetches were cut short by the shutdown");
    }
    Ok(())
}

async fn batch(
    worker: &Worker,
    name: &ConnectionName,
    stop: &CancellationToken,
) -> Result<Batch, StoreError> {
    let Some(connection) = worker.connections.get(name) else {
        return Ok(Batch::Empty);
    };
    let Some(fence) = connection.fence() else {
        return Ok(Batch::Empty);
    };
    let claim = ClaimChanges {
        connection: name.clone(),
        fence,
        limit: worker.limits.fetch_batch,
        at: worker.clock.now(),
    };
    let claimed = match worker.store.claim_changes(&claim).await {
        Err(StoreError::Fenced { .. }) => {
            connection.let_go();
            return Ok(Batch::Empty);
        }
        other => other?,
    };
    if claimed.is_empty() {
        return Ok(Batch::Empty);
    }
    // As many at a time as may be under way, then settled: one read that hangs holds back no others, and no request is
    // left open while the store works.
    let mut claimed = claimed.into_iter().peekable();
    while claimed.peek().is_some() {
        let at_once = claimed.by_ref().take(fetches_at_once(connection));
        let ended =
            future::join_all(at_once.map(|change| settle_one(worker, connection, change, stop))).await;
        for settlements in slices(ended) {
            if settle(worker, connection, fence, settlements).await?.is_break() {
                return Ok(Batch::Empty);
            }
        }
    }
    Ok(Batch::Full)
}

/// Cuts settlements into what one transaction may hold; a larger record stands alone.
fn slices(group: Vec<Settlement>) -> Vec<Vec<Settlement>> {
    let size = |settlement: &Settlement| match &settlement.result {
        SettleResult::Fetched(change) | SettleResult::Deleted(change) | SettleResult::Keep { change, .. } => {
            change.content.as_ref().map_or(0, Content::bytes)
        }
        SettleResult::Stands(_)
        | SettleResult::RetryAt { .. }
        | SettleResult::Quarantine { .. }
        | SettleResult::Release { .. } => 0,
    };
    let mut slices: Vec<Vec<Settlement>> = Vec::new();
    let mut bytes = 0;
    for settlement in group {
        let more = size(&settlement);
        match slices.last_mut() {
            Some(slice) if bytes + more <= SLICE_BYTES_MAX => {
                slice.push(settlement);
                bytes += more;
            }
            Some(_) | None => {
                slices.push(vec![settlement]);
                bytes = more;
            }
        }
    }
    slices
}

async fn settle(
    worker: &Worker,
    connection: &Connection,
    fence: Fence,
    settlements: Vec<Settlement>,
) -> Result<ControlFlow<()>, StoreError> {
    let name = &connection.name;
    let settle = SettleChanges {
        connection: name.clone(),
        fence,
        settlements,
        at: worker.clock.now(),
    };
    match worker.store.settle_changes(&settle).await {
        Err(StoreError::Fenced { .. }) => {
            connection.let_go();
            return Ok(ControlFlow::Break(()));
        }
        Err(error) => return Err(error),
        Ok(settled) => {
            worker.dedup.mark(name, &settled.ids).await;
            metrics::counter!("courier_events_total").increment(settled.appended);
            metrics::counter!("courier_late_events_total").increment(settled.late);
            metrics::counter!("courier_superseded_total").increment(settled.superseded);
            if settled.appended > 0 {
                worker.bells.fan_out.ring(name);
            }
            if settled.quarantined > 0 {
                warn!(connection = %name, changes = settled.quarantined, "changes went to quarantine");
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// One request is left for polls where more than one may be under way.
fn fetches_at_once(connection: &Connection) -> usize {
    connection.concurrent.saturating_sub(1).max(1)
}

async fn settle_one(
    worker: &Worker,
    connection: &Connection,
    claimed: ClaimedChange,
    stop: &CancellationToken,
) -> Settlement {
    let (id, generation) = (claimed.id, claimed.generation);
    let carried = claimed.change.content.is_some() || claimed.change.shown == Shown::Deleted;
    let result = if carried && !context::is_due(connection, &claimed, &claimed.change) {
        // It came with its record and waited behind an earlier change of it.
        SettleResult::Fetched(claimed.change)
    } else if !carried && claimed.claims > worker.limits.fetch_claims {
        SettleResult::Quarantine {
            reason: "its worker died at it three times".to_owned(),
        }
    } else {
        tokio::select! {
            biased;
            () = stop.cancelled() => SettleResult::Release { due_at: worker.clock.now() },
            result = traced(worker, connection, claimed) => result,
        }
    };
    Settlement {
        id,
        generation,
        result,
    }
}

/// Fetches within the trace of the poll that showed the change.
async fn traced(worker: &Worker, connection: &Connection, claimed: ClaimedChange) -> SettleResult {
    let feed = claimed.feed.clone();
    let span = worker.begin_span(Stage::Fetch, claimed.change.trace);
    let result = fetch_whole(worker, connection, claimed).await;
    if let Some(span) = span {
        let outcome = match &result {
            SettleResult::Fetched(_) | SettleResult::Stands(_) | SettleResult::Deleted(_) => {
                SpanOutcome::Done
            }
            SettleResult::RetryAt { .. }
            | SettleResult::Keep { .. }
            | SettleResult::Quarantine { .. }
            | SettleResult::Release { .. } => SpanOutcome::Failed,
        };
        worker.end_span(span, outcome, &connection.name, vec![("feed", feed.to_string())]);
    }
    result
}

/// Fetches a change's record, unless it came along, and its context, where its feed includes some.
async fn fetch_whole(worker: &Worker, connection: &Connection, claimed: ClaimedChange) -> SettleResult {
    let fetched = if claimed.change.content.is_some() {
        SettleResult::Fetched(claimed.change.clone())
    } else {
        fetch(worker, connection, &claimed).await
    };
    let SettleResult::Fetched(mut change) = fetched else {
        return fetched;
    };
    if !context::is_due(connection, &claimed, &change) {
        return SettleResult::Fetched(change);
    }
    match context::gather(worker, connection, &claimed, &change).await {
        Ok(context) => {
            if let Some(content) = &mut change.content {
                content.context = Some(context);
            }
            SettleResult::Fetched(change)
        }
        Err(error) => {
            let result = after_error(worker, connection, &claimed, error);
            if claimed.change.content.is_some() {
                result
            } else {
                keep(change, result)
            }
        }
    }
}

/// What was read just now outlasts what its context came to: the source may replace it before the next try.
fn keep(change: Change, result: SettleResult) -> SettleResult {
    let (due_at, reason) = match result {
        SettleResult::RetryAt { due_at, reason } => (due_at, Some(reason)),
        SettleResult::Release { due_at } => (due_at, None),
        other @ (SettleResult::Fetched(_)
        | SettleResult::Stands(_)
        | SettleResult::Deleted(_)
        | SettleResult::Keep { .. }
        | SettleResult::Quarantine { .. }) => return other,
    };
    SettleResult::Keep {
        change,
        due_at,
        reason,
    }
}

async fn fetch(worker: &Worker, connection: &Connection, claimed: &ClaimedChange) -> SettleResult {
    let wanted = as_reference(&claimed.change);
    let head = head_that_may_stand(connection, claimed);
    let request = FetchRequest {
        change: &wanted,
        known: head.map(|(_, version_id)| version_id),
    };
    let leave = connection.budget.leave().await;
    let answer = connection.connector.fetch(request).await;
    drop(leave);
    let outcome = match &answer {
        Ok(Fetched::Unchanged) => "unchanged",
        Ok(_) => "ok",
        Err(error) => error.class(),
    };
    connection.count_request(&worker.watch.connections, outcome);
    let failed = |reason: String| retry_or_quarantine(worker, claimed, reason);
    match answer {
        Ok(Fetched::Found(mut found, record)) => {
            connection.note_fetched();
            let rule = connection.connector.version_rule(&found.key.record_type);
            found.record = Some(record);
            let mut fetched = identify(&connection.name, found, &rule);
            fetched.trace = claimed.change.trace;
            if fetched.order.is_before(&claimed.change.order) {
                // A cache's answer from before the change: taken for an answer, it would pass for a newer version.
                return failed("the source answered an older version than it had shown".to_owned());
            }
            SettleResult::Fetched(fetched)
        }
        Ok(Fetched::Unchanged) => match head {
            Some((head, _)) => {
                connection.note_fetched();
                SettleResult::Stands(ledger::showing_of(head, claimed.change.clone()))
            }
            None => failed("the source answered by a version that it was not asked about".to_owned()),
        },
        Ok(Fetched::Deleted) => SettleResult::Deleted(inferred_delete(claimed.change.clone())),
        Ok(Fetched::NotFound) => failed("the source does not know the record (404)".to_owned()),
        Ok(Fetched::Unavailable) => failed("the source does not let us read the record (403)".to_owned()),
        Ok(Fetched::TooLarge) => SettleResult::Quarantine {
            reason: "the record exceeds the record limit".to_owned(),
        },
        Err(error) => after_error(worker, connection, claimed, error),
    }
}

/// The record's head with its version id, where the source may answer that it still stands. Where version ids are no
/// longer trusted, heads that were named by them are not either.
fn head_that_may_stand<'a>(
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
    match error {
        ConnectorError::Throttled { retry_after, .. } => {
            let pause = retry_after.unwrap_or(RETRY);
            connection.budget.pause(pause);
            SettleResult::Release {
                due_at: after(worker.clock.now(), pause),
            }
        }
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
    if claimed.attempts + 1 >= worker.limits.fetch_attempts {
        return SettleResult::Quarantine { reason };
    }
    let due_at = plan::turn_after_failure(worker.clock.now(), RETRY, claimed.attempts + 1, None);
    SettleResult::RetryAt { due_at, reason }
}

fn as_reference(change: &Change) -> ChangeRef {
    ChangeRef {
        key: change.key.clone(),
        shown: change.shown,
        novelty: change.novelty,
        version_id: change.version_id.clone(),
        last_updated: change.order.stamp,
        record: None,
    }
}

fn inferred_delete(change: Change) -> Change {
    Change {
        shown: Shown::Deleted,
        version: VersionClue::InferredDelete,
        version_id: None,
        first_version: false,
        content: None,
        ..change
    }
}

fn after(now: Timestamp, by: Duration) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}
