//! A real RabbitMQ with a queue of the test's own, and a consumer that notes every message: by which life
//! of the courier, which, and its bytes.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::runtime::Handle;

use crate::receiver::Arrival;

/// Messages that the broker hands out before the first of them is acknowledged.
const UNACKNOWLEDGED_MAX: u16 = 256;

#[expect(
    clippy::disallowed_methods,
    reason = "which RabbitMQ to test with is said by the environment"
)]
pub(crate) fn address() -> String {
    std::env::var("COURIER_TEST_AMQP_URL")
        .expect("COURIER_TEST_AMQP_URL names no RabbitMQ: run the test by tests/run, tests/services or tests/interop/run")
}

/// A queue that takes all that its exchange gets. Both go with the connection, however the test ends.
pub(crate) struct Queue {
    exchange: String,
    subscription: String,
    arrivals: Mutex<Vec<Arrival>>,
    _connection: Connection,
}

impl Queue {
    /// Declares exchange and queue, and consumes for one subscription; it ends with the runtime.
    pub(crate) fn start(runtime: &Handle, subscription: &str) -> Arc<Self> {
        runtime.block_on(Self::declare(runtime, subscription))
    }

    /// What the configuration says of the exchange in one life of the courier; `BROKER_URL` in its environment is
    /// [`address`].
    pub(crate) fn destination(&self, life: u64) -> String {
        format!(
            "type = \"amqp\"\nurl = \"env:BROKER_URL\"\nexchange = \"{}\"\n\
             routing_key = \"{life}.{{connection}}.{{record_type}}.{{change}}\"\n\
             allow_networks = [\"127.0.0.0/8\", \"::1/128\"]\n",
            self.exchange
        )
    }

    /// Everything consumed so far, in order.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// How many messages were consumed so far.
    pub(crate) fn count(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }

    async fn declare(runtime: &Handle, subscription: &str) -> Arc<Self> {
        let connection = Connection::connect(&address(), ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (exchange, consumer) = consume(&channel).await;
        let queue = Arc::new(Self {
            exchange,
            subscription: subscription.to_owned(),
            arrivals: Mutex::default(),
            _connection: connection,
        });
        runtime.spawn(Arc::clone(&queue).note_all(consumer));
        queue
    }

    /// Notes each message before it acknowledges it.
    async fn note_all(self: Arc<Self>, mut consumer: Consumer) {
        while let Some(message) = consumer.next().await {
            let message = message.unwrap();
            let acker = message.acker.clone();
            self.note(message);
            acker.ack(BasicAckOptions::default()).await.unwrap();
        }
    }

    fn note(&self, message: Delivery) {
        let (life, _) = message.routing_key.as_str().split_once('.').unwrap();
        let id = message.properties.message_id().as_ref();
        let arrival = Arrival {
            subscription: self.subscription.clone(),
            life: life.parse().unwrap(),
            // A message without an id is found by the checker: its id is not that of what it tells.
            id: id.map(ToString::to_string).unwrap_or_default(),
            body: Bytes::from(message.data),
        };
        self.arrivals.lock().unwrap().push(arrival);
    }
}

/// A durable topic exchange that goes with the last queue bound to it, and a consumer of all that it gets.
async fn consume(channel: &Channel) -> (String, Consumer) {
    let queue = declare_queue(channel).await;
    // The broker drew the queue's name, so that no other test has it.
    let exchange = format!("courier-test.{queue}");
    let durable = ExchangeDeclareOptions {
        durable: true,
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let none = FieldTable::default;
    let name = || ShortString::from(exchange.as_str());
    channel
        .exchange_declare(name(), ExchangeKind::Topic, durable, none())
        .await
        .unwrap();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.clone(), name(), "#".into(), options, none())
        .await
        .unwrap();
    let options = BasicQosOptions::default();
    channel.basic_qos(UNACKNOWLEDGED_MAX, options).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue, "".into(), options, none()).await;
    (exchange, consumer.unwrap())
}

/// A durable queue that goes with the connection.
async fn declare_queue(channel: &Channel) -> ShortString {
    let options = QueueDeclareOptions {
        durable: true,
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await;
    declared.unwrap().name().clone()
}
