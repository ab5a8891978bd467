//! A whole courier on a file of its own, a sandbox EHR, a webhook receiver, and a Redis in front of the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::{Clock, ConnectionName};
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::dedup::Dedup;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::domain::identity::EventId;
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::server::PATIENCE;
use crate::composed::{self, loopback};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Counts what a deduplication was asked and what it knew.
pub(super) struct Counted {
    inner: Arc<dyn Dedup>,
    pub(super) asked: AtomicU64,
    pub(super) hits: AtomicU64,
}

#[async_trait]
impl Dedup for Counted {
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        let seen = self.inner.seen(connection, ids).await;
        let hits = seen.iter().filter(|seen| **seen).count();
        self.asked.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        seen
    }

    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]) {
        self.inner.mark(connection, ids).await;
    }

    async fn forget(&self, connection: &ConnectionName, ids: &[EventId]) {
        self.inner.forget(connection, ids).await;
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
}

/// A record version, as a receiver tells them apart.
type VersionName = (String, String);

pub(super) struct Scene {
    pub(super) ehr: Arc<Ehr>,
    pub(super) worker: Arc<Worker>,
    pub(super) dedup: Arc<Counted>,
    received: mpsc::Receiver<Received>,
    arrivals: BTreeMap<VersionName, u64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _folder: TempDir,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) shown: usize,
    pub(super) lost: usize,
    pub(super) duplicated: u64,
    pub(super) spared: u64,
    pub(super) asked: u64,
}

fn configuration(folder: &Path, ehr: &Url, hook: &Url, redis: &str) -> String {
    let database = folder.join("courier.db");
    format!(
        "[state]\nurl = \"sqlite://{}\"\nkey = \"none\"\n[dedup]\nurl = \"{redis}\"\n\
         [connections.mercy]\nprofile = \"sandbox\"\nbase_url = \"{ehr}\"\nevery = \"1s\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n\
         [[connections.mercy.feeds]]\nrecord = \"Patient\"\nstart = \"beginning\"\n\
         [[connections.mercy.feeds]]\nrecord = \"Appointment\"\nstart = \"beginning\"\n\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\ndestination = \"hook\"\nfrom = \"beginning\"\n",
        database.display()
    )
}

impl Scene {
    /// Raises a courier on a new file before a given source.
    pub(super) async fn raise(redis: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (ehr_listener, ehr_url) = loopback().await;
        let (hook_listener, hook_url) = loopback().await;
        let ehr = Arc::new(Ehr::new(Options::new(7, ehr_url.clone()), Arc::clone(&clock)));
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
        let text = configuration(folder.path(), &ehr_url, &hook_url, redis);
        let config = composed::config(Path::new("courier.toml"), &text, &environment);
        let store = Arc::new(SqliteStore::open(&config.state.database, OpenMode::Service).unwrap());
        let dedup = Arc::new(Counted {
            inner: app::dedup(&config.dedup, store.as_ref()).await.unwrap(),
            asked: AtomicU64::default(),
            hits: AtomicU64::default(),
        });
        let mut worker = app::compose(&config, store, Arc::clone(&clock)).unwrap();
        worker.dedup = Arc::clone(&dedup) as Arc<dyn Dedup>;
        let worker = Arc::new(worker);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let served = sandbox::serve(
            ehr_listener,
            Arc::clone(&ehr),
            Pace::per_second(0.0),
            stop.clone(),
        );
        tasks.spawn(async move { served.await.unwrap() });
        let (sink, received) = mpsc::channel(1024);
        let keys = vec![SigningKey::parse(SECRET).unwrap()];
        let receiving = receiver::serve(hook_listener, keys, clock, sink, stop.clone());
        tasks.spawn(async move { receiving.await.unwrap() });
        let running = pipeline::run(Arc::clone(&worker), stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        Self {
            ehr,
            worker,
            dedup,
            received,
            arrivals: BTreeMap::new(),
            stop,
            tasks,
            _folder: folder,
        }
    }

    /// Lets the clinic go on by a few changes.
    pub(super) fn go_on(&self, changes: usize) {
        for _ in 0..changes {
            self.ehr.step();
        }
    }

    /// Waits until `holds`, taking in what arrives meanwhile.
    pub(super) async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "gave up waiting until {what}"
            );
            let next = tokio::time::timeout(Duration::from_millis(50), self.received.recv()).await;
            if let Ok(Some(received)) = next {
                let event: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
                let text = |name: &str| event[name].as_str().unwrap().to_owned();
                *self
                    .arrivals
                    .entry((text("subject"), text("recordversion")))
                    .or_default() += 1;
            }
        }
    }

    /// Waits until all that was ever shown, and a record that is written now, has arrived.
    pub(super) async fn until_all_arrived(&mut self) {
        let written = self
            .ehr
            .write("Patient", "sentinel", r#"{"active":true}"#)
            .unwrap();
        let name = (
            format!("{}/{}", written.record_type, written.id),
            written.version_id,
        );
        let arrived = |scene: &Self| scene.arrivals.contains_key(&name) && scene.missing() == 0;
        self.until("all that was shown arrived", arrived).await;
    }

    /// Waits until Redis spares look-ups again.
    pub(super) async fn until_spared(&mut self) {
        let before = self.dedup.hits.load(Ordering::Relaxed);
        let spared = |scene: &Self| scene.dedup.hits.load(Ordering::Relaxed) > before;
        self.until("redis knew an id", spared).await;
    }

    fn shown(&self) -> Vec<VersionName> {
        let ledger = self.ehr.ledger();
        ledger
            .into_iter()
            .map(|shown| (format!("{}/{}", shown.record_type, shown.id), shown.version_id))
            .filter(|(subject, _)| subject.starts_with("Patient/") || subject.starts_with("Appointment/"))
            .collect()
    }

    fn missing(&self) -> usize {
        let shown = self.shown();
        shown
            .iter()
            .filter(|name| !self.arrivals.contains_key(name))
            .count()
    }

    /// Ends the courier and counts.
    pub(super) async fn end(mut self) -> Outcome {
        self.until_all_arrived().await;
        // Two more polls: what would be announced twice would be announced now.
        self.until_spared().await;
        self.until_spared().await;
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        // The receiver has ended: nothing waits but what it took in.
        while let Ok(received) = self.received.try_recv() {
            let event: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            *self
                .arrivals
                .entry((text("subject"), text("recordversion")))
                .or_default() += 1;
        }
        Outcome {
            shown: self.shown().len(),
            lost: self.missing(),
            duplicated: self.arrivals.values().map(|times| times - 1).sum(),
            spared: self.dedup.hits.load(Ordering::Relaxed),
            asked: self.dedup.asked.load(Ordering::Relaxed),
        }
    }
}
