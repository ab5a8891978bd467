//! Reads a history's answer: what each entry says was done to which record, and the record that it left.
//!
//! Guarantees, as for a search: each record's bytes are a slice of the answer.

use bytes::Bytes;
use courier_sdk::{RecordId, RecordKey, RecordType, Shown};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    BUNDLE_DEPTH, BodyError, Head, Row, bare_etag, checked, failure, find_next, issues_of, opened,
    usable_version_id, version_text,
};
use crate::instant;

/// One page as the source wrote it.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The versions of the type asked for, in the order of the answer.
    pub(crate) items: Vec<Row>,
    pub(crate) entries: usize,
    /// The places of entries that name no record.
    pub(crate) unusable: Vec<usize>,
    pub(crate) next: Option<String>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "fullUrl")]
    full_url: Option<String>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    request: Option<RequestPart>,
    response: Option<ResponsePart>,
}

#[derive(Deserialize, Default)]
struct RequestPart {
    method: Option<String>,
    url: Option<String>,
}

#[derive(Deserialize, Default)]
struct ResponsePart {
    etag: Option<String>,
    #[serde(rename = "lastModified")]
    last_modified: Option<String>,
}

/// Reads one page of a type's history.
pub(crate) fn page(body: &Bytes, asked: &RecordType, depth_max: usize) -> Result<Page, BodyError> {
    let body = checked(body, depth_max.saturating_add(BUNDLE_DEPTH))?;
    let bundle = opened::<Entry<'_>>(&body, "history")?;
    let entries = bundle.entry.unwrap_or_default();
    let mut page = Page {
        entries: entries.len(),
        next: find_next(bundle.link.as_deref().unwrap_or_default())?,
        ..Page::default()
    };
    for (place, entry) in entries.into_iter().enumerate() {
        add(&mut page, &body, (place, entry), asked)?;
    }
    Ok(page)
}

fn add(
    page: &mut Page,
    body: &Bytes,
    (place, entry): (usize, Entry<'_>),
    asked: &RecordType,
) -> Result<(), BodyError> {
    let head = match entry
        .resource
        .map(|raw| serde_json::from_str::<Head<'_>>(raw.get()))
    {
        Some(Ok(head)) => Some(head),
        Some(Err(_)) => {
            page.unusable.push(place);
            return Ok(());
        }
        None => None,
    };
    let resource_type = head.as_ref().and_then(|head| head.resource_type.as_deref());
    if resource_type == Some("OperationOutcome") {
        let issues = head
            .and_then(|head| head.issue)
            .map(issues_of)
            .unwrap_or_default();
        return failure(&issues).map_or(Ok(()), |code| Err(BodyError::Outcome(code)));
    }
    if resource_type.is_some_and(|found| found != asked.as_str()) {
        return Ok(());
    }
    match item(entry, head, body, asked) {
        Some(item) => page.items.push(item),
        None => page.unusable.push(place),
    }
    Ok(())
}

fn item(entry: Entry<'_>, head: Option<Head<'_>>, body: &Bytes, asked: &RecordType) -> Option<Row> {
    let request = entry.request.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let url = request.url.as_deref().unwrap_or_default();
    let (id, meta) = head.map_or((None, None), |head| (head.id, head.meta));
    let id = id
        .or_else(|| after(url, asked.as_str()))
        .or_else(|| after(entry.full_url.as_deref()?, asked.as_str()))?;
    let key = RecordKey {
        record_type: asked.clone(),
        id: RecordId::parse(&id).ok()?,
    };
    let shown = match request.method.as_deref() {
        Some("POST") => Shown::Created,
        Some("PUT" | "PATCH") => Shown::Updated,
        Some("DELETE") => Shown::Deleted,
        Some(_) | None => Shown::State,
    };
    // A delete may carry the record that it ended: that record's version and time are not the delete's.
    let meta = meta.filter(|_| shown != Shown::Deleted);
    let body = entry
        .resource
        .filter(|_| shown != Shown::Deleted)
        .map(|raw| body.slice_ref(raw.get().as_bytes()));
    let (in_meta, stamp) = meta.map_or((None, None), |meta| (meta.version_id, meta.last_updated));
    let version_id = in_meta
        .and_then(version_text)
        .or_else(|| bare_etag(response.etag.as_deref()?))
        .or_else(|| usable_version_id(after(url, "_history")?));
    let stamp = stamp.as_deref().and_then(instant::parse);
    Some(Row {
        key,
        shown,
        version_id,
        last_updated: stamp.or_else(|| instant::parse(response.last_modified.as_deref()?)),
        body,
    })
}

/// The path segment after the last one of that name, for example the id in `Patient/17/_history/3`.
fn after(url: &str, name: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?;
    let mut segments = path.rsplit('/').filter(|segment| !segment.is_empty());
    let mut following = None;
    loop {
        match segments.next()? {
            segment if segment == name => return following.map(str::to_owned),
            segment => following = Some(segment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &str) -> Page {
        let text = format!(r#"{{"resourceType":"Bundle","type":"history","total":1,"entry":[{entries}]}}"#);
        page(&Bytes::from(text), &RecordType::parse("Patient").unwrap(), 64).unwrap()
    }

    fn only(entry: &str) -> Row {
        let page = read(entry);
        assert_eq!((page.items.len(), page.unusable.len()), (1, 0), "{entry}");
        page.items[0].clone()
    }

    #[test]
    fn each_entry_says_what_was_done_and_carries_its_record_byte_for_byte() {
        let record = r#"{"resourceType":"Patient","id":"17","meta":{"versionId":"3","lastUpdated":"2026-11-20T10:00:00.123Z"},"n":1.10}"#;
        for (method, shown) in [
            ("POST", Shown::Created),
            ("PUT", Shown::Updated),
            ("PATCH", Shown::Updated),
            ("GET", Shown::State),
        ] {
            let entry =
                format!(r#"{{"resource":{record},"request":{{"method":"{method}","url":"Patient/17"}}}}"#);
            let item = only(&entry);
            assert_eq!(item.shown, shown);
            assert_eq!(item.version_id.as_deref(), Some("3"));
            assert_eq!(item.last_updated, instant::parse("2026-11-20T10:00:00.123Z"));
            assert_eq!(item.body.as_deref(), Some(record.as_bytes()));
        }
    }

    #[test]
    fn a_delete_takes_its_version_from_the_etag_then_the_address_and_else_has_none() {
        let rows = [
            (r#""url":"Patient/17""#, r#""etag":"W/\"4\"","#, Some("4")),
            (r#""url":"Patient/17/_history/5""#, "", Some("5")),
            (
                r#""url":"https://e/fhir/Patient/17/_history/5?x=1""#,
                r#""etag":"","#,
                Some("5"),
            ),
            (r#""url":"Patient/17""#, "", None),
        ];
        for (url, etag, version) in rows {
            let item = only(&format!(
                r#"{{"request":{{"method":"DELETE",{url}}},"response":{{{etag}"status":"204","lastModified":"2026-11-20T10:00:00.898575850+00:00"}}}}"#
            ));
            assert_eq!((item.shown, item.body.as_ref()), (Shown::Deleted, None));
            assert_eq!(item.key.id.as_str(), "17");
            assert_eq!(item.version_id.as_deref(), version, "{url}");
            assert_eq!(
                item.last_updated,
                instant::parse("2026-11-20T10:00:00.898575850Z")
            );
        }
    }

    #[test]
    fn a_delete_that_carries_the_record_it_ended_takes_nothing_from_it() {
        let item = only(
            r#"{"resource":{"resourceType":"Patient","id":"17","meta":{"versionId":"3","lastUpdated":"2026-11-20T10:00:00Z"}},
                "request":{"method":"DELETE","url":"Patient/17"},"response":{"etag":"W/\"4\"","lastModified":"2026-11-20T11:00:00Z"}}"#,
        );
        assert_eq!((item.version_id.as_deref(), item.body), (Some("4"), None));
        assert_eq!(item.last_updated, instant::parse("2026-11-20T11:00:00Z"));
    }

    #[test]
    fn an_entry_without_its_record_is_named_by_its_address() {
        let item = only(
            r#"{"fullUrl":"https://e/fhir/Patient/a.b","request":{"method":"PUT","url":"Patient?identifier=7"},"response":{"etag":"2"}}"#,
        );
        assert_eq!(
            (item.key.id.as_str(), item.version_id.as_deref()),
            ("a.b", Some("2"))
        );
        assert_eq!(item.body, None);
    }

    #[test]
    fn what_names_no_record_is_counted_and_other_types_are_left_out() {
        let page = read(
            r#"{"request":{"method":"PUT","url":"Patient"}},{"resource":{"resourceType":"Patient"}},{"resource":[]},
               {"resource":{"resourceType":"Group","id":"1"}},
               {"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"x"}]}}"#,
        );
        assert_eq!(
            (page.items.len(), page.unusable, page.entries),
            (0, vec![0, 1, 2], 5)
        );
    }

    #[test]
    fn a_searchset_a_failure_inside_and_an_outcome_are_no_history() {
        let patient = RecordType::parse("Patient").unwrap();
        for text in [
            r#"{"resourceType":"Bundle","type":"searchset"}"#,
            r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"timeout"}]}"#,
            r#"{"resourceType":"Bundle","type":"history","entry":[{"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"fatal","code":"timeout"}]}}]}"#,
            "[]",
        ] {
            assert!(page(&Bytes::from(text), &patient, 64).is_err(), "{text}");
        }
    }
}
