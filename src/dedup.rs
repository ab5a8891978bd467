//! Deduplication in front of the store: a memory of accepted event ids that spares the store a look-up.
//!
//! A hit suppresses, because ids are marked only after their event was committed. Everything else (a miss, an
//! eviction, an empty memory) costs one look-up in the store, whose unique index decides.

pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::ConnectionName;

use crate::domain::identity::EventId;

/// An id is remembered for at most this long after it was marked: what a source goes on showing must come through to
/// the store once a day, which else would take it for something that is shown no more, and forget it.
pub const REMEMBERED_MAX: Duration = Duration::from_hours(24);

/// Remembers accepted event ids for a while.
#[async_trait]
pub trait Dedup: Send + Sync {
    /// Says for each id whether it is known to be accepted. Never wrong when it says yes; never fails: what
    /// cannot be answered in time is a no.
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool>;

    /// Remembers ids whose events are committed. A failure only costs later look-ups.
    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]);

    /// Forgets ids whose showing is news again: of records that were found deleted, and may come back under the same
    /// version. A failure only keeps such a showing from the store for as long as ids are remembered.
    async fn forget(&self, connection: &ConnectionName, ids: &[EventId]);

    /// What it is called in metrics.
    fn name(&self) -> &'static str;

    /// Why it spares the store nothing at present, if so; no secret. The courier is ready all the same.
    fn trouble(&self) -> Option<String> {
        None
    }
}
