//! What operators ask of the store and are shown: listings, replays, backlogs, sweeps.

use std::collections::BTreeMap;
use std::time::Duration;

use courier_sdk::{ConnectionName, FeedName, Novelty, RecordKey, Shown};
use jiff::Timestamp;

use super::FeedState;
use crate::domain::delivery::{Delivery, DeliveryId, DeliveryState};
use crate::domain::event::{Event, EventKind};
use crate::domain::fan_out::Standing;
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};

/// Which events to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Only this connection.
    pub connection: Option<ConnectionName>,
    /// Only this record, as `Type/id`, or only this type.
    pub record: Option<String>,
    /// Only events recorded at or after this.
    pub since: Option<Timestamp>,
    /// The most rows.
    pub limit: usize,
}

/// One line of the event list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// The connection.
    pub connection: ConnectionName,
    /// Its place in the log.
    pub position: u64,
    /// The id.
    pub id: EventId,
    /// Which record.
    pub key: RecordKey,
    /// The source's version id, or the version key.
    pub version: String,
    /// What happened.
    pub kind: EventKind,
    /// When it changed by the source's clock.
    pub changed_at: Option<Timestamp>,
    /// When it was written to the log.
    pub recorded_at: Timestamp,
    /// How many deliveries are in which state.
    pub deliveries: DeliveryCounts,
}

/// Deliveries by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryCounts {
    /// Owed.
    pub pending: u64,
    /// Accepted.
    pub done: u64,
    /// Dead letters.
    pub dead: u64,
    /// Cancelled.
    pub cancelled: u64,
}

impl DeliveryCounts {
    /// Counts one more in a state.
    pub fn add(&mut self, state: DeliveryState) {
        match state {
            DeliveryState::Pending => self.pending += 1,
            DeliveryState::Done => self.done += 1,
            DeliveryState::Dead => self.dead += 1,
            DeliveryState::Cancelled => self.cancelled += 1,
        }
    }
}

/// One event with its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDetail {
    /// The event.
    pub event: Event,
    /// Its deliveries, in the order of subscriptions.
    pub deliveries: Vec<Delivery>,
}

/// Which events to send again, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRequest {
    /// The event.
    pub event: EventId,
    /// Only this subscription.
    pub subscription: Option<SubscriptionName>,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterQuery {
    /// Only this delivery.
    pub delivery: Option<DeliveryId>,
    /// Only this destination.
    pub destination: Option<DestinationName>,
    /// Only this subscription.
    pub subscription: Option<SubscriptionName>,
    /// The most rows; 0 for all.
    pub limit: usize,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// The delivery.
    pub delivery: Delivery,
    /// The connection.
    pub connection: ConnectionName,
    /// The event's id.
    pub event_id: EventId,
    /// Which record.
    pub key: RecordKey,
    /// When it was given up.
    pub died_at: Timestamp,
}

/// One change in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRow {
    /// The connection.
    pub connection: ConnectionName,
    /// The feed that found it.
    pub feed: FeedName,
    /// Which record.
    pub key: RecordKey,
    /// What was shown of it.
    pub shown: Shown,
    /// Whether it may become an event.
    pub novelty: Novelty,
    /// Why it was given up; no PHI.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// How one feed stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    /// The connection.
    pub connection: ConnectionName,
    /// The feed.
    pub feed: FeedName,
    /// The state.
    pub state: FeedState,
}

/// What waits on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Changes in the inbox.
    pub inbox: u64,
    /// Events not yet fanned out by the common lane.
    pub log: u64,
    /// Deliveries owed.
    pub outbox: u64,
    /// Changes in quarantine.
    pub quarantine: u64,
    /// When the oldest of inbox, unfanned log and due outbox was written.
    pub oldest: Option<Timestamp>,
}

/// What waits where on a connection, for gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    /// Changes in stages.
    pub stage: u64,
    /// Changes in the inbox.
    pub inbox: u64,
    /// Changes in quarantine.
    pub quarantine: u64,
    /// Events not yet fanned out by the common lane.
    pub log: u64,
    /// Deliveries owed.
    pub outbox: u64,
    /// Dead letters.
    pub dead: u64,
    /// When the oldest of inbox, unfanned log and outbox was written.
    pub oldest: Option<Timestamp>,
}

impl Depths {
    /// Adds another connection's.
    pub fn add(&mut self, other: Self) {
        self.stage += other.stage;
        self.inbox += other.inbox;
        self.quarantine += other.quarantine;
        self.log += other.log;
        self.outbox += other.outbox;
        self.dead += other.dead;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }

    /// The counts by the name of their place.
    #[must_use]
    pub fn places(&self) -> [(&'static str, u64); 6] {
        [
            ("stage", self.stage),
            ("inbox", self.inbox),
            ("quarantine", self.quarantine),
            ("log", self.log),
            ("outbox", self.outbox),
            ("dead_letters", self.dead),
        ]
    }
}

/// What the sweep may delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Now.
    pub at: Timestamp,
    /// How long settled deliveries and their events are kept.
    pub retention: Duration,
    /// An accepted id must not have been shown for this long …
    pub unseen_for: Duration,
    /// … and its stamp must lie before what its connection's feeds may still ask for. Of a connection that is not named
    /// no id is deleted.
    pub stamped_before: BTreeMap<ConnectionName, Timestamp>,
    /// The most rows of each kind.
    pub limit: usize,
}

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Settled deliveries.
    pub deliveries: u64,
    /// Events.
    pub events: u64,
    /// Accepted ids.
    pub accepted: u64,
}

/// Where a subscription's numbers stand on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingRow {
    /// The connection.
    pub connection: ConnectionName,
    /// The last number that was allocated; 0 for none.
    pub last_number: u64,
    /// Its standing.
    pub standing: Standing,
}
