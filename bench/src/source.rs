//! The source of the runs: a FHIR server on loopback that shows so many changes a second, or never anything new.
//!
//! Every change is the first version of a record of its own, so that its place follows from the record's id. It notes
//! when it was asked, and when it first showed each change.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{OriginalUri, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use courier_sdk::Clock as _;
use ehr_courier::clock::SystemClock;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::Failed;
use crate::backlog::{record_id, resource};

/// Entries of a page that was asked for without `_count`.
const PAGE: u64 = 200;

/// What a source shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Changes a second, from the beginning on.
    pub(crate) per_second: u32,
    /// How many there will be in all.
    pub(crate) changes: u32,
}

/// A source on a loopback port of its own; it ends when it is dropped.
pub(crate) struct Source {
    /// The base address of the first of any number of clinics: the path is not looked at but for its end.
    pub(crate) url: Url,
    shared: Arc<Shared>,
    _serving: JoinSet<std::io::Result<()>>,
}

struct Shared {
    url: Url,
    pace: Pace,
    began: Timestamp,
    requests: AtomicU64,
    /// Each path that was asked for, but for the capabilities.
    paths: Mutex<BTreeSet<String>>,
    asked: watch::Sender<bool>,
    /// When each change was first shown.
    shown: Mutex<Vec<Instant>>,
}

impl Source {
    /// Begins to answer.
    pub(crate) async fn open(pace: Pace) -> Result<Self, Failed> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = Url::parse(&format!("http://{}/fhir", listener.local_addr()?))?;
        let shared = Arc::new(Shared {
            url: url.clone(),
            pace,
            began: SystemClock.now(),
            requests: AtomicU64::new(0),
            paths: Mutex::default(),
            asked: watch::Sender::new(false),
            shown: Mutex::default(),
        });
        let router = Router::new()
            .fallback(any(answer))
            .with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            url,
            shared,
            _serving: serving,
        })
    }

    /// How often it was asked for anything.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many different paths it was asked to search.
    pub(crate) fn paths_asked(&self) -> usize {
        self.shared.paths().len()
    }

    /// Forgets that it was asked.
    pub(crate) fn forget(&self) {
        self.shared.asked.send_replace(false);
    }

    /// Waits until it is asked to search, if it was not since it forgot.
    pub(crate) async fn asked(&self) {
        // The sender lives as long as this source: there is no other way to end than to be asked.
        drop(self.shared.asked.subscribe().wait_for(|asked| *asked).await);
    }

    /// How many changes were shown so far.
    pub(crate) fn shown_so_far(&self) -> usize {
        self.shared.shown().len()
    }

    /// When each change so far was first shown.
    pub(crate) fn shown(&self) -> Vec<Instant> {
        self.shared.shown().clone()
    }

    /// When a change is stamped.
    pub(crate) fn stamp(&self, change: u64) -> Timestamp {
        self.shared.stamp(change)
    }
}

/// Which changes a search asks for.
#[derive(Debug, Default)]
struct Search {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    count: Option<u64>,
    offset: u64,
}

impl Search {
    fn parse(query: &str) -> Self {
        let mut search = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let instant = |prefix: &str| value.strip_prefix(prefix)?.parse().ok();
            match name.as_ref() {
                "_lastUpdated" => {
                    search.from = instant("ge").or(search.from);
                    search.to = instant("le").or(search.to);
                }
                "_count" => search.count = value.parse().ok(),
                "_offset" => search.offset = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        search
    }
}

impl Shared {
    fn shown(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, change: u64) -> Timestamp {
        let millis = change * 1000 / u64::from(self.pace.per_second.max(1));
        let after = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
        self.began.saturating_add(after).unwrap_or(Timestamp::MAX)
    }

    /// How many changes are stamped before an instant.
    fn before(&self, instant: Timestamp) -> u64 {
        let millis = instant.duration_since(self.began).as_millis();
        let millis = u64::try_from(millis).unwrap_or_default();
        let changes = (millis * u64::from(self.pace.per_second)).div_ceil(1000);
        changes.min(u64::from(self.pace.changes))
    }

    /// One page of a search, and how many changes it shows up to.
    fn page(&self, path: &str, query: &str) -> Result<(String, u64), std::fmt::Error> {
        let search = Search::parse(query);
        let first = search.from.map_or(0, |from| self.before(from));
        let present = search
            .to
            .map_or(SystemClock.now(), |to| to.min(SystemClock.now()));
        let end = self.before(present).max(first);
        let begin = (first + search.offset).min(end);
        let page_end = end.min(begin + search.count.unwrap_or(PAGE));
        let link = |query: &str| {
            let mut url = self.url.clone();
            url.set_path(path);
            url.set_query(Some(query));
            url
        };
        let mut text = format!(
            r#"{{"resourceType":"Bundle","type":"searchset","total":{},"link":[{{"relation":"self","url":"{}"}}"#,
            end - first,
            link(query)
        );
        if page_end < end {
            let bare = query.split("&_offset=").next().unwrap_or_default();
            let next = link(&format!("{bare}&_offset={}", page_end - first));
            write!(text, r#",{{"relation":"next","url":"{next}"}}"#)?;
        }
        text.push_str(r#"],"entry":["#);
        for change in begin..page_end {
            let (comma, id) = (if change > begin { "," } else { "" }, record_id(change));
            let resource = resource(&id, 1, self.stamp(change));
            write!(
                text,
                r#"{comma}{{"fullUrl":"{}/Appointment/{id}","resource":{resource},"search":{{"mode":"match"}}}}"#,
                self.url
            )?;
        }
        text.push_str("]}");
        Ok((text, page_end))
    }
}

async fn answer(State(shared): State<Arc<Shared>>, OriginalUri(uri): OriginalUri) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let text = if path.ends_with("/metadata") {
        r#"{"resourceType":"CapabilityStatement","status":"active","kind":"instance","fhirVersion":"4.0.1","format":["json"],"rest":[{"mode":"server","resource":[{"type":"Appointment","interaction":[{"code":"read"},{"code":"search-type"}],"searchParam":[{"name":"_lastUpdated","type":"date"}]}]}]}"#.to_owned()
    } else {
        shared.paths().insert(path.to_owned());
        shared.asked.send_replace(true);
        // Writing to a String cannot fail.
        let (text, end) = shared.page(path, query).unwrap_or_default();
        let now = Instant::now();
        let mut shown = shared.shown();
        let known = shown.len();
        let new = usize::try_from(end).unwrap_or_default().saturating_sub(known);
        shown.extend(std::iter::repeat_n(now, new));
        text
    };
    ([(CONTENT_TYPE, "application/fhir+json")], text).into_response()
}
