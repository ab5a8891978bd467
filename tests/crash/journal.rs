//! What a source showed, noted from the bytes of its answers, and which of it the courier must have handed over.
//!
//! A page is proven handed over by the next search of the same type within the same life of the courier: it asks
//! for no page before the last one is committed. What only the last answer before a kill showed may never have
//! reached the courier; if it was overwritten before the next poll, nobody can deliver it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::time::Instant;

/// A record version: type, id, version id.
pub(crate) type Version = (String, String, String);

/// What the answers showed so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Everything that any answer showed.
    shown: BTreeSet<Version>,
    proven: BTreeSet<Version>,
    last_page: BTreeMap<String, Vec<Version>>,
    searches: BTreeMap<String, u64>,
    first_search_at: Option<Instant>,
}

impl Journal {
    /// A new life of the courier begins: what the last one's last pages showed stays unproven.
    pub(crate) fn new_life(&mut self) {
        self.last_page.clear();
        self.first_search_at = None;
    }

    /// A search of a type was asked for: the page before it has been handed over.
    pub(crate) fn asked(&mut self, record_type: &str, at: Instant) {
        self.first_search_at.get_or_insert(at);
        *self.searches.entry(record_type.to_owned()).or_default() += 1;
        let page = self.last_page.remove(record_type).unwrap_or_default();
        self.proven.extend(page);
    }

    /// A search was answered whole, with these bytes.
    pub(crate) fn answered(&mut self, record_type: &str, body: &[u8]) {
        let versions = versions_in(body);
        self.shown.extend(versions.iter().cloned());
        self.last_page
            .entry(record_type.to_owned())
            .or_default()
            .extend(versions);
    }

    /// A read was answered whole, with these bytes.
    pub(crate) fn read(&mut self, body: &[u8]) {
        self.shown.extend(versions_in(body));
    }

    /// Every version that any answer showed.
    pub(crate) fn shown(&self) -> &BTreeSet<Version> {
        &self.shown
    }

    /// Every version whose page is known to have been handed over.
    pub(crate) fn proven(&self) -> &BTreeSet<Version> {
        &self.proven
    }

    /// How many searches there were, by type.
    pub(crate) fn searches(&self) -> &BTreeMap<String, u64> {
        &self.searches
    }

    /// When the present life asked first.
    pub(crate) fn first_search_at(&self) -> Option<Instant> {
        self.first_search_at
    }
}

/// The versions that a searchset or a record carries.
fn versions_in(body: &[u8]) -> Vec<Version> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let entries = value.get("entry").and_then(Value::as_array);
    match entries {
        Some(entries) => entries
            .iter()
            .filter_map(|entry| version_of(entry.get("resource")?))
            .collect(),
        None => version_of(&value).into_iter().collect(),
    }
}

fn version_of(resource: &Value) -> Option<Version> {
    let text = |value: Option<&Value>| value?.as_str().map(str::to_owned);
    let version = text(resource.get("meta")?.get("versionId"))?;
    Some((
        text(resource.get("resourceType"))?,
        text(resource.get("id"))?,
        version,
    ))
}
