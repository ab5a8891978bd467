//! The sandbox as its clients see it, in process.

use std::sync::{Arc, Mutex};

use courier_sdk::Clock;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use url::Url;

use super::records::sha256_hex;
use super::{Access, Answer, Ehr, Options, Request, Shown, parse_fault};

#[derive(Debug)]
pub(super) struct HandClock(Mutex<Timestamp>);

impl HandClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new("2026-03-01T12:00:00Z".parse().unwrap())))
    }

    pub(super) fn advance(&self, milliseconds: i64) {
        let mut now = self.0.lock().unwrap();
        *now = now
            .checked_add(SignedDuration::from_millis(milliseconds))
            .unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

const BASE: &str = "http://127.0.0.1:1/fhir";

pub(super) fn world(seed: u64) -> (Arc<HandClock>, Ehr) {
    let clock = HandClock::new();
    let options = Options::new(seed, BASE.parse().unwrap());
    let ehr = Ehr::new(options, Arc::<HandClock>::clone(&clock));
    (clock, ehr)
}

pub(super) fn switch_on(ehr: &Ehr, text: &str) {
    ehr.set_faults(ehr.faults().with(&parse_fault(text).unwrap()).unwrap());
}

pub(super) fn ask(ehr: &Ehr, url: &str) -> Answer {
    let url: Url = if url.starts_with("http") {
        url.parse()
    } else {
        format!("{BASE}/{url}").parse()
    }
    .unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("prefer", HeaderValue::from_static("handling=strict"));
    ehr.answer(&Request::new(Method::GET, &url, headers))
}

pub(super) fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

pub(super) fn link(bundle: &Value, relation: &str) -> Option<String> {
    let links = bundle["link"].as_array().unwrap();
    links
        .iter()
        .find(|link| link["relation"] == relation)
        .map(|link| link["url"].as_str().unwrap().to_owned())
}

fn rows(bundle: &Value, path: &str) -> Vec<String> {
    let entries = bundle["entry"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| {
            entry["resource"]
                .pointer(path)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn all_pages(ehr: &Ehr, first: &str, mut between: impl FnMut(&Ehr)) -> Vec<(String, String)> {
    let mut next = Some(first.to_owned());
    let mut seen = Vec::new();
    while let Some(url) = next {
        let bundle = json(&ask(ehr, &url));
        seen.extend(
            rows(&bundle, "/id")
                .into_iter()
                .zip(rows(&bundle, "/meta/lastUpdated")),
        );
        next = link(&bundle, "next");
        between(ehr);
    }
    seen
}

fn run_clinic(clock: &HandClock, ehr: &Ehr, steps: usize) {
    for _ in 0..steps {
        clock.advance(700);
        ehr.step();
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let story = |seed| {
        let (clock, ehr) = world(seed);
        switch_on(&ehr, "all=0.1");
        let mut bodies = Vec::new();
        for _ in 0..60 {
            run_clinic(&clock, &ehr, 3);
            for url in [
                "Appointment?_sort=_lastUpdated&_count=7",
                "Patient?_lastUpdated=ge2026",
                "Patient/pat-00001",
            ] {
                let answer = ask(&ehr, url);
                bodies.push((answer.status, sha256_hex(&answer.body), answer.cut_at));
            }
        }
        (bodies, ehr.strikes(), ehr.ledger())
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7).0, story(8).0);
}

#[test]
fn a_window_shows_what_was_stamped_within_it() {
    let (clock, ehr) = world(1);
    clock.advance(1_000);
    let written = ehr
        .write("Task", "t1", r#"{"status":"requested","n":1.10}"#)
        .unwrap();
    clock.advance(1_000);
    ehr.write("Task", "t2", r#"{"status":"draft"}"#).unwrap();
    let ids = |query: &str| rows(&json(&ask(&ehr, &format!("Task?{query}"))), "/id");
    let stamp = &written.last_updated;
    assert_eq!(
        ids(&format!("_lastUpdated=ge{stamp}&_sort=_lastUpdated")),
        ["t1", "t2"]
    );
    assert_eq!(ids(&format!("_lastUpdated=gt{stamp}")), ["t2"]);
    assert_eq!(
        ids(&format!(
            "_lastUpdated=ge{stamp}&_lastUpdated=lt2026-03-01T12:00:02Z"
        )),
        ["t1"]
    );
    assert_eq!(ids("_sort=-_lastUpdated"), ["t2", "t1"]);
    assert_eq!(ids("status=draft,other"), ["t2"]);
    assert_eq!(ids("_id=t1,t9"), ["t1"]);
    assert_eq!(ask(&ehr, "Task?colour=red").status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&ehr, "Nonsense?_count=1").status, StatusCode::NOT_FOUND);
    let own = link(&json(&ask(&ehr, "Task?_lastUpdated=ge2026&_count=9")), "self").unwrap();
    assert_eq!(own, format!("{BASE}/Task?_lastUpdated=ge2026&_count=9"));
}

#[test]
fn a_snapshot_is_stable_while_the_clinic_goes_on_and_expires() {
    let (clock, ehr) = world(2);
    run_clinic(&clock, &ehr, 200);
    let first = "Appointment?_sort=_lastUpdated&_count=9";
    let expected = all_pages(&ehr, "Appointment?_sort=_lastUpdated&_count=1000", |_| ());
    let seen = all_pages(&ehr, first, |ehr| run_clinic(&clock, ehr, 5));
    assert!(expected.len() > 40 && seen.is_sorted_by_key(|row| row.1.clone()));
    assert_eq!(seen, expected);
    let next = link(&json(&ask(&ehr, first)), "next").unwrap();
    clock.advance(16 * 60 * 1_000);
    assert_eq!(ask(&ehr, &next).status, StatusCode::GONE);
}

#[test]
fn reads_tell_versions_and_deletes() {
    let (_clock, ehr) = world(3);
    ehr.write("Task", "t", r#"{"n":1e2}"#).unwrap();
    ehr.write("Task", "t", r#"{"n":1.10}"#).unwrap();
    let answer = ask(&ehr, "Task/t");
    assert_eq!(answer.headers["etag"], "W/\"2\"");
    let mut headers = HeaderMap::new();
    headers.insert("if-none-match", HeaderValue::from_static("W/\"2\""));
    let url = format!("{BASE}/Task/t").parse().unwrap();
    assert_eq!(
        ehr.answer(&Request::new(Method::GET, &url, headers)).status,
        StatusCode::NOT_MODIFIED
    );
    assert!(
        ask(&ehr, "Task/t/_history/1")
            .body
            .windows(3)
            .any(|bytes| bytes == b"1e2")
    );
    assert_eq!(ask(&ehr, "Task/t/_history/9").status, StatusCode::NOT_FOUND);
    ehr.delete("Task", "t").unwrap();
    assert_eq!(ask(&ehr, "Task/t").status, StatusCode::GONE);
    assert_eq!(ask(&ehr, "Task/u").status, StatusCode::NOT_FOUND);
    assert!(ehr.delete("Task", "t").is_err());
    assert!(rows(&json(&ask(&ehr, "Task")), "/id").is_empty());
    let shown: Vec<_> = ehr
        .ledger()
        .into_iter()
        .map(|shown| (shown.version_id, shown.times, shown.deleted))
        .collect();
    let expected = [("1", 1, false), ("2", 1, false), ("3", 1, true)];
    assert_eq!(
        shown,
        expected.map(|(version, times, deleted)| (version.to_owned(), times, deleted))
    );
    assert!(ehr.ledger()[0].shown_after_newer && !ehr.ledger()[1].shown_after_newer);
}

#[test]
fn bodies_stand_in_a_bundle_as_they_were_written_and_the_ledger_knows_them() {
    let (clock, ehr) = world(4);
    run_clinic(&clock, &ehr, 300);
    for record_type in [
        "Patient",
        "Appointment",
        "Encounter",
        "Observation",
        "DiagnosticReport",
    ] {
        let answer = ask(&ehr, &format!("{record_type}?_count=1000"));
        for id in rows(&json(&answer), "/id") {
            let body = ask(&ehr, &format!("{record_type}/{id}")).body;
            let found = answer.body.windows(body.len()).any(|bytes| bytes == body);
            assert!(found, "{record_type}/{id}");
            let of_this = |shown: &&Shown| shown.id == id && shown.sha256 == sha256_hex(&body);
            let ledger = ehr.ledger();
            let shown = ledger.iter().find(of_this).unwrap();
            assert_eq!((shown.times, shown.id_only_times), (2, 0));
        }
    }
    let all = String::from_utf8(ask(&ehr, "Observation?_count=1000").body.to_vec()).unwrap();
    assert!(["1.10", "1e2", "\\/"].iter().all(|text| all.contains(text)));
    let ids_only = ask(&ehr, "Practitioner?_elements=id,meta");
    assert!(String::from_utf8_lossy(&ids_only.body).contains("SUBSETTED"));
    let practitioners: Vec<_> = ehr
        .ledger()
        .into_iter()
        .filter(|shown| shown.record_type == "Practitioner")
        .collect();
    assert_eq!(practitioners.len(), 3);
    assert!(
        practitioners
            .iter()
            .all(|shown| (shown.times, shown.id_only_times) == (0, 1))
    );
}

#[test]
fn without_credentials_nothing_is_shown() {
    for (auth, header) in [
        (
            Access::Bearer {
                token: "abc".to_owned(),
            },
            "Bearer abc",
        ),
        (
            Access::Basic {
                user: "u".to_owned(),
                password: "p".to_owned(),
            },
            "Basic dTpw",
        ),
    ] {
        let mut options = Options::new(1, BASE.parse().unwrap());
        options.auth = auth;
        let ehr = Ehr::new(options, HandClock::new());
        assert_eq!(ask(&ehr, "Patient").status, StatusCode::UNAUTHORIZED);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static(header));
        let url = format!("{BASE}/Patient").parse().unwrap();
        assert_eq!(
            ehr.answer(&Request::new(Method::GET, &url, headers)).status,
            StatusCode::OK
        );
    }
}

#[test]
fn a_late_commit_is_stamped_now_and_seen_later() {
    let (clock, ehr) = world(5);
    switch_on(&ehr, "late_commits=1,delay_ms_max=5000");
    let written = ehr.write("Task", "t", "{}").unwrap();
    assert!(written.visible_at > written.last_updated);
    assert_eq!(ask(&ehr, "Task/t").status, StatusCode::NOT_FOUND);
    clock.advance(5_000);
    assert_eq!(
        rows(&json(&ask(&ehr, "Task")), "/meta/lastUpdated"),
        [written.last_updated]
    );
}

#[test]
fn stamps_are_shared_skewed_or_far_ahead_as_switched() {
    let (clock, ehr) = world(6);
    switch_on(&ehr, "equal_timestamps=3");
    let stamps: Vec<_> = (0..6)
        .map(|_| {
            clock.advance(10);
            ehr.write("Task", "t", "{}").unwrap().last_updated
        })
        .collect();
    assert!(stamps[0] == stamps[2] && stamps[2] != stamps[3] && stamps[3] == stamps[5]);
    switch_on(&ehr, "equal_timestamps=0");
    switch_on(&ehr, "clock_skew_seconds=-90");
    assert!(
        ehr.write("Task", "t", "{}")
            .unwrap()
            .last_updated
            .starts_with("2026-03-01T11:58:30")
    );
    assert_eq!(
        ask(&ehr, "Task/t").headers["date"],
        "Sun, 01 Mar 2026 11:58:30 GMT"
    );
    switch_on(&ehr, "future_stamp=1");
    assert!(
        ehr.write("Task", "t", "{}")
            .unwrap()
            .last_updated
            .starts_with("2099-01-01")
    );
}

#[test]
fn a_date_may_be_off_by_itself() {
    let (_, ehr) = world(6);
    switch_on(&ehr, "date_skew_seconds=3600");
    let written = ehr.write("Task", "t", "{}").unwrap();
    assert!(written.last_updated.starts_with("2026-03-01T12:00:00"));
    assert_eq!(
        ask(&ehr, "Task/t").headers["date"],
        "Sun, 01 Mar 2026 13:00:00 GMT"
    );
    assert_eq!(ehr.strikes()["date_skew_seconds"], 1);
    assert_eq!(ehr.strikes()["clock_skew_seconds"], 0);
}

#[test]
fn a_spoiled_body_shows_nothing() {
    for fault in [
        "truncated=1",
        "malformed=1",
        "deep=1",
        "oversized=1,bytes=2000",
        "gzip_bomb=1",
    ] {
        let (_, ehr) = world(7);
        switch_on(&ehr, fault);
        let answer = ask(&ehr, "Patient");
        assert_eq!(answer.status, StatusCode::OK);
        assert!(ehr.ledger().is_empty(), "{fault}");
        let name = fault.split('=').next().unwrap();
        assert_eq!(ehr.strikes()[name], 1, "{fault}");
        match name {
            "truncated" => assert!(answer.cut_at.unwrap() < answer.body.len()),
            "malformed" => assert!(serde_json::from_slice::<Value>(&answer.body).is_err()),
            "deep" => assert!(answer.body.len() > 20_000),
            "oversized" => assert!(answer.body.len() > 2_000),
            _ => assert!(answer.unpacked_bytes.unwrap() > 256 << 20 && answer.body.len() < 1 << 20),
        }
    }
}

#[test]
fn refusals_come_as_switched_and_errors_in_bursts() {
    let (_, ehr) = world(8);
    switch_on(&ehr, "throttle_with_retry_after=1,seconds=7");
    let answer = ask(&ehr, "Patient");
    assert_eq!(
        (answer.status, &answer.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from_static("7"))
    );
    switch_on(&ehr, "throttle_with_retry_after=0");
    switch_on(&ehr, "throttle_without_retry_after=1");
    assert!(!ask(&ehr, "Patient").headers.contains_key("retry-after"));
    switch_on(&ehr, "throttle_without_retry_after=0");
    switch_on(&ehr, "server_errors=1,burst=4");
    assert!(ask(&ehr, "Patient").status.is_server_error());
    switch_on(&ehr, "server_errors=0");
    let after: Vec<_> = (0..4)
        .map(|_| ask(&ehr, "Patient").status.is_server_error())
        .collect();
    assert_eq!(after, [true, true, true, false]);
    assert_eq!(ehr.strikes()["server_errors"], 4);
}

#[test]
fn searches_forget_their_filter_or_their_order_as_switched() {
    let (clock, ehr) = world(9);
    run_clinic(&clock, &ehr, 50);
    switch_on(&ehr, "ignored_filters=1");
    let bundle = json(&ask(&ehr, "Patient?_lastUpdated=ge2090&_sort=_lastUpdated"));
    assert!(!rows(&bundle, "/id").is_empty());
    assert!(!link(&bundle, "self").unwrap().contains("_lastUpdated=ge"));
    switch_on(&ehr, "ignored_filters=0");
    switch_on(&ehr, "descending_pages");
    let seen = all_pages(&ehr, "Appointment?_sort=_lastUpdated&_count=10", |_| ());
    assert!(seen.is_sorted_by(|one, two| one.1 >= two.1));
    switch_on(&ehr, "wrong_sort");
    let bundle = json(&ask(&ehr, "Appointment?_sort=_lastUpdated"));
    assert!(rows(&bundle, "/id").is_sorted() && !link(&bundle, "self").unwrap().contains("_sort"));
    let strikes = ehr.strikes();
    assert_eq!(
        (
            strikes["ignored_filters"],
            strikes["descending_pages"],
            strikes["wrong_sort"]
        ),
        (1, 1, 1)
    );
}

#[test]
fn searches_forget_what_else_chooses_records_as_switched() {
    let (clock, ehr) = world(9);
    run_clinic(&clock, &ehr, 50);
    switch_on(&ehr, "ignored_where=1");
    let bundle = json(&ask(&ehr, "Appointment?_lastUpdated=ge2020&status=nonsense"));
    assert!(!rows(&bundle, "/id").is_empty());
    let applied = link(&bundle, "self").unwrap();
    assert!(applied.contains("_lastUpdated=ge2020") && !applied.contains("status"));
    let future = json(&ask(&ehr, "Appointment?_lastUpdated=ge2090&status=nonsense"));
    assert!(rows(&future, "/id").is_empty());
    ask(&ehr, "Appointment?_lastUpdated=ge2020");
    assert_eq!(ehr.strikes()["ignored_where"], 2);
}

#[test]
fn a_stale_answer_is_an_earlier_one_and_no_older_than_allowed() {
    let (clock, ehr) = world(10);
    switch_on(&ehr, "stale_cache=1,seconds=60");
    let version = |ehr: &Ehr| {
        json(&ask(ehr, "Task/t"))["meta"]["versionId"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    ehr.write("Task", "t", "{}").unwrap();
    assert_eq!(version(&ehr), "1");
    clock.advance(30_000);
    ehr.write("Task", "t", "{}").unwrap();
    assert_eq!(version(&ehr), "1");
    assert_eq!(ehr.strikes()["stale_cache"], 1);
    clock.advance(61_000);
    assert_eq!(version(&ehr), "2");
}

#[test]
fn drifting_pages_skip_rows_and_end() {
    let (clock, ehr) = world(11);
    run_clinic(&clock, &ehr, 200);
    switch_on(&ehr, "page_drift=1");
    let before = all_pages(&ehr, "Appointment?_sort=_lastUpdated&_count=1000", |_| ());
    let seen = all_pages(&ehr, "Appointment?_sort=_lastUpdated&_count=6", |_| {
        clock.advance(100);
    });
    assert!(ehr.strikes()["page_drift"] > 3);
    let skipped = before.iter().filter(|row| !seen.contains(row)).count();
    assert!(skipped > 0);
}
