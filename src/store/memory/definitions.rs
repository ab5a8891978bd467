//! The subscriptions and connections in force, and what an edit does to what is owed already.

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use tracing::info;

use super::state::{ConnectionState, Force, StandingState, State};
use crate::domain::delivery::{DeliveryId, DeliveryState, Replay};
use crate::domain::fan_out::{From, Subscription};
use crate::domain::name::SubscriptionName;
use crate::store::{Definitions, StoreError};
use crate::wire;

impl State {
    pub(super) fn define(&mut self, definitions: &Definitions, now: Timestamp) -> Result<(), StoreError> {
        self.check_renderers()?;
        if self.definitions == *definitions {
            return Ok(());
        }
        self.revision += 1;
        self.definitions = definitions.clone();
        self.definitions.subscriptions.sort_by(|a, b| a.name.cmp(&b.name));
        for connection in &definitions.connections {
            self.connection(connection);
        }
        let names: Vec<ConnectionName> = self.connections.keys().cloned().collect();
        for connection in names {
            self.end_standings(&connection, now);
            if definitions.connections.contains(&connection) {
                self.begin_standings(&connection);
            }
        }
        self.rewrite_pending();
        Ok(())
    }

    /// The subscription in force under a name.
    pub(super) fn subscription(&self, name: &SubscriptionName) -> Option<&Subscription> {
        self.definitions
            .subscriptions
            .iter()
            .find(|subscription| subscription.name == *name)
    }

    fn check_renderers(&self) -> Result<(), StoreError> {
        let lacking = self
            .pending
            .iter()
            .filter_map(|id| self.deliveries.get(id))
            .map(|row| row.delivery.renderer)
            .find(|renderer| !wire::has_renderer(*renderer));
        match lacking {
            Some(renderer) => Err(StoreError::Unusable {
                reason: format!(
                    "a pending delivery needs renderer {renderer}, which this version of ehr-courier lacks"
                ),
            }),
            None => Ok(()),
        }
    }

    /// Ends the standings of subscriptions that no longer cover the connection and cancels what they are owed, dead
    /// letters too: nobody can redrive those, and they would be kept for ever.
    fn end_standings(&mut self, connection: &ConnectionName, now: Timestamp) {
        let Some(state) = self.connections.get(connection) else {
            return;
        };
        let ended: Vec<SubscriptionName> = state
            .standings
            .iter()
            .filter(|(_, standing)| standing.force == Force::InForce)
            .map(|(name, _)| name)
            .filter(|name| {
                let subscription = self.subscription(name);
                !subscription.is_some_and(|it| self.definitions.cover(it, connection))
            })
            .cloned()
            .collect();
        for name in ended {
            let owed = self.deliveries.iter().filter(|(_, row)| {
                let open = matches!(row.delivery.state, DeliveryState::Pending | DeliveryState::Dead);
                open && row.delivery.subscription == name && row.connection == *connection
            });
            let owed: Vec<DeliveryId> = owed.map(|(id, _)| *id).collect();
            info!(subscription = %name, %connection, cancelled = owed.len(), "a subscription left a connection");
            for id in owed {
                self.update_delivery(id, |row| {
                    row.delivery.state = DeliveryState::Cancelled;
                    row.settled_at = Some(now);
                });
            }
            if let Some(standing) = self.connection(connection).standings.get_mut(&name) {
                standing.force = Force::Ended;
                standing.own = None;
            }
        }
    }

    /// Gives a standing to subscriptions that are new on the connection; numbers go on where the name was used.
    fn begin_standings(&mut self, connection: &ConnectionName) {
        let Some(state) = self.connections.get_mut(connection) else {
            return;
        };
        for subscription in &self.definitions.subscriptions {
            let standing = state.standings.get(&subscription.name);
            let stands = standing.is_some_and(|standing| standing.force == Force::InForce);
            if stands || !subscription.covers(connection) {
                continue;
            }
            let last_number = standing.map_or(0, |standing| standing.last_number);
            let begun = state.beginning(subscription.from, last_number);
            state.standings.insert(subscription.name.clone(), begun);
        }
    }

    /// Rows never attempted take the definition in force; narrower content applies to the others too.
    fn rewrite_pending(&mut self) {
        let ids: Vec<DeliveryId> = self.pending.iter().copied().collect();
        for id in &ids {
            let Some(subscription) = self.subscription_of(*id).cloned() else {
                continue;
            };
            self.update_delivery(*id, |row| {
                let delivery = &mut row.delivery;
                if delivery.attempts == 0 && delivery.replay == Replay::Original {
                    delivery.content = subscription.content;
                    delivery.format = subscription.format;
                    delivery.destination = subscription.destination;
                }
            });
        }
        self.confine(&ids);
    }

    /// Keeps pending rows within what is in force: never wider than their subscription, and never for a destination
    /// that left the configuration, where nothing would ever be attempted.
    pub(super) fn confine(&mut self, ids: &[DeliveryId]) {
        let (mut narrowed, mut moved) = (0, 0);
        for id in ids {
            let Some(subscription) = self.subscription_of(*id).cloned() else {
                continue;
            };
            let Some(row) = self.deliveries.get_mut(id) else {
                continue;
            };
            let delivery = &mut row.delivery;
            if delivery.content > subscription.content {
                delivery.content = subscription.content;
                narrowed += 1;
            }
            let stranded = !self.definitions.destinations.contains(&delivery.destination);
            if stranded && delivery.destination != subscription.destination {
                delivery.format = subscription.format;
                delivery.destination = subscription.destination;
                moved += 1;
            }
        }
        if narrowed + moved > 0 {
            info!(narrowed, moved, "pending deliveries follow their subscriptions");
        }
    }

    fn subscription_of(&self, id: DeliveryId) -> Option<&Subscription> {
        self.subscription(&self.deliveries.get(&id)?.delivery.subscription)
    }
}

impl ConnectionState {
    /// How a new subscription stands: at the log's end, or on its own way from the oldest event retained.
    fn beginning(&self, from: From, last_number: u64) -> StandingState {
        let oldest = self
            .log
            .first_key_value()
            .map_or(self.last_position, |(position, _)| position - 1);
        let (after, own) = match from {
            From::Now => (self.last_position, None),
            From::Beginning if self.is_ahead_of(oldest) => (0, Some(oldest)),
            From::Beginning => (0, None),
        };
        StandingState {
            after,
            own,
            last_number,
            force: Force::InForce,
        }
    }

    /// Whether the common lane has given anything that comes after a place in the log.
    pub(super) fn is_ahead_of(&self, place: u64) -> bool {
        self.position.event > place || (self.position.event == place && self.position.within.is_some())
    }
}
