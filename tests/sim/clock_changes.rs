//! The days on which the clocks change, in two zones: what is cut by local days, searched by local dates, forbidden in
//! local hours and counted by the day loses nothing then, and repeats nothing.

use std::num::NonZeroU32;
use std::time::Duration;

use courier_sdk::{DateWindow, Detect, FetchMode, Scope};
use ehr_courier::domain::calendar::{Calendar, Days, Peak, Window};
use ehr_courier::domain::fan_out::ContentLevel;
use ehr_courier::pipeline::connection::Overlap;
use ehr_courier::sandbox::{Dialect, Faults};
use jiff::civil::{Time, time};
use jiff::tz::TimeZone;
use serde_json::json;

use crate::plan::{
    Course, FeedPlan, Kind, LongCourse, Plan, SourcePlan, StartPlan, SubscriptionPlan, TemperPlan,
    long_limits,
};
use crate::remembering::DedupPlan;
use crate::rhythm::Rhythm;
use crate::run::{live_all, report, say};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A change of clocks: the zone, the day before, and a time of the day that the change leaves out or shows twice.
struct Change {
    zone: &'static str,
    begins: &'static str,
    hours: (Time, Time),
}

/// Each world lasts from the noon before to the noon after.
const LENGTH: Duration = Duration::from_hours(48);

fn changes() -> [Change; 4] {
    [
        // The clocks go from 02:00 back to 01:00: the hour from 01:00 on comes twice.
        Change {
            zone: "America/New_York",
            begins: "2026-10-31T16:00:00Z",
            hours: (time(1, 15, 0, 0), time(1, 45, 0, 0)),
        },
        // From 02:00 to 03:00: maintenance begins in an hour that there is not.
        Change {
            zone: "America/New_York",
            begins: "2027-03-13T17:00:00Z",
            hours: (time(2, 30, 0, 0), time(3, 30, 0, 0)),
        },
        // From 03:00 back to 02:00: maintenance ends in the hour that comes twice.
        Change {
            zone: "Europe/Berlin",
            begins: "2026-10-24T10:00:00Z",
            hours: (time(1, 30, 0, 0), time(2, 30, 0, 0)),
        },
        // From 02:00 to 03:00: maintenance ends in an hour that there is not.
        Change {
            zone: "Europe/Berlin",
            begins: "2027-03-27T11:00:00Z",
            hours: (time(1, 30, 0, 0), time(2, 30, 0, 0)),
        },
    ]
}

fn calendar(change: &Change) -> Calendar {
    let zone = TimeZone::get(change.zone).unwrap();
    let window = |from: Time, to: Time| Window {
        from,
        to,
        days: Days::ALL,
        zone: zone.clone(),
    };
    Calendar {
        maintenance: vec![window(change.hours.0, change.hours.1)],
        peak: Some(Peak {
            window: window(time(0, 30, 0, 0), time(5, 0, 0, 0)),
            requests_per_second: NonZeroU32::new(1),
            every: Some(10 * MINUTE),
        }),
    }
}

/// The source is worked on at the hours of which the courier knows.
fn maintenance(change: &Change) -> Faults {
    let second = |at: Time| (i64::from(at.hour()) * 60 + i64::from(at.minute())) * 60;
    let (from, until) = (second(change.hours.0), second(change.hours.1));
    let patch = json!({"maintenance": {"from_second": from, "until_second": until}});
    Faults::default().merged(&patch).unwrap()
}

fn source(change: &Change, name: &str, detect: Detect, words: &[&str]) -> SourcePlan {
    let zone = format!("zone={}", change.zone);
    let dialect = words
        .iter()
        .copied()
        .chain([zone.as_str()])
        .fold(Dialect::default(), |dialect, word| dialect.with(word).unwrap());
    let feeds = ["Appointment", "Observation"].map(|record_type| FeedPlan {
        name: record_type.to_lowercase(),
        record_type: record_type.to_owned(),
        start: StartPlan::Beginning,
        every: 5 * MINUTE,
        fetch: FetchMode::FromPage,
        detect,
        include: Vec::new(),
        scope: Scope {
            // The days of the changes themselves are at the edge of what is looked at.
            window: DateWindow {
                parameter: None,
                past: Some(10 * 24 * HOUR),
                future: Some(40 * 24 * HOUR),
            },
            ..Scope::default()
        },
        overlap: Overlap::Adaptive,
        reconcile: (detect != Detect::Window).then_some(6 * HOUR),
    });
    SourcePlan {
        name: name.to_owned(),
        kind: Kind::Clinic {
            faults: maintenance(change),
            names: Vec::new(),
            patients: 10,
            page_count: 200,
            version_read: true,
            dialect,
            expired: 0.0,
        },
        feeds: feeds.into(),
        concurrent: 2,
        calendar: calendar(change),
        per_day: NonZeroU32::new(4_000),
    }
}

fn world(seed: u64, change: &Change) -> Plan {
    let sources = vec![
        source(
            change,
            "days",
            Detect::LastUpdated,
            &["no_history", "granularity=day"],
        ),
        source(
            change,
            "dates",
            Detect::Window,
            &["no_history", "no_last_updated"],
        ),
        source(change, "history", Detect::History, &["granularity=second"]),
    ];
    Plan {
        seed,
        sources,
        subscriptions: vec![SubscriptionPlan {
            name: "sub-a".to_owned(),
            connection: None,
            record_type: None,
            content: ContentLevel::FullResource,
            from_beginning: true,
            temper: TemperPlan::Prompt,
            from_life: 0,
            until_life: None,
            again_from_life: None,
        }],
        blows: Vec::new(),
        rivals: false,
        limits: long_limits(),
        step_every: MINUTE,
        dedup: DedupPlan::Faithful,
        versions_min: 200,
        course: Course::Long(LongCourse {
            begins: change.begins.parse().unwrap(),
            length: LENGTH,
            // The nights are what matters here.
            rhythm: Rhythm {
                zone: TimeZone::get(change.zone).unwrap(),
                busy_per_hour: 10.0,
                quiet_per_hour: 10.0,
                burst: 0.01,
            },
        }),
    }
}

/// What strikes while the source is worked on: requests that it turned away.
fn turned_away(findings: &crate::checker::Findings) -> u64 {
    findings.strikes.get("maintenance").copied().unwrap_or_default()
}

#[test]
fn a_day_through_each_change_of_clocks_in_two_zones_loses_and_repeats_nothing() {
    let changes = changes();
    let plans = (1..).zip(&changes).map(|(seed, change)| world(seed, change));
    let all = live_all(plans.collect());
    let mut failed = Vec::new();
    let mut told = Vec::new();
    for (change, findings) in changes.iter().zip(all.values()) {
        let day = format!("{} from {}", change.zone, change.begins);
        // Nobody died and nobody refused: whatever comes twice is a repetition.
        if !findings.violations.is_empty() || findings.duplicates > 0 || turned_away(findings) > 0 {
            report(&day, findings);
            say(&format!(
                "  repeated {}, turned away {}",
                findings.duplicates,
                turned_away(findings)
            ));
            failed.push(day.clone());
        }
        told.push(format!(
            "clocks: {day}, versions shown {}, delivered {}, lost 0, repeated {}, asked during maintenance {}; by \
             gt[last seen] lost {} of {} and {} deletes",
            findings.versions,
            findings.delivered,
            findings.duplicates,
            turned_away(findings),
            findings.naive.missed,
            findings.naive.states,
            findings.naive.deletes,
        ));
    }
    assert!(failed.is_empty(), "{failed:#?}");
    say(&told.join("\n"));
}

#[test]
fn maintenance_in_an_hour_that_comes_twice_turns_away_whoever_does_not_know_of_it() {
    let changes = changes();
    let mut plan = world(5, &changes[0]);
    for source in &mut plan.sources {
        source.calendar = Calendar::default();
    }
    let findings = &live_all(vec![plan])[&5];
    assert!(findings.violations.is_empty(), "{:#?}", findings.violations);
    assert!(turned_away(findings) > 0);
}
