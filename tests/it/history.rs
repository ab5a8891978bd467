//! Histories of the sandbox, through the real FHIR connector, in process: every version and every delete once, and
//! nothing lost or told twice when the way of finding changes changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    Clock, Connector as _, Cursor, DeleteSight, Detect, FeedName, FeedSpec, FetchMode, Http, HttpError,
    HttpRequest, HttpResponse, Include, Next, Novelty, PageOrder, PollRequest, Record, RecordType, Scope,
    Shown, Start, Strategy,
};
use ehr_courier::sandbox::{Ehr, Options, Request, parse_fault};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

#[derive(Debug)]
struct HandClock(Mutex<Timestamp>);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// The sandbox, with paths that it refuses, and what it was asked.
struct InProcess {
    ehr: Arc<Ehr>,
    refused: Mutex<Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Http for InProcess {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.url.path().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        let answer = self
            .ehr
            .answer(&Request::new(request.method, &request.url, request.headers));
        let refused = self.refused.lock().unwrap().iter().any(|end| path.ends_with(end));
        Ok(HttpResponse {
            status: if refused {
                StatusCode::NOT_IMPLEMENTED
            } else {
                answer.status
            },
            headers: answer.headers,
            body: answer.body,
        })
    }
}

struct World {
    clock: Arc<HandClock>,
    ehr: Arc<Ehr>,
    source: Arc<InProcess>,
    connector: FhirConnector,
}

fn world(page_count: u32) -> World {
    let clock = Arc::new(HandClock(Mutex::new("2026-03-01T12:00:00Z".parse().unwrap())));
    let base_url: url::Url = "http://127.0.0.1:1/fhir".parse().unwrap();
    let options = Options::new(1, base_url.clone());
    let ehr = Arc::new(Ehr::new(options, Arc::<HandClock>::clone(&clock)));
    let source = Arc::new(InProcess {
        ehr: Arc::clone(&ehr),
        refused: Mutex::default(),
        asked: Mutex::default(),
    });
    let connector = FhirConnector::new(Settings {
        base_url,
        credentials: Arc::new(courier_sdk::Fixed::none()),
        profile: Profile::builtin("sandbox").unwrap(),
        http: Arc::<InProcess>::clone(&source),
        clock: Arc::<HandClock>::clone(&clock),
        limits: Limits {
            page_count,
            ..Limits::default()
        },
    });
    World {
        clock,
        ehr,
        source,
        connector,
    }
}

fn feed(detect: Detect, start: Start) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("appointments").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

/// What a whole poll shows: `id version`, with a `-` before a delete; silent ones apart.
#[derive(Debug, Default)]
struct Found {
    announced: Vec<String>,
    silent: Vec<String>,
    order: Option<PageOrder>,
    pages: usize,
}

impl World {
    fn advance(&self, seconds: i64) {
        let mut now = self.clock.0.lock().unwrap();
        *now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn write(&self, id: &str) {
        self.advance(1);
        self.ehr.write("Appointment", id, "{}").unwrap();
    }

    fn delete(&self, id: &str) {
        self.advance(1);
        self.ehr.delete("Appointment", id).unwrap();
    }

    async fn poll(&self, spec: &FeedSpec, cursor: Option<&Cursor>) -> (Found, Cursor) {
        let (mut found, mut resume) = (Found::default(), None);
        loop {
            let request = PollRequest {
                feed: spec,
                cursor,
                resume: resume.as_ref(),
            };
            let page = self.connector.poll(request).await.unwrap();
            found.order = Some(page.order);
            found.pages += 1;
            for change in page.changes {
                let sign = if change.shown == Shown::Deleted { "-" } else { "" };
                assert_eq!(change.record.is_none(), change.shown == Shown::Deleted);
                let text = format!("{sign}{} {}", change.key.id, change.version_id.unwrap());
                match change.novelty {
                    Novelty::Announce => found.announced.push(text),
                    Novelty::Silent => found.silent.push(text),
                }
            }
            match page.next {
                Next::Page(next) => resume = Some(next),
                Next::Done(cursor) => return (found, cursor),
                Next::Inconclusive { reason } => panic!("{reason}"),
            }
        }
    }

    fn asked(&self, end: &str) -> usize {
        let asked = self.source.asked.lock().unwrap();
        asked.iter().filter(|path| path.ends_with(end)).count()
    }
}

#[tokio::test]
async fn every_version_and_delete_is_found_newest_first_over_all_pages() {
    let world = world(3);
    let spec = feed(Detect::Auto, Start::Now);
    let (_, cursor) = world.poll(&spec, None).await;
    for id in ["a", "a", "b", "a"] {
        world.write(id);
    }
    world.delete("b");
    let (found, next) = world.poll(&spec, Some(&cursor)).await;
    assert_eq!(found.order, Some(PageOrder::NewestFirst));
    assert_eq!(found.announced, ["-b 2", "a 3", "b 1", "a 2", "a 1"]);
    assert!(found.pages > 1);
    assert_eq!(world.connector.describe(&next), Some(world.clock.now()));
    // The statement is read once, not with each poll.
    world.poll(&spec, Some(&next)).await;
    assert_eq!(world.asked("/metadata"), 1);
}

#[tokio::test]
async fn a_feed_that_begins_now_is_silent_of_versions_and_deletes_before() {
    let world = world(200);
    for id in ["a", "a", "b"] {
        world.write(id);
    }
    world.delete("b");
    let spec = feed(Detect::Auto, Start::Now);
    let (found, cursor) = world.poll(&spec, None).await;
    assert!(found.announced.is_empty());
    assert_eq!(found.silent, ["-b 2", "b 1", "a 2", "a 1"]);
    world.write("a");
    let (found, _) = world.poll(&spec, Some(&cursor)).await;
    // The overlap shows the others again, which the ledger knows.
    assert_eq!(found.announced.first().map(String::as_str), Some("a 3"));
    assert_eq!(found.announced.len() + found.silent.len(), 5);
}

#[tokio::test]
async fn a_baseline_is_searched_for_and_the_history_goes_on_where_it_began() {
    let world = world(200);
    for id in ["a", "a"] {
        world.write(id);
    }
    let spec = feed(Detect::Auto, Start::Beginning);
    let (found, cursor) = world.poll(&spec, None).await;
    assert_eq!(found.order, Some(PageOrder::OldestFirst));
    assert!(found.announced.contains(&"a 2".to_owned()) && !found.announced.contains(&"a 1".to_owned()));
    world.write("a");
    world.delete("a");
    let (found, _) = world.poll(&spec, Some(&cursor)).await;
    assert_eq!(found.announced[..2], ["-a 4", "a 3"]);
}

#[tokio::test]
async fn a_change_of_the_way_neither_loses_nor_floods() {
    let world = world(200);
    let (search, history) = (
        feed(Detect::LastUpdated, Start::Now),
        feed(Detect::History, Start::Now),
    );
    let (_, mut cursor) = world.poll(&search, None).await;
    world.advance(3_600);
    let (mut seen, mut shown) = (BTreeSet::new(), 0);
    for round in 0..12 {
        world.write("a");
        world.write(&format!("r{round}"));
        let spec = if round % 3 == 0 { &history } else { &search };
        let (found, next) = world.poll(spec, Some(&cursor)).await;
        shown += found.announced.len();
        seen.extend(found.announced);
        cursor = next;
    }
    for round in 0..12 {
        assert!(seen.contains(&format!("a {}", round + 1)), "{round}");
        assert!(seen.contains(&format!("r{round} 1")), "{round}");
    }
    assert_eq!(seen.len(), 24, "nothing of the hour before");
    assert!(shown <= 24 * 12, "no more than the overlap repeats: {shown}");
}

#[tokio::test]
async fn a_statement_that_cannot_be_read_means_search_and_is_asked_for_again() {
    let world = world(200);
    let spec = feed(Detect::Auto, Start::Now);
    world.source.refused.lock().unwrap().push("/metadata");
    let detection = world.connector.probe(&spec).await.unwrap();
    assert_eq!(detection.strategy, Strategy::LastUpdated);
    assert!(detection.why.contains("could not be read"), "{}", detection.why);
    world.source.refused.lock().unwrap().clear();
    let (_, cursor) = world.poll(&spec, None).await;
    assert_eq!(world.asked("/metadata"), 1, "not with every poll");
    world.advance(301);
    world.write("a");
    world.write("a");
    let (found, _) = world.poll(&spec, Some(&cursor)).await;
    assert_eq!(found.announced, ["a 2", "a 1"]);
    let detection = world.connector.probe(&spec).await.unwrap();
    assert_eq!(
        (detection.strategy, detection.deletes),
        (Strategy::History, DeleteSight::Listed)
    );
}

#[tokio::test]
async fn a_history_that_is_offered_and_refused_is_searched_instead() {
    let world = world(200);
    let spec = feed(Detect::Auto, Start::Now);
    world.source.refused.lock().unwrap().push("/_history");
    let (_, cursor) = world.poll(&spec, None).await;
    world.write("a");
    world.write("a");
    let (found, _) = world.poll(&spec, Some(&cursor)).await;
    assert_eq!(found.announced, ["a 2"]);
    assert_eq!(world.asked("/_history"), 1, "tried once");
    let detection = world.connector.probe(&spec).await.unwrap();
    assert!(detection.why.contains("does not serve"), "{}", detection.why);
    // Whoever insists is told.
    let insisting = feed(Detect::History, Start::Now);
    let error = world.connector.probe(&insisting).await.unwrap_err();
    assert_eq!(error.class(), "refused");
}

#[tokio::test]
async fn an_ignored_since_announces_nothing_old() {
    let world = world(200);
    let spec = feed(Detect::Auto, Start::Now);
    let (_, cursor) = world.poll(&spec, None).await;
    world.write("a");
    let ignoring = parse_fault("ignored_filters=1").unwrap();
    world.ehr.set_faults(world.ehr.faults().with(&ignoring).unwrap());
    let (found, _) = world.poll(&spec, Some(&cursor)).await;
    assert!(world.ehr.strikes()["ignored_filters"] > 0);
    assert_eq!(found.announced, ["a 1"], "what lies before the bound is left out");
    assert_eq!(
        found.pages, 1,
        "newest came first down to the bound: nothing is missing"
    );
}

#[tokio::test]
async fn drifting_pages_with_equal_stamps_hide_no_version() {
    let world = world(4);
    let spec = feed(Detect::History, Start::Now);
    let (_, mut cursor) = world.poll(&spec, None).await;
    for fault in ["page_drift=1", "equal_timestamps=50"] {
        let fault = parse_fault(fault).unwrap();
        world.ehr.set_faults(world.ehr.faults().with(&fault).unwrap());
    }
    let (mut seen, mut written) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..6 {
        for _ in 0..8 {
            world.advance(1);
            for one in world.ehr.step() {
                if one.record_type == "Appointment" {
                    let sign = if one.change == ehr_courier::sandbox::Change::Deleted {
                        "-"
                    } else {
                        ""
                    };
                    written.insert(format!("{sign}{} {}", one.id, one.version_id));
                }
            }
        }
        world.write(&format!("w{round}"));
        let (found, next) = world.poll(&spec, Some(&cursor)).await;
        seen.extend(found.announced);
        seen.extend(found.silent);
        cursor = next;
    }
    assert!(written.len() > 10 && world.ehr.strikes()["page_drift"] > 0);
    let lost: Vec<_> = written.difference(&seen).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn what_a_record_refers_to_is_read_byte_for_byte_or_named_as_missing() {
    let world = world(200);
    world
        .ehr
        .write("Patient", "p-1", r#"{"multipleBirthInteger" : 2e0}"#)
        .unwrap();
    world.ehr.write("Patient", "p-2", "{}").unwrap();
    world.ehr.delete("Patient", "p-2").unwrap();
    let text = r#"{"participant":[{"actor":{"reference":"Patient/p-1"}},{"actor":{"reference":"Patient/p-2"}},
        {"actor":{"reference":"Patient/nobody"}},{"actor":{"reference":"https://elsewhere.example/Patient/p-1"}}]}"#;
    let record = Record::new(bytes::Bytes::from(text.replacen(
        '{',
        r#"{"resourceType":"Appointment","#,
        1,
    )));
    let include = [Include::parse("Appointment:patient").unwrap()];
    let (mut included, mut missing) = (Vec::new(), Vec::new());
    for reference in world.connector.references(&record, &include) {
        let found = match &reference.key {
            Some(key) => world.connector.read_context(key).await.unwrap(),
            None => None,
        };
        match found {
            Some(record) => included.push(record),
            None => missing.push(reference.text),
        }
    }
    assert_eq!(
        missing,
        [
            "Patient/p-2",
            "Patient/nobody",
            "https://elsewhere.example/Patient/p-1"
        ]
    );
    let text = String::from_utf8(included[0].bytes().to_vec()).unwrap();
    assert!(included.len() == 1 && text.contains("2e0"), "{text}");
    let hosts = world.asked("/Patient/p-1");
    assert_eq!(hosts, 1, "the reference that leads elsewhere was not followed");
}
