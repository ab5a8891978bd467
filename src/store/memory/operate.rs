//! What people ask for: lists, redrives, replays, and the sweep of what is past its time.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::{ConnectionName, RecordKey};
use jiff::Timestamp;

use super::state::{ConnectionState, DeliveryRow, Force, State};
use crate::domain::delivery::{DeliveryId, DeliveryState};
use crate::domain::event::Event;
use crate::domain::identity::EventId;
use crate::domain::name::DestinationName;
use crate::store::batch::{earlier, known_id, slice_rows};
use crate::store::{
    Backlog, CursorRow, DeadLetterQuery, DeadLetterRow, DeliveryCounts, Depths, EventDetail, EventQuery,
    EventRow, QuarantineRow, ReplayRequest, Sweep, Swept,
};

impl State {
    pub(super) fn events(&self, query: &EventQuery) -> Vec<EventRow> {
        let mut found: Vec<&Event> = self
            .connections
            .iter()
            .filter(|(name, _)| query.connection.as_ref().is_none_or(|only| only == *name))
            .flat_map(|(_, state)| state.log.values())
            .filter(|event| query.since.is_none_or(|since| event.recorded_at >= since))
            .filter(|event| {
                query
                    .record
                    .as_ref()
                    .is_none_or(|text| is_meant(text, &event.key))
            })
            .collect();
        found.sort_by_key(|event| (event.recorded_at, &event.connection, event.position));
        found
            .into_iter()
            .rev()
            .take(query.limit)
            .map(|event| self.event_row(event))
            .collect()
    }

    pub(super) fn event(&self, id: &EventId) -> Option<EventDetail> {
        let event = self.find_event(id)?;
        let mut deliveries: Vec<_> = self
            .deliveries_of(event)
            .map(|(_, row)| row.delivery.clone())
            .collect();
        deliveries.sort_by(|a, b| (&a.subscription, a.number).cmp(&(&b.subscription, b.number)));
        Some(EventDetail {
            event: event.clone(),
            deliveries,
        })
    }

    pub(super) fn replay(&mut self, replay: &ReplayRequest, now: Timestamp) -> u64 {
        let Some(event) = self.find_event(&replay.event) else {
            return 0;
        };
        let settled: Vec<DeliveryId> = self
            .deliveries_of(event)
            .filter(|(_, row)| row.delivery.state != DeliveryState::Pending && self.is_in_force(row))
            .filter(|(_, row)| {
                let only = replay.subscription.as_ref();
                only.is_none_or(|only| *only == row.delivery.subscription)
            })
            .map(|(id, _)| id)
            .collect();
        self.owe_again(&settled, now)
    }

    pub(super) fn dead_letters(&self, query: &DeadLetterQuery) -> Vec<DeadLetterRow> {
        let mut dead: Vec<DeadLetterRow> = self
            .deliveries
            .values()
            .filter(|row| row.delivery.state == DeliveryState::Dead && asks_for(query, row))
            .filter_map(|row| {
                Some(DeadLetterRow {
                    delivery: row.delivery.clone(),
                    connection: row.connection.clone(),
                    event_id: self.event_of(row)?.id.clone(),
                    key: row.key.clone(),
                    died_at: row.settled_at?,
                })
            })
            .collect();
        dead.sort_by_key(|row| (row.died_at, row.delivery.id));
        if query.limit > 0 {
            dead.truncate(query.limit);
        }
        dead
    }

    pub(super) fn redrive(&mut self, query: &DeadLetterQuery, now: Timestamp) -> u64 {
        let unlimited = DeadLetterQuery {
            limit: 0,
            ..query.clone()
        };
        let dead: Vec<DeliveryId> = self
            .dead_letters(&unlimited)
            .iter()
            .map(|row| row.delivery.id)
            .filter(|id| self.deliveries.get(id).is_some_and(|row| self.is_in_force(row)))
            .take(slice_rows(query.limit))
            .collect();
        self.owe_again(&dead, now)
    }

    pub(super) fn quarantine(&self, limit: usize) -> Vec<QuarantineRow> {
        let rows = self.connections.iter().flat_map(|(connection, state)| {
            state.quarantine.values().map(|row| QuarantineRow {
                connection: connection.clone(),
                feed: row.feed.clone(),
                key: row.change.key.clone(),
                shown: row.change.shown,
                novelty: row.change.novelty,
                reason: row.reason.clone(),
                at: row.at,
            })
        });
        rows.take(limit).collect()
    }

    pub(super) fn cursors(&self) -> Vec<CursorRow> {
        let feeds = self.connections.iter().flat_map(|(connection, state)| {
            state.feeds.iter().map(|(feed, row)| CursorRow {
                connection: connection.clone(),
                feed: feed.clone(),
                state: row.state.clone(),
            })
        });
        feeds.collect()
    }

    pub(super) fn backlog(&self, connection: &ConnectionName) -> Backlog {
        let Some(state) = self.connections.get(connection) else {
            return Backlog::default();
        };
        let owed = || {
            self.pending
                .iter()
                .filter_map(|id| self.deliveries.get(id))
                .filter(|row| row.connection == *connection)
        };
        let unfanned = state
            .log
            .range(state.position.event + 1..)
            .map(|(_, event)| event.recorded_at);
        let waiting = state.inbox.rows().values().map(|row| row.written_at);
        Backlog {
            inbox: state.inbox.rows().len() as u64,
            log: state.last_position - state.position.event,
            outbox: owed().count() as u64,
            quarantine: state.quarantine.len() as u64,
            oldest: unfanned
                .chain(waiting)
                .chain(owed().map(|row| row.delivery.scheduled_from))
                .min(),
        }
    }

    pub(super) fn depths(&self) -> BTreeMap<ConnectionName, Depths> {
        let of = |(name, state): (&ConnectionName, &ConnectionState)| {
            let backlog = self.backlog(name);
            let dead = self.deliveries.values().filter(|row| row.connection == *name);
            let depths = Depths {
                stage: state.feeds.values().map(|feed| feed.stage.len() as u64).sum(),
                inbox: backlog.inbox,
                quarantine: backlog.quarantine,
                log: backlog.log,
                outbox: backlog.outbox,
                dead: dead
                    .filter(|row| row.delivery.state == DeliveryState::Dead)
                    .count() as u64,
                oldest: backlog.oldest,
            };
            (name.clone(), depths)
        };
        self.connections.iter().map(of).collect()
    }

    pub(super) fn deliveries_by_state(&self, destination: &DestinationName) -> DeliveryCounts {
        let mut counts = DeliveryCounts::default();
        for row in self.deliveries.values() {
            if row.delivery.destination == *destination {
                counts.add(row.delivery.state);
            }
        }
        counts
    }

    pub(super) fn sweep(&mut self, sweep: &Sweep) -> Swept {
        let before = earlier(sweep.at, sweep.retention);
        let deliveries = self.sweep_deliveries(before, sweep.limit);
        let needed: BTreeSet<(ConnectionName, u64)> = self
            .deliveries
            .values()
            .map(|row| (row.connection.clone(), row.event))
            .collect();
        let (mut events, mut accepted) = (0, 0);
        for (name, state) in &mut self.connections {
            let is_needed = |position: u64| needed.contains(&(name.clone(), position));
            events += state.sweep_events(before, sweep.limit.saturating_sub(events), is_needed);
            if let Some(before) = sweep.stamped_before.get(name) {
                accepted += state.sweep_accepted(sweep, *before, sweep.limit.saturating_sub(accepted));
            }
        }
        Swept {
            deliveries: deliveries as u64,
            events: events as u64,
            accepted: accepted as u64,
        }
    }

    /// Dead letters stay until they are redriven.
    fn sweep_deliveries(&mut self, before: Timestamp, limit: usize) -> usize {
        let over: Vec<DeliveryId> = self
            .deliveries
            .iter()
            .filter(|(id, row)| match row.delivery.state {
                DeliveryState::Done | DeliveryState::Cancelled => {
                    row.settled_at.is_some_and(|at| at < before) && !self.is_claimed(**id, row)
                }
                DeliveryState::Pending | DeliveryState::Dead => false,
            })
            .map(|(id, _)| *id)
            .take(limit)
            .collect();
        for id in &over {
            if let Some(row) = self.deliveries.remove(id) {
                self.owed
                    .remove(&(row.delivery.subscription, row.connection, row.event));
            }
        }
        over.len()
    }

    fn owe_again(&mut self, ids: &[DeliveryId], now: Timestamp) -> u64 {
        for id in ids {
            self.update_delivery(*id, |row| row.owe_again(now));
        }
        self.confine(ids);
        ids.len() as u64
    }

    fn find_event(&self, id: &EventId) -> Option<&Event> {
        self.connections
            .values()
            .find_map(|state| state.log.get(state.event_ids.get(id)?))
    }

    fn deliveries_of(&self, event: &Event) -> impl Iterator<Item = (DeliveryId, &DeliveryRow)> {
        self.deliveries
            .iter()
            .filter(|(_, row)| row.event == event.position && row.connection == event.connection)
            .map(|(id, row)| (*id, row))
    }

    /// Whether somebody is still there to be told.
    fn is_in_force(&self, row: &DeliveryRow) -> bool {
        self.connections
            .get(&row.connection)
            .and_then(|state| state.standings.get(&row.delivery.subscription))
            .is_some_and(|standing| standing.force == Force::InForce)
    }

    fn event_row(&self, event: &Event) -> EventRow {
        let mut deliveries = DeliveryCounts::default();
        for (_, row) in self.deliveries_of(event) {
            deliveries.add(row.delivery.state);
        }
        EventRow {
            connection: event.connection.clone(),
            position: event.position,
            id: event.id.clone(),
            key: event.key.clone(),
            version: event
                .version_id
                .clone()
                .unwrap_or_else(|| event.version.to_string()),
            kind: event.kind,
            changed_at: event.changed_at,
            recorded_at: event.recorded_at,
            deliveries,
        }
    }
}

impl ConnectionState {
    /// Deletes old events that every lane has passed and that no delivery needs.
    fn sweep_events(&mut self, before: Timestamp, limit: usize, is_needed: impl Fn(u64) -> bool) -> usize {
        let passed = self
            .standings
            .values()
            .filter(|standing| standing.force == Force::InForce)
            .filter_map(|standing| standing.own)
            .fold(self.position.event, u64::min);
        let over: Vec<u64> = self
            .log
            .range(..=passed)
            .filter(|(position, event)| event.recorded_at < before && !is_needed(**position))
            .map(|(position, _)| *position)
            .take(limit)
            .collect();
        for position in &over {
            if let Some(event) = self.log.remove(position) {
                self.event_ids.remove(&event.id);
            }
        }
        over.len()
    }

    /// Deletes accepted ids that the source can no longer show. Heads and quarantined ids stay.
    fn sweep_accepted(&mut self, sweep: &Sweep, stamped_before: Timestamp, limit: usize) -> usize {
        let unseen_since = earlier(sweep.at, sweep.unseen_for);
        let heads = self.heads.values().map(|head| &head.event_id);
        let quarantined = self.quarantine.values().filter_map(|row| known_id(&row.change));
        let kept: BTreeSet<&EventId> = heads.chain(quarantined).collect();
        let over: Vec<EventId> = self
            .accepted
            .iter()
            .filter(|(id, accepted)| {
                accepted.shown_at < unseen_since
                    && accepted.stamp.is_none_or(|stamp| stamp < stamped_before)
                    && !kept.contains(id)
            })
            .map(|(id, _)| id.clone())
            .take(limit)
            .collect();
        for id in &over {
            self.accepted.remove(id);
        }
        over.len()
    }
}

fn asks_for(query: &DeadLetterQuery, row: &DeliveryRow) -> bool {
    let delivery = &row.delivery;
    query.delivery.is_none_or(|only| only == delivery.id)
        && query
            .destination
            .as_ref()
            .is_none_or(|only| *only == delivery.destination)
        && query
            .subscription
            .as_ref()
            .is_none_or(|only| *only == delivery.subscription)
}

/// Whether `Type/id` or `Type` names a record.
fn is_meant(text: &str, key: &RecordKey) -> bool {
    text == key.record_type.as_str() || text == key.to_string()
}
