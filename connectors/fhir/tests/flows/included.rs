//! Context that comes with the page: taken where the server applies `_include`, and done without where it does not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    ChangePage, Clock, Connector as _, Cursor, Detect, FeedName, FeedSpec, FetchMode, Fixed, Http, HttpError,
    HttpRequest, HttpResponse, Include, Next, PollRequest, RecordType, Scope, Start,
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;

use super::server::at;

/// What the server makes of `_include`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Applied,
    /// Not applied, nor named by the `self` link.
    Dropped,
    /// Refused as unknown.
    Refused,
    /// Applied, but no entry says why it is there.
    Unmarked,
}

/// A server of two appointments, of two patients, one of whom is hidden.
#[derive(Debug)]
struct Source {
    manner: Manner,
    asked: Mutex<Vec<String>>,
    second: Mutex<i64>,
}

impl Clock for Source {
    fn now(&self) -> Timestamp {
        at(*self.second.lock().unwrap())
    }
}

fn appointment(id: &str, patient: &str) -> Value {
    json!({"resourceType": "Appointment", "id": id, "meta": {"versionId": "1", "lastUpdated": at(900).to_string()},
        "participant": [{"actor": {"reference": format!("Patient/{patient}")}}]})
}

impl Source {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn search(&self, url: &Url) -> (u16, Value) {
        let wanted = url.query_pairs().any(|(name, _)| name == "_include");
        if wanted && self.manner == Manner::Refused {
            return (
                400,
                json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}),
            );
        }
        let mut own = url.clone();
        if self.manner == Manner::Dropped {
            let kept = url.query_pairs().filter(|(name, _)| name != "_include");
            own.query_pairs_mut().clear().extend_pairs(kept);
        }
        let mut entries = vec![
            (appointment("a", "p1"), "match"),
            (appointment("b", "hidden"), "match"),
        ];
        if wanted && self.manner != Manner::Dropped {
            let patient = json!({"resourceType": "Patient", "id": "p1",
                "meta": {"versionId": "7", "lastUpdated": at(950).to_string()}});
            entries.push((patient, "include"));
        }
        let entry = |(resource, mode): (Value, &str)| match self.manner {
            Manner::Unmarked => json!({"resource": resource}),
            _ => json!({"resource": resource, "search": {"mode": mode}}),
        };
        let entries: Vec<Value> = entries.into_iter().map(entry).collect();
        let body = json!({"resourceType": "Bundle", "type": "searchset", "total": 2,
            "link": [{"relation": "self", "url": own.as_str()}], "entry": entries});
        (200, body)
    }
}

#[async_trait]
impl Http for Source {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.url.query().unwrap();
        self.asked.lock().unwrap().push(query.to_owned());
        let (status, body) = self.search(&request.url);
        let mut headers = HeaderMap::new();
        let date = self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        headers.insert("date", date.parse().unwrap());
        Ok(HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from(body.to_string()),
        })
    }
}

fn raised(manner: Manner) -> (Arc<Source>, FhirConnector) {
    let source = Arc::new(Source {
        manner,
        asked: Mutex::default(),
        second: Mutex::new(1000),
    });
    let connector = FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile: Profile::parse("base = \"generic\"\nsearch_include = true").unwrap(),
        http: Arc::clone(&source) as Arc<dyn Http>,
        clock: Arc::clone(&source) as Arc<dyn Clock>,
        limits: Limits {
            // The two that match fill a page: included ones must not make it look cut.
            page_count: 3,
            ..Limits::default()
        },
    });
    (source, connector)
}

fn feed(include: &str, start: Start) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("appointments").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect: Detect::LastUpdated,
        include: vec![Include::parse(include).unwrap()],
        scope: Scope::default(),
    }
}

async fn page(connector: &FhirConnector, feed: &FeedSpec, cursor: Option<&Cursor>) -> ChangePage {
    let resume = None;
    let page = connector
        .poll(PollRequest { feed, cursor, resume })
        .await
        .unwrap();
    let ids: Vec<&str> = page.changes.iter().map(|change| change.key.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"], "what is included is no change");
    assert!(matches!(page.next, Next::Done(_)), "{:?}", page.next);
    page
}

fn came(page: &ChangePage) -> Vec<String> {
    page.included.keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_the_changes_refer_to_comes_with_their_page() {
    let (source, connector) = raised(Manner::Applied);
    let shown = page(&connector, &feed("Appointment:patient", Start::Beginning), None).await;
    assert_eq!(
        came(&shown),
        ["Patient/p1"],
        "what did not come is left to a read"
    );
    let asked = source.asked();
    assert!(asked[0].ends_with("&_include=Appointment:patient"), "{asked:?}");
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn nothing_comes_along_where_nothing_will_be_told_or_a_match_could_be_meant() {
    let (source, connector) = raised(Manner::Applied);
    // The baseline of a feed that begins now is silent.
    page(&connector, &feed("Appointment:patient", Start::Now), None).await;
    let mut of_ids = feed("Appointment:patient", Start::Beginning);
    of_ids.fetch = FetchMode::ByRead;
    page(&connector, &of_ids, None).await;
    page(&connector, &feed("Encounter:part-of", Start::Beginning), None).await;
    let asked = source.asked();
    assert!(asked.iter().all(|query| !query.contains("_include")), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_does_not_apply_it_is_searched_without_for_an_hour() {
    for (manner, requests) in [(Manner::Dropped, 1), (Manner::Refused, 2), (Manner::Unmarked, 2)] {
        let (source, connector) = raised(manner);
        let feed = feed("Appointment:patient", Start::Beginning);
        let shown = page(&connector, &feed, None).await;
        assert!(came(&shown).is_empty(), "{manner:?}");
        let asked = source.asked();
        assert_eq!(asked.len(), requests, "{manner:?}: {asked:?}");
        let Next::Done(cursor) = shown.next else { panic!() };
        page(&connector, &feed, Some(&cursor)).await;
        let asked = source.asked();
        assert!(
            asked.len() == 1 && !asked[0].contains("_include"),
            "{manner:?}: {asked:?}"
        );
        *source.second.lock().unwrap() += 3600;
        page(&connector, &feed, Some(&cursor)).await;
        assert!(
            source.asked()[0].contains("_include"),
            "{manner:?}: it is tried again"
        );
    }
}
