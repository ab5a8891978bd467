//! Operating: what people ask of a courier, running or not, and what they are answered.
//!
//! One way to do it, two ways in: the running service answers through its control socket, else a command opens the
//! store and asks here itself. So both give the same answers. It guarantees that no answer holds a record's body unless
//! it was asked for by name. It must not know HTTP, the command line or configuration files.

pub mod ask;
mod cursors;
mod destinations;
mod recovery;
mod redrive;
mod subscriptions;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName, Connector, FeedName, InvalidName, Start};
use thiserror::Error;

pub use ask::Ask;
pub use recovery::{NUMBERS_JUMP, recover};
pub use view::Answer;

use crate::destination::Destination;
use crate::domain::delivery::DeliveryId;
use crate::domain::fan_out::Subscription;
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::store::{DeadLetterQuery, EventQuery, ReplayRequest, Store, StoreError};
use ask::{DeadLetterFilter, EventFilter};
use view::{DeadLetterView, EventDetailView, EventView, QuarantineView};

/// The most rows that one answer lists: some hundred megabytes.
pub const ROWS_MAX: usize = 1_000_000;

/// What operators work on: a store, and what the configuration says about the names in it.
pub struct Desk {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The connections in force, with their feeds.
    pub connections: BTreeMap<ConnectionName, Vec<FeedName>>,
    /// Who reads their cursors; where no cursor is asked about, nobody is needed.
    pub connectors: BTreeMap<ConnectionName, Arc<dyn Connector>>,
    /// How far back of their cursors feeds look. Where that adapts and no service runs, at least so far.
    pub overlaps: BTreeMap<(ConnectionName, FeedName), Duration>,
    /// Where feeds start that have no cursor yet.
    pub starts: BTreeMap<(ConnectionName, FeedName), Start>,
    /// The destinations in force; one without its sender can be asked about, but not tested.
    pub destinations: BTreeMap<DestinationName, Option<Arc<dyn Destination>>>,
    /// The subscriptions in force, in the order of their names.
    pub subscriptions: Vec<Subscription>,
}

/// Why something was not done; nothing changed. A redrive that fails on the way keeps the slices that it has written.
#[derive(Debug, Error)]
pub enum Refusal {
    /// It cannot be asked like that.
    #[error("{0}")]
    Usage(String),
    /// It names something that is not there.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be done now, or not without a further word.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused { reason } => Self::Conflict(reason),
            StoreError::Fenced { .. }
            | StoreError::Conflict { .. }
            | StoreError::Locked { .. }
            | StoreError::Unusable { .. }
            | StoreError::WrongKey { .. }
            | StoreError::Engine { .. } => Self::Store(error),
        }
    }
}

impl From<InvalidName> for Refusal {
    fn from(error: InvalidName) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Does what is asked.
///
/// # Errors
/// [`Refusal`].
pub async fn answer(desk: &Desk, ask: &Ask) -> Result<Answer, Refusal> {
    match ask {
        Ask::Events(filter) => events(desk, filter).await,
        Ask::Event { id, body } => event(desk, id, *body).await,
        Ask::Replay { id, subscription } => replay(desk, id, subscription.as_deref()).await,
        Ask::DeadLetters(filter) => dead_letters(desk, filter).await,
        Ask::Redrive(filter) => redrive::dead_letters(desk, filter).await,
        Ask::Quarantine { limit } => {
            let rows = desk.store.quarantine(rows(*limit)?).await?;
            Ok(Answer::Quarantine(rows.iter().map(QuarantineView::of).collect()))
        }
        Ask::RedriveQuarantine { connection } => redrive::quarantine(desk, connection).await,
        Ask::Cursors => cursors::list(desk).await,
        Ask::SetCursor(set) => cursors::set(desk, set).await,
        Ask::Subscriptions => subscriptions::list(desk).await,
        Ask::SetFlow { subscription, flow } => subscriptions::set_flow(desk, subscription, *flow).await,
        Ask::TestDestination { destination } => destinations::test(desk, destination).await,
        Ask::Audit { limit } => {
            let trail = desk.store.audit(rows(*limit)?).await?;
            Ok(Answer::Audit(
                trail.into_iter().map(view::AuditView::from).collect(),
            ))
        }
    }
}

async fn events(desk: &Desk, filter: &EventFilter) -> Result<Answer, Refusal> {
    let query = EventQuery {
        connection: filter
            .connection
            .as_deref()
            .map(ConnectionName::parse)
            .transpose()?,
        record: filter.record.clone(),
        since: filter.since.as_deref().map(instant).transpose()?,
        limit: rows(filter.limit)?,
    };
    let found = desk.store.events(&query).await?;
    if found.is_empty() {
        desk.know_connection(query.connection.as_ref())?;
    }
    Ok(Answer::Events(found.iter().map(EventView::of).collect()))
}

async fn event(desk: &Desk, id: &str, body: bool) -> Result<Answer, Refusal> {
    let id = event_id(id)?;
    match desk.store.event(&id).await? {
        Some(detail) => Ok(Answer::Event(Box::new(EventDetailView::of(&detail, body)))),
        None => Err(Refusal::Unknown(format!("no event {id}"))),
    }
}

async fn replay(desk: &Desk, id: &str, subscription: Option<&str>) -> Result<Answer, Refusal> {
    let request = ReplayRequest {
        event: event_id(id)?,
        subscription: subscription.map(SubscriptionName::parse).transpose()?,
    };
    let deliveries = desk.store.replay(&request, desk.clock.now()).await?;
    if deliveries == 0 {
        desk.know_subscription(request.subscription.as_ref())?;
    }
    Ok(Answer::Replayed(deliveries))
}

async fn dead_letters(desk: &Desk, filter: &DeadLetterFilter) -> Result<Answer, Refusal> {
    let mut query = dead_letter_query(filter)?;
    query.limit = match query.limit {
        0 => ROWS_MAX,
        limit => rows(limit)?,
    };
    let found = desk.store.dead_letters(&query).await?;
    if found.is_empty() {
        desk.know_destination(query.destination.as_ref())?;
        desk.know_subscription(query.subscription.as_ref())?;
    }
    Ok(Answer::DeadLetters(
        found.iter().map(DeadLetterView::of).collect(),
    ))
}

fn dead_letter_query(filter: &DeadLetterFilter) -> Result<DeadLetterQuery, Refusal> {
    Ok(DeadLetterQuery {
        delivery: filter.delivery.map(DeliveryId),
        destination: filter
            .destination
            .as_deref()
            .map(DestinationName::parse)
            .transpose()?,
        subscription: filter
            .subscription
            .as_deref()
            .map(SubscriptionName::parse)
            .transpose()?,
        limit: filter.limit,
    })
}

impl Desk {
    /// Refuses a connection that the configuration does not name.
    fn know_connection(&self, name: Option<&ConnectionName>) -> Result<(), Refusal> {
        known("connection", name, || self.connections.keys().collect())
    }

    /// Refuses a destination that the configuration does not name.
    fn know_destination(&self, name: Option<&DestinationName>) -> Result<(), Refusal> {
        known("destination", name, || self.destinations.keys().collect())
    }

    /// Refuses a subscription that the configuration does not name.
    fn know_subscription(&self, name: Option<&SubscriptionName>) -> Result<(), Refusal> {
        known("subscription", name, || {
            self.subscriptions.iter().map(|it| &it.name).collect()
        })
    }
}

/// Names shown when an unknown one was asked for.
const NAMES_SHOWN_MAX: usize = 20;

fn known<'a, T: PartialEq + std::fmt::Display + 'a>(
    kind: &str,
    name: Option<&T>,
    all: impl FnOnce() -> Vec<&'a T>,
) -> Result<(), Refusal> {
    let Some(name) = name else {
        return Ok(());
    };
    let all = all();
    if all.contains(&name) {
        return Ok(());
    }
    let mut shown: Vec<String> = all
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    if all.len() > NAMES_SHOWN_MAX {
        shown.push("…".to_owned());
    }
    let there = if shown.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there are {}", shown.join(", "))
    };
    Err(Refusal::Unknown(format!("no {kind} named {name}: {there}")))
}

fn event_id(text: &str) -> Result<EventId, Refusal> {
    EventId::parse(text).ok_or_else(|| {
        Refusal::Usage(format!(
            "{text:?} is not an event id: ev_ and 32 letters, see `events list`"
        ))
    })
}

fn instant(text: &str) -> Result<jiff::Timestamp, Refusal> {
    text.parse().map_err(|_| {
        Refusal::Usage(format!(
            "{text:?} is not an instant: write it like 2026-11-21T10:00:00Z"
        ))
    })
}

fn rows(limit: usize) -> Result<usize, Refusal> {
    if (1..=ROWS_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::Usage(format!("a limit is between 1 and {ROWS_MAX}")))
}
