//! What passes for delivered, what does not, and in which words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use courier_sdk::Clock as _;
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::Destination as _;
use ehr_courier::destination::amqp::{Amqp, Settings, topology};
use ehr_courier::domain::delivery::Replay;
use ehr_courier::domain::name::DestinationName;
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::wire::routing_key::Template;
use futures_util::{StreamExt as _, stream};
use lapin::types::{AMQPValue, FieldTable};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{Desk, PATIENCE, accepted, broker, failure, notification, shared_broker};
use crate::notifications::binary;

/// Stands in the password of a login that must fail; nothing may show it.
const CANARY: &str = "hunter2";

/// How many attempts are made at once: more than the window, so that it fills.
const AT_ONCE: usize = 256;

#[tokio::test]
async fn of_5_000_messages_in_flight_together_exactly_the_routed_ones_pass_for_delivered() {
    let desk = Desk::shared().await;
    desk.bind("mercy.Appointment.*").await;
    let bus = desk.destination();
    let attempts = stream::iter(0..5_000_usize).map(|number| {
        // No rhythm that confirms could fall in with.
        let routed = number % 7 < 3 || number % 11 == 0;
        let notification = notification(if routed { "Appointment" } else { "Patient" }, number);
        let bus = &bus;
        async move {
            let said = bus.deliver(&notification, SystemClock.now()).await;
            (notification.event_id.to_string(), routed, said)
        }
    });
    let outcomes: Vec<_> = timeout(PATIENCE, attempts.buffer_unordered(AT_ONCE).collect())
        .await
        .unwrap();
    let mut delivered = BTreeMap::new();
    for (id, routed, said) in outcomes {
        if routed {
            assert_eq!(said, accepted(), "{id}");
            delivered.insert(id, 1);
        } else {
            assert!(failure(said).starts_with("unroutable: "), "{id}");
        }
    }
    assert!(
        delivered.len() > 2_000 && delivered.len() < 3_000,
        "{}",
        delivered.len()
    );
    assert_eq!(desk.take_all().await, delivered);
    bus.close().await;
    desk.remove().await;
}

#[tokio::test]
async fn a_message_is_persistent_and_byte_for_byte_what_the_binary_examples_show() {
    let desk = Desk::shared().await;
    desk.bind("#").await;
    let bus = desk.destination();
    for example in binary::examples() {
        let mut notification = notification("Appointment", 17);
        notification.rendered = example.rendered.clone();
        notification.replay = Replay::Replayed;
        let now = SystemClock.now();
        assert_eq!(bus.deliver(&notification, now).await, accepted());
        let message = desk.take().await.unwrap();
        assert_eq!(message.data, example.rendered.body);
        assert_eq!(message.routing_key.as_str(), "mercy.Appointment.updated");
        let properties = &message.properties;
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(
            text(properties.message_id()).unwrap(),
            notification.event_id.as_str()
        );
        assert_eq!(
            text(properties.content_type()).as_deref(),
            example.rendered.content_type
        );
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(
            properties.timestamp().map(u64::cast_signed),
            Some(now.as_second())
        );
        let headers = properties.headers().as_ref().unwrap().inner();
        let found: BTreeSet<(String, String)> = headers
            .iter()
            .map(|(name, value)| {
                let AMQPValue::LongString(text) = value else {
                    panic!("{name} is {value:?}");
                };
                (name.to_string(), text.to_string())
            })
            .collect();
        let mut expected: BTreeSet<(String, String)> = example
            .attributes
            .iter()
            .map(|(name, value)| (format!("cloudEvents_{name}"), value.clone()))
            .collect();
        expected.insert(("courier-replay".to_owned(), "true".to_owned()));
        assert_eq!(found, expected, "{}", example.name);
    }
    bus.close().await;
    desk.remove().await;
}

#[tokio::test]
async fn a_missing_exchange_fails_by_name_and_is_used_once_it_is_there() {
    let desk = Desk::shared().await;
    desk.delete_exchange().await;
    let bus = desk.destination();
    let expected = format!("no such exchange {}", desk.exchange);
    for number in 0..3 {
        let said = bus
            .deliver(&notification("Patient", number), SystemClock.now())
            .await;
        assert_eq!(failure(said), expected);
    }
    desk.declare_exchange().await;
    desk.bind("#").await;
    let healed = async {
        // The exchange is asked for again after a hold, not at each attempt.
        while bus.deliver(&notification("Patient", 3), SystemClock.now()).await != accepted() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, healed).await.unwrap();
    // One that goes away while channels are open fails as clearly.
    desk.delete_exchange().await;
    let said = bus.deliver(&notification("Patient", 4), SystemClock.now()).await;
    assert_eq!(failure(said), expected);
    desk.declare_exchange().await;
    bus.close().await;
    desk.remove().await;
}

#[tokio::test]
async fn a_full_queue_that_rejects_fails_the_attempt() {
    let mut limits = FieldTable::default();
    limits.insert("x-max-length".into(), AMQPValue::LongInt(2));
    limits.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let desk = Desk::new(shared_broker(), limits).await;
    desk.bind("#").await;
    let bus = desk.destination();
    let mut taken = BTreeMap::new();
    let mut refused = 0;
    for number in 0..6 {
        let notification = notification("Patient", number);
        match bus.deliver(&notification, SystemClock.now()).await {
            said if said == accepted() => {
                taken.insert(notification.event_id.to_string(), 1);
            }
            said => {
                assert_eq!(
                    failure(said),
                    "the broker does not keep it (nack): a queue is full or failing"
                );
                refused += 1;
            }
        }
    }
    assert!(refused >= 1, "the queue refused nothing");
    assert_eq!(desk.take_all().await, taken);
    bus.close().await;
    desk.remove().await;
}

/// A destination for the shared broker with other settings.
fn changed(change: impl FnOnce(&mut Settings)) -> Amqp {
    let url = shared_broker();
    let mut settings = Settings {
        name: DestinationName::parse("bus").unwrap(),
        label: "bus".into(),
        broker: broker(&url),
        exchange: "amq.topic".to_owned(),
        routing_key: Template::parse("courier-test-nobody").unwrap(),
        policy: AddressPolicy {
            allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
            plain_http_networks: Vec::new(),
        },
        deadline: Duration::from_secs(30),
    };
    change(&mut settings);
    Amqp::new(settings)
}

type Change = Box<dyn FnOnce(&mut Settings)>;

#[tokio::test]
async fn a_connection_that_is_refused_says_why_and_shows_no_credentials() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_port = gone.local_addr().unwrap().port();
    drop(gone);
    let rows: Vec<(Change, &str)> = vec![
        (
            Box::new(|settings| settings.broker.password = SecretString::from(CANARY)),
            "not connected: the broker refuses this user or password",
        ),
        (
            Box::new(|settings| settings.broker.virtual_host = "courier-test-nowhere".to_owned()),
            "not connected: the broker refuses this virtual host",
        ),
        (
            Box::new(|settings| settings.policy = AddressPolicy::default()),
            "not connected: address refused: 127.0.0.1 is loopback; name its network in allow_networks if it is meant",
        ),
        (
            Box::new(move |settings| settings.broker.endpoint.port = gone_port),
            "not connected: cannot connect: connection refused",
        ),
        (
            Box::new(move |settings| settings.broker.endpoint.port = silent_port),
            "not connected: no login within 10 s",
        ),
        (
            Box::new(|_| {}),
            "unroutable: no queue is bound to exchange amq.topic for its routing key",
        ),
    ];
    let attempts = rows.into_iter().map(|(change, expected)| async move {
        let bus = changed(change);
        let said = failure(bus.deliver(&notification("Patient", 1), SystemClock.now()).await);
        assert_eq!(said, expected);
        let shown = format!("{bus:?}");
        assert!(!shown.contains(CANARY) && !shown.contains("guest"), "{shown}");
        bus.close().await;
    });
    futures_util::future::join_all(attempts).await;
}

#[tokio::test]
async fn a_closed_destination_opens_again_for_the_next_attempt() {
    let desk = Desk::shared().await;
    desk.bind("#").await;
    let bus = desk.destination();
    for number in 0..3 {
        let said = bus
            .deliver(&notification("Patient", number), SystemClock.now())
            .await;
        assert_eq!(said, accepted());
        bus.close().await;
    }
    assert_eq!(desk.take_all().await.len(), 3);
    desk.remove().await;
}

#[tokio::test]
async fn what_is_declared_for_a_trial_takes_every_message() {
    let desk = Desk::shared().await;
    desk.delete_exchange().await;
    let settings = desk.settings(Duration::from_secs(30));
    for _ in 0..2 {
        // Declared twice is declared once.
        topology::declare(&settings, &desk.queue).await.unwrap();
    }
    let bus = desk.destination();
    let said = bus.deliver(&notification("Patient", 1), SystemClock.now()).await;
    assert_eq!(said, accepted());
    assert_eq!(desk.take_all().await.len(), 1);
    bus.close().await;
    desk.remove().await;
}
