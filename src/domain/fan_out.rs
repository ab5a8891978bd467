//! Which subscriptions an event concerns, and where a connection's fan-out stands.

use std::collections::{BTreeMap, BTreeSet};

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
    /// CloudEvents 1.0, binary mode: attributes in headers, the body is the data.
    CloudEventsBinary,
}

impl Format {
    /// The word used in configuration and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudEvents => "cloudevents",
            Self::CloudEventsBinary => "cloudevents-binary",
        }
    }

    /// Reads that word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::CloudEvents, Self::CloudEventsBinary]
            .into_iter()
            .find(|format| format.as_str() == text)
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
    let mut added: BTreeMap<&SubscriptionName, u64> = BTreeMap::new();
    for event in events {
        for (index, (subscription, standing)) in members.iter().enumerate() {
            let done = slice
                .to
                .within
                .as_ref()
                .is_some_and(|last| is_done(subscription, index, last));
            let elsewhere = slice.suspended.iter().any(|(name, _)| *name == subscription.name);
            if done || elsewhere || standing.after >= event.position || !subscription.matches(event) {
                continue;
            }
            if slice.owed.len() >= limits.rows {
                return slice;
            }
            let mine = added.entry(&subscription.name).or_default();
            if standing.pending + *mine >= limits.outbox {
                slice
                    .suspended
                    .push((subscription.name.clone(), event.position - 1));
                continue;
            }
            *mine += 1;
            slice.owed.push(owe(subscription, event, now));
            slice.to.within = place(subscription, index);
        }
        slice.to = Position {
            event: event.position,
            within: None,
        };
    }
    slice
}

/// Whether a subscription was served before the slice that left off at `last`.
fn is_done(subscription: &Subscription, index: usize, last: &SubscriptionName) -> bool {
    if cfg!(sabotage = "fan_out_position_by_index") {
        return last
            .as_str()
            .parse::<usize>()
            .is_ok_and(|left_off| index <= left_off);
    }
    subscription.name <= *last
}

/// Where a slice leaves off within an event: at a name, which stays right when subscriptions come and go.
fn place(subscription: &Subscription, index: usize) -> Option<SubscriptionName> {
    if cfg!(sabotage = "fan_out_position_by_index") {
        return SubscriptionName::parse(&index.to_string()).ok();
    }
    Some(subscription.name.clone())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use courier_sdk::{FeedName, Record, RecordId, RecordKey};

    use super::*;
    use crate::domain::event::{EventKind, Timeliness};
    use crate::domain::identity::{EventId, VersionKey};

    fn event(position: u64) -> Event {
        let connection = ConnectionName::parse("c").unwrap();
        let key = RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse(&position.to_string()).unwrap(),
        };
        let version = VersionKey::of_version_id("1");
        Event {
            id: EventId::derive(&connection, &key, &version),
            connection,
            position,
            key,
            version,
            version_id: Some("1".to_owned()),
            kind: EventKind::Updated,
            meaning: None,
            changed_at: None,
            fresh_as_of: Timestamp::UNIX_EPOCH,
            recorded_at: Timestamp::UNIX_EPOCH,
            timeliness: Timeliness::InOrder,
            feed: FeedName::parse("f").unwrap(),
            record: Some(Record::new(Bytes::from_static(b"{}"))),
            context: None,
            trace: None,
        }
    }

    fn subscription(name: &str) -> Subscription {
        Subscription {
            name: SubscriptionName::parse(name).unwrap(),
            connections: ConnectionSet::All,
            topic: Topic::Any,
            from: From::Now,
            content: ContentLevel::IdOnly,
            format: Format::CloudEvents,
            destination: DestinationName::parse("d").unwrap(),
        }
    }

    fn standing(name: &str, after: u64, pending: u64) -> Standing {
        Standing {
            subscription: SubscriptionName::parse(name).unwrap(),
            after,
            own: None,
            pending,
        }
    }

    /// Cuts slices of `rows` until nothing is left; `members_at` tells who is in force at each slice.
    fn drain(rows: usize, members_at: impl Fn(usize) -> Vec<&'static str>) -> Vec<(u64, String)> {
        let events: Vec<Event> = (1..=6).map(event).collect();
        let (mut position, mut given) = (Position::default(), Vec::new());
        for round in 0..100 {
            let members: Vec<(Subscription, Standing)> = members_at(round)
                .into_iter()
                .map(|name| (subscription(name), standing(name, 0, 0)))
                .collect();
            let borrowed: Vec<(&Subscription, &Standing)> = members.iter().map(|(a, b)| (a, b)).collect();
            let left: Vec<Event> = events
                .iter()
                .filter(|e| e.position > position.event)
                .cloned()
                .collect();
            if left.is_empty() {
                break;
            }
            let limits = SliceLimits { rows, outbox: 1000 };
            let cut = slice(&position, &left, &borrowed, limits, Timestamp::UNIX_EPOCH);
            given.extend(
                cut.owed
                    .iter()
                    .map(|owed| (owed.event, owed.subscription.to_string())),
            );
            position = cut.to;
        }
        assert_eq!(
            position,
            Position {
                event: 6,
                within: None
            }
        );
        given
    }

    #[test]
    fn slices_of_every_size_give_each_event_to_each_subscription_once() {
        let whole = drain(1000, |_| vec!["a", "b", "c"]);
        assert_eq!(whole.len(), 18);
        for rows in 1..20 {
            assert_eq!(drain(rows, |_| vec!["a", "b", "c"]), whole, "slices of {rows}");
        }
    }

    #[test]
    fn a_subscription_removed_between_two_slices_of_one_event_costs_the_others_nothing() {
        // The first slice leaves off within the first event; then "a" goes.
        let given = drain(2, |round| {
            if round == 0 {
                vec!["a", "b", "c"]
            } else {
                vec!["b", "c"]
            }
        });
        for name in ["b", "c"] {
            let got: Vec<u64> = given
                .iter()
                .filter(|(_, to)| to == name)
                .map(|(event, _)| *event)
                .collect();
            assert_eq!(got, [1, 2, 3, 4, 5, 6], "{name}");
        }
    }

    #[test]
    fn a_subscription_is_not_given_what_came_before_it_nor_what_is_off_topic() {
        let mut off_topic = subscription("b");
        off_topic.topic = Topic::Records(RecordType::parse("Encounter").unwrap());
        let (a, at_a, at_b) = (subscription("a"), standing("a", 2, 0), standing("b", 0, 0));
        let events: Vec<Event> = (1..=4).map(event).collect();
        let limits = SliceLimits {
            rows: 1000,
            outbox: 1000,
        };
        let members = [(&a, &at_a), (&off_topic, &at_b)];
        let cut = slice(
            &Position::default(),
            &events,
            &members,
            limits,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(cut.owed.iter().map(|owed| owed.event).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_subscription_at_its_outbox_limit_leaves_at_the_event_it_was_not_given() {
        let (a, at_a) = (subscription("a"), standing("a", 0, 3));
        let events: Vec<Event> = (1..=4).map(event).collect();
        let limits = SliceLimits {
            rows: 1000,
            outbox: 5,
        };
        let cut = slice(
            &Position::default(),
            &events,
            &[(&a, &at_a)],
            limits,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(cut.owed.len(), 2);
        assert_eq!(cut.suspended, [(a.name.clone(), 2)]);
        assert_eq!(
            cut.to,
            Position {
                event: 4,
                within: None
            }
        );
    }
}
