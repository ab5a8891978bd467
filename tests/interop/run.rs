//! The test itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::checker::{self, Content, Facts, Shown, Verdict};
use crate::courier::{Courier, Life};
use crate::journal::Version;
use crate::proxy::Proxy;
use crate::queue::{self, Queue};
use crate::receiver::{Arrival, Manner, Receiver};
use crate::server::Server;
use crate::writer::{self, Book};

const CONNECTION: &str = "helios";
const FEEDS: [(&str, &str); 3] = [
    ("Patient", "page"),
    ("Observation", "page"),
    ("Appointment", "read"),
];
/// The courier is started once.
const ONLY_LIFE: u64 = 1;
const WRITES_MIN: usize = 5_000;
const PATIENCE: Duration = Duration::from_mins(3);
const GRACE: Duration = Duration::from_secs(25);

/// How the courier finds changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By `_lastUpdated` search: what was overwritten between two polls is not seen.
    Search,
    /// By the server's history, as `auto` finds out: every version and every delete.
    History,
}

/// The parts of the run.
struct Stage {
    way: Way,
    proxy: Arc<Proxy>,
    receiver: Arc<Receiver>,
    queue: Arc<Queue>,
    book: Book,
}

#[test]
fn every_version_that_was_current_at_a_poll_of_a_real_server_arrives_in_order_and_once() {
    run(Way::Search);
}

#[test]
fn every_version_and_every_delete_in_the_history_of_a_real_server_arrives_in_order_and_once() {
    run(Way::History);
}

fn run(way: Way) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let seed = seed();
    let proxy = Proxy::start(runtime.handle());
    let server = Server::start(&proxy.url);
    proxy.set_upstream(server.url.clone());
    let receiver = Receiver::start(
        runtime.handle(),
        Manner {
            delay_ms_max: 3,
            refusals: 0.0,
        },
        seed,
    );
    let queue = Queue::start(runtime.handle(), "amqp");
    let environment = vec![("BROKER_URL", queue::address())];
    let courier = Courier::new(&configuration(way, &proxy, &receiver, &queue), environment);
    let mut life = courier.run();
    await_baselines(&proxy, &courier);
    let began = Instant::now();
    let book = runtime.block_on(writer::write(server.url.clone(), seed));
    let wrote_for = began.elapsed();
    let stage = Stage {
        way,
        proxy,
        receiver,
        queue,
        book,
    };
    stage.become_quiet(&mut life, &courier);
    let (status, _) = life.terminate(GRACE);
    assert_eq!(status.code(), Some(0), "SIGTERM:\n{}", courier.log_tail());
    let verdicts = stage.judge();
    stage.report(seed, wrote_for, &verdicts);
    let findings: Vec<String> = verdicts
        .iter()
        .filter_map(|(name, verdict)| Some(format!("{name}: {}", verdict.describe()?)))
        .collect();
    if !findings.is_empty() {
        let tail = courier.log_tail();
        panic!("INTEROP_SEED={seed}\n{}\n{tail}", findings.join("\n"));
    }
    assert_eq!(stage.receiver.forged(), 0, "signatures that do not fit");
    assert!(
        stage.book.versions.len() >= WRITES_MIN,
        "{} writes are too few",
        stage.book.versions.len()
    );
}

impl Stage {
    /// What must arrive: with a history everything; else what a poll's page showed, and every living record's last
    /// version.
    fn due(&self) -> BTreeSet<Version> {
        if self.way == Way::History {
            return self.book.versions.clone();
        }
        let living = self
            .book
            .newest
            .iter()
            .filter(|(record, _)| !self.book.deleted.contains(*record));
        let last =
            living.map(|((record_type, id), version)| (record_type.clone(), id.clone(), version.to_string()));
        self.proxy
            .journal()
            .proven()
            .iter()
            .cloned()
            .chain(last)
            .collect()
    }

    /// Judges what arrived at the webhook and at the queue, each by itself.
    fn judge(&self) -> Vec<(&'static str, Verdict)> {
        let judge = |arrivals: &[Arrival]| self.judge_arrivals(arrivals);
        vec![
            ("webhook", judge(&self.receiver.arrivals())),
            ("amqp", judge(&self.queue.arrivals())),
        ]
    }

    fn judge_arrivals(&self, arrivals: &[Arrival]) -> Verdict {
        let sums = self.proxy.journal().sums().clone();
        let sum = |version: &Version| sums.get(version).cloned().flatten();
        let shown: Shown = self
            .book
            .versions
            .iter()
            .map(|version| (version.clone(), sum(version)))
            .collect();
        let due = self.due();
        let deletes = BTreeSet::new();
        let gone = &self.book.deleted;
        let facts = Facts {
            connection: CONNECTION,
            shown: &shown,
            deletes: &deletes,
            due: &due,
            gone,
            killed: &BTreeSet::new(),
        };
        let mut verdict = checker::judge(
            &facts,
            Content::FullResource,
            &arrivals.iter().collect::<Vec<_>>(),
        );
        if self.way == Way::History {
            self.judge_deletes(arrivals, &mut verdict);
        }
        verdict
    }

    /// A history shows each delete, after all versions of its record, and nothing late.
    fn judge_deletes(&self, arrivals: &[Arrival], verdict: &mut Verdict) {
        let mut last = BTreeMap::new();
        for arrival in arrivals {
            let body: serde_json::Value = serde_json::from_slice(&arrival.body).unwrap();
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            last.insert(text("subject"), text("type"));
        }
        for (record_type, id) in &self.book.deleted {
            let subject = format!("{record_type}/{id}");
            if last.get(&subject).map(String::as_str) != Some("ehr.record.deleted") {
                verdict
                    .lost
                    .push((record_type.clone(), id.clone(), "delete".to_owned()));
            }
        }
        if verdict.deletes != self.book.deleted.len() && verdict.lost.is_empty() {
            verdict
                .problems
                .push(format!("{} deletes arrived", verdict.deletes));
        }
        if verdict.late > 0 {
            verdict
                .problems
                .push(format!("order: {} events came late", verdict.late));
        }
    }

    /// Waits until all that must arrive has arrived, and nothing more comes over a few polls.
    fn become_quiet(&self, life: &mut Life, courier: &Courier) {
        let deadline = Instant::now() + PATIENCE;
        let (mut arrived, mut still) = (0, 0);
        while still < 4 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1_500));
            assert!(
                life.lives(),
                "the courier ended by itself:\n{}",
                courier.log_tail()
            );
            let now = self.receiver.count() + self.queue.count();
            let complete = now == arrived && self.judge().iter().all(|(_, verdict)| verdict.lost.is_empty());
            still = if complete { still + 1 } else { 0 };
            arrived = now;
        }
    }

    fn report(&self, seed: u64, wrote_for: Duration, verdicts: &[(&str, Verdict)]) {
        let journal = self.proxy.journal();
        let polls: u64 = journal.searches().values().sum();
        let unseen = self.book.versions.difference(journal.shown()).count();
        let mut text = format!(
            "interop: helios-hfs 0.2.7 by {:?}, seed {seed}\n  wrote {} versions of {} records in {wrote_for:.1?}: \
             {} transactions of 200, {} deletes\n  {polls} searches; current at a poll: {}; \
             overwritten between two polls: {unseen}; records known byte for byte: {}",
            self.way,
            self.book.versions.len(),
            self.book.newest.len(),
            self.book.transactions,
            self.book.deleted.len(),
            journal.proven().len(),
            journal.sums().values().flatten().count(),
        );
        for (name, verdict) in verdicts {
            text.push_str(&arrived(name, verdict));
        }
        writeln!(std::io::stderr(), "{text}").unwrap();
    }
}

/// One destination's line of the report.
fn arrived(name: &str, verdict: &Verdict) -> String {
    let count = |words: &str| {
        let problems = verdict.problems.iter();
        problems.filter(|problem| problem.contains(words)).count()
    };
    let (phantom, order, again) = (count("phantom: "), count("order: "), count(" came again "));
    format!(
        "\n  {name}: arrived {}, lost {}, phantom {phantom}, out of order {order}, duplicates {again}, \
         other findings {}; late {}, deletes {}",
        verdict.arrived(),
        verdict.lost.len(),
        verdict.problems.len() - phantom - order - again,
        verdict.late,
        verdict.deletes,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "which writes to draw is said by the environment"
)]
fn seed() -> u64 {
    std::env::var("INTEROP_SEED").map_or(7, |text| text.parse().unwrap())
}

/// Waits until every feed was polled: what is written from now on is written after its baseline.
fn await_baselines(proxy: &Proxy, courier: &Courier) {
    let deadline = Instant::now() + PATIENCE;
    // A second request of a feed proves that the first was handed over.
    while FEEDS.iter().any(|(record, _)| {
        proxy
            .journal()
            .searches()
            .get(*record)
            .is_none_or(|polls| *polls < 2)
    }) {
        assert!(Instant::now() < deadline, "no polls:\n{}", courier.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn configuration(way: Way, proxy: &Proxy, receiver: &Receiver, queue: &Queue) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        r#"
[state]
url = "sqlite://courier.db"
key = "none"

[http]
listen = "127.0.0.1:0"

[connections.{CONNECTION}]
profile = "helios"
base_url = "{source}"
every = "1s"
reconcile = "off"
limits = {{ concurrent = 4 }}
allow_networks = ["127.0.0.0/8"]
"#,
        source = proxy.url
    );
    for (name, destination) in [
        ("webhook", receiver.destination("webhook", ONLY_LIFE)),
        ("amqp", queue.destination(ONLY_LIFE)),
    ] {
        write!(
            text,
            "\n[destinations.{name}]\n{destination}\n[[subscriptions]]\nname = \"{name}\"\n\
             connections = [\"{CONNECTION}\"]\ntopic = \"*\"\ncontent = \"full-resource\"\ndestination = \"{name}\"\n"
        )
        .unwrap();
    }
    for (record, fetch) in FEEDS {
        // A history brings each record along.
        let (detect, fetch) = match way {
            Way::Search => ("last-updated", fetch),
            Way::History => ("auto", "page"),
        };
        write!(
            text,
            "\n[[connections.{CONNECTION}.feeds]]\nrecord = \"{record}\"\nfetch = \"{fetch}\"\n\
             start = \"beginning\"\noverlap = \"20s\"\ndetect = \"{detect}\"\n"
        )
        .unwrap();
    }
    text
}
