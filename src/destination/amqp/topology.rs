//! An exchange and a queue for those who try the courier out. The service itself declares nothing: what a broker holds is
//! its operator's.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use thiserror::Error;
use tokio::time::timeout;

use super::link::Link;
use super::refused::Refused;
use super::{DEADLINE, Settings};

/// Why nothing could be declared; names no credentials.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotDeclared(String);

/// Declares the settings' exchange, durable and of type topic, and a durable queue that gets all its messages, unless they
/// are there already.
///
/// # Errors
/// [`NotDeclared`] when the broker cannot be reached, does not allow it, or has an exchange or queue of that name that
/// is declared otherwise.
///
/// # Cancel safety
/// Dropping the future may leave some of it declared.
pub async fn declare(settings: &Settings, queue: &str) -> Result<(), NotDeclared> {
    let declared = timeout(DEADLINE, declare_all(settings, queue)).await;
    declared
        .unwrap_or(Err(Refused::NotConnectedWithin(DEADLINE)))
        .map_err(|refused| NotDeclared(refused.to_string()))
}

async fn declare_all(settings: &Settings, queue: &str) -> Result<(), Refused> {
    let link = Link::open(settings).await?;
    let declared = declare_on(&link, settings, queue).await;
    link.close().await;
    declared
}

async fn declare_on(link: &Link, settings: &Settings, queue: &str) -> Result<(), Refused> {
    let failed = |error: lapin::Error| Refused::channel(&error, &settings.exchange);
    let name = |text: &str| ShortString::try_new(text).map_err(|_too_long| Refused::Names);
    let (exchange, queue) = (name(&settings.exchange)?, name(queue)?);
    let channel = link.connection().create_channel().await.map_err(failed)?;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            exchange.clone(),
            ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        )
        .await
        .map_err(failed)?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.clone(), durable, FieldTable::default())
        .await
        .map_err(failed)?;
    let everything = ShortString::from("#");
    channel
        .queue_bind(
            queue,
            exchange,
            everything,
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(failed)
}
