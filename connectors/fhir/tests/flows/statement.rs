//! Statements that cannot be read: what is known of the server's histories stays, and a cursor that a history moved is
//! never gone on from by a search because of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    Clock, Connector as _, ConnectorError, Cursor, Detect, FeedSpec, Fixed, Http, HttpError, HttpRequest,
    HttpResponse, Next, PollRequest, Start,
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use url::Url;

use super::server::at;

/// A server with a history and a search without records, whose statement can fail.
#[derive(Debug, Default)]
struct Source {
    /// The statement's status, if it is not 200.
    fails: Mutex<Option<u16>>,
    second: Mutex<i64>,
    asked: Mutex<Vec<&'static str>>,
}

impl Clock for Source {
    fn now(&self) -> Timestamp {
        at(*self.second.lock().unwrap())
    }
}

#[async_trait]
impl Http for Source {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.url.path();
        let (asked, body) = if path.ends_with("/metadata") {
            let text = r#"{"resourceType":"CapabilityStatement","rest":[{"resource":[
                {"type":"Appointment","interaction":[{"code":"history-type"}]}]}]}"#;
            ("statement", text)
        } else if path.ends_with("/_history") {
            ("history", r#"{"resourceType":"Bundle","type":"history"}"#)
        } else {
            ("search", r#"{"resourceType":"Bundle","type":"searchset"}"#)
        };
        self.asked.lock().unwrap().push(asked);
        let status = (*self.fails.lock().unwrap()).filter(|_| asked == "statement");
        let mut headers = HeaderMap::new();
        let date = self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        headers.insert("date", date.parse().unwrap());
        headers.insert("retry-after", "7".parse().unwrap());
        Ok(HttpResponse {
            status: StatusCode::from_u16(status.unwrap_or(200)).unwrap(),
            headers,
            body: Bytes::from(body),
        })
    }
}

struct World {
    source: Arc<Source>,
    connector: FhirConnector,
    spec: FeedSpec,
}

impl World {
    fn new() -> Self {
        let mut world = Self::around(Arc::new(Source::default()));
        world.advance(1000);
        world.spec.detect = Detect::Auto;
        world
    }

    fn around(source: Arc<Source>) -> Self {
        let connector = FhirConnector::new(Settings {
            base_url: Url::parse("https://ehr.example/fhir").unwrap(),
            credentials: Arc::new(Fixed::none()),
            profile: Profile::builtin("sandbox").unwrap(),
            http: Arc::<Source>::clone(&source),
            clock: Arc::<Source>::clone(&source),
            limits: Limits::default(),
        });
        let spec = super::feed(Start::Now);
        Self {
            source,
            connector,
            spec,
        }
    }

    /// The same server after the courier was started again.
    fn restarted(self) -> Self {
        Self {
            spec: self.spec,
            ..Self::around(self.source)
        }
    }

    fn advance(&self, seconds: i64) {
        *self.source.second.lock().unwrap() += seconds;
    }

    fn statement_fails(&self, status: u16) {
        *self.source.fails.lock().unwrap() = Some(status);
    }

    async fn try_poll(&self, cursor: Option<&Cursor>) -> Result<Cursor, ConnectorError> {
        let (feed, resume) = (&self.spec, None);
        let page = self.connector.poll(PollRequest { feed, cursor, resume }).await?;
        match page.next {
            Next::Done(cursor) => Ok(cursor),
            other => panic!("{other:?}"),
        }
    }

    async fn poll(&self, cursor: Option<&Cursor>) -> Cursor {
        self.try_poll(cursor).await.unwrap()
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.source.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_what_is_known_and_is_tried_again() {
    let world = World::new();
    let cursor = world.poll(None).await;
    assert_eq!(world.asked(), ["statement", "history"]);
    world.advance(86_400);
    world.statement_fails(500);
    let cursor = world.poll(Some(&cursor)).await;
    assert_eq!(world.asked(), ["statement", "history"]);
    world.advance(299);
    let cursor = world.poll(Some(&cursor)).await;
    assert_eq!(world.asked(), ["history"], "not with every poll");
    world.advance(1);
    world.poll(Some(&cursor)).await;
    assert_eq!(world.asked(), ["statement", "history"]);
}

#[tokio::test]
async fn a_cursor_that_a_history_moved_is_gone_on_from_by_that_history() {
    for status in [500, 404, 206] {
        let world = World::new();
        let cursor = world.poll(None).await;
        world.asked();
        let world = world.restarted();
        world.statement_fails(status);
        let cursor = world.poll(Some(&cursor)).await;
        world.poll(Some(&cursor)).await;
        assert_eq!(world.asked(), ["statement", "history", "history"], "{status}");
    }
}

#[tokio::test]
async fn a_throttled_statement_throttles_the_connection_once_and_then_the_poll_goes_on() {
    for (restart, status) in [(false, 429), (true, 429), (true, 503)] {
        let mut world = World::new();
        let cursor = world.poll(None).await;
        if restart {
            world = world.restarted();
        }
        world.advance(86_400);
        world.statement_fails(status);
        world.asked();
        let error = world.try_poll(Some(&cursor)).await.unwrap_err();
        assert_eq!(
            (error.class(), error.retry_after()),
            ("throttled", Some(Duration::from_secs(7)))
        );
        world.poll(Some(&cursor)).await;
        assert_eq!(world.asked(), ["statement", "history"], "{restart} {status}");
    }
}
