//! Histories as the sandbox's clients see them, in process.

use serde_json::Value;

use super::Ehr;
use super::tests::{ask, json, link, switch_on, world};

/// Each entry of a whole history: method, id, version.
fn history(ehr: &Ehr, first: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(url) = next {
        let answer = ask(ehr, &url);
        assert_eq!(answer.status, 200, "{url}");
        let bundle = json(&answer);
        assert_eq!(bundle["type"], "history");
        found.extend(bundle["entry"].as_array().unwrap().iter().map(row));
        next = link(&bundle, "next");
    }
    found
}

fn row(entry: &Value) -> (String, String, String) {
    let text = |pointer: &str| entry.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let id = text("/fullUrl").rsplit('/').next().unwrap().to_owned();
    let version = text("/response/etag")
        .trim_start_matches("W/")
        .trim_matches('"')
        .to_owned();
    if let Some(resource) = entry.get("resource") {
        assert_eq!(resource["meta"]["versionId"], version.as_str());
        let written: jiff::Timestamp = resource["meta"]["lastUpdated"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            written,
            text("/response/lastModified").parse().unwrap(),
            "one instant, two spellings"
        );
    }
    (text("/request/method"), id, version)
}

fn of(rows: &[(String, String, String)], id: &str) -> Vec<(String, String)> {
    let own = rows.iter().filter(|(_, other, _)| other == id);
    own.map(|(method, _, version)| (method.clone(), version.clone()))
        .collect()
}

#[test]
fn a_history_shows_every_version_and_delete_newest_first_and_the_ledger_knows_them() {
    let (clock, ehr) = world(3);
    for word in ["a", "b", "c"] {
        clock.advance(1_000);
        ehr.write("Task", "t", &format!("{{\"w\":\"{word}\"}}")).unwrap();
    }
    clock.advance(1_000);
    ehr.delete("Task", "t").unwrap();
    let expected = [("DELETE", "4"), ("PUT", "3"), ("PUT", "2"), ("POST", "1")];
    let expected: Vec<(String, String)> = expected
        .map(|(method, version)| (method.to_owned(), version.to_owned()))
        .to_vec();
    assert_eq!(of(&history(&ehr, "Task/_history?_count=3"), "t"), expected);
    assert_eq!(of(&history(&ehr, "Task/t/_history"), "t"), expected);
    let shown: Vec<_> = ehr
        .ledger()
        .into_iter()
        .filter(|shown| shown.record_type == "Task")
        .collect();
    assert_eq!(shown.len(), 4);
    assert!(shown[3].deleted && shown.iter().all(|shown| shown.times == 2));
    // From an instant on, the instant included.
    let since = "Task/_history?_since=2026-03-01T12:00:03Z";
    assert_eq!(of(&history(&ehr, since), "t"), expected[..2]);
}

#[test]
fn a_history_stands_still_while_the_clinic_goes_on_and_its_links_expire() {
    let (clock, ehr) = world(4);
    let first = json(&ask(&ehr, "Appointment/_history?_count=5"));
    let next = link(&first, "next").unwrap();
    let before = json(&ask(&ehr, &next));
    for _ in 0..20 {
        clock.advance(1_000);
        ehr.step();
    }
    assert_eq!(json(&ask(&ehr, &next)), before);
    clock.advance(16 * 60_000);
    assert_eq!(ask(&ehr, &next).status, 410);
    assert_eq!(ask(&ehr, "Appointment/_history?_since=yesterday").status, 400);
    assert_eq!(ask(&ehr, "Appointment/_history?_sort=x").status, 400);
}

#[test]
fn drifting_histories_repeat_rows_and_skip_none() {
    let (_, ehr) = world(5);
    let whole = history(&ehr, "Appointment/_history");
    switch_on(&ehr, "page_drift=1");
    let drifted = history(&ehr, "Appointment/_history?_count=4");
    assert!(ehr.strikes()["page_drift"] > 0);
    assert!(drifted.len() > whole.len(), "rows are repeated");
    assert!(whole.iter().all(|row| drifted.contains(row)), "none is skipped");
}

#[test]
fn a_history_forgets_its_since_as_switched() {
    let (_, ehr) = world(6);
    let since = "Patient/_history?_since=2090-01-01T00:00:00Z";
    assert!(history(&ehr, since).is_empty());
    switch_on(&ehr, "ignored_filters=1");
    let answer = json(&ask(&ehr, since));
    assert!(!answer["entry"].as_array().unwrap().is_empty());
    assert!(!link(&answer, "self").unwrap().contains("_since"));
}
