//! Atomic point 4: deliveries are claimed, attempted and recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use courier_sdk::{ConnectionName, RecordKey};
use jiff::Timestamp;

use super::state::{DeliveryRow, State};
use crate::domain::delivery::{
    AttemptOutcome, AttemptRecord, ClaimedDelivery, DeliveryId, DeliveryState, Fence, Replay,
};
use crate::domain::name::SubscriptionName;
use crate::store::batch::{Bounds, event_bytes};
use crate::store::turns::{Standing, Turns};
use crate::store::{ClaimDeliveries, DueDestinations, Holder, Recorded};

/// What keeps its order: one record's deliveries to one subscription.
type Line<'a> = (&'a SubscriptionName, &'a ConnectionName, &'a RecordKey);

impl State {
    pub(super) fn due_destinations(&self, holder: &Holder, now: Timestamp) -> DueDestinations {
        let mut answer = DueDestinations::default();
        for id in self.fronts(holder, now) {
            let Some(row) = self.deliveries.get(&id) else {
                continue;
            };
            if row.delivery.due_at <= now {
                answer.due.insert(row.delivery.destination.clone());
            } else {
                let earliest = answer
                    .next_due_at
                    .map_or(row.delivery.due_at, |other| other.min(row.delivery.due_at));
                answer.next_due_at = Some(earliest);
            }
        }
        answer
    }

    pub(super) fn claim_deliveries(&mut self, claim: &ClaimDeliveries) -> Vec<ClaimedDelivery> {
        let mut due: Vec<(Timestamp, DeliveryId)> = self
            .fronts(&claim.holder, claim.at)
            .into_iter()
            .filter_map(|id| {
                let delivery = &self.deliveries.get(&id)?.delivery;
                let ours = delivery.destination == claim.destination && delivery.due_at <= claim.at;
                ours.then_some((delivery.due_at, id))
            })
            .collect();
        due.sort_unstable();
        let due: Vec<DeliveryId> = due.into_iter().map(|(_, id)| id).collect();
        let mut turns = self.turns.remove(&claim.destination).unwrap_or_default();
        let kept = turns.keep(claim.limit);
        let chosen = match due.split_at_checked(claim.limit - kept) {
            Some((longest, others)) if kept > 0 => self.in_turn(longest, others, kept, &mut turns),
            Some(_) | None => due,
        };
        self.turns.insert(claim.destination.clone(), turns);
        let mut bounds = Bounds::new(claim.limit);
        let claimed: Vec<ClaimedDelivery> = chosen
            .into_iter()
            .filter_map(|id| self.delivery(id))
            .take_while(|claimed| bounds.admit(event_bytes(&claimed.event)))
            .collect();
        for one in &claimed {
            self.claims.insert(one.delivery.id, one.fence);
        }
        claimed
    }

    /// The longest due, then `kept` of the others in turn, then the rest.
    fn in_turn(
        &self,
        longest: &[DeliveryId],
        others: &[DeliveryId],
        kept: usize,
        turns: &mut Turns,
    ) -> Vec<DeliveryId> {
        let served: BTreeSet<Standing> = self
            .deliveries_with(self.claims.keys())
            .filter(|(id, row)| self.is_claimed(*id, row))
            .chain(self.deliveries_with(longest.iter()))
            .map(|(_, row)| row.standing())
            .collect();
        let mut first: BTreeMap<Standing, DeliveryId> = BTreeMap::new();
        for (id, row) in self.deliveries_with(others.iter()) {
            first.entry(row.standing()).or_insert(id);
        }
        first.retain(|standing, _| !served.contains(standing));
        let after = first.range((Bound::Excluded(turns.last.clone()), Bound::Unbounded));
        let round = after.chain(first.range(..=turns.last.clone()));
        let picked: Vec<(&Standing, DeliveryId)> =
            round.take(kept).map(|(standing, id)| (standing, *id)).collect();
        if let Some((standing, _)) = picked.last() {
            turns.last = (*standing).clone();
        }
        let picked: Vec<DeliveryId> = picked.into_iter().map(|(_, id)| id).collect();
        let rest = others.iter().filter(|id| !picked.contains(id));
        longest.iter().chain(&picked).chain(rest).copied().collect()
    }

    pub(super) fn record_attempts(&mut self, attempts: &[AttemptRecord]) -> Recorded {
        let mut recorded = Recorded::default();
        for attempt in attempts {
            if self.claims.get(&attempt.id) == Some(&attempt.fence) {
                self.claims.remove(&attempt.id);
            }
            if self.fenced(&attempt.connection, attempt.fence).is_err() {
                recorded.fenced += 1;
                continue;
            }
            recorded.recorded += 1;
            self.update_delivery(attempt.id, |row| row.record(attempt));
        }
        recorded
    }

    pub(super) fn delivery(&self, id: DeliveryId) -> Option<ClaimedDelivery> {
        let row = self.deliveries.get(&id)?;
        Some(ClaimedDelivery {
            delivery: row.delivery.clone(),
            event: self.event_of(row)?.clone(),
            fence: self.fence_of(&row.connection).unwrap_or(Fence(0)),
        })
    }

    /// Whether a delivery is being attempted; a claim under an earlier fence is void.
    pub(super) fn is_claimed(&self, id: DeliveryId, row: &DeliveryRow) -> bool {
        let claim = self.claims.get(&id);
        claim.is_some() && claim.copied() == self.fence_of(&row.connection)
    }

    fn fence_of(&self, connection: &ConnectionName) -> Option<Fence> {
        self.connections.get(connection)?.lease.fence
    }

    /// The pending delivery with the lowest number of each line on the holder's connections, where none of the line
    /// is being attempted.
    fn fronts(&self, holder: &Holder, now: Timestamp) -> BTreeSet<DeliveryId> {
        let mut lines: BTreeMap<Line<'_>, (u64, DeliveryId)> = BTreeMap::new();
        let mut busy: BTreeSet<Line<'_>> = BTreeSet::new();
        for (id, row) in self.deliveries_with(self.pending.iter().chain(self.claims.keys())) {
            let line = (&row.delivery.subscription, &row.connection, &row.key);
            if self.is_claimed(id, row) {
                busy.insert(line);
            }
            let held = self
                .connections
                .get(&row.connection)
                .is_some_and(|state| state.lease.is_held_by(holder, now));
            let paused = self.paused.contains_key(&row.delivery.subscription);
            if !held || paused || row.delivery.state != DeliveryState::Pending {
                continue;
            }
            let mine = (row.delivery.number, id);
            let front = lines.entry(line).or_insert(mine);
            *front = mine.min(*front);
        }
        lines
            .into_iter()
            .filter(|(line, _)| !busy.contains(line))
            .map(|(_, (_, id))| id)
            .collect()
    }

    fn deliveries_with<'a>(
        &'a self,
        ids: impl Iterator<Item = &'a DeliveryId>,
    ) -> impl Iterator<Item = (DeliveryId, &'a DeliveryRow)> {
        ids.filter_map(|id| Some((*id, self.deliveries.get(id)?)))
    }
}

impl DeliveryRow {
    fn standing(&self) -> Standing {
        (
            self.connection.to_string(),
            self.delivery.subscription.to_string(),
        )
    }

    /// Writes down what an attempt led to. A delivery that was cancelled under way stays cancelled unless it arrived.
    fn record(&mut self, attempt: &AttemptRecord) {
        let pending = self.delivery.state == DeliveryState::Pending;
        match &attempt.outcome {
            AttemptOutcome::Released => {}
            AttemptOutcome::Delivered { detail } => {
                self.count(detail);
                self.delivery.state = DeliveryState::Done;
                self.settled_at = Some(attempt.at);
            }
            AttemptOutcome::RetryAt { due_at, detail } => {
                self.count(detail);
                self.delivery.due_at = *due_at;
            }
            AttemptOutcome::Dead { detail } => {
                self.count(detail);
                if pending {
                    self.delivery.state = DeliveryState::Dead;
                    self.settled_at = Some(attempt.at);
                }
            }
        }
    }

    fn count(&mut self, detail: &str) {
        self.delivery.attempts += 1;
        self.delivery.last_outcome = Some(detail.to_owned());
    }

    /// Owes the delivery again, with a schedule of its own that starts now.
    pub(super) fn owe_again(&mut self, now: Timestamp) {
        self.delivery.state = DeliveryState::Pending;
        self.delivery.replay = Replay::Replayed;
        self.delivery.attempts = 0;
        self.delivery.scheduled_from = now;
        self.delivery.due_at = now;
    }
}
