//! The tables: what the store remembers, and nothing of what it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use courier_sdk::{ConnectionName, Cursor, FeedName, RecordId, RecordKey};
use jiff::Timestamp;

use super::inbox::Inbox;
use super::lease::Lease;
use super::roll::Asked;
use crate::domain::delivery::{Delivery, DeliveryId, DeliveryState, Fence};
use crate::domain::event::{Change, Event};
use crate::domain::fan_out::Position;
use crate::domain::identity::EventId;
use crate::domain::ledger::{Baseline, Head};
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::store::turns::Turns;
use crate::store::{AuditRow, BaselineProof, Definitions, Epoch, FeedState};

/// Everything.
#[derive(Default)]
pub(super) struct State {
    /// What is kept per connection.
    pub(super) connections: BTreeMap<ConnectionName, ConnectionState>,
    /// What is in force.
    pub(super) definitions: Definitions,
    /// Raised whenever that changes.
    pub(super) revision: u64,
    /// The outbox, settled rows included.
    pub(super) deliveries: BTreeMap<DeliveryId, DeliveryRow>,
    /// Its pending rows.
    pub(super) pending: BTreeSet<DeliveryId>,
    /// The same by subscription and connection.
    pub(super) pending_by: BTreeMap<(SubscriptionName, ConnectionName), BTreeSet<DeliveryId>>,
    /// The unique index: nobody is owed one event twice.
    pub(super) owed: BTreeMap<(SubscriptionName, ConnectionName, u64), DeliveryId>,
    /// Deliveries that are being attempted, each with the fence of its claim. Volatile.
    pub(super) claims: BTreeMap<DeliveryId, Fence>,
    /// Whose turn it is at each destination. Volatile.
    pub(super) turns: BTreeMap<DestinationName, Turns>,
    /// The last delivery id given out.
    pub(super) last_delivery: u64,
    /// The epoch, once it was recovered.
    pub(super) epoch: Option<Epoch>,
    /// Subscriptions that are paused, each since when.
    pub(super) paused: BTreeMap<SubscriptionName, Timestamp>,
    /// What operators changed, oldest first.
    pub(super) audit: VecDeque<AuditRow>,
}

/// What is kept of one connection.
#[derive(Default)]
pub(super) struct ConnectionState {
    pub(super) lease: Lease,
    pub(super) feeds: BTreeMap<FeedName, FeedRow>,
    pub(super) heads: BTreeMap<RecordKey, Head>,
    pub(super) accepted: BTreeMap<EventId, AcceptedId>,
    /// Changes to fetch, in the order in which they came.
    pub(super) inbox: Inbox,
    /// Changes given up, in the order in which they were.
    pub(super) quarantine: BTreeMap<u64, QuarantinedChange>,
    /// The last inbox or quarantine row given out.
    pub(super) last_row: u64,
    /// The event log by position.
    pub(super) log: BTreeMap<u64, Event>,
    /// The unique index of the log.
    pub(super) event_ids: BTreeMap<EventId, u64>,
    /// The last position given out; it outlives swept events.
    pub(super) last_position: u64,
    /// Where the common lane stands.
    pub(super) position: Position,
    /// How each subscription stands that ever covered the connection.
    pub(super) standings: BTreeMap<SubscriptionName, StandingState>,
}

/// One feed.
#[derive(Default)]
pub(super) struct FeedRow {
    pub(super) state: FeedState,
    pub(super) baseline: Baseline,
    pub(super) stage: Vec<StagedChange>,
    /// What releasing the stage ends with.
    pub(super) after_stage: Option<PollEnd>,
    /// What its listings named.
    pub(super) roll: BTreeMap<RecordId, Asked>,
}

/// How a poll ends.
#[derive(Clone)]
pub(super) struct PollEnd {
    pub(super) cursor: Cursor,
    pub(super) baseline: BaselineProof,
    pub(super) fresh_as_of: Timestamp,
}

/// One staged change; its place in the vector is its place in the answer.
#[derive(Clone)]
pub(super) struct StagedChange {
    pub(super) index: u64,
    pub(super) change: Change,
    pub(super) fresh_as_of: Timestamp,
}

/// One accepted id.
pub(super) struct AcceptedId {
    /// When the source last showed it, to the day.
    pub(super) shown_at: Timestamp,
    /// When the version changed by the source's clock.
    pub(super) stamp: Option<Timestamp>,
}

/// One change to fetch.
pub(super) struct InboxRow {
    pub(super) feed: FeedName,
    pub(super) change: Change,
    pub(super) fresh_as_of: Timestamp,
    /// Whether a first sight proved a creation when it was shown first.
    pub(super) baseline: Baseline,
    pub(super) generation: u64,
    pub(super) attempts: u32,
    pub(super) claims: u32,
    pub(super) due_at: Timestamp,
    /// The fence that it is claimed under; a claim under an earlier one is void.
    pub(super) claimed: Option<Fence>,
    pub(super) written_at: Timestamp,
}

/// One change given up.
pub(super) struct QuarantinedChange {
    pub(super) feed: FeedName,
    pub(super) change: Change,
    pub(super) fresh_as_of: Timestamp,
    pub(super) baseline: Baseline,
    pub(super) reason: String,
    pub(super) at: Timestamp,
}

/// How one subscription stands on a connection.
#[derive(Clone)]
pub(super) struct StandingState {
    pub(super) after: u64,
    pub(super) own: Option<u64>,
    pub(super) last_number: u64,
    pub(super) force: Force,
}

/// Whether a subscription covers the connection now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// It does.
    InForce,
    /// It did: its numbers are kept for the name's return.
    Ended,
}

/// One delivery with what the row needs besides.
pub(super) struct DeliveryRow {
    pub(super) delivery: Delivery,
    pub(super) connection: ConnectionName,
    /// The event's position.
    pub(super) event: u64,
    /// The event's record.
    pub(super) key: RecordKey,
    /// When it was delivered, given up or cancelled.
    pub(super) settled_at: Option<Timestamp>,
}

impl State {
    /// The connection's tables, empty when it is new.
    pub(super) fn connection(&mut self, connection: &ConnectionName) -> &mut ConnectionState {
        self.connections.entry(connection.clone()).or_default()
    }

    /// Drops what does not outlive a process.
    pub(super) fn forget_what_is_volatile(&mut self) {
        self.claims.clear();
        self.turns.clear();
        for connection in self.connections.values_mut() {
            connection.lease.lapse();
        }
    }

    /// Changes a delivery and keeps the indexes of pending ones true.
    pub(super) fn update_delivery(&mut self, id: DeliveryId, change: impl FnOnce(&mut DeliveryRow)) {
        let Some(row) = self.deliveries.get_mut(&id) else {
            return;
        };
        change(row);
        let owner = (row.delivery.subscription.clone(), row.connection.clone());
        let of_owner = self.pending_by.entry(owner).or_default();
        match row.delivery.state {
            DeliveryState::Pending => {
                row.settled_at = None;
                self.pending.insert(id);
                of_owner.insert(id);
            }
            DeliveryState::Done | DeliveryState::Dead | DeliveryState::Cancelled => {
                self.pending.remove(&id);
                of_owner.remove(&id);
            }
        }
    }

    /// The event that a delivery tells of.
    pub(super) fn event_of(&self, row: &DeliveryRow) -> Option<&Event> {
        self.connections.get(&row.connection)?.log.get(&row.event)
    }

    /// The ids of a subscription's pending deliveries on a connection, if it ever had any.
    pub(super) fn pending_of(
        &self,
        subscription: &SubscriptionName,
        connection: &ConnectionName,
    ) -> Option<&BTreeSet<DeliveryId>> {
        self.pending_by.get(&(subscription.clone(), connection.clone()))
    }
}

impl ConnectionState {
    /// The next row id, shared by inbox and quarantine.
    pub(super) fn next_row(&mut self) -> u64 {
        self.last_row += 1;
        self.last_row
    }
}
