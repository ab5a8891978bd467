//! How a version is written down: its id's and stamp's text, and where `meta` stands among its members.
//!
//! Pure. Real servers differ in all of this, and in white space: so do versions here.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde_json::Value;

use super::dialect::{Dialect, Granularity};
use super::ledger::stamp_text;
use super::zone::Zone;

/// What a version's text is made from.
pub(super) struct Head<'a> {
    pub(super) record_type: &'a str,
    pub(super) id: &'a str,
    pub(super) number: u64,
    pub(super) stamp: Timestamp,
}

/// In which way a version is written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) dialect: Dialect,
    /// Which of the four arrangements; by its number where there is no other reason.
    pub(super) arrangement: Option<u64>,
    /// Numbers for ids, and the stamp in another offset and precision.
    pub(super) mixed: bool,
}

/// The texts of a version.
pub(super) struct Texts {
    pub(super) version_id: String,
    pub(super) stamp: String,
    pub(super) body: String,
    pub(super) arrangement: u64,
}

/// Writes a version down with these members: JSON text between the braces, without `resourceType`, `id` and `meta`.
pub(super) fn written_down(head: &Head<'_>, members: &str, manner: Manner) -> Texts {
    let version_id = version_id(head, manner.dialect);
    let stamp = stamp(head.stamp, manner);
    let arrangement = manner.arrangement.unwrap_or(head.number) % 4;
    let plain = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        manner.mixed && digits && text.len() < 16
    };
    let quoted = |text: &str| {
        if plain(text) {
            text.to_owned()
        } else {
            Value::from(text).to_string()
        }
    };
    let places = Places {
        record_type: head.record_type,
        id: &quoted(head.id),
        version_id: &quoted(&version_id),
        stamp: &stamp,
    };
    let body = if manner.dialect.no_meta {
        without_meta(&places, members)
    } else {
        arranged(&places, members, arrangement)
    };
    Texts {
        version_id,
        stamp,
        body,
        arrangement,
    }
}

/// The version id of a record's version.
pub(super) fn version_id(head: &Head<'_>, dialect: Dialect) -> String {
    if !dialect.uuid_versions {
        return head.number.to_string();
    }
    let name = format!("{}/{}/{}", head.record_type, head.id, head.number);
    let hex = HEXLOWER.encode(digest::digest(&digest::SHA256, name.as_bytes()).as_ref());
    let part = |from: usize, until: usize| hex.get(from..until).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// A stamp as this kind of server tells it.
pub(super) fn stamp(instant: Timestamp, manner: Manner) -> String {
    if manner.mixed {
        let zone = TimeZone::fixed(Offset::from_seconds(-5 * 3_600).unwrap_or(Offset::UTC));
        let local = instant.to_zoned(zone);
        return local.strftime("%Y-%m-%dT%H:%M:%S%.7f%:z").to_string();
    }
    let zone = manner.dialect.zone;
    match (manner.dialect.granularity, zone) {
        (Granularity::Millisecond, Zone::Utc) => stamp_text(instant),
        (Granularity::Second | Granularity::Day, Zone::Utc) => format!("{instant:.0}"),
        (Granularity::Millisecond, Zone::Berlin | Zone::NewYork) => {
            let local = instant.to_zoned(zone.rules());
            local.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
        }
        (Granularity::Second | Granularity::Day, Zone::Berlin | Zone::NewYork) => {
            let local = instant.to_zoned(zone.rules());
            local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        }
    }
}

struct Places<'a> {
    record_type: &'a str,
    /// As JSON, as the version id is.
    id: &'a str,
    version_id: &'a str,
    stamp: &'a str,
}

fn without_meta(places: &Places<'_>, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        r#"{{"resourceType":"{}","id":{}{comma}{members}}}"#,
        places.record_type, places.id
    )
}

fn arranged(places: &Places<'_>, members: &str, arrangement: u64) -> String {
    let Places {
        record_type,
        id,
        version_id,
        stamp,
    } = places;
    let comma = if members.is_empty() { "" } else { "," };
    match arrangement {
        1 => format!(
            r#"{{"resourceType":"{record_type}","id":{id},"meta":{{"versionId":{version_id},"lastUpdated":"{stamp}"}}{comma}{members}}}"#
        ),
        2 => format!(
            r#"{{"resourceType":"{record_type}","id":{id}{comma}{members},"meta":{{"lastUpdated":"{stamp}","versionId":{version_id},"source":"urn:sandbox:front-desk"}}}}"#
        ),
        3 => format!(
            r#"{{ "meta" : {{ "lastUpdated" : "{stamp}", "versionId" : {version_id} }},{nl}  "id" : {id}{comma}{members},{nl}  "resourceType" : "{record_type}"{nl}}}"#,
            nl = '\n'
        ),
        _ => format!(
            r#"{{"id":{id},"resourceType":"{record_type}"{comma}{members},"meta":{{"extension":[{{"url":"urn:sandbox:shift","valueString":"n\u00e4chtlich"}}],"versionId":{version_id},"lastUpdated":"{stamp}"}}}}"#
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(number: u64, manner: Manner) -> (Texts, Value) {
        let head = Head {
            record_type: "Task",
            id: "77",
            number,
            stamp: Timestamp::UNIX_EPOCH,
        };
        let members = if number > 4 { "" } else { r#""status":"booked""# };
        let texts = written_down(&head, members, manner);
        let value = serde_json::from_str(&texts.body).unwrap();
        (texts, value)
    }

    fn usual() -> Manner {
        Manner {
            dialect: Dialect::default(),
            arrangement: None,
            mixed: false,
        }
    }

    #[test]
    fn every_arrangement_is_json_and_names_its_version() {
        for number in 1..=8_u64 {
            let (_, value) = texts(number, usual());
            assert_eq!(value["meta"]["versionId"], number.to_string());
            assert_eq!(value["meta"]["lastUpdated"], "1970-01-01T00:00:00.000Z");
            assert_eq!(
                (&value["resourceType"], &value["id"]),
                (&Value::from("Task"), &Value::from("77"))
            );
        }
    }

    #[test]
    fn mixed_types_are_numbers_and_another_spelling_of_the_same_instant() {
        let manner = Manner {
            mixed: true,
            ..usual()
        };
        let (found, value) = texts(3, manner);
        assert_eq!(
            (&value["id"], &value["meta"]["versionId"]),
            (&77.into(), &3.into())
        );
        assert_eq!(found.stamp, "1969-12-31T19:00:00.0000000-05:00");
        assert_eq!(found.stamp.parse::<Timestamp>().unwrap(), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn dialects_leave_meta_out_and_name_versions_without_numbers() {
        let of = |text: &str| Manner {
            dialect: Dialect::default().with(text).unwrap(),
            ..usual()
        };
        assert!(texts(2, of("no_meta")).1.get("meta").is_none());
        let named = |number| texts(number, of("uuid_versions")).0.version_id;
        assert_eq!((named(1).len(), named(1)), (36, named(1)));
        assert_ne!(named(1), named(2));
        assert_eq!(texts(1, of("granularity=second")).0.stamp, "1970-01-01T00:00:00Z");
    }
}
