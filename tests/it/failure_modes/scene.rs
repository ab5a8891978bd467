//! A sandbox over TCP, the courier that polls it into a store in memory, and a receiver: as fast as they go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use courier_sdk::{Clock, ConnectionName};
use data_encoding::HEXLOWER;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::pipeline;
use ehr_courier::pipeline::connection::Connection;
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Access, Dialect, Ehr, Faults, Options, Pace, SmartClient, parse_fault};
use ehr_courier::store::memory::MemoryStore;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::judge::{Arrived, Books, Said, Told};
use super::mode::{Due, Mode, Strategy, Struck};
use crate::composed::loopback;
use crate::{composed, smart};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The types that are followed.
pub(crate) const TYPES: [&str; 3] = ["Appointment", "Observation", "Patient"];

/// How often each is polled.
const EVERY: Duration = Duration::from_millis(200);

/// How far each poll looks back: longer than any lateness here, and shorter than what a mode lasts.
const OVERLAP: &str = "2s";

/// Answers have several pages.
const PAGE_ROWS: usize = 25;

/// And so have those about a few patients or ids.
const PAGE_ROWS_OF_A_LIST: usize = 3;

#[derive(Deserialize)]
struct Notified<'a> {
    id: String,
    subject: String,
    #[serde(rename = "type")]
    kind: String,
    reason: Option<String>,
    mergedinto: Option<String>,
    late: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// A source, the courier and a receiver.
pub(crate) struct Scene {
    pub(crate) ehr: Arc<Ehr>,
    pub(crate) worker: Arc<pipeline::Worker>,
    pub(crate) arrived: BTreeSet<Arrived>,
    /// Whether a version that a page shows can be had, even if it is replaced by the time it is read.
    pub(crate) each_as_shown: bool,
    /// Whether versions without a change are not told of.
    unchanged_untold: bool,
    /// The most that its strategy owes.
    pub(crate) due: Due,
    raised_at: Instant,
    received: mpsc::Receiver<Received>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn configuration(mode: &Mode, strategy: &Strategy, source: &Url, hook: &Url) -> String {
    let auth = if mode.tokens {
        "auth = { type = \"smart-backend-services\", client_id = \"courier\", key = \"file:client.pem\" }\n"
    } else {
        ""
    };
    let feed = |record_type: &str| {
        let ids = if strategy.feed == "detect = \"read\"" {
            format!("ids = \"file:{record_type}.txt\"\n")
        } else {
            String::new()
        };
        format!(
            "[[connections.clinic.feeds]]\nrecord = \"{record_type}\"\nstart = \"beginning\"\noverlap = \"{OVERLAP}\"\n{ids}{}\n",
            strategy.feed
        )
    };
    format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n\
         [connections.clinic]\nprofile = \"{}\"\nbase_url = \"{source}\"\nevery = \"1s\"\nreconcile = \"off\"\n{}{auth}\
         allow_networks = [\"127.0.0.0/8\"]\n{}\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n\
         [[subscriptions]]\nname = \"all\"\ncontent = \"full-resource\"\ndestination = \"hook\"\n",
        mode.profile,
        mode.connection,
        TYPES.map(feed).concat(),
    )
}

/// The faults of a mode, switched on together.
fn faults(mode: &Mode) -> Faults {
    let none = Faults::default();
    let with = |faults: Faults, text: &&str| faults.with(&parse_fault(text).unwrap()).unwrap();
    mode.faults.iter().fold(none, with)
}

/// Writes down the records that there are at the beginning, by type.
fn write_lists(ehr: &Ehr, strategy: &Strategy, folder: &Path) {
    if !strategy.by_list {
        return;
    }
    // A list needs somebody to name.
    for _ in 0..100 {
        ehr.step();
    }
    let kept = ehr.kept();
    for record_type in TYPES {
        let mut there: BTreeSet<&str> = BTreeSet::new();
        for version in kept.iter().filter(|it| it.record_type == record_type) {
            if version.deleted {
                there.remove(version.id.as_str());
            } else {
                there.insert(&version.id);
            }
        }
        let lines: Vec<&str> = there.into_iter().collect();
        std::fs::write(folder.join(format!("{record_type}.txt")), lines.join("\n")).unwrap();
    }
}

impl Scene {
    /// Raises it; the courier polls from the beginning.
    pub(crate) async fn raise(mode: &Mode, strategy: &Strategy) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (source, source_url) = loopback().await;
        let (hook, hook_url) = loopback().await;
        let pair = smart::elliptic();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("client.pem"), &pair.private).unwrap();
        let auth = if mode.tokens {
            Access::Smart(SmartClient::new("courier", &pair.public, Duration::from_mins(5)).unwrap())
        } else {
            Access::Open
        };
        let words = strategy.dialect.iter().chain(mode.dialect);
        let spoken = |dialect: Dialect, text: &&str| dialect.with(text).unwrap();
        let options = Options {
            page_size_max: if strategy.by_list {
                PAGE_ROWS_OF_A_LIST
            } else {
                PAGE_ROWS
            },
            patients: 30,
            auth,
            dialect: words.fold(Dialect::default(), spoken),
            ..Options::new(11, source_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
        if let Struck::Throughout = mode.struck {
            ehr.set_faults(faults(mode));
        }
        write_lists(&ehr, strategy, folder.path());
        let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
        let text = configuration(mode, strategy, &source_url, &hook_url);
        let config = composed::config(
            Path::new(&folder.path().join("courier.toml")),
            &text,
            &environment,
        );
        let store = Arc::new(MemoryStore::default());
        let mut worker = app::compose(&config, store, Arc::clone(&clock)).unwrap();
        for connection in worker.connections.values_mut() {
            for feed in &mut Arc::get_mut(connection).unwrap().feeds {
                feed.every = EVERY;
            }
        }
        worker.limits.fallback = Duration::from_millis(200);
        // The clinic deletes as much in a minute as others do in a week.
        worker.limits.usual_deletes = u64::MAX;
        let worker = Arc::new(worker);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = sandbox::serve(source, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
        tasks.spawn(async move { served.await.unwrap() });
        let (sink, received) = mpsc::channel(4_096);
        let keys = vec![SigningKey::parse(SECRET).unwrap()];
        let receiving = receiver::serve(hook, keys, clock, sink, stop.clone());
        tasks.spawn(async move { receiving.await.unwrap() });
        let running = pipeline::run(Arc::clone(&worker), stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        Self {
            ehr,
            worker,
            arrived: BTreeSet::new(),
            // What was shown by its id may be replaced by the time it is read, together with others.
            each_as_shown: !strategy.reads,
            unchanged_untold: mode.connection.contains("unchanged = \"suppress\""),
            due: Due::of(strategy),
            raised_at: Instant::now(),
            received,
            stop,
            tasks,
        }
    }

    /// Switches the faults of a mode on.
    pub(crate) fn strike(&self, mode: &Mode) {
        self.ehr.set_faults(faults(mode));
    }

    /// Switches all faults off.
    pub(crate) fn calm(&self) {
        self.ehr.set_faults(Faults::default());
    }

    /// Lets the clinic take steps, so far apart.
    pub(crate) async fn live(&mut self, steps: usize, apart: Duration) {
        for _ in 0..steps {
            self.ehr.step();
            tokio::time::sleep(apart).await;
            self.take_in();
        }
    }

    /// Waits until it holds, taking in what arrives; says whether it does.
    pub(crate) async fn holds_within(&mut self, patience: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.take_in();
            if holds(self) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether each feed has been polled to its end.
    pub(crate) fn is_polled(&self) -> bool {
        let connection = self.connection();
        connection.feeds.iter().all(|feed| {
            let condition = connection.condition(&feed.spec.name);
            condition.is_some_and(|condition| condition.succeeded_at.is_some())
        })
    }

    /// The books about some types, as they stand now.
    pub(crate) fn books(&self, types: &[&str]) -> Books {
        Books::of(&self.ehr, types, SystemClock.now())
    }

    /// What must have arrived and has not.
    pub(crate) fn lost(&self, due: Due) -> Vec<String> {
        let books = self.books(&TYPES);
        if self.unchanged_untold {
            books.lost(due, self.each_as_shown, &books.with_repetitions(&self.arrived))
        } else {
            books.lost(due, self.each_as_shown, &self.arrived)
        }
    }

    /// What arrived and never was, says something else than its record, or should not have been told of.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let books = self.books(&TYPES);
        let mut wrong = books.phantom(&self.arrived);
        wrong.extend(books.misunderstood(&self.arrived));
        if self.unchanged_untold {
            wrong.extend(books.repeated(&self.arrived));
        }
        wrong
    }

    /// Whether an event of this kind, or with this reason, has arrived.
    pub(crate) fn has_heard(&self, word: &str) -> bool {
        let says = |told: &Told| told.kind == word || told.reason.as_deref() == Some(word);
        self.arrived.iter().any(|it| says(&it.told))
    }

    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.raised_at.elapsed()
    }

    /// How often a fault struck.
    pub(crate) fn strikes(&self, fault: &str) -> u64 {
        self.ehr.strikes().get(fault).copied().unwrap_or_default()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.worker.connections[&ConnectionName::parse("clinic").unwrap()]
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    fn take_in(&mut self) {
        while let Ok(received) = self.received.try_recv() {
            let told: Notified<'_> = serde_json::from_slice(&received.body).unwrap();
            let kind = told.kind.rsplit('.').next().unwrap_or_default().to_owned();
            let deleted = kind == "deleted";
            let said = |text: &RawValue| Said::of(&serde_json::from_str(text.get()).unwrap());
            let sha256 = |text: &RawValue| {
                HEXLOWER.encode(digest::digest(&digest::SHA256, text.get().as_bytes()).as_ref())
            };
            self.arrived.insert(Arrived {
                event_id: told.id,
                subject: told.subject,
                sha256: told.data.filter(|_| !deleted).map(sha256),
                told: Told {
                    kind,
                    reason: told.reason,
                    merged_into: told.mergedinto,
                    late: told.late.unwrap_or_default(),
                },
                said: told.data.map(said).unwrap_or_default(),
            });
        }
    }
}
