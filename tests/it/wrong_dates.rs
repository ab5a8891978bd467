//! The sandbox with a wrong `Date`, behind the real FHIR connector, in process: a feed that begins now loses nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    ChangePage, Clock, Connector as _, Cursor, Detect, FeedName, FeedSpec, FetchMode, Http, HttpError,
    HttpRequest, HttpResponse, Next, Novelty, PollRequest, RecordType, Scope, Start,
};
use ehr_courier::sandbox::{Ehr, Faults, Options, Request};
use jiff::{SignedDuration, Timestamp};

#[derive(Debug)]
struct HandClock(Mutex<Timestamp>);

impl HandClock {
    fn advance(&self, seconds: i64) {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

struct InProcess(Arc<Ehr>);

#[async_trait]
impl Http for InProcess {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self
            .0
            .answer(&Request::new(request.method, &request.url, request.headers));
        Ok(HttpResponse {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        })
    }
}

fn feed() -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("tasks").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start: Start::Now,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect: Detect::LastUpdated,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

/// A whole poll; what it announces that was not shown before, and its cursor.
async fn poll(
    connector: &FhirConnector,
    cursor: Option<Cursor>,
    known: &mut BTreeSet<String>,
) -> (Vec<String>, Cursor) {
    let (spec, mut announced, mut resume) = (feed(), Vec::new(), None);
    loop {
        let request = PollRequest {
            feed: &spec,
            cursor: cursor.as_ref(),
            resume: resume.as_ref(),
        };
        let ChangePage { changes, next, .. } = connector.poll(request).await.unwrap();
        for change in changes {
            let id = change.key.id.to_string();
            if known.insert(id.clone()) && change.novelty == Novelty::Announce {
                announced.push(id);
            }
        }
        match next {
            Next::Page(next) => resume = Some(next),
            Next::Done(cursor) => return (announced, cursor),
            Next::Inconclusive { reason } => panic!("{reason}"),
        }
    }
}

/// Begins under a date that is wrong by so many seconds; returns how many old and new records are announced.
async fn begin(skew: i64, lasting: bool, page_count: u32) -> (usize, usize) {
    let clock = Arc::new(HandClock(Mutex::new("2026-03-01T12:00:00Z".parse().unwrap())));
    let base_url: url::Url = "http://127.0.0.1:1/fhir".parse().unwrap();
    let ehr = Arc::new(Ehr::new(
        Options::new(1, base_url.clone()),
        Arc::<HandClock>::clone(&clock),
    ));
    let skewed = Faults {
        date_skew_seconds: skew,
        ..Faults::default()
    };
    ehr.set_faults(skewed);
    let connector = FhirConnector::new(Settings {
        base_url,
        credentials: Arc::new(courier_sdk::Fixed::none()),
        profile: Profile::builtin("sandbox").unwrap(),
        http: Arc::new(InProcess(Arc::clone(&ehr))),
        clock: Arc::<HandClock>::clone(&clock),
        limits: Limits {
            page_count,
            ..Limits::default()
        },
    });
    for number in 0..40 {
        ehr.write("Appointment", &format!("old{number}"), "{}").unwrap();
        clock.advance(20);
    }
    let mut known = BTreeSet::new();
    let (mut announced, mut cursor) = poll(&connector, None, &mut known).await;
    if !lasting {
        ehr.set_faults(Faults::default());
    }
    for number in 0..40 {
        clock.advance(20);
        ehr.write("Appointment", &format!("new{number}"), "{}").unwrap();
        if number % 7 == 6 || number == 39 {
            let (more, next) = poll(&connector, Some(cursor), &mut known).await;
            announced.extend(more);
            cursor = next;
        }
    }
    assert_eq!(ehr.strikes()["date_skew_seconds"] > 0, skew != 0);
    let of = |kind: &str| announced.iter().filter(|id| id.starts_with(kind)).count();
    (of("old"), of("new"))
}

#[tokio::test]
async fn a_feed_that_begins_under_a_wrong_date_loses_nothing_and_invents_no_more_than_its_overlap() {
    let decades = 2_320_000_000; // 2099
    for page_count in [200, 4] {
        for (skew, lasting) in [
            (0, true),
            (3600, true),
            (3600, false),
            (-3600, true),
            (-3600, false),
            (decades, false),
        ] {
            let (old, new) = begin(skew, lasting, page_count).await;
            let case = format!("{skew} {lasting} {page_count}");
            assert_eq!(new, 40, "{case}");
            // Fifteen of the old ones lie within the overlap.
            assert!(old <= if skew < 0 { 15 } else { 0 }, "{case}: {old}");
        }
    }
}
