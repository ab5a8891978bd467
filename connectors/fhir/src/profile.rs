//! What is known of one kind of FHIR server: constants, each with its source, read from TOML.
//!
//! A profile is data. It must not know addresses or credentials, and no code branches on its name.

use std::collections::BTreeMap;
use std::time::Duration;

use courier_sdk::{RecordType, VersionRule};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use crate::instant;

const BUILTIN: [(&str, &str); 13] = [
    ("generic", include_str!("../profiles/generic.toml")),
    ("aidbox-fhir", include_str!("../profiles/aidbox-fhir.toml")),
    ("athena-fhir", include_str!("../profiles/athena-fhir.toml")),
    ("canvas", include_str!("../profiles/canvas.toml")),
    ("epic", include_str!("../profiles/epic.toml")),
    ("hapi", include_str!("../profiles/hapi.toml")),
    ("helios", include_str!("../profiles/helios.toml")),
    ("medplum", include_str!("../profiles/medplum.toml")),
    ("meditech", include_str!("../profiles/meditech.toml")),
    ("nextgen", include_str!("../profiles/nextgen.toml")),
    ("openmrs-fhir2", include_str!("../profiles/openmrs-fhir2.toml")),
    ("oracle-health", include_str!("../profiles/oracle-health.toml")),
    ("sandbox", include_str!("../profiles/sandbox.toml")),
];

/// The key by which a profile takes over all that it does not say itself from a built-in one.
const BASE: &str = "base";

/// The constants of one kind of FHIR server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent yes or no of a TOML file"
)]
pub struct Profile {
    /// What kind of server this is, in one line.
    pub about: String,
    /// The value of `_sort`, or empty to send none.
    pub sort: String,
    /// Whether rows may shift between two pages of one search.
    pub paging: Paging,
    /// What a full page without a `next` link means.
    pub full_page_without_next: FullPage,
    /// Whether `_elements=id,meta` is applied.
    pub ids_only: bool,
    /// Whether single versions can be read (`vread`).
    pub version_read: bool,
    /// Whether a read is answered with 404 for deleted records and no others.
    pub not_found_is_deleted: bool,
    /// Whether a type's history, where the server offers it, shows every version and delete, newest first.
    pub trust_history: bool,
    /// Whether a search by `_lastUpdated` is to be relied on.
    pub last_updated: LastUpdated,
    /// How finely `_lastUpdated` and `_since` cut.
    pub granularity: Cut,
    /// The record types that are shown only for a named patient; `*` stands for all but Patient.
    pub patient_required: Vec<String>,
    /// How many patients one search may name (`patient=a,b,c`), from 1.
    pub patients_at_once: usize,
    /// How many searches one `batch` Bundle may hold, each for patients of a roster; 1 for none.
    pub searches_at_once: usize,
    /// The condition under which a read spares the body of a record that did not change.
    pub conditional_read: ConditionalRead,
    /// Which dates can be searched by, where changes cannot.
    pub window: WindowRule,
    /// Issue codes by which the server says that a search would find too much.
    pub too_costly_codes: Vec<String>,
    /// Whether a search by `_lastUpdated` applies `_include`.
    pub search_include: bool,
    /// How several records are read with one request.
    pub read_many: ReadMany,
    /// The most records of such a request.
    pub read_many_max: u32,
    /// Codes of an `OperationOutcome` (of an issue, or of its details) by which the server says that we ask too much,
    /// whatever the status.
    pub inband_limit_codes: Vec<String>,
    /// HTTP statuses by which the server says that a page link is no longer good.
    pub expired_page_statuses: Vec<u16>,
    /// See [`VersionRule::trust_version_id`].
    pub trust_version_id: bool,
    /// See [`VersionRule::numeric_order`].
    pub numeric_order: bool,
    /// See [`VersionRule::trust_last_updated`].
    pub trust_last_updated: bool,
    /// The version id of a record's first version, or empty where that is not known.
    pub first_version: String,
    /// See [`VersionRule::volatile_paths`].
    pub volatile_paths: Vec<String>,
}

/// Whether a search by `_lastUpdated` is to be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastUpdated {
    /// For every type.
    Always,
    /// For the types whose search parameters in the `CapabilityStatement` name it.
    Claimed,
    /// For no type.
    Never,
}

/// How finely the server's time bounds cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// To fractions of a second.
    Fraction,
    /// To whole seconds.
    Second,
    /// To whole days of the server's own zone.
    Day,
}

impl Cut {
    /// The earliest instant of what a bound at this instant means to the server.
    pub(crate) fn floor(self, instant: Timestamp) -> Timestamp {
        match self {
            Self::Fraction | Self::Second => instant,
            Self::Day => instant::day_floor(instant),
        }
    }

    /// The earliest stamp that a change at this instant can carry. Servers that are not known to cut at all have been
    /// seen to leave out fractions of a second.
    pub(crate) fn earliest_stamp(self, instant: Timestamp) -> Timestamp {
        match self {
            Self::Fraction | Self::Second => {
                Timestamp::from_second(instant.as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
            }
            Self::Day => instant::day_floor(instant),
        }
    }

    /// How far outside of a bound a row may lie that the server takes to be within.
    pub(crate) fn precision(self) -> Duration {
        match self {
            Self::Fraction | Self::Second => Duration::from_secs(1),
            Self::Day => Duration::from_hours(72),
        }
    }
}

/// The condition under which a read spares the body of a record that did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionalRead {
    /// `If-None-Match` with the version's tag.
    NoneMatch,
    /// `If-Modified-Since`, which counts whole seconds.
    ModifiedSince,
    /// None is honoured.
    None,
}

/// Which dates can be searched by, and which stretch of them is listed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRule {
    /// The search parameter that holds a type's date. A type without one is listed whole.
    pub parameters: BTreeMap<String, String>,
    /// How many days back the window reaches.
    pub past_days: u16,
    /// How many days ahead it reaches.
    pub future_days: u16,
    /// How many days one search covers; 0 for the whole window.
    pub part_days: u16,
}

/// Whether rows may shift between two pages of one search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paging {
    /// Each page is cut from the data as it is at that moment.
    Live,
    /// All pages are cut from one stored result.
    Snapshot,
}

/// How several records are read with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadMany {
    /// Not at all: each by itself.
    None,
    /// By a search for their ids (`_id=a,b`).
    IdSearch,
    /// By a `batch` Bundle of reads.
    Batch,
}

/// What a full page without a `next` link means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FullPage {
    /// There is nothing more: this server always links a further page.
    Complete,
    /// There may be more that the server does not show.
    Suspect,
}

/// A profile that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unusable profile: {0}")]
pub struct InvalidProfile(String);

impl Profile {
    /// Returns the built-in profile of that name.
    ///
    /// # Errors
    /// [`InvalidProfile`] when there is no such profile; the message lists those that exist.
    pub fn builtin(name: &str) -> Result<Self, InvalidProfile> {
        Self::parse(Self::text(name)?)
    }

    /// Returns the built-in profile of that name as it is written, each line with its source.
    ///
    /// # Errors
    /// As [`Profile::builtin`].
    pub fn text(name: &str) -> Result<&'static str, InvalidProfile> {
        let found = BUILTIN.iter().find(|(known, _)| *known == name);
        let (_, text) = found.ok_or_else(|| {
            let names = Self::names().join(", ");
            InvalidProfile(format!("no built-in profile of that name; there are {names}"))
        })?;
        Ok(text)
    }

    /// Returns the names of the built-in profiles.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// Reads a profile's TOML: every key is required, unless a `base` names the built-in profile from which the missing
    /// ones are taken; no other key is allowed.
    ///
    /// # Errors
    /// [`InvalidProfile`] with the place and the reason.
    pub fn parse(text: &str) -> Result<Self, InvalidProfile> {
        let invalid = |error: toml::de::Error| InvalidProfile(error.to_string());
        let Some(base) = toml::from_str::<Based>(text).map_err(invalid)?.base else {
            return toml::from_str(text).map_err(invalid);
        };
        let mut whole: toml::Table = toml::from_str(Self::text(&base)?).map_err(invalid)?;
        let mut own: toml::Table = toml::from_str(text).map_err(invalid)?;
        own.remove(BASE);
        if whole.contains_key(BASE) {
            return Err(InvalidProfile("the base has a base itself".to_owned()));
        }
        lay_over(&mut whole, own);
        whole.try_into().map_err(invalid)
    }

    /// Whether a type is shown only for a named patient.
    pub(crate) fn requires_patient(&self, record_type: &RecordType) -> bool {
        let name = record_type.as_str();
        let named = |required: &String| required == name || (required == "*" && name != "Patient");
        self.patient_required.iter().any(named)
    }

    pub(crate) fn version_rule(&self) -> VersionRule {
        VersionRule {
            trust_version_id: self.trust_version_id,
            numeric_order: self.numeric_order,
            trust_last_updated: self.trust_last_updated,
            first_version: Some(self.first_version.clone()).filter(|first| !first.is_empty()),
            volatile_paths: self.volatile_paths.clone(),
        }
    }
}

/// What says where the rest of a profile comes from.
#[derive(Deserialize)]
struct Based {
    base: Option<String>,
}

/// Puts keys over those of a table; tables within it are taken key by key.
fn lay_over(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(value)) => lay_over(under, value),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_profile_is_complete_and_each_line_names_its_source() {
        for (name, text) in BUILTIN {
            assert!(Profile::builtin(name).is_ok(), "{name}");
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            for pair in lines.windows(2) {
                let commented = pair[1].starts_with('#') || pair[0].starts_with('#');
                assert!(commented, "{name}: {}", pair[1]);
            }
        }
        assert_eq!(Profile::names().len(), BUILTIN.len());
    }

    #[test]
    fn unknown_names_keys_and_missing_keys_are_refused() {
        assert!(
            Profile::builtin("epicc")
                .unwrap_err()
                .to_string()
                .contains("generic, aidbox-fhir")
        );
        let (_, text) = BUILTIN[0];
        assert!(Profile::parse(&format!("{text}\nsorting = 1")).is_err());
        assert!(Profile::parse("sort = \"\"").is_err());
    }

    #[test]
    fn a_profile_takes_what_it_does_not_say_from_its_base() {
        let text = "base = \"generic\"\npatient_required = [\"*\"]\n[window]\npart_days = 3\n";
        let (profile, generic) = (
            Profile::parse(text).unwrap(),
            Profile::builtin("generic").unwrap(),
        );
        assert_eq!(profile.window.part_days, 3);
        assert_eq!(profile.window.parameters, generic.window.parameters);
        let required = |name: &str| profile.requires_patient(&RecordType::parse(name).unwrap());
        assert!(required("Observation") && !required("Patient"));
        for bad in [
            "base = \"none\"",
            "base = \"epic\"",
            "base = \"generic\"\nsorting = 1",
        ] {
            assert!(Profile::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_rule_comes_from_the_profile() {
        let generic = Profile::builtin("generic").unwrap().version_rule();
        assert!(generic.trust_version_id && !generic.numeric_order);
        assert_eq!(generic.first_version, None);
        let hapi = Profile::builtin("hapi").unwrap().version_rule();
        assert_eq!(hapi.first_version.as_deref(), Some("1"));
    }
}
