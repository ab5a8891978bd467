//! Atomic point 1: pages are handed over, and feeds, polls and cursors move.

use std::collections::BTreeSet;

use courier_sdk::{ConnectionName, FeedName};

use super::state::{ConnectionState, FeedRow, PollEnd, QuarantinedChange, State};
use crate::domain::ledger::Baseline;
use crate::store::batch::{Arrival, OVERSIZED, change_by_reference, page_batch};
use crate::store::{
    AcceptPage, Accepted, BaselineProof, Discarded, FeedState, PollRef, Progress, SetCursor, Sights,
    StageState, StoreError,
};

impl State {
    pub(super) fn feed(&self, connection: &ConnectionName, feed: &FeedName) -> FeedState {
        self.connections
            .get(connection)
            .and_then(|state| state.feeds.get(feed))
            .map(FeedRow::seen)
            .unwrap_or_default()
    }

    pub(super) fn accept_page(&mut self, page: &AcceptPage) -> Result<Accepted, StoreError> {
        let state = self.fenced(&page.poll.connection, page.poll.fence)?;
        let feed = state.feed_at(page)?;
        if feed.state.stage != StageState::None {
            return Err(StoreError::Refused {
                reason: format!("feed {} has a stage", page.poll.feed),
            });
        }
        feed.note_sights(page.sights);
        let arrivals: Vec<Arrival> = page
            .changes
            .iter()
            .map(|change| (change.clone(), page.fresh_as_of))
            .collect();
        let batch = page_batch(
            &page.poll,
            state.baseline_of(&page.poll.feed),
            (page.context, page.unchanged, page.at),
        );
        let mut accepted = state.take_in(&batch, &arrivals);
        accepted.enqueued += state.join_roll(page);
        accepted.quarantined = state.quarantine_oversized(page);
        let feed = state.feeds.entry(page.poll.feed.clone()).or_default();
        feed.state.found += accepted.appended + accepted.enqueued;
        match &page.progress {
            Progress::Slice => {}
            Progress::Page(resume) => feed.state.resume = Some(resume.clone()),
            Progress::Done { cursor, baseline } => {
                let end = PollEnd {
                    cursor: cursor.clone(),
                    baseline: *baseline,
                    fresh_as_of: page.fresh_as_of,
                };
                feed.complete(end, page.at);
            }
            Progress::Inconclusive => feed.end_poll(),
        }
        Ok(accepted)
    }

    pub(super) fn abandon_poll(&mut self, poll: &PollRef) -> Result<Discarded, StoreError> {
        let state = self.fenced(&poll.connection, poll.fence)?;
        let feed = state.feeds.entry(poll.feed.clone()).or_default();
        if feed.state.poll != poll.poll {
            return Err(StoreError::Conflict { what: "the poll" });
        }
        let discarded = match feed.state.stage {
            StageState::Collecting => feed.discarded(),
            StageState::None | StageState::Releasing => Discarded::default(),
        };
        feed.end_poll();
        Ok(discarded)
    }

    pub(super) fn set_cursor(&mut self, set: &SetCursor) -> Result<(), StoreError> {
        let feed = self
            .connection(&set.connection)
            .feeds
            .entry(set.feed.clone())
            .or_default();
        if feed.state.stage == StageState::Releasing {
            return Err(StoreError::Refused {
                reason: format!("the stage of feed {} is being released", set.feed),
            });
        }
        feed.end_poll();
        feed.state.cursor.clone_from(&set.cursor);
        feed.state.advanced_at = Some(set.at);
        if set.cursor.is_none() {
            feed.roll.clear();
        }
        // What the jump leaves out was never seen: a first sight no longer proves a creation.
        feed.baseline = Baseline::Forfeited;
        self.note(
            "cursors set",
            (format!("{}/{}", set.connection, set.feed), set.note.clone()),
            set.at,
        );
        Ok(())
    }
}

impl FeedRow {
    fn seen(&self) -> FeedState {
        let staged = match self.state.stage {
            StageState::Collecting => self.stage.len() as u64,
            StageState::None | StageState::Releasing => 0,
        };
        FeedState {
            staged,
            baseline: self.baseline,
            ..self.state.clone()
        }
    }

    fn discarded(&self) -> Discarded {
        let records: BTreeSet<_> = self.stage.iter().map(|staged| &staged.change.key).collect();
        Discarded {
            versions: self.stage.len() as u64,
            records: records.len() as u64,
        }
    }

    /// Ends the running poll: its resume link and a collecting stage go, and it cannot write any more.
    pub(super) fn end_poll(&mut self) {
        self.state.resume = None;
        self.state.poll.0 += 1;
        match self.state.stage {
            StageState::Collecting => {
                self.stage.clear();
                self.state.stage = StageState::None;
            }
            StageState::None | StageState::Releasing => {}
        }
    }

    /// What a filter left out was never seen: a first sight proves no creation any more, not even without the filter.
    pub(super) fn note_sights(&mut self, sights: Sights) {
        match sights {
            Sights::All => {}
            Sights::Filtered => self.baseline = Baseline::Forfeited,
        }
    }

    /// Ends a complete poll: the cursor moves.
    pub(super) fn complete(&mut self, end: PollEnd, at: jiff::Timestamp) {
        self.end_poll();
        if self.state.cursor.as_ref() != Some(&end.cursor) {
            self.state.advanced_at = Some(at);
        }
        self.state.completed_at = Some(at);
        self.state.cursor = Some(end.cursor);
        self.state.fresh_as_of = Some(end.fresh_as_of);
        match end.baseline {
            BaselineProof::Proven => self.baseline = Baseline::Complete,
            BaselineProof::Unproven => {}
        }
    }
}

impl ConnectionState {
    /// The feed, if it stands where the page's poll started.
    pub(super) fn feed_at(&mut self, page: &AcceptPage) -> Result<&mut FeedRow, StoreError> {
        let feed = self.feeds.entry(page.poll.feed.clone()).or_default();
        if feed.state.poll != page.poll.poll {
            return Err(StoreError::Conflict { what: "the poll" });
        }
        if feed.state.cursor != page.from {
            return Err(StoreError::Conflict { what: "the cursor" });
        }
        Ok(feed)
    }

    pub(super) fn quarantine_oversized(&mut self, page: &AcceptPage) -> u64 {
        let mut quarantined = 0;
        for key in &page.oversized {
            let row = QuarantinedChange {
                feed: page.poll.feed.clone(),
                change: change_by_reference(key),
                fresh_as_of: page.fresh_as_of,
                baseline: self.baseline_of(&page.poll.feed),
                reason: OVERSIZED.to_owned(),
                at: page.at,
            };
            quarantined += u64::from(self.put_into_quarantine(row));
        }
        quarantined
    }
}
