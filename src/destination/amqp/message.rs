//! A notification as an AMQP message, and what the broker's confirm means for it.
//!
//! Source: CloudEvents AMQP protocol binding 1.0.2. It is written for AMQP 1.0; in 0-9-1 its application properties are
//! headers. Of its two prefixes `cloudEvents_` is the one it prefers, and the one that RabbitMQ's clients read.

use bytes::Bytes;
use jiff::Timestamp;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};

use super::refused::Refused;
use crate::destination::Notification;
use crate::domain::delivery::Replay;

/// What stands before an attribute's name in a header.
const PREFIX: &str = "cloudEvents_";

/// Marks a message that is sent again at an operator's wish, as on webhooks.
const HEADER_REPLAY: &str = "courier-replay";

/// Ties the consumer's trace to ours (W3C Trace Context), as on webhooks.
const HEADER_TRACE: &str = "traceparent";

/// The delivery mode of messages that survive the broker's restart.
const PERSISTENT: u8 = 2;

/// A message ready to be published.
pub(super) struct Message {
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Message {
    /// Makes the message of a notification. Its `timestamp` is the attempt's.
    pub(super) fn of(notification: &Notification, routing_key: ShortString, now: Timestamp) -> Self {
        let rendered = &notification.rendered;
        let mut headers = FieldTable::default();
        let mut header = |name: String, value: &str| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        for (name, value) in &rendered.attributes {
            header(format!("{PREFIX}{name}"), value);
        }
        if let Some(trace) = notification.trace {
            header(HEADER_TRACE.to_owned(), &trace.to_string());
        }
        match notification.replay {
            Replay::Original => {}
            Replay::Replayed => header(HEADER_REPLAY.to_owned(), "true"),
        }
        let properties = BasicProperties::default()
            .with_message_id(notification.event_id.as_str().into())
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(u64::try_from(now.as_second()).unwrap_or_default())
            .with_headers(headers);
        let properties = match rendered.content_type {
            Some(content_type) => properties.with_content_type(content_type.into()),
            None => properties,
        };
        Self {
            routing_key,
            properties,
            body: rendered.body.clone(),
        }
    }
}

/// What a confirm means: an unroutable message is confirmed too, together with the message itself, returned.
pub(super) fn judge(confirmation: &Confirmation, exchange: &str) -> Result<(), Refused> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) if cfg!(sabotage = "returned_as_delivered") => Ok(()),
        Confirmation::Ack(Some(_)) => Err(Refused::Unroutable {
            exchange: exchange.to_owned(),
        }),
        Confirmation::Nack(_) => Err(Refused::Nack),
        Confirmation::NotRequested => Err(Refused::Unconfirming),
    }
}
