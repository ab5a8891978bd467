//! Destinations: one sample notification of synthetic data, through the code that delivers the real ones.

use courier_sdk::{ConnectionName, FeedName, InvalidName, RecordId, RecordKey, RecordType};
use jiff::Timestamp;

use super::view::{Answer, TestView};
use super::{Desk, Refusal};
use crate::destination::{Attempt, Notification};
use crate::domain::delivery::{Delivery, DeliveryId, DeliveryState, RENDERER, Replay};
use crate::domain::event::{Event, EventKind, Timeliness};
use crate::domain::fan_out::{ContentLevel, Format};
use crate::domain::identity::{EventId, VersionKey};
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::wire;

/// The connection, subscription and record of samples: receivers tell them by it.
const SAMPLE: &str = "ehr-courier-test";

pub(super) async fn test(desk: &Desk, name: &str) -> Result<Answer, Refusal> {
    let name = DestinationName::parse(name)?;
    desk.know_destination(Some(&name))?;
    let destination = desk
        .destinations
        .get(&name)
        .and_then(Option::as_ref)
        .ok_or_else(|| Refusal::Conflict(format!("destination {name} is set aside: it cannot be reached")))?;
    let told_so = desk.subscriptions.iter().find(|it| it.destination == name);
    let format = told_so.map_or(Format::CloudEvents, |it| it.format);
    let notification = sample(&name, format, desk.clock.now())?;
    let id = notification.event_id.to_string();
    let (accepted, detail) = match destination.deliver(&notification, desk.clock.now()).await {
        Attempt::Accepted { detail } => (true, detail),
        Attempt::Failed { detail, .. } => (false, detail),
    };
    Ok(Answer::Tested(TestView {
        destination: name.to_string(),
        id,
        accepted,
        detail,
    }))
}

/// An update of a record that no source has, as the destination's first subscription would tell it. Its version is the
/// instant: a receiver that deduplicates sees each sample.
fn sample(
    destination: &DestinationName,
    format: Format,
    now: Timestamp,
) -> Result<Notification, InvalidName> {
    let connection = ConnectionName::parse(SAMPLE)?;
    let key = RecordKey {
        record_type: RecordType::parse("Basic")?,
        id: RecordId::parse(SAMPLE)?,
    };
    let version_id = now.as_nanosecond().to_string();
    let version = VersionKey::of_version_id(&version_id);
    let event = Event {
        id: EventId::derive(&connection, &key, &version),
        connection,
        position: 1,
        key,
        version,
        version_id: Some(version_id),
        kind: EventKind::Updated,
        meaning: None,
        changed_at: Some(now),
        fresh_as_of: now,
        recorded_at: now,
        timeliness: Timeliness::InOrder,
        feed: FeedName::parse(SAMPLE)?,
        record: None,
        context: None,
        trace: None,
    };
    let delivery = Delivery {
        id: DeliveryId(0),
        subscription: SubscriptionName::parse(SAMPLE)?,
        number: 1,
        destination: destination.clone(),
        content: ContentLevel::IdOnly,
        format,
        renderer: RENDERER,
        state: DeliveryState::Pending,
        attempts: 0,
        scheduled_from: now,
        due_at: now,
        replay: Replay::Original,
        last_outcome: None,
    };
    Ok(Notification {
        rendered: wire::render(&event, &delivery),
        event_id: event.id,
        connection: event.connection,
        key: event.key,
        kind: event.kind,
        replay: delivery.replay,
        trace: None,
    })
}
