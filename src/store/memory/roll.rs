//! The roll: what complete listings named, and what becomes of records that they no longer name.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordKey};

use super::state::State;
use crate::domain::ledger::{Baseline, Life};
use crate::store::batch::missing;
use crate::store::{KeepRoll, Kept, StoreError};

impl State {
    pub(super) fn roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Vec<RecordId> {
        let feed = self
            .connections
            .get(connection)
            .and_then(|state| state.feeds.get(feed));
        let behind = |id: &&RecordId| after.is_none_or(|after| *id > after);
        feed.map(|feed| feed.roll.iter().filter(behind).take(limit).cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn keep_roll(&mut self, keep: &KeepRoll) -> Result<Kept, StoreError> {
        let state = self.fenced(&keep.connection, keep.fence)?;
        let mut kept = Kept::default();
        for id in &keep.missing {
            let key = RecordKey {
                record_type: keep.record_type.clone(),
                id: id.clone(),
            };
            let feed = state.feeds.entry(keep.feed.clone()).or_default();
            // What waits is read anyway; it stays on the roll, and the next listing asks again.
            if state.inbox.holds(&key) || !feed.roll.remove(id) {
                continue;
            }
            let lives = state.heads.get(&key).is_some_and(|head| head.life == Life::Live);
            let change = missing(&key);
            if lives && !state.is_quarantined_without_id(&change) {
                let arrival = (change, keep.fresh_as_of);
                state.put_into_inbox((&keep.feed, Baseline::Unproven), &arrival, keep.at);
                kept.asked += 1;
            }
        }
        let feed = state.feeds.entry(keep.feed.clone()).or_default();
        feed.roll.extend(keep.joined.iter().cloned());
        Ok(kept)
    }
}
