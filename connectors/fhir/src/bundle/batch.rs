//! A `batch` Bundle of reads or searches, and its answer. Pure.

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
    #[serde(borrow)]
    response: Option<Response<'a>>,
}

#[derive(Deserialize)]
struct Response<'a> {
    status: Option<String>,
    #[serde(borrow)]
    outcome: Option<&'a RawValue>,
}

impl Response<'_> {
    /// The code, without the reason phrase that may follow it.
    fn code(&self) -> Option<u16> {
        let status = self.status.as_deref()?;
        status.split_whitespace().next()?.parse().ok()
    }
}

/// What one entry of a batch was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The entry's own status, where it has one.
    pub(crate) status: Option<u16>,
    /// Its resource, or else its outcome; empty where it has neither.
    pub(crate) body: Bytes,
}

/// A Bundle that reads these records.
pub(crate) fn of_reads<'a>(keys: impl IntoIterator<Item = &'a RecordKey>) -> Bytes {
    of_addresses(
        keys.into_iter()
            .map(|key| format!("{}/{}", key.record_type, key.id)),
    )
}

/// A Bundle that asks for these addresses, each relative to the base.
pub(crate) fn of_addresses(addresses: impl IntoIterator<Item = String>) -> Bytes {
    let get = |url: String| json!({ "request": { "method": "GET", "url": url } });
    let entries: Vec<_> = addresses.into_iter().map(get).collect();
    let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
    Bytes::from(bundle.to_string())
}

/// What each entry of a batch of searches was answered, in the order of the answer. An entry's own page may nest as
/// deep as one that comes alone.
pub(crate) fn answers(body: &Bytes, depth_max: usize) -> Result<Vec<Answered>, BodyError> {
    let body = checked(body, depth_max.saturating_add(2 * BUNDLE_DEPTH))?;
    let bundle = opened::<Entry<'_>>(&body, "batch-response")?;
    let answered = |entry: &Entry<'_>| {
        let response = entry.response.as_ref();
        let said = entry.resource.or(response.and_then(|response| response.outcome));
        Answered {
            status: response.and_then(Response::code),
            body: said.map_or_else(Bytes::new, |said| body.slice_ref(said.get().as_bytes())),
        }
    };
    Ok(bundle.entry.unwrap_or_default().iter().map(answered).collect())
}

/// The records of an answer: those of the entries whose own status is 200. What any other entry says is left to a read
/// by itself.
pub(crate) fn records(body: &Bytes, depth_max: usize) -> Result<Vec<Item>, BodyError> {
    let body = checked(body, depth_max.saturating_add(BUNDLE_DEPTH))?;
    let bundle = opened::<Entry<'_>>(&body, "batch-response")?;
    let found = |entry: &Entry<'_>| {
        if entry.response.as_ref()?.code()? != 200 {
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
    #[test]
    fn each_entry_of_a_batch_of_searches_has_its_own_status_and_body() {
        let bundle = of_addresses(["Slot?schedule=1&_count=2".to_owned()]);
        let bundle: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
        assert_eq!(
            bundle["entry"],
            json!([{"request": {"method": "GET", "url": "Slot?schedule=1&_count=2"}}])
        );
        let answer = r#"{"resourceType":"Bundle","type":"batch-response","entry":[
            {"resource":{"resourceType":"Bundle"},"response":{"status":"200 OK"}},
            {"response":{"status":"403 Forbidden","outcome":{"resourceType":"OperationOutcome"}}},
            {"response":{"status":"soon"}},{}]}"#;
        let found = answers(&Bytes::from(answer), 64).unwrap();
        let told: Vec<(Option<u16>, &[u8])> = found
            .iter()
            .map(|answered| (answered.status, answered.body.as_ref()))
            .collect();
        assert_eq!(
            told,
            [
                (Some(200), &br#"{"resourceType":"Bundle"}"#[..]),
                (Some(403), br#"{"resourceType":"OperationOutcome"}"#),
                (None, b""),
                (None, b""),
            ]
        );
        for other in ["searchset", "transaction-response"] {
            let other = answer.replace("batch-response", other);
            assert!(answers(&Bytes::from(other), 64).is_err());
        }
    }
}
