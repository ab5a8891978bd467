//! A recording reverse proxy: passes the courier's requests on to the server and notes what each answer showed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::Instant;
use url::Url;

use crate::book::Record;
use crate::journal::{Journal, Version};

/// A running proxy.
pub(crate) struct Proxy {
    /// Where it answers.
    pub(crate) url: Url,
    upstream: OnceLock<Url>,
    client: reqwest::Client,
    journal: Mutex<Journal>,
    noted: Mutex<Noted>,
}

/// What was asked for beside the polls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Noted {
    /// Requests of any kind.
    pub(crate) requests: u64,
    /// Records that a sweep listed.
    pub(crate) swept: BTreeSet<Record>,
    /// Versions that a read answered with.
    pub(crate) read: BTreeSet<Version>,
    /// Searches that went on where an answer was cut.
    pub(crate) larger: u64,
    /// The sweeps' further pages.
    sweep_links: BTreeSet<String>,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// A poll of that type.
    Poll(String),
    /// A listing of everything of that type.
    Sweep,
    /// Records that are known by their ids.
    Read,
}

impl Proxy {
    /// Starts on a free loopback port; it ends with the runtime.
    pub(crate) fn start(runtime: &Handle) -> Arc<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let client = reqwest::Client::builder().no_gzip().no_proxy().build().unwrap();
        let proxy = Arc::new(Self {
            url,
            upstream: OnceLock::new(),
            client,
            journal: Mutex::new(Journal::default()),
            noted: Mutex::new(Noted::default()),
        });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&proxy));
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        proxy
    }

    /// Says where requests go from now on.
    pub(crate) fn set_upstream(&self, url: Url) {
        self.upstream.set(url).unwrap();
    }

    /// What the answers showed.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    /// What was asked for beside the polls.
    pub(crate) fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap()
    }

    async fn pass(
        &self,
        (method, uri): (Method, &Uri),
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, reqwest::Error> {
        let purpose = self.purpose(uri);
        if let Purpose::Poll(record_type) = &purpose {
            self.journal().asked(record_type, Instant::now());
        }
        headers.remove(header::HOST);
        headers.remove(header::ACCEPT_ENCODING);
        let url = self.upstream.get().unwrap().join(&uri.to_string()).unwrap();
        let request = self.client.request(method, url).headers(headers).body(body);
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await?;
        if status == StatusCode::OK {
            self.note(&purpose, &body);
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        Ok(response)
    }

    fn purpose(&self, uri: &Uri) -> Purpose {
        let query = uri.query().unwrap_or_default();
        let path = uri.path().trim_matches('/');
        let of_history = path.ends_with("/_history");
        let path = path.strip_suffix("/_history").unwrap_or(path);
        let mut noted = self.noted();
        noted.requests += 1;
        if query.contains("_id=") || path.is_empty() || path.contains('/') || path == "metadata" {
            return Purpose::Read;
        }
        let usual = query.contains("_count=200") || !query.contains("_count=");
        noted.larger += u64::from(!usual);
        // A sweep names neither an order nor a time; its further pages are known by their links.
        let lists = !of_history && !query.contains("_sort=") && !query.contains("_lastUpdated");
        if lists || noted.sweep_links.contains(&uri.to_string()) {
            return Purpose::Sweep;
        }
        Purpose::Poll(path.to_owned())
    }

    fn note(&self, purpose: &Purpose, body: &Bytes) {
        match purpose {
            Purpose::Poll(record_type) => self.journal().answered(record_type, body),
            Purpose::Sweep => {
                self.journal().read(body);
                let bundle: Value = serde_json::from_slice(body).unwrap();
                let mut noted = self.noted();
                noted.swept.extend(records(&bundle).map(|(record, _)| record));
                noted.sweep_links.extend(next_link(&bundle));
            }
            Purpose::Read => {
                self.journal().read(body);
                let answer: Value = serde_json::from_slice(body).unwrap();
                let all = records(&answer).chain(named(&answer));
                let versions = all.map(|((record_type, id), version)| (record_type, id, version));
                self.noted().read.extend(versions);
            }
        }
    }
}

/// The records of a Bundle with their versions.
fn records(bundle: &Value) -> impl Iterator<Item = (Record, String)> {
    let entries = bundle["entry"].as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().filter_map(|entry| named(&entry["resource"]))
}

fn named(resource: &Value) -> Option<(Record, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let record = (text(&resource["resourceType"])?, text(&resource["id"])?);
    Some((record, text(&resource["meta"]["versionId"])?))
}

/// Path and query of the further page.
fn next_link(bundle: &Value) -> Option<String> {
    let links = bundle["link"].as_array()?;
    let next = links.iter().find(|link| link["relation"] == "next")?;
    let url = Url::parse(next["url"].as_str()?).ok()?;
    Some(format!("{}?{}", url.path(), url.query()?))
}

async fn pass(
    State(proxy): State<Arc<Proxy>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    proxy
        .pass((method, &uri), headers, body)
        .await
        .unwrap_or_else(|_| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
}
