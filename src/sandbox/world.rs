//! The sandbox's whole state, and how a version comes into it: stamped, and visible, as the faults say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use courier_sdk::Clock;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::answer::Cached;
use super::bundle::Snapshot;
use super::clinic::{Change, Clinic, Draft, Kind};
use super::dialect::Dialect;
use super::faults::{Faults, Strikes};
use super::ledger::{Ledger, stamp_text};
use super::records::{Moment, Records, Version};
use super::refusals::Counts;
use super::shape::Manner;
use super::smart::Grants;
use super::{Options, Written};

/// How long versions may share one stamp: with the longest late commit and a stale answer on top, it stays
/// below the five minutes that a poller looks back by default.
const SHARED_STAMP_MAX: SignedDuration = SignedDuration::from_secs(60);

pub(super) struct World {
    pub(super) options: Options,
    clock: Arc<dyn Clock>,
    pub(super) records: Records,
    pub(super) clinic: Clinic,
    pub(super) dialect: Dialect,
    pub(super) faults: Faults,
    pub(super) strikes: Strikes,
    pub(super) ledger: Ledger,
    /// Draws for faults, apart from the clinic's, so that a switch does not reshuffle its days.
    pub(super) random: Xoshiro256PlusPlus,
    pub(super) snapshots: BTreeMap<u64, Snapshot>,
    pub(super) snapshots_made: u64,
    pub(super) cached: BTreeMap<String, Vec<Cached>>,
    pub(super) burst_left: u32,
    pub(super) counts: Counts,
    pub(super) grants: Grants,
    /// How many reads were answered 304.
    pub(super) not_modified: u64,
    pub(super) bomb: OnceLock<(Bytes, usize)>,
    shared: Option<SharedStamp>,
    /// Versions that a re-index wrote: type, id and number.
    pub(super) touched: BTreeSet<(String, String, u64)>,
}

struct SharedStamp {
    stamp: Timestamp,
    since: Timestamp,
    left: u32,
}

impl World {
    pub(super) fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        let mut world = Self {
            clinic: Clinic::new(Xoshiro256PlusPlus::seed_from_u64(options.seed)),
            random: Xoshiro256PlusPlus::seed_from_u64(options.seed ^ 0xfa17_fa17_fa17_fa17),
            dialect: options.dialect,
            options,
            clock,
            records: Records::default(),
            faults: Faults::default(),
            strikes: Strikes::new(),
            ledger: Ledger::default(),
            snapshots: BTreeMap::new(),
            snapshots_made: 0,
            touched: BTreeSet::new(),
            cached: BTreeMap::new(),
            burst_left: 0,
            counts: Counts::default(),
            grants: Grants::default(),
            not_modified: 0,
            bomb: OnceLock::new(),
            shared: None,
        };
        world.open();
        world
    }

    /// The true time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The time by the sandbox's own clock, which may be skewed.
    pub(super) fn own_now(&self) -> Timestamp {
        let skew = SignedDuration::from_secs(self.faults.clock_skew_seconds);
        self.now().checked_add(skew).unwrap_or_else(|_| self.now())
    }

    /// The time that `Date` tells, which may be off by itself.
    pub(super) fn date_now(&self) -> Timestamp {
        let skew = SignedDuration::from_secs(self.faults.date_skew_seconds);
        self.own_now()
            .checked_add(skew)
            .unwrap_or_else(|_| self.own_now())
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share.min(1.0))
    }

    pub(super) fn step(&mut self) -> Vec<Written> {
        let now = self.own_now();
        let mut drafts = self.clinic.step(now);
        drafts.extend(self.happenings());
        let mut written: Vec<Written> = drafts
            .into_iter()
            .filter_map(|draft| self.commit(draft))
            .collect();
        written.extend(self.perhaps_reindexed());
        self.perhaps_moved_out();
        written
    }

    pub(super) fn put(&mut self, record_type: &str, id: &str, members: &str, change: Change) -> Written {
        let key = (record_type, id);
        if let Some(replaced) = self.perhaps_replaced(key, members) {
            return written(&replaced, change);
        }
        let mut at = self.moment();
        if let Some(stamp) = self.perhaps_unmoved(key, at.stamp) {
            at.stamp = stamp;
        }
        let manner = self.manner();
        written(&self.records.put(key, members, (at, manner)), change)
    }

    /// In which way the next version is written down.
    pub(super) fn manner(&mut self) -> Manner {
        let mixed = self.chance(self.faults.mixed_types.share);
        if mixed {
            self.strikes.count("mixed_types");
        }
        Manner {
            dialect: self.dialect,
            arrangement: None,
            mixed,
        }
    }

    pub(super) fn delete(&mut self, record_type: &str, id: &str) -> Option<Written> {
        if let Some(kind) = Kind::named(record_type) {
            self.clinic.forget(kind, id);
        }
        let mut at = self.stamp();
        // A delete is never late: nothing but its absence shows it.
        at.visible_at = self.now();
        let manner = self.manner();
        self.records
            .delete((record_type, id), (at, manner))
            .map(|version| written(&version, Change::Deleted))
    }

    pub(super) fn commit(&mut self, draft: Draft) -> Option<Written> {
        match draft.members {
            Some(members) => Some(self.put(draft.kind.name(), &draft.id, &members, draft.change)),
            None => self.delete(draft.kind.name(), &draft.id),
        }
    }

    fn open(&mut self) {
        let now = self.now();
        let patients = self.options.patients.max(1);
        let span_ms = i64::from(self.options.history_days.max(1)) * 86_400_000;
        let rows = i64::try_from(patients * 2 + 3).unwrap_or(i64::MAX);
        let manner = self.manner();
        let at = |row: i64| {
            let before = SignedDuration::from_millis(span_ms - span_ms / (rows + 1) * (row + 1));
            let began = now.checked_sub(before).unwrap_or(now);
            Moment {
                stamp: manner.dialect.floor(began),
                visible_at: began,
            }
        };
        for row in 0..rows {
            let moment = at(row);
            let drafts = match row {
                0..3 => vec![self.clinic.register(Kind::Practitioner, moment.stamp)],
                _ if row % 2 == 1 => vec![self.clinic.register(Kind::Patient, moment.stamp)],
                _ => self.clinic.book(moment.stamp),
            };
            for draft in drafts {
                self.records.put(
                    (draft.kind.name(), &draft.id),
                    draft.members.as_deref().unwrap_or_default(),
                    (moment, manner),
                );
            }
        }
    }

    /// When the next version is stamped and visible.
    fn moment(&mut self) -> Moment {
        let mut at = self.stamp();
        if self.chance(self.faults.future_stamp.share) {
            self.strikes.count("future_stamp");
            at.stamp = "2099-01-01T00:00:00Z".parse().unwrap_or(at.stamp);
        }
        if self.chance(self.faults.late_commits.share) {
            self.strikes.count("late_commits");
            let delay = self
                .random
                .random_range(1..=self.faults.late_commits.delay_ms_max.max(1));
            let delay = SignedDuration::from_millis(i64::try_from(delay).unwrap_or(i64::MAX));
            at.visible_at = at.visible_at.checked_add(delay).unwrap_or(at.visible_at);
        }
        at
    }

    pub(super) fn stamp(&mut self) -> Moment {
        let now = self.now();
        let own = self.own_now();
        if self.faults.clock_skew_seconds != 0 {
            self.strikes.count("clock_skew_seconds");
        }
        let fresh = Moment {
            stamp: self.dialect.floor(own),
            visible_at: now,
        };
        let run = self.faults.equal_timestamps.run;
        if run < 2 {
            self.shared = None;
            return fresh;
        }
        let usable = |shared: &&mut SharedStamp| {
            shared.left > 0 && now.duration_since(shared.since) <= SHARED_STAMP_MAX
        };
        if let Some(shared) = self.shared.as_mut().filter(usable) {
            shared.left -= 1;
            self.strikes.count("equal_timestamps");
            return Moment {
                stamp: shared.stamp,
                visible_at: now,
            };
        }
        self.shared = Some(SharedStamp {
            stamp: fresh.stamp,
            since: now,
            left: run - 1,
        });
        fresh
    }
}

pub(super) fn written(version: &Version, change: Change) -> Written {
    Written {
        record_type: version.record_type.clone(),
        id: version.id.clone(),
        version_id: version.tag.clone(),
        last_updated: version.stamp_text.clone(),
        visible_at: stamp_text(version.visible_at),
        change,
    }
}
