//! The roll: what complete listings named, and what becomes of records that they no longer name.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordKey};

use super::state::State;
use crate::domain::ledger::{Baseline, Life};
use crate::store::batch::missing;
use crate::store::{KeepRoll, Kept, StoreError};

/// Whether a record on the roll was read because a listing did not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Never,
    Once,
}

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
        feed.map(|feed| feed.roll.keys().filter(behind).take(limit).cloned().collect())
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
            let asked = state
                .feeds
                .get(&keep.feed)
                .and_then(|feed| feed.roll.get(id).copied());
            let change = missing(&key);
            // What waits is read anyway, and what is in quarantine is people's; both stay on the roll.
            if asked.is_none() || state.inbox.holds(&key) || state.is_quarantined_without_id(&change) {
                continue;
            }
            let lives = state.heads.get(&key).is_some_and(|head| head.life == Life::Live);
            let feed = state.feeds.entry(keep.feed.clone()).or_default();
            if asked == Some(Asked::Never) && lives {
                feed.roll.insert(id.clone(), Asked::Once);
            } else {
                feed.roll.remove(id);
            }
            if lives {
                let arrival = (change, keep.fresh_as_of);
                state.put_into_inbox((&keep.feed, Baseline::Unproven), &arrival, keep.at);
                kept.asked += 1;
            }
        }
        let feed = state.feeds.entry(keep.feed.clone()).or_default();
        for id in &keep.joined {
            feed.roll.entry(id.clone()).or_insert(Asked::Never);
        }
        Ok(kept)
    }
}
