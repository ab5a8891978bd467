//! A small clinic of synthetic patients, whose days go on one change at a time.
//!
//! It decides what happens next (booked, moved, cancelled, arrived, finished, measured, reported, amended,
//! corrected, merged, deleted) and knows the present state only. It knows nothing of versions, stamps,
//! visibility or requests.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::text;

/// The record types of the clinic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are FHIR's own")]
pub enum Kind {
    Patient,
    Practitioner,
    Appointment,
    Encounter,
    Observation,
    DiagnosticReport,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Patient,
        Self::Practitioner,
        Self::Appointment,
        Self::Encounter,
        Self::Observation,
        Self::DiagnosticReport,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Patient => "Patient",
            Self::Practitioner => "Practitioner",
            Self::Appointment => "Appointment",
            Self::Encounter => "Encounter",
            Self::Observation => "Observation",
            Self::DiagnosticReport => "DiagnosticReport",
        }
    }

    /// Whether records of this type belong to a patient.
    pub(super) fn is_about_a_patient(self) -> bool {
        !matches!(self, Self::Patient | Self::Practitioner)
    }

    /// The search parameter of when a record's matter takes place.
    pub(super) fn date_parameter(self) -> Option<&'static str> {
        match self {
            Self::Appointment | Self::Encounter | Self::Observation => Some("date"),
            Self::DiagnosticReport => Some("issued"),
            Self::Patient | Self::Practitioner => None,
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Patient => "pat",
            Self::Practitioner => "dr",
            Self::Appointment => "apt",
            Self::Encounter => "enc",
            Self::Observation => "obs",
            Self::DiagnosticReport => "rep",
        }
    }
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A patient was registered.
    Registered,
    /// An appointment was booked.
    Booked,
    /// An appointment was moved to another time.
    Moved,
    /// An appointment was cancelled.
    Cancelled,
    /// A patient arrived: the appointment.
    Arrived,
    /// A visit began: the encounter.
    Started,
    /// A visit ended: the encounter or its appointment.
    Finished,
    /// Something was measured.
    Measured,
    /// A report was begun, as preliminary.
    Reported,
    /// A report went on: final, then amended.
    Amended,
    /// A detail was corrected.
    Corrected,
    /// Two patients were merged: the survivor or the other one.
    Merged,
    /// Two merged patients were parted again: either of them.
    Parted,
    /// A record was entered in error.
    Retracted,
    /// Nothing happened but to its version and stamp.
    Touched,
    /// A record was deleted.
    Deleted,
}

/// One record's present state.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) patient: String,
    pub(super) status: &'static str,
    pub(super) at: Timestamp,
    pub(super) revision: u32,
    pub(super) draw: u32,
    /// The relation and the id of the patient that this one was merged with.
    pub(super) link: Option<(&'static str, String)>,
}

/// A change that the clinic wants written.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) change: Change,
    /// The record's members as JSON text; absent for a delete.
    pub(super) members: Option<String>,
}

/// The smallest number of active patients; below it a new one is registered.
const ACTIVE_PATIENTS_MIN: usize = 4;

pub(super) struct Clinic {
    items: BTreeMap<(Kind, String), Item>,
    numbers: BTreeMap<Kind, u32>,
    random: Xoshiro256PlusPlus,
}

impl Clinic {
    pub(super) fn new(random: Xoshiro256PlusPlus) -> Self {
        Self {
            items: BTreeMap::new(),
            numbers: BTreeMap::new(),
            random,
        }
    }

    pub(super) fn register(&mut self, kind: Kind, now: Timestamp) -> Draft {
        let id = self.add(kind, "", "active", now);
        self.draft(kind, &id, Change::Registered)
    }

    pub(super) fn book(&mut self, now: Timestamp) -> Vec<Draft> {
        let Some(patient) = self.any(|item| item.kind == Kind::Patient && item.status == "active") else {
            return vec![self.register(Kind::Patient, now)];
        };
        let minutes = i64::from(self.random.random_range(4_u32..1_400)) * 15;
        let at = now.checked_add(SignedDuration::from_mins(minutes)).unwrap_or(now);
        let id = self.add(Kind::Appointment, &patient.1, "booked", at);
        vec![self.draft(Kind::Appointment, &id, Change::Booked)]
    }

    /// Lets the next thing happen: one change, of one record or of the two or three that belong together.
    pub(super) fn step(&mut self, now: Timestamp) -> Vec<Draft> {
        let active = self
            .items
            .values()
            .filter(|item| item.kind == Kind::Patient && item.status == "active");
        if active.count() < ACTIVE_PATIENTS_MIN {
            return vec![self.register(Kind::Patient, now)];
        }
        let drafts = match self.random.random_range(0_u32..100) {
            0..22 => Vec::new(),
            22..36 => self.change_one(Kind::Appointment, &["booked"], Change::Moved),
            36..44 => self.change_one(Kind::Appointment, &["booked"], Change::Cancelled),
            44..58 => self.arrive(now),
            58..68 => self.finish(),
            68..80 => self.measure(now),
            80..86 => self.report(now),
            86..92 => self.change_one(Kind::DiagnosticReport, &["preliminary", "final"], Change::Amended),
            92..96 => self.change_one(Kind::Patient, &["active"], Change::Corrected),
            96 => self.merge(),
            _ => self.delete_any(),
        };
        if drafts.is_empty() { self.book(now) } else { drafts }
    }

    /// Corrects a detail of one record; nothing when the clinic does not keep it.
    pub(super) fn touch(&mut self, kind: Kind, id: &str) -> Option<Draft> {
        self.items
            .contains_key(&(kind, id.to_owned()))
            .then(|| self.draft(kind, id, Change::Corrected))
    }

    /// Forgets a record; says whether it was kept.
    pub(super) fn forget(&mut self, kind: Kind, id: &str) -> Option<Draft> {
        self.items.remove(&(kind, id.to_owned()))?;
        Some(Draft {
            kind,
            id: id.to_owned(),
            change: Change::Deleted,
            members: None,
        })
    }

    fn add(&mut self, kind: Kind, patient: &str, status: &'static str, at: Timestamp) -> String {
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        let id = format!("{}-{number:05}", kind.prefix());
        let item = Item {
            kind,
            id: id.clone(),
            patient: patient.to_owned(),
            status,
            at,
            revision: 0,
            draw: self.random.random_range(0..1_000_000),
            link: None,
        };
        self.items.insert((kind, id.clone()), item);
        id
    }

    fn any(&mut self, wanted: impl Fn(&Item) -> bool) -> Option<(Kind, String)> {
        let candidates: Vec<&(Kind, String)> = self
            .items
            .iter()
            .filter(|(_, item)| wanted(item))
            .map(|(key, _)| key)
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let chosen = self.random.random_range(0..candidates.len());
        candidates.get(chosen).map(|key| (*key).clone())
    }

    fn draft(&mut self, kind: Kind, id: &str, change: Change) -> Draft {
        let members = self.items.get_mut(&(kind, id.to_owned())).map(|item| {
            item.revision += 1;
            text::members(item)
        });
        Draft {
            kind,
            id: id.to_owned(),
            change,
            members,
        }
    }

    fn change_one(&mut self, kind: Kind, statuses: &[&str], change: Change) -> Vec<Draft> {
        let Some((_, id)) = self.any(|item| item.kind == kind && statuses.contains(&item.status)) else {
            return Vec::new();
        };
        let hours = i64::from(self.random.random_range(1_u32..72));
        if let Some(item) = self.items.get_mut(&(kind, id.clone())) {
            match change {
                Change::Moved => {
                    item.at = item
                        .at
                        .checked_add(SignedDuration::from_hours(hours))
                        .unwrap_or(item.at);
                }
                Change::Cancelled => item.status = "cancelled",
                Change::Amended => {
                    item.status = if item.status == "preliminary" {
                        "final"
                    } else {
                        "amended"
                    };
                }
                Change::Registered
                | Change::Booked
                | Change::Arrived
                | Change::Started
                | Change::Finished
                | Change::Measured
                | Change::Reported
                | Change::Corrected
                | Change::Merged
                | Change::Parted
                | Change::Retracted
                | Change::Touched
                | Change::Deleted => {}
            }
        }
        vec![self.draft(kind, &id, change)]
    }

    fn arrive(&mut self, now: Timestamp) -> Vec<Draft> {
        let Some(key) = self.any(|item| item.kind == Kind::Appointment && item.status == "booked") else {
            return Vec::new();
        };
        let Some(item) = self.items.get_mut(&key) else {
            return Vec::new();
        };
        item.status = "arrived";
        let patient = item.patient.clone();
        let encounter = self.add(Kind::Encounter, &patient, "in-progress", now);
        vec![
            self.draft(Kind::Appointment, &key.1, Change::Arrived),
            self.draft(Kind::Encounter, &encounter, Change::Started),
        ]
    }

    fn finish(&mut self) -> Vec<Draft> {
        let Some(key) = self.any(|item| item.kind == Kind::Encounter && item.status == "in-progress") else {
            return Vec::new();
        };
        let Some(encounter) = self.items.get_mut(&key) else {
            return Vec::new();
        };
        encounter.status = "finished";
        let patient = encounter.patient.clone();
        let mut drafts = vec![self.draft(Kind::Encounter, &key.1, Change::Finished)];
        let arrived = |item: &Item| {
            item.kind == Kind::Appointment && item.status == "arrived" && item.patient == patient
        };
        if let Some(appointment) = self.any(arrived) {
            if let Some(item) = self.items.get_mut(&appointment) {
                item.status = "fulfilled";
            }
            drafts.push(self.draft(Kind::Appointment, &appointment.1, Change::Finished));
        }
        drafts
    }

    fn measure(&mut self, now: Timestamp) -> Vec<Draft> {
        self.for_some_patient(Kind::Observation, "final", now, Change::Measured)
    }

    fn report(&mut self, now: Timestamp) -> Vec<Draft> {
        self.for_some_patient(Kind::DiagnosticReport, "preliminary", now, Change::Reported)
    }

    fn for_some_patient(
        &mut self,
        kind: Kind,
        status: &'static str,
        now: Timestamp,
        change: Change,
    ) -> Vec<Draft> {
        let Some((_, patient)) = self.any(|item| item.kind == Kind::Patient && item.status == "active")
        else {
            return Vec::new();
        };
        let id = self.add(kind, &patient, status, now);
        vec![self.draft(kind, &id, change)]
    }

    /// Parts two patients that were merged.
    pub(super) fn unmerge(&mut self) -> Vec<Draft> {
        let other = self.any(|item| matches!(item.link, Some(("replaced-by", _))));
        let Some(item) = other.as_ref().and_then(|other| self.items.get_mut(other)) else {
            return Vec::new();
        };
        item.status = "active";
        let survivor = item.link.take().map(|(_, survivor)| survivor);
        let ids = [survivor, other.map(|(_, id)| id)];
        let [Some(survivor), Some(other)] = ids else {
            return Vec::new();
        };
        if let Some(item) = self.items.get_mut(&(Kind::Patient, survivor.clone()))
            && item.link.as_ref().is_some_and(|(_, linked)| *linked == other)
        {
            item.link = None;
        }
        vec![
            self.draft(Kind::Patient, &survivor, Change::Parted),
            self.draft(Kind::Patient, &other, Change::Parted),
        ]
    }

    /// Marks some record as entered in error.
    pub(super) fn retract(&mut self) -> Option<Draft> {
        let wanted = [Kind::Appointment, Kind::Encounter, Kind::Observation];
        let (kind, id) = self.any(|item| wanted.contains(&item.kind) && item.status != "entered-in-error")?;
        self.items.get_mut(&(kind, id.clone()))?.status = "entered-in-error";
        Some(self.draft(kind, &id, Change::Retracted))
    }

    pub(super) fn merge(&mut self) -> Vec<Draft> {
        let active = |item: &Item| item.kind == Kind::Patient && item.status == "active";
        let Some(survivor) = self.any(active) else {
            return Vec::new();
        };
        let Some(other) = self.any(|item| active(item) && item.id != survivor.1) else {
            return Vec::new();
        };
        if let Some(item) = self.items.get_mut(&survivor) {
            item.link = Some(("replaces", other.1.clone()));
        }
        if let Some(item) = self.items.get_mut(&other) {
            item.link = Some(("replaced-by", survivor.1.clone()));
            item.status = "inactive";
        }
        vec![
            self.draft(Kind::Patient, &survivor.1, Change::Merged),
            self.draft(Kind::Patient, &other.1, Change::Merged),
        ]
    }

    fn delete_any(&mut self) -> Vec<Draft> {
        let deletable = |item: &Item| {
            matches!(item.kind, Kind::Appointment | Kind::Observation) && item.status != "arrived"
        };
        let Some((kind, id)) = self.any(deletable) else {
            return Vec::new();
        };
        self.forget(kind, &id).into_iter().collect()
    }
}
