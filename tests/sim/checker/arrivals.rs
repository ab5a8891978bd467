//! What arrived, against what was shown: nothing lost, nothing invented, nothing repeated without a reason, in order.

use std::collections::{BTreeMap, BTreeSet};

use ehr_courier::domain::fan_out::ContentLevel;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Findings;
use super::shown::{Version, View};
use crate::book::{Arrival, Ending, Pages, RecordRef};
use crate::identity::{event_id, sha256};
use crate::plan::{FeedPlan, SubscriptionPlan, TemperPlan};
use crate::world::World;

/// A notification's body, as the published format has it.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    id: String,
    source: String,
    subject: String,
    recordversion: String,
    #[serde(rename = "type")]
    kind: String,
    pub(super) sequence: String,
    #[serde(default)]
    late: bool,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

pub(super) fn body(arrival: &Arrival) -> Body<'_> {
    serde_json::from_slice(&arrival.body).unwrap()
}

/// Which version an arrival is of, and where it stands among the record's versions.
pub(super) fn version_of(view: &View, arrival: &Arrival) -> Option<(RecordRef, u64, Sort)> {
    if let Some((record, number)) = view.by_event.get(&arrival.event_id) {
        return Some((record.clone(), *number, Sort::Version));
    }
    // A delete that a read found: its id derives from the version that it ended.
    let body = body(arrival);
    let (record_type, id) = body.subject.split_once('/')?;
    let record = (arrival.connection.clone(), record_type.to_owned(), id.to_owned());
    let ended: u64 = body.recordversion.strip_prefix("d:v:")?.parse().ok()?;
    let deletes = view.deletes.get(&record);
    let made = deletes.is_some_and(|numbers| numbers.range(ended + 1..).next().is_some());
    // Of a long world it is known what was deleted: nothing else is evidence.
    if !made && (view.knows_deletes || !view.gone.contains_key(&record)) {
        return None;
    }
    let derived = event_id(&arrival.connection, record_type, id, &body.recordversion);
    (derived == arrival.event_id && body.kind == "ehr.record.deleted").then_some((
        record,
        ended,
        Sort::Delete,
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Version,
    Delete,
}

/// Each notification tells of a version that was shown, in the published form, with the bytes that were shown.
pub(super) fn check_each(world: &World, pages: &Pages, view: &View, findings: &mut Findings) {
    for arrival in &pages.arrivals {
        if let Err(what) = check_one(world, view, arrival) {
            let (subscription, id) = (&arrival.subscription, &arrival.event_id);
            findings
                .violations
                .push(format!("{what}: {id} to {subscription}"));
        }
    }
}

fn check_one(world: &World, view: &View, arrival: &Arrival) -> Result<(), String> {
    let body: Body<'_> =
        serde_json::from_slice(&arrival.body).map_err(|error| format!("no notification: {error}"))?;
    if body.kind == "ehr.record.unavailable" && is_withheld(view, arrival, &body) {
        return Ok(());
    }
    let (record, number, sort) = version_of(view, arrival).ok_or_else(|| {
        let (kind, version) = (&body.kind, &body.recordversion);
        format!("phantom: never shown ({} {kind} {version})", body.subject)
    })?;
    let plan = plan_of(world, &arrival.subscription);
    let expected = [
        (body.id, arrival.event_id.clone()),
        (body.source, format!("/connections/{}", record.0)),
        (body.subject, format!("{}/{}", record.1, record.2)),
    ];
    for (told, meant) in expected {
        if told != meant {
            return Err(format!("the body says {told}, not {meant}"));
        }
    }
    if sort == Sort::Delete {
        return Ok(());
    }
    let version = &view.versions[&(record.clone(), number)];
    let begin = view.begins[&(record.0.clone(), record.1.clone())];
    if version.stamp < begin.never_before {
        return Err("phantom: it lies before its feed's beginning".to_owned());
    }
    if body.recordversion != number.to_string() {
        return Err(format!("the body says version {}", body.recordversion));
    }
    let shown = version.sha256.ok_or("its body was never shown")?;
    let is_delete = shown == sha256(b"");
    if is_delete != (body.kind == "ehr.record.deleted") {
        return Err(format!("the body says {}", body.kind));
    }
    match (plan.content, body.data) {
        (ContentLevel::Empty, None) | (ContentLevel::IdOnly, Some(_)) => Ok(()),
        (ContentLevel::FullResource, None) if is_delete => Ok(()),
        (ContentLevel::FullResource, Some(data)) if includes(world, &record) => {
            check_context(view, &record, data, shown)
        }
        (ContentLevel::FullResource, Some(data)) if sha256(data.get().as_bytes()) == shown => Ok(()),
        _ => Err("the data is not what was shown".to_owned()),
    }
}

/// Whether the source does not let anybody read the record that a notification names.
fn is_withheld(view: &View, arrival: &Arrival, body: &Body<'_>) -> bool {
    let Some((record_type, id)) = body.subject.split_once('/') else {
        return false;
    };
    let record = (arrival.connection.clone(), record_type.to_owned(), id.to_owned());
    view.withheld.contains(&record)
}

/// Whether the records of this type travel with those that they refer to.
fn includes(world: &World, record: &RecordRef) -> bool {
    let mut sources = world.plan.sources.iter().filter(|source| source.name == record.0);
    let of_type = |feed: &FeedPlan| feed.record_type == record.1 && !feed.include.is_empty();
    sources.any(|source| source.feeds.iter().any(of_type))
}

/// A record and its context, as the published format has them.
#[derive(Deserialize)]
struct WithContext<'a> {
    #[serde(borrow)]
    record: &'a RawValue,
    #[serde(borrow)]
    included: Vec<&'a RawValue>,
    #[serde(rename = "missing")]
    _missing: Vec<String>,
}

/// The record is the one that was shown, and so is each that travels with it.
fn check_context(view: &View, record: &RecordRef, data: &RawValue, shown: [u8; 32]) -> Result<(), String> {
    let data: WithContext<'_> =
        serde_json::from_str(data.get()).map_err(|error| format!("no record with context: {error}"))?;
    if sha256(data.record.get().as_bytes()) != shown {
        return Err("the record is not what was shown".to_owned());
    }
    for included in data.included {
        let hash = sha256(included.get().as_bytes());
        let mut contexts = view.contexts.iter();
        if !contexts.any(|((of, _), known)| of.0 == record.0 && *known == hash) {
            return Err("phantom: a context that was never shown".to_owned());
        }
    }
    Ok(())
}

fn plan_of<'a>(world: &'a World, subscription: &str) -> &'a SubscriptionPlan {
    let mut all = world.plan.subscriptions.iter();
    all.find(|it| it.name == subscription).unwrap()
}

/// Every version that is owed reached every subscription that it concerns, or is a dead letter.
pub(super) fn check_lost(
    world: &World,
    pages: &Pages,
    view: &View,
    dead: &BTreeSet<(String, String)>,
    findings: &mut Findings,
) {
    let received: BTreeSet<(&str, &str)> = pages
        .arrivals
        .iter()
        .filter(|arrival| arrival.received.is_some())
        .map(|arrival| (arrival.subscription.as_str(), arrival.event_id.as_str()))
        .collect();
    findings.delivered = received.len() as u64;
    let known: BTreeSet<&str> = received
        .iter()
        .map(|(_, id)| *id)
        .chain(dead.iter().map(|(_, id)| id.as_str()))
        .collect();
    for plan in &world.plan.subscriptions {
        let dies = plan.temper == TemperPlan::Dead;
        if !dies && dead.iter().any(|(subscription, _)| *subscription == plan.name) {
            findings
                .violations
                .push(format!("a dead letter of {}, which came back", plan.name));
        }
        let Some(since) = owed_since(pages, plan) else {
            continue;
        };
        for ((record, number), version) in &view.versions {
            let concerned = plan.connection.as_ref().is_none_or(|it| *it == record.0)
                && plan.record_type.as_ref().is_none_or(|it| *it == record.1)
                && version.first >= since;
            let arrived = received.contains(&(plan.name.as_str(), version.event_id.as_str()))
                || dead.contains(&(plan.name.clone(), version.event_id.clone()));
            let told = arrived || is_told_delete(&known, record, *number, version);
            if concerned && !told && view.is_owed(record, *number, version) {
                findings.violations.push(format!(
                    "lost: {record:?} {number} was shown (at {}, counted at {:?}) and never reached {}",
                    version.first, version.counted, plan.name
                ));
            }
        }
    }
}

/// Whether a history's delete was told of before, when a read found the record gone: under the version that it ended.
fn is_told_delete(known: &BTreeSet<&str>, record: &RecordRef, number: u64, version: &Version) -> bool {
    let (connection, record_type, id) = record;
    let inferred = |ended: u64| event_id(connection, record_type, id, &format!("d:v:{ended}"));
    version.sha256 == Some(sha256(b"")) && (1..number).any(|ended| known.contains(inferred(ended).as_str()))
}

/// One delete is one event: after one that a read found, the history's next is not told again.
pub(super) fn check_deletes(pages: &Pages, view: &View, findings: &mut Findings) {
    let is_delete = |version: &Version| version.sha256 == Some(sha256(b""));
    let mut found_last: BTreeMap<(&str, RecordRef), Option<u64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for arrival in pages.arrivals.iter().filter(|arrival| arrival.received.is_some()) {
        let subscription = arrival.subscription.as_str();
        let Some((record, number, sort)) = version_of(view, arrival) else {
            continue;
        };
        if !seen.insert((subscription, arrival.event_id.as_str())) {
            continue;
        }
        let found = (sort == Sort::Delete).then_some(number);
        let before = found_last.insert((subscription, record.clone()), found).flatten();
        let Some(ended) = before.filter(|ended| found.is_none() && *ended < number) else {
            continue;
        };
        let since = (record.clone(), ended + 1)..=(record.clone(), number);
        let first = view.versions.range(since).find(|(_, version)| is_delete(version));
        if first.is_some_and(|((_, first), _)| *first == number) {
            let what = format!("the delete of {record:?} ({number}) was told twice to {subscription}");
            findings.violations.push(what);
        }
    }
}

/// From which answer on a subscription that is in force at the end is owed what is shown.
fn owed_since(pages: &Pages, plan: &SubscriptionPlan) -> Option<u64> {
    let reigns = pages.reigns.get(&plan.name)?;
    let last = reigns.last().filter(|reign| reign.until.is_none())?;
    let everything = plan.from_beginning && reigns.len() == 1;
    Some(if everything { 0 } else { last.from })
}

/// A repeated notification has the same bytes, and a reason in the script: its worker was struck, or its attempt
/// ended without an answer.
pub(super) fn check_repeats(pages: &Pages, findings: &mut Findings) {
    let mut by_event: BTreeMap<(&str, &str), Vec<&Arrival>> = BTreeMap::new();
    for arrival in &pages.arrivals {
        let key = (arrival.subscription.as_str(), arrival.event_id.as_str());
        by_event.entry(key).or_default().push(arrival);
    }
    let recorded: BTreeMap<(&str, &str), u64> = pages
        .recorded
        .iter()
        .filter(|it| it.delivered)
        .map(|it| ((it.subscription.as_str(), it.event_id.as_str()), it.tick))
        .collect();
    for (key, arrivals) in by_event {
        for pair in arrivals.windows(2) {
            let (one, next) = (pair[0], pair[1]);
            if one.body != next.body {
                findings
                    .violations
                    .push(format!("two attempts at {key:?} differ in their bytes"));
            }
            let frozen = pages.frozen.contains(&one.life) || pages.frozen.contains(&next.life);
            let struck = pages.ends.contains_key(&one.life) || frozen;
            if one.received.is_some() && one.ending != Ending::Failed && !struck {
                findings
                    .violations
                    .push(format!("{key:?} was repeated without a reason"));
            }
            if one.received.is_some() && next.received.is_some() {
                findings.duplicates += 1;
            }
        }
        // A worker that stood still may send what it had claimed before; its record is refused.
        let awake = |arrival: &&Arrival| !pages.frozen.contains(&arrival.life);
        if let Some(recorded) = recorded.get(&key)
            && arrivals
                .iter()
                .copied()
                .filter(awake)
                .any(|it| it.begun > *recorded)
        {
            findings.violations.push(format!(
                "{key:?} was tried again after it was recorded as delivered"
            ));
        }
    }
}

/// First arrivals keep the order of a record's versions, but for those marked late, and those have a reason.
pub(super) fn check_order(pages: &Pages, view: &View, findings: &mut Findings) {
    let mut arrivals: Vec<&Arrival> = pages.arrivals.iter().filter(|it| it.received.is_some()).collect();
    arrivals.sort_by_key(|arrival| arrival.received);
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut last: BTreeMap<(&str, RecordRef), (u64, Sort)> = BTreeMap::new();
    for arrival in arrivals {
        let Some((record, number, sort)) = version_of(view, arrival) else {
            continue;
        };
        if !seen.insert((&arrival.subscription, &arrival.event_id)) {
            continue;
        }
        if body(arrival).late {
            findings.late += 1;
            if !may_be_late(view, &record, number) {
                findings
                    .violations
                    .push(format!("{record:?} {number} is marked late without a reason"));
            }
            continue;
        }
        let place = last
            .entry((&arrival.subscription, record.clone()))
            .or_insert((0, Sort::Version));
        if *place >= (number, sort) {
            findings.violations.push(format!(
                "order: {record:?} {number} came to {} after {place:?}",
                arrival.subscription
            ));
        }
        *place = (number, sort);
    }
}

/// The source itself showed an older version after a newer one, or the two came by different ways: by two feeds, one of
/// which may be a backfill, out of quarantine, or by a search while a history came to nothing and by the history afterwards.
fn may_be_late(view: &View, record: &RecordRef, number: u64) -> bool {
    let counted = |version: &super::shown::Version| version.counted.unwrap_or(u64::MAX);
    let version = view.versions.get(&(record.clone(), number));
    let mine = version.map_or(0, counted);
    let newer_before = view
        .versions
        .range((record.clone(), number + 1)..=(record.clone(), u64::MAX))
        .any(|(_, newer)| newer.first < mine);
    newer_before
        || version.is_some_and(|version| version.beside)
        || view.shared_types.contains(&(record.0.clone(), record.1.clone()))
        || view.redriven.contains(&record.0)
        || view.caught_up(&record.0, &record.1)
}
