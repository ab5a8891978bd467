//! How many requests a courier needs for what a naive poller, in the same run, needs one for each change: the poller that
//! the FHIR page describes searches for `_lastUpdated=gt[last seen]` and reads each record that it is shown.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::pipeline;
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{Ehr, Options};
use ehr_courier::store::memory::MemoryStore;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::front::Front;
use crate::composed;
use crate::composed::loopback;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_mins(1);

/// Both poll once a second, and so often so many records change.
const ROUNDS: usize = 12;
const CHANGES: usize = 40;

/// What both needed.
struct Counted {
    courier: usize,
    naive: usize,
    /// Of the courier's, searches for ids.
    together: usize,
}

fn configuration(source: &Url, hook: &Url, fetch: &str) -> String {
    format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{source}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[connections.mercy.feeds]]\nrecord = \"Patient\"\nfetch = \"{fetch}\"\ndetect = \"last-updated\"\n\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\ndestination = \"hook\"\n"
    )
}

/// Polls once; answers what it read and how far it has come.
async fn naive_poll(
    client: &reqwest::Client,
    base: &Url,
    last: String,
    read: &mut BTreeSet<String>,
) -> String {
    let json = async |url: Url| -> Value {
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let mut url = base.join("Patient").unwrap();
    url.set_query(Some(&format!(
        "_lastUpdated=gt{last}&_sort=_lastUpdated&_count=200"
    )));
    let page = json(url).await;
    let mut seen = last;
    for entry in page["entry"].as_array().into_iter().flatten() {
        let shown = &entry["resource"];
        let stamp = shown["meta"]["lastUpdated"].as_str().unwrap();
        seen = seen.max(stamp.to_owned());
        let id = shown["id"].as_str().unwrap();
        let record = json(base.join(&format!("Patient/{id}")).unwrap()).await;
        let version = record["meta"]["versionId"].as_str().unwrap();
        read.insert(format!("{id} {version}"));
    }
    seen
}

/// Waits until every version that was written has arrived.
async fn until_told(received: &mut mpsc::Receiver<Received>, written: &BTreeSet<String>) {
    let mut told = BTreeSet::new();
    while told != *written {
        let next = tokio::time::timeout(PATIENCE, received.recv()).await;
        let arrived = next.unwrap_or_else(|_| panic!("{} of {}", told.len(), written.len()));
        let event: Value = serde_json::from_slice(&arrived.unwrap().body).unwrap();
        let (subject, version) = (
            event["subject"].as_str().unwrap(),
            event["recordversion"].as_str().unwrap(),
        );
        let id = subject.rsplit('/').next().unwrap();
        told.insert(format!("{id} {}", version.trim_start_matches("v:")));
    }
}

async fn run(fetch: &str) -> Counted {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ((source, url), (hook_listener, hook)) = (loopback().await, loopback().await);
    let (naive_source, naive_url) = loopback().await;
    let ehr = Arc::new(Ehr::new(Options::new(7, url.clone()), Arc::clone(&clock)));
    let (front, naive_front) = (Front::new(&ehr, |_| (0, 0)), Front::new(&ehr, |_| (0, 0)));
    let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
    let text = configuration(&url, &hook, fetch);
    let config = composed::config(Path::new("courier.toml"), &text, &environment);
    let worker = app::compose(&config, Arc::new(MemoryStore::default()), Arc::clone(&clock)).unwrap();
    let worker = Arc::new(worker);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    front.serve(source, &mut tasks, &stop);
    naive_front.serve(naive_source, &mut tasks, &stop);
    let (sink, mut received) = mpsc::channel(4096);
    let keys = vec![SigningKey::parse(SECRET).unwrap()];
    let receiving = receiver::serve(hook_listener, keys, Arc::clone(&clock), sink, stop.clone());
    tasks.spawn(async move { receiving.await.unwrap() });
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });

    let connection = worker.connections.values().next().unwrap();
    let feed = &connection.feeds[0].spec.name;
    let deadline = Instant::now() + PATIENCE;
    while connection.condition(feed).unwrap().succeeded_at.is_none() {
        assert!(Instant::now() < deadline, "the first poll");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Both have begun; from here on they are counted.
    let before = front.count();
    // A poller by `gt` loses what shares the instant that it has come to.
    let begun = clock.now().checked_sub(Duration::from_secs(1)).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut last, mut read) = (begun.to_string(), BTreeSet::new());
    let mut written = BTreeSet::new();
    for round in 0..ROUNDS {
        for nth in 0..CHANGES {
            let body = format!(r#"{{"active":true,"multipleBirthInteger":{round}}}"#);
            let version = ehr.write("Patient", &format!("p-{nth}"), &body).unwrap();
            written.insert(format!("{} {}", version.id, version.version_id));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        last = naive_poll(&client, &naive_url, last, &mut read).await;
    }
    until_told(&mut received, &written).await;
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(
        read == written,
        "the naive poller has {} of {}",
        read.len(),
        written.len()
    );
    let arrivals = front.arrivals();
    Counted {
        courier: arrivals.len() - before,
        naive: naive_front.count(),
        together: arrivals[before..]
            .iter()
            .filter(|one| one.query.contains("_id="))
            .count(),
    }
}

fn say(what: &str, counted: &Counted) {
    let of_a_thousand = |count: usize| count * 1_000 / (ROUNDS * CHANGES);
    writeln!(
        std::io::stdout(),
        "{what}: {} requests for 1,000 changes, of which {} for several records; a naive poller {}",
        of_a_thousand(counted.courier),
        of_a_thousand(counted.together),
        of_a_thousand(counted.naive)
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_a_naive_pollers_requests_where_records_come_with_the_page() {
    let counted = run("page").await;
    say("records with the page", &counted);
    assert_eq!(counted.together, 0);
    assert!(counted.courier * 10 <= counted.naive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_of_a_naive_pollers_requests_where_records_are_read_by_their_ids() {
    let counted = run("read").await;
    say("records read by their ids", &counted);
    assert!(counted.together > 0);
    assert!(counted.courier * 3 <= counted.naive);
}
