//! Batches: several reads and searches in one request, each answered by itself with its own status.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Draft, fhir, only, outcome};
use super::world::World;
use super::{Answer, Request};

/// The most entries of one batch.
const ENTRIES_MAX: usize = 200;

#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "resourceType")]
    resource_type: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    entry: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    request: Asked,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    method: String,
    url: String,
    if_none_match: Option<String>,
    if_modified_since: Option<String>,
}

impl World {
    /// Answers a batch; what is no batch is refused as a whole.
    pub(super) fn batch(&mut self, request: &Request) -> Draft {
        let refused = |reason: &str| only(outcome(StatusCode::BAD_REQUEST, "invalid", reason));
        let Ok(batch) = serde_json::from_slice::<Batch>(&request.body) else {
            return refused("the body is no Bundle of requests");
        };
        if batch.resource_type != "Bundle" || batch.kind != "batch" {
            return refused("only a Bundle of type batch is taken");
        }
        if batch.entry.len() > ENTRIES_MAX {
            return refused("a batch has 200 entries at most");
        }
        let mut body = br#"{"resourceType":"Bundle","type":"batch-response","entry":["#.to_vec();
        let mut showings = Vec::new();
        for (index, entry) in batch.entry.into_iter().enumerate() {
            let draft = match self.asked_alone(request, entry.request) {
                Some(alone) => self.route(&alone),
                None => refused("only GET of an address below the base is taken"),
            };
            if index > 0 {
                body.push(b',');
            }
            add(&mut body, &draft.answer);
            showings.extend(draft.showings);
        }
        body.extend_from_slice(b"]}");
        Draft {
            answer: fhir(Bytes::from(body)),
            showings,
        }
    }

    /// The request that an entry stands for.
    fn asked_alone(&self, batch: &Request, asked: Asked) -> Option<Request> {
        let relative = asked.url.trim_start_matches('/');
        if asked.method != "GET" || relative.is_empty() || relative.contains("://") {
            return None;
        }
        let (path, query) = relative.split_once('?').unwrap_or((relative, ""));
        let base = self.options.base_url.path().trim_end_matches('/');
        let mut headers = HeaderMap::new();
        if let Some(prefer) = batch.headers.get("prefer") {
            headers.insert("prefer", prefer.clone());
        }
        let conditions: [(HeaderName, Option<String>); 2] = [
            (header::IF_NONE_MATCH, asked.if_none_match),
            (header::IF_MODIFIED_SINCE, asked.if_modified_since),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::try_from(value).ok()?);
            }
        }
        Some(Request {
            method: Method::GET,
            path: format!("{base}/{path}"),
            query: query.to_owned(),
            headers,
            body: Bytes::new(),
        })
    }
}

/// Adds one answer: its status and headers, with its body spliced in as it is.
fn add(body: &mut Vec<u8>, answer: &Answer) {
    let text = |name: &HeaderName| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let part = if answer.status == StatusCode::OK {
        "resource"
    } else {
        "outcome"
    };
    body.push(b'{');
    if part == "resource" {
        body.extend_from_slice(br#""resource":"#);
        body.extend_from_slice(&answer.body);
        body.push(b',');
    }
    body.extend_from_slice(format!(r#""response":{{"status":"{}""#, answer.status).as_bytes());
    if let Some(tag) = text(&header::ETAG) {
        body.extend_from_slice(format!(r#","etag":{}"#, Value::from(tag)).as_bytes());
    }
    if part == "outcome" && !answer.body.is_empty() {
        body.extend_from_slice(br#","outcome":"#);
        body.extend_from_slice(&answer.body);
    }
    body.extend_from_slice(b"}}");
}
