//! What a poller would have lost on the same sources that does no more than the FHIR page on polling prescribes:
//! `GET Type?_lastUpdated=gt[the latest meta.lastUpdated received]` (reference: <https://hl7.org/fhir/R4/search.html#lastUpdated>),
//! at the courier's own interval.
//!
//! It is worked out afterwards, from all that the source kept, so that it disturbs nothing. In all that the page leaves
//! open it is given the better of it: each of its requests is answered at once and whole, no fault of an answer strikes it,
//! its restarts lose nothing, and a version counts only if it stood at one of its polls. So it loses no less than this.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::time::Duration;

use ehr_courier::sandbox::Kept;
use jiff::Timestamp;

use crate::plan::{Kind, SourcePlan};
use crate::world::World;

/// What it came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Naive {
    /// States that stood at one of its polls.
    pub(crate) states: u64,
    /// Of these, those that no answer showed it.
    pub(crate) missed: u64,
    /// Deletes of records that it knew; nothing shows it one.
    pub(crate) deletes: u64,
    /// States at sources that cannot be searched so.
    pub(crate) out_of_reach: u64,
}

impl AddAssign for Naive {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.missed += other.missed;
        self.deletes += other.deletes;
        self.out_of_reach += other.out_of_reach;
    }
}

/// One version as the poller's questions meet it.
struct Version {
    stamp: Timestamp,
    visible_at: Timestamp,
    withheld_since: Option<Timestamp>,
    deleted: bool,
}

impl Version {
    fn of(kept: &Kept) -> Self {
        Self {
            stamp: kept.last_updated.parse().unwrap(),
            visible_at: kept.visible_at.parse().unwrap(),
            withheld_since: kept.withheld_since.as_ref().map(|at| at.parse().unwrap()),
            deleted: kept.deleted,
        }
    }
}

/// Lets it poll the feeds of a whole world, over the time that it lasted.
pub(crate) fn poll_all(world: &World, length: Duration) -> Naive {
    let mut all = Naive::default();
    for source in &world.plan.sources {
        let kept = world.clinics[&source.name].kept();
        for feed in &source.feeds {
            let mut records: BTreeMap<&str, Vec<Version>> = BTreeMap::new();
            for version in kept.iter().filter(|it| it.record_type == feed.record_type) {
                records.entry(&version.id).or_default().push(Version::of(version));
            }
            let records: Vec<Vec<Version>> = records.into_values().collect();
            let mut naive = poll(&records, world.began, (feed.every, length));
            if !can_be_searched(source) {
                naive = Naive {
                    out_of_reach: naive.states,
                    ..Naive::default()
                };
            }
            all += naive;
        }
    }
    all
}

fn can_be_searched(source: &SourcePlan) -> bool {
    matches!(&source.kind, Kind::Clinic { dialect, .. } if !dialect.no_last_updated && !dialect.needs_patient)
}

/// Polls the records of one type, each with its versions in their order.
fn poll(records: &[Vec<Version>], began: Timestamp, (every, length): (Duration, Duration)) -> Naive {
    let mut last_seen: Option<Timestamp> = None;
    let (mut stood, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let (mut known, mut missed_deletes) = (BTreeSet::new(), BTreeSet::new());
    let mut elapsed = Duration::ZERO;
    while elapsed <= length {
        let now = began + elapsed;
        let mut greatest = last_seen;
        for (record, versions) in records.iter().enumerate() {
            let Some(number) = versions.iter().rposition(|version| version.visible_at <= now) else {
                continue;
            };
            let version = &versions[number];
            if version.withheld_since.is_some_and(|since| since <= now) {
                continue;
            }
            if version.deleted {
                if known.contains(&record) {
                    missed_deletes.insert((record, number));
                }
                continue;
            }
            stood.insert((record, number));
            if last_seen.is_none_or(|last_seen| version.stamp > last_seen) {
                seen.insert((record, number));
                known.insert(record);
                greatest = greatest.max(Some(version.stamp));
            }
        }
        last_seen = greatest;
        elapsed += every;
    }
    Naive {
        states: stood.len() as u64,
        missed: stood.difference(&seen).count() as u64,
        deletes: missed_deletes.len() as u64,
        out_of_reach: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(minute: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + MINUTE * u32::try_from(minute).unwrap()
    }

    fn version(stamp: u64, visible: u64, deleted: bool) -> Version {
        Version {
            stamp: at(stamp),
            visible_at: at(visible),
            withheld_since: None,
            deleted,
        }
    }

    #[test]
    fn it_sees_what_is_newer_than_what_it_saw_and_neither_what_comes_late_nor_deletes() {
        let records = [
            vec![version(0, 0, false), version(12, 12, false)],
            // Committed after its stamp was passed.
            vec![version(11, 16, false)],
            // The same stamp as the greatest seen.
            vec![version(12, 16, false)],
            // Replaced between two polls: never stood at one.
            vec![version(13, 13, false), version(14, 14, false)],
            vec![version(0, 0, false), version(21, 21, true)],
        ];
        let naive = poll(&records, at(0), (MINUTE * 5, MINUTE * 30));
        let polled_at_15 = Naive {
            states: 6,
            missed: 2,
            deletes: 1,
            out_of_reach: 0,
        };
        assert_eq!(naive, polled_at_15);
    }
}
