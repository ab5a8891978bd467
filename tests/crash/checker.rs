//! Compares what arrived with what the source showed, given when the courier was killed.
//!
//! Everything is worked out anew from the source's own book and the notifications' bytes, event ids included.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aws_lc_rs::digest;
use serde_json::Value;

use crate::journal::Version;
use crate::receiver::Arrival;

/// Deliveries that the courier has in flight to one destination.
const IN_FLIGHT_MAX: usize = 64;

/// Deliveries that have ended, but of which the courier may not have recorded that yet.
const UNRECORDED_MAX: usize = 256;

/// So many deliveries to one destination may be repeated after a kill.
const REPEATS_MAX: usize = IN_FLIGHT_MAX + UNRECORDED_MAX;

/// How much a subscription's notifications carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// The reference.
    IdOnly,
    /// The record, byte for byte.
    FullResource,
}

/// What the source showed, by version: the SHA-256 of its bytes where that is known.
pub(crate) type Shown = BTreeMap<Version, Option<String>>;

/// What the checker knows from elsewhere than the courier.
pub(crate) struct Facts<'a> {
    /// The connection's name.
    pub(crate) connection: &'a str,
    /// Every version with a record ever shown.
    pub(crate) shown: &'a Shown,
    /// Every delete that a history told, with its own version.
    pub(crate) deletes: &'a BTreeSet<Version>,
    /// Those that must arrive.
    pub(crate) due: &'a BTreeSet<Version>,
    /// Records that were told to be gone.
    pub(crate) gone: &'a BTreeSet<(String, String)>,
    /// The courier's lives that ended by a kill.
    pub(crate) killed: &'a BTreeSet<u64>,
}

/// What came of one subscription.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Versions that arrived.
    pub(crate) versions: BTreeSet<Version>,
    /// Deletes that arrived.
    pub(crate) deletes: usize,
    /// Events marked late.
    pub(crate) late: usize,
    /// Versions that must have arrived and did not.
    pub(crate) lost: Vec<Version>,
    /// Repeated arrivals for each killed life that explains them.
    pub(crate) repeated: BTreeMap<u64, usize>,
    /// Everything else that is wrong, in words.
    pub(crate) problems: Vec<String>,
    /// The ids that arrived.
    pub(crate) ids: BTreeSet<String>,
}

impl Verdict {
    /// How many versions arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.versions.len()
    }

    /// Repeated arrivals over all kills.
    pub(crate) fn duplicates(&self) -> usize {
        self.repeated.values().sum()
    }

    /// Asserts that nothing is wrong, naming the first few findings if it is not so.
    pub(crate) fn describe(&self) -> Option<String> {
        if self.lost.is_empty() && self.problems.is_empty() {
            return None;
        }
        let mut text = format!("lost {}, problems {}", self.lost.len(), self.problems.len());
        for version in self.lost.iter().take(10) {
            write!(text, "\n  lost {version:?}").unwrap();
        }
        for problem in self.problems.iter().take(20) {
            write!(text, "\n  {problem}").unwrap();
        }
        Some(text)
    }
}

/// One notification's envelope, as far as the checker needs it.
struct Envelope {
    record: (String, String),
    version: String,
    kind: String,
    sequence: u64,
    late: bool,
}

/// Judges the arrivals of one subscription.
pub(crate) fn judge(facts: &Facts<'_>, content: Content, arrivals: &[&Arrival]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut first: BTreeMap<&str, &Arrival> = BTreeMap::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    let mut versions: BTreeSet<Version> = BTreeSet::new();
    for arrival in arrivals {
        if let Some(original) = first.get(arrival.id.as_str()) {
            if original.body != arrival.body {
                verdict
                    .problems
                    .push(format!("{} came again with other bytes", arrival.id));
            }
            explain(facts, arrival, last[arrival.id.as_str()], &mut verdict);
            last.insert(&arrival.id, arrival.life);
            continue;
        }
        first.insert(&arrival.id, arrival);
        last.insert(&arrival.id, arrival.life);
        let envelope = envelope(&arrival.body);
        numbers.insert(envelope.sequence);
        verdict.late += usize::from(envelope.late);
        identify(facts, arrival, &envelope, &mut verdict, &mut versions);
        if content == Content::FullResource && envelope.kind != "deleted" {
            compare_record(facts, arrival, &envelope, &mut verdict);
        }
        keep_order(&envelope, &mut newest, &mut verdict);
    }
    let dense = (1..).zip(&numbers).all(|(expected, number)| expected == *number);
    if !dense || numbers.len() != first.len() {
        let (count, greatest) = (first.len(), numbers.last());
        verdict.problems.push(format!(
            "numbers are not dense: {count} events, greatest number {greatest:?}"
        ));
    }
    for (life, count) in &verdict.repeated {
        if *count > REPEATS_MAX {
            verdict.problems.push(format!(
                "the kill of life {life} explains {REPEATS_MAX} repeats at most, not {count}"
            ));
        }
    }
    verdict.lost = facts.due.difference(&versions).cloned().collect();
    verdict.versions = versions;
    verdict.ids = first.into_keys().map(str::to_owned).collect();
    verdict
}

/// A repeat is explained by the kill of the earlier of the two lives that sent it: no life sends anything twice.
fn explain(facts: &Facts<'_>, arrival: &Arrival, before: u64, verdict: &mut Verdict) {
    let earlier = before.min(arrival.life);
    if before != arrival.life && facts.killed.contains(&earlier) {
        *verdict.repeated.entry(earlier).or_default() += 1;
    } else {
        verdict
            .problems
            .push(format!("{} came again and no kill explains it", arrival.id));
    }
}

fn identify(
    facts: &Facts<'_>,
    arrival: &Arrival,
    envelope: &Envelope,
    verdict: &mut Verdict,
    versions: &mut BTreeSet<Version>,
) {
    if envelope.kind == "deleted" {
        verdict.deletes += 1;
        if !facts.gone.contains(&envelope.record) {
            verdict.problems.push(format!(
                "phantom: {} tells of a delete that never was",
                arrival.id
            ));
        }
        // One that a read found has no version of its own.
        let (record_type, id) = envelope.record.clone();
        let version = (record_type, id, envelope.version.clone());
        if facts.deletes.contains(&version) {
            versions.insert(version);
        }
        return;
    }
    let (record_type, id) = envelope.record.clone();
    if arrival.id
        != event_id(
            facts.connection,
            &record_type,
            &id,
            &format!("v:{}", envelope.version),
        )
    {
        verdict
            .problems
            .push(format!("{} is not the id of what it tells", arrival.id));
    }
    let version = (record_type, id, envelope.version.clone());
    if !facts.shown.contains_key(&version) {
        verdict
            .problems
            .push(format!("phantom: {version:?} was never shown"));
    }
    versions.insert(version);
}

/// The record must stand in the notification as the source wrote it: it is the tail of the envelope.
fn compare_record(facts: &Facts<'_>, arrival: &Arrival, envelope: &Envelope, verdict: &mut Verdict) {
    let (record_type, id) = envelope.record.clone();
    let Some(Some(wanted)) = facts.shown.get(&(record_type, id, envelope.version.clone())) else {
        return;
    };
    let marker = b",\"data\":";
    let start = arrival
        .body
        .windows(marker.len())
        .position(|window| window == marker)
        .map(|at| at + marker.len());
    let data = start.and_then(|start| arrival.body.get(start..arrival.body.len() - 1));
    let record = data.map(without_context);
    if record.map(sha256).as_ref() != Some(wanted) {
        verdict
            .problems
            .push(format!("{} does not carry the record's own bytes", arrival.id));
    }
}

/// The record itself, where it travels with those that it refers to.
fn without_context(data: &[u8]) -> &[u8] {
    #[derive(serde::Deserialize)]
    struct WithContext<'a> {
        #[serde(borrow)]
        record: &'a serde_json::value::RawValue,
        #[serde(rename = "included")]
        _included: Vec<serde::de::IgnoredAny>,
        #[serde(rename = "missing")]
        _missing: Vec<String>,
    }
    serde_json::from_slice::<WithContext<'_>>(data).map_or(data, |with| with.record.get().as_bytes())
}

fn keep_order(envelope: &Envelope, newest: &mut BTreeMap<(String, String), u64>, verdict: &mut Verdict) {
    let Ok(number) = envelope.version.parse::<u64>() else {
        return;
    };
    let newest = newest.entry(envelope.record.clone()).or_default();
    if number < *newest && !envelope.late {
        let (record_type, id) = &envelope.record;
        verdict.problems.push(format!(
            "order: {record_type}/{id} version {number} came after {newest}"
        ));
    }
    *newest = number.max(*newest);
}

fn envelope(body: &[u8]) -> Envelope {
    let value: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    let subject = text("subject");
    let (record_type, id) = subject.split_once('/').unwrap();
    Envelope {
        record: (record_type.to_owned(), id.to_owned()),
        version: text("recordversion"),
        kind: text("type").strip_prefix("ehr.record.").unwrap().to_owned(),
        sequence: text("sequence").parse().unwrap(),
        late: value["late"] == true,
    }
}

/// The event id as ARCHITECTURE.md defines it, worked out here anew.
pub(crate) fn event_id(connection: &str, record_type: &str, id: &str, version_key: &str) -> String {
    let mut text = Vec::new();
    for part in [connection, record_type, id, version_key] {
        text.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    let hash = digest::digest(&digest::SHA256, &text);
    format!(
        "ev_{}",
        data_encoding::BASE32_NOPAD
            .encode(&hash.as_ref()[..20])
            .to_lowercase()
    )
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(version: u64, number: u64, life: u64) -> Arrival {
        let id = event_id("clinic", "Patient", "1", &format!("v:{version}"));
        let body = format!(
            r#"{{"specversion":"1.0","id":"{id}","type":"ehr.record.updated","subject":"Patient/1","recordversion":"{version}","sequence":"{number:020}"}}"#
        );
        Arrival {
            subscription: "ids".to_owned(),
            life,
            id,
            body: body.into(),
        }
    }

    fn finding(arrivals: &[Arrival], killed: &[u64]) -> Option<String> {
        let version = |number: u64| ("Patient".to_owned(), "1".to_owned(), number.to_string());
        let shown: Shown = [1, 2, 3].map(|number| (version(number), None)).into();
        let due: BTreeSet<Version> = shown.keys().cloned().collect();
        let facts = Facts {
            connection: "clinic",
            shown: &shown,
            deletes: &BTreeSet::new(),
            due: &due,
            gone: &BTreeSet::new(),
            killed: &killed.iter().copied().collect(),
        };
        let arrivals: Vec<&Arrival> = arrivals.iter().collect();
        judge(&facts, Content::IdOnly, &arrivals).describe()
    }

    #[test]
    fn the_checker_finds_each_kind_of_fault() {
        let good = vec![arrival(1, 1, 1), arrival(2, 2, 1), arrival(3, 3, 1)];
        let with = |more: Arrival| [good.clone(), vec![more]].concat();
        let check = |arrivals: &[Arrival], killed: &[u64], words: Option<&str>| {
            let found = finding(arrivals, killed);
            match words {
                None => assert_eq!(found, None),
                Some(words) => assert!(
                    found.as_ref().is_some_and(|text| text.contains(words)),
                    "{found:?}"
                ),
            }
        };
        check(&good, &[], None);
        check(&good[..2], &[], Some("lost 1"));
        check(&with(arrival(4, 4, 1)), &[], Some("phantom"));
        check(&with(arrival(3, 3, 2)), &[], Some("no kill explains"));
        check(&with(arrival(3, 3, 2)), &[2], Some("no kill explains"));
        check(&with(arrival(3, 3, 1)), &[1], Some("no kill explains"));
        check(&with(arrival(3, 3, 2)), &[1], None);
        check(&with(arrival(3, 4, 2)), &[1], Some("other bytes"));
        check(
            &[good[0].clone(), good[2].clone(), good[1].clone()],
            &[],
            Some("order"),
        );
        check(
            &[good[0].clone(), good[1].clone(), arrival(3, 4, 1)],
            &[],
            Some("not dense"),
        );
        let repeats: Vec<Arrival> = (0..=REPEATS_MAX)
            .flat_map(|_| [arrival(3, 3, 2), arrival(3, 3, 1)])
            .collect();
        check(&[good.clone(), repeats].concat(), &[1], Some("repeats at most"));
    }
}
