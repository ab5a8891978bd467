//! CloudEvents 1.0, structured JSON mode: the default notification.
//!
//! Source: CloudEvents specification 1.0.2 with its JSON format and its `sequence` and `partitioning` extensions.
//! Members are written in one fixed order by hand, because a full record is spliced in byte for byte.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Rendered, context};
use crate::domain::delivery::Delivery;
use crate::domain::event::{Event, Timeliness};
use crate::domain::fan_out::ContentLevel;
use crate::domain::identity::VersionKey;

const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Digits of `sequence`: u64's greatest value has 20, so text order is number order.
const SEQUENCE_DIGITS: usize = 20;

/// Renders one event for one delivery.
#[must_use]
pub fn render(event: &Event, delivery: &Delivery) -> Rendered {
    let mut out = String::with_capacity(512);
    out.push_str("{\"specversion\":\"1.0\"");
    member(&mut out, "id", event.id.as_str());
    member(&mut out, "source", &format!("/connections/{}", event.connection));
    member(&mut out, "type", &format!("ehr.record.{}", event.kind.as_str()));
    member(&mut out, "subject", &event.key.to_string());
    if let Some(changed_at) = event.changed_at {
        member(&mut out, "time", &instant(changed_at));
    }
    member(
        &mut out,
        "recordversion",
        version_label(event.version_id.as_deref(), &event.version),
    );
    member(
        &mut out,
        "sequence",
        &format!("{:0SEQUENCE_DIGITS$}", delivery.number),
    );
    member(&mut out, "partitionkey", &event.key.to_string());
    member(&mut out, "freshasof", &instant(event.fresh_as_of));
    if event.timeliness == Timeliness::Late {
        out.push_str(",\"late\":true");
    }
    let body = with_data(out, event, delivery.content);
    Rendered {
        content_type: CONTENT_TYPE,
        body,
    }
}

/// The version as people know it: the source's version id where there is one, else the version key.
#[must_use]
pub fn version_label<'a>(version_id: Option<&'a str>, version: &'a VersionKey) -> &'a str {
    version_id.unwrap_or(version.as_str())
}

fn with_data(mut out: String, event: &Event, level: ContentLevel) -> Bytes {
    match (level, &event.record) {
        (ContentLevel::Empty, _) | (ContentLevel::FullResource, None) => {
            out.push('}');
            Bytes::from(out)
        }
        (ContentLevel::IdOnly, _) => {
            member(&mut out, "datacontenttype", "application/json");
            out.push_str(",\"data\":{\"reference\":");
            string(&mut out, &event.key.to_string());
            member(
                &mut out,
                "version",
                version_label(event.version_id.as_deref(), &event.version),
            );
            member(&mut out, "change", event.kind.as_str());
            out.push_str("}}");
            Bytes::from(out)
        }
        (ContentLevel::FullResource, Some(record)) => {
            let (media_type, data) = match &event.context {
                None => ("application/fhir+json", record.bytes().clone()),
                Some(context) => ("application/json", context::data(record, context)),
            };
            member(&mut out, "datacontenttype", media_type);
            out.push_str(",\"data\":");
            let mut bytes = out.into_bytes();
            bytes.extend_from_slice(&data);
            bytes.push(b'}');
            Bytes::from(bytes)
        }
    }
}

fn instant(at: Timestamp) -> String {
    format!("{at:.3}")
}

fn member(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    string(out, value);
}

/// Writes a JSON string; control characters, quotes and backslashes are escaped.
fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                // Writing to a String cannot fail; the result is consumed to say so.
                write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
