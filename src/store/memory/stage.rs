//! The stage: newest-first polls wait here until their last page is in, then leave oldest first.

use std::collections::BTreeSet;

use super::state::{ConnectionState, FeedRow, PollEnd, StagedChange, State};
use crate::domain::release::{Placed, oldest_first};
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
        state.join_roll(page);
        let feed = state.feed_at(page)?;
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
            &page_batch(
                poll,
                state.baseline_of(&poll.feed),
                (release.context, release.unchanged, release.at),
            ),
            &arrivals,
        );
        let feed = state.feeds.entry(poll.feed.clone()).or_default();
        feed.state.found += accepted.appended + accepted.enqueued;
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

    /// Takes the oldest changes out.
    fn take_oldest(&mut self, limit: usize) -> Vec<Arrival> {
        let placed: Vec<Placed<'_>> = self.stage.iter().map(StagedChange::placed).collect();
        let mut bounds = Bounds::new(limit);
        let taken: Vec<usize> = oldest_first(&placed)
            .into_iter()
            .take_while(|index| {
                let staged = self.stage.get(*index);
                staged.is_some_and(|staged| bounds.admit(change_bytes(&staged.change)))
            })
            .collect();
        let arrivals = taken
            .iter()
            .filter_map(|index| self.stage.get(*index))
            .map(|staged| (staged.change.clone(), staged.fresh_as_of))
            .collect();
        let taken: BTreeSet<usize> = taken.into_iter().collect();
        let mut index = 0..;
        self.stage
            .retain(|_| index.next().is_none_or(|index| !taken.contains(&index)));
        arrivals
    }
}

impl StagedChange {
    fn placed(&self) -> Placed<'_> {
        Placed {
            key: &self.change.key,
            order: self.change.order,
            place: self.index,
        }
    }
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
