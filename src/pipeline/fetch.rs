//! Fetch: reads the full record of changes whose page did not bring it, and moves on what waited behind them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{ConnectionName, Fetched, RecordKey, Shown};
use futures_util::future;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use super::agenda::Agenda;
use super::connection::Connection;
use super::context;
use super::heartbeat::Part;
use super::read::{self, Turn};
use super::together::{self, Contexts};
use crate::domain::delivery::Fence;
use crate::domain::event::Content;
use crate::domain::identity::{EventId, VersionKey};
use crate::domain::ledger::{Head, Life};
use crate::domain::trace::{SpanOutcome, Stage};
use crate::store::{
    ClaimChanges, ClaimedChange, SLICE_BYTES_MAX, SettleChanges, SettleResult, Settlement, StoreError,
};

/// An inbox is looked at no sooner than this after nothing was found in it, unless somebody rings.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// An inbox in which nothing waits is looked at this often even if nobody rings.
const LOOK_ANYWAY: Duration = Duration::from_mins(5);

/// A batch asks for no further record after this: a slow source gives its place to the others.
const TURN_MAX: Duration = Duration::from_secs(10);

/// What a batch found: when it is worth looking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    Full,
    /// Nothing was due; what waits, if anything, is due then.
    Empty(Option<Timestamp>),
    /// The lease is not ours, or in doubt.
    Unheld,
}

impl Batch {
    fn again_in(self, now: Timestamp) -> Duration {
        match self {
            Self::Full => Duration::ZERO,
            Self::Unheld => LOOK_AGAIN,
            Self::Empty(None) => LOOK_ANYWAY,
            Self::Empty(Some(due_at)) => Duration::try_from(due_at.duration_since(now))
                .unwrap_or_default()
                .clamp(LOOK_AGAIN, LOOK_ANYWAY),
        }
    }
}

/// Fetches for all connections that this worker holds, one batch a connection at a time, until `stop`.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut agenda = Agenda::default();
    let mut batches: JoinSet<(ConnectionName, Result<Batch, StoreError>)> = JoinSet::new();
    let mut running: BTreeSet<ConnectionName> = BTreeSet::new();
    for name in worker.connections.keys() {
        worker.bells.fetch.ring(name);
    }
    loop {
        worker.watch.heartbeats.beat(Part::Fetch);
        let now = Instant::now();
        for name in worker.bells.fetch.take() {
            agenda.put(name, now);
        }
        while batches.len() < worker.limits.fetch_batches
            && let Some(name) = agenda.take_due(now, |name| !running.contains(name))
        {
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
                    agenda.put(name, Instant::now() + result?.again_in(worker.clock.now()));
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
        return Ok(Batch::Unheld);
    };
    let Some(fence) = connection.fence() else {
        return Ok(Batch::Unheld);
    };
    let claim = ClaimChanges {
        connection: name.clone(),
        fence,
        limit: worker.limits.fetch_batch.max(reads_at_once(connection)),
        last: connection.giving_way(),
        at: worker.clock.now(),
    };
    let claimed = match worker.store.claim_changes(&claim).await {
        Err(StoreError::Fenced { .. }) => {
            connection.let_go();
            return Ok(Batch::Unheld);
        }
        other => other?,
    };
    if claimed.is_empty() {
        return Ok(Batch::Empty(worker.store.next_change_due(name).await?));
    }
    // As many at a time as may be under way, then settled: one read that hangs holds back no others, and no request is
    // left open while the store works.
    let turn = Turn {
        fence,
        ends: Instant::now() + TURN_MAX,
        stop: stop.clone(),
        contexts: Contexts::default(),
    };
    let mut found = together::records(worker, connection, &claimed, &turn).await;
    together::contexts(worker, connection, &claimed, &found, &turn).await;
    // What was read together is there: it needs no request of its own, unless for its context.
    let (read, claimed): (Vec<_>, Vec<_>) = claimed
        .into_iter()
        .map(|change| {
            let found = found.remove(&change.id);
            (change, found)
        })
        .partition(|(change, found)| found.is_some() && !context::is_included(connection, change));
    let settled = read
        .into_iter()
        .map(|change| settle_one(worker, connection, change, &turn));
    for settlements in slices(future::join_all(settled).await) {
        if settle(worker, connection, fence, settlements).await?.is_break() {
            return Ok(Batch::Unheld);
        }
    }
    let mut claimed = claimed.into_iter().peekable();
    while claimed.peek().is_some() {
        let at_once = claimed.by_ref().take(fetches_at_once(connection));
        let ended =
            future::join_all(at_once.map(|change| settle_one(worker, connection, change, &turn))).await;
        for settlements in slices(ended) {
            if settle(worker, connection, fence, settlements).await?.is_break() {
                return Ok(Batch::Unheld);
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
        | SettleResult::Unavailable(_)
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
        unchanged_untold: connection.unchanged_untold(),
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
            let label = worker.watch.connections.of(name.as_str());
            metrics::counter!("courier_events_total", "connection" => label).increment(settled.appended);
            metrics::counter!("courier_late_events_total").increment(settled.late);
            metrics::counter!("courier_superseded_total").increment(settled.superseded);
            worker.count_unchanged(name, settled.unchanged);
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

/// How many records of one type one request may read, for the type that allows most.
fn reads_at_once(connection: &Connection) -> usize {
    let types = connection.feeds.iter().map(|feed| &feed.spec.record_type);
    let at_once = types.map(|record_type| connection.connector.fetch_at_once(record_type));
    at_once.max().unwrap_or(1)
}

/// One request is left for polls where more than one may be under way.
fn fetches_at_once(connection: &Connection) -> usize {
    connection.concurrent.saturating_sub(1).max(1)
}

async fn settle_one(
    worker: &Worker,
    connection: &Connection,
    (claimed, found): (ClaimedChange, Option<Fetched>),
    turn: &Turn,
) -> Settlement {
    let (id, generation, key) = (claimed.id, claimed.generation, claimed.change.key.clone());
    let head = claimed.head.clone();
    let carried = claimed.change.content.is_some() || claimed.change.shown == Shown::Deleted;
    let result = if carried && !context::is_due(connection, &claimed, &claimed.change) {
        // It came with its record and waited behind an earlier change of it.
        SettleResult::Fetched(claimed.change)
    } else if !carried && claimed.claims > worker.limits.fetch_claims {
        SettleResult::Quarantine {
            reason: "its worker died at it three times".to_owned(),
        }
    } else if found.is_none() && (turn.stop.is_cancelled() || Instant::now() >= turn.ends) {
        SettleResult::Release {
            due_at: worker.clock.now(),
        }
    } else {
        traced(worker, connection, (claimed, found), turn).await
    };
    if let (SettleResult::Deleted(_), Some(head)) = (&result, head)
        && head.life == Life::Live
    {
        forget_version(worker, connection, &key, &head).await;
    }
    Settlement {
        id,
        generation,
        result,
    }
}

/// Lets the store hear of it when a record that is gone comes back under the version that it had.
async fn forget_version(worker: &Worker, connection: &Connection, key: &RecordKey, head: &Head) {
    let version = VersionKey::from_stored(head.version.as_shown().to_owned());
    let id = EventId::derive(&connection.name, key, &version);
    worker.dedup.forget(&connection.name, &[id]).await;
}

/// Fetches within the trace of the poll that showed the change.
async fn traced(
    worker: &Worker,
    connection: &Connection,
    (claimed, found): (ClaimedChange, Option<Fetched>),
    turn: &Turn,
) -> SettleResult {
    let feed = claimed.feed.clone();
    let span = worker.begin_span(Stage::Fetch, claimed.change.trace);
    let result = read::whole(worker, connection, (claimed, found), turn).await;
    if let Some(span) = span {
        let outcome = match &result {
            SettleResult::Fetched(_)
            | SettleResult::Stands(_)
            | SettleResult::Deleted(_)
            | SettleResult::Unavailable(_) => SpanOutcome::Done,
            SettleResult::RetryAt { .. }
            | SettleResult::Keep { .. }
            | SettleResult::Quarantine { .. }
            | SettleResult::Release { .. } => SpanOutcome::Failed,
        };
        worker.end_span(span, outcome, &connection.name, vec![("feed", feed.to_string())]);
    }
    result
}
