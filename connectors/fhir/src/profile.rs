//! What is known of one kind of FHIR server: constants, each with its source, read from TOML.
//!
//! A profile is data. It must not know addresses or credentials, and no code branches on its name.

use courier_sdk::VersionRule;
use serde::Deserialize;
use thiserror::Error;

const BUILTIN: [(&str, &str); 4] = [
    ("generic", include_str!("../profiles/generic.toml")),
    ("hapi", include_str!("../profiles/hapi.toml")),
    ("helios", include_str!("../profiles/helios.toml")),
    ("sandbox", include_str!("../profiles/sandbox.toml")),
];

/// The constants of one kind of FHIR server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent yes or no of a TOML file"
)]
pub struct Profile {
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

/// Whether rows may shift between two pages of one search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paging {
    /// Each page is cut from the data as it is at that moment.
    Live,
    /// All pages are cut from one stored result.
    Snapshot,
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
        let found = BUILTIN.iter().find(|(known, _)| *known == name);
        let (_, text) = found.ok_or_else(|| {
            let names = Self::names().join(", ");
            InvalidProfile(format!("no built-in profile of that name; there are {names}"))
        })?;
        Self::parse(text)
    }

    /// Returns the names of the built-in profiles.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// Reads a profile's TOML; every key is required and no other is allowed.
    ///
    /// # Errors
    /// [`InvalidProfile`] with the place and the reason.
    pub fn parse(text: &str) -> Result<Self, InvalidProfile> {
        toml::from_str(text).map_err(|error| InvalidProfile(error.to_string()))
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
        assert_eq!(Profile::names(), ["generic", "hapi", "helios", "sandbox"]);
    }

    #[test]
    fn unknown_names_keys_and_missing_keys_are_refused() {
        assert!(
            Profile::builtin("epicc")
                .unwrap_err()
                .to_string()
                .contains("generic, hapi")
        );
        let (_, text) = BUILTIN[0];
        assert!(Profile::parse(&format!("{text}\nsorting = 1")).is_err());
        assert!(Profile::parse("sort = \"\"").is_err());
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
