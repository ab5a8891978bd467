//! What a record's content says of the record as a whole: that it was merged into another, was entered in error, or was
//! called off. Pure.
//!
//! Only the few members are looked at that say it; what is written in another way than FHIR does says nothing.

use courier_sdk::Meaning;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The members that say where a record stands in its life.
///
/// Source: FHIR R4 (4.0.1): `status` of each type that has one; `AllergyIntolerance.verificationStatus` and
/// `Condition.verificationStatus` (`CodeableConcept`s there, codes in STU3); `Goal.lifecycleStatus`. No value set of
/// theirs uses `entered-in-error` in another sense.
#[derive(Deserialize)]
struct Standing<'a> {
    #[serde(rename = "resourceType")]
    resource_type: Option<String>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow, rename = "verificationStatus")]
    verification_status: Option<&'a RawValue>,
    #[serde(borrow, rename = "lifecycleStatus")]
    lifecycle_status: Option<&'a RawValue>,
    #[serde(borrow)]
    link: Option<&'a RawValue>,
}

const ENTERED_IN_ERROR: &str = "entered-in-error";

/// The codes by which R4 says that what a record plans or asks for was called off: `cancelled` (Appointment, Encounter,
/// `EpisodeOfCare`, Goal, `MedicationRequest`, `MedicationDispense`, Task, `SupplyRequest`, `ImagingStudy`, Observation,
/// `DiagnosticReport`, and the financial types), and `revoked`, which the requests that share the value set
/// `request-status` have in its place (`ServiceRequest`, `CarePlan`, `DeviceRequest`, `CommunicationRequest`,
/// `NutritionOrder`, `RequestGroup`).
const CALLED_OFF: [&str; 2] = ["cancelled", "revoked"];

/// How a patient's link says that the record it stands in is no longer to be used (`Patient.link.type`, R4).
const REPLACED_BY: &str = "replaced-by";

#[derive(Deserialize)]
struct Concept {
    coding: Option<Vec<Coding>>,
}

#[derive(Deserialize)]
struct Coding {
    code: Option<String>,
}

#[derive(Deserialize)]
struct Link<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    other: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Other {
    reference: Option<String>,
}

/// What the record's content says of it, if anything.
pub(crate) fn of(body: &[u8]) -> Option<Meaning> {
    let record: Standing<'_> = serde_json::from_slice(body).ok()?;
    if record.resource_type.as_deref() == Some("Patient")
        && let Some(merged) = record.link.and_then(merged)
    {
        return Some(merged);
    }
    let codes = |member: Option<&RawValue>| member.map(codes).unwrap_or_default();
    let (status, verification) = (codes(record.status), codes(record.verification_status));
    let lifecycle = codes(record.lifecycle_status);
    let mut all = status.iter().chain(&verification).chain(&lifecycle);
    if all.any(|code| code == ENTERED_IN_ERROR) {
        return Some(Meaning::EnteredInError);
    }
    let mut of_life = status.iter().chain(&lifecycle);
    let called_off = of_life.any(|code| CALLED_OFF.contains(&code.as_str()));
    called_off.then_some(Meaning::Cancelled)
}

/// The record that a patient's links name in its place: the first that has a reference, if several do.
fn merged(links: &RawValue) -> Option<Meaning> {
    let links: Vec<Link<'_>> = serde_json::from_str(links.get()).ok()?;
    let mut into = links
        .into_iter()
        .filter(|link| link.kind.as_deref() == Some(REPLACED_BY))
        .map(|link| reference(link.other?))
        .peekable();
    into.peek()?;
    Some(Meaning::merged_into(into.flatten().next()))
}

fn reference(other: &RawValue) -> Option<String> {
    serde_json::from_str::<Other>(other.get()).ok()?.reference
}

/// The codes of a member that is a code or a `CodeableConcept`.
fn codes(member: &RawValue) -> Vec<String> {
    if let Ok(code) = serde_json::from_str::<String>(member.get()) {
        return vec![code];
    }
    let concept = serde_json::from_str::<Concept>(member.get()).ok();
    let codings = concept.and_then(|concept| concept.coding).unwrap_or_default();
    codings.into_iter().filter_map(|coding| coding.code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Meaning> {
        of(text.as_bytes())
    }

    fn into(reference: &str) -> Meaning {
        Meaning::MergedInto(Some(reference.to_owned()))
    }

    #[test]
    fn a_patient_that_is_replaced_by_another_is_merged_into_it() {
        let rows = [
            (
                r#"[{"type":"replaced-by","other":{"reference":"Patient/7"}}]"#,
                Some(into("Patient/7")),
            ),
            (
                r#"[{"type":"seealso","other":{"reference":"Patient/6"}},{"other":{"reference":"Patient\/7"},"type":"replaced-by"}]"#,
                Some(into("Patient/7")),
            ),
            (
                r#"[{"type":"replaced-by","other":{"identifier":{"value":"7"}}},{"type":"replaced-by","other":{"reference":"Patient/8"}}]"#,
                Some(into("Patient/8")),
            ),
            (
                r#"[{"type":"replaced-by","other":{"identifier":{"value":"7"}}}]"#,
                Some(Meaning::MergedInto(None)),
            ),
            (r#"[{"type":"replaced-by"}]"#, Some(Meaning::MergedInto(None))),
            (r#"[{"type":"replaces","other":{"reference":"Patient/7"}}]"#, None),
            (r#"[{"type":"refer","other":{"reference":"Patient/7"}}]"#, None),
            ("[]", None),
            (r#"{"type":"replaced-by"}"#, None),
            ("7", None),
        ];
        for (link, meaning) in rows {
            let patient = format!(r#"{{"resourceType":"Patient","id":"1","active":false,"link":{link}}}"#);
            assert_eq!(said(&patient), meaning, "{link}");
            let person = patient.replace("Patient\",\"id", "Person\",\"id");
            assert_eq!(said(&person), None, "only a patient's link says so: {link}");
        }
    }

    #[test]
    fn what_a_status_says_is_recognised_in_each_types_own_member() {
        let error = Some(Meaning::EnteredInError);
        let off = Some(Meaning::Cancelled);
        let concept =
            |code: &str| format!(r#"{{"coding":[{{"system":"urn:x"}},{{"code":"{code}"}}],"text":"x"}}"#);
        let rows = [
            (
                "Observation",
                "status",
                r#""entered-in-error""#.to_owned(),
                error.clone(),
            ),
            (
                "Appointment",
                "status",
                r#""entered-in-error""#.to_owned(),
                error.clone(),
            ),
            ("Appointment", "status", r#""cancelled""#.to_owned(), off.clone()),
            ("Appointment", "status", r#""noshow""#.to_owned(), None),
            ("Encounter", "status", r#""cancelled""#.to_owned(), off.clone()),
            ("ServiceRequest", "status", r#""revoked""#.to_owned(), off.clone()),
            ("Goal", "lifecycleStatus", r#""cancelled""#.to_owned(), off),
            (
                "Goal",
                "lifecycleStatus",
                r#""entered-in-error""#.to_owned(),
                error.clone(),
            ),
            (
                "AllergyIntolerance",
                "verificationStatus",
                concept("entered-in-error"),
                error.clone(),
            ),
            (
                "Condition",
                "verificationStatus",
                concept("entered-in-error"),
                error.clone(),
            ),
            (
                "Condition",
                "verificationStatus",
                r#""entered-in-error""#.to_owned(),
                error,
            ),
            ("Condition", "verificationStatus", concept("cancelled"), None),
            ("Condition", "clinicalStatus", concept("resolved"), None),
            ("Observation", "status", r#""final""#.to_owned(), None),
            ("Observation", "note", r#""cancelled""#.to_owned(), None),
            ("Observation", "status", "7".to_owned(), None),
            ("Observation", "status", r#"["cancelled"]"#.to_owned(), None),
            ("Observation", "status", "null".to_owned(), None),
        ];
        for (record_type, member, value, meaning) in rows {
            let record = format!(r#"{{"resourceType":"{record_type}","id":"1","{member}":{value}}}"#);
            assert_eq!(said(&record), meaning, "{record}");
        }
    }

    #[test]
    fn what_is_no_record_says_nothing() {
        for text in ["", "[]", "7", "{", r#"{"status":"final"}"#] {
            assert_eq!(said(text), None, "{text}");
        }
    }
}
