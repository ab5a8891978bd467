//! Ended attempts on their way into the store: recorded beside sending, in batches that fill up while there is more to
//! send, so that one fsync pays for many.
//!
//! What has ended and is not recorded yet is sent again after a crash. So it is bounded by a limit with a name, and it
//! waits for company only while more is being sent. It must not know who attempts what.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::warn;

use super::Worker;
use crate::domain::delivery::AttemptRecord;
use crate::store::StoreError;

/// How long an ended attempt waits for company while there is more to send. A shorter wait costs an fsync for fewer
/// attempts where the destinations are slow; a longer one holds back the next version of the same record.
const COMPANY_WAIT: Duration = Duration::from_millis(50);

/// Whether the store had more to send than there was room for, at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Supply {
    /// More will end soon.
    Ample,
    /// Nobody else may come: nothing waits for company.
    Dry,
}

/// The attempts of one stage that have ended and are not recorded yet.
pub(super) struct Recorder {
    worker: Arc<Worker>,
    /// Not yet given to the store, and since when the first of them waits.
    ended: Vec<AttemptRecord>,
    waiting_since: Option<Instant>,
    /// At most one batch: what ends while it is written is the next one.
    under_way: JoinSet<Result<(), StoreError>>,
    written_now: usize,
}

impl Recorder {
    /// Makes a recorder that has nothing to do.
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self {
            worker,
            ended: Vec::new(),
            waiting_since: None,
            under_way: JoinSet::new(),
            written_now: 0,
        }
    }

    /// Takes an ended attempt.
    pub(super) fn take(&mut self, ended: AttemptRecord) {
        self.ended.push(ended);
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Whether so much is unrecorded that nothing more may be claimed.
    pub(super) fn is_full(&self) -> bool {
        self.ended.len() + self.written_now >= self.worker.limits.unrecorded
    }

    /// Begins to write what has ended, unless it waits for company or a batch is being written.
    pub(super) fn write_if_ripe(&mut self, supply: Supply) {
        let Some(since) = self.waiting_since else {
            return;
        };
        // Half of what may be unrecorded is written while the other half fills up.
        let full = self.ended.len() >= self.worker.limits.unrecorded / 2;
        let ripe = full || supply == Supply::Dry || since.elapsed() >= COMPANY_WAIT;
        if !ripe || !self.under_way.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.ended);
        self.waiting_since = None;
        self.written_now = batch.len();
        self.under_way.spawn(write(Arc::clone(&self.worker), batch));
    }

    /// How long nothing becomes ripe by waiting alone.
    pub(super) fn ripe_in(&self) -> Option<Duration> {
        let since = self.waiting_since.filter(|_| self.under_way.is_empty())?;
        Some(COMPANY_WAIT.saturating_sub(since.elapsed()))
    }

    /// Waits for the batch that is being written; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    ///
    /// **Cancel safety.** The batch goes on, and is waited for the next time.
    pub(super) async fn written(&mut self) -> Option<Result<(), StoreError>> {
        let joined = self.under_way.join_next().await?;
        self.written_now = 0;
        Some(unwrap_panic(joined).unwrap_or(Ok(())))
    }

    /// Writes all that has ended.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        loop {
            self.write_if_ripe(Supply::Dry);
            match self.written().await {
                Some(written) => written?,
                None => return Ok(()),
            }
        }
    }
}

async fn write(worker: Arc<Worker>, batch: Vec<AttemptRecord>) -> Result<(), StoreError> {
    let recorded = worker.store.record_attempts(&batch).await?;
    if recorded.fenced > 0 {
        warn!(
            attempts = recorded.fenced,
            "attempts were left out: their lease has passed to another worker"
        );
    }
    Ok(())
}

/// What a task answered; `None` when it was aborted. Its panic goes on here.
pub(super) fn unwrap_panic<T>(joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
