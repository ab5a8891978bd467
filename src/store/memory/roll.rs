//! The roll: what a feed's listings named, and what becomes of records that they no longer name.

use courier_sdk::{ConnectionName, FeedName, RecordId, RecordKey};

use super::state::{ConnectionState, State};
use crate::domain::ledger::{self, Baseline, Life, Queue};
use crate::store::batch::{missing, perhaps_returned};
use crate::store::{AcceptPage, KeepRoll, Kept, StoreError};

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

    pub(super) fn off_roll(
        &self,
        connection: &ConnectionName,
        feed: &FeedName,
        ids: &[RecordId],
    ) -> Vec<RecordId> {
        let state = self.connections.get(connection);
        let roll = state
            .and_then(|state| state.feeds.get(feed))
            .map(|feed| &feed.roll);
        let is_news = |id: &&RecordId| roll.and_then(|roll| roll.get(*id)) != Some(&Asked::Never);
        ids.iter().filter(is_news).cloned().collect()
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
            // What waits is read or told of anyway, and what is in quarantine is people's; both stay on the roll.
            let waits = state.queue_of(&key, None) == Queue::Waiting;
            if asked.is_none() || waits || state.is_quarantined_without_id(&change) {
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
        Ok(kept)
    }
}

impl ConnectionState {
    /// Puts a page's records on the roll; answers how many of them are read now, because they were taken for deleted.
    pub(super) fn join_roll(&mut self, page: &AcceptPage) -> u64 {
        let Some(joins) = &page.joins else {
            return 0;
        };
        let mut doubted = 0;
        for id in &joins.ids {
            let roll = &mut self.feeds.entry(joins.roll.clone()).or_default().roll;
            if roll.insert(id.clone(), Asked::Never) == Some(Asked::Never) {
                continue;
            }
            let key = RecordKey {
                record_type: joins.record_type.clone(),
                id: id.clone(),
            };
            let change = perhaps_returned(&key, None);
            let waits =
                self.queue_of(&key, None) == Queue::Waiting || self.is_quarantined_without_id(&change);
            if ledger::is_taken_for_deleted(self.heads.get(&key)) && !waits {
                let arrival = (change, page.fresh_as_of);
                self.put_into_inbox((&page.poll.feed, Baseline::Unproven), &arrival, page.at);
                doubted += 1;
            }
        }
        doubted
    }
}
