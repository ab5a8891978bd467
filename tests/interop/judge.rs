//! Compares what arrived with what was written and what the server showed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::book::{Book, Record};
use crate::checker::{self, Content, Facts, Shown, Verdict};
use crate::journal::Version;
use crate::proxy::Proxy;
use crate::receiver::Arrival;

/// How the courier finds changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By `_lastUpdated` search: what was overwritten between two polls is not seen, and deletes are found by sweeps.
    Search,
    /// By the server's history, as `auto` finds out: every version and every delete.
    History,
}

/// What is known from elsewhere than the courier.
pub(crate) struct Judge<'a> {
    pub(crate) way: Way,
    pub(crate) connection: &'a str,
    pub(crate) book: &'a Book,
    pub(crate) proxy: &'a Proxy,
    /// Whether records of that type are read one by one.
    pub(crate) is_read: fn(&str) -> bool,
}

impl Judge<'_> {
    /// Judges what arrived at one destination.
    pub(crate) fn judge(&self, arrivals: &[Arrival]) -> Verdict {
        let sums = self.proxy.journal().sums().clone();
        let sum = |version: &Version| sums.get(version).cloned().flatten();
        let versions = self.book.versions();
        let shown: Shown = versions
            .iter()
            .map(|version| (version.clone(), sum(version)))
            .collect();
        let due = self.due(versions);
        let facts = Facts {
            connection: self.connection,
            shown: &shown,
            deletes: &BTreeSet::new(),
            due: &due,
            gone: &self.book.deleted,
            killed: &BTreeSet::new(),
        };
        let arrived = arrivals.iter().collect::<Vec<_>>();
        let mut verdict = checker::judge(&facts, Content::FullResource, &arrived);
        let told: Vec<Told> = arrivals.iter().map(told).collect();
        self.judge_order(&told, &mut verdict);
        self.judge_end(&told, &mut verdict);
        verdict
    }

    /// What must arrive: with a history everything; else what a poll's page showed, and every living record's last
    /// version.
    fn due(&self, versions: BTreeSet<Version>) -> BTreeSet<Version> {
        if self.way == Way::History {
            return versions;
        }
        let last = self.book.last();
        let last = last
            .into_iter()
            .map(|((record_type, id), version)| (record_type, id, version));
        let noted = self.proxy.noted();
        // Where the page named a version only, and the record was gone when it was to be read, nobody can tell it.
        let can_be_told = |version: &&Version| {
            let (record_type, id, _) = version;
            let gone = self.book.deleted.contains(&(record_type.clone(), id.clone()));
            !(gone && (self.is_read)(record_type)) || noted.read.contains(*version)
        };
        let journal = self.proxy.journal();
        let proven = journal.proven().iter().filter(can_be_told).cloned();
        proven.chain(last).collect()
    }

    /// Each record's versions come in the order of their writing, unless they are marked late.
    fn judge_order(&self, told: &[Told], verdict: &mut Verdict) {
        let mut newest: BTreeMap<&Record, usize> = BTreeMap::new();
        for event in told.iter().filter(|event| !event.late) {
            let Some(place) = self.book.place(&event.record, &event.version) else {
                continue;
            };
            let before = newest.entry(&event.record).or_insert(place);
            if place < *before {
                let (record_type, id) = &event.record;
                verdict.problems.push(format!(
                    "order: {record_type}/{id} its {place}th version came after the {before}th"
                ));
            }
            *before = place.max(*before);
        }
    }

    /// The last that was told of each record is how it stands: its last version, or that it was deleted.
    fn judge_end(&self, told: &[Told], verdict: &mut Verdict) {
        let on_time = told.iter().filter(|event| !event.late);
        let end: BTreeMap<&Record, &Told> = on_time.map(|event| (&event.record, event)).collect();
        for (record, version) in self.book.last() {
            if end.get(&record).is_none_or(|event| event.version != version) {
                verdict
                    .lost
                    .push((record.0, record.1, format!("{version} at last")));
            }
        }
        let noted = self.proxy.noted();
        let seen = |record: &&Record| self.way == Way::History || noted.swept.contains(*record);
        for record in self.book.deleted.iter().filter(seen) {
            if end.get(record).is_none_or(|event| !event.deleted) {
                let (record_type, id) = record.clone();
                verdict.lost.push((record_type, id, "delete".to_owned()));
            }
        }
        if self.way == Way::History && verdict.lost.is_empty() {
            if verdict.deletes != self.book.deleted.len() {
                let count = verdict.deletes;
                verdict.problems.push(format!("{count} deletes arrived"));
            }
            if verdict.late > 0 {
                let count = verdict.late;
                verdict.problems.push(format!("order: {count} events came late"));
            }
        }
    }
}

/// What one event says.
struct Told {
    record: Record,
    version: String,
    deleted: bool,
    late: bool,
}

fn told(arrival: &Arrival) -> Told {
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let subject = text("subject");
    let (record_type, id) = subject.split_once('/').unwrap();
    Told {
        record: (record_type.to_owned(), id.to_owned()),
        version: text("recordversion"),
        deleted: text("type") == "ehr.record.deleted",
        late: body["late"] == true,
    }
}
