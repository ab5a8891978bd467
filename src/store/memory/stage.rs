//! The stage: newest-first polls wait here until their last page is in, then leave oldest first.

use std::cmp::Reverse;

use super::state::{ConnectionState, FeedRow, PollEnd, StagedChange, State};
use crate::domain::event::Change;
use crate::store::batch::{Arrival, Bounds, change_bytes, page_batch};
use crate::store::{AcceptPage, Progress, ReleaseStage, Released, SLICE_ROWS_MAX, StageState, StoreError};

impl State {
    pub(super) fn stage_page(&mut self, page: &AcceptPage) -> Result<(), StoreError> {
        let state = self.fenced(&page.poll.connection, page.poll.fence)?;
        let feed = state.feed_at(page)?;
        if feed.state.stage == StageState::Releasing {
            return Err(StoreError::Refused {
                reason: format!("the stage of feed {} is being released", page.poll.feed),
            });
        }
        feed.note_sights(page.sights);
        feed.stage_changes(page);
        match &page.progress {
            Progress::Slice => {}
            Progress::Page(resume) => feed.state.resume = Some(resume.clone()),
            Progress::Done { cursor, baseline } => {
                feed.state.resume = None;
                feed.state.stage = StageState::Releasing;
                feed.after_stage = Some(PollEnd {
                    cursor: cursor.clone(),
                    baseline: *baseline,
                    fresh_as_of: page.fresh_as_of,
                });
            }
            Progress::Inconclusive => feed.end_poll(),
        }
        state.quarantine_oversized(page);
        Ok(())
    }

    pub(super) fn release_stage(&mut self, release: &ReleaseStage) -> Result<Released, StoreError> {
        let poll = &release.poll;
        let state = self.fenced(&poll.connection, poll.fence)?;
        let feed = state.feeds.entry(poll.feed.clone()).or_default();
        if feed.state.stage != StageState::Releasing {
            return Err(StoreError::Refused {
                reason: format!("feed {} has no stage to release", poll.feed),
            });
        }
        let arrivals = feed.take_oldest(release.limit.min(SLICE_ROWS_MAX));
        let accepted = state.take_in(
            &page_batch(poll, state.baseline_of(&poll.feed), release.at),
            &arrivals,
        );
        Ok(Released {
            accepted,
            stage: state.end_empty_stage(release),
        })
    }
}

impl FeedRow {
    fn stage_changes(&mut self, page: &AcceptPage) {
        self.state.stage = StageState::Collecting;
        for change in &page.changes {
            let staged = StagedChange {
                index: self.stage.last().map_or(0, |last| last.index + 1),
                change: change.clone(),
                fresh_as_of: page.fresh_as_of,
            };
            self.stage.push(staged);
        }
    }

    /// Takes the oldest changes out: by time, then by version number; ties in the reverse of the answer.
    fn take_oldest(&mut self, limit: usize) -> Vec<Arrival> {
        if cfg!(sabotage = "unordered_history") {
            self.stage.sort_by_key(|staged| staged.index);
        } else {
            self.stage
                .sort_by_key(|staged| (age(&staged.change), Reverse(staged.index)));
        }
        let mut bounds = Bounds::new(limit);
        let taken = self
            .stage
            .iter()
            .take_while(|staged| bounds.admit(change_bytes(&staged.change)))
            .count();
        self.stage
            .drain(..taken)
            .map(|staged| (staged.change, staged.fresh_as_of))
            .collect()
    }
}

fn age(change: &Change) -> (Option<jiff::Timestamp>, Option<u64>) {
    (change.order.stamp, change.order.number)
}

impl ConnectionState {
    /// Ends the stage with its last change: the cursor moves.
    fn end_empty_stage(&mut self, release: &ReleaseStage) -> StageState {
        let feed = self.feeds.entry(release.poll.feed.clone()).or_default();
        if feed.stage.is_empty()
            && let Some(end) = feed.after_stage.take()
        {
            feed.state.stage = StageState::None;
            feed.complete(end, release.at);
        }
        feed.state.stage
    }
}
