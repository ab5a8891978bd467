//! A sandbox over TCP, the courier that polls it into a memory store, and a receiver of what it tells.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName};
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::pipeline;
use ehr_courier::pipeline::connection::Connection;
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use ehr_courier::store::memory::MemoryStore;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::composed::{self, loopback};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_mins(1);

/// A clinic, the courier, and a receiver.
pub(crate) struct Scene {
    pub(crate) ehr: Arc<Ehr>,
    pub(crate) worker: Arc<pipeline::Worker>,
    received: mpsc::Receiver<Received>,
    /// Each notification in order: subject, kind, version, and its body.
    pub(crate) arrived: Vec<(String, String, String, Vec<u8>)>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn configuration(source: &Url, hook: &Url, feed: &str) -> String {
    format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n\
         [connections.clinic]\nprofile = \"sandbox\"\nbase_url = \"{source}\"\nevery = \"1s\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[connections.clinic.feeds]]\n{feed}\n\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n\
         [[subscriptions]]\nname = \"all\"\ncontent = \"full-resource\"\ndestination = \"hook\"\n"
    )
}

impl Scene {
    pub(crate) async fn raise(
        feed: &str,
        page_size_max: usize,
        limits: impl FnOnce(Limits) -> Limits,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (source, source_url) = loopback().await;
        let (hook, hook_url) = loopback().await;
        let options = Options {
            page_size_max,
            patients: 1,
            ..Options::new(1, source_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
        let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
        let text = configuration(&source_url, &hook_url, feed);
        let config = composed::config(Path::new("courier.toml"), &text, &environment);
        let store = Arc::new(MemoryStore::default());
        let mut worker = app::compose(&config, store, Arc::clone(&clock)).unwrap();
        worker.limits = limits(worker.limits);
        let worker = Arc::new(worker);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = sandbox::serve(source, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
        tasks.spawn(async move { served.await.unwrap() });
        let (sink, received) = mpsc::channel(1024);
        let keys = vec![SigningKey::parse(SECRET).unwrap()];
        let receiving = receiver::serve(hook, keys, clock, sink, stop.clone());
        tasks.spawn(async move { receiving.await.unwrap() });
        let running = pipeline::run(Arc::clone(&worker), stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        let mut scene = Self {
            ehr,
            worker,
            received,
            arrived: Vec::new(),
            stop,
            tasks,
        };
        scene.until("the first poll", Scene::polled).await;
        scene
    }

    fn connection(&self) -> &Connection {
        &self.worker.connections[&ConnectionName::parse("clinic").unwrap()]
    }

    fn polled(&self) -> bool {
        let feed = &self.connection().feeds[0].spec.name;
        let condition = self.connection().condition(feed);
        condition.is_some_and(|condition| condition.succeeded_at.is_some())
    }

    /// Waits until `holds`, taking in what arrives meanwhile.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "gave up waiting for {what}"
            );
            let next = tokio::time::timeout(Duration::from_millis(50), self.received.recv()).await;
            if let Ok(Some(received)) = next {
                let event: Value = serde_json::from_slice(&received.body).unwrap();
                let text = |name: &str| event[name].as_str().unwrap().to_owned();
                let kind = text("type").replace("ehr.record.", "");
                let (subject, version) = (text("subject"), text("recordversion"));
                self.arrived
                    .push((subject, kind, version, received.body.to_vec()));
            }
        }
    }

    pub(crate) fn versions_of(&self, subject: &str) -> Vec<String> {
        let own = self.arrived.iter().filter(|(other, ..)| other == subject);
        own.map(|(_, kind, version, _)| format!("{kind} {version}"))
            .collect()
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
