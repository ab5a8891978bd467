//! A FHIR server in memory with live offset paging and the faults that the flows need.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{Clock, Fixed, Http, HttpError, HttpRequest, HttpResponse};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jiff::{Timestamp, ToSpan};
use url::Url;

/// The server's day begins here; all instants of the flows are seconds from it.
pub(crate) fn at(second: i64) -> Timestamp {
    "2026-11-20T10:00:00Z".parse::<Timestamp>().unwrap() + second.seconds()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paging {
    Ascending,
    Descending,
    Unordered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// 304 where the tag fits.
    Honoured,
    Ignored,
    /// 304 to whoever asks with a condition, with this tag.
    Answered(&'static str),
}

/// What a page says of matches beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Further {
    /// A link to the next page.
    Linked,
    /// Nothing.
    Cut,
    /// How many there are.
    Counted,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) version: u32,
    pub(crate) second: i64,
    pub(crate) filler: usize,
}

pub(crate) struct State {
    pub(crate) rows: Vec<Row>,
    pub(crate) deleted: Option<String>,
    /// The most rows of a page; fewer where `_count` says so.
    pub(crate) page_size: usize,
    pub(crate) now: i64,
    /// Random changes at every request, from this state.
    pub(crate) churn: Option<u64>,
    requests: usize,
    pub(crate) paging: Paging,
    /// The request before which rows leave the first page; 0 for none.
    pub(crate) leave_at: usize,
    pub(crate) date: &'static str,
    /// By how many seconds `Date` alone is off.
    pub(crate) date_skew: i64,
    /// What our own clock says.
    pub(crate) ours: i64,
    pub(crate) ignore_where: bool,
    pub(crate) ignore_filter: bool,
    /// Whether a search for ids is one.
    pub(crate) ids: Condition,
    /// How many requests named ids to search for, and how many each.
    pub(crate) asked_ids: Vec<usize>,
    pub(crate) self_link: bool,
    pub(crate) next_base: String,
    pub(crate) further: Further,
    pub(crate) fail: Option<u16>,
    /// The status of version reads alone.
    pub(crate) fail_versions: Option<u16>,
    /// What plain reads do with `If-None-Match`.
    pub(crate) condition: Condition,
    pub(crate) body: Option<String>,
    pub(crate) broken: Option<HttpError>,
    pub(crate) hosts: Vec<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) query: String,
}

#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

impl Server {
    /// A server whose clock says 1000.
    pub(crate) fn new(page_size: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            rows: Vec::new(),
            deleted: None,
            page_size,
            now: 1000,
            requests: 0,
            churn: None,
            paging: Paging::Ascending,
            leave_at: 0,
            date: "date",
            date_skew: 0,
            ours: 2000,
            ignore_where: false,
            ignore_filter: false,
            ids: Condition::Honoured,
            asked_ids: Vec::new(),
            self_link: true,
            next_base: "https://ehr.example/fhir".to_owned(),
            further: Further::Linked,
            fail: None,
            fail_versions: None,
            condition: Condition::Honoured,
            body: None,
            broken: None,
            hosts: Vec::new(),
            headers: HeaderMap::new(),
            query: String::new(),
        })))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    pub(crate) fn set_now(&self, second: i64) {
        self.with(|state| state.now = second);
    }

    pub(crate) fn put(&self, id: &str, second: i64) {
        self.with(|state| {
            let before = state
                .rows
                .iter()
                .position(|row| row.id == id)
                .map(|index| state.rows.remove(index));
            let version = before.map_or(1, |row| row.version + 1);
            state.rows.push(Row {
                id: id.to_owned(),
                version,
                second,
                filler: 0,
            });
        });
    }
}

impl Row {
    fn body(&self) -> String {
        format!(
            r#"{{"resourceType":"Appointment","id":"{}","x":1.10,"pad":"{}","meta":{{"versionId":"{}","lastUpdated":"{}"}}}}"#,
            self.id,
            "x".repeat(self.filler),
            self.version,
            at(self.second)
        )
    }
}

impl State {
    fn leave(&mut self) {
        if self.leave_at == 0 || self.requests != self.leave_at {
            return;
        }
        // Three of the rows that come first in the answer: two are updated, one is deleted.
        let mut order = self.ordered();
        order.truncate(3);
        for (index, row) in order.iter().enumerate() {
            self.rows.retain(|other| other.id != row.id);
            if index == 0 {
                self.deleted = Some(row.id.clone());
            } else {
                self.rows.push(Row {
                    version: row.version + 1,
                    second: self.now + 1,
                    ..row.clone()
                });
            }
        }
    }

    /// Time passes, and up to three records are updated, deleted or made, some stamped a little late.
    fn stir(&mut self) {
        let Some(mut random) = self.churn else { return };
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        self.now += i64::try_from(draw(200)).unwrap();
        for _ in 0..draw(4) {
            let second = self.now - i64::try_from(draw(100) * draw(2)).unwrap();
            let index = usize::try_from(draw(1000)).unwrap() % self.rows.len().max(1);
            match draw(4) {
                0 if self.rows.len() > 8 => drop(self.rows.remove(index)),
                1 => {
                    let id = format!("n{}-{}", self.now, draw(1_000_000));
                    self.rows.push(Row {
                        id,
                        version: 1,
                        second,
                        filler: 0,
                    });
                }
                _ if self.rows.is_empty() => {}
                _ => {
                    self.rows[index].version += 1;
                    self.rows[index].second = second;
                }
            }
        }
        self.churn = Some(random);
    }

    fn ordered(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        match self.paging {
            Paging::Ascending => rows.sort_by_key(|row| row.second),
            Paging::Descending => rows.sort_by_key(|row| -row.second),
            // An order that has nothing to do with time and survives an update.
            Paging::Unordered => rows.sort_by_key(|row| row.id.chars().rev().collect::<String>()),
        }
        rows
    }

    fn search(&self, url: &Url) -> String {
        let mut offset = 0;
        let mut page_size = self.page_size;
        let mut ids_only = false;
        let mut kept = String::new();
        let mut rows = self.ordered();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "offset" => offset = value.parse().unwrap(),
                "_lastUpdated" if self.ignore_filter => {}
                "status" if self.ignore_where => {}
                "_id" if self.ids == Condition::Ignored => {}
                "_id" => {
                    let ids: Vec<&str> = value.split(',').collect();
                    rows.retain(|row| ids.contains(&row.id.as_str()));
                    write!(kept, "{name}={value}&").unwrap();
                }
                "_lastUpdated" => {
                    let (prefix, bound) = value.split_at(2);
                    let bound: Timestamp = bound.parse().unwrap();
                    rows.retain(|row| {
                        if prefix == "ge" {
                            at(row.second) >= bound
                        } else {
                            at(row.second) <= bound
                        }
                    });
                    write!(kept, "{name}={value}&").unwrap();
                }
                _ => {
                    if name == "_count" {
                        page_size = page_size.min(value.parse().unwrap());
                    }
                    ids_only |= name == "_elements";
                    write!(kept, "{name}={value}&").unwrap();
                }
            }
        }
        let page: Vec<String> = rows
            .iter()
            .skip(offset)
            .take(page_size)
            .map(|row| {
                let filler = if ids_only { 0 } else { row.filler };
                let row = Row {
                    filler,
                    ..row.clone()
                };
                format!(r#"{{"resource":{},"search":{{"mode":"match"}}}}"#, row.body())
            })
            .collect();
        let mut links = Vec::new();
        if self.self_link {
            links.push(format!(
                r#"{{"relation":"self","url":"https://ehr.example/fhir/Appointment?{kept}"}}"#
            ));
        }
        let end = offset + page_size;
        if end < rows.len() && self.further == Further::Linked {
            let next = format!("{}/Appointment?{kept}offset={end}", self.next_base);
            links.push(format!(r#"{{"relation":"next","url":"{next}"}}"#));
        }
        let (links, page) = (links.join(","), page.join(","));
        let total = match self.further {
            Further::Counted => format!(r#""total":{},"#, rows.len()),
            Further::Linked | Further::Cut => String::new(),
        };
        format!(r#"{{"resourceType":"Bundle","type":"searchset",{total}"link":[{links}],"entry":[{page}]}}"#)
    }

    /// The tag of a 304, where a read is answered by one.
    fn not_modified(&self, request: &HttpRequest) -> Option<String> {
        let asked = request.headers.get("if-none-match")?.to_str().unwrap();
        let id = request.url.path().strip_prefix("/fhir/Appointment/")?;
        let row = self.rows.iter().find(|row| row.id == id)?;
        let tag = format!("W/\"{}\"", row.version);
        match self.condition {
            Condition::Honoured => (asked == tag).then_some(tag),
            Condition::Ignored => None,
            Condition::Answered(tag) => Some(tag.to_owned()),
        }
    }

    fn read(&self, path: &str) -> (u16, String) {
        let parts: Vec<&str> = path.trim_start_matches("/fhir/Appointment/").split('/').collect();
        let row = self.rows.iter().find(|row| row.id == parts[0]);
        match (row, parts.get(2)) {
            (Some(row), None) => (200, row.body()),
            (Some(row), Some(version)) if *version == row.version.to_string() => (200, row.body()),
            _ => (404, String::new()),
        }
    }
}

#[async_trait]
impl Http for Server {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.with(|state| {
            if let Some(error) = state.broken.take() {
                return Err(error);
            }
            state.leave();
            state.stir();
            state.requests += 1;
            state.hosts.push(request.url.host_str().unwrap().to_owned());
            state.headers = request.headers.clone();
            request
                .url
                .query()
                .unwrap_or_default()
                .clone_into(&mut state.query);
            if let Some((_, ids)) = request.url.query_pairs().find(|(name, _)| name == "_id") {
                state.asked_ids.push(ids.split(',').count());
            }
            let not_modified = state.not_modified(&request);
            let (status, body) = match (state.fail, &state.body) {
                (None, None) if not_modified.is_some() => (304, String::new()),
                (Some(status), body) => (status, body.clone().unwrap_or_default()),
                (None, Some(body)) => (200, body.clone()),
                (None, None) if state.fail_versions.is_some() && request.url.path().contains("_history") => {
                    (state.fail_versions.unwrap(), String::new())
                }
                (None, None) if request.url.path() == "/fhir/Appointment" => {
                    (200, state.search(&request.url))
                }
                (None, None) => state.read(request.url.path()),
            };
            let mut headers = HeaderMap::new();
            if state.date != "none" {
                let date = at(state.now + state.date_skew)
                    .strftime("%a, %d %b %Y %H:%M:%S GMT")
                    .to_string();
                headers.insert("date", date.parse().unwrap());
            }
            if state.date == "age" {
                headers.insert("age", "90".parse().unwrap());
            }
            if let Some(tag) = not_modified.filter(|tag| !tag.is_empty()) {
                headers.insert("etag", tag.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            Ok(HttpResponse {
                status,
                headers,
                body: Bytes::from(body),
            })
        })
    }
}

/// Our own clock, by default a quarter of an hour ahead of the server's.
pub(crate) struct OurClock(pub(crate) Server);

impl fmt::Debug for OurClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OurClock({})", self.now())
    }
}

impl Clock for OurClock {
    fn now(&self) -> Timestamp {
        at(self.0.with(|state| state.ours))
    }
}

/// A new connector, without any memory, for the server.
pub(crate) fn connector(server: &Server) -> FhirConnector {
    FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::header(AUTHORIZATION, "Bearer s3cret").unwrap()),
        profile: Profile::builtin("sandbox").unwrap(),
        http: Arc::new(server.clone()),
        clock: Arc::new(OurClock(server.clone())),
        limits: Limits {
            page_bytes_max: 20_000,
            record_bytes_max: 2000,
            ..Limits::default()
        },
    })
}
