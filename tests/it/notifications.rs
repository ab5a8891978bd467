//! Notifications as they leave: each kind and content level rendered from a fixed event and compared byte for byte
//! with its example, each example against the published schema; and profiles against theirs.
//!
//! `UPDATE_SCHEMAS=1` rewrites the examples. A change there is a change of what every receiver gets.

pub(crate) mod binary;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use courier_fhir::Profile;
use courier_sdk::{ConnectionName, Context, FeedName, Meaning, Record, RecordId, RecordKey, RecordType};
use ehr_courier::domain::delivery::{Delivery, DeliveryId, DeliveryState, RENDERER, Replay};
use ehr_courier::domain::event::{Event, EventKind, Timeliness};
use ehr_courier::domain::fan_out::{ContentLevel, Format};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::wire;
use jiff::Timestamp;
use jsonschema::Validator;
use serde_json::Value;

/// Legal JSON that a parser and a printer would not give back: trailing zeros, exponents, escaped slashes, white
/// space, members out of order, letters beyond ASCII.
const BODY: &str = "{ \"resourceType\":\"Appointment\", \"id\":\"17\",\n  \"status\":\"booked\",\"minutesDuration\":3e1,\
    \"description\":\"Kontrolle f\\u00fcr Frau M\u{fc}ller \\/ Test\",\"extension\":[{\"url\":\"urn:x:fee\",\"valueDecimal\":1.10}],\
    \"meta\":{\"versionId\":\"VERSION\",\"lastUpdated\":\"2026-11-20T10:00:12.345+00:00\"} }";

/// What the appointment refers to, as its server writes it.
const PATIENT: &str = "{\"resourceType\": \"Patient\",\n\"id\":\"p-1\", \"multipleBirthInteger\" : 2e0}";

/// A patient that is replaced by another.
const MERGED: &str = "{\"resourceType\":\"Patient\", \"id\":\"17\",\"active\" : false,\n  \
    \"link\":[{\"other\":{\"reference\":\"Patient\\/p-2\"},\"type\":\"replaced-by\"}],\"meta\":{\"versionId\":\"3\"} }";

fn body(version_id: &str) -> String {
    BODY.replace("VERSION", version_id)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn schema(name: &str) -> Value {
    let path = root().join("schemas").join(format!("{name}.schema.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap()
}

fn problems(validator: &Validator, value: &Value) -> Vec<String> {
    validator
        .iter_errors(value)
        .map(|error| error.to_string())
        .collect()
}

fn event(kind: EventKind, id: &str) -> Event {
    let connection = ConnectionName::parse("mercy").unwrap();
    let key = RecordKey {
        record_type: RecordType::parse(match kind {
            EventKind::Merged => "Patient",
            EventKind::Created | EventKind::Updated | EventKind::Deleted | EventKind::Unavailable => {
                "Appointment"
            }
        })
        .unwrap(),
        id: RecordId::parse(id).unwrap(),
    };
    let shown = |version_id: &str| {
        (
            VersionKey::of_version_id(version_id),
            Some(version_id.to_owned()),
            "2026-11-20T10:00:12.345Z".parse::<Timestamp>().ok(),
        )
    };
    let (version, version_id, changed_at) = match kind {
        EventKind::Created => shown("1"),
        EventKind::Updated | EventKind::Merged => shown("3"),
        // What a read answered with 410 leads to: no version id and no time of the source's own.
        EventKind::Deleted => {
            let head = VersionKey::of_version_id("3");
            (VersionKey::of_inferred_delete(&head), None, None)
        }
        // What a read answered with 403 leads to, of a version that the page named.
        EventKind::Unavailable => {
            let (asked_for, version_id, changed_at) = shown("4");
            (
                VersionKey::of_unavailable(Some(&asked_for)),
                version_id,
                changed_at,
            )
        }
    };
    let meaning = match kind {
        EventKind::Merged => Some(Meaning::merged_into(Some("Patient/p-2".to_owned()))),
        EventKind::Created | EventKind::Updated | EventKind::Deleted | EventKind::Unavailable => None,
    };
    let record = match kind {
        EventKind::Created | EventKind::Updated => version_id.as_deref().map(body),
        EventKind::Merged => Some(MERGED.to_owned()),
        EventKind::Deleted | EventKind::Unavailable => None,
    };
    let record = record.map(|body| Record::new(Bytes::from(body)));
    Event {
        id: EventId::derive(&connection, &key, &version),
        connection,
        position: 41,
        key,
        version,
        version_id,
        kind,
        meaning,
        changed_at,
        fresh_as_of: "2026-11-20T10:00:30Z".parse().unwrap(),
        recorded_at: "2026-11-20T10:00:31.250Z".parse().unwrap(),
        timeliness: Timeliness::InOrder,
        feed: FeedName::parse("appointments").unwrap(),
        record,
        context: None,
        trace: None,
    }
}

fn delivery(content: ContentLevel) -> Delivery {
    let written: Timestamp = "2026-11-20T10:00:31.251Z".parse().unwrap();
    Delivery {
        id: DeliveryId(7),
        subscription: SubscriptionName::parse("mercy-appointments").unwrap(),
        number: 12,
        destination: DestinationName::parse("scheduling").unwrap(),
        content,
        format: Format::CloudEvents,
        renderer: RENDERER,
        state: DeliveryState::Pending,
        attempts: 0,
        scheduled_from: written,
        due_at: written,
        replay: Replay::Original,
        last_outcome: None,
    }
}

/// Every example: its file's name and its bytes.
fn examples() -> Vec<(String, Bytes)> {
    let mut all = Vec::new();
    for kind in [
        EventKind::Created,
        EventKind::Updated,
        EventKind::Deleted,
        EventKind::Merged,
        EventKind::Unavailable,
    ] {
        for content in [
            ContentLevel::Empty,
            ContentLevel::IdOnly,
            ContentLevel::FullResource,
        ] {
            let rendered = wire::render(&event(kind, "17"), &delivery(content));
            all.push((
                format!("{}-{}.json", kind.as_str(), content.as_str()),
                rendered.body,
            ));
        }
    }
    let mut with_context = event(EventKind::Updated, "17");
    with_context.context = Some(Context {
        included: vec![Record::new(Bytes::from_static(PATIENT.as_bytes()))],
        missing: vec!["Practitioner/gone".to_owned()],
    });
    let rendered = wire::render(&with_context, &delivery(ContentLevel::FullResource));
    all.push(("updated-full-resource-included.json".to_owned(), rendered.body));
    let mut late = event(EventKind::Updated, "17");
    late.timeliness = Timeliness::Late;
    let rendered = wire::render(&late, &delivery(ContentLevel::IdOnly));
    all.push(("updated-id-only-late.json".to_owned(), rendered.body));
    for meaning in [Meaning::Cancelled, Meaning::EnteredInError, Meaning::Unmerged] {
        let name = format!("updated-id-only-{}.json", meaning.word());
        let mut with_reason = event(EventKind::Updated, "17");
        with_reason.meaning = Some(meaning);
        let rendered = wire::render(&with_reason, &delivery(ContentLevel::IdOnly));
        all.push((name, rendered.body));
    }
    all
}

#[test]
fn notifications_are_byte_for_byte_what_the_examples_show() {
    let folder = root().join("schemas/examples");
    for (name, body) in examples() {
        let path = folder.join(&name);
        // The `config` loader is the only reader of the environment in the program; tests ask for themselves.
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &body).unwrap();
        }
        let golden = fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&body),
            String::from_utf8_lossy(&golden),
            "{name}"
        );
        assert_eq!(body, golden, "{name}");
    }
    let kept: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let made: BTreeSet<String> = examples().into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, made, "schemas/examples holds rendered notifications only");
}

#[test]
fn every_example_fits_the_schema_which_describes_each_of_its_members() {
    let schema = schema("notification");
    let validator = validator(&schema);
    let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let mut used = BTreeSet::new();
    for (name, body) in examples() {
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problems(&validator, &value), Vec::<String>::new(), "{name}");
        used.extend(value.as_object().unwrap().keys().cloned());
    }
    assert_eq!(used.iter().collect::<BTreeSet<_>>(), described);
}

#[test]
fn the_notification_schema_refuses_what_is_not_a_notification() {
    let validator = validator(&schema("notification"));
    let good: Value = serde_json::from_slice(&examples()[1].1).unwrap();
    let breaks: [(&str, Value); 12] = [
        ("specversion", "0.3".into()),
        ("id", "ev_1".into()),
        ("source", "mercy".into()),
        ("type", "ehr.record.moved".into()),
        ("subject", "Appointment".into()),
        ("time", "yesterday".into()),
        ("sequence", 12.into()),
        ("freshasof", "2026-11-20".into()),
        ("late", false.into()),
        ("reason", "merged".into()),
        ("mergedinto", "".into()),
        ("data", serde_json::json!({"reference": "Appointment/17"})),
    ];
    for (member, value) in breaks {
        let mut bad = good.clone();
        bad[member] = value;
        assert!(!validator.is_valid(&bad), "{member}");
    }
    for member in ["id", "source", "subject", "sequence", "datacontenttype", "data"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(member);
        assert!(!validator.is_valid(&bad), "without {member}");
    }
}

#[test]
fn a_full_resource_stands_in_its_notification_byte_for_byte() {
    let rendered = wire::render(
        &event(EventKind::Updated, "17"),
        &delivery(ContentLevel::FullResource),
    );
    assert_eq!(rendered.content_type, Some("application/cloudevents+json"));
    let text = String::from_utf8(rendered.body.to_vec()).unwrap();
    assert!(text.ends_with(&format!(",\"data\":{}}}", body("3"))));
}

#[test]
fn an_odd_but_legal_record_id_is_escaped_and_comes_back_whole() {
    let validator = validator(&schema("notification"));
    for id in ["a\"b", "a\\b", "a|1.2;x", "{}"] {
        for content in [ContentLevel::Empty, ContentLevel::IdOnly] {
            let rendered = wire::render(&event(EventKind::Updated, id), &delivery(content));
            let value: Value = serde_json::from_slice(&rendered.body).unwrap();
            assert_eq!(value["subject"], format!("Appointment/{id}"));
            assert_eq!(problems(&validator, &value), Vec::<String>::new(), "{id}");
        }
    }
}

#[test]
fn the_profile_schema_and_the_profile_reader_refuse_the_same() {
    let schema = schema("profile");
    let validator = validator(&schema);
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    for name in Profile::names() {
        let path = root().join(format!("connectors/fhir/profiles/{name}.toml"));
        let text = fs::read_to_string(path).unwrap();
        let whole: toml::Table = toml::from_str(&text).unwrap();
        let both = |table: &toml::Table| {
            let by_schema = validator.is_valid(&serde_json::to_value(table).unwrap());
            let by_reader = Profile::parse(&table.to_string()).is_ok();
            assert_eq!(by_schema, by_reader, "{name}: {table}");
            by_schema
        };
        assert!(both(&whole), "{name}");
        for key in &keys {
            let mut without = whole.clone();
            let stood_there = without.remove(key.as_str()).is_some();
            let has_base = without.contains_key("base");
            assert_eq!(both(&without), has_base || !stood_there, "{name} without {key}");
            let mut wrong = whole.clone();
            wrong.insert((*key).clone(), toml::Value::Float(0.5));
            assert!(!both(&wrong), "{name} with {key} = 0.5");
        }
        let mut more = whole.clone();
        more.insert("sorting".to_owned(), toml::Value::String(String::new()));
        assert!(!both(&more), "{name} with an unknown key");
    }
}
