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

use super::ledger::stamp_text;

/// One version of one record.
pub(super) struct Version {
    pub(super) record_type: String,
    pub(super) id: String,
    pub(super) number: u64,
    /// `meta.lastUpdated`.
    pub(super) stamp: Timestamp,
    /// From when on searches and reads show it, by the true clock.
    pub(super) visible_at: Timestamp,
    /// The record's bytes; absent for a delete.
    pub(super) body: Option<Bytes>,
    /// `status`, where the record has one.
    pub(super) status: Option<String>,
    /// The id of the patient that the record is about, where there is one.
    pub(super) patient: Option<String>,
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
}

impl Records {
    /// Adds a version with these members (JSON text between the braces, without `resourceType`, `id`, `meta`).
    pub(super) fn put(&mut self, record_type: &str, id: &str, members: &str, at: Moment) -> Arc<Version> {
        let number = self.next_number(record_type, id);
        let body = wrap(
            &Head {
                record_type,
                id,
                number,
                stamp: at.stamp,
            },
            members,
        );
        let parsed: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        self.push(Version {
            record_type: record_type.to_owned(),
            id: id.to_owned(),
            number,
            stamp: at.stamp,
            visible_at: at.visible_at,
            status: parsed.get("status").and_then(Value::as_str).map(str::to_owned),
            patient: patient_of(&parsed),
            body: Some(Bytes::from(body)),
        })
    }

    /// Adds a delete; nothing when the record is unknown or deleted already.
    pub(super) fn delete(&mut self, record_type: &str, id: &str, at: Moment) -> Option<Arc<Version>> {
        let last = self.versions(record_type, id).last()?;
        last.body.as_ref()?;
        let number = self.next_number(record_type, id);
        Some(self.push(Version {
            record_type: record_type.to_owned(),
            id: id.to_owned(),
            number,
            stamp: at.stamp,
            visible_at: at.visible_at,
            body: None,
            status: None,
            patient: None,
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
        number: u64,
        now: Timestamp,
    ) -> Option<&Arc<Version>> {
        self.versions(record_type, id)
            .iter()
            .find(|version| version.number == number && version.visible_at <= now)
    }

    /// Returns each record's current version at an instant, by id, deleted ones left out.
    pub(super) fn all_current<'a>(
        &'a self,
        record_type: &str,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Arc<Version>> + use<'a> {
        self.by_type
            .get(record_type)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(move |versions| newest_visible(versions, now))
            .filter(|version| version.body.is_some())
    }

    /// Returns every version of a type's records, or of one of them.
    pub(super) fn versions_of<'a>(
        &'a self,
        record_type: &str,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Version>> + use<'a> {
        self.by_type
            .get(record_type)
            .into_iter()
            .flatten()
            .filter(move |(known, _)| id.is_none_or(|id| known.as_str() == id))
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

struct Head<'a> {
    record_type: &'a str,
    id: &'a str,
    number: u64,
    stamp: Timestamp,
}

/// Real servers differ in where `meta` stands, in the order within it, and in white space: so do versions here.
fn wrap(head: &Head<'_>, members: &str) -> String {
    let Head {
        record_type,
        id,
        number,
        ..
    } = head;
    let stamp = stamp_text(head.stamp);
    let comma = if members.is_empty() { "" } else { "," };
    match number % 4 {
        1 => format!(
            r#"{{"resourceType":"{record_type}","id":"{id}","meta":{{"versionId":"{number}","lastUpdated":"{stamp}"}}{comma}{members}}}"#
        ),
        2 => format!(
            r#"{{"resourceType":"{record_type}","id":"{id}"{comma}{members},"meta":{{"lastUpdated":"{stamp}","versionId":"{number}","source":"urn:sandbox:front-desk"}}}}"#
        ),
        3 => format!(
            r#"{{ "meta" : {{ "lastUpdated" : "{stamp}", "versionId" : "{number}" }},{nl}  "id" : "{id}"{comma}{members},{nl}  "resourceType" : "{record_type}"{nl}}}"#,
            nl = '\n'
        ),
        _ => format!(
            r#"{{"id":"{id}","resourceType":"{record_type}"{comma}{members},"meta":{{"extension":[{{"url":"urn:sandbox:shift","valueString":"n\u00e4chtlich"}}],"versionId":"{number}","lastUpdated":"{stamp}"}}}}"#
        ),
    }
}

fn newest_visible(versions: &[Arc<Version>], now: Timestamp) -> Option<&Arc<Version>> {
    versions.iter().rev().find(|version| version.visible_at <= now)
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

    #[test]
    fn every_shape_is_json_and_names_its_version() {
        let mut records = Records::default();
        let at = Moment {
            stamp: Timestamp::UNIX_EPOCH,
            visible_at: Timestamp::UNIX_EPOCH,
        };
        for number in 1..=8_u64 {
            let members = if number > 4 { "" } else { r#""status":"booked""# };
            let version = records.put("Task", "t", members, at);
            let value: Value = serde_json::from_slice(version.body.as_ref().unwrap()).unwrap();
            assert_eq!(value["meta"]["versionId"], number.to_string());
            assert_eq!(value["meta"]["lastUpdated"], "1970-01-01T00:00:00.000Z");
            assert_eq!(
                (&value["resourceType"], &value["id"]),
                (&Value::from("Task"), &Value::from("t"))
            );
        }
    }
}
