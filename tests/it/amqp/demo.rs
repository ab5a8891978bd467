//! `demo --amqp`: what it says was confirmed is what waits in the queue that it names.

use std::collections::BTreeSet;
use std::process::Stdio;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use tokio::process::Command;
use tokio::time::timeout;

use super::{PATIENCE, login, shared_broker, take_all};

#[tokio::test]
async fn the_demo_publishes_to_a_broker_and_counts_its_confirms() {
    let broker = shared_broker();
    let (channel, _connection) = login(&broker).await;
    let clean = async || {
        // What an earlier trial left behind is not this one's.
        let queue = channel.queue_delete("ehr.demo".into(), QueueDeleteOptions::default());
        queue.await.unwrap();
        let exchange = channel.exchange_delete("ehr.demo".into(), ExchangeDeleteOptions::default());
        exchange.await.unwrap();
    };
    clean().await;
    let demo = Command::new(env!("CARGO_BIN_EXE_ehr-courier"))
        .args(["demo", "--events", "8", "--json", "--amqp", broker.as_str()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, demo).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shown: BTreeSet<String> = lines
        .iter()
        .filter_map(|line| line["id"].as_str().map(str::to_owned))
        .collect();
    let summary = lines.last().unwrap();
    assert_eq!(summary["confirmed"], summary["shown"], "{summary}");
    assert!(shown.len() >= 8, "{shown:?}");
    let queued: BTreeSet<String> = take_all(&channel, "ehr.demo").await.into_keys().collect();
    assert_eq!(queued, shown);
    clean().await;
}
