//! A source, a courier, a receiver and a queue, and the judgement over what went between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ehr_courier::sandbox::Faults;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::checker::{self, Content, Facts, Shown, Verdict};
use crate::courier::{Courier, Life};
use crate::journal::Version;
use crate::queue::{self, Queue};
use crate::receiver::{Arrival, Manner, Receiver};
use crate::redis;
use crate::source::{LIFE, Source};

const CONNECTION: &str = "clinic";

/// The subscriptions: their names, what they carry, and the kind of destination that each has for itself.
const SUBSCRIPTIONS: [(&str, Content, Kind); 3] = [
    ("references", Content::IdOnly, Kind::Webhook),
    ("records", Content::FullResource, Kind::Webhook),
    (QUEUED, Content::FullResource, Kind::Amqp),
];

/// The subscription that the queue gets.
const QUEUED: &str = "messages";

/// A kind of destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The receiver, at a path named as the subscription.
    Webhook,
    /// The queue.
    Amqp,
}

/// The feeds: one shows ids only and reads each record, one reads the records that its own refer to, two are told by
/// histories, deletes included.
const FEEDS: [(&str, &str); 5] = [
    ("Patient", "detect = \"last-updated\""),
    (
        "Appointment",
        "detect = \"last-updated\"\ninclude = [\"Appointment:patient\", \"Appointment:practitioner\"]",
    ),
    ("Encounter", "detect = \"last-updated\"\nfetch = \"read\""),
    ("Observation", "detect = \"history\""),
    ("DiagnosticReport", "detect = \"history\""),
];

/// How long the world may take to become quiet once the clinic stands still.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long a start may take on a loaded machine.
const START: Duration = Duration::from_secs(20);

/// One world.
pub(crate) struct World {
    /// The source.
    pub(crate) source: Arc<Source>,
    /// The receiver.
    pub(crate) receiver: Arc<Receiver>,
    /// The queue at the broker.
    queue: Arc<Queue>,
    /// The courier's folder.
    pub(crate) courier: Courier,
    /// The courier's present life, from 1.
    life: u64,
    /// The lives that ended by a kill.
    pub(crate) killed: BTreeSet<u64>,
    // The last field: servers end after everything that uses them.
    _runtime: Runtime,
}

impl World {
    /// Makes a world; nothing moves yet.
    pub(crate) fn new(seed: u64, faults: &Faults, manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let source = Source::start(runtime.handle(), seed, faults);
        let receiver = Receiver::start(runtime.handle(), manner, seed);
        let queue = Queue::start(runtime.handle(), QUEUED);
        let courier = Courier::new("", Vec::new());
        Self {
            source,
            receiver,
            queue,
            courier,
            life: 0,
            killed: BTreeSet::new(),
            _runtime: runtime,
        }
    }

    /// Starts the courier, configured so that all it sends and asks says which of its lives did.
    pub(crate) fn start(&mut self) -> Life {
        self.life += 1;
        self.source.journal().new_life(self.life);
        let environment = vec![
            ("REDIS_URL", redis::address()),
            ("BROKER_URL", queue::address()),
            ("LIFE", self.life.to_string()),
        ];
        self.courier.configure(&self.configuration(), environment);
        self.courier.run()
    }

    /// Kills the courier.
    pub(crate) fn kill(&mut self, life: Life) {
        life.kill();
        self.killed.insert(self.life);
    }

    /// Waits until the living courier has asked the source for something.
    pub(crate) fn await_first_poll(&self) {
        let deadline = Instant::now() + START;
        while self.source.journal().first_search_at().is_none() {
            assert!(
                Instant::now() < deadline,
                "no poll within {START:?}:\n{}",
                self.courier.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Judges every subscription.
    pub(crate) fn judge(&self) -> Vec<Verdict> {
        let ledger = self.source.ehr.ledger();
        let (gone, alive): (Vec<_>, Vec<_>) = ledger.into_iter().partition(|shown| shown.deleted);
        let gone: BTreeSet<_> = gone
            .into_iter()
            .map(|shown| (shown.record_type, shown.id))
            .collect();
        let shown: Shown = alive
            .into_iter()
            .map(|shown| {
                (
                    (shown.record_type, shown.id, shown.version_id),
                    Some(shown.sha256),
                )
            })
            .collect();
        let due: BTreeSet<Version> = self.source.journal().proven().clone();
        let deletes: BTreeSet<Version> = self.source.journal().deletes().clone();
        let facts = Facts {
            connection: CONNECTION,
            shown: &shown,
            deletes: &deletes,
            due: &due,
            gone: &gone,
            killed: &self.killed,
        };
        let arrivals = [self.receiver.arrivals(), self.queue.arrivals()].concat();
        let judge = |(name, content, _): (&str, Content, Kind)| {
            let own: Vec<&Arrival> = arrivals
                .iter()
                .filter(|arrival| arrival.subscription == name)
                .collect();
            checker::judge(&facts, content, &own)
        };
        SUBSCRIPTIONS.map(judge).into()
    }

    /// A figure of each verdict, beside its subscription's name.
    pub(crate) fn by_name(verdicts: &[Verdict], figure: fn(&Verdict) -> usize) -> String {
        let named: Vec<String> = verdicts
            .iter()
            .zip(SUBSCRIPTIONS)
            .map(|(verdict, (name, ..))| format!("{name} {}", figure(verdict)))
            .collect();
        named.join(", ")
    }

    /// How many versions were shown; how many of them nobody but a courier about to end may have seen; and how many of
    /// those never arrived, because they were overwritten before the next poll.
    pub(crate) fn counts(&self, verdicts: &[Verdict]) -> (usize, usize, usize) {
        let journal = self.source.journal();
        let unproven: Vec<&Version> = journal.shown().difference(journal.proven()).collect();
        let missed = |version: &&&Version| {
            verdicts
                .iter()
                .any(|verdict| !verdict.versions.contains(**version))
        };
        (
            journal.shown().len(),
            unproven.len(),
            unproven.iter().filter(missed).count(),
        )
    }

    /// How many notifications arrived so far, repeats included.
    fn arrived(&self) -> usize {
        self.receiver.count() + self.queue.count()
    }

    /// Lets the clinic stand still and waits until all that must arrive has arrived, and nothing more comes.
    pub(crate) fn become_quiet(&self, life: &mut Life) {
        self.source.set_pace(0);
        let polls =
            || FEEDS.map(|(name, _)| self.source.journal().searches().get(name).copied().unwrap_or(0));
        let deadline = Instant::now() + PATIENCE;
        let mut still = 0;
        let (mut arrived, mut polled) = (self.arrived(), polls());
        // Three rounds in which every feed was polled twice and nothing arrived.
        while still < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            assert!(
                life.lives(),
                "the courier ended by itself:\n{}",
                self.courier.log_tail()
            );
            if self.arrived() != arrived {
                (arrived, polled, still) = (self.arrived(), polls(), 0);
            } else if polls().iter().zip(&polled).all(|(now, then)| *now >= then + 2) {
                // A read that failed is tried again after seconds. What waits for it may be nothing that must arrive.
                let complete = self.judge().iter().all(|verdict| verdict.lost.is_empty())
                    && self.courier.count("inbox") == 0;
                still = if complete { still + 1 } else { 0 };
                polled = polls();
            }
        }
    }

    /// The sandbox's ledger and the bytes of its answers must tell the same story.
    fn assert_that_the_sources_books_agree(&self) {
        let ledger = self.source.ehr.ledger();
        let journal = self.source.journal();
        let alive = ledger.iter().filter(|shown| !shown.deleted);
        let mut versions = BTreeSet::new();
        for shown in alive {
            let version = (
                shown.record_type.clone(),
                shown.id.clone(),
                shown.version_id.clone(),
            );
            let sum = journal.sums().get(&version);
            assert!(
                sum.is_none_or(|sum| sum.as_ref() == Some(&shown.sha256)),
                "{version:?} has two contents"
            );
            versions.insert(version);
        }
        assert_eq!(*journal.shown(), versions);
    }

    /// Fails with all findings if any subscription has one.
    pub(crate) fn assert_good(self, seed: u64) -> Self {
        let findings: Vec<String> = self
            .judge()
            .iter()
            .zip(SUBSCRIPTIONS)
            .filter_map(|(verdict, (name, ..))| Some(format!("{name}: {}", verdict.describe()?)))
            .collect();
        if !findings.is_empty() {
            let tail = self.courier.log_tail();
            panic!("CRASH_SEED={seed}\n{}\n{tail}", findings.join("\n"));
        }
        self.assert_that_the_sources_books_agree();
        assert_eq!(self.receiver.forged(), 0, "signatures that do not fit");
        self
    }

    fn configuration(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            r#"
[state]
url = "sqlite://courier.db"
key = "none"

[dedup]
url = "env:REDIS_URL"

[http]
listen = "127.0.0.1:0"

[connections.{CONNECTION}]
profile = "sandbox"
base_url = "{url}"
every = "1s"
reconcile = "off"
limits = {{ concurrent = 4 }}
auth = {{ type = "api-key", header = "{LIFE}", value = "env:LIFE" }}
allow_networks = ["127.0.0.0/8"]
"#,
            url = self.source.url
        );
        for (record, keys) in FEEDS {
            write!(
                text,
                "\n[[connections.{CONNECTION}.feeds]]\nrecord = \"{record}\"\nstart = \"beginning\"\n\
                 overlap = \"10s\"\n{keys}\n"
            )
            .unwrap();
        }
        for (name, content, kind) in SUBSCRIPTIONS {
            let destination = match kind {
                Kind::Webhook => self.receiver.destination(name, self.life),
                Kind::Amqp => self.queue.destination(self.life),
            };
            let content = match content {
                Content::IdOnly => "id-only",
                Content::FullResource => "full-resource",
            };
            write!(
                text,
                r#"
[destinations.{name}]
{destination}retry = ["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]

[[subscriptions]]
name = "{name}"
connections = ["{CONNECTION}"]
topic = "*"
content = "{content}"
destination = "{name}"
"#
            )
            .unwrap();
        }
        text
    }
}
