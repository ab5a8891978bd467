//! Atomic point 2: changes are claimed, fetched and settled, or given up into quarantine.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::{ConnectionName, Novelty, RecordKey};
use jiff::Timestamp;

use super::state::{ConnectionState, InboxRow, QuarantinedChange, StagedChange, State};
use crate::domain::event::{Change, Timeliness};
use crate::domain::ledger::Head;
use crate::store::batch::{
    Batch, Bounds, Effect, INCOMPLETE_RETRIED_AFTER, change_bytes, has_replaced, known_id, later,
    must_be_read, settling_source,
};
use crate::store::{
    ClaimChanges, ClaimedChange, InboxId, SLICE_ROWS_MAX, SettleChanges, SettleResult, Settled, Settlement,
    StoreError,
};

/// The inbox, with its rows' places by record.
#[derive(Default)]
pub(super) struct Inbox {
    rows: BTreeMap<InboxId, InboxRow>,
    by_record: BTreeMap<RecordKey, BTreeSet<InboxId>>,
}

impl Inbox {
    /// The rows, in the order in which they came.
    pub(super) fn rows(&self) -> &BTreeMap<InboxId, InboxRow> {
        &self.rows
    }

    /// When the next row is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.rows.values().map(|row| row.due_at).min()
    }

    /// Whether a change of a record waits.
    pub(super) fn holds(&self, key: &RecordKey) -> bool {
        self.by_record.contains_key(key)
    }

    /// Whether another row of a record waits that came with its record.
    fn holds_a_record_beside(&self, id: InboxId, key: &RecordKey) -> bool {
        let mut others = self
            .by_record
            .get(key)
            .into_iter()
            .flatten()
            .filter(|other| **other != id);
        others.any(|other| {
            self.rows
                .get(other)
                .is_some_and(|row| row.change.content.is_some())
        })
    }

    /// The last row of a record for which something holds.
    pub(super) fn last_of(
        &mut self,
        key: &RecordKey,
        holds: impl Fn(&InboxRow) -> bool,
    ) -> Option<&mut InboxRow> {
        let ids = self.by_record.get(key)?;
        let is_it = |id: &&InboxId| self.rows.get(*id).is_some_and(&holds);
        let id = *ids.iter().rev().find(is_it)?;
        self.rows.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: InboxId, row: InboxRow) {
        let ids = self.by_record.entry(row.change.key.clone()).or_default();
        ids.insert(id);
        self.rows.insert(id, row);
    }

    fn remove(&mut self, id: InboxId) -> Option<InboxRow> {
        let row = self.rows.remove(&id)?;
        if let Some(ids) = self.by_record.get_mut(&row.change.key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_record.remove(&row.change.key);
            }
        }
        Some(row)
    }
}

impl State {
    pub(super) fn claim_changes(&mut self, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, StoreError> {
        let state = self.fenced(&claim.connection, claim.fence)?;
        let mut claimed = Vec::new();
        let mut bounds = Bounds::new(claim.limit);
        for gives_way in [false, true] {
            if !state.claim_of(claim, gives_way, &mut bounds, &mut claimed) {
                break;
            }
        }
        Ok(claimed)
    }

    pub(super) fn settle_changes(&mut self, settle: &SettleChanges) -> Result<Settled, StoreError> {
        let state = self.fenced(&settle.connection, settle.fence)?;
        let mut settled = Settled::default();
        for settlement in &settle.settlements {
            let ours = state
                .inbox
                .rows
                .get(&settlement.id)
                .is_some_and(|row| row.claimed == Some(settle.fence));
            if ours {
                state.settle(settle, settlement, &mut settled);
            }
        }
        Ok(settled)
    }

    pub(super) fn redrive_quarantine(&mut self, connection: &ConnectionName, now: Timestamp) -> u64 {
        let state = self.connection(connection);
        let mut redriven = 0;
        while redriven < SLICE_ROWS_MAX as u64
            && let Some((_, row)) = state.quarantine.pop_first()
        {
            if let Some(id) = known_id(&row.change) {
                state.accepted.remove(id);
            }
            state.put_into_inbox((&row.feed, row.baseline), &(row.change, row.fresh_as_of), now);
            redriven += 1;
        }
        redriven
    }
}

impl InboxRow {
    fn as_claimed(&self, id: InboxId, head: Option<&Head>) -> ClaimedChange {
        ClaimedChange {
            id,
            generation: self.generation,
            feed: self.feed.clone(),
            change: self.change.clone(),
            fresh_as_of: self.fresh_as_of,
            attempts: self.attempts,
            claims: self.claims,
            head: head.filter(|_| must_be_read(&self.change)).cloned(),
        }
    }

    fn retry(&mut self, due_at: Timestamp) {
        self.attempts += 1;
        self.release(due_at);
    }

    /// Takes what was read for the row; what is announced stays announced.
    fn keep(&mut self, read: &Change) {
        let announced = self.change.novelty == Novelty::Announce;
        let trace = self.change.trace.or(read.trace);
        self.change = Change {
            trace,
            ..read.clone()
        };
        if announced {
            self.change.novelty = Novelty::Announce;
        }
    }

    /// A polite end is no killed worker.
    fn release(&mut self, due_at: Timestamp) {
        self.claims = 0;
        self.due_at = due_at;
        self.claimed = None;
    }
}

impl ConnectionState {
    /// Claims changes of the feeds that give way, or of all others; answers whether there is room for more.
    fn claim_of(
        &mut self,
        claim: &ClaimChanges,
        gives_way: bool,
        bounds: &mut Bounds,
        claimed: &mut Vec<ClaimedChange>,
    ) -> bool {
        let mut seen: BTreeSet<RecordKey> = BTreeSet::new();
        for (id, row) in &mut self.inbox.rows {
            let front = seen.insert(row.change.key.clone());
            if claim.last.contains(&row.feed) != gives_way {
                continue;
            }
            let free = row.claimed != Some(claim.fence) && row.due_at <= claim.at;
            // A row whose last claim ended without a word may have killed its worker: it goes alone, so that it is
            // found out and its neighbours are not blamed.
            let suspect = row.claims > 0;
            if !front || !free || (suspect && !claimed.is_empty()) {
                continue;
            }
            if !bounds.admit(change_bytes(&row.change)) {
                return false;
            }
            row.claimed = Some(claim.fence);
            row.claims += 1;
            let head = self.heads.get(&row.change.key);
            claimed.push(row.as_claimed(*id, head));
            if suspect {
                return false;
            }
        }
        true
    }

    /// Settles one claimed row.
    fn settle(&mut self, settle: &SettleChanges, settlement: &Settlement, settled: &mut Settled) {
        match &settlement.result {
            SettleResult::Deleted(change) if self.inbox.holds_a_record_beside(settlement.id, &change.key) => {
                // What was shown before the read is told of before the delete.
                if let Some(row) = self.inbox.remove(settlement.id) {
                    self.line_up_again(row, settle.at);
                    settled.shown_again += 1;
                }
            }
            SettleResult::Fetched(change)
            | SettleResult::Stands(change)
            | SettleResult::Deleted(change)
            | SettleResult::Unavailable(change) => {
                self.settle_found(settle, settlement, change, settled);
            }
            SettleResult::RetryAt { due_at, reason: _ } => {
                if let Some(row) = self.inbox.rows.get_mut(&settlement.id) {
                    row.retry(*due_at);
                }
            }
            SettleResult::Release { due_at } => {
                if let Some(row) = self.inbox.rows.get_mut(&settlement.id) {
                    row.release(*due_at);
                }
            }
            SettleResult::Keep {
                change,
                due_at,
                reason,
            } => self.settle_kept(settle, settlement, (change, *due_at, reason.is_some()), settled),
            SettleResult::Quarantine { reason } => {
                self.settle_given_up(settle, settlement, reason, settled);
            }
        }
    }

    fn settle_found(
        &mut self,
        settle: &SettleChanges,
        settlement: &Settlement,
        change: &Change,
        settled: &mut Settled,
    ) {
        let Some(row) = self.inbox.remove(settlement.id) else {
            return;
        };
        let batch = Batch {
            connection: &settle.connection,
            feed: &row.feed,
            source: settling_source(&row.change),
            baseline: self.proven_by_both(&row),
            unchanged: settle.unchanged_of(&row.feed),
            at: settle.at,
        };
        let unavailable = matches!(settlement.result, SettleResult::Unavailable(_));
        let arrival = (change.clone(), row.fresh_as_of);
        for written in self.decide_and_write(&batch, std::slice::from_ref(&arrival)) {
            match written.effect {
                Effect::Appended(timeliness) => {
                    settled.appended += 1;
                    settled.late += u64::from(timeliness == Timeliness::Late);
                }
                Effect::Known => settled.known += 1,
                Effect::Unchanged => settled.unchanged += 1,
                Effect::Silenced | Effect::Refused | Effect::Doubted => {}
                Effect::Enqueued => {
                    let mut row = row;
                    row.retry(later(settle.at, INCOMPLETE_RETRIED_AFTER));
                    self.inbox.insert(settlement.id, row);
                    return;
                }
            }
            let asked_for = known_id(&row.change);
            // A row whose record came along meanwhile is not superseded: that record is still to be told of.
            if let Some(id) = asked_for
                && written.id.as_ref() != asked_for
                && row.change.content.is_none()
            {
                if !unavailable && !has_replaced(change, &row.change) {
                    // An older answer, as far as anybody knows: what was asked for is still to come.
                    settled.ids.extend(written.id);
                    let mut row = row;
                    row.retry(later(settle.at, INCOMPLETE_RETRIED_AFTER));
                    self.inbox.insert(settlement.id, row);
                    return;
                }
                if !self.is_staged(&row.change) {
                    self.accept(id, row.change.order, settle.at);
                    settled.superseded += u64::from(!unavailable);
                }
            }
            settled.ids.extend(written.id);
        }
        let shown_again = row.generation != settlement.generation;
        if shown_again && !cfg!(sabotage = "inbox_row_without_a_generation") {
            settled.shown_again += 1;
            if row.change.content.is_some() {
                // What came with its record is not read again: it is known, and must not stand behind what came later.
                let mut row = row;
                row.release(settle.at);
                self.inbox.insert(settlement.id, row);
            } else {
                self.line_up_again(row, settle.at);
            }
        }
    }

    /// Releases a row that was shown again meanwhile behind all others: left in front, records that every poll shows anew
    /// would be read again and again, and those behind them never.
    fn line_up_again(&mut self, mut row: InboxRow, due_at: Timestamp) {
        row.release(due_at);
        let id = InboxId(self.next_row());
        self.inbox.insert(id, row);
    }

    /// Leaves a row with what was read for it.
    fn settle_kept(
        &mut self,
        settle: &SettleChanges,
        settlement: &Settlement,
        (change, due_at, failed): (&Change, Timestamp, bool),
        settled: &mut Settled,
    ) {
        let Some(mut row) = self.inbox.remove(settlement.id) else {
            return;
        };
        let unnamed = known_id(&row.change).is_none();
        let replaced = !unnamed && known_id(&row.change) != known_id(change);
        // Its record came along meanwhile, or it was not what was read: it is told of for itself.
        let stands_apart = replaced && (row.change.content.is_some() || !has_replaced(change, &row.change));
        // What was read may be older than a showing from meanwhile, which is then read for itself.
        let again = (unnamed && row.generation != settlement.generation)
            .then(|| (row.change.clone(), row.fresh_as_of));
        let (feed, baseline) = (row.feed.clone(), row.baseline);
        let read = (change.clone(), row.fresh_as_of);
        if replaced
            && !stands_apart
            && let Some(id) = known_id(&row.change)
            && !self.is_staged(&row.change)
        {
            self.accept(id, row.change.order, settle.at);
            settled.superseded += 1;
        }
        let stays = stands_apart || !self.waits(change);
        if stands_apart || !stays {
            self.put_into_inbox((&feed, baseline), &read, settle.at);
        } else {
            row.keep(change);
        }
        if stays {
            if failed {
                row.retry(due_at);
            } else {
                row.release(due_at);
            }
            self.inbox.insert(settlement.id, row);
        }
        if let Some(again) = again {
            self.put_into_inbox((&feed, baseline), &again, settle.at);
            settled.shown_again += 1;
        }
    }

    /// Whether a stage holds a version with its record: it is still to be told of, whatever a read found.
    fn is_staged(&self, change: &Change) -> bool {
        let is_it = |staged: &StagedChange| {
            known_id(&staged.change) == known_id(change) && staged.change.content.is_some()
        };
        self.feeds.values().any(|feed| feed.stage.iter().any(is_it))
    }

    fn settle_given_up(
        &mut self,
        settle: &SettleChanges,
        settlement: &Settlement,
        reason: &str,
        settled: &mut Settled,
    ) {
        let (id, at) = (settlement.id, settle.at);
        let Some(mut row) = self.inbox.remove(id) else {
            return;
        };
        // Shown again while it was given up, perhaps with its record: the next tries are for that showing.
        let shown_again = row.generation != settlement.generation;
        if shown_again || row.change.content.is_some() {
            row.attempts = 0;
            self.line_up_again(row, at);
            settled.shown_again += 1;
            return;
        }
        if let Some(event_id) = known_id(&row.change) {
            if self.accepted.contains_key(event_id) {
                // It came by another way meanwhile: there is nothing left to give up.
                settled.known += 1;
                return;
            }
            self.accept(event_id, row.change.order, at);
        }
        let quarantined = QuarantinedChange {
            feed: row.feed,
            change: row.change,
            fresh_as_of: row.fresh_as_of,
            baseline: row.baseline,
            reason: reason.to_owned(),
            at,
        };
        settled.quarantined += u64::from(self.put_into_quarantine(quarantined));
    }
}
