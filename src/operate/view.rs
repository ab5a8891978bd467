//! What is answered: rows as they are shown, over the control socket and as `--json` lines. Instants are RFC 3339.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ask::FlowWord;
use crate::store::{AuditRow, DeadLetterRow, EventDetail, EventRow, QuarantineRow};
use crate::wire::cloudevents::{reason, version_label};

/// One answer, named after what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Events.
    Events(Vec<EventView>),
    /// One event.
    Event(Box<EventDetailView>),
    /// So many deliveries are owed again.
    Replayed(u64),
    /// Dead letters.
    DeadLetters(Vec<DeadLetterView>),
    /// So many dead letters or quarantined changes are tried again.
    Redriven(u64),
    /// Changes in quarantine.
    Quarantine(Vec<QuarantineView>),
    /// Cursors.
    Cursors(Vec<CursorView>),
    /// A cursor moved.
    CursorSet(CursorMove),
    /// Subscriptions, a row for each connection that they cover.
    Subscriptions(Vec<SubscriptionView>),
    /// A subscription flows or waits now.
    Flow(FlowView),
    /// A destination was tried.
    Tested(TestView),
    /// What operators changed.
    Audit(Vec<AuditView>),
}

/// One line of the event list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When it was written to the log.
    pub recorded_at: String,
    /// The connection.
    pub connection: String,
    /// The event's id.
    pub id: String,
    /// `created`, `updated`, `deleted` or `unavailable`.
    pub change: String,
    /// `Type/id`.
    pub record: String,
    /// The source's version id, or the version key.
    pub version: String,
    /// Deliveries owed.
    pub pending: u64,
    /// Deliveries accepted.
    pub done: u64,
    /// Dead letters.
    pub dead: u64,
    /// Deliveries cancelled.
    pub cancelled: u64,
}

impl EventView {
    pub(super) fn of(row: &EventRow) -> Self {
        Self {
            recorded_at: row.recorded_at.to_string(),
            connection: row.connection.to_string(),
            id: row.id.to_string(),
            change: row.kind.as_str().to_owned(),
            record: row.key.to_string(),
            version: row.version.clone(),
            pending: row.deliveries.pending,
            done: row.deliveries.done,
            dead: row.deliveries.dead,
            cancelled: row.deliveries.cancelled,
        }
    }
}

/// One event whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDetailView {
    /// The event's id.
    pub id: String,
    /// The connection.
    pub connection: String,
    /// The feed that found it.
    pub feed: String,
    /// `Type/id`.
    pub record: String,
    /// The source's version id, or the version key.
    pub version: String,
    /// `created`, `updated`, `deleted`, `merged` or `unavailable`.
    pub change: String,
    /// What it means beyond that: `reason` or `mergedinto`, and the attribute's value.
    pub meaning: Option<String>,
    /// When it changed by the source's clock.
    pub changed_at: Option<String>,
    /// When it was written to the log.
    pub recorded_at: String,
    /// The source's time at the start of the poll that found it.
    pub fresh_as_of: String,
    /// Its deliveries, in the order of subscriptions.
    pub deliveries: Vec<DeliveryView>,
    /// The record itself, where it was asked for: patient data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// One delivery of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: u64,
    /// The subscription.
    pub subscription: String,
    /// Its number.
    pub number: u64,
    /// The destination.
    pub destination: String,
    /// `pending`, `done`, `dead` or `cancelled`.
    pub state: String,
    /// Attempts made.
    pub attempts: u32,
    /// When the next is due.
    pub due_at: String,
    /// What the last one said.
    pub last_outcome: Option<String>,
}

impl EventDetailView {
    pub(super) fn of(detail: &EventDetail, body: bool) -> Self {
        let event = &detail.event;
        let deliveries = detail.deliveries.iter().map(|delivery| DeliveryView {
            delivery: delivery.id.0,
            subscription: delivery.subscription.to_string(),
            number: delivery.number,
            destination: delivery.destination.to_string(),
            state: delivery.state.as_str().to_owned(),
            attempts: delivery.attempts,
            due_at: delivery.due_at.to_string(),
            last_outcome: delivery.last_outcome.clone(),
        });
        let record = event.record.as_ref().filter(|_| body);
        Self {
            id: event.id.to_string(),
            connection: event.connection.to_string(),
            feed: event.feed.to_string(),
            record: event.key.to_string(),
            version: version_label(event.version_id.as_deref(), &event.version).to_owned(),
            change: event.kind.as_str().to_owned(),
            meaning: reason(event).map(|(name, value)| format!("{name} {value}")),
            changed_at: event.changed_at.map(|at| at.to_string()),
            recorded_at: event.recorded_at.to_string(),
            fresh_as_of: event.fresh_as_of.to_string(),
            deliveries: deliveries.collect(),
            body: record.map(|record| String::from_utf8_lossy(record.bytes()).into_owned()),
        }
    }
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// The delivery.
    pub delivery: u64,
    /// When it was given up.
    pub died_at: String,
    /// The destination.
    pub destination: String,
    /// The subscription.
    pub subscription: String,
    /// The event's id.
    pub event: String,
    /// `Type/id`.
    pub record: String,
    /// Attempts made.
    pub attempts: u32,
    /// What the last one said.
    pub last_outcome: Option<String>,
}

impl DeadLetterView {
    pub(super) fn of(row: &DeadLetterRow) -> Self {
        Self {
            delivery: row.delivery.id.0,
            died_at: row.died_at.to_string(),
            destination: row.delivery.destination.to_string(),
            subscription: row.delivery.subscription.to_string(),
            event: row.event_id.to_string(),
            record: row.key.to_string(),
            attempts: row.delivery.attempts,
            last_outcome: row.delivery.last_outcome.clone(),
        }
    }
}

/// One change in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineView {
    /// When it was given up.
    pub at: String,
    /// The connection.
    pub connection: String,
    /// The feed that found it.
    pub feed: String,
    /// `Type/id`.
    pub record: String,
    /// Why.
    pub reason: String,
}

impl QuarantineView {
    pub(super) fn of(row: &QuarantineRow) -> Self {
        Self {
            at: row.at.to_string(),
            connection: row.connection.to_string(),
            feed: row.feed.to_string(),
            record: row.key.to_string(),
            reason: row.reason.clone(),
        }
    }
}

/// How one feed stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorView {
    /// The connection.
    pub connection: String,
    /// The feed.
    pub feed: String,
    /// The instant that the cursor stands for; absent before anything was shown, and where the feed left the
    /// configuration.
    pub cursor: Option<String>,
    /// The source's own time at the start of the last complete poll.
    pub fresh_as_of: Option<String>,
    /// When the cursor moved last.
    pub advanced_at: Option<String>,
    /// How far back of the cursor the next poll looks, in seconds; absent for a sweep, and where the feed left the
    /// configuration.
    pub overlap_seconds: Option<u64>,
    /// When its last complete poll ended that had anything to write.
    pub completed_at: Option<String>,
    /// Changes that its polls brought and that were new; of a sweep, what every poll had missed; of a backfill, what it
    /// has brought so far.
    pub found: u64,
    /// `collecting` or `releasing`, while it has a stage.
    pub stage: Option<String>,
    /// How it stands, where it is a backfill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillView>,
}

/// How a backfill stands. What it has brought so far is its `found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillView {
    /// `under-way` or `complete`.
    pub state: String,
    /// Stretches of time that it has brought so far, or parts of one.
    pub stretches: u64,
    /// How much of the time between a start that is a date and the live feed's cursor it has brought, in percent.
    pub percent: Option<u8>,
}

/// How a cursor moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorMove {
    /// The connection.
    pub connection: String,
    /// The feed.
    pub feed: String,
    /// Where it stood.
    pub from: Option<String>,
    /// Where it stands now.
    pub to: String,
    /// Whether it moved past what was not seen: nothing of that will be announced.
    pub skipped: bool,
    /// Whether the feed's backfill is under way, which goes on where it is.
    #[serde(default)]
    pub backfill: bool,
}

/// A subscription on one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionView {
    /// The subscription.
    pub subscription: String,
    /// The connection; absent while it covers none.
    pub connection: Option<String>,
    /// The destination.
    pub destination: String,
    /// Whether it is attempted.
    pub state: FlowWord,
    /// Since when it is paused.
    pub paused_since: Option<String>,
    /// The last number given out.
    pub last_number: u64,
    /// Deliveries owed.
    pub pending: u64,
    /// Whether it catches up on a way of its own: it is new, or its outbox was full.
    pub behind: bool,
}

/// A subscription that was paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// The subscription.
    pub subscription: String,
    /// What it does now.
    pub state: FlowWord,
    /// Whether that is new.
    pub changed: bool,
}

/// What a destination said to a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestView {
    /// The destination.
    pub destination: String,
    /// The sample's event id: no event of any record has it.
    pub id: String,
    /// Whether it was accepted.
    pub accepted: bool,
    /// What it said, in a few words.
    pub detail: String,
}

/// What an operator changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// When.
    pub at: String,
    /// The command.
    pub action: String,
    /// What it was about.
    pub subject: String,
    /// The rest.
    pub detail: String,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        Self {
            at: row.at.to_string(),
            action: row.action,
            subject: row.subject,
            detail: row.detail,
        }
    }
}

/// An instant that may be missing.
pub(super) fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}
