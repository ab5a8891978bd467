//! What was lost, what was invented and what was misunderstood, told from the sandbox's own books and what arrived, and
//! from nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ehr_courier::sandbox::{Ehr, Kept, Shown};
use jiff::Timestamp;
use serde_json::Value;

use super::mode::Due;

/// One event that arrived.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrived {
    pub(crate) event_id: String,
    /// Type and id.
    pub(crate) subject: String,
    /// SHA-256 of the record as it arrived, in hexadecimal; absent for a delete.
    pub(crate) sha256: Option<String>,
    /// What the notification says of it: the last part of its type, `reason`, `mergedinto`, and whether it is late.
    pub(crate) told: Told,
    /// What the record says of itself.
    pub(crate) said: Said,
}

/// What a notification says of its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) reason: Option<String>,
    pub(crate) merged_into: Option<String>,
    pub(crate) late: bool,
}

/// What a record says of itself: its status, and by whom it is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    status: Option<String>,
    replaced_by: Option<String>,
}

impl Said {
    pub(crate) fn of(record: &Value) -> Self {
        let links = record["link"].as_array().map_or(&[][..], Vec::as_slice);
        let replaced_by = links.iter().find(|link| link["type"] == "replaced-by");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            status: text(&record["status"]),
            replaced_by: replaced_by.and_then(|link| text(&link["other"]["reference"])),
        }
    }
}

/// What the books say at one moment.
pub(crate) struct Books {
    shown: Vec<Shown>,
    /// The versions of each record in their order, as far as they are visible.
    kept: BTreeMap<String, Vec<Kept>>,
}

impl Books {
    /// Reads a sandbox's books about these types.
    pub(crate) fn of(ehr: &Ehr, types: &[&str], now: Timestamp) -> Self {
        let of_types = |record_type: &str| types.contains(&record_type);
        let mut shown = ehr.ledger();
        shown.retain(|it| of_types(&it.record_type));
        let mut kept: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
        for version in ehr.kept() {
            let visible = version.visible_at.parse::<Timestamp>().unwrap() <= now;
            if visible && of_types(&version.record_type) {
                let subject = format!("{}/{}", version.record_type, version.id);
                kept.entry(subject).or_default().push(version);
            }
        }
        Self { shown, kept }
    }

    /// How many versions there are.
    pub(crate) fn versions(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    /// What arrived and means something else than its record says.
    pub(crate) fn misunderstood(&self, arrived: &BTreeSet<Arrived>) -> Vec<String> {
        let mut wrong = Vec::new();
        for event in arrived.iter().filter(|it| it.sha256.is_some()) {
            let (told, said) = (&event.told, &event.said);
            let merged = said.replaced_by.is_some();
            let reason = match said.status.as_deref() {
                Some(status @ ("entered-in-error" | "cancelled")) => Some(status),
                _ => None,
            };
            let understood = (told.kind == "merged") == merged
                && told.merged_into == said.replaced_by
                && told.reason.as_deref().filter(|it| *it != "unmerged") == reason;
            if !understood {
                wrong.push(format!("{} says {said:?}, told is {told:?}", event.subject));
            }
        }
        wrong.extend(self.wrongly_parted(arrived));
        wrong
    }

    /// What is told as the parting of a merge and is none, or is one and not told so: the version told before it says
    /// that the patient was merged, and it does not.
    fn wrongly_parted(&self, arrived: &BTreeSet<Arrived>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (subject, events) in self.in_order(arrived) {
            // After a late version or a delete the order in which they were told is another; that of a content which was
            // replaced since nobody knows.
            if events
                .iter()
                .any(|it| it.told.late || self.place(&subject, it).is_none())
            {
                continue;
            }
            let mut merged = false;
            for event in events {
                let parted = merged && event.said.replaced_by.is_none();
                merged = event.said.replaced_by.is_some();
                if (event.told.reason.as_deref() == Some("unmerged")) != parted {
                    wrong.push(format!("{subject} parted: {parted}, told is {:?}", event.told));
                }
            }
        }
        wrong
    }

    /// Versions that a re-index wrote and that were told of although the content before it had arrived.
    pub(crate) fn repeated(&self, arrived: &BTreeSet<Arrived>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (subject, events) in self.in_order(arrived) {
            let content = |event: &&Arrived| Some(self.content_of(&subject, event.sha256.as_deref()?));
            for pair in events.windows(2) {
                let [before, after] = pair else { continue };
                let known = content(before).filter(Option::is_some);
                if known.is_some() && known == content(after) {
                    wrong.push(format!("{subject} is told of again with the content that it had"));
                }
            }
        }
        wrong
    }

    /// What arrived of each record, in the order of its versions; deletes last.
    fn in_order<'a>(&self, arrived: &'a BTreeSet<Arrived>) -> BTreeMap<String, Vec<&'a Arrived>> {
        let mut by_record: BTreeMap<String, Vec<&Arrived>> = BTreeMap::new();
        for event in arrived {
            by_record.entry(event.subject.clone()).or_default().push(event);
        }
        for (subject, events) in &mut by_record {
            events.sort_by_key(|event| self.place(subject, event).unwrap_or(usize::MAX));
        }
        by_record
    }

    /// The place of an event's version among those of its record.
    fn place(&self, subject: &str, event: &Arrived) -> Option<usize> {
        let versions = self.kept.get(subject)?;
        versions
            .iter()
            .position(|it| Some(&it.sha256) == event.sha256.as_ref())
    }

    /// The place of the version from which on a record had the content that a version has.
    fn content_of(&self, subject: &str, sha256: &str) -> Option<usize> {
        let versions = self.kept.get(subject)?;
        let place = versions.iter().position(|it| it.sha256 == sha256)?;
        (0..=place)
            .rev()
            .find(|index| versions.get(*index).is_some_and(|it| !it.touched))
    }

    /// The same versions, as if the content of each that a re-index wrote had arrived where that of the one before did.
    pub(crate) fn with_repetitions(&self, arrived: &BTreeSet<Arrived>) -> BTreeSet<Arrived> {
        let mut all = arrived.clone();
        for (subject, events) in self.in_order(arrived) {
            let contents: BTreeSet<_> = events
                .iter()
                .filter_map(|it| self.content_of(&subject, it.sha256.as_deref()?))
                .collect();
            for version in self
                .kept
                .get(&subject)
                .into_iter()
                .flatten()
                .filter(|it| it.touched)
            {
                let content = self.content_of(&subject, &version.sha256);
                if content.is_some_and(|it| contents.contains(&it)) {
                    all.insert(Arrived {
                        event_id: String::new(),
                        subject: subject.clone(),
                        sha256: Some(version.sha256.clone()),
                        told: Told::default(),
                        said: Said::default(),
                    });
                }
            }
        }
        all
    }

    /// What must have arrived and has not. `each_as_shown` says whether each version that a page showed can be had, even
    /// if it is replaced by the time it is read.
    pub(crate) fn lost(&self, due: Due, each_as_shown: bool, arrived: &BTreeSet<Arrived>) -> Vec<String> {
        let bodies: BTreeSet<(&str, &str)> = arrived
            .iter()
            .filter_map(|it| Some((it.subject.as_str(), it.sha256.as_deref()?)))
            .collect();
        let deleted: BTreeSet<&str> = arrived
            .iter()
            .filter(|it| it.sha256.is_none())
            .map(|it| it.subject.as_str())
            .collect();
        let versions_told: BTreeSet<(String, &str)> = self
            .shown
            .iter()
            .map(|it| (format!("{}/{}", it.record_type, it.id), it))
            .filter(|(subject, it)| bodies.contains(&(subject.as_str(), it.sha256.as_str())))
            .map(|(subject, it)| (subject, it.version_id.as_str()))
            .collect();
        let mut lost = Vec::new();
        for shown in &self.shown {
            let subject = format!("{}/{}", shown.record_type, shown.id);
            // An older version that a cache brings up after a newer one is no news.
            let has_arrived = if shown.shown_after_newer {
                true
            } else if shown.deleted {
                // Gone before anything of it was told: there is nothing to take back.
                let never_told = || !bodies.iter().any(|(told, _)| *told == subject);
                deleted.contains(subject.as_str()) || (!each_as_shown && never_told())
            } else {
                // Of a version whose content was replaced one content is enough.
                let told = versions_told.contains(&(subject.clone(), shown.version_id.as_str()));
                let owed_by_itself = shown.times > 0 && each_as_shown;
                told || (!owed_by_itself && self.has_come_so_far(&subject, &shown.version_id, &bodies))
            };
            if !has_arrived {
                lost.push(format!("{subject} {} was shown", shown.version_id));
            }
        }
        for (subject, versions) in &self.kept {
            let withheld = versions.iter().any(|it| it.withheld_since.is_some());
            let owed = match due {
                Due::Shown => &[][..],
                _ if withheld => &[],
                Due::State => versions.last().map_or(&[][..], std::slice::from_ref),
                Due::EveryVersion => versions.as_slice(),
            };
            for version in owed {
                let has_arrived = match (version.deleted, due) {
                    // A search shows no delete: none is owed by it.
                    (true, Due::Shown | Due::State) => true,
                    (true, Due::EveryVersion) => deleted.contains(subject.as_str()),
                    (false, _) => bodies.contains(&(subject.as_str(), version.sha256.as_str())),
                };
                if !has_arrived {
                    lost.push(format!("{subject} {} is there", version.version_id));
                }
            }
        }
        lost
    }

    /// A version that was shown by its id alone is told of by it or by what came after it.
    fn has_come_so_far(&self, subject: &str, version_id: &str, bodies: &BTreeSet<(&str, &str)>) -> bool {
        let versions = self.kept.get(subject).map_or(&[][..], Vec::as_slice);
        let from = versions.iter().position(|it| it.version_id == version_id);
        let mut rest = versions.iter().skip(from.unwrap_or(0));
        rest.any(|it| {
            // Gone or out of reach before it was read; where a read told of the delete, that was shown.
            it.withheld_since.is_some() || it.deleted || bodies.contains(&(subject, it.sha256.as_str()))
        })
    }

    /// What arrived and never was, or arrived under two names.
    pub(crate) fn phantom(&self, arrived: &BTreeSet<Arrived>) -> Vec<String> {
        let shown: BTreeSet<(String, &str)> = self
            .shown
            .iter()
            .filter(|it| it.times > 0 && !it.deleted)
            .map(|it| (format!("{}/{}", it.record_type, it.id), it.sha256.as_str()))
            .collect();
        let mut told: BTreeSet<(&str, Option<&str>)> = BTreeSet::new();
        let mut phantom = Vec::new();
        for event in arrived {
            let real = match &event.sha256 {
                Some(sha256) => shown.contains(&(event.subject.clone(), sha256.as_str())),
                None => self
                    .kept
                    .get(&event.subject)
                    .is_some_and(|versions| versions.iter().any(|it| it.deleted)),
            };
            if !real {
                phantom.push(format!("{} never was so", event.subject));
            }
            if !told.insert((&event.subject, event.sha256.as_deref())) {
                phantom.push(format!("{} is told of twice", event.subject));
            }
        }
        phantom
    }
}
