//! What operators change: pauses, recoveries, and the trail that is left of it.

use jiff::Timestamp;

use super::state::State;
use crate::domain::delivery::DeliveryId;
use crate::domain::name::SubscriptionName;
use crate::domain::retry;
use crate::store::{
    AUDIT_ROWS_MAX, AuditRow, Epoch, Flow, PauseRow, Recovered, Recovery, SetFlow, StageState, StoreError,
};

impl State {
    pub(super) fn set_flow(&mut self, set: &SetFlow) -> Result<(), StoreError> {
        let name = &set.subscription;
        let action = match set.flow {
            Flow::Paused if self.subscription(name).is_none() => {
                return Err(StoreError::Refused {
                    reason: format!("no subscription named {name} is in force"),
                });
            }
            Flow::Paused if !self.paused.contains_key(name) => {
                self.paused.insert(name.clone(), set.at);
                "subscriptions pause"
            }
            Flow::Paused => return Ok(()),
            Flow::Flowing => {
                let Some(since) = self.paused.remove(name) else {
                    return Ok(());
                };
                self.resume(name, since, set.at);
                "subscriptions resume"
            }
        };
        self.note(action, (name.to_string(), String::new()), set.at);
        Ok(())
    }

    /// The time of the pause counts in no retry schedule, and what was never attempted takes its place behind what is due
    /// by now.
    fn resume(&mut self, name: &SubscriptionName, since: Timestamp, at: Timestamp) {
        let pending: Vec<DeliveryId> = self.pending.iter().copied().collect();
        for id in pending {
            self.update_delivery(id, |row| {
                let delivery = &mut row.delivery;
                if delivery.subscription != *name {
                    return;
                }
                delivery.scheduled_from = retry::after_pause(delivery.scheduled_from, since, at);
                if delivery.attempts == 0 {
                    delivery.due_at = delivery.due_at.max(at);
                }
            });
        }
    }

    pub(super) fn paused(&self) -> Vec<PauseRow> {
        let row = |(subscription, since): (&_, &Timestamp)| PauseRow {
            subscription: Clone::clone(subscription),
            since: *since,
        };
        self.paused.iter().map(row).collect()
    }

    /// Nothing outside a process remembers what lived in its memory only: until a recovery all begin alike.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch.clone().unwrap_or_else(|| Epoch::drawn(0))
    }

    pub(super) fn recover(&mut self, recovery: &Recovery) -> Recovered {
        let mut recovered = Recovered::default();
        self.epoch = Some(recovery.epoch.clone());
        for state in self.connections.values_mut() {
            for feed in state.feeds.values_mut() {
                feed.end_poll();
            }
            for standing in state.standings.values_mut() {
                standing.last_number += recovery.numbers;
                recovered.numberings += 1;
            }
        }
        for (connection, name, cursor) in &recovery.cursors {
            let Some(feed) = self.connection(connection).feeds.get_mut(name) else {
                continue;
            };
            match (feed.state.stage, &mut feed.after_stage) {
                (StageState::Releasing, Some(end)) => end.cursor = cursor.clone(),
                (_, _) => feed.state.cursor = Some(cursor.clone()),
            }
            feed.state.advanced_at = Some(recovery.at);
            recovered.cursors += 1;
        }
        let subject = format!("epoch {}", recovery.epoch);
        self.note("recover", (subject, recovery.note.clone()), recovery.at);
        recovered
    }

    pub(super) fn audit(&self, limit: usize) -> Vec<AuditRow> {
        self.audit.iter().rev().take(limit).cloned().collect()
    }

    /// Leaves a trail of an operator's word.
    pub(super) fn note(&mut self, action: &str, (subject, detail): (String, String), at: Timestamp) {
        if self.audit.len() as u64 >= AUDIT_ROWS_MAX {
            self.audit.pop_front();
        }
        self.audit.push_back(AuditRow {
            at,
            action: action.to_owned(),
            subject,
            detail,
        });
    }
}
