//! What a seed makes of its world, before it begins: sources and their faults, subscriptions and their destinations,
//! limits, and the script of blows.

mod faults;
mod histories;
mod long;
mod long_faults;
mod script;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use courier_sdk::{Detect, FetchMode, Scope};
use ehr_courier::domain::calendar::Calendar;
use ehr_courier::domain::fan_out::ContentLevel;
use ehr_courier::pipeline::connection::Overlap;
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::pipeline::{overlap, reconcile};
use ehr_courier::sandbox::{Dialect, Faults};
use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;

pub(crate) use self::faults::switches;
use self::faults::{faults_of, mixed};
pub(crate) use self::long::{Span, limits as long_limits};
use self::script::{OPS, blows, broker, dedup, limits};
use crate::dice::{fork, pick};
use crate::journal::JournalFaults;
use crate::life::{Op, Side};
use crate::remembering::DedupPlan;
use crate::rhythm::Rhythm;

/// How far back of the cursor each poll looks again, in a brief world.
pub(crate) const OVERLAP: Duration = Duration::from_secs(30);

/// The longest that a version stays invisible; shared stamps and the time between two polls come on top.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(12);

/// Fewer versions prove little.
const VERSIONS_MIN: usize = 200;

const CLINIC_TYPES: [&str; 5] = [
    "Appointment",
    "Encounter",
    "Observation",
    "Patient",
    "DiagnosticReport",
];

/// A seed's world.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) sources: Vec<SourcePlan>,
    pub(crate) subscriptions: Vec<SubscriptionPlan>,
    pub(crate) blows: Vec<BlowPlan>,
    /// Two workers on one store; blows are then freezes.
    pub(crate) rivals: bool,
    pub(crate) limits: Limits,
    pub(crate) step_every: Duration,
    /// What happens to what stands in front of the store.
    pub(crate) dedup: DedupPlan,
    /// The day lasts until so many versions were shown.
    pub(crate) versions_min: usize,
    /// How long its time is, and how it passes.
    pub(crate) course: Course,
}

/// How a world's time passes.
#[derive(Debug, Clone)]
pub(crate) enum Course {
    /// Minutes, at one pace, until every fault struck and enough was seen.
    Brief,
    /// Hours or days, from an instant on, at the pace of a clinic.
    Long(LongCourse),
}

/// A day or a week.
#[derive(Debug, Clone)]
pub(crate) struct LongCourse {
    pub(crate) begins: Timestamp,
    pub(crate) length: Duration,
    pub(crate) rhythm: Rhythm,
}

#[derive(Debug, Clone)]
pub(crate) struct SourcePlan {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) feeds: Vec<FeedPlan>,
    pub(crate) concurrent: usize,
    pub(crate) calendar: Calendar,
    pub(crate) per_day: Option<NonZeroU32>,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handful of plans, each made once")]
pub(crate) enum Kind {
    /// The sandbox EHR behind the FHIR connector.
    Clinic {
        faults: Faults,
        /// The names of the faults switched on.
        names: Vec<&'static str>,
        patients: usize,
        page_count: u32,
        version_read: bool,
        dialect: Dialect,
        /// How often the link to a further page has expired, as a probability per request.
        expired: f64,
    },
    /// A history, newest first.
    Journal {
        faults: JournalFaults,
        old: u32,
        page_size: usize,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct FeedPlan {
    pub(crate) name: String,
    pub(crate) record_type: String,
    pub(crate) start: StartPlan,
    pub(crate) every: Duration,
    pub(crate) fetch: FetchMode,
    pub(crate) detect: Detect,
    /// References that are followed, as `Type:parameter`.
    pub(crate) include: Vec<&'static str>,
    pub(crate) scope: Scope,
    pub(crate) overlap: Overlap,
    /// How often everything is listed beside.
    pub(crate) reconcile: Option<Duration>,
}

impl FeedPlan {
    /// The names under which it is polled: its own, and its sweep's.
    pub(crate) fn polled(&self) -> Vec<String> {
        let sweep = self
            .reconcile
            .map(|_| format!("{}{}", self.name, reconcile::SUFFIX));
        std::iter::once(self.name.clone()).chain(sweep).collect()
    }

    /// Whether each of its polls lists all that it looks at.
    pub(crate) fn lists(&self) -> bool {
        matches!(self.detect, Detect::Window | Detect::Roster | Detect::Read)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartPlan {
    Beginning,
    Now,
    /// So long before the world begins.
    Before(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct SubscriptionPlan {
    pub(crate) name: String,
    /// All, or one connection.
    pub(crate) connection: Option<String>,
    /// All, or one record type.
    pub(crate) record_type: Option<String>,
    pub(crate) content: ContentLevel,
    pub(crate) from_beginning: bool,
    pub(crate) temper: TemperPlan,
    /// In force from the life with this index …
    pub(crate) from_life: usize,
    /// … until before the life with this one.
    pub(crate) until_life: Option<usize>,
    /// In force again from the life with this one.
    pub(crate) again_from_life: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TemperPlan {
    Prompt,
    Slow,
    Flaky(f64),
    Hangs(f64),
    DownFor(Duration),
    Broker(BrokerShares),
    Dead,
}

/// How often a broker does what, as probabilities per message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BrokerShares {
    /// Hands the message back: no queue is bound.
    pub(crate) returned: f64,
    /// Refuses it: the queue is full.
    pub(crate) nacked: f64,
    /// Breaks the connection, with all that is in flight on it.
    pub(crate) lost: f64,
}

/// One interruption of the worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlowPlan {
    pub(crate) how: How,
    /// At the latest so long after the life began.
    pub(crate) at_latest: Duration,
    /// How long nothing runs then.
    pub(crate) pause: Duration,
    /// Whether the leases of the dead are void at once, or lapse by their time.
    pub(crate) reopen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Crash {
        op: Op,
        nth: u32,
        side: Side,
    },
    /// An orderly stop.
    Stop,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = fork(seed, "plan");
        let rivals = seed % 8 == 5;
        let count = dice.random_range(1..=3);
        let sources: Vec<SourcePlan> = (0..count).map(|index| source(seed, index)).collect();
        let blows = blows(&mut fork(seed, "blows"), rivals);
        let limits = limits(&mut fork(seed, "limits"), rivals);
        let brief = limits.retention < Duration::from_hours(1);
        let mut subscriptions = subscriptions(&mut fork(seed, "subscriptions"), &sources, blows.len(), brief);
        let mut brokers = fork(seed, "brokers");
        for subscription in &mut subscriptions {
            if brokers.random_bool(0.25) {
                subscription.temper = TemperPlan::Broker(broker(&mut brokers));
            }
        }
        let stale = sources.iter().any(|source| match &source.kind {
            Kind::Clinic { names, .. } => names.contains(&"stale_cache"),
            Kind::Journal { .. } => false,
        });
        // Where the same question is to be asked twice, changes come less often than polls.
        let step_every = if stale { 2000..3500 } else { 80..300 };
        Self {
            seed,
            sources,
            subscriptions,
            blows,
            rivals,
            limits,
            step_every: Duration::from_millis(dice.random_range(step_every)),
            dedup: dedup(&mut fork(seed, "dedup")),
            versions_min: VERSIONS_MIN,
            course: Course::Brief,
        }
    }

    /// The least that each poll looks back.
    pub(crate) fn overlap(&self) -> Duration {
        match self.course {
            Course::Brief => OVERLAP,
            Course::Long(_) => overlap::LEAST,
        }
    }

    /// The faults that this world switches on, by name.
    pub(crate) fn faults(&self) -> Vec<(String, &'static str)> {
        let mut names = Vec::new();
        for source in &self.sources {
            if let Kind::Clinic { names: own, .. } = &source.kind {
                names.extend(own.iter().map(|name| (source.name.clone(), *name)));
            }
        }
        names
    }
}

fn source(seed: u64, index: u64) -> SourcePlan {
    let mut dice = fork(seed, &format!("source {index}"));
    let name = ["mercy", "st_anne", "north"][usize::try_from(index).unwrap()].to_owned();
    // Every third world has a history beside its first clinic.
    if index > 0 && (seed + index).is_multiple_of(3) {
        return journal(&mut dice, name);
    }
    let (names, faults) = if index == 0 {
        faults_of(seed, &mut dice)
    } else {
        mixed(&mut dice, 2)
    };
    // Pages can shift only where there are several.
    let drifts = names.contains(&"page_drift");
    let many = dice.random_bool(0.3) || drifts || names.contains(&"stale_cache");
    let page_count = pick(&mut dice, &[5, 9, 20, 200]);
    let kind = Kind::Clinic {
        names,
        faults,
        patients: if many { 100 } else { dice.random_range(8..25) },
        page_count: if drifts { 5 } else { page_count },
        version_read: dice.random_bool(0.6),
        dialect: Dialect::default(),
        expired: 0.0,
    };
    let first = dice.random_range(0..CLINIC_TYPES.len());
    let mut feeds: Vec<FeedPlan> = (0..dice.random_range(2..=3))
        .map(|step| {
            // The busiest type is always among them.
            let record_type = if step == 0 {
                "Appointment"
            } else {
                CLINIC_TYPES[(first + step) % 5]
            };
            feed(&mut dice, record_type, record_type.to_lowercase())
        })
        .collect();
    let mut types = BTreeSet::new();
    feeds.retain(|feed| types.insert(feed.record_type.clone()));
    if dice.random_bool(0.15) {
        // Two feeds of one type, one of which reads.
        let mut second = feed(&mut dice, "Appointment", "appointment-again".to_owned());
        second.fetch = FetchMode::ByRead;
        second.start = feeds[0].start;
        feeds.push(second);
    }
    let mut source = SourcePlan {
        name,
        kind,
        feeds,
        concurrent: dice.random_range(1..=3),
        calendar: Calendar::default(),
        per_day: None,
    };
    histories::choose(&mut source, &mut fork(seed, &format!("histories {index}")));
    source
}

fn journal(dice: &mut StdRng, name: String) -> SourcePlan {
    let chance = |dice: &mut StdRng| if dice.random_bool(0.4) { 0.08 } else { 0.0 };
    let kind = Kind::Journal {
        faults: JournalFaults {
            transient: chance(dice),
            throttled: chance(dice),
            expired: chance(dice),
            late: chance(dice),
        },
        old: pick(dice, &[20, 80, 250]),
        page_size: pick(dice, &[4, 15, 60]),
    };
    let feeds = vec![
        feed(dice, "Visit", "visits".to_owned()),
        feed(dice, "Note", "notes".to_owned()),
    ];
    SourcePlan {
        name,
        kind,
        feeds,
        concurrent: dice.random_range(1..=2),
        calendar: Calendar::default(),
        per_day: None,
    }
}

fn feed(dice: &mut StdRng, record_type: &str, name: String) -> FeedPlan {
    let start = match dice.random_range(0..10) {
        0..6 => StartPlan::Beginning,
        6..8 => StartPlan::Now,
        _ => StartPlan::Before(Duration::from_secs(dice.random_range(0..200_000))),
    };
    FeedPlan {
        name,
        record_type: record_type.to_owned(),
        start,
        every: Duration::from_millis(dice.random_range(1000..4000)),
        fetch: if dice.random_bool(0.3) {
            FetchMode::ByRead
        } else {
            FetchMode::FromPage
        },
        detect: Detect::LastUpdated,
        include: Vec::new(),
        scope: Scope::default(),
        overlap: Overlap::Fixed,
        reconcile: None,
    }
}

fn subscriptions(
    dice: &mut StdRng,
    sources: &[SourcePlan],
    blows: usize,
    brief: bool,
) -> Vec<SubscriptionPlan> {
    let count = dice.random_range(1..=4);
    let mut all: Vec<SubscriptionPlan> = (0..count)
        .map(|index| {
            let source = pick(dice, sources);
            let one_type = pick(dice, &source.feeds).record_type;
            SubscriptionPlan {
                name: format!("sub-{}", char::from(b'a' + u8::try_from(index).unwrap())),
                connection: dice.random_bool(0.3).then(|| source.name.clone()),
                record_type: dice.random_bool(0.3).then_some(one_type),
                content: pick(
                    dice,
                    &[
                        ContentLevel::Empty,
                        ContentLevel::IdOnly,
                        ContentLevel::FullResource,
                        ContentLevel::FullResource,
                    ],
                ),
                from_beginning: dice.random_bool(0.5) && !brief,
                temper: temper(dice),
                from_life: 0,
                until_life: None,
                again_from_life: None,
            }
        })
        .collect();
    // The first one sees everything, so that every version is looked for somewhere.
    all[0].connection = None;
    all[0].record_type = None;
    if blows > 0 && all.len() > 1 {
        let index = dice.random_range(1..all.len());
        let at = dice.random_range(1..=blows);
        if dice.random_bool(0.5) {
            all[index].from_life = at;
        } else {
            all[index].until_life = Some(at);
            all[index].again_from_life = (dice.random_bool(0.5) && at < blows).then_some(at + 1);
        }
    }
    all
}

fn temper(dice: &mut StdRng) -> TemperPlan {
    match dice.random_range(0..12) {
        0..5 => TemperPlan::Prompt,
        5..7 => TemperPlan::Slow,
        7 | 8 => TemperPlan::Flaky(0.3),
        9 => TemperPlan::Hangs(0.1),
        10 => TemperPlan::DownFor(Duration::from_secs(dice.random_range(10..60))),
        _ => TemperPlan::Dead,
    }
}
