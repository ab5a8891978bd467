//! The records of the sandbox: every version of every record, its bytes made once and kept.
//!
//! It decides which version is current at an instant (late commits are not visible yet); it knows nothing
//! of requests, faults or what a clinic does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::query::instant_of;
use super::shape::{self, Head, Manner};

/// One version of one record.
pub(super) struct Version {
    pub(super) record_type: String,
    pub(super) id: String,
    pub(super) number: u64,
    /// How often this version's content was replaced without a word.
    pub(super) edition: u32,
    /// `meta.versionId`.
    pub(super) tag: String,
    /// `meta.lastUpdated`.
    pub(super) stamp: Timestamp,
    /// The stamp as it is told.
    pub(super) stamp_text: String,
    /// In which arrangement it is written down.
    pub(super) arrangement: u64,
    /// From when on searches and reads show it, by the true clock.
    pub(super) visible_at: Timestamp,
    /// The record's bytes; absent for a delete.
    pub(super) body: Option<Bytes>,
    /// `status`, where the record has one.
    pub(super) status: Option<String>,
    /// The id of the patient that the record is about, where there is one.
    pub(super) patient: Option<String>,
    /// What a search by `date` (of a report by `issued`) compares.
    pub(super) date: Option<Timestamp>,
}

/// When a version is stamped and from when on it is visible.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) stamp: Timestamp,
    pub(super) visible_at: Timestamp,
}

/// All records, by type and id.
#[derive(Default)]
pub(super) struct Records {
    by_type: BTreeMap<String, BTreeMap<String, Vec<Arc<Version>>>>,
    /// Records that the client may no longer see, and since when.
    withheld: BTreeMap<String, BTreeMap<String, Timestamp>>,
}

impl Records {
    /// Adds a version with these members (JSON text between the braces, without `resourceType`, `id`, `meta`).
    pub(super) fn put(
        &mut self,
        (record_type, id): (&str, &str),
        members: &str,
        (at, manner): (Moment, Manner),
    ) -> Arc<Version> {
        let number = self.next_number(record_type, id);
        self.push(version((record_type, id, number), members, (at, manner)))
    }

    /// Replaces the newest version's content, and nothing else of it; nothing where there is none to replace.
    pub(super) fn replace(
        &mut self,
        (record_type, id): (&str, &str),
        members: &str,
        manner: Manner,
    ) -> Option<Arc<Version>> {
        let last = self.by_type.get_mut(record_type)?.get_mut(id)?.last_mut()?;
        last.body.as_ref()?;
        let at = Moment {
            stamp: last.stamp,
            visible_at: last.visible_at,
        };
        let mut replaced = version((record_type, id, last.number), members, (at, manner));
        replaced.edition = last.edition + 1;
        *last = Arc::new(replaced);
        Some(Arc::clone(last))
    }

    /// Withholds a record from now on.
    pub(super) fn withhold(&mut self, record_type: &str, id: &str, since: Timestamp) {
        let of_type = self.withheld.entry(record_type.to_owned()).or_default();
        of_type.entry(id.to_owned()).or_insert(since);
    }

    /// Since when a record is withheld, if it is.
    pub(super) fn withheld_since(&self, record_type: &str, id: &str) -> Option<Timestamp> {
        self.withheld.get(record_type)?.get(id).copied()
    }

    /// Every version that there is, withheld ones too.
    pub(super) fn everything(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.by_type.values().flat_map(BTreeMap::values).flatten()
    }

    /// Adds a delete; nothing when the record is unknown or deleted already.
    pub(super) fn delete(
        &mut self,
        (record_type, id): (&str, &str),
        (at, manner): (Moment, Manner),
    ) -> Option<Arc<Version>> {
        let last = self.versions(record_type, id).last()?;
        last.body.as_ref()?;
        let number = self.next_number(record_type, id);
        let head = Head {
            record_type,
            id,
            number,
            stamp: at.stamp,
        };
        Some(self.push(Version {
            record_type: record_type.to_owned(),
            id: id.to_owned(),
            number,
            edition: 0,
            tag: shape::version_id(&head, manner.dialect),
            stamp: at.stamp,
            stamp_text: shape::stamp(at.stamp, manner),
            arrangement: 0,
            visible_at: at.visible_at,
            body: None,
            status: None,
            patient: None,
            date: None,
        }))
    }

    pub(super) fn knows_type(&self, record_type: &str) -> bool {
        self.by_type.contains_key(record_type)
    }

    /// Returns the version that a read shows at an instant: the newest visible one, deletes included.
    pub(super) fn current(&self, record_type: &str, id: &str, now: Timestamp) -> Option<&Arc<Version>> {
        newest_visible(self.versions(record_type, id), now)
    }

    /// Returns one exact version, if it is visible.
    pub(super) fn exact(
        &self,
        record_type: &str,
        id: &str,
        version_id: &str,
        now: Timestamp,
    ) -> Option<&Arc<Version>> {
        self.versions(record_type, id)
            .iter()
            .find(|version| version.tag == version_id && version.visible_at <= now)
    }

    /// Returns each record's current version at an instant, by id, deleted ones left out.
    pub(super) fn all_current<'a>(
        &'a self,
        record_type: &str,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Arc<Version>> + use<'a> {
        let withheld = self.withheld.get(record_type);
        self.by_type
            .get(record_type)
            .into_iter()
            .flatten()
            .filter(move |(id, _)| withheld.is_none_or(|withheld| !withheld.contains_key(*id)))
            .map(|(_, versions)| versions)
            .filter_map(move |versions| newest_visible(versions, now))
            .filter(|version| version.body.is_some())
    }

    /// Returns every version of a type's records, or of one of them.
    pub(super) fn versions_of<'a>(
        &'a self,
        record_type: &str,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Version>> + use<'a> {
        let withheld = self.withheld.get(record_type);
        self.by_type
            .get(record_type)
            .into_iter()
            .flatten()
            .filter(move |(known, _)| id.is_none_or(|id| known.as_str() == id))
            .filter(move |(known, _)| withheld.is_none_or(|withheld| !withheld.contains_key(*known)))
            .flat_map(|(_, versions)| versions)
    }

    fn versions(&self, record_type: &str, id: &str) -> &[Arc<Version>] {
        self.by_type
            .get(record_type)
            .and_then(|records| records.get(id))
            .map_or(&[], Vec::as_slice)
    }

    fn next_number(&self, record_type: &str, id: &str) -> u64 {
        self.versions(record_type, id)
            .last()
            .map_or(1, |last| last.number + 1)
    }

    fn push(&mut self, version: Version) -> Arc<Version> {
        let version = Arc::new(version);
        self.by_type
            .entry(version.record_type.clone())
            .or_default()
            .entry(version.id.clone())
            .or_default()
            .push(Arc::clone(&version));
        version
    }
}

/// The members of a JSON object in their order, values as they were written.
pub(super) struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Returns the text between the braces, without the members that the sandbox writes itself.
    pub(super) fn body_text(&self) -> String {
        let own = ["resourceType", "id", "meta"];
        let kept = self.0.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        kept.map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get()))
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Returns the SHA-256 of bytes in lower-case hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn version(
    (record_type, id, number): (&str, &str, u64),
    members: &str,
    (at, manner): (Moment, Manner),
) -> Version {
    let head = Head {
        record_type,
        id,
        number,
        stamp: at.stamp,
    };
    let texts = shape::written_down(&head, members, manner);
    let parsed: Value = serde_json::from_str(&texts.body).unwrap_or(Value::Null);
    Version {
        record_type: record_type.to_owned(),
        id: id.to_owned(),
        number,
        edition: 0,
        tag: texts.version_id,
        stamp: at.stamp,
        stamp_text: texts.stamp,
        arrangement: texts.arrangement,
        visible_at: at.visible_at,
        status: parsed.get("status").and_then(Value::as_str).map(str::to_owned),
        patient: patient_of(&parsed),
        date: date_of(&parsed),
        body: Some(Bytes::from(texts.body)),
    }
}

fn newest_visible(versions: &[Arc<Version>], now: Timestamp) -> Option<&Arc<Version>> {
    versions.iter().rev().find(|version| version.visible_at <= now)
}

fn date_of(record: &Value) -> Option<Timestamp> {
    let paths = ["/start", "/period/start", "/effectiveDateTime", "/issued"];
    let text = paths
        .into_iter()
        .find_map(|path| record.pointer(path)?.as_str())?;
    instant_of(text)
}

fn patient_of(record: &Value) -> Option<String> {
    let direct = ["/subject/reference", "/patient/reference"]
        .into_iter()
        .map(|path| record.pointer(path));
    let participants = record
        .get("participant")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    direct
        .chain(participants.map(|participant| participant.pointer("/actor/reference")))
        .flatten()
        .filter_map(Value::as_str)
        .find_map(|reference| reference.strip_prefix("Patient/").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_carried_over_as_they_were_written() {
        let text = r#"{"id":"x","b" : 1.10,"a":[1e2, "\/é"],"meta":{}}"#;
        let members: Members = serde_json::from_str(text).unwrap();
        assert_eq!(members.body_text(), r#""b":1.10,"a":[1e2, "\/é"]"#);
    }
}
