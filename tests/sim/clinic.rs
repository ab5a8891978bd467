//! A sandbox EHR behind the real FHIR connector, in process: requests are answered by the sandbox's core, and what
//! each answer showed is noted in the book by reading the answer itself.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{
    ChangePage, Connector, ConnectorError, Cursor, Detection, FeedSpec, FetchRequest, Fetched, Http,
    HttpError, HttpRequest, HttpResponse, Include, Meaning, PollRequest, Record, RecordKey, RecordType,
    Reference, VersionRule,
};
use ehr_courier::sandbox::{Answer as Reply, Ehr, Request};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use url::Url;

use crate::book::{Answer, Asked, Book, Extent, Showing};
use crate::identity::sha256;
use crate::life::Life;

tokio::task_local! {
    /// The feed on whose behalf a request is sent.
    static FEED: String;
}

/// Nobody waits longer for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Parameters that choose records by what they are.
const CHOOSING: [&str; 4] = ["_id", "patient", "date", "issued"];

/// Stands for a feed where a record is read because another refers to it.
const CONTEXT: &str = "(context)";

/// One life's way to one sandbox.
pub(crate) struct ClinicHttp {
    pub(crate) connection: String,
    pub(crate) ehr: Arc<Ehr>,
    pub(crate) life: Arc<Life>,
    pub(crate) book: Arc<Book>,
    pub(crate) dice: Mutex<StdRng>,
    pub(crate) concurrent: usize,
    pub(crate) under_way: AtomicUsize,
    /// How often the link to a further page has expired, until the world calms down.
    pub(crate) expired: f64,
    pub(crate) calm: Arc<AtomicBool>,
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    request: Option<Asking>,
    response: Option<Outcome>,
}

/// What a row of a history did.
#[derive(Deserialize)]
struct Asking {
    method: String,
    url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    etag: String,
    last_modified: String,
}

#[derive(Deserialize)]
struct Links {
    #[serde(default)]
    link: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    relation: String,
    url: String,
}

impl Entry<'_> {
    fn showing(&self) -> Option<Showing> {
        if let Some(resource) = self.resource {
            return showing(resource.get());
        }
        let (request, response) = (self.request.as_ref()?, self.response.as_ref()?);
        if request.method != "DELETE" {
            return None;
        }
        let (record_type, id) = request.url.split_once('/')?;
        Some(Showing {
            record_type: record_type.to_owned(),
            id: id.to_owned(),
            number: response
                .etag
                .strip_prefix("W/\"")?
                .strip_suffix('"')?
                .parse()
                .ok()?,
            stamp: response.last_modified.parse().ok()?,
            extent: Extent::Whole,
            sha256: sha256(b""),
        })
    }
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "resourceType")]
    kind: String,
    #[serde(deserialize_with = "text")]
    id: String,
    meta: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(deserialize_with = "text")]
    version_id: String,
    last_updated: String,
    #[serde(default)]
    tag: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    code: String,
}

/// A text, or a number in its place.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn showing(raw: &str) -> Option<Showing> {
    let resource: Resource = serde_json::from_str(raw).ok()?;
    let subsetted = resource.meta.tag.iter().any(|tag| tag.code == "SUBSETTED");
    Some(Showing {
        record_type: resource.kind,
        id: resource.id,
        number: resource.meta.version_id.parse().ok()?,
        stamp: resource.meta.last_updated.parse().ok()?,
        extent: if subsetted { Extent::IdOnly } else { Extent::Whole },
        sha256: sha256(raw.as_bytes()),
    })
}

/// What was asked, by the address alone.
fn asked(url: &Url) -> Asked {
    let segments: Vec<&str> = url.path_segments().unwrap().collect();
    match segments.as_slice() {
        [_, "metadata"] => return Asked::Statement,
        [_, _, _, "_history", _] => return Asked::Version,
        [_, _] if url.query_pairs().any(|(name, _)| name == "_id") => return Asked::Several,
        [_, _, "_history"] | [_, _] => {}
        _ => return Asked::Record,
    }
    let further = url
        .query_pairs()
        .any(|(name, value)| name == "_page" || name == "_offset" || value.starts_with("le"));
    if further { Asked::Page } else { Asked::FirstPage }
}

/// The `_since` of a request.
fn since(url: &Url) -> Option<Timestamp> {
    let (_, since) = url.query_pairs().find(|(name, _)| name == "_since")?;
    Some(since.parse().unwrap())
}

/// Whether the answer says that it did not choose records as it was asked to.
fn ignores(url: &Url, reply: &Reply) -> bool {
    let chooses = |(name, _): &(Cow<'_, str>, Cow<'_, str>)| CHOOSING.contains(&name.as_ref());
    let mut asked = url.query_pairs().filter(chooses);
    let bundle = || serde_json::from_slice::<Links>(&reply.body).ok();
    let Some((name, _)) = asked.next() else {
        return false;
    };
    let Some(own) = bundle().and_then(|links| links.link.into_iter().find(|it| it.relation == "self")) else {
        return false;
    };
    let own: Url = own.url.parse().unwrap();
    !own.query_pairs().any(|(applied, _)| applied == name)
}

/// Reads what a whole, sound answer shows.
pub(crate) fn showings(asked: Asked, url: &Url, reply: &Reply) -> Vec<Showing> {
    let text = std::str::from_utf8(&reply.body).unwrap_or_default();
    let unanswered = reply.delay.is_some_and(|delay| delay > DEADLINE);
    let spoiled = reply.cut_at.is_some() || reply.unpacked_bytes.is_some() || unanswered;
    match (asked, reply.status.as_u16()) {
        (Asked::FirstPage | Asked::Page | Asked::Several, 200) if !spoiled => {
            serde_json::from_str::<Bundle<'_>>(text)
                .map(|bundle| bundle.entry.iter().filter_map(Entry::showing).collect())
                .unwrap_or_default()
        }
        (Asked::Version | Asked::Record | Asked::Context, 200) if !spoiled => {
            showing(text).into_iter().collect()
        }
        (Asked::Version | Asked::Record, 410) if !spoiled => absent(url, Extent::Gone),
        (Asked::Record, 404) if !spoiled => absent(url, Extent::NotFound),
        _ => Vec::new(),
    }
}

fn absent(url: &Url, extent: Extent) -> Vec<Showing> {
    let mut segments = url.path_segments().unwrap().skip(1).map(str::to_owned);
    vec![Showing {
        record_type: segments.next().unwrap(),
        id: segments.next().unwrap(),
        number: 0,
        stamp: Timestamp::UNIX_EPOCH,
        extent,
        sha256: sha256(b""),
    }]
}

/// The source's own time as its answer tells it.
fn date(reply: &Reply) -> Timestamp {
    let text = |name: &str| {
        reply
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let date = text("date").unwrap();
    let date = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", date).unwrap();
    let date = date.to_zoned(TimeZone::UTC).unwrap().timestamp();
    let age = text("age").map_or(0, |age| age.parse::<u64>().unwrap());
    date - Duration::from_secs(age)
}

impl ClinicHttp {
    fn note(&self, url: &Url, reply: &Reply) {
        let feed = FEED.try_with(Clone::clone).unwrap_or_default();
        let mut asked = asked(url);
        if matches!(asked, Asked::Statement) {
            return;
        }
        let showings = showings(asked, url, reply);
        if matches!(asked, Asked::Record | Asked::Several) && feed == CONTEXT {
            asked = Asked::Context;
        } else if matches!(asked, Asked::Record | Asked::Several) && !feed.is_empty() {
            // A part of what its poll lists.
            asked = Asked::FirstPage;
        }
        let mut pages = self.book.open();
        let tick = pages.next();
        if asked == Asked::Several {
            *pages.counts.entry("searches for several ids").or_default() += 1;
        }
        let since = match asked {
            Asked::FirstPage => since(url),
            // A link need not repeat what its poll asked for.
            Asked::Page => pages.since_of_last_poll(&self.connection, &feed),
            Asked::Version | Asked::Record | Asked::Several | Asked::Context | Asked::Statement => None,
        };
        pages.answers.push(Answer {
            tick,
            life: self.life.number,
            connection: self.connection.clone(),
            feed,
            asked,
            date: date(reply),
            since,
            ignores: ignores(url, reply),
            showings,
        });
    }

    fn link_has_expired(&self, url: &Url) -> bool {
        let further = url.query_pairs().any(|(name, _)| name == "_page");
        let strikes = further
            && !self.calm.load(Ordering::Relaxed)
            && self.dice.lock().unwrap().random_bool(self.expired);
        if strikes {
            *self.book.open().counts.entry("page links expired").or_default() += 1;
        }
        strikes
    }

    fn waits(&self) -> [Duration; 2] {
        let mut dice = self.dice.lock().unwrap();
        [(); 2].map(|()| Duration::from_millis(dice.random_range(1..40)))
    }
}

fn respond(request: &HttpRequest, reply: Reply) -> Result<HttpResponse, HttpError> {
    let limit = request.response_bytes_max;
    if reply.unpacked_bytes.unwrap_or(reply.body.len()) > limit {
        return Err(HttpError::TooLarge { limit });
    }
    if reply.cut_at.is_some() {
        let reason = "the body is shorter than announced".to_owned();
        return Err(HttpError::Broken { reason });
    }
    Ok(HttpResponse {
        status: reply.status,
        headers: reply.headers,
        body: reply.body,
    })
}

#[async_trait]
impl Http for ClinicHttp {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.life.gate().await;
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.concurrent {
            self.book
                .violation(format!("more requests at once than {} allows", self.connection));
        }
        let [there, back] = self.waits();
        tokio::time::sleep(there).await;
        if self.link_has_expired(&request.url) {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Ok(HttpResponse {
                status: StatusCode::GONE,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            });
        }
        let reply = self.ehr.answer(&Request::new(
            request.method.clone(),
            &request.url,
            request.headers.clone(),
        ));
        self.note(&request.url, &reply);
        let delay = reply.delay.unwrap_or_default();
        tokio::time::sleep(back + delay.min(DEADLINE)).await;
        self.life.gate().await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if delay > DEADLINE {
            return Err(HttpError::Timeout { deadline: DEADLINE });
        }
        respond(&request, reply)
    }
}

/// A connector that tells on whose behalf it asks.
pub(crate) struct Watched<C>(pub(crate) C);

impl<C: Connector> Watched<C> {
    async fn on_behalf<T>(feed: &str, work: impl Future<Output = T> + Send) -> T {
        FEED.scope(feed.to_owned(), work).await
    }
}

#[async_trait]
impl<C: Connector> Connector for Watched<C> {
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        Self::on_behalf(request.feed.name.as_str(), self.0.poll(request)).await
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        Self::on_behalf("", self.0.fetch(request)).await
    }

    fn fetch_at_once(&self, record_type: &RecordType) -> usize {
        self.0.fetch_at_once(record_type)
    }

    async fn fetch_many(
        &self,
        requests: &[FetchRequest<'_>],
    ) -> Result<Vec<Option<Fetched>>, ConnectorError> {
        Self::on_behalf("", self.0.fetch_many(requests)).await
    }

    async fn read_context_many(&self, keys: &[RecordKey]) -> Result<Vec<Option<Record>>, ConnectorError> {
        Self::on_behalf(CONTEXT, self.0.read_context_many(keys)).await
    }

    fn references(&self, record: &Record, include: &[Include]) -> Vec<Reference> {
        self.0.references(record, include)
    }

    fn meaning(&self, record: &Record) -> Option<Meaning> {
        self.0.meaning(record)
    }

    async fn read_context(&self, key: &RecordKey) -> Result<Option<Record>, ConnectorError> {
        Self::on_behalf(CONTEXT, self.0.read_context(key)).await
    }

    async fn probe(&self, feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        Self::on_behalf(feed.name.as_str(), self.0.probe(feed)).await
    }

    async fn count_past(&self, feed: &FeedSpec) -> Result<Option<u64>, ConnectorError> {
        Self::on_behalf(feed.name.as_str(), self.0.count_past(feed)).await
    }

    fn version_rule(&self, record_type: &RecordType) -> VersionRule {
        self.0.version_rule(record_type)
    }

    fn cursor_at(&self, instant: Timestamp) -> Cursor {
        self.0.cursor_at(instant)
    }

    fn describe(&self, cursor: &Cursor) -> Option<Timestamp> {
        self.0.describe(cursor)
    }
}
