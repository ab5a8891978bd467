//! Faults of what is written: changes that tell less than they should, a re-index that tells more, patients merged and
//! parted, records retracted, and records that move out of the client's access.

use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;

use super::Written;
use super::clinic::{Change, Draft};
use super::records::{Members, Version};
use super::shape::Manner;
use super::world::{World, written};

/// The types of which single records move out of access: nothing else refers to them.
const MOVABLE: [&str; 3] = ["Appointment", "Observation", "DiagnosticReport"];

impl World {
    /// What the switches let happen in the clinic at this step, beside its own next change.
    pub(super) fn happenings(&mut self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        if self.chance(self.faults.merge.share) {
            let merged = self.clinic.merge();
            self.count_if(!merged.is_empty(), "merge");
            drafts.extend(merged);
        }
        if self.chance(self.faults.unmerge.share) {
            let parted = self.clinic.unmerge();
            self.count_if(!parted.is_empty(), "unmerge");
            drafts.extend(parted);
        }
        if self.chance(self.faults.entered_in_error.share) {
            let retracted = self.clinic.retract();
            self.count_if(retracted.is_some(), "entered_in_error");
            drafts.extend(retracted);
        }
        drafts
    }

    /// Writes every record anew with the content that it has, under one stamp.
    pub(super) fn perhaps_reindexed(&mut self) -> Vec<Written> {
        if !self.chance(self.faults.touch_all.share) {
            return Vec::new();
        }
        let now = self.now();
        let newest: Vec<Arc<Version>> = self
            .records
            .everything()
            .filter(|version| self.is_newest(version) && version.visible_at <= now)
            .cloned()
            .collect();
        let at = self.stamp();
        let manner = self.manner();
        let mut touched = Vec::new();
        for version in newest {
            let Some(members) = members_of(&version) else {
                continue;
            };
            let manner = Manner {
                arrangement: Some(version.arrangement),
                ..manner
            };
            let key = (version.record_type.as_str(), version.id.as_str());
            let again = self.records.put(key, &members, (at, manner));
            self.touched
                .insert((again.record_type.clone(), again.id.clone(), again.number));
            touched.push(written(&again, Change::Touched));
        }
        self.count_if(!touched.is_empty(), "touch_all");
        touched
    }

    /// Replaces a record's content under the version and stamp that it has.
    pub(super) fn perhaps_replaced(&mut self, key: (&str, &str), members: &str) -> Option<Arc<Version>> {
        if !self.chance(self.faults.silent_content.share) {
            return None;
        }
        let newest = self.newest(key)?;
        let manner = Manner {
            arrangement: Some(newest.arrangement),
            ..self.manner()
        };
        let replaced = self.records.replace(key, members, manner)?;
        self.strikes.count("silent_content");
        Some(replaced)
    }

    /// The stamp that a new version keeps of the one before it.
    pub(super) fn perhaps_unmoved(&mut self, key: (&str, &str), fresh: Timestamp) -> Option<Timestamp> {
        if !self.chance(self.faults.silent_change.share) {
            return None;
        }
        let newest = self.newest(key).filter(|newest| newest.body.is_some())?;
        self.count_if(newest.stamp != fresh, "silent_change");
        Some(newest.stamp)
    }

    /// Takes one record out of the client's access.
    pub(super) fn perhaps_moved_out(&mut self) {
        if !self.chance(self.faults.moved_out.share) {
            return;
        }
        let now = self.now();
        let candidates: Vec<Arc<Version>> = MOVABLE
            .into_iter()
            .flat_map(|record_type| self.records.all_current(record_type, now))
            .cloned()
            .collect();
        let chosen = self.draw_below(candidates.len());
        if let Some(version) = chosen.and_then(|chosen| candidates.get(chosen)) {
            self.records.withhold(&version.record_type, &version.id, now);
            self.strikes.count("moved_out");
        }
    }

    /// Whether a share of all records, always the same ones, holds this one.
    pub(super) fn is_among(&self, share: f64, fault: &str, (record_type, id): (&str, &str)) -> bool {
        if share <= 0.0 {
            return false;
        }
        let name = format!("{}/{fault}/{record_type}/{id}", self.options.seed);
        let digest = digest::digest(&digest::SHA256, name.as_bytes());
        let head = digest.as_ref().iter().take(4);
        let head = head.fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        f64::from(head) < share * (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn count_if(&mut self, struck: bool, name: &'static str) {
        if struck {
            self.strikes.count(name);
        }
    }

    fn newest(&self, (record_type, id): (&str, &str)) -> Option<Arc<Version>> {
        self.records.versions_of(record_type, Some(id)).last().cloned()
    }

    fn is_newest(&self, version: &Arc<Version>) -> bool {
        let key = (version.record_type.as_str(), version.id.as_str());
        self.newest(key)
            .is_some_and(|newest| Arc::ptr_eq(&newest, version))
    }
}

/// The members of a version's body that the sandbox did not write itself.
fn members_of(version: &Version) -> Option<String> {
    let members: Members = serde_json::from_slice(version.body.as_ref()?).ok()?;
    Some(members.body_text())
}
