//! Listings: windows, rosters, lists of ids and sweeps, against a server that answers from a table of records.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    Aim, ChangePage, Clock, Connector as _, ConnectorError, Cursor, DeleteSight, Detect, FeedName, FeedSpec,
    FetchMode, Fixed, Granularity, Http, HttpError, HttpRequest, HttpResponse, Ids, Next, Novelty,
    PollRequest, RecordId, RecordType, Roster, Scope, Start, Strategy,
};
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use url::Url;

use super::server::at;

const DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// One record: its id, version, patient and the day of its date.
type Row = (&'static str, u32, &'static str, &'static str);

/// A server whose records can be searched by `date`, `patient` and `_id`, two to a page.
#[derive(Debug)]
struct Source {
    rows: Mutex<Vec<Row>>,
    /// What was asked: path and query, or the condition of a read.
    asked: Mutex<Vec<String>>,
    second: Mutex<i64>,
    /// A search for more records than this is refused.
    most: usize,
    /// Parameters that are ignored, and left out of the `self` link.
    ignores: &'static str,
    /// A patient whose records are refused.
    refuses: &'static str,
}

impl Clock for Source {
    fn now(&self) -> Timestamp {
        at(*self.second.lock().unwrap())
    }
}

impl Source {
    fn new(rows: &[Row]) -> Self {
        Self {
            rows: Mutex::new(rows.to_vec()),
            asked: Mutex::default(),
            second: Mutex::new(1000),
            most: usize::MAX,
            ignores: "",
            refuses: "",
        }
    }

    fn answer(&self, status: u16, body: String, modified: Option<i64>) -> HttpResponse {
        let mut headers = HeaderMap::new();
        headers.insert("date", self.now().strftime(DATE).to_string().parse().unwrap());
        if let Some(second) = modified {
            headers.insert(
                "last-modified",
                at(second).strftime(DATE).to_string().parse().unwrap(),
            );
        }
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from(body),
        }
    }

    fn record((id, version, _, day): &Row) -> String {
        let stamp = at(i64::from(*version) * 10);
        format!(
            r#"{{"resourceType":"Appointment","id":"{id}","meta":{{"versionId":"{version}","lastUpdated":"{stamp}"}},"start":"{day}"}}"#
        )
    }

    fn search(&self, url: &Url) -> HttpResponse {
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let applied: Vec<&(String, String)> = pairs.iter().filter(|(name, _)| name != self.ignores).collect();
        let matches = |row: &&Row| {
            applied.iter().all(|(name, value)| match name.as_str() {
                "date" if value.starts_with("ge") => row.3 >= &value[2..],
                "date" => row.3 < &value[2..],
                "patient" => value.split(',').any(|id| id == row.2),
                "_id" => value.split(',').any(|id| id == row.0),
                _ => true,
            })
        };
        if pairs
            .iter()
            .any(|(name, value)| name == "patient" && value == self.refuses)
        {
            return self.answer(403, String::new(), None);
        }
        let rows = self.rows.lock().unwrap();
        let found: Vec<&Row> = rows.iter().filter(matches).collect();
        if found.len() > self.most {
            let body =
                r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"too-costly"}]}"#;
            return self.answer(400, body.to_owned(), None);
        }
        let offset: usize = pairs
            .iter()
            .find(|(name, _)| name == "_offset")
            .map_or(0, |(_, value)| value.parse().unwrap());
        let mut own = url.clone();
        own.query_pairs_mut()
            .clear()
            .extend_pairs(applied.iter().map(|(name, value)| (name, value)));
        let mut links = format!(r#"{{"relation":"self","url":"{own}"}}"#);
        if offset + 2 < found.len() {
            let kept = pairs.iter().filter(|(name, _)| name != "_offset");
            let mut next = url.clone();
            next.query_pairs_mut().clear().extend_pairs(kept);
            write!(
                links,
                r#",{{"relation":"next","url":"{next}&_offset={}"}}"#,
                offset + 2
            )
            .unwrap();
        }
        let entries: Vec<String> = found
            .iter()
            .skip(offset)
            .take(2)
            .map(|row| format!(r#"{{"resource":{}}}"#, Self::record(row)))
            .collect();
        let body = format!(
            r#"{{"resourceType":"Bundle","type":"searchset","link":[{links}],"entry":[{}]}}"#,
            entries.join(",")
        );
        self.answer(200, body, None)
    }

    fn read(&self, id: &str, headers: &HeaderMap) -> HttpResponse {
        let rows = self.rows.lock().unwrap();
        let Some(row) = rows.iter().find(|row| row.0 == id) else {
            let body =
                r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found"}]}"#;
            return self.answer(404, body.to_owned(), None);
        };
        let modified = i64::from(row.1) * 10;
        let text = |name| {
            headers
                .get(name)
                .map(|value: &http::HeaderValue| value.to_str().unwrap())
        };
        let tag = format!("W/\"{}\"", row.1);
        let unmodified = text(IF_MODIFIED_SINCE) == Some(at(modified).strftime(DATE).to_string().as_str());
        if text(IF_NONE_MATCH) == Some(&tag) || unmodified {
            return self.answer(304, String::new(), None);
        }
        self.answer(200, Self::record(row), Some(modified))
    }
}

#[async_trait]
impl Http for Source {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url = request.url;
        let path = url.path().rsplit('/').next().unwrap_or_default().to_owned();
        let condition = [IF_NONE_MATCH, IF_MODIFIED_SINCE]
            .iter()
            .find_map(|name| request.headers.get(name))
            .map_or(String::new(), |value| {
                format!(" unless {}", value.to_str().unwrap())
            });
        let query = url.query().map_or(String::new(), |query| format!("?{query}"));
        self.asked
            .lock()
            .unwrap()
            .push(format!("{path}{query}{condition}"));
        Ok(match path.as_str() {
            "metadata" => self.answer(200, r#"{"resourceType":"CapabilityStatement"}"#.to_owned(), None),
            "Appointment" => self.search(&url),
            "g" => {
                let body = r#"{"resourceType":"Group","id":"g","member":[
                    {"entity":{"reference":"Patient/p1"}},{"entity":{"reference":"Patient/p2"}}]}"#;
                self.answer(200, body.to_owned(), None)
            }
            id => self.read(id, &request.headers),
        })
    }
}

fn feed(detect: Detect) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("appointments").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start: Start::Beginning,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

fn ids(texts: &[&str]) -> Ids {
    Ids(texts.iter().map(|text| RecordId::parse(text).unwrap()).collect())
}

fn connector(source: &Arc<Source>, more: &str) -> FhirConnector {
    let profile = Profile::parse(&format!("base = \"generic\"\nlast_updated = \"never\"\n{more}")).unwrap();
    FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile,
        http: Arc::clone(source) as Arc<dyn Http>,
        clock: Arc::clone(source) as Arc<dyn Clock>,
        limits: Limits::default(),
    })
}

/// What a whole listing showed: the changes as `id version`, the ids listed, and the cursor.
async fn listing(
    connector: &FhirConnector,
    feed: &FeedSpec,
    cursor: Option<&Cursor>,
) -> (Vec<String>, Vec<String>, Result<Cursor, String>) {
    let (mut changes, mut listed, mut resume) = (Vec::new(), Vec::new(), None);
    loop {
        let request = PollRequest {
            feed,
            cursor,
            resume: resume.as_ref(),
        };
        let page: ChangePage = connector.poll(request).await.unwrap();
        for change in page.changes {
            let mark = if change.novelty == Novelty::Silent {
                "silent "
            } else {
                ""
            };
            let carried = if change.record.is_some() { "" } else { " bare" };
            changes.push(format!(
                "{mark}{} {}{carried}",
                change.key.id,
                change.version_id.unwrap_or_default()
            ));
        }
        match page.listed {
            Some(ids) => listed.extend(ids.iter().map(ToString::to_string)),
            None => listed.push("?".to_owned()),
        }
        match page.next {
            Next::Page(next) => resume = Some(next),
            Next::Done(cursor) => return (changes, listed, Ok(cursor)),
            Next::Inconclusive { reason } => return (changes, listed, Err(reason)),
        }
    }
}

fn asked(source: &Source) -> Vec<String> {
    std::mem::take(&mut source.asked.lock().unwrap())
}

const ROWS: [Row; 5] = [
    ("a", 1, "p1", "2026-11-19"),
    ("b", 1, "p2", "2026-11-20"),
    ("c", 2, "p1", "2026-11-21"),
    ("d", 1, "p3", "2026-11-21"),
    ("e", 1, "p1", "2026-12-30"),
];

#[tokio::test]
async fn a_window_lists_all_records_of_its_days_page_by_page() {
    let source = Arc::new(Source::new(&ROWS));
    let connector = connector(&source, "[window]\npast_days = 0\nfuture_days = 2");
    let feed = feed(Detect::Auto);
    let (changes, listed, cursor) = listing(&connector, &feed, None).await;
    assert_eq!(changes, ["a 1", "b 1", "c 2", "d 1"]);
    assert_eq!(listed, ["a", "b", "c", "d"]);
    let asked = asked(&source);
    assert_eq!(asked[0], "metadata");
    assert_eq!(
        asked[1],
        "Appointment?date=ge2026-11-19&date=lt2026-11-24&_count=200"
    );
    assert_eq!(asked.len(), 3);
    let detection = connector.probe(&feed).await.unwrap();
    assert_eq!(
        (detection.strategy, detection.granularity, detection.deletes),
        (
            Strategy::Window,
            Granularity::Unbounded,
            DeleteSight::OnDisappearance
        )
    );
    assert_eq!(connector.describe(&cursor.unwrap()), Some(at(20)));
}

#[tokio::test]
async fn a_window_that_finds_too_much_is_asked_for_in_halves() {
    let source = Arc::new(Source {
        most: 2,
        ..Source::new(&ROWS)
    });
    let connector = connector(&source, "[window]\npast_days = 0\nfuture_days = 2");
    let (changes, _, cursor) = listing(&connector, &feed(Detect::Window), None).await;
    assert_eq!(changes, ["a 1", "b 1", "c 2", "d 1"]);
    assert!(cursor.is_ok());
    assert_eq!(
        asked(&source).len(),
        3,
        "the whole, its first half, its second half"
    );
}

#[tokio::test]
async fn a_roster_is_listed_patient_by_patient_and_a_group_is_asked_for_its_members() {
    let source = Arc::new(Source::new(&ROWS));
    let mut feed = feed(Detect::Auto);
    let connector = connector(&source, "patient_required = [\"*\"]\npatients_at_once = 1");
    let request = PollRequest {
        feed: &feed,
        cursor: None,
        resume: None,
    };
    let refused = connector.poll(request).await.unwrap_err();
    assert!(refused.to_string().contains("roster"), "{refused}");
    asked(&source);
    feed.scope.roster = Roster::Group(RecordId::parse("g").unwrap());
    let (changes, _, cursor) = listing(&connector, &feed, None).await;
    assert_eq!(changes, ["a 1", "c 2", "e 1", "b 1"]);
    let first = [
        "g",
        "Appointment?patient=p1&_count=200",
        "Appointment?patient=p1&_count=200&_offset=2",
        "Appointment?patient=p2&_count=200",
    ];
    assert_eq!(asked(&source), first);
    feed.scope.roster = Roster::Patients(ids(&["p3"]));
    let (changes, listed, _) = listing(&connector, &feed, Some(&cursor.unwrap())).await;
    assert_eq!((changes, listed), (vec!["d 1".to_owned()], vec!["d".to_owned()]));
}

#[tokio::test]
async fn one_patient_who_is_not_shown_holds_up_no_other_and_spoils_only_what_would_be_concluded() {
    let source = Arc::new(Source {
        refuses: "p1",
        ..Source::new(&ROWS)
    });
    let mut feed = feed(Detect::Roster);
    feed.scope.roster = Roster::Patients(ids(&["p1", "p2"]));
    let (changes, listed, cursor) = listing(&connector(&source, ""), &feed, None).await;
    assert_eq!(
        (changes, listed),
        (vec!["b 1".to_owned()], vec!["?".to_owned(), "b".to_owned()])
    );
    assert!(cursor.is_ok());
}

#[tokio::test]
async fn a_sweep_of_a_feed_whose_polls_list_everything_asks_for_nothing() {
    let source = Arc::new(Source::new(&ROWS));
    let mut feed = feed(Detect::Window);
    feed.scope.aim = Aim::Everything;
    let connector = connector(&source, "");
    let cursor = connector.cursor_at(at(15));
    let (changes, listed, end) = listing(&connector, &feed, Some(&cursor)).await;
    assert_eq!((changes, listed), (Vec::<String>::new(), vec!["?".to_owned()]));
    assert!(end.is_ok() && asked(&source).is_empty());
}

#[tokio::test]
async fn a_list_of_ids_is_asked_for_together_where_the_server_takes_lists() {
    let source = Arc::new(Source::new(&ROWS));
    let mut feed = feed(Detect::Auto);
    feed.scope.ids = ids(&["a", "gone", "e"]);
    let connector = connector(&source, "read_many_max = 2\nids_only = true");
    let (changes, listed, cursor) = listing(&connector, &feed, None).await;
    assert_eq!(changes, ["a 1", "e 1"]);
    assert_eq!(listed, ["a", "e"]);
    assert!(cursor.is_ok());
    let expected = ["metadata", "Appointment?_id=a,gone&_count=200", "e"];
    assert_eq!(asked(&source), expected);
    feed.fetch = FetchMode::ByRead;
    let (changes, _, _) = listing(&connector, &feed, None).await;
    assert_eq!(changes, ["a 1 bare", "e 1 bare"]);
}

#[tokio::test]
async fn a_list_is_read_one_by_one_where_the_server_ignores_lists() {
    let source = Arc::new(Source {
        ignores: "_id",
        ..Source::new(&ROWS)
    });
    let mut feed = feed(Detect::Read);
    feed.scope.ids = ids(&["a", "e"]);
    let connector = connector(&source, "");
    let (changes, _, cursor) = listing(&connector, &feed, None).await;
    assert_eq!(changes, ["a 1", "e 1"]);
    assert!(cursor.is_ok());
    assert_eq!(asked(&source), ["Appointment?_id=a,e&_count=200", "a", "e"]);
    listing(&connector, &feed, Some(&cursor.unwrap()))
        .await
        .2
        .unwrap();
    assert_eq!(
        asked(&source),
        ["a unless W/\"1\"", "e unless W/\"1\""],
        "it is remembered"
    );
}

#[tokio::test]
async fn single_reads_are_conditioned_on_what_was_handed_over() {
    for (condition, first, second) in [
        ("none-match", "a unless W/\"1\"", "a unless W/\"3\""),
        (
            "modified-since",
            "a unless Fri, 20 Nov 2026 10:00:10 GMT",
            "a unless Fri, 20 Nov 2026 10:00:30 GMT",
        ),
        ("none", "a", "a"),
    ] {
        let source = Arc::new(Source::new(&ROWS));
        let mut feed = feed(Detect::Read);
        feed.scope.ids = ids(&["a", "gone"]);
        let connector = connector(
            &source,
            &format!("conditional_read = \"{condition}\"\nread_many = \"none\""),
        );
        let (changes, listed, cursor) = listing(&connector, &feed, None).await;
        assert_eq!((changes, listed), (vec!["a 1".to_owned()], vec!["a".to_owned()]));
        assert_eq!(asked(&source), ["a", "gone"]);
        // The same again: it is listed, and need not be sent.
        let (changes, listed, cursor) = listing(&connector, &feed, Some(&cursor.unwrap())).await;
        assert_eq!(changes.len(), usize::from(condition == "none"), "{condition}");
        assert_eq!(listed, ["a"]);
        assert_eq!(asked(&source), [first, "gone"]);
        source.rows.lock().unwrap()[0].1 = 3;
        let (changes, _, cursor) = listing(&connector, &feed, Some(&cursor.unwrap())).await;
        assert_eq!(changes, ["a 3"]);
        listing(&connector, &feed, Some(&cursor.unwrap()))
            .await
            .2
            .unwrap();
        assert_eq!(asked(&source), [first, "gone", second, "gone"]);
    }
}

#[tokio::test]
async fn a_source_that_ignores_the_choice_concludes_nothing_and_nothing_is_taken_from_it() {
    let source = Arc::new(Source {
        ignores: "patient",
        ..Source::new(&ROWS)
    });
    let mut feed = feed(Detect::Roster);
    feed.scope.roster = Roster::Patients(ids(&["p1"]));
    let (changes, _, end) = listing(&connector(&source, ""), &feed, None).await;
    assert!(changes.is_empty());
    assert!(end.unwrap_err().contains("patient"));
}

#[tokio::test]
async fn a_sweep_lists_ids_and_versions_of_everything_and_stands_for_its_beginning() {
    let source = Arc::new(Source::new(&ROWS));
    let mut feed = feed(Detect::LastUpdated);
    feed.scope.aim = Aim::Everything;
    let connector = connector(&source, "ids_only = true");
    let cursor = connector.cursor_at(at(15));
    let (changes, listed, end) = listing(&connector, &feed, Some(&cursor)).await;
    assert_eq!(
        changes,
        ["a 1 bare", "b 1 bare", "c 2 bare", "d 1 bare", "e 1 bare"]
    );
    assert_eq!(listed.len(), 5);
    assert_eq!(asked(&source)[0], "Appointment?_count=200&_elements=id,meta");
    assert_eq!(connector.describe(&end.unwrap()), Some(at(1000)));
}

#[tokio::test]
async fn a_roster_that_changes_in_the_middle_begins_anew() {
    let source = Arc::new(Source::new(&ROWS));
    let mut feed = feed(Detect::Roster);
    feed.scope.roster = Roster::Patients(ids(&["p1", "p2"]));
    let connector = connector(&source, "");
    let request = |feed, resume| PollRequest {
        feed,
        cursor: None,
        resume,
    };
    let page = connector.poll(request(&feed, None)).await.unwrap();
    let Next::Page(second) = page.next else { panic!() };
    let page = connector.poll(request(&feed, Some(&second))).await.unwrap();
    let Next::Page(third) = page.next else { panic!() };
    let mut other = feed.clone();
    other.scope.roster = Roster::Patients(ids(&["p1", "p3"]));
    let error = connector.poll(request(&other, Some(&third))).await.unwrap_err();
    assert!(matches!(error, ConnectorError::PageExpired { .. }), "{error}");
}
