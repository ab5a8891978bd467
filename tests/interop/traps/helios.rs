//! helios-hfs 0.2.7.

use std::collections::BTreeMap;

use courier_fhir::{Profile, ReadMany};
use courier_sdk::{Connector as _, ConnectorError, Detect, FeedSpec, FetchRequest, Fetched, PollRequest};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::source::{PAGE, Source, entries, feed, has_next, shown};
use crate::server::Product;

fn start() -> Source {
    Source::start(Product::Helios)
}

/// A Bundle of so many creations of patients.
fn creations(count: usize) -> Value {
    let entry = |number: usize| {
        let patient = json!({"resourceType": "Patient", "name": [{"family": number.to_string()}]});
        json!({"resource": patient, "request": {"method": "POST", "url": "Patient"}})
    };
    let entries: Vec<Value> = (0..count).map(entry).collect();
    json!({"resourceType": "Bundle", "type": "transaction", "entry": entries})
}

#[tokio::test]
async fn helios_searches_no_two_types_at_once_and_each_is_polled_by_itself() {
    let source = start();
    source.put_many(1).await;
    let both = source.get("?_type=Patient,Observation").await;
    assert_eq!(both.status, 501, "{both:?}");
    let patients = source.poll(&feed("Patient", Detect::LastUpdated), None).await;
    let observations = source.poll(&feed("Observation", Detect::LastUpdated), None).await;
    assert_eq!((patients.names().len(), observations.names().len()), (1, 0));
    assert!(!source.asked().iter().any(|asked| asked.contains("_type")));
}

#[tokio::test]
async fn helios_never_answers_its_own_last_modified_with_304_and_is_asked_by_tag() {
    let source = start();
    let version = source.put("p0", "Synthetic").await;
    let get = (Method::GET, "Patient/p0");
    // It compares its milliseconds with the whole second that it names itself: a later date is answered with 304.
    let modified = source.get("Patient/p0").await.last_modified.unwrap();
    let since = [("if-modified-since", modified.as_str())];
    assert_eq!(source.ask(get.clone(), &since, None).await.status, 200);
    let later = [("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")];
    assert_eq!(source.ask(get.clone(), &later, None).await.status, 304);
    let tag = format!("W/\"{version}\"");
    assert_eq!(
        source.ask(get, &[("if-none-match", &tag)], None).await.status,
        304
    );
    let change = courier_sdk::ChangeRef {
        version_id: None,
        ..shown("p0", &version)
    };
    let request = FetchRequest {
        change: &change,
        known: Some(&version),
    };
    let fetched = source.connector().fetch(request).await.unwrap();
    assert_eq!(fetched, Fetched::Unchanged);
}

#[tokio::test]
async fn helios_ignores_if_none_match_within_a_batch_and_a_batch_is_read_as_what_it_is() {
    let source = start();
    source.put_many(4).await;
    source.put("p1", "Later").await;
    source.delete("Patient/p2").await;
    let read = json!({"method": "GET", "url": "Patient/p0", "ifNoneMatch": "W/\"1\""});
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [{"request": read}]});
    let answer = source.ask((Method::POST, ""), &[], Some(&batch)).await;
    let first = &entries(&answer.body)[0];
    assert!(
        first["response"]["status"].as_str().unwrap().starts_with("200"),
        "{first}"
    );
    assert_eq!(first["resource"]["id"], "p0");

    let mut profile = Profile::builtin("helios").unwrap();
    profile.read_many = ReadMany::Batch;
    let connector = source.connector_with(profile);
    source.asked();
    let changes = ["p0", "p1", "p2", "p3"].map(|id| shown(id, "1"));
    let known = Some("1");
    let requests: Vec<FetchRequest<'_>> = changes
        .iter()
        .map(|change| FetchRequest { change, known })
        .collect();
    let found = connector.fetch_many(&requests).await.unwrap();
    assert_eq!(source.asked(), ["POST /"], "one request for all");
    let found: Vec<Option<&str>> = found
        .iter()
        .map(|fetched| match fetched {
            Some(Fetched::Found(change, record)) => {
                assert!(record.bytes().starts_with(b"{"));
                Some(change.key.id.as_str())
            }
            Some(other) => panic!("{other:?}"),
            None => None,
        })
        .collect();
    // What changed meanwhile, and what is gone, is left to a read by itself.
    assert_eq!(found, [Some("p0"), None, None, Some("p3")]);
}

#[tokio::test]
async fn helios_counts_one_page_as_a_historys_total_newest_first_and_every_page_is_read() {
    let source = start();
    source.put_many(5).await;
    let page = source.get("Patient/_history?_count=2").await.body;
    assert_eq!(
        (page["total"].as_u64(), has_next(&page)),
        (Some(2), true),
        "{page}"
    );
    let ids: Vec<&str> = entries(&page)
        .iter()
        .map(|entry| entry["resource"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["p4", "p3"]);
    let history = feed("Patient", Detect::History);
    let cursor = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
    let polled = source.poll(&history, Some(&cursor)).await;
    assert_eq!(polled.names(), ["p0@1", "p1@1", "p2@1", "p3@1", "p4@1"]);
    polled.cursor();
}

#[tokio::test]
async fn helios_writes_one_instant_in_two_ways_and_a_version_is_one_all_the_same() {
    let source = start();
    source.put_many(1).await;
    source.delete("Patient/p0").await;
    source.put("p1", "Synthetic").await;
    let page = source.get("Patient/_history").await.body;
    let entry = entries(&page)
        .iter()
        .find(|entry| entry["resource"]["id"] == "p1")
        .unwrap();
    let [told, meta] = [
        &entry["response"]["lastModified"],
        &entry["resource"]["meta"]["lastUpdated"],
    ]
    .map(|text| text.as_str().unwrap());
    assert!(told.ends_with("+00:00") && meta.ends_with('Z'), "{told} {meta}");
    assert!(
        told.len() > meta.len() + 5,
        "finer than milliseconds: {told} {meta}"
    );
    let cursor = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
    let by_history = source
        .poll(&feed("Patient", Detect::History), Some(&cursor))
        .await;
    let by_search = source.poll(&feed("Patient", Detect::LastUpdated), None).await;
    let stamp = |polled: &super::source::Polled| {
        let change = polled
            .changes
            .iter()
            .find(|change| change.key.id.as_str() == "p1");
        let change = change.unwrap();
        (change.version_id.clone(), change.last_updated.unwrap())
    };
    assert_eq!(stamp(&by_history), stamp(&by_search));
    assert!(by_history.names().contains(&"p0 gone".to_owned()));
}

#[tokio::test]
async fn helios_shows_the_last_seen_version_again_and_the_cursor_stays() {
    let source = start();
    let history = FeedSpec {
        overlap: std::time::Duration::ZERO,
        ..feed("Patient", Detect::History)
    };
    source.put_many(2).await;
    // `Date` counts whole seconds, and no cursor passes it.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let beginning = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
    let first = source.poll(&history, Some(&beginning)).await;
    let again = source.poll(&history, Some(first.cursor())).await;
    assert_eq!(again.names(), ["p1@1"], "from the stamp on, inclusive");
    assert_eq!(again.cursor(), first.cursor());
}

#[tokio::test]
async fn helios_drops_unknown_parameters_and_nothing_is_taken_from_such_an_answer() {
    let source = start();
    source.put_many(2).await;
    let answer = source.get("Patient?no-such-parameter=1&_count=5").await;
    assert_eq!(answer.status, 200);
    let matches = entries(&answer.body)
        .iter()
        .filter(|entry| entry["search"]["mode"] == "match");
    assert_eq!(matches.count(), 2);
    let links = answer.body["link"].as_array().unwrap();
    let own = links.iter().find(|link| link["relation"] == "self").unwrap();
    assert!(!own["url"].as_str().unwrap().contains("no-such"), "{own}");
    let filtered = FeedSpec {
        filter: "no-such-parameter=1".to_owned(),
        ..feed("Patient", Detect::LastUpdated)
    };
    // Asked to be strict it says so instead.
    let request = PollRequest {
        feed: &filtered,
        cursor: None,
        resume: None,
    };
    let refused = source.connector().poll(request).await.unwrap_err();
    assert!(
        matches!(refused, ConnectorError::Refused { status: 400, .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn helios_makes_a_version_of_a_put_that_changes_nothing_and_it_is_told_as_one() {
    let source = start();
    let (first, second) = (source.put("p0", "Same").await, source.put("p0", "Same").await);
    assert_eq!((first.as_str(), second.as_str()), ("1", "2"));
    let beginning = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
    let by_history = source
        .poll(&feed("Patient", Detect::History), Some(&beginning))
        .await;
    assert_eq!(by_history.names(), ["p0@1", "p0@2"]);
    let by_search = source.poll(&feed("Patient", Detect::LastUpdated), None).await;
    assert_eq!(by_search.names(), ["p0@2"]);
}

#[tokio::test]
async fn helios_stamps_many_changes_with_one_millisecond_and_every_page_of_them_is_read() {
    let source = start();
    let bundle = creations(200);
    let answer = source.ask((Method::POST, ""), &[], Some(&bundle)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut stamps: BTreeMap<String, u32> = BTreeMap::new();
    for entry in entries(&answer.body) {
        let stamp = entry["resource"]["meta"]["lastUpdated"].as_str().unwrap();
        *stamps.entry(stamp.to_owned()).or_default() += 1;
    }
    let most = stamps.values().max().unwrap();
    assert!(*most > PAGE, "at most {most} changes share a millisecond");
    for detect in [Detect::LastUpdated, Detect::History] {
        let beginning = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
        let polled = source.poll(&feed("Patient", detect), Some(&beginning)).await;
        assert_eq!(polled.names().len(), 200, "{detect:?}");
    }
}

#[tokio::test]
async fn helios_answers_searches_in_plain_json_though_fhir_json_is_asked_for_and_is_understood() {
    let source = start();
    source.put_many(1).await;
    let accept = [("accept", "application/fhir+json")];
    for path in ["Patient?_count=9", "Patient/_history"] {
        let answer = source.ask((Method::GET, path), &accept, None).await;
        let kind = answer.content_type;
        assert!(kind.starts_with("application/json"), "{path}: {kind}");
    }
    for detect in [Detect::LastUpdated, Detect::History] {
        let beginning = source.connector().cursor_at(Timestamp::UNIX_EPOCH);
        let polled = source.poll(&feed("Patient", detect), Some(&beginning)).await;
        assert_eq!(polled.names(), ["p0@1"], "{detect:?}");
    }
}
