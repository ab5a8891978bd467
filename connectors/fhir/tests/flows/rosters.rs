//! Rosters asked for by `batch`: what one entry says is its patient's alone, and an answer that cannot be told apart is
//! not used.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    Clock, Connector as _, ConnectorError, Cursor, Detect, FeedName, FeedSpec, FetchMode, Fixed, Http,
    HttpError, HttpRequest, HttpResponse, Ids, Next, PollRequest, RecordId, RecordType, Resume, Roster,
    Scope, Start,
};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;

use super::server::at;

/// What is wrong with answers to batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The whole is refused with this status.
    Status(u16),
    /// The last entry is missing.
    Short,
    /// The entries come in the opposite order.
    Reversed,
    /// They are of another kind.
    Kind,
    /// Entries ignore the patient.
    Unfiltered,
    /// More than so many entries are throttled.
    MostEntries(usize),
    /// More than so many make the answer too large.
    TooLarge(usize),
    /// More than so many take too long.
    TooSlow(usize),
}

/// A server of patients who have two appointments each, one to a page for those who have many.
#[derive(Debug)]
struct Source {
    wrong: Mutex<Wrong>,
    /// Patients whose searches are answered with a status, in a batch only or alone too.
    refused: Vec<(&'static str, u16, bool)>,
    /// A patient whose appointments come one to a page.
    long: &'static str,
    asked: Mutex<Vec<String>>,
    second: Mutex<i64>,
}

impl Clock for Source {
    fn now(&self) -> Timestamp {
        at(*self.second.lock().unwrap())
    }
}

impl Source {
    fn new(wrong: Wrong) -> Self {
        Self {
            wrong: Mutex::new(wrong),
            refused: Vec::new(),
            long: "",
            asked: Mutex::default(),
            second: Mutex::new(1000),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// A search's status and body.
    fn search(&self, query: &str, alone: bool) -> (u16, Value) {
        let url = Url::parse(&format!("https://ehr.example/fhir/Appointment?{query}")).unwrap();
        let of = |name: &str| {
            let found = url.query_pairs().find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned())
        };
        let patient = of("patient").unwrap();
        if let Some((_, status, _)) = self
            .refused
            .iter()
            .find(|(refused, _, always)| patient.split(',').any(|one| one == *refused) && (*always || !alone))
        {
            let outcome =
                json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "x"}]});
            return (*status, outcome);
        }
        let second = of("_offset").is_some();
        let of_one = |one: &str| [format!("{one}-1"), format!("{one}-2")];
        let mut ids: Vec<String> = patient.split(',').flat_map(of_one).collect();
        let mut links = vec![json!({"relation": "self", "url": url.as_str()})];
        if *self.wrong.lock().unwrap() == Wrong::Unfiltered && !alone {
            links =
                vec![json!({"relation": "self", "url": "https://ehr.example/fhir/Appointment?_count=200"})];
        }
        if patient == self.long {
            ids = vec![if second { ids.remove(1) } else { ids.remove(0) }];
            if !second {
                links.push(json!({"relation": "next", "url": format!("{url}&_offset=1")}));
            }
        }
        let stamp = at(500).to_string();
        let entry = |id: &String| {
            json!({"resource": {"resourceType": "Appointment", "id": id,
                "meta": {"versionId": "1", "lastUpdated": stamp}}})
        };
        let entries: Vec<Value> = ids.iter().map(entry).collect();
        (
            200,
            json!({"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries}),
        )
    }

    fn batch(&self, body: &[u8]) -> Result<(u16, Value), HttpError> {
        let bundle: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(bundle["type"], "batch");
        let asked = bundle["entry"].as_array().unwrap();
        self.asked
            .lock()
            .unwrap()
            .push(format!("batch of {}", asked.len()));
        let wrong = *self.wrong.lock().unwrap();
        match wrong {
            Wrong::Status(status) => return Ok((status, json!({}))),
            Wrong::TooLarge(most) if asked.len() > most => return Err(HttpError::TooLarge { limit: 1 }),
            Wrong::TooSlow(most) if asked.len() > most => {
                let deadline = Duration::from_secs(30);
                return Err(HttpError::Timeout { deadline });
            }
            _ => {}
        }
        let answer = |(nth, entry): (usize, &Value)| {
            assert_eq!(entry["request"]["method"], "GET");
            let url = entry["request"]["url"].as_str().unwrap();
            let (status, body) = match wrong {
                Wrong::MostEntries(most) if nth >= most => (429, Value::Null),
                _ => self.search(url.strip_prefix("Appointment?").unwrap(), false),
            };
            if status == 200 {
                json!({"resource": body, "response": {"status": "200 OK"}})
            } else {
                json!({"response": {"status": status.to_string(), "outcome": body}})
            }
        };
        let mut entries: Vec<Value> = asked.iter().enumerate().map(answer).collect();
        match wrong {
            Wrong::Short => drop(entries.pop()),
            Wrong::Reversed => entries.reverse(),
            _ => {}
        }
        let kind = if wrong == Wrong::Kind {
            "searchset"
        } else {
            "batch-response"
        };
        Ok((
            200,
            json!({"resourceType": "Bundle", "type": kind, "entry": entries}),
        ))
    }
}

#[async_trait]
impl Http for Source {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        assert_eq!(request.headers["prefer"], "handling=strict");
        let (status, body) = if request.method == Method::POST {
            assert_eq!(request.url.path(), "/fhir");
            self.batch(&request.body)?
        } else {
            let query = request.url.query().unwrap();
            self.asked.lock().unwrap().push(query.to_owned());
            self.search(query, true)
        };
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

fn connector(source: &Arc<Source>, more: &str) -> FhirConnector {
    let profile = format!("base = \"generic\"\nsearches_at_once = 4\n{more}");
    FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile: Profile::parse(&profile).unwrap(),
        http: Arc::clone(source) as Arc<dyn Http>,
        clock: Arc::clone(source) as Arc<dyn Clock>,
        limits: Limits::default(),
    })
}

fn feed(patients: usize) -> FeedSpec {
    let ids = (1..=patients).map(|nth| RecordId::parse(&format!("p{nth}")).unwrap());
    FeedSpec {
        name: FeedName::parse("appointments").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start: Start::Beginning,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect: Detect::Roster,
        include: Vec::new(),
        scope: Scope {
            roster: Roster::Patients(Ids(ids.collect())),
            ..Scope::default()
        },
    }
}

/// What a listing showed.
struct Shown {
    ids: BTreeSet<String>,
    /// Whether each of its pages told of all its entries.
    conclusive: bool,
    errors: Vec<&'static str>,
    cursor: Cursor,
}

/// Polls to the end as the courier does: what fails is asked for again from the same place.
async fn listing(connector: &FhirConnector, feed: &FeedSpec) -> Shown {
    let (mut ids, mut conclusive, mut errors) = (BTreeSet::new(), true, Vec::new());
    let mut resume: Option<Resume> = None;
    loop {
        let request = PollRequest {
            feed,
            cursor: None,
            resume: resume.as_ref(),
        };
        let page = match connector.poll(request).await {
            Ok(page) => page,
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        ConnectorError::Throttled { .. } | ConnectorError::Transient { .. }
                    ),
                    "{error}"
                );
                errors.push(error.class());
                assert!(errors.len() < 9, "it goes on");
                continue;
            }
        };
        for change in &page.changes {
            assert!(ids.insert(change.key.id.to_string()), "{} twice", change.key.id);
        }
        conclusive &= page.listed.is_some();
        match page.next {
            Next::Page(next) => resume = Some(next),
            Next::Done(cursor) => {
                return Shown {
                    ids,
                    conclusive,
                    errors,
                    cursor,
                };
            }
            Next::Inconclusive { reason } => panic!("{reason}"),
        }
    }
}

fn all(patients: usize) -> BTreeSet<String> {
    let of = |nth: usize| [format!("p{nth}-1"), format!("p{nth}-2")];
    (1..=patients).flat_map(of).collect()
}

#[tokio::test]
async fn the_searches_of_a_roster_go_together_and_show_every_record() {
    let source = Arc::new(Source::new(Wrong::Nothing));
    let connector = connector(&source, "");
    let shown = listing(&connector, &feed(9)).await;
    assert_eq!((shown.ids, shown.conclusive), (all(9), true));
    assert_eq!(connector.describe(&shown.cursor), Some(at(500)));
    // The last one is alone.
    let expected = ["batch of 4", "batch of 4", "patient=p9&_count=200"];
    assert_eq!(source.asked(), expected);
}

#[tokio::test]
async fn entries_that_name_several_patients_are_taken_apart_where_one_of_them_is_refused() {
    let source = Arc::new(Source {
        refused: vec![("p2", 403, true)],
        ..Source::new(Wrong::Nothing)
    });
    let shown = listing(&connector(&source, "patients_at_once = 3"), &feed(6)).await;
    let expected: BTreeSet<String> = all(6).into_iter().filter(|id| !id.starts_with("p2")).collect();
    assert_eq!((shown.ids, shown.conclusive), (expected, false));
    let asked = [
        "batch of 2",
        "patient=p1&_count=200",
        "patient=p2&_count=200",
        "patient=p3&_count=200",
    ];
    assert_eq!(source.asked(), asked);
}

#[tokio::test]
async fn one_failing_entry_costs_its_own_patient_only() {
    let source = Arc::new(Source {
        refused: vec![
            ("p1", 404, true),
            ("p2", 403, true),
            ("p3", 502, false),
            ("p6", 401, false),
        ],
        ..Source::new(Wrong::Nothing)
    });
    let shown = listing(&connector(&source, ""), &feed(7)).await;
    let expected: BTreeSet<String> = all(7)
        .into_iter()
        .filter(|id| !id.starts_with("p1") && !id.starts_with("p2"))
        .collect();
    assert_eq!(shown.ids, expected);
    assert!(!shown.conclusive, "two are not shown");
    // What was no word about the patient is asked for once more, by itself.
    let asked = [
        "batch of 4",
        "patient=p3&_count=200",
        "batch of 3",
        "patient=p6&_count=200",
    ];
    assert_eq!(source.asked(), asked);
}

#[tokio::test]
async fn the_further_pages_of_one_entry_are_followed_by_themselves() {
    let source = Arc::new(Source {
        long: "p2",
        refused: vec![("p3", 500, true)],
        ..Source::new(Wrong::Nothing)
    });
    let shown = listing(&connector(&source, ""), &feed(6)).await;
    let expected: BTreeSet<String> = all(6).into_iter().filter(|id| !id.starts_with("p3")).collect();
    assert_eq!(shown.ids, expected);
    let asked = ["batch of 4", "patient=p2&_count=200&_offset=1", "batch of 2"];
    assert_eq!(source.asked(), asked);
}

#[tokio::test]
async fn an_answer_that_cannot_be_told_apart_is_not_used_and_single_searches_follow_for_an_hour() {
    for wrong in [
        Wrong::Short,
        Wrong::Reversed,
        Wrong::Kind,
        Wrong::Unfiltered,
        Wrong::Status(405),
        Wrong::Status(400),
    ] {
        let source = Arc::new(Source::new(wrong));
        let connector = connector(&source, "");
        let shown = listing(&connector, &feed(5)).await;
        assert_eq!((shown.ids, shown.conclusive), (all(5), true), "{wrong:?}");
        let asked = source.asked();
        assert_eq!(asked.len(), 6, "{wrong:?}: {asked:?}");
        assert_eq!(asked[0], "batch of 4");
        listing(&connector, &feed(5)).await;
        assert_eq!(source.asked().len(), 5, "{wrong:?}: it is remembered");
        *source.second.lock().unwrap() += 3600;
        *source.wrong.lock().unwrap() = Wrong::Nothing;
        listing(&connector, &feed(5)).await;
        assert_eq!(source.asked().len(), 2, "{wrong:?}: it is tried again");
    }
}

#[tokio::test]
async fn entries_that_all_come_to_nothing_are_no_way_to_ask() {
    let refused = ["p1", "p2", "p3"].map(|patient| (patient, 501, false)).to_vec();
    let source = Arc::new(Source {
        refused,
        ..Source::new(Wrong::Nothing)
    });
    let connector = connector(&source, "");
    assert_eq!(listing(&connector, &feed(3)).await.ids, all(3));
    assert_eq!(source.asked().len(), 4);
    listing(&connector, &feed(3)).await;
    assert_eq!(source.asked().len(), 3, "it is remembered");
}

#[tokio::test]
async fn a_batch_that_is_too_much_is_sent_in_halves() {
    for (wrong, errors) in [
        (Wrong::TooLarge(1), vec![]),
        (Wrong::TooSlow(2), vec!["transient"]),
        (Wrong::MostEntries(0), vec!["throttled", "throttled"]),
    ] {
        let source = Arc::new(Source::new(wrong));
        let shown = listing(&connector(&source, ""), &feed(6)).await;
        assert_eq!((shown.ids, shown.conclusive), (all(6), true), "{wrong:?}");
        assert_eq!(shown.errors, errors, "{wrong:?}");
        assert_eq!(source.asked()[..2], ["batch of 4", "batch of 2"], "{wrong:?}");
    }
}

#[tokio::test]
async fn what_came_beside_a_throttled_entry_is_kept_and_the_next_batch_is_smaller() {
    let source = Arc::new(Source::new(Wrong::MostEntries(2)));
    let shown = listing(&connector(&source, ""), &feed(6)).await;
    assert_eq!((shown.ids, shown.conclusive), (all(6), true));
    assert!(shown.errors.is_empty());
    let expected = [
        "batch of 4",
        "patient=p3&_count=200",
        "patient=p4&_count=200",
        "batch of 2",
    ];
    assert_eq!(source.asked(), expected);
}
