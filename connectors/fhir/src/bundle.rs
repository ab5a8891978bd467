//! Reads one answer's bytes into a page of records. Pure.
//!
//! Guarantees: each record's bytes are a slice of the answer, not a digit or key order changed; only
//! `resourceType`, `id` and `meta` are looked at, so that every FHIR release passes through. It must not
//! know cursors, links' meaning or HTTP.

pub(crate) mod batch;
pub(crate) mod history;
pub(crate) mod outcome;

use bytes::Bytes;
use courier_sdk::{RecordId, RecordKey, RecordType, Shown};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{depth, instant};

/// A record within a page lies inside the Bundle, its `entry` array and the entry: the depth limit is the
/// record's own.
const BUNDLE_DEPTH: usize = 3;

/// The longest version id that is kept. FHIR allows 64 characters; longer ones of servers that break that rule
/// are still names, but not without end.
const VERSION_ID_BYTES_MAX: usize = 255;

/// Why a body is not a page or a record. No message holds content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BodyError {
    /// The body breaks a rule; asking again at once will not help.
    #[error("{0}")]
    Unreadable(String),
    /// The source reports a failure inside a successful answer, with the issue's code.
    #[error("the source reported an OperationOutcome ({0})")]
    Outcome(String),
}

/// One version of a record as either way of finding changes shows it, or the record's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: RecordKey,
    pub(crate) shown: Shown,
    pub(crate) version_id: Option<String>,
    pub(crate) last_updated: Option<Timestamp>,
    /// Absent for a delete, and where the source left it or parts of it out.
    pub(crate) body: Option<Bytes>,
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: RecordKey,
    pub(crate) version_id: Option<String>,
    pub(crate) last_updated: Option<Timestamp>,
    pub(crate) body: Bytes,
    /// Tagged SUBSETTED by the source: not the whole record.
    pub(crate) subsetted: bool,
}

/// One page as the source wrote it.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The matches of the type asked for, in the order of the answer.
    pub(crate) items: Vec<Item>,
    /// All entries, included context among them.
    pub(crate) entries: usize,
    /// The entries that `total` counts: neither included context nor outcomes.
    pub(crate) matches: usize,
    /// The places of matches that cannot be named: no resource, or no usable id.
    pub(crate) unusable: Vec<usize>,
    /// What the matches refer to, where the source included it.
    pub(crate) included: Vec<Item>,
    /// Entries that do not say whether they were matched or included.
    pub(crate) unmarked: usize,
    pub(crate) next: Option<String>,
    pub(crate) self_link: Option<String>,
    pub(crate) total: Option<u64>,
}

#[derive(Deserialize)]
struct BundleBody<E> {
    #[serde(rename = "resourceType")]
    resource_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    total: Option<serde_json::Value>,
    link: Option<Vec<Link>>,
    entry: Option<Vec<E>>,
    issue: Option<Vec<Issue>>,
}

#[derive(Deserialize)]
struct Link {
    relation: Option<String>,
    url: Option<String>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    search: Option<SearchPart>,
}

#[derive(Deserialize)]
struct SearchPart {
    mode: Option<String>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "resourceType")]
    resource_type: Option<String>,
    id: Option<String>,
    #[serde(borrow)]
    meta: Option<Meta<'a>>,
    #[serde(borrow)]
    issue: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "versionId")]
    version_id: Option<serde_json::Value>,
    #[serde(rename = "lastUpdated")]
    last_updated: Option<String>,
    #[serde(borrow)]
    tag: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Issue {
    severity: Option<String>,
    code: Option<String>,
}

/// Reads a search's answer.
pub(crate) fn page(body: &Bytes, asked: &RecordType, depth_max: usize) -> Result<Page, BodyError> {
    let body = checked(body, depth_max.saturating_add(BUNDLE_DEPTH))?;
    let bundle = opened::<Entry<'_>>(&body, "searchset")?;
    let links = bundle.link.unwrap_or_default();
    let entries = bundle.entry.unwrap_or_default();
    let mut page = Page {
        entries: entries.len(),
        next: find_next(&links)?,
        self_link: find(&links, "self").and_then(|link| link.url.clone()),
        total: bundle.total.and_then(|total| total.as_u64()),
        ..Page::default()
    };
    for (place, entry) in entries.iter().enumerate() {
        add(&mut page, &body, (place, entry), asked)?;
    }
    Ok(page)
}

/// Parses a Bundle of the kind asked for; an outcome in its place is an error.
fn opened<'a, E: Deserialize<'a>>(body: &'a Bytes, kind: &str) -> Result<BundleBody<E>, BodyError> {
    let bundle: BundleBody<E> = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    if bundle.resource_type.as_deref() == Some("OperationOutcome") {
        let issues = bundle.issue.unwrap_or_default();
        let code = failure(&issues).or_else(|| issues.iter().find_map(issue_code));
        return Err(BodyError::Outcome(code.unwrap_or_else(|| "unknown".to_owned())));
    }
    if bundle.resource_type.as_deref() != Some("Bundle") || bundle.kind.as_deref() != Some(kind) {
        return Err(BodyError::Unreadable(format!("not a Bundle of type {kind}")));
    }
    Ok(bundle)
}

/// Reads a single record's answer.
pub(crate) fn record(body: &Bytes, depth_max: usize) -> Result<Item, BodyError> {
    let body = checked(body, depth_max)?;
    let head: Head<'_> = serde_json::from_slice(&body).map_err(|error| malformed(&error))?;
    if head.resource_type.as_deref() == Some("OperationOutcome") {
        let code = head.issue.and_then(|issues| failure(&issues_of(issues)));
        return Err(BodyError::Outcome(code.unwrap_or_else(|| "unknown".to_owned())));
    }
    item(head, body.clone()).ok_or_else(|| BodyError::Unreadable("a record without a usable id".to_owned()))
}

/// The code of an `OperationOutcome`'s first issue, for error messages; codes are a fixed FHIR vocabulary.
pub(crate) fn outcome_code(body: &[u8], depth_max: usize) -> Option<String> {
    if !depth::within(body, depth_max) {
        return None;
    }
    let head: Head<'_> = serde_json::from_slice(body).ok()?;
    let issues = issues_of(head.issue?);
    issues.iter().find_map(issue_code)
}

/// Whether a body is the source's own word on what went wrong.
pub(crate) fn is_outcome(body: &[u8], depth_max: usize) -> bool {
    let head = depth::within(body, depth_max).then(|| serde_json::from_slice::<Head<'_>>(body));
    matches!(head, Some(Ok(head)) if head.resource_type.as_deref() == Some("OperationOutcome"))
}

fn add(
    page: &mut Page,
    body: &Bytes,
    (place, entry): (usize, &Entry<'_>),
    asked: &RecordType,
) -> Result<(), BodyError> {
    let mode = entry.search.as_ref().and_then(|search| search.mode.as_deref());
    if mode == Some("include") {
        let head = entry
            .resource
            .map(|resource| (resource, serde_json::from_str(resource.get())));
        if let Some((resource, Ok(head))) = head {
            page.included
                .extend(item(head, body.slice_ref(resource.get().as_bytes())));
        }
        return Ok(());
    }
    page.matches += 1;
    let Some(resource) = entry.resource else {
        page.unusable.push(place);
        return Ok(());
    };
    let Ok(head) = serde_json::from_str::<Head<'_>>(resource.get()) else {
        page.unusable.push(place);
        return Ok(());
    };
    let resource_type = head.resource_type.as_deref();
    if mode == Some("outcome") || resource_type == Some("OperationOutcome") {
        page.matches -= 1;
        let issues = head.issue.map(issues_of).unwrap_or_default();
        return failure(&issues).map_or(Ok(()), |code| Err(BodyError::Outcome(code)));
    }
    if resource_type.is_some_and(|found| found != asked.as_str()) {
        return Ok(());
    }
    page.unmarked += usize::from(mode.is_none());
    match item(head, body.slice_ref(resource.get().as_bytes())) {
        Some(item) => page.items.push(item),
        None => page.unusable.push(place),
    }
    Ok(())
}

fn item(head: Head<'_>, body: Bytes) -> Option<Item> {
    let key = RecordKey {
        record_type: RecordType::parse(&head.resource_type?).ok()?,
        id: RecordId::parse(&head.id?).ok()?,
    };
    let (version_id, last_updated, tag) = head.meta.map_or((None, None, None), |meta| {
        (meta.version_id, meta.last_updated, meta.tag)
    });
    Some(Item {
        key,
        version_id: version_id.and_then(version_text),
        last_updated: last_updated.as_deref().and_then(instant::parse),
        body,
        subsetted: tag.is_some_and(|tag| tag.get().contains("\"SUBSETTED\"")),
    })
}

/// A version id of visible ASCII characters, at most 255, that an address can hold; anything else counts as absent,
/// so that the record's stamp and content tell its versions apart.
pub(crate) fn usable_version_id(text: String) -> Option<String> {
    let fits = (1..=VERSION_ID_BYTES_MAX).contains(&text.len()) && !matches!(text.as_str(), "." | "..");
    (fits && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

/// The bare value of an `ETag`, weak or strong.
pub(crate) fn bare_etag(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    usable_version_id(bare.to_owned())
}

/// Some servers write `versionId` as a number, against the specification; its digits are the id.
fn version_text(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => usable_version_id(text),
        serde_json::Value::Number(number) => usable_version_id(number.to_string()),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

/// Takes off a byte order mark and refuses what nests too deeply.
fn checked(body: &Bytes, depth_max: usize) -> Result<Bytes, BodyError> {
    let start = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let body = body.slice(start..);
    if depth::within(&body, depth_max) {
        Ok(body)
    } else {
        Err(BodyError::Unreadable(format!(
            "nested deeper than {depth_max} levels"
        )))
    }
}

/// The parser's own message can quote content, so that only the place is told.
fn malformed(error: &serde_json::Error) -> BodyError {
    let (line, column) = (error.line(), error.column());
    BodyError::Unreadable(format!("malformed JSON at line {line} column {column}"))
}

fn find<'a>(links: &'a [Link], relation: &str) -> Option<&'a Link> {
    links
        .iter()
        .find(|link| link.relation.as_deref() == Some(relation))
}

/// There is a further page, or there is none: a link that leads nowhere is neither.
fn find_next(links: &[Link]) -> Result<Option<String>, BodyError> {
    let Some(link) = find(links, "next") else {
        return Ok(None);
    };
    match &link.url {
        Some(url) if !url.is_empty() => Ok(Some(url.clone())),
        Some(_) | None => Err(BodyError::Unreadable(
            "the link to the next page holds no address".to_owned(),
        )),
    }
}

fn issues_of(raw: &RawValue) -> Vec<Issue> {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

fn failure(issues: &[Issue]) -> Option<String> {
    let failed = |issue: &&Issue| matches!(issue.severity.as_deref(), Some("error" | "fatal"));
    let issue = issues.iter().find(failed)?;
    Some(issue_code(issue).unwrap_or_else(|| "unknown".to_owned()))
}

/// Only a plain code word is repeated: free text there could be anything.
fn issue_code(issue: &Issue) -> Option<String> {
    let code = issue.code.as_deref()?;
    let plain = code.len() <= 32 && code.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    plain.then(|| code.to_owned())
}

#[cfg(test)]
mod tests;
