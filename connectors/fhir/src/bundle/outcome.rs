//! Looks for a code that says that we ask too much, in an answer of whatever status. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::depth;

/// The depth limit of this look: an outcome is flat. What nests deeper is judged by whoever reads the answer.
const DEPTH_MAX: usize = 70;

/// An outcome stands in place of records: it comes in a short answer.
const BODY_BYTES_MAX: usize = 1 << 20;

const TYPE: &[u8] = b"\"OperationOutcome\"";

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(rename = "resourceType")]
    resource_type: Option<&'a str>,
    #[serde(borrow, default)]
    issue: Option<Vec<Issue<'a>>>,
    #[serde(borrow, default)]
    entry: Option<Vec<Entry<'a>>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(rename = "resourceType")]
    resource_type: Option<&'a str>,
    #[serde(borrow, default)]
    issue: Option<Vec<Issue<'a>>>,
}

#[derive(Deserialize)]
struct Issue<'a> {
    severity: Option<&'a str>,
    code: Option<&'a str>,
    #[serde(borrow)]
    details: Option<Details<'a>>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    coding: Option<Vec<Coding<'a>>>,
}

#[derive(Deserialize)]
struct Coding<'a> {
    code: Option<&'a str>,
}

/// Whether the answer is an `OperationOutcome`, or a page that holds one among its entries, of which an issue has one of
/// these codes. Beside a page's entries only failures count: a page that is whole may hold hints.
pub(crate) fn names_one_of(body: &[u8], codes: &[String]) -> bool {
    let mentioned = || body.windows(TYPE.len()).any(|window| window == TYPE);
    if codes.is_empty() || body.len() > BODY_BYTES_MAX || !mentioned() || !depth::within(body, DEPTH_MAX) {
        return false;
    }
    let Ok(whole) = serde_json::from_slice::<Whole<'_>>(body) else {
        return false;
    };
    let has = |issue: &Issue<'_>| codes.iter().any(|code| issue.names(code));
    let issues = whole.issue.unwrap_or_default();
    match whole.resource_type {
        Some("OperationOutcome") => issues.iter().any(has),
        Some("Bundle") => {
            let entries = whole.entry.unwrap_or_default();
            let outcomes = entries.iter().filter_map(|entry| {
                let resource = entry.resource?.get();
                let outcome: Outcome<'_> = serde_json::from_str(resource).ok()?;
                (outcome.resource_type == Some("OperationOutcome")).then_some(outcome.issue?)
            });
            let failed = |issue: &Issue<'_>| matches!(issue.severity, Some("error" | "fatal"));
            outcomes.flatten().any(|issue| failed(&issue) && has(&issue))
        }
        Some(_) | None => false,
    }
}

impl Issue<'_> {
    fn names(&self, code: &str) -> bool {
        let details = self.details.as_ref().and_then(|details| details.coding.as_ref());
        let mut codings = details.into_iter().flatten();
        self.code == Some(code) || codings.any(|coding| coding.code == Some(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_known_by_its_issue_code_or_the_code_of_its_details() {
        let codes = ["throttled".to_owned(), "4135".to_owned()];
        let detailed = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"fatal","code":"processing",
            "details":{"coding":[{"system":"urn:oid:1.2","code":"4135","display":"Try tomorrow"}]}}]}"#;
        let entry = |severity: &str, code: &str| {
            format!(
                r#"{{"resourceType":"Bundle","type":"searchset","entry":[{{"resource":{{"resourceType":"Patient","id":"1"}}}},
                {{"resource":{{"resourceType":"OperationOutcome","issue":[{{"severity":"{severity}","code":"{code}"}}]}}}}]}}"#
            )
        };
        let rows = [
            (detailed.to_owned(), true),
            (detailed.replace("4135", "4119"), false),
            (detailed.replace("processing", "throttled").replace("4135", "1"), true),
            (detailed.replace("OperationOutcome", "Patient"), false),
            (entry("error", "throttled"), true),
            (entry("warning", "throttled"), false),
            (entry("error", "not-found"), false),
            (r#"{"resourceType":"Patient","contained":[{"resourceType":"OperationOutcome","issue":[{"code":"throttled"}]}]}"#.to_owned(), false),
            (r#"{"resourceType":"OperationOutcome","issue":7}"#.to_owned(), false),
            (r#"{"resourceType":"OperationOutcome"}"#.to_owned(), false),
            (String::new(), false),
        ];
        for (body, expected) in rows {
            assert_eq!(names_one_of(body.as_bytes(), &codes), expected, "{body}");
            assert!(!names_one_of(body.as_bytes(), &[]), "{body}");
        }
    }
}
