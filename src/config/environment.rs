//! What the configuration takes from the process environment: overrides and secrets.
//!
//! The environment is read once, by the caller, and passed in; nothing else of the courier reads it.

use std::collections::BTreeMap;
use std::fmt;

use super::problem::{Origin, Problems};
use super::suggest::nearest;

/// What an override's name starts with.
const PREFIX: &str = "COURIER__";

/// The keys that a variable may override: the scalar options of the fixed sections.
const OVERRIDABLE: [&str; 8] = [
    "state.url",
    "state.retention",
    "state.key",
    "dedup.url",
    "http.listen",
    "telemetry.log",
    "telemetry.otlp_endpoint",
    "telemetry.trace_percent",
];

/// The variables of a process, by name. `Debug` shows their number only: values can be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the variables of this process. Names and values that are not Unicode are left out.
    #[must_use]
    pub fn from_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Returns a variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// The values that variables put over the file's, by dotted key: value and the variable's name.
#[derive(Default)]
pub(super) struct Overrides(BTreeMap<&'static str, (String, String)>);

impl Overrides {
    /// Takes the overrides out of the environment; names that override nothing are problems.
    pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Self {
        let mut wanted = config::Map::new();
        for (name, value) in environment
            .0
            .range(PREFIX.to_owned()..)
            .take_while(|(n, _)| n.starts_with(PREFIX))
        {
            if OVERRIDABLE.iter().any(|key| variable(key) == *name) {
                wanted.insert(name.clone(), value.clone());
            } else {
                refuse(name, problems);
            }
        }
        let source = config::Environment::with_prefix("COURIER")
            .prefix_separator("__")
            .separator("__")
            .source(Some(wanted));
        let Ok(merged) = config::Config::builder().add_source(source).build() else {
            return Self::default();
        };
        let take = |key: &'static str| Some((key, (merged.get_string(key).ok()?, variable(key))));
        Self(OVERRIDABLE.into_iter().filter_map(take).collect())
    }

    /// Returns the value that overrides a key, with its origin.
    pub(super) fn get(&self, key: &str) -> Option<(&str, Origin)> {
        self.0
            .get(key)
            .map(|(value, name)| (value.as_str(), Origin::Variable(name.clone())))
    }
}

/// Returns the variable that overrides a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Says why a variable overrides nothing.
fn refuse(name: &str, problems: &mut Problems) {
    let origin = Origin::Variable(name.to_owned());
    let key = name
        .strip_prefix(PREFIX)
        .unwrap_or(name)
        .replace("__", ".")
        .to_lowercase();
    let known: Vec<String> = OVERRIDABLE.iter().map(|key| variable(key)).collect();
    if key == "http.tokens" {
        problems.add(
            origin,
            &key,
            "a list cannot be overridden",
            format!("unset {name} and write tokens = [\"env:NAME\"] below [http]"),
        );
        return;
    }
    let help = match nearest(&name.to_uppercase(), known.iter().map(String::as_str)) {
        Some(meant) => format!("write `{meant}`, or unset {name}"),
        None => format!("unset {name}; only {} can be overridden", known.join(", ")),
    };
    problems.add(origin, &key, "no variable overrides this key", help);
}
