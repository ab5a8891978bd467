//! A server of a test's own, asked directly and through the connector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    ChangeRef, Connector as _, Cursor, Detect, FeedName, FeedSpec, FetchMode, Fetched, Fixed, Http,
    HttpError, HttpRequest, HttpResponse, Next, Novelty, PollRequest, RecordId, RecordKey, RecordType,
    Resume, Scope, Shown, Start,
};
use ehr_courier::clock::SystemClock;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::server::{Product, Server};

/// What the connector's pages are asked to hold: fewer than a test writes.
pub(super) const PAGE: u32 = 3;

/// A running server.
pub(super) struct Source {
    server: Server,
    product: Product,
    client: Client,
    wire: Arc<Wire>,
}

/// An answer to a request of the test's own.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) content_type: String,
    pub(super) body: Value,
}

/// What a whole poll showed, and how it ended.
pub(super) struct Polled {
    pub(super) changes: Vec<ChangeRef>,
    pub(super) listed: Vec<String>,
    pub(super) end: Next,
}

/// The connector's way to the server; notes what was asked for.
struct Wire {
    client: Client,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Http for Wire {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (method, url) = (request.method, request.url);
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let asked = format!("{method} {}{query}", url.path());
        self.asked.lock().unwrap().push(asked);
        let sending = self.client.request(method, url).headers(request.headers);
        let response = sending.body(request.body).send().await.unwrap();
        Ok(HttpResponse {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        })
    }
}

impl Source {
    pub(super) fn start(product: Product) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            server: Server::start(product, None),
            product,
            client: client.clone(),
            wire: Arc::new(Wire {
                client,
                asked: Mutex::default(),
            }),
        }
    }

    /// Asks the server itself.
    pub(super) async fn ask(
        &self,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let url = self.server.url.join(path).unwrap();
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/fhir+json")
                .body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let (etag, last_modified) = (header("etag"), header("last-modified"));
        let content_type = header("content-type").unwrap_or_default();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        Answer {
            status,
            etag,
            last_modified,
            content_type,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask((Method::GET, path), &[], None).await
    }

    /// Writes a patient; answers with its version.
    pub(super) async fn put(&self, id: &str, family: &str) -> String {
        let body = json!({"resourceType": "Patient", "id": id, "name": [{"family": family}]});
        let path = format!("Patient/{id}");
        let answer = self.ask((Method::PUT, &path), &[], Some(&body)).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
        let etag = answer.etag.unwrap();
        etag.trim_start_matches("W/").trim_matches('"').to_owned()
    }

    /// Writes so many patients, `p0`, `p1` and so on.
    pub(super) async fn put_many(&self, count: usize) {
        for number in 0..count {
            self.put(&format!("p{number}"), "Synthetic").await;
        }
    }

    pub(super) async fn delete(&self, path: &str) {
        let answer = self.ask((Method::DELETE, path), &[], None).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }

    /// The connector with the server's profile.
    pub(super) fn connector(&self) -> FhirConnector {
        self.connector_with(Profile::builtin(self.product.profile()).unwrap())
    }

    pub(super) fn connector_with(&self, profile: Profile) -> FhirConnector {
        FhirConnector::new(Settings {
            base_url: self.server.url.clone(),
            credentials: Arc::new(Fixed::none()),
            profile,
            http: Arc::<Wire>::clone(&self.wire),
            clock: Arc::new(SystemClock),
            limits: Limits {
                page_count: PAGE,
                ..Limits::default()
            },
        })
    }

    /// What the connector asked for since the last look.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.wire.asked.lock().unwrap())
    }

    /// A whole poll.
    pub(super) async fn poll(&self, feed: &FeedSpec, cursor: Option<&Cursor>) -> Polled {
        let connector = self.connector();
        let (mut changes, mut listed) = (Vec::new(), Vec::new());
        let mut resume: Option<Resume> = None;
        loop {
            let request = PollRequest {
                feed,
                cursor,
                resume: resume.as_ref(),
            };
            let page = connector.poll(request).await.unwrap();
            changes.extend(page.changes);
            listed.extend(page.listed.iter().flatten().map(ToString::to_string));
            match page.next {
                Next::Page(next) => resume = Some(next),
                end @ (Next::Done(_) | Next::Inconclusive { .. }) => {
                    return Polled { changes, listed, end };
                }
            }
        }
    }
}

impl Polled {
    /// What was shown, each once, as `id@version`; deletes as `id gone`.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.changes.iter().map(name).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn cursor(&self) -> &Cursor {
        match &self.end {
            Next::Done(cursor) => cursor,
            other @ (Next::Page(_) | Next::Inconclusive { .. }) => panic!("{other:?}"),
        }
    }
}

fn name(change: &ChangeRef) -> String {
    if change.shown == Shown::Deleted {
        return format!("{} gone", change.key.id);
    }
    format!(
        "{}@{}",
        change.key.id,
        change.version_id.as_deref().unwrap_or("-")
    )
}

pub(super) fn feed(record_type: &str, detect: Detect) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("feed").unwrap(),
        record_type: RecordType::parse(record_type).unwrap(),
        filter: String::new(),
        start: Start::Beginning,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

pub(super) fn patient(id: &str) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Patient").unwrap(),
        id: RecordId::parse(id).unwrap(),
    }
}

/// A patient as a page showed it.
pub(super) fn shown(id: &str, version: &str) -> ChangeRef {
    ChangeRef {
        key: patient(id),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: Some(version.to_owned()),
        last_updated: None,
        record: None,
    }
}

/// The version id of a record that was found.
pub(super) fn version_found(fetched: &Fetched) -> Option<&str> {
    let Fetched::Found(found, _) = fetched else {
        panic!("{fetched:?}");
    };
    found.version_id.as_deref()
}

/// The entries of a Bundle.
pub(super) fn entries(bundle: &Value) -> &[Value] {
    bundle["entry"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a Bundle links a further page.
pub(super) fn has_next(bundle: &Value) -> bool {
    let links = bundle["link"].as_array().map_or(&[][..], Vec::as_slice);
    links.iter().any(|link| link["relation"] == "next")
}
