//! A `batch` Bundle of reads, and its answer. Pure.

use bytes::Bytes;
use courier_sdk::RecordKey;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{BUNDLE_DEPTH, BodyError, Head, Item, checked, item, opened};

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    status: Option<String>,
}

/// A Bundle that reads these records.
pub(crate) fn of_reads<'a>(keys: impl IntoIterator<Item = &'a RecordKey>) -> Bytes {
    let read = |key: &RecordKey| {
        let url = format!("{}/{}", key.record_type, key.id);
        json!({ "request": { "method": "GET", "url": url } })
    };
    let entries: Vec<_> = keys.into_iter().map(read).collect();
    let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
    Bytes::from(bundle.to_string())
}

/// The records of an answer: those of the entries whose own status is 200. What any other entry says is left to a read
/// by itself.
pub(crate) fn records(body: &Bytes, depth_max: usize) -> Result<Vec<Item>, BodyError> {
    let body = checked(body, depth_max.saturating_add(BUNDLE_DEPTH))?;
    let bundle = opened::<Entry<'_>>(&body, "batch-response")?;
    let found = |entry: &Entry<'_>| {
        let status = entry.response.as_ref()?.status.as_deref()?;
        // The code, and perhaps its reason phrase.
        if status.split_whitespace().next() != Some("200") {
            return None;
        }
        let resource = entry.resource?.get();
        let head: Head<'_> = serde_json::from_str(resource).ok()?;
        item(head, body.slice_ref(resource.as_bytes()))
    };
    Ok(bundle
        .entry
        .unwrap_or_default()
        .iter()
        .filter_map(found)
        .collect())
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordType};

    use super::*;

    #[test]
    fn a_bundle_names_each_read_and_only_entries_of_status_200_are_records() {
        let key = |id: &str| RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse(id).unwrap(),
        };
        let (one, other) = (key("1"), key("a.b"));
        let bundle = of_reads([&one, &other]);
        let bundle: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
        assert_eq!(
            bundle["entry"][1]["request"],
            json!({"method": "GET", "url": "Patient/a.b"})
        );
        assert_eq!(
            (&bundle["type"], bundle["entry"].as_array().unwrap().len()),
            (&json!("batch"), 2)
        );

        let answer = r#"{"resourceType":"Bundle","type":"batch-response","entry":[
            {"resource":{"resourceType":"Patient","id":"1","meta":{"versionId":"3"}},"response":{"status":"200 OK"}},
            {"resource":{"resourceType":"Patient","id":"2"},"response":{"status":"200"}},
            {"resource":{"resourceType":"Patient","id":"3"},"response":{"status":"410 Gone"}},
            {"resource":{"resourceType":"Patient","id":"4"}},
            {"response":{"status":"200 OK"}},
            {"resource":{"resourceType":"OperationOutcome"},"response":{"status":"404 Not Found"}}]}"#;
        let items = records(&Bytes::from(answer), 64).unwrap();
        let ids: Vec<&str> = items.iter().map(|item| item.key.id.as_str()).collect();
        assert_eq!(ids, ["1", "2"]);
        assert_eq!(items[0].version_id.as_deref(), Some("3"));
        let searchset = answer.replace("batch-response", "searchset");
        assert!(records(&Bytes::from(searchset), 64).is_err());
    }
}
