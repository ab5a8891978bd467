//! What the sandbox says of itself: its `CapabilityStatement`, true of whatever dialect it speaks.

use serde_json::{Value, json};
use url::Url;

use super::clinic::Kind;
use super::dialect::{ConditionalRead, Dialect};

/// Returns the `CapabilityStatement` of a dialect.
pub(super) fn capability_statement(base_url: &Url, dialect: Dialect) -> Value {
    let resources: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| resource(kind, dialect))
        .collect();
    let mut rest = json!({"mode": "server", "resource": resources});
    if !dialect.no_batch
        && let Some(rest) = rest.as_object_mut()
    {
        rest.insert("interaction".to_owned(), json!([{"code": "batch"}]));
    }
    json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "software": {"name": "EHR Courier sandbox", "version": env!("CARGO_PKG_VERSION")},
        "implementation": {"description": "synthetic patients only", "url": base_url.as_str()},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [rest],
    })
}

fn resource(kind: Kind, dialect: Dialect) -> Value {
    let mut parameters = vec![json!({"name": "_id", "type": "token"})];
    if !dialect.no_last_updated {
        let documentation = "eq, ge, gt, le, lt; any precision; repeatable";
        parameters.push(json!({"name": "_lastUpdated", "type": "date", "documentation": documentation}));
    }
    if kind.is_about_a_patient() {
        parameters.push(json!({"name": "status", "type": "token"}));
        let documentation = if dialect.needs_patient {
            "a list by commas; this, subject or _id is required"
        } else {
            "a list by commas"
        };
        for name in ["patient", "subject"] {
            parameters.push(json!({"name": name, "type": "reference", "documentation": documentation}));
        }
    }
    if let Some(name) = kind.date_parameter() {
        parameters.push(json!({"name": name, "type": "date", "documentation": "as _lastUpdated"}));
    }
    let mut interactions = vec!["read", "search-type"];
    if !dialect.no_history {
        interactions.extend(["vread", "history-type", "history-instance"]);
    }
    let interactions: Vec<Value> = interactions
        .into_iter()
        .map(|code| json!({"code": code}))
        .collect();
    let conditional = match dialect.conditional_read {
        _ if dialect.no_meta => "not-supported",
        ConditionalRead::NotMatch => "not-match",
        ConditionalRead::ModifiedSince => "modified-since",
        ConditionalRead::FullSupport => "full-support",
        ConditionalRead::NotSupported => "not-supported",
    };
    let included = if kind.is_about_a_patient() && !dialect.no_include {
        vec![
            format!("{}:patient", kind.name()),
            format!("{}:subject", kind.name()),
        ]
    } else {
        Vec::new()
    };
    json!({
        "type": kind.name(),
        "interaction": interactions,
        "versioning": if dialect.no_meta { "no-version" } else { "versioned" },
        "readHistory": !dialect.no_history,
        "conditionalRead": conditional,
        "searchInclude": included,
        "searchParam": parameters,
    })
}
