//! CloudEvents 1.0, in structured JSON mode (the default notification) and in binary mode.
//!
//! Source: CloudEvents specification 1.0.2 with its JSON format and its `sequence` and `partitioning` extensions.
//! Members are written in one fixed order by hand, because a full record is spliced in byte for byte.

use std::fmt::Write as _;

use bytes::Bytes;
use courier_sdk::Meaning;
use jiff::Timestamp;

use super::{Mode, Rendered, context};
use crate::domain::delivery::Delivery;
use crate::domain::event::{Event, EventKind, Timeliness};
use crate::domain::fan_out::ContentLevel;
use crate::domain::identity::VersionKey;

const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Digits of `sequence`: u64's greatest value has 20, so text order is number order.
const SEQUENCE_DIGITS: usize = 20;

/// Renders one event for one delivery: everything in one JSON object.
#[must_use]
pub fn structured(event: &Event, delivery: &Delivery) -> Rendered {
    let attributes = attributes(event, delivery);
    let mut out = String::with_capacity(512);
    for (name, value) in &attributes {
        out.push(if out.is_empty() { '{' } else { ',' });
        string(&mut out, name);
        out.push(':');
        match *name {
            // The one attribute that is not a text.
            "late" => out.push_str(value),
            _ => string(&mut out, value),
        }
    }
    let mut body = out.into_bytes();
    if let Some(data) = data(event, delivery.content) {
        body.extend_from_slice(b",\"datacontenttype\":\"");
        body.extend_from_slice(data.media_type.as_bytes());
        body.extend_from_slice(b"\",\"data\":");
        body.extend_from_slice(&data.bytes);
    }
    body.push(b'}');
    Rendered {
        content_type: Some(CONTENT_TYPE),
        body: Bytes::from(body),
        mode: Mode::Structured,
        attributes,
    }
}

/// Renders one event for one delivery: its attributes are for headers, the body is its data alone.
#[must_use]
pub fn binary(event: &Event, delivery: &Delivery) -> Rendered {
    let data = data(event, delivery.content);
    Rendered {
        content_type: data.as_ref().map(|data| data.media_type),
        body: data.map(|data| data.bytes).unwrap_or_default(),
        mode: Mode::Binary,
        attributes: attributes(event, delivery),
    }
}

/// An event's attributes as texts, in the order in which they are written.
fn attributes(event: &Event, delivery: &Delivery) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("specversion", "1.0".to_owned()),
        ("id", event.id.to_string()),
        ("source", format!("/connections/{}", event.connection)),
        ("type", format!("ehr.record.{}", event.kind.as_str())),
        ("subject", event.key.to_string()),
    ];
    if let Some(changed_at) = event.changed_at {
        all.push(("time", instant(changed_at)));
    }
    let version = version_label(event.version_id.as_deref(), &event.version);
    all.extend([
        ("recordversion", version.to_owned()),
        ("sequence", format!("{:0SEQUENCE_DIGITS$}", delivery.number)),
        ("partitionkey", event.key.to_string()),
        ("freshasof", instant(event.fresh_as_of)),
    ]);
    all.extend(reason(event));
    if event.timeliness == Timeliness::Late {
        all.push(("late", "true".to_owned()));
    }
    all
}

/// What a change means where its type does not say it, as an attribute: the `reason` of an update, or the record that one
/// was `mergedinto`.
#[must_use]
pub fn reason(event: &Event) -> Option<(&'static str, String)> {
    match (event.kind, event.meaning.as_ref()?) {
        (EventKind::Merged, Meaning::MergedInto(reference)) => Some(("mergedinto", reference.clone()?)),
        (_, meaning) => Some(("reason", meaning.word().to_owned())),
    }
}

/// The version as people know it: the source's version id where there is one, else the version key.
#[must_use]
pub fn version_label<'a>(version_id: Option<&'a str>, version: &'a VersionKey) -> &'a str {
    version_id.unwrap_or(version.as_str())
}

/// What an event carries beside its attributes.
struct Data {
    media_type: &'static str,
    bytes: Bytes,
}

fn data(event: &Event, level: ContentLevel) -> Option<Data> {
    match (level, &event.record) {
        (ContentLevel::Empty, _) | (ContentLevel::FullResource, None) => None,
        (ContentLevel::IdOnly, _) => {
            let mut out = String::from("{\"reference\":");
            string(&mut out, &event.key.to_string());
            out.push_str(",\"version\":");
            string(
                &mut out,
                version_label(event.version_id.as_deref(), &event.version),
            );
            out.push_str(",\"change\":");
            string(&mut out, event.kind.as_str());
            out.push('}');
            Some(Data {
                media_type: "application/json",
                bytes: Bytes::from(out),
            })
        }
        (ContentLevel::FullResource, Some(record)) => Some(match &event.context {
            None => Data {
                media_type: "application/fhir+json",
                bytes: record.bytes().clone(),
            },
            Some(context) => Data {
                media_type: "application/json",
                bytes: context::data(record, context),
            },
        }),
    }
}

fn instant(at: Timestamp) -> String {
    format!("{at:.3}")
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
