//! What an EHR must not be able to do with an answer: each of these fails that poll only, with the cursor unmoved, while
//! another connection goes on; and what changed meanwhile arrives once the source recovers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName, Cursor, FeedName};
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Ehr, Faults, Options, Pace, parse_fault};
use ehr_courier::store::Store as _;
use ehr_courier::store::memory::MemoryStore;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::composed::{self, loopback};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_mins(1);

/// A hostile and a well-behaved source, polled by one courier.
struct Scene {
    hostile: Arc<Ehr>,
    good: Arc<Ehr>,
    store: MemoryStore,
    worker: Arc<Worker>,
    received: mpsc::Receiver<Received>,
    seen: BTreeSet<String>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn configuration(hostile: &Url, good: &Url, hook: &Url) -> String {
    let connection = |name: &str, url: &Url| {
        format!(
            "[connections.{name}]\nconnector = \"fhir\"\nprofile = \"sandbox\"\nbase_url = \"{url}\"\nevery = \"1s\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n[[connections.{name}.feeds]]\nrecord = \"Patient\"\n"
        )
    };
    format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n{}{}\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\ndestination = \"hook\"\n",
        connection("hostile", hostile),
        connection("good", good),
    )
}

impl Scene {
    async fn raise() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (hostile_listener, hostile_url) = loopback().await;
        let (good_listener, good_url) = loopback().await;
        let (hook_listener, hook_url) = loopback().await;
        let ehr = |seed, url: &Url| Arc::new(Ehr::new(Options::new(seed, url.clone()), Arc::clone(&clock)));
        let (hostile, good) = (ehr(1, &hostile_url), ehr(2, &good_url));
        let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
        let text = configuration(&hostile_url, &good_url, &hook_url);
        let config = composed::config(Path::new("courier.toml"), &text, &environment);
        let store = MemoryStore::default();
        let worker = Arc::new(app::compose(&config, Arc::new(store.clone()), Arc::clone(&clock)).unwrap());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (listener, ehr) in [(hostile_listener, &hostile), (good_listener, &good)] {
            let served = sandbox::serve(listener, Arc::clone(ehr), Pace::per_second(0.0), stop.clone());
            tasks.spawn(async move { served.await.unwrap() });
        }
        let (sink, received) = mpsc::channel(1024);
        let receiving = receiver::serve(
            hook_listener,
            vec![SigningKey::parse(SECRET).unwrap()],
            clock,
            sink,
            stop.clone(),
        );
        tasks.spawn(async move { receiving.await.unwrap() });
        let running = pipeline::run(Arc::clone(&worker), stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        Self {
            hostile,
            good,
            store,
            worker,
            received,
            seen: BTreeSet::new(),
            stop,
            tasks,
        }
    }

    async fn cursor(&self, connection: &str) -> Option<Cursor> {
        let (connection, feed) = (
            ConnectionName::parse(connection).unwrap(),
            FeedName::parse("Patient").unwrap(),
        );
        self.store.feed(&connection, &feed).await.unwrap().cursor
    }

    fn failures(&self, connection: &str) -> u32 {
        let connection = &self.worker.connections[&ConnectionName::parse(connection).unwrap()];
        connection
            .condition(&FeedName::parse("Patient").unwrap())
            .unwrap()
            .failures
    }

    /// Waits until `holds`, taking in what arrives meanwhile.
    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(
                tokio::time::Instant::now() < deadline,
                "gave up waiting until {what}"
            );
            if let Ok(Some(received)) =
                tokio::time::timeout(Duration::from_millis(50), self.received.recv()).await
            {
                let event: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
                let (source, subject) = (
                    event["source"].as_str().unwrap(),
                    event["subject"].as_str().unwrap(),
                );
                self.seen.insert(format!(
                    "{source} {subject} {}",
                    event["recordversion"].as_str().unwrap()
                ));
            }
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn write(ehr: &Ehr, id: &str) {
    ehr.write("Patient", id, r#"{"active":true}"#).unwrap();
}

fn arrived(scene: &Scene, connection: &str, id: &str) -> bool {
    scene
        .seen
        .contains(&format!("/connections/{connection} Patient/{id} 1"))
}

async fn check(fault: &str) {
    let mut scene = Scene::raise().await;
    scene
        .until("both are polled", async |s| {
            s.cursor("hostile").await.is_some() && s.cursor("good").await.is_some()
        })
        .await;
    let before = scene.cursor("hostile").await;

    scene
        .hostile
        .set_faults(Faults::default().with(&parse_fault(fault).unwrap()).unwrap());
    write(&scene.hostile, "changed-meanwhile");
    scene
        .until("a poll failed", async |s| s.failures("hostile") > 0)
        .await;
    write(&scene.good, "elsewhere");
    scene
        .until("the other connection went on", async |s| {
            arrived(s, "good", "elsewhere")
        })
        .await;
    assert_eq!(
        scene.cursor("hostile").await,
        before,
        "the cursor moved under {fault}"
    );
    assert!(
        !arrived(&scene, "hostile", "changed-meanwhile"),
        "{fault} was read as an answer"
    );

    scene.hostile.set_faults(Faults::default());
    scene
        .until("the source recovered", async |s| {
            arrived(s, "hostile", "changed-meanwhile")
        })
        .await;
    assert_eq!(scene.failures("good"), 0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_fails_that_poll_only() {
    check("malformed=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_fails_that_poll_only() {
    check("truncated=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_above_the_page_limit_fails_that_poll_only() {
    check("oversized=1,bytes=71303168").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_ten_thousand_levels_fails_that_poll_only() {
    check("deep=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_fails_that_poll_only() {
    check("gzip_bomb=1").await;
}
