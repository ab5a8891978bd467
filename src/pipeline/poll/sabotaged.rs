//! Deliberate faults of the hand-over, for builds that must fail their checks; other builds never call them.

use std::ops::ControlFlow;

use courier_sdk::{Next, PageOrder};

use super::super::Worker;
use super::super::turn::TurnEnd;
use super::Poll;
use crate::domain::event::Change;
use crate::store::{AcceptPage, PollId, Progress, StoreError};

impl Poll<'_> {
    /// A deliberate fault: the cursor moves with a page although more are to come.
    pub(super) async fn cursor_with_the_first_page(
        &mut self,
        worker: &Worker,
        next: &Next,
        fresh_as_of: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        let Next::Page(_) = next else {
            return Ok(());
        };
        let cursor = self.connection.connector.cursor_at(fresh_as_of);
        let done = AcceptPage {
            poll: self.reference(),
            from: self.cursor.clone(),
            changes: Vec::new(),
            oversized: Vec::new(),
            joins: None,
            progress: Progress::Done {
                cursor: cursor.clone(),
                baseline: self.proof(&cursor),
            },
            context: super::context_rule(self.feed),
            unchanged: self.connection.unchanged(self.feed),
            sights: super::sights(self.feed),
            fresh_as_of,
            at: worker.clock.now(),
        };
        worker.store.accept_page(&done).await?;
        self.cursor = Some(cursor);
        self.id = PollId(self.id.0 + 1);
        Ok(())
    }

    /// A deliberate fault: what moves the cursor is committed before the changes that it covers.
    pub(super) async fn cursor_before_commit(
        &mut self,
        worker: &Worker,
        next: Next,
        changes: Vec<Change>,
        template: AcceptPage,
    ) -> Result<ControlFlow<TurnEnd>, StoreError> {
        let progress = self.progress(&next);
        let (order, fresh_as_of) = (PageOrder::OldestFirst, template.fresh_as_of);
        let moved = AcceptPage {
            oversized: Vec::new(),
            joins: None,
            progress,
            ..template.clone()
        };
        self.give(worker, order, moved).await?;
        if let Next::Done(cursor) = &next {
            self.cursor = Some(cursor.clone());
        }
        if !matches!(next, Next::Page(_)) {
            self.id = PollId(self.id.0 + 1);
        }
        let behind = AcceptPage {
            poll: self.reference(),
            from: self.cursor.clone(),
            changes,
            ..template
        };
        self.give(worker, order, behind).await?;
        Ok(self.go_on(worker, next, order, fresh_as_of))
    }
}
