//! The test itself.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::book::Book;
use crate::checker::Verdict;
use crate::courier::{Courier, Life};
use crate::judge::{Judge, Way};
use crate::proxy::Proxy;
use crate::queue::{self, Queue};
use crate::receiver::{Manner, Receiver};
use crate::server::{Product, Server};
use crate::writer::{self, Plan};

const CONNECTION: &str = "clinic";
const FEEDS: [(&str, &str); 3] = [
    ("Patient", "page"),
    ("Observation", "page"),
    ("Appointment", "read"),
];
/// The courier is started once.
const ONLY_LIFE: u64 = 1;
const CHANGES: u64 = 20_000;
/// A sweep comes after a minute, a record that it misses is read twice within another, and the machine may be loaded.
const PATIENCE: Duration = Duration::from_mins(6);
const GRACE: Duration = Duration::from_secs(25);

/// The parts of the run.
struct Stage {
    product: Product,
    way: Way,
    proxy: Arc<Proxy>,
    receiver: Arc<Receiver>,
    queue: Arc<Queue>,
    book: Book,
}

#[test]
fn every_version_that_was_current_at_a_poll_of_a_real_server_arrives_in_order_and_once() {
    run(Product::Helios, Way::Search);
}

#[test]
fn every_version_and_every_delete_in_the_history_of_a_real_server_arrives_in_order_and_once() {
    run(Product::Helios, Way::History);
}

#[test]
fn nothing_is_lost_of_a_real_server_without_history_links_and_tombstones() {
    run(Product::Medplum, Way::Search);
}

fn run(product: Product, way: Way) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let plan = plan(product, way);
    let proxy = Proxy::start(runtime.handle());
    let server = Server::start(product, Some(&proxy.url));
    proxy.set_upstream(server.url.clone());
    let receiver = Receiver::start(
        runtime.handle(),
        Manner {
            delay_ms_max: 3,
            refusals: 0.0,
        },
        plan.seed,
    );
    let queue = Queue::start(runtime.handle(), "amqp");
    let environment = vec![("BROKER_URL", queue::address())];
    let configuration = configuration((product, way), &proxy, &receiver, &queue);
    let courier = Courier::new(&configuration, environment);
    let mut life = courier.run();
    await_baselines(&proxy, &courier);
    let began = Instant::now();
    let book = runtime.block_on(writer::write(server.url.clone(), plan));
    let wrote_for = began.elapsed();
    let stage = Stage {
        product,
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
    stage.report(plan.seed, (wrote_for, began.elapsed()), &verdicts);
    let findings: Vec<String> = verdicts
        .iter()
        .filter_map(|(name, verdict)| Some(format!("{name}: {}", verdict.describe()?)))
        .collect();
    if !findings.is_empty() {
        let tail = courier.log_tail();
        panic!("INTEROP_SEED={}\n{}\n{tail}", plan.seed, findings.join("\n"));
    }
    assert_eq!(stage.receiver.forged(), 0, "signatures that do not fit");
    assert!(stage.book.changes() >= plan.changes);
    for (name, verdict) in &verdicts {
        assert!(verdict.deletes > 0, "no delete was told to {name}");
    }
    if product == Product::Medplum {
        let larger = stage.proxy.noted().larger;
        assert!(larger > 0, "no sweep asked for a page above a type's size");
    }
}

impl Stage {
    /// Judges what arrived at the webhook and at the queue, each by itself.
    fn judge(&self) -> Vec<(&'static str, Verdict)> {
        let judge = Judge {
            way: self.way,
            connection: CONNECTION,
            book: &self.book,
            proxy: &self.proxy,
            is_read: |record_type| FEEDS.contains(&(record_type, "read")),
        };
        vec![
            ("webhook", judge.judge(&self.receiver.arrivals())),
            ("amqp", judge.judge(&self.queue.arrivals())),
        ]
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

    fn report(&self, seed: u64, (wrote_for, took): (Duration, Duration), verdicts: &[(&str, Verdict)]) {
        let (journal, noted) = (self.proxy.journal(), self.proxy.noted());
        let polls: u64 = journal.searches().values().sum();
        let versions = self.book.versions();
        let unseen = versions.difference(journal.shown()).count();
        let mut text = format!(
            "interop: {} by {:?}, seed {seed}, {took:.0?}\n  wrote {} changes in {wrote_for:.1?}: {} versions of {} \
             records, {} deletes ({} of records that a sweep had listed), {} transactions of 200\n  {} requests, {polls} of them polls' pages, {} of larger \
             pages than usual; current at a poll: {}; overwritten between two polls: {unseen}; known byte for byte: {}",
            self.product.name(),
            self.way,
            self.book.changes(),
            versions.len(),
            self.book.records(),
            self.book.deleted.len(),
            self.book.deleted.intersection(&noted.swept).count(),
            self.book.transactions,
            noted.requests,
            noted.larger,
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

fn plan(product: Product, way: Way) -> Plan {
    Plan {
        changes: usize::try_from(said("INTEROP_CHANGES", CHANGES)).unwrap(),
        transactions: product == Product::Helios,
        // Without a history one delete in twenty reads is as much as is believed at once.
        deletes: if way == Way::History { 5 } else { 1 },
        seed: said("INTEROP_SEED", 7),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how much is written, and what, is said by the environment"
)]
fn said(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
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

fn configuration(
    (product, way): (Product, Way),
    proxy: &Proxy,
    receiver: &Receiver,
    queue: &Queue,
) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        r#"
[state]
url = "sqlite://courier.db"
key = "none"

[http]
listen = "127.0.0.1:0"

[connections.{CONNECTION}]
profile = "{profile}"
base_url = "{source}"
every = "1s"
reconcile = "{reconcile}"
limits = {{ concurrent = 4 }}
allow_networks = ["127.0.0.0/8"]
"#,
        profile = product.profile(),
        source = proxy.url,
        // A history tells deletes itself.
        reconcile = if way == Way::History { "off" } else { "1m" },
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
