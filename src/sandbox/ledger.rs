//! The sandbox's ledger: every record version that an answer ever carried to a client, and when.
//!
//! It is written by the request path alone, from exactly what an answer carries, so that a checker can
//! trust it. It knows nothing of faults: an answer that was spoiled is simply not entered.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::records::{Version, sha256_hex};
use super::world::World;

/// One version that was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The record type.
    pub record_type: String,
    /// The record id.
    pub id: String,
    /// The version id, as in `meta.versionId`.
    pub version_id: String,
    /// The version's stamp, as in `meta.lastUpdated`.
    pub last_updated: String,
    /// SHA-256 of the record's bytes, in hexadecimal; of nothing for a delete.
    pub sha256: String,
    /// Whether the version is a delete, which a history shows, or a 410 answer.
    pub deleted: bool,
    /// When an answer first carried it (its body, or its id only), by the true clock.
    pub first_shown_at: String,
    /// When an answer last carried it, by the true clock.
    pub last_shown_at: String,
    /// In how many answers its body stood.
    pub times: u64,
    /// In how many answers only its id and meta stood.
    pub id_only_times: u64,
    /// Whether its first showing came after a newer version of the record had been shown.
    pub shown_after_newer: bool,
}

/// One version that there is, whether an answer ever carried it or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The record type.
    pub record_type: String,
    /// The record id.
    pub id: String,
    /// The version id, as in `meta.versionId`.
    pub version_id: String,
    /// The version's stamp, as in `meta.lastUpdated`.
    pub last_updated: String,
    /// SHA-256 of the record's bytes, in hexadecimal; of nothing for a delete.
    pub sha256: String,
    /// Whether the version is a delete.
    pub deleted: bool,
    /// Whether it has the content of the version before it, as a re-index writes it.
    pub touched: bool,
    /// From when on answers may carry it, by the true clock.
    pub visible_at: String,
    /// Since when its record is withheld from the client, by the true clock; absent where it is not.
    pub withheld_since: Option<String>,
}

impl World {
    pub(super) fn kept(&self, version: &Version) -> Kept {
        let withheld = self.records.withheld_since(&version.record_type, &version.id);
        Kept {
            record_type: version.record_type.clone(),
            id: version.id.clone(),
            version_id: version.tag.clone(),
            last_updated: version.stamp_text.clone(),
            sha256: sha256_hex(version.body.as_deref().unwrap_or_default()),
            deleted: version.body.is_none(),
            touched: self.touched.contains(&(
                version.record_type.clone(),
                version.id.clone(),
                version.number,
            )),
            visible_at: stamp_text(version.visible_at),
            withheld_since: withheld.map(stamp_text),
        }
    }
}

/// How much of a version an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The body, or the news of the delete.
    Whole,
    /// Its id and meta.
    IdOnly,
}

/// One version within one answer.
#[derive(Clone)]
pub(super) struct Showing {
    pub(super) version: Arc<Version>,
    pub(super) extent: Extent,
}

#[derive(Default)]
pub(super) struct Ledger {
    entries: BTreeMap<(String, String, (u64, u32)), Shown>,
}

impl Ledger {
    pub(super) fn enter(&mut self, showings: &[Showing], now: Timestamp) {
        for showing in showings {
            self.enter_one(showing, now);
        }
    }

    pub(super) fn all(&self) -> Vec<Shown> {
        self.entries.values().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn enter_one(&mut self, showing: &Showing, now: Timestamp) {
        let version = &showing.version;
        let key = |number| (version.record_type.clone(), version.id.clone(), number);
        let newer = self
            .entries
            .range(key((version.number + 1, 0))..=key((u64::MAX, u32::MAX)))
            .next()
            .is_some();
        let entry = self
            .entries
            .entry(key((version.number, version.edition)))
            .or_insert_with(|| Shown {
                record_type: version.record_type.clone(),
                id: version.id.clone(),
                version_id: version.tag.clone(),
                last_updated: version.stamp_text.clone(),
                sha256: sha256_hex(version.body.as_deref().unwrap_or_default()),
                deleted: version.body.is_none(),
                first_shown_at: stamp_text(now),
                last_shown_at: String::new(),
                times: 0,
                id_only_times: 0,
                shown_after_newer: newer,
            });
        entry.last_shown_at = stamp_text(now);
        match showing.extent {
            Extent::Whole => entry.times += 1,
            Extent::IdOnly => entry.id_only_times += 1,
        }
    }
}

/// Writes an instant as the sandbox stamps it: UTC, milliseconds, `Z`.
pub(super) fn stamp_text(instant: Timestamp) -> String {
    format!("{instant:.3}")
}
