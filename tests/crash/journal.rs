//! What a source showed, noted from the bytes of its answers, and which of it the courier must have handed over.
//!
//! A page is proven handed over by the next search of the same type within the same life of the courier: it asks
//! for no page before the last one is committed. What only the last answer before a kill showed may never have
//! reached the courier; if it was overwritten before the next poll, nobody can deliver it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::checker::sha256;

/// A record version: type, id, version id.
pub(crate) type Version = (String, String, String);

/// What the answers showed so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Every version with a record that any answer showed.
    shown: BTreeSet<Version>,
    /// Every delete that a history told, with its own version.
    deletes: BTreeSet<Version>,
    sums: BTreeMap<Version, Option<String>>,
    proven: BTreeSet<Version>,
    last_page: BTreeMap<String, Vec<Version>>,
    searches: BTreeMap<String, u64>,
    first_search_at: Option<Instant>,
    life: u64,
}

impl Journal {
    /// A new life of the courier begins: what the last one's last pages showed stays unproven.
    pub(crate) fn new_life(&mut self, life: u64) {
        self.life = life;
        self.last_page.clear();
        self.first_search_at = None;
    }

    /// The courier's present life; a request that an earlier one sent proves nothing.
    pub(crate) fn life(&self) -> u64 {
        self.life
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
        let versions = self.note(body);
        self.last_page
            .entry(record_type.to_owned())
            .or_default()
            .extend(versions);
    }

    /// A read was answered whole, with these bytes.
    pub(crate) fn read(&mut self, body: &[u8]) {
        self.note(body);
    }

    fn note(&mut self, body: &[u8]) -> Vec<Version> {
        let mut versions = deletes_in(body);
        self.deletes.extend(versions.iter().cloned());
        for (version, sum) in versions_in(body) {
            self.shown.insert(version.clone());
            if let Some(sum) = sum {
                // A source that writes one version in two ways is taken at neither word.
                let known = self
                    .sums
                    .entry(version.clone())
                    .or_insert_with(|| Some(sum.clone()));
                *known = known.take().filter(|known| *known == sum);
            }
            versions.push(version);
        }
        versions
    }

    /// The SHA-256 of each version that was shown whole, always with the same bytes.
    pub(crate) fn sums(&self) -> &BTreeMap<Version, Option<String>> {
        &self.sums
    }

    /// Every delete that a history told.
    pub(crate) fn deletes(&self) -> &BTreeSet<Version> {
        &self.deletes
    }

    /// Every version with a record that any answer showed.
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

/// A record version and the SHA-256 of its bytes; none where the answer shows only a part of it.
type Seen = (Version, Option<String>);

/// The versions that a searchset, a history or a record carries.
fn versions_in(body: &[u8]) -> Vec<Seen> {
    #[derive(Deserialize)]
    struct Bundle<'a> {
        #[serde(borrow)]
        entry: Vec<Entry<'a>>,
    }
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        resource: Option<&'a RawValue>,
    }
    if let Ok(bundle) = serde_json::from_slice::<Bundle<'_>>(body) {
        return bundle
            .entry
            .iter()
            .filter_map(|entry| seen(entry.resource?.get()))
            .collect();
    }
    std::str::from_utf8(body)
        .ok()
        .and_then(seen)
        .into_iter()
        .collect()
}

/// The deletes that a history tells.
fn deletes_in(body: &[u8]) -> Vec<Version> {
    #[derive(Deserialize)]
    struct Bundle {
        entry: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        request: Option<Asked>,
        response: Option<Answered>,
    }
    #[derive(Deserialize)]
    struct Asked {
        method: String,
        url: String,
    }
    #[derive(Deserialize)]
    struct Answered {
        etag: String,
    }
    let Ok(bundle) = serde_json::from_slice::<Bundle>(body) else {
        return Vec::new();
    };
    let delete = |entry: Entry| {
        let (asked, answered) = (entry.request?, entry.response?);
        let (record_type, id) = asked.url.split_once('/')?;
        let number = answered.etag.strip_prefix("W/\"")?.strip_suffix('"')?;
        (asked.method == "DELETE").then(|| (record_type.to_owned(), id.to_owned(), number.to_owned()))
    };
    bundle.entry.into_iter().filter_map(delete).collect()
}

fn seen(resource: &str) -> Option<Seen> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        resource_type: String,
        id: String,
        meta: Meta,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        version_id: String,
    }
    let head: Head = serde_json::from_str(resource).ok()?;
    let whole = !resource.contains("SUBSETTED");
    Some((
        (head.resource_type, head.id, head.meta.version_id),
        whole.then(|| sha256(resource.as_bytes())),
    ))
}
