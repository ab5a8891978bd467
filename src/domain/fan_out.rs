//! Which subscriptions an event concerns, and where a connection's fan-out stands.

use std::collections::BTreeSet;

use courier_sdk::{ConnectionName, RecordType};
use jiff::Timestamp;

use super::event::Event;
use super::name::{DestinationName, SubscriptionName};

/// Who is to be told of what, and how: one subscription as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its name; numbers belong to it.
    pub name: SubscriptionName,
    /// Which connections it covers.
    pub connections: ConnectionSet,
    /// Which events it covers.
    pub topic: Topic,
    /// Where it begins in a connection's log when it is new there.
    pub from: From,
    /// How much of the record it carries.
    pub content: ContentLevel,
    /// How it is written.
    pub format: Format,
    /// Where it goes.
    pub destination: DestinationName,
}

/// The connections that a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionSet {
    /// Every connection, those added later included.
    All,
    /// These.
    Named(BTreeSet<ConnectionName>),
}

/// The events that a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Every event.
    Any,
    /// Events of one record type.
    Records(RecordType),
}

/// Where a new subscription begins in a connection's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the next event.
    Now,
    /// With the oldest event that is retained.
    Beginning,
}

/// How much of the record a notification carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentLevel {
    /// Nothing but that something changed.
    Empty,
    /// The record's reference and version.
    IdOnly,
    /// The record itself.
    FullResource,
}

impl ContentLevel {
    /// The word used in configuration and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::IdOnly => "id-only",
            Self::FullResource => "full-resource",
        }
    }

    /// Reads that word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Empty, Self::IdOnly, Self::FullResource]
            .into_iter()
            .find(|level| level.as_str() == text)
    }
}

/// How a notification is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// CloudEvents 1.0, structured JSON.
    CloudEvents,
}

impl Format {
    /// The word used in configuration and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudEvents => "cloudevents",
        }
    }

    /// Reads that word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text == Self::CloudEvents.as_str()).then_some(Self::CloudEvents)
    }
}

impl Subscription {
    /// Whether the subscription covers a connection.
    #[must_use]
    pub fn covers(&self, connection: &ConnectionName) -> bool {
        match &self.connections {
            ConnectionSet::All => true,
            ConnectionSet::Named(names) => names.contains(connection),
        }
    }

    /// Whether an event concerns the subscription.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let on_topic = match &self.topic {
            Topic::Any => true,
            Topic::Records(record_type) => *record_type == event.key.record_type,
        };
        on_topic && self.covers(&event.connection)
    }
}

/// How far a connection's log has been fanned out: every event up to `event` for all subscriptions, and the
/// next one for the subscriptions up to `within`, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The last event that was fanned out whole; 0 before the first.
    pub event: u64,
    /// The last subscription that the next event was fanned out to, if it was begun.
    pub within: Option<SubscriptionName>,
}

/// How one subscription stands in one connection's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Events up to here are not for it: it was not there yet.
    pub after: u64,
    /// Its own place in the log, while it does not move with the others (catching up, or suspended at its
    /// outbox limit); `None` when it moves with the connection's position.
    pub own: Option<u64>,
    /// Deliveries that are not settled.
    pub pending: u64,
}

/// One notification owed, before the store gives it its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The event.
    pub event: u64,
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Its destination, frozen.
    pub destination: DestinationName,
    /// Its content level, frozen.
    pub content: ContentLevel,
    /// Its format, frozen.
    pub format: Format,
    /// When its retry schedule starts.
    pub due_at: Timestamp,
}

/// What one slice of fan-out writes: the deliveries and where the lane stands then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The deliveries, in the order of events, then of subscription names.
    pub owed: Vec<Owed>,
    /// Where the lane stands after them.
    pub to: Position,
    /// Subscriptions that reached their outbox limit: each leaves the common lane before this event.
    pub suspended: Vec<(SubscriptionName, u64)>,
}

/// Cuts the next slice of the common lane: whole events while they fit, else part of one.
///
/// `subscriptions` and `standings` are in the order of names. `events` follow `from.event` without a gap.
#[must_use]
pub fn slice(
    from: &Position,
    events: &[Event],
    members: &[(&Subscription, &Standing)],
    limits: SliceLimits,
    now: Timestamp,
) -> Slice {
    let mut slice = Slice {
        owed: Vec::new(),
        to: from.clone(),
        suspended: Vec::new(),
    };
    for event in events {
        for (subscription, standing) in members {
            let done = slice
                .to
                .within
                .as_ref()
                .is_some_and(|last| subscription.name <= *last);
            let elsewhere = slice.suspended.iter().any(|(name, _)| *name == subscription.name);
            if done || elsewhere || standing.after >= event.position || !subscription.matches(event) {
                continue;
            }
            if slice.owed.len() >= limits.rows {
                return slice;
            }
            let mine = slice
                .owed
                .iter()
                .filter(|owed| owed.subscription == subscription.name)
                .count();
            if standing.pending + mine as u64 >= limits.outbox {
                slice
                    .suspended
                    .push((subscription.name.clone(), event.position - 1));
                continue;
            }
            slice.owed.push(owe(subscription, event, now));
            slice.to.within = Some(subscription.name.clone());
        }
        slice.to = Position {
            event: event.position,
            within: None,
        };
    }
    slice
}

/// How large a slice may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceLimits {
    /// The most deliveries of one slice.
    pub rows: usize,
    /// The most unsettled deliveries of one subscription on one connection.
    pub outbox: u64,
}

fn owe(subscription: &Subscription, event: &Event, now: Timestamp) -> Owed {
    Owed {
        event: event.position,
        subscription: subscription.name.clone(),
        destination: subscription.destination.clone(),
        content: subscription.content,
        format: subscription.format,
        due_at: now,
    }
}
