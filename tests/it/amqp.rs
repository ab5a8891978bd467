//! The AMQP destination against a real RabbitMQ: what is published, what passes for delivered and what does not, and what
//! a broker that dies, forgets, refuses or blocks does to it.
//!
//! The broker is the one that `COURIER_TEST_AMQP_URL` names; tests that kill or starve one start their own.

mod broker_dies;
mod demo;
mod node;
mod service;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use courier_sdk::{ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::destination::amqp::{Amqp, Settings};
use ehr_courier::destination::{Attempt, Notification};
use ehr_courier::domain::delivery::Replay;
use ehr_courier::domain::event::EventKind;
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::domain::name::DestinationName;
use ehr_courier::egress::dial::{Broker, Endpoint};
use ehr_courier::egress::guard::{AddressPolicy, Transport};
use ehr_courier::wire::routing_key::Template;
use ehr_courier::wire::{Mode, Rendered};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use secrecy::SecretString;
use url::Url;

/// Nothing here takes as long: it guards against hanging.
const PATIENCE: Duration = Duration::from_mins(2);

/// The broker that all tests share.
fn shared_broker() -> Url {
    let named = std::env::vars().find(|(name, _)| name == "COURIER_TEST_AMQP_URL");
    let (_, url) = named.expect("run tests/run, which starts a RabbitMQ, or set COURIER_TEST_AMQP_URL");
    Url::parse(&url).unwrap()
}

/// What a test holds of a broker: an exchange and a queue of its own, removed at the end where that is asked.
struct Desk {
    broker: Url,
    exchange: String,
    queue: String,
    channel: Channel,
    _connection: Connection,
}

impl Desk {
    /// Logs in and makes a durable topic exchange and a durable queue; nothing is bound.
    async fn new(broker: Url, arguments: FieldTable) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("courier-test-{}-{number}", std::process::id());
        let (channel, connection) = login(&broker).await;
        let desk = Self {
            broker,
            exchange: format!("{name}.exchange"),
            queue: format!("{name}.queue"),
            channel,
            _connection: connection,
        };
        desk.declare_exchange().await;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let queue = desk.queue.as_str().into();
        desk.channel
            .queue_declare(queue, durable, arguments)
            .await
            .unwrap();
        desk
    }

    async fn shared() -> Self {
        Self::new(shared_broker(), FieldTable::default()).await
    }

    async fn declare_exchange(&self) {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let exchange = self.exchange.as_str().into();
        self.channel
            .exchange_declare(exchange, ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .unwrap();
    }

    async fn delete_exchange(&self) {
        let exchange = self.exchange.as_str().into();
        let options = ExchangeDeleteOptions::default();
        self.channel.exchange_delete(exchange, options).await.unwrap();
    }

    async fn bind(&self, pattern: &str) {
        let (queue, exchange) = (self.queue.as_str().into(), self.exchange.as_str().into());
        let options = QueueBindOptions::default();
        self.channel
            .queue_bind(queue, exchange, pattern.into(), options, FieldTable::default())
            .await
            .unwrap();
    }

    /// Takes the next message, if there is one.
    async fn take(&self) -> Option<BasicGetMessage> {
        take(&self.channel, &self.queue).await
    }

    /// Takes all messages: how often each message id came.
    async fn take_all(&self) -> BTreeMap<String, usize> {
        take_all(&self.channel, &self.queue).await
    }

    async fn remove(self) {
        let options = QueueDeleteOptions::default();
        self.channel
            .queue_delete(self.queue.as_str().into(), options)
            .await
            .unwrap();
        self.delete_exchange().await;
    }

    /// The destination under test, for this desk's exchange.
    fn destination(&self) -> Amqp {
        Amqp::new(self.settings(Duration::from_mins(1)))
    }

    fn settings(&self, deadline: Duration) -> Settings {
        Settings {
            name: DestinationName::parse("bus").unwrap(),
            label: "bus".into(),
            broker: broker(&self.broker),
            exchange: self.exchange.clone(),
            routing_key: Template::parse("{connection}.{record_type}.{change}").unwrap(),
            policy: AddressPolicy {
                allow_networks: vec![
                    "127.0.0.0/8".parse().unwrap(),
                    "::1/128".parse().unwrap(),
                    "10.0.0.0/8".parse().unwrap(),
                    "172.16.0.0/12".parse().unwrap(),
                    "192.168.0.0/16".parse().unwrap(),
                ],
                plain_http_networks: Vec::new(),
            },
            deadline,
        }
    }
}

async fn take(channel: &Channel, queue: &str) -> Option<BasicGetMessage> {
    let options = BasicGetOptions { no_ack: true };
    channel.basic_get(queue.into(), options).await.unwrap()
}

async fn take_all(channel: &Channel, queue: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    while let Some(message) = take(channel, queue).await {
        let id = message.properties.message_id().as_ref().unwrap().to_string();
        *found.entry(id).or_default() += 1;
    }
    found
}

async fn login(broker: &Url) -> (Channel, Connection) {
    let connection = Connection::connect(broker.as_str(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (channel, connection)
}

fn broker(url: &Url) -> Broker {
    let (transport, port) = if url.scheme() == "amqps" {
        (Transport::Tls, 5671)
    } else {
        (Transport::Plain, 5672)
    };
    Broker {
        endpoint: Endpoint {
            host: url.host_str().unwrap().to_owned(),
            port: url.port().unwrap_or(port),
            transport,
        },
        user: url.username().to_owned(),
        password: SecretString::from(url.password().unwrap_or_default()),
        virtual_host: match url.path().trim_start_matches('/') {
            "" | "%2f" => "/".to_owned(),
            name => name.to_owned(),
        },
    }
}

/// A notification of the n-th version of a synthetic record.
fn notification(record_type: &str, number: usize) -> Notification {
    let connection = ConnectionName::parse("mercy").unwrap();
    let key = RecordKey {
        record_type: RecordType::parse(record_type).unwrap(),
        id: RecordId::parse(&number.to_string()).unwrap(),
    };
    let event_id = EventId::derive(&connection, &key, &VersionKey::of_version_id("1"));
    Notification {
        rendered: Rendered {
            content_type: Some("application/cloudevents+json"),
            body: format!("{{\"id\":\"{event_id}\"}}").into(),
            mode: Mode::Structured,
            attributes: vec![("id", event_id.to_string())],
        },
        event_id,
        connection,
        key,
        kind: EventKind::Updated,
        replay: Replay::Original,
        trace: None,
    }
}

fn failure(attempt: Attempt) -> String {
    match attempt {
        Attempt::Failed { detail, .. } => detail,
        Attempt::Accepted { detail } => panic!("accepted: {detail}"),
    }
}

fn accepted() -> Attempt {
    Attempt::Accepted {
        detail: "confirmed".to_owned(),
    }
}
