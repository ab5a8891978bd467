//! A broker that is killed, takes no messages or routes none, with the whole courier in front of it.

use std::collections::BTreeSet;
use std::time::Duration;

use courier_sdk::Clock as _;
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::Destination as _;
use ehr_courier::destination::amqp::Amqp;
use ehr_courier::store::DeadLetterQuery;
use lapin::types::FieldTable;
use tokio::time::timeout;

use super::node::Node;
use super::service::Service;
use super::{Desk, PATIENCE, accepted, failure, notification};

/// Messages of the run in which the broker is killed.
const RECORDS: usize = 3_000;

/// Tries often enough for a broker that takes its time to start.
const RETRY: &str = "[\"1s\", \"1s\", \"2s\", \"2s\", \"5s\", \"5s\", \"5s\", \"10s\", \"10s\", \"10s\", \"10s\", \"10s\", \"10s\"]";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_and_restarted_amid_3_000_messages_loses_none_of_them() {
    let mut node = Node::start().await;
    let desk = Desk::new(node.url(), FieldTable::default()).await;
    desk.bind("#").await;
    let (exchange, queue) = (desk.exchange.clone(), desk.queue.clone());
    let mut service = Service::start(RECORDS, &node.url(), &exchange, RETRY).await;
    // The first answer finds out where the feed begins; the second one brings the rest.
    let before = service
        .until(|counts| counts.done >= 200 && counts.pending > 0)
        .await;
    node.kill().await;
    let struck = service.until(|_| true).await;
    assert!(
        struck.pending > 0 && struck.done < RECORDS as u64,
        "killed too late: {struck:?}"
    );
    node.restart().await;
    let after = service
        .until(|counts| counts.done >= RECORDS as u64 && counts.pending == 0)
        .await;
    assert_eq!(after.dead, 0, "{after:?}");
    let ids: BTreeSet<String> = service.event_ids().await.into_iter().collect();
    assert_eq!(ids.len() as u64, after.done);
    service.stop().await;

    let (channel, connection) = super::login(&node.url()).await;
    let again = Desk {
        broker: node.url(),
        exchange,
        queue,
        channel,
        _connection: connection,
    };
    let consumed = again.take_all().await;
    let duplicates: usize = consumed.values().map(|times| times - 1).sum();
    println!(
        "{} events; {} confirmed before the kill, {} after it was noticed; consumed {} ids, {duplicates} duplicates",
        ids.len(),
        before.done,
        struck.done,
        consumed.len()
    );
    assert_eq!(
        consumed.into_keys().collect::<BTreeSet<_>>(),
        ids,
        "lost or phantom"
    );
    // At most what awaited its confirm can come twice.
    assert!(
        duplicates <= ehr_courier::destination::amqp::WINDOW,
        "{duplicates}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_broker_holds_attempts_says_so_and_takes_them_when_it_is_relieved() {
    let node = Node::start().await;
    let desk = Desk::new(node.url(), FieldTable::default()).await;
    desk.bind("#").await;
    let hasty = Amqp::new(desk.settings(Duration::from_secs(5)));
    let patient = Amqp::new(desk.settings(PATIENCE));
    let first = patient
        .deliver(&notification("Patient", 0), SystemClock.now())
        .await;
    assert_eq!(first, accepted());
    assert_eq!(
        hasty
            .deliver(&notification("Patient", 1), SystemClock.now())
            .await,
        accepted()
    );
    node.control(&["set_vm_memory_high_watermark", "absolute", "1"])
        .await;
    // The first message after it may still slip in; what the broker says follows it.
    let blocked = async {
        loop {
            let said = hasty
                .deliver(&notification("Patient", 2), SystemClock.now())
                .await;
            if said != accepted() {
                return failure(said);
            }
        }
    };
    let said = timeout(PATIENCE, blocked).await.unwrap();
    assert_eq!(said, "the broker is blocked: it is low on memory");
    let held = notification("Patient", 3);
    let holding = patient.deliver(&held, SystemClock.now());
    let relieving = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.control(&["set_vm_memory_high_watermark", "absolute", "1GB"])
            .await;
    };
    let (said, ()) = timeout(PATIENCE, async { tokio::join!(holding, relieving) })
        .await
        .unwrap();
    assert_eq!(said, accepted());
    assert!(desk.take_all().await.contains_key(held.event_id.as_str()));
    hasty.close().await;
    patient.close().await;
}

#[tokio::test]
async fn without_a_binding_attempts_fail_as_unroutable_and_end_as_dead_letters() {
    let desk = Desk::shared().await;
    let mut service = Service::start(20, &desk.broker, &desk.exchange, "[\"1s\", \"1s\"]").await;
    let counts = service
        .until(|counts| counts.dead >= 20 && counts.pending == 0)
        .await;
    assert_eq!(counts.done, 0, "{counts:?}");
    let all = DeadLetterQuery {
        delivery: None,
        destination: None,
        subscription: None,
        limit: 0,
    };
    for letter in service.store.dead_letters(&all).await.unwrap() {
        let said = letter.delivery.last_outcome.unwrap();
        assert!(said.starts_with("unroutable: "), "{said}");
        assert_eq!(letter.delivery.attempts, 3);
    }
    // Bound at last and redriven, they arrive.
    desk.bind("#").await;
    service.store.redrive(&all, SystemClock.now()).await.unwrap();
    service.until(|now| now.done == counts.dead).await;
    assert_eq!(desk.take_all().await.len() as u64, counts.dead);
    service.stop().await;
    desk.remove().await;
}
