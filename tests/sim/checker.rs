//! The checker: reads the book of a world that has become quiet, and says every promise that was broken.
//!
//! It shares no code with the courier. What it knows: what the sources showed, what the destinations received, which
//! writes were committed, and which blows the script dealt. From the store it reads only what an operator can.

mod arrivals;
mod cursors;
mod fates;
mod ledgers;
mod numbers;
mod shown;
mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::book::Pages;
use crate::life::{Op, Side};
use crate::naive::{self, Naive};
use crate::plan::Course;
use crate::world::World;
use shown::View;

/// What a world came to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) versions: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) dead: u64,
    pub(crate) late: u64,
    pub(crate) crashes: BTreeMap<(Op, Side), u64>,
    pub(crate) strikes: BTreeMap<String, u64>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violations: Vec<String>,
    /// What a poller by the letter would have come to, in a long world.
    pub(crate) naive: Naive,
    /// A sum over everything that arrived, in order: two runs of one seed must agree.
    pub(crate) digest: u64,
}

/// Checks one world.
pub(crate) async fn check(world: &Arc<World>) -> Findings {
    let pages = std::mem::take(&mut *world.book.open());
    let mut findings = Findings::default();
    findings.violations.extend(pages.violations.iter().cloned());
    let mut view = View::of(world, &pages);
    view.quarantined = numbers::quarantined(world).await;
    findings.versions = view.versions.len() as u64;
    ledgers::check_ledgers(world, &view, &mut findings);
    view.note_standing(world);
    let dead = numbers::dead_letters(world).await;
    match world.plan.course {
        Course::Brief => ledgers::check_truth(world, &view, &mut findings),
        Course::Long(_) => standing::check(world, &pages, &view, &dead, &mut findings),
    }
    findings.dead = dead.len() as u64;
    arrivals::check_each(world, &pages, &view, &mut findings);
    arrivals::check_lost(world, &pages, &view, &dead, &mut findings);
    arrivals::check_repeats(&pages, &mut findings);
    arrivals::check_deletes(&pages, &view, &mut findings);
    arrivals::check_order(&pages, &view, &mut findings);
    numbers::check(world, &pages, &mut findings).await;
    cursors::check(world, &pages, &view, &mut findings);
    count(world, &pages, &view, &mut findings);
    findings
}

fn count(world: &World, pages: &Pages, view: &View, findings: &mut Findings) {
    for (_, op, side) in &pages.crashes {
        *findings.crashes.entry((*op, *side)).or_default() += 1;
    }
    for ehr in world.clinics.values() {
        for (name, strikes) in ehr.strikes() {
            *findings.strikes.entry(name.to_owned()).or_default() += strikes;
        }
    }
    for journal in world.journals.values() {
        for (name, strikes) in journal.strikes() {
            *findings.strikes.entry(name.to_owned()).or_default() += strikes;
        }
    }
    for sink in world.sinks.values() {
        for (name, strikes) in sink.strikes.lock().unwrap().iter() {
            *findings.strikes.entry((*name).to_owned()).or_default() += strikes;
        }
    }
    for (name, strikes) in world.dedup.strikes() {
        *findings.strikes.entry(name.to_owned()).or_default() += strikes;
    }
    for (name, count) in &pages.counts {
        *findings.counts.entry(name).or_default() += count;
    }
    if let Course::Long(course) = &world.plan.course {
        findings.naive = naive::poll_all(world, course.length);
    }
    findings.counts.insert("fenced writes", pages.fenced);
    findings
        .counts
        .insert("look-ups spared by dedup", world.dedup.spared());
    findings
        .counts
        .insert("records with context", view.contexts.len() as u64);
    let (deletes, lived_again) = view.deletes_told(world);
    findings.counts.insert("deletes told by histories", deletes);
    findings.counts.insert("records that lived again", lived_again);
    findings.counts.insert("freezes", pages.frozen.len() as u64);
    findings
        .counts
        .insert("redriven connections", pages.redriven.len() as u64);
    for arrival in &pages.arrivals {
        for byte in arrival.event_id.bytes().chain(arrival.subscription.bytes()) {
            findings.digest = findings.digest.rotate_left(5) ^ u64::from(byte);
        }
    }
}
