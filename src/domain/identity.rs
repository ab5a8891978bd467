//! Event ids and version keys: derived from what the source showed, never generated.
//!
//! The same version of the same record yields the same id on every path, after every crash and on every
//! worker. Everything that deduplicates rests on that.

use std::fmt;

use aws_lc_rs::digest;
use courier_sdk::{ConnectionName, RecordKey};
use jiff::Timestamp;

use super::canonical::ContentHash;

/// How many bytes of the SHA-256 digest an event id keeps: 160 bits, 32 letters.
const EVENT_ID_DIGEST_BYTES: usize = 20;

/// The fixed id of one changed record version: `ev_` and 32 letters of base32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(String);

impl EventId {
    /// Derives the id: base32 (RFC 4648, lower case, unpadded) of the first 20 bytes of SHA-256 over
    /// connection, record type, record id and version key, each as a big-endian u32 byte length and UTF-8.
    #[must_use]
    pub fn derive(connection: &ConnectionName, key: &RecordKey, version: &VersionKey) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [
            connection.as_str(),
            key.record_type.as_str(),
            key.id.as_str(),
            version.as_str(),
        ] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            context.update(&length.to_be_bytes());
            context.update(part.as_bytes());
        }
        let digest = context.finish();
        let kept = digest.as_ref().get(..EVENT_ID_DIGEST_BYTES).unwrap_or_default();
        Self(format!(
            "ev_{}",
            data_encoding::BASE32_NOPAD.encode(kept).to_ascii_lowercase()
        ))
    }

    /// Accepts the text form as it stands in a store or on a command line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix("ev_")?;
        let fits = letters.len() == 32 && letters.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells one version of a record from another; the letter before the colon names the rung it stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionKey(String);

impl VersionKey {
    /// The first rung: the source's own version id.
    #[must_use]
    pub fn of_version_id(version_id: &str) -> Self {
        Self(format!("v:{version_id}"))
    }

    /// The source's own version id, where the key stands on the first rung; of a record that lives again, the one that it
    /// lives again under.
    #[must_use]
    pub fn version_id(&self) -> Option<&str> {
        let lives = !self.is_inferred_delete();
        self.as_shown().strip_prefix("v:").filter(|_| lives)
    }

    /// The second rung: when the record changed, to the millisecond, and its content.
    #[must_use]
    pub fn of_time(changed: Timestamp, content: &ContentHash) -> Self {
        Self(format!("t:{}:{content}", changed.as_millisecond()))
    }

    /// The third rung: its content and how many times it had changed, so that A, B, A are three versions.
    #[must_use]
    pub fn of_content(content: &ContentHash, change_number: u64) -> Self {
        Self(format!("h:{content}:{change_number}"))
    }

    /// A delete that the source did not number: derived from the version that it ended.
    #[must_use]
    pub fn of_inferred_delete(head: &VersionKey) -> Self {
        Self(format!("d:{head}"))
    }

    /// Whether this is a delete that was derived from the version that it ended.
    #[must_use]
    pub fn is_inferred_delete(&self) -> bool {
        self.0.strip_prefix("d:").is_some_and(|ended| ended.contains(':'))
    }

    /// A record that lives again under the version that an inferred delete ended: derived from the delete. From the second
    /// time on the times are counted, so that the key stays short.
    #[must_use]
    pub fn of_return(deleted: &VersionKey) -> Self {
        let Some(returned) = deleted.0.strip_prefix("d:r:") else {
            return Self(format!("r:{deleted}"));
        };
        let (times, ended) = returned.split_once("d:").unwrap_or(("", returned));
        let times: u64 = times.trim_end_matches(':').parse().unwrap_or(1);
        Self(format!("r:{}:d:{ended}", times.saturating_add(1)))
    }

    /// The source's own version behind inferred deletes and returns: it shows only that.
    #[must_use]
    pub fn as_shown(&self) -> &str {
        let inferred = self.0.strip_prefix("d:").filter(|_| self.is_inferred_delete());
        let living = inferred.unwrap_or(&self.0);
        let returned = living.strip_prefix("r:").and_then(|it| it.split_once("d:"));
        returned.map_or(living, |(_, ended)| ended)
    }

    /// A version that we may not read, or a record of which nothing more is known: derived from what was asked for, else
    /// from the last version that we could read.
    #[must_use]
    pub fn of_unavailable(version: Option<&VersionKey>) -> Self {
        Self(format!("u:{}", version.map_or("", VersionKey::as_str)))
    }

    /// Whether this stands for a version that we may not read.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.0.starts_with("u:")
    }

    /// A delete in a history without a version of its own: derived from its time.
    #[must_use]
    pub fn of_delete_time(deleted: Timestamp) -> Self {
        Self(format!("d:{}", deleted.as_millisecond()))
    }

    /// Accepts the text form as it stands in a store.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn derive(connection: &str, record_type: &str, id: &str, version: &VersionKey) -> EventId {
        let key = RecordKey {
            record_type: RecordType::parse(record_type).unwrap(),
            id: RecordId::parse(id).unwrap(),
        };
        EventId::derive(&ConnectionName::parse(connection).unwrap(), &key, version)
    }

    #[test]
    fn the_three_published_vectors_hold() {
        let hash = ContentHash::of_bytes(b"{}");
        let time: Timestamp = "2026-11-20T10:00:12.345Z".parse().unwrap();
        let vectors = [
            (
                derive("mercy", "Appointment", "17", &VersionKey::of_version_id("3")),
                VECTORS[0],
            ),
            (
                derive("mercy", "Patient", "p-1", &VersionKey::of_time(time, &hash)),
                VECTORS[1],
            ),
            (
                derive("st_anne", "Observation", "a.b", &VersionKey::of_content(&hash, 2)),
                VECTORS[2],
            ),
        ];
        for (derived, published) in vectors {
            assert_eq!(derived.as_str(), published);
            assert_eq!(EventId::parse(published), Some(derived));
        }
    }

    const VECTORS: [&str; 3] = [
        "ev_n7dupfsfpcb42hcyuzd7b5e3c3uobn6i",
        "ev_5zuvj7a62nkacolgdxvefkmxiqned3mi",
        "ev_tyh7fji56pn642wo3nhdmi6wy7hpes2q",
    ];

    #[test]
    fn deletes_and_returns_go_on_from_each_other_and_stay_short() {
        let shown = VersionKey::of_version_id("d:7");
        let mut head = shown.clone();
        let mut keys = vec![head.clone()];
        for _ in 0..12 {
            let deleted = VersionKey::of_inferred_delete(&head);
            assert!(deleted.is_inferred_delete() && deleted.version_id().is_none());
            head = VersionKey::of_return(&deleted);
            assert_eq!((deleted.as_shown(), head.as_shown()), ("v:d:7", "v:d:7"));
            assert_eq!(
                (head.version_id(), head.is_inferred_delete()),
                (Some("d:7"), false)
            );
            keys.extend([deleted, head.clone()]);
        }
        assert_eq!(keys[2].as_str(), "r:d:v:d:7");
        assert_eq!(keys[4].as_str(), "r:2:d:v:d:7");
        assert_eq!(head.as_str(), "r:12:d:v:d:7");
        let count = keys.len();
        assert_eq!(
            keys.into_iter().collect::<std::collections::BTreeSet<_>>().len(),
            count
        );
        let by_time = VersionKey::of_delete_time(Timestamp::UNIX_EPOCH);
        assert_eq!(by_time.as_shown(), "d:0");
    }

    proptest! {
        #[test]
        fn lengths_keep_neighbouring_fields_apart(a in "[a-z]{1,6}", b in "[a-z]{1,6}", c in "[a-z]{1,6}") {
            let version = VersionKey::of_version_id("1");
            let joined = derive(&format!("{a}{b}"), &c, "1", &version);
            let split = derive(&a, &format!("{b}{c}"), "1", &version);
            prop_assert_ne!(joined, split);
        }
    }
}
