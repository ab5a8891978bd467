//! Context of a changed record: which references it holds, and the records behind them.
//!
//! References are taken from the record's own version, so that the context of a past version is that version's; each
//! is one plain read. It guarantees that nothing outside the server is asked: a reference that leads elsewhere is
//! missing.

use std::collections::BTreeSet;

use courier_sdk::{ConnectorError, HttpError, Include, Record, RecordId, RecordKey, RecordType, Reference};
use serde_json::Value;
use url::Url;

use crate::answer;
use crate::exchange::{NoAnswer, Wanted};
use crate::{FhirConnector, bundle, query};

/// Where search parameters of FHIR R4 and R5 find their references: type, parameter, paths, and the type referred
/// to, empty for any. A path goes through lists.
///
/// Source: the `SearchParameter` resources of R4 (4.0.1) and R5 (5.0.0), seen 2026-11.
const PARAMETERS: &[(&str, &str, &[&str], &str)] = &[
    ("AllergyIntolerance", "patient", &["patient"], "Patient"),
    ("AllergyIntolerance", "recorder", &["recorder"], ""),
    ("Appointment", "actor", &["participant.actor"], ""),
    ("Appointment", "location", &["participant.actor"], "Location"),
    (
        "Appointment",
        "patient",
        &["participant.actor", "subject"],
        "Patient",
    ),
    (
        "Appointment",
        "practitioner",
        &["participant.actor"],
        "Practitioner",
    ),
    ("Appointment", "service-request", &["basedOn"], "ServiceRequest"),
    ("Appointment", "slot", &["slot"], "Slot"),
    ("CarePlan", "patient", &["subject"], "Patient"),
    ("CarePlan", "encounter", &["encounter"], "Encounter"),
    ("Condition", "encounter", &["encounter"], "Encounter"),
    ("Condition", "patient", &["subject"], "Patient"),
    ("Coverage", "patient", &["beneficiary"], "Patient"),
    ("Coverage", "payor", &["payor"], ""),
    ("DiagnosticReport", "encounter", &["encounter"], "Encounter"),
    ("DiagnosticReport", "patient", &["subject"], "Patient"),
    ("DiagnosticReport", "performer", &["performer"], ""),
    ("DiagnosticReport", "result", &["result"], "Observation"),
    ("DiagnosticReport", "specimen", &["specimen"], "Specimen"),
    ("DocumentReference", "author", &["author"], ""),
    (
        "DocumentReference",
        "encounter",
        &["context.encounter", "context"],
        "Encounter",
    ),
    ("DocumentReference", "patient", &["subject"], "Patient"),
    ("Encounter", "appointment", &["appointment"], "Appointment"),
    (
        "Encounter",
        "episode-of-care",
        &["episodeOfCare"],
        "EpisodeOfCare",
    ),
    ("Encounter", "location", &["location.location"], "Location"),
    ("Encounter", "part-of", &["partOf"], "Encounter"),
    ("Encounter", "patient", &["subject"], "Patient"),
    (
        "Encounter",
        "practitioner",
        &["participant.individual", "participant.actor"],
        "Practitioner",
    ),
    (
        "Encounter",
        "service-provider",
        &["serviceProvider"],
        "Organization",
    ),
    ("Immunization", "patient", &["patient"], "Patient"),
    ("Immunization", "performer", &["performer.actor"], ""),
    ("MedicationRequest", "encounter", &["encounter"], "Encounter"),
    (
        "MedicationRequest",
        "medication",
        &["medicationReference", "medication.reference"],
        "Medication",
    ),
    ("MedicationRequest", "patient", &["subject"], "Patient"),
    ("MedicationRequest", "requester", &["requester"], ""),
    ("Observation", "device", &["device"], "Device"),
    ("Observation", "encounter", &["encounter"], "Encounter"),
    ("Observation", "patient", &["subject"], "Patient"),
    ("Observation", "performer", &["performer"], ""),
    ("Observation", "specimen", &["specimen"], "Specimen"),
    ("Observation", "subject", &["subject"], ""),
    ("Patient", "general-practitioner", &["generalPractitioner"], ""),
    ("Patient", "link", &["link.other"], ""),
    (
        "Patient",
        "organization",
        &["managingOrganization"],
        "Organization",
    ),
    ("PractitionerRole", "location", &["location"], "Location"),
    (
        "PractitionerRole",
        "organization",
        &["organization"],
        "Organization",
    ),
    (
        "PractitionerRole",
        "practitioner",
        &["practitioner"],
        "Practitioner",
    ),
    ("Procedure", "encounter", &["encounter"], "Encounter"),
    ("Procedure", "patient", &["subject"], "Patient"),
    ("Procedure", "performer", &["performer.actor"], ""),
    ("Schedule", "actor", &["actor"], ""),
    ("ServiceRequest", "encounter", &["encounter"], "Encounter"),
    ("ServiceRequest", "patient", &["subject"], "Patient"),
    ("ServiceRequest", "performer", &["performer"], ""),
    ("ServiceRequest", "requester", &["requester"], ""),
    ("Slot", "schedule", &["schedule"], "Schedule"),
    ("Task", "focus", &["focus"], ""),
    ("Task", "owner", &["owner"], ""),
    ("Task", "patient", &["for"], "Patient"),
    ("Task", "requester", &["requester"], ""),
];

/// The parameters of a record type that can be included, in order.
#[must_use]
pub fn includable(record_type: &RecordType) -> Vec<&'static str> {
    let of_type = PARAMETERS
        .iter()
        .filter(|(known, ..)| *known == record_type.as_str());
    of_type.map(|(_, parameter, ..)| *parameter).collect()
}

/// Whether each of these leads to records of another type than its own: among entries of one type, what is included
/// could pass for a match where the server does not mark it.
pub(crate) fn leads_elsewhere(include: &[Include]) -> bool {
    !include.is_empty()
        && include.iter().all(|one| {
            let row = PARAMETERS.iter().find(|(known, parameter, ..)| {
                *known == one.record_type.as_str() && *parameter == one.parameter
            });
            row.is_some_and(|(known, parameter, _, wanted)| {
                wanted != known && !matches!((*known, *parameter), ("Patient", "link") | ("Task", "focus"))
            })
        })
}

impl FhirConnector {
    /// Reads one record; nothing where the server has none to show.
    pub(crate) async fn read_referred(&self, key: &RecordKey) -> Result<Option<Record>, ConnectorError> {
        let operation = format!("read {} as context", key.record_type);
        let url = query::read(&self.exchange.base, key);
        let bytes_max = self.limits.record_bytes_max;
        let response = match self
            .exchange
            .get(&operation, url, Wanted::Record, bytes_max)
            .await
        {
            Ok(response) if response.body.len() <= bytes_max => response,
            Ok(_) | Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => return Ok(None),
            Err(error) => return Err(error.of(&operation)),
        };
        match response.status.as_u16() {
            200 => {}
            400 | 403 | 404 | 405 | 410 | 501 => return Ok(None),
            _ => {
                let now = self.clock.now();
                return Err(answer::refusal(operation, &response, answer::Asked::Read, now));
            }
        }
        let item = bundle::record(&response.body, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation, &error))?;
        Ok((item.key == *key).then(|| Record::new(item.body)))
    }
}

/// The references that the parameters find, each once, in the order of the parameters and of the record.
pub(crate) fn references(body: &[u8], include: &[Include], base: &Url) -> Vec<Reference> {
    let Ok(record) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let of_type = record
        .get("resourceType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for one in include.iter().filter(|one| one.record_type.as_str() == of_type) {
        let rows = PARAMETERS
            .iter()
            .filter(|(known, parameter, ..)| *known == of_type && *parameter == one.parameter);
        for (_, _, paths, wanted) in rows {
            let mut texts = Vec::new();
            for path in *paths {
                collect(&record, path, &mut texts);
            }
            // A reference into the record itself travels with it.
            for text in texts.into_iter().filter(|text| !text.starts_with('#')) {
                let key = target(text, base);
                let fits = match &key {
                    Some(key) => wanted.is_empty() || key.record_type.as_str() == *wanted,
                    None => wanted.is_empty() || text.contains(&format!("{wanted}/")),
                };
                if fits && seen.insert(text.to_owned()) {
                    let text = text.to_owned();
                    found.push(Reference { text, key });
                }
            }
        }
    }
    found
}

/// Collects the references at a path; lists on the way are gone through.
fn collect<'a>(value: &'a Value, path: &str, found: &mut Vec<&'a str>) {
    if let Value::Array(items) = value {
        for item in items {
            collect(item, path, found);
        }
        return;
    }
    if path.is_empty() {
        found.extend(value.get("reference").and_then(Value::as_str));
        return;
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Some(next) = value.get(first) {
        collect(next, rest, found);
    }
}

/// Where a reference leads: `Type/id`, with or without a version, relative or below the server's own address.
fn target(text: &str, base: &Url) -> Option<RecordKey> {
    let base = base.as_str().trim_end_matches('/');
    let path = match text.strip_prefix(base) {
        Some(path) => path.trim_start_matches('/'),
        None if text.contains(':') => return None,
        None => text,
    };
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(record_type), Some(id), None | Some("_history")) => Some(RecordKey {
            record_type: RecordType::parse(record_type).ok()?,
            id: RecordId::parse(id).ok()?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str, include: &[&str]) -> Vec<String> {
        let include: Vec<Include> = include.iter().map(|text| Include::parse(text).unwrap()).collect();
        let base = Url::parse("https://ehr.example/fhir/R4").unwrap();
        references(body.as_bytes(), &include, &base)
            .into_iter()
            .map(|one| match one.key {
                Some(key) => key.to_string(),
                None => format!("elsewhere: {}", one.text),
            })
            .collect()
    }

    const APPOINTMENT: &str = r##"{"resourceType":"Appointment","participant":[
        {"actor":{"reference":"Patient/p-1"}},{"actor":{"reference":"Practitioner/d/_history/3"}},
        {"actor":{"reference":"https://ehr.example/fhir/R4/Location/l"}},{"actor":{"reference":"Patient/p-1"}},
        {"actor":{"reference":"#inside"}},{"actor":{"display":"nobody"}},{"actor":{"reference":"urn:uuid:7"}},
        {"actor":{"reference":"https://other.example/Patient/x"}}],"subject":{"reference":"Patient/p-2"}}"##;

    #[test]
    fn references_are_found_by_their_search_parameter_each_once() {
        let rows: [(&[&str], &[&str]); 6] = [
            (
                &["Appointment:patient"],
                &[
                    "Patient/p-1",
                    "elsewhere: https://other.example/Patient/x",
                    "Patient/p-2",
                ],
            ),
            (
                &["Appointment:practitioner", "Appointment:location"],
                &["Practitioner/d", "Location/l"],
            ),
            (
                &["Appointment:actor"],
                &[
                    "Patient/p-1",
                    "Practitioner/d",
                    "Location/l",
                    "elsewhere: urn:uuid:7",
                    "elsewhere: https://other.example/Patient/x",
                ],
            ),
            (&["Appointment:slot"], &[]),
            (&["Encounter:patient"], &[]),
            (&[], &[]),
        ];
        for (include, expected) in rows {
            assert_eq!(found(APPOINTMENT, include), expected, "{include:?}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_record_leads_elsewhere() {
        for odd in [
            "Patient",
            "Patient/",
            "Patient/1/2",
            "../Patient/1",
            "Patient?identifier=7",
            "",
        ] {
            let body = format!(r#"{{"resourceType":"Observation","subject":{{"reference":"{odd}"}}}}"#);
            let found = found(&body, &["Observation:subject"]);
            assert!(
                found.iter().all(|text| text.starts_with("elsewhere")),
                "{odd}: {found:?}"
            );
        }
        assert!(found("not json", &["Observation:subject"]).is_empty());
    }

    #[test]
    fn what_may_lead_to_its_own_type_is_told_from_what_cannot() {
        let elsewhere = |texts: &[&str]| {
            let include: Vec<Include> = texts.iter().map(|text| Include::parse(text).unwrap()).collect();
            leads_elsewhere(&include)
        };
        assert!(elsewhere(&["Appointment:patient", "Appointment:actor"]));
        for texts in [
            &["Encounter:patient", "Encounter:part-of"][..],
            &["Patient:link"],
            &["Task:focus"],
            &["Slot:unknown"],
            &[],
        ] {
            assert!(!elsewhere(texts), "{texts:?}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_names_each_parameter_once() {
        for pair in PARAMETERS.windows(2) {
            assert!((pair[0].0, pair[0].1) != (pair[1].0, pair[1].1), "{:?}", pair[1]);
            assert!(pair[0].0 <= pair[1].0, "{:?}", pair[1]);
        }
        assert!(includable(&RecordType::parse("Slot").unwrap()) == ["schedule"]);
    }
}
