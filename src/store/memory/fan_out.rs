//! Atomic point 3: the log becomes deliveries with dense numbers, lane by lane.

use std::collections::BTreeSet;

use courier_sdk::ConnectionName;

use super::state::{ConnectionState, DeliveryRow, Force, StandingState, State};
use crate::domain::delivery::{Delivery, DeliveryId, DeliveryState, RENDERER, Replay};
use crate::domain::event::Event;
use crate::domain::fan_out::{Owed, Position, Standing, Subscription};
use crate::domain::name::SubscriptionName;
use crate::store::batch::{Bounds, event_bytes};
use crate::store::{FanOut, FanOutView, Lane, StandingRow, StoreError};

impl State {
    pub(super) fn fan_out_view(&self, connection: &ConnectionName, lane: &Lane, limit: usize) -> FanOutView {
        let empty = ConnectionState::default();
        let state = self.connections.get(connection).unwrap_or(&empty);
        let (position, events) = match state.lane_position(lane) {
            Some(position) => {
                let events = state.events_after(position.event, limit);
                (position, events)
            }
            None => (state.position.clone(), Vec::new()),
        };
        FanOutView {
            position,
            revision: self.revision,
            members: self.members(connection, lane),
            own_lanes: state.own_lanes(),
            events,
        }
    }

    pub(super) fn fan_out(&mut self, slice: &FanOut) -> Result<(), StoreError> {
        let revision = self.revision;
        let state = self.fenced(&slice.connection, slice.fence)?;
        if revision != slice.revision {
            return Err(StoreError::Conflict {
                what: "the definitions",
            });
        }
        if state.lane_position(&slice.lane).as_ref() != Some(&slice.from) {
            return Err(StoreError::Conflict {
                what: "the lane's position",
            });
        }
        if slice.owed.iter().any(|owed| !state.log.contains_key(&owed.event)) {
            return Err(StoreError::Refused {
                reason: "a slice of fan-out names an event that is not in the log".to_owned(),
            });
        }
        for owed in &slice.owed {
            self.owe(&slice.connection, owed);
        }
        self.connection(&slice.connection).move_lane(slice);
        Ok(())
    }

    pub(super) fn standings(&self, subscription: &SubscriptionName) -> Vec<StandingRow> {
        self.connections
            .iter()
            .filter_map(|(connection, state)| {
                let standing = state.standings.get(subscription)?;
                Some(StandingRow {
                    connection: connection.clone(),
                    last_number: standing.last_number,
                    standing: self.standing(connection, subscription, standing),
                })
            })
            .collect()
    }

    /// The subscriptions that move in a lane, in the order of their names.
    fn members(&self, connection: &ConnectionName, lane: &Lane) -> Vec<(Subscription, Standing)> {
        let Some(state) = self.connections.get(connection) else {
            return Vec::new();
        };
        self.definitions
            .subscriptions
            .iter()
            .filter_map(|subscription| {
                let standing = state.standings.get(&subscription.name)?;
                let moves_here = match lane {
                    Lane::Common => standing.own.is_none(),
                    Lane::Own(name) => standing.own.is_some() && *name == subscription.name,
                };
                (moves_here && standing.force == Force::InForce).then(|| {
                    let standing = self.standing(connection, &subscription.name, standing);
                    (subscription.clone(), standing)
                })
            })
            .collect()
    }

    fn standing(
        &self,
        connection: &ConnectionName,
        subscription: &SubscriptionName,
        standing: &StandingState,
    ) -> Standing {
        Standing {
            subscription: subscription.clone(),
            after: standing.after,
            own: standing.own,
            pending: self.pending_of(subscription, connection).map_or(0, BTreeSet::len) as u64,
        }
    }

    /// Writes one delivery with the next number; one that was owed before costs no number.
    fn owe(&mut self, connection: &ConnectionName, owed: &Owed) {
        let once = (owed.subscription.clone(), connection.clone(), owed.event);
        if let Some(id) = self.owed.get(&once) {
            self.update_delivery(*id, |row| row.revive(owed));
            return;
        }
        let Some(state) = self.connections.get_mut(connection) else {
            return;
        };
        let (Some(event), Some(standing)) = (
            state.log.get(&owed.event),
            state.standings.get_mut(&owed.subscription),
        ) else {
            return;
        };
        standing.last_number += 1;
        self.last_delivery += 1;
        let id = DeliveryId(self.last_delivery);
        let row = DeliveryRow {
            delivery: new_delivery(id, standing.last_number, owed),
            connection: connection.clone(),
            event: owed.event,
            key: event.key.clone(),
            settled_at: None,
        };
        self.owed.insert(once, id);
        self.deliveries.insert(id, row);
        self.update_delivery(id, |_| {});
    }
}

impl DeliveryRow {
    /// Owes a delivery again that was cancelled when its subscription was removed, as the present one has it.
    fn revive(&mut self, owed: &Owed) {
        if self.delivery.state != DeliveryState::Cancelled {
            return;
        }
        self.delivery = Delivery {
            replay: self.delivery.replay,
            last_outcome: self.delivery.last_outcome.take(),
            ..new_delivery(self.delivery.id, self.delivery.number, owed)
        };
    }
}

fn new_delivery(id: DeliveryId, number: u64, owed: &Owed) -> Delivery {
    Delivery {
        id,
        subscription: owed.subscription.clone(),
        number,
        destination: owed.destination.clone(),
        content: owed.content,
        format: owed.format,
        renderer: RENDERER,
        state: DeliveryState::Pending,
        attempts: 0,
        scheduled_from: owed.due_at,
        due_at: owed.due_at,
        replay: Replay::Original,
        last_outcome: None,
    }
}

impl ConnectionState {
    fn own_lanes(&self) -> Vec<SubscriptionName> {
        let own = |(name, standing): (&SubscriptionName, &StandingState)| {
            (standing.own.is_some() && standing.force == Force::InForce).then(|| name.clone())
        };
        self.standings.iter().filter_map(own).collect()
    }

    /// Where a lane stands; a subscription that moves with the others has no lane of its own.
    fn lane_position(&self, lane: &Lane) -> Option<Position> {
        match lane {
            Lane::Common => Some(self.position.clone()),
            Lane::Own(name) => {
                let event = self.standings.get(name)?.own?;
                Some(Position { event, within: None })
            }
        }
    }

    fn events_after(&self, position: u64, limit: usize) -> Vec<Event> {
        let mut bounds = Bounds::new(limit);
        self.log
            .range(position + 1..)
            .map(|(_, event)| event)
            .take_while(|event| bounds.admit(event_bytes(event)))
            .cloned()
            .collect()
    }

    fn move_lane(&mut self, slice: &FanOut) {
        match &slice.lane {
            Lane::Common => {
                self.position = slice.to.clone();
                for (name, given) in &slice.suspended {
                    if let Some(standing) = self.standings.get_mut(name) {
                        standing.own = Some(*given);
                    }
                }
            }
            Lane::Own(name) => {
                // At its outbox limit the lane stays before the first event that it did not get.
                let stopped = slice.suspended.iter().find(|(suspended, _)| suspended == name);
                let place = stopped.map_or(slice.to.event, |(_, given)| *given);
                // Where the common lane is within the next event, that event may be past this subscription there.
                let caught_up = !self.is_ahead_of(place);
                if let Some(standing) = self.standings.get_mut(name) {
                    standing.own = (!caught_up).then_some(place);
                }
            }
        }
    }
}
