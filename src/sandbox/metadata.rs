//! What the sandbox says of itself: its `CapabilityStatement`.

use serde_json::{Value, json};
use url::Url;

use super::clinic::Kind;

/// Returns the `CapabilityStatement`: read, vread, search and history.
pub(super) fn capability_statement(base_url: &Url) -> Value {
    let resources: Vec<Value> = Kind::ALL.into_iter().map(resource).collect();
    json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "software": {"name": "EHR Courier sandbox", "version": env!("CARGO_PKG_VERSION")},
        "implementation": {"description": "synthetic patients only", "url": base_url.as_str()},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [{"mode": "server", "resource": resources}],
    })
}

fn resource(kind: Kind) -> Value {
    let mut parameters = vec![
        json!({"name": "_lastUpdated", "type": "date", "documentation": "eq, ge, gt, le, lt; any precision; repeatable"}),
        json!({"name": "_id", "type": "token"}),
    ];
    match kind {
        Kind::Appointment | Kind::Encounter | Kind::Observation | Kind::DiagnosticReport => {
            parameters.push(json!({"name": "status", "type": "token"}));
            parameters.push(json!({"name": "patient", "type": "reference"}));
        }
        Kind::Patient | Kind::Practitioner => {}
    }
    json!({
        "type": kind.name(),
        "interaction": [{"code": "read"}, {"code": "vread"}, {"code": "search-type"},
            {"code": "history-type"}, {"code": "history-instance"}],
        "versioning": "versioned",
        "readHistory": true,
        "conditionalRead": "not-match",
        "searchParam": parameters,
    })
}
