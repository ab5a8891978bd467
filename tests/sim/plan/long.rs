//! Worlds that last a day or a week: polls minutes apart, every way of finding changes, and several faults at once.

use std::time::Duration;

use courier_sdk::{DateWindow, Detect, FetchMode, Ids, RecordId, Roster, Scope};
use ehr_courier::domain::calendar::Calendar;
use ehr_courier::domain::fan_out::ContentLevel;
use ehr_courier::pipeline::connection::Overlap;
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::sandbox::{Dialect, Faults, Granularity};
use jiff::tz::TimeZone;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::long_faults::{Sort, chosen};
use super::{
    BlowPlan, Course, FeedPlan, How, Kind, LongCourse, OPS, Plan, SourcePlan, StartPlan, SubscriptionPlan,
    TemperPlan, VERSIONS_MIN, dedup,
};
use crate::clock::usual_beginning;
use crate::dice::{fork, pick};
use crate::life::Side;
use crate::rhythm::Rhythm;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// How long a world lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    Day,
    Week,
}

impl Span {
    pub(crate) fn length(self) -> Duration {
        match self {
            Self::Day => 24 * HOUR,
            Self::Week => 7 * 24 * HOUR,
        }
    }
}

/// A way of finding changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    History,
    LastUpdated,
    LastUpdatedRead,
    Window,
    Roster,
    Read,
}

pub(crate) const WAYS: [Way; 6] = [
    Way::History,
    Way::LastUpdated,
    Way::LastUpdatedRead,
    Way::Window,
    Way::Roster,
    Way::Read,
];

/// Patients that may still be registered: rosters name them before.
const PATIENTS_TO_COME: usize = 12;

/// Records that may still come: lists of ids name so many.
const IDS_LISTED: usize = 70;

impl Plan {
    /// The long world of a seed.
    pub(crate) fn long(seed: u64, span: Span) -> Self {
        let label = match span {
            Span::Day => "day",
            Span::Week => "week",
        };
        let mut dice = fork(seed, label);
        let count = if dice.random_bool(0.5) { 2 } else { 1 };
        let first = usize::try_from(seed).unwrap();
        let mut sources = Vec::new();
        for index in 0..count {
            let way = if index == 0 {
                WAYS[first % WAYS.len()]
            } else {
                pick(&mut dice, &WAYS)
            };
            let name = ["mercy", "st_anne"][index];
            sources.push(source(
                &mut fork(seed, &format!("{label} {index}")),
                name,
                way,
                span,
            ));
        }
        let busy = match (span, count) {
            (Span::Day, 1) => 34.0,
            (Span::Day, _) => 22.0,
            (Span::Week, _) => 9.0,
        };
        Self {
            seed,
            subscriptions: subscriptions(&mut fork(seed, "long subscriptions"), &sources),
            sources,
            blows: blows(&mut fork(seed, "long blows"), span),
            rivals: false,
            limits: limits(),
            step_every: MINUTE,
            dedup: dedup(&mut fork(seed, "dedup")),
            versions_min: VERSIONS_MIN,
            course: Course::Long(LongCourse {
                begins: usual_beginning(),
                length: span.length(),
                rhythm: Rhythm {
                    zone: TimeZone::UTC,
                    busy_per_hour: busy,
                    quiet_per_hour: busy / 10.0,
                    burst: 0.01,
                },
            }),
        }
    }
}

impl SourcePlan {
    /// What it is, in a line: how its changes are found, and what strikes.
    pub(crate) fn told(&self) -> String {
        let Kind::Clinic {
            names, page_count, ..
        } = &self.kind
        else {
            return self.name.clone();
        };
        let feeds: Vec<String> = self
            .feeds
            .iter()
            .map(|feed| {
                let (detect, fetch, every) = (feed.detect, feed.fetch, feed.every.as_secs() / 60);
                format!(
                    "{} {detect:?} {fetch:?} {:?} every {every} min",
                    feed.name, feed.start
                )
            })
            .collect();
        format!(
            "{}: {}; pages of {page_count}; {}",
            self.name,
            feeds.join(", "),
            names.join(" ")
        )
    }
}

/// What a kind of server has to be for a way to be the one of choice.
fn dialect(dice: &mut StdRng, way: Way, names: &mut Vec<&'static str>) -> Dialect {
    let mut words: Vec<&'static str> = match way {
        Way::History => Vec::new(),
        Way::LastUpdated | Way::LastUpdatedRead => vec!["no_history"],
        Way::Window | Way::Read => vec!["no_history", "no_last_updated"],
        Way::Roster => vec!["no_history", "no_last_updated", "needs_patient"],
    };
    let mut perhaps = |dice: &mut StdRng, share: f64, word: &'static str| {
        if dice.random_bool(share) {
            words.push(word);
            names.push(word);
        }
    };
    match dice.random_range(0..3) {
        0 => perhaps(dice, 1.0, "delete_mode=vanish"),
        1 => perhaps(dice, 1.0, "delete_mode=not-found"),
        _ => {}
    }
    match dice.random_range(0..6) {
        0 => perhaps(dice, 1.0, "granularity=day"),
        1 | 2 => perhaps(dice, 1.0, "granularity=second"),
        _ => {}
    }
    perhaps(dice, 0.3, "page_style=offset");
    perhaps(dice, 0.3, "no_batch");
    perhaps(dice, 0.3, "max_count=9");
    if way == Way::Window {
        perhaps(dice, 0.4, "max_results=150");
    }
    if way == Way::Read {
        let condition = pick(dice, &["modified-since", "full-support", "not-supported"]);
        if dice.random_bool(0.5) {
            perhaps(
                dice,
                1.0,
                match condition {
                    "modified-since" => "conditional_read=modified-since",
                    "full-support" => "conditional_read=full-support",
                    _ => "conditional_read=not-supported",
                },
            );
        }
    }
    words
        .iter()
        .fold(Dialect::default(), |dialect, word| dialect.with(word).unwrap())
}

fn source(dice: &mut StdRng, name: &str, way: Way, span: Span) -> SourcePlan {
    let patients = dice.random_range(8..16);
    let mut names = Vec::new();
    let dialect = dialect(dice, way, &mut names);
    let sort = match way {
        Way::History => Sort::History,
        Way::LastUpdated | Way::LastUpdatedRead => Sort::Search,
        Way::Window | Way::Roster | Way::Read => Sort::Listing,
    };
    let (faults, mut struck): (Faults, Vec<&'static str>) = chosen(dice, sort, way == Way::LastUpdatedRead);
    names.append(&mut struck);
    let types: &[&str] = match way {
        Way::Window | Way::Roster | Way::Read => &["Appointment", "Observation", "Encounter"],
        Way::History | Way::LastUpdated | Way::LastUpdatedRead => &[
            "Appointment",
            "Observation",
            "Encounter",
            "Patient",
            "DiagnosticReport",
        ],
    };
    // The busiest type is always among them.
    let second = types[dice.random_range(1..types.len())];
    let chosen_types = ["Appointment", second];
    let feeds = chosen_types
        .into_iter()
        .map(|record_type| feed(dice, record_type, (way, span), (patients, dialect)))
        .collect();
    SourcePlan {
        name: name.to_owned(),
        kind: Kind::Clinic {
            names,
            faults,
            patients,
            page_count: pick(dice, &[10, 25, 200]),
            version_read: dice.random_bool(0.5),
            dialect,
            expired: 0.0,
        },
        feeds,
        concurrent: dice.random_range(1..=3),
        calendar: Calendar::default(),
        per_day: None,
    }
}

fn feed(
    dice: &mut StdRng,
    record_type: &str,
    (way, span): (Way, Span),
    (patients, dialect): (usize, Dialect),
) -> FeedPlan {
    let coarse = dialect.granularity == Granularity::Day;
    let every = match (span, way) {
        // Each poll shows all that changed within three days.
        (Span::Day, _) if coarse => 15,
        (Span::Week, _) if coarse => 60,
        (Span::Day, Way::History | Way::LastUpdated | Way::LastUpdatedRead) => {
            pick(dice, &[1, 2, 5, 5, 10, 15])
        }
        (Span::Day, Way::Window | Way::Roster | Way::Read) => pick(dice, &[5, 10, 15]),
        (Span::Week, Way::History | Way::LastUpdated | Way::LastUpdatedRead) => pick(dice, &[5, 10, 15, 15]),
        (Span::Week, Way::Window | Way::Roster | Way::Read) => 15,
    };
    let start = match dice.random_range(0..10) {
        0 | 1 if !coarse => StartPlan::Now,
        2 | 3 if !coarse => StartPlan::Before(Duration::from_secs(dice.random_range(0..200_000))),
        _ => StartPlan::Beginning,
    };
    FeedPlan {
        name: record_type.to_lowercase(),
        record_type: record_type.to_owned(),
        start,
        every: every * MINUTE,
        fetch: if way == Way::LastUpdatedRead {
            FetchMode::ByRead
        } else {
            FetchMode::FromPage
        },
        detect: match way {
            Way::History => Detect::History,
            Way::LastUpdated | Way::LastUpdatedRead => Detect::LastUpdated,
            Way::Window => Detect::Window,
            Way::Roster => Detect::Roster,
            Way::Read => Detect::Read,
        },
        include: Vec::new(),
        scope: scope(record_type, way, patients),
        overlap: Overlap::Adaptive,
        reconcile: match (way, span) {
            (Way::Window | Way::Roster | Way::Read, _) => None,
            (_, Span::Day) => Some(dice.random_range(2..=6) * HOUR),
            (_, Span::Week) => Some(24 * HOUR),
        },
    }
}

fn ids(prefix: &str, most: usize) -> Ids {
    let named = (1..=most).map(|number| RecordId::parse(&format!("{prefix}-{number:05}")).unwrap());
    Ids(named.collect())
}

fn scope(record_type: &str, way: Way, patients: usize) -> Scope {
    let far = Some(Duration::from_hours(24 * 730));
    match way {
        Way::Window => Scope {
            window: DateWindow {
                parameter: None,
                past: far,
                future: far,
            },
            ..Scope::default()
        },
        Way::Roster => Scope {
            roster: Roster::Patients(ids("pat", patients + PATIENTS_TO_COME)),
            ..Scope::default()
        },
        Way::Read => {
            let (prefix, there) = match record_type {
                "Appointment" => ("apt", patients),
                "Observation" => ("obs", 0),
                _ => ("enc", 0),
            };
            Scope {
                ids: ids(prefix, there + IDS_LISTED),
                ..Scope::default()
            }
        }
        Way::History | Way::LastUpdated | Way::LastUpdatedRead => Scope::default(),
    }
}

fn subscriptions(dice: &mut StdRng, sources: &[SourcePlan]) -> Vec<SubscriptionPlan> {
    let temper = |dice: &mut StdRng| {
        pick(
            dice,
            &[
                TemperPlan::Prompt,
                TemperPlan::Prompt,
                TemperPlan::Slow,
                TemperPlan::Flaky(0.2),
                TemperPlan::Hangs(0.1),
                TemperPlan::DownFor(MINUTE),
            ],
        )
    };
    let everything = SubscriptionPlan {
        name: "sub-a".to_owned(),
        connection: None,
        record_type: None,
        content: ContentLevel::FullResource,
        from_beginning: true,
        temper: temper(dice),
        from_life: 0,
        until_life: None,
        again_from_life: None,
    };
    let mut all = vec![everything.clone()];
    if dice.random_bool(0.3) {
        all.push(SubscriptionPlan {
            name: "sub-b".to_owned(),
            record_type: Some(pick(dice, &sources[0].feeds).record_type),
            content: ContentLevel::IdOnly,
            temper: temper(dice),
            ..everything
        });
    }
    all
}

fn blows(dice: &mut StdRng, span: Span) -> Vec<BlowPlan> {
    let count = match span {
        Span::Day => dice.random_range(1..=5),
        Span::Week => dice.random_range(3..=10),
    };
    // Together with the pauses they are over before the time is.
    let share = span.length() / (count + 1);
    (0..count)
        .map(|_| BlowPlan {
            how: if dice.random_bool(0.3) {
                How::Stop
            } else {
                How::Crash {
                    op: pick(dice, &OPS),
                    nth: dice.random_range(1..=40),
                    side: pick(dice, &[Side::Before, Side::After]),
                }
            },
            at_latest: share.mul_f64(dice.random_range(0.3..0.9)),
            pause: pick(dice, &[Duration::from_secs(5), 2 * MINUTE, 20 * MINUTE]),
            reopen: dice.random_bool(0.75),
        })
        .collect()
}

/// Leases and looks are as seldom as polls are: nothing is gained by simulating the seconds between.
pub(crate) fn limits() -> Limits {
    Limits {
        lease_ttl: 6 * MINUTE,
        lease_renewal: 2 * MINUTE,
        lease_trust: 4 * MINUTE,
        fallback: MINUTE,
        sweep_every: 30 * MINUTE,
        retention: 60 * 24 * HOUR,
        ..Limits::default()
    }
}
