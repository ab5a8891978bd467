//! The fault switches of windows, limits, links and contents, as their clients see them, in process.

use std::collections::BTreeSet;

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::tests::{HandClock, ask, json, link, switch_on, world};
use super::{Change, Ehr, Options, Request};

fn calm(ehr: &Ehr) {
    ehr.set_faults(super::Faults::default());
}

fn count(ehr: &Ehr, fault: &str) -> u64 {
    ehr.strikes()[fault]
}

fn rows(ehr: &Ehr, path: &str) -> Vec<Value> {
    let bundle = json(&ask(ehr, path));
    let entries = bundle["entry"].as_array().unwrap().clone();
    entries
        .into_iter()
        .map(|entry| entry["resource"].clone())
        .collect()
}

#[test]
fn what_comes_too_fast_or_too_often_is_refused_until_its_span_ends() {
    let (clock, ehr) = world(1);
    let statuses = |ehr: &Ehr| [0; 3].map(|_| ask(ehr, "Patient").status.as_u16());
    switch_on(&ehr, "rate_limit=2");
    assert_eq!(statuses(&ehr), [200, 200, 429]);
    clock.advance(1_000);
    assert_eq!(statuses(&ehr), [200, 200, 429]);
    calm(&ehr);
    switch_on(&ehr, "daily_cap=2,day_seconds=3600");
    assert_eq!(statuses(&ehr), [200, 200, 429]);
    assert_eq!(ask(&ehr, "Patient").headers["retry-after"], "3599");
    switch_on(&ehr, "daily_cap=2,day_seconds=3600,retry_after=false");
    assert!(!ask(&ehr, "Patient").headers.contains_key("retry-after"));
    clock.advance(3_600_000);
    assert_eq!(ask(&ehr, "Patient").status, StatusCode::OK);
    assert_eq!((count(&ehr, "rate_limit"), count(&ehr, "daily_cap")), (2, 3));
}

#[test]
fn peaks_are_charged_for_and_maintenance_answers_nothing() {
    let (clock, ehr) = world(1);
    // It is noon.
    switch_on(&ehr, "peak_window=1,from_second=36000,until_second=46800");
    assert_eq!([0; 3].map(|_| ask(&ehr, "Patient").status.as_u16()), [200; 3]);
    assert_eq!(count(&ehr, "peak_window"), 2);
    switch_on(&ehr, "maintenance=43210,from_second=43200,retry_after=true");
    let answer = ask(&ehr, "Patient");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "10");
    clock.advance(10_000);
    assert_eq!(ask(&ehr, "Patient").status, StatusCode::OK);
}

#[test]
fn an_error_may_come_as_an_answer_and_then_shows_nothing() {
    let (_, ehr) = world(1);
    for (fault, path, expected) in [
        ("inband_throttled=1", "/issue/0/code", "throttled"),
        ("inband_vendor_error=1", "/issue/0/details/coding/0/code", "4135"),
    ] {
        calm(&ehr);
        switch_on(&ehr, fault);
        let answer = ask(&ehr, "Patient");
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(json(&answer).pointer(path).unwrap(), expected);
        assert_eq!(count(&ehr, fault.split('=').next().unwrap()), 1);
    }
    assert!(ehr.ledger().is_empty());
}

#[test]
fn credentials_end_at_any_time_or_between_two_pages() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "token_ends_mid_page=1");
    let first = json(&ask(&ehr, "Patient?_count=2"));
    assert_eq!(
        ask(&ehr, &link(&first, "next").unwrap()).status,
        StatusCode::UNAUTHORIZED
    );
    switch_on(&ehr, "unauthorized=1,times=1");
    assert_eq!(ask(&ehr, "Patient").status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&ehr, "Patient").status, StatusCode::OK, "once is enough");
    assert_eq!(
        (count(&ehr, "token_ends_mid_page"), count(&ehr, "unauthorized")),
        (1, 1)
    );
}

#[test]
fn one_type_fails_and_the_others_answer() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "fail_type=Appointment");
    for path in ["Appointment", "Appointment/apt-00001", "Appointment/_history"] {
        assert_eq!(ask(&ehr, path).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(ask(&ehr, "Patient").status, StatusCode::OK);
    assert_eq!(count(&ehr, "fail_type"), 3);
}

#[test]
fn an_answer_that_does_not_come_shows_nothing() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "hang=1");
    assert_eq!(ask(&ehr, "Patient").delay.unwrap().as_secs(), 3_600);
    assert!(ehr.ledger().is_empty() && count(&ehr, "hang") == 1);
}

#[test]
fn links_expire_and_pages_repeat_or_lose_rows() {
    let (_, ehr) = world(1);
    for path in ["Patient?_count=4", "Patient/_history?_count=4"] {
        calm(&ehr);
        let whole = json(&ask(&ehr, path));
        switch_on(&ehr, "expired_links=1");
        assert_eq!(ask(&ehr, &link(&whole, "next").unwrap()).status, StatusCode::GONE);
        calm(&ehr);
        switch_on(&ehr, "duplicates=1");
        let repeated = rows(&ehr, path);
        assert_eq!(repeated.len(), 5);
        assert!(repeated[..4].contains(&repeated[4]));
        calm(&ehr);
        switch_on(&ehr, "truncate_page=1,total=true");
        let counted = json(&ask(&ehr, path));
        assert_eq!(counted["entry"].as_array().unwrap().len(), 2);
        assert!(counted["total"] == whole["total"] && link(&counted, "next").is_none());
        switch_on(&ehr, "truncate_page=1,total=false");
        assert!(json(&ask(&ehr, path)).get("total").is_none());
    }
    assert_eq!(
        (
            count(&ehr, "expired_links"),
            count(&ehr, "duplicates"),
            count(&ehr, "truncate_page")
        ),
        (2, 2, 4)
    );
}

#[test]
fn reads_of_some_records_always_fail_and_others_never() {
    let (_, ehr) = world(1);
    for (fault, status) in [("fetch_404", 404), ("fetch_403", 403)] {
        calm(&ehr);
        switch_on(&ehr, &format!("{fault}=0.4"));
        let failing = || -> BTreeSet<String> {
            let ids = rows(&ehr, "Patient?_count=99").into_iter();
            let ids = ids.map(|row| row["id"].as_str().unwrap().to_owned());
            ids.filter(|id| ask(&ehr, &format!("Patient/{id}")).status.as_u16() == status)
                .collect()
        };
        let first = failing();
        assert!((2..18).contains(&first.len()), "{}", first.len());
        assert_eq!(failing(), first);
    }
}

#[test]
fn a_record_changes_just_before_it_is_read() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "mutate_before_fetch=1");
    assert_eq!(json(&ask(&ehr, "Patient/pat-00001"))["meta"]["versionId"], "2");
    assert_eq!(count(&ehr, "mutate_before_fetch"), 1);
}

#[test]
fn a_changes_stamp_or_version_may_stay() {
    let (clock, ehr) = world(1);
    let first = ehr.write("Task", "t", r#"{"n":1}"#).unwrap();
    clock.advance(5_000);
    switch_on(&ehr, "silent_change=1");
    let second = ehr.write("Task", "t", r#"{"n":2}"#).unwrap();
    assert_eq!(
        (second.version_id.as_str(), &second.last_updated),
        ("2", &first.last_updated)
    );
    calm(&ehr);
    switch_on(&ehr, "silent_content=1");
    ask(&ehr, "Task/t");
    let third = ehr.write("Task", "t", r#"{"n":3}"#).unwrap();
    assert_eq!(
        (third.version_id.as_str(), &third.last_updated),
        ("2", &first.last_updated)
    );
    let now = json(&ask(&ehr, "Task/t"));
    assert_eq!((&now["n"], &now["meta"]["versionId"]), (&3.into(), &"2".into()));
    let shown = ehr.ledger();
    assert_eq!(shown.len(), 2, "both contents of version 2 were shown");
    assert!(shown[0].version_id == shown[1].version_id && shown[0].sha256 != shown[1].sha256);
    assert_eq!(json(&ask(&ehr, "Task/_history"))["total"], 2);
    assert_eq!(
        (count(&ehr, "silent_change"), count(&ehr, "silent_content")),
        (1, 1)
    );
}

#[test]
fn a_reindex_moves_every_version_and_stamp_and_no_content() {
    let (clock, ehr) = world(1);
    let before = rows(&ehr, "Patient?_count=99");
    clock.advance(5_000);
    switch_on(&ehr, "touch_all=1");
    ehr.step();
    calm(&ehr);
    let after = rows(&ehr, "Patient?_count=99");
    assert_eq!(before.len(), after.len());
    let bare = |row: &Value| {
        let mut row = row.clone();
        let meta = row["meta"].as_object_mut().unwrap();
        let moved = [meta.remove("versionId"), meta.remove("lastUpdated")];
        (row, moved)
    };
    for (one, other) in before.iter().zip(&after) {
        let ((one, was), (other, is)) = (bare(one), bare(other));
        assert_eq!(one, other);
        assert!(was[0] != is[0] && was[1] != is[1]);
    }
    assert_eq!(count(&ehr, "touch_all"), 1);
}

#[test]
fn patients_are_merged_and_parted_and_records_retracted() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "merge=1");
    let merged: Vec<String> = of_change(&ehr, Change::Merged);
    calm(&ehr);
    let [survivor, other] = [&merged[0], &merged[1]].map(|id| json(&ask(&ehr, &format!("Patient/{id}"))));
    assert_eq!(survivor["link"][0]["type"], "replaces");
    assert_eq!(other["link"][0]["type"], "replaced-by");
    assert_eq!(other["active"], false);
    switch_on(&ehr, "unmerge=1");
    let parted = of_change(&ehr, Change::Parted);
    calm(&ehr);
    assert_eq!(parted, merged);
    for id in &parted {
        let patient = json(&ask(&ehr, &format!("Patient/{id}")));
        assert!(patient.get("link").is_none() && patient["active"] == true);
    }
    switch_on(&ehr, "entered_in_error=1");
    let retracted = of_change(&ehr, Change::Retracted);
    assert_eq!(retracted.len(), 1);
    assert_eq!(
        ["merge", "unmerge", "entered_in_error"].map(|fault| count(&ehr, fault)),
        [1, 1, 1]
    );
}

fn of_change(ehr: &Ehr, change: Change) -> Vec<String> {
    let written = ehr.step().into_iter();
    written.filter(|it| it.change == change).map(|it| it.id).collect()
}

#[test]
fn a_record_that_moves_out_of_reach_is_not_deleted() {
    let (_, ehr) = world(1);
    let before = rows(&ehr, "Appointment?_count=99").len();
    switch_on(&ehr, "moved_out=1");
    ehr.step();
    calm(&ehr);
    let withheld: Vec<_> = ehr
        .kept()
        .into_iter()
        .filter(|kept| kept.withheld_since.is_some())
        .collect();
    assert!(!withheld.is_empty() && withheld.iter().all(|kept| !kept.deleted));
    let (record_type, id) = (&withheld[0].record_type, &withheld[0].id);
    assert_eq!(
        ask(&ehr, &format!("{record_type}/{id}")).status,
        StatusCode::FORBIDDEN
    );
    let first = format!("{record_type}/{id}/_history/1");
    assert_eq!(ask(&ehr, &first).status, StatusCode::FORBIDDEN);
    let found = |path: &str| json(&ask(&ehr, path))["total"].clone();
    assert_eq!(found(&format!("{record_type}?_id={id}")), 0);
    assert_eq!(found(&format!("{record_type}/{id}/_history")), 0);
    assert!(rows(&ehr, "Appointment?_count=99").len() + 1 >= before);
}

#[test]
fn numbers_stand_where_texts_belong() {
    let (_, ehr) = world(1);
    switch_on(&ehr, "mixed_types=1");
    ehr.write("Task", "27", "{}").unwrap();
    let record = json(&ask(&ehr, "Task/27"));
    assert_eq!(
        (&record["id"], &record["meta"]["versionId"]),
        (&27.into(), &1.into())
    );
    assert_eq!(record["meta"]["lastUpdated"], "2026-03-01T07:00:00.0000000-05:00");
    assert_eq!(count(&ehr, "mixed_types"), 1);
}

#[test]
fn faults_of_answers_write_nothing() {
    let story = |fault: Option<&str>| {
        let clock = HandClock::new();
        let options = Options::new(3, "http://127.0.0.1:1/fhir".parse().unwrap());
        let ehr = Ehr::new(options, clock);
        if let Some(fault) = fault {
            switch_on(&ehr, fault);
        }
        let url = "http://127.0.0.1:1/fhir/Patient?_count=5".parse().unwrap();
        for _ in 0..5 {
            ehr.answer(&Request::new(Method::GET, &url, HeaderMap::new()));
            ehr.step();
        }
        ehr.kept()
    };
    for fault in [
        "duplicates=1",
        "truncate_page=1",
        "unauthorized=1",
        "daily_cap=1",
        "fail_type=Patient",
    ] {
        assert_eq!(story(Some(fault)), story(None), "{fault}");
    }
}
