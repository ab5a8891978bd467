//! What stands in the sources of a long world at its end, and what they deleted, against what was told.
//!
//! A search sees the state at its polls, and a sweep or a listing the state at its own time. So of a long world it is
//! promised that, once all is quiet and everything was listed once more:
//!
//! - the state in which each record stands was told, whatever hid it meanwhile;
//! - the delete of a record was told, of which a version was told before: where a history tells of it, and elsewhere
//!   if the record was on the roll of a listing or a sweep, was not left out by two of them while it was there, and no
//!   read of it stands in quarantine, which an operator sees;
//! - no delete was told that the source had not made (that is checked at each arrival), and none more often than made.
//!
//! Records that the source withholds are neither there nor deleted, and nothing is owed of them.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::{Clock as _, Detect, RecordId};
use ehr_courier::sandbox::{DeleteMode, Kept};
use jiff::Timestamp;

use super::Findings;
use super::arrivals::{Sort, version_of};
use super::shown::View;
use crate::book::{Pages, RecordRef};
use crate::plan::{FeedPlan, Kind, SourcePlan};
use crate::world::World;

/// The subscription that sees everything.
const EVERYTHING: &str = "sub-a";

/// A record that so many complete listings left out, and that a read found alive each time, has left what they show.
const OUT_OF_SIGHT: usize = 2;

/// What was told of one record: versions, and deletes by the versions that they ended.
#[derive(Default)]
struct Told {
    versions: BTreeSet<u64>,
    inferred: BTreeSet<u64>,
}

pub(super) fn check(
    world: &World,
    pages: &Pages,
    view: &View,
    dead: &BTreeSet<(String, String)>,
    findings: &mut Findings,
) {
    let told = told(pages, view, dead);
    for source in &world.plan.sources {
        let kept = visible(world, source);
        for feed in &source.feeds {
            for ((record_type, id), versions) in &kept {
                if record_type == &feed.record_type && looks_at(feed, id) {
                    let record = (source.name.clone(), record_type.clone(), id.clone());
                    check_record((source, feed), &record, (versions, view), (&told, findings));
                }
            }
        }
    }
}

fn told(pages: &Pages, view: &View, dead: &BTreeSet<(String, String)>) -> BTreeMap<RecordRef, Told> {
    let mut told: BTreeMap<RecordRef, Told> = BTreeMap::new();
    for arrival in &pages.arrivals {
        let given_up = || dead.contains(&(arrival.subscription.clone(), arrival.event_id.clone()));
        if arrival.subscription != EVERYTHING || (arrival.received.is_none() && !given_up()) {
            continue;
        }
        if let Some((record, number, sort)) = version_of(view, arrival) {
            let of_record = told.entry(record).or_default();
            match sort {
                Sort::Version => of_record.versions.insert(number),
                Sort::Delete => of_record.inferred.insert(number),
            };
        }
    }
    told
}

/// Every version of a source that is visible, by record.
fn visible(world: &World, source: &SourcePlan) -> BTreeMap<(String, String), Vec<Kept>> {
    let now = world.clock.now();
    let mut records: BTreeMap<(String, String), Vec<Kept>> = BTreeMap::new();
    for version in world.clinics[&source.name].kept() {
        if version.visible_at.parse::<Timestamp>().unwrap() <= now {
            let key = (version.record_type.clone(), version.id.clone());
            records.entry(key).or_default().push(version);
        }
    }
    records
}

/// Whether a feed looks at a record of its type.
fn looks_at(feed: &FeedPlan, id: &str) -> bool {
    feed.detect != Detect::Read
        || feed
            .scope
            .ids
            .0
            .iter()
            .map(RecordId::as_str)
            .any(|listed| listed == id)
}

fn check_record(
    (source, feed): (&SourcePlan, &FeedPlan),
    record: &RecordRef,
    (versions, view): (&[Kept], &View),
    (told, findings): (&BTreeMap<RecordRef, Told>, &mut Findings),
) {
    let nothing = Told::default();
    let told = told.get(record).unwrap_or(&nothing);
    let number = |version: &Kept| -> u64 { version.version_id.parse().unwrap() };
    let deletes = versions.iter().filter(|version| version.deleted).count();
    let deletes_told = versions
        .iter()
        .filter(|version| version.deleted && told.versions.contains(&number(version)))
        .count()
        + told.inferred.len();
    if deletes_told > deletes {
        findings.violations.push(format!(
            "phantom: {deletes_told} deletes of {record:?} were told, {deletes} were made"
        ));
    }
    let last = versions.last().unwrap();
    if last.withheld_since.is_some() {
        return;
    }
    let stamp: Timestamp = last.last_updated.parse().unwrap();
    let begin = view.begins[&(record.0.clone(), record.1.clone())];
    let last_number = number(last);
    if !last.deleted {
        if stamp >= begin.always_from && !told.versions.contains(&last_number) {
            findings.violations.push(format!(
                "lost: {record:?} {last_number} stands in the source and was never told, listed {}, told {:?}",
                view.listed.contains(record),
                told.versions
            ));
        }
        return;
    }
    // What was told last before the delete.
    let Some(before) = told.versions.range(..last_number).next_back() else {
        return;
    };
    let is_told =
        told.versions.contains(&last_number) || told.inferred.range(before..&last_number).next().is_some();
    let ended_already = versions
        .iter()
        .any(|version| version.deleted && number(version) == *before);
    *findings.counts.entry("deletes that stand").or_default() += 1;
    if is_told || ended_already {
        return;
    }
    match known((source, feed), record, last, view) {
        Ok(()) => findings.violations.push(format!(
            "lost delete: {record:?} {last_number} of {}, told up to {before}",
            last.visible_at
        )),
        Err(why) => *findings.counts.entry(why).or_default() += 1,
    }
}

/// Whether a delete can be known of, or why not.
fn known(
    (source, feed): (&SourcePlan, &FeedPlan),
    record: &RecordRef,
    delete: &Kept,
    view: &View,
) -> Result<(), &'static str> {
    let Kind::Clinic { dialect, .. } = &source.kind else {
        return Err("deletes of other sources");
    };
    if feed.detect == Detect::History && dialect.delete_mode != DeleteMode::Vanish {
        return Ok(());
    }
    if view.quarantined.contains(record) {
        return Err("deletes behind a read in quarantine");
    }
    if !view.listed.contains(record) {
        return Err("deletes of records that nothing listed");
    }
    let made_at: Timestamp = delete.visible_at.parse().unwrap();
    let left_out = view.left_out.get(record).map_or(&[][..], Vec::as_slice);
    if left_out.iter().filter(|at| **at < made_at).count() >= OUT_OF_SIGHT {
        return Err("deletes of records that went out of sight alive");
    }
    Ok(())
}
