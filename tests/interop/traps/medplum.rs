//! Medplum's router 4.5.2 over its `MemoryRepository`.

use courier_sdk::{
    Aim, ChangeRef, Connector as _, ConnectorError, Detect, FeedSpec, FetchRequest, Fetched, Next, NotFound,
    PollRequest, Shown, Strategy,
};
use reqwest::Method;
use serde_json::json;

use super::source::{PAGE, Source, entries, feed, has_next, patient, shown, version_found};
use crate::server::Product;

fn start() -> Source {
    Source::start(Product::Medplum)
}

#[tokio::test]
async fn medplum_cuts_an_answer_without_a_link_and_what_is_left_over_is_asked_for() {
    let source = start();
    source.put_many(10).await;
    let cut = source.get("Patient?_sort=_lastUpdated&_count=3").await.body;
    assert_eq!((entries(&cut).len(), has_next(&cut)), (3, false), "{cut}");
    // Nothing but the total shows it.
    assert_eq!(cut["total"], 10);
    let polled = source.poll(&feed("Patient", Detect::Auto), None).await;
    assert_eq!(polled.names().len(), 10, "{:?}", source.asked());
    let again = source
        .poll(&feed("Patient", Detect::Auto), Some(polled.cursor()))
        .await;
    assert_eq!(again.names().len(), 10, "all lie within the overlap");
}

#[tokio::test]
async fn medplum_lists_a_type_for_a_sweep_with_a_page_above_its_size() {
    let source = start();
    source.put_many(10).await;
    let mut sweep = feed("Patient", Detect::Auto);
    sweep.scope.aim = Aim::Everything;
    let polled = source.poll(&sweep, None).await;
    polled.cursor();
    assert_eq!(polled.names().len(), 10);
    let asked = source.asked();
    let expected = [
        format!("GET /Patient?_count={PAGE}"),
        "GET /Patient?_count=12".to_owned(),
    ];
    assert_eq!(asked, expected);
    // An unknown parameter finds nothing, and nothing says so: a sweep by it names nobody. What is said to have
    // disappeared is read by itself, and is there.
    let blind = FeedSpec {
        filter: "no-such-parameter=1".to_owned(),
        ..sweep
    };
    let polled = source.poll(&blind, None).await;
    assert_eq!(polled.listed, [""; 0]);
    let missing = ChangeRef {
        shown: Shown::Missing,
        version_id: None,
        ..shown("p0", "-")
    };
    let request = FetchRequest {
        change: &missing,
        known: None,
    };
    let fetched = source.connector().fetch(request).await.unwrap();
    assert!(matches!(fetched, Fetched::Found(..)), "{fetched:?}");
}

#[tokio::test]
async fn medplum_finds_nothing_by_an_unknown_parameter_and_nothing_is_told() {
    let source = start();
    source.put_many(2).await;
    let answer = source.get("Patient?no-such-parameter=1").await;
    assert_eq!((answer.status, entries(&answer.body).len()), (200, 0));
    assert_eq!(answer.body["link"], json!(null), "no self link either");
    let filtered = FeedSpec {
        filter: "no-such-parameter=1".to_owned(),
        ..feed("Patient", Detect::LastUpdated)
    };
    let polled = source.poll(&filtered, None).await;
    assert_eq!(polled.names(), [""; 0]);
    assert!(matches!(polled.end, Next::Done(_)), "{:?}", polled.end);
}

#[tokio::test]
async fn medplum_names_versions_without_order_and_each_is_told_by_its_name() {
    let source = start();
    let (first, second) = (source.put("p0", "First").await, source.put("p0", "Second").await);
    for version in [&first, &second] {
        assert_eq!(
            (version.len(), version.matches('-').count()),
            (36, 4),
            "{version}"
        );
    }
    let connector = source.connector();
    let rule = connector.version_rule(&patient("p0").record_type);
    assert!(!rule.numeric_order && rule.first_version.is_none());
    let polled = source.poll(&feed("Patient", Detect::Auto), None).await;
    assert_eq!(polled.names(), [format!("p0@{second}")]);
    // The version that was shown is read, though it was overwritten meanwhile.
    let change = shown("p0", &first);
    let request = FetchRequest {
        change: &change,
        known: None,
    };
    let fetched = connector.fetch(request).await.unwrap();
    assert_eq!(version_found(&fetched), Some(first.as_str()));
}

#[tokio::test]
async fn medplum_has_no_statement_and_no_history_and_is_searched() {
    let source = start();
    source.put_many(1).await;
    let statement = source.get("metadata").await;
    assert_eq!(statement.status, 200);
    assert_eq!(statement.body["resourceType"], "Bundle", "an empty search");
    assert_eq!(source.get("Patient/_history").await.status, 404);
    let connector = source.connector();
    let detection = connector.probe(&feed("Patient", Detect::Auto)).await.unwrap();
    assert_eq!(detection.strategy, Strategy::LastUpdated);
    let history = feed("Patient", Detect::History);
    let cursor = connector.cursor_at(jiff::Timestamp::UNIX_EPOCH);
    let request = PollRequest {
        feed: &history,
        cursor: Some(&cursor),
        resume: None,
    };
    let refused = connector.poll(request).await.unwrap_err();
    assert!(matches!(refused, ConnectorError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn medplum_says_404_of_what_was_deleted_and_of_what_never_was_and_neither_proves_a_delete() {
    let source = start();
    let version = source.put("p0", "Synthetic").await;
    source.delete("Patient/p0").await;
    let [deleted, never] = [source.get("Patient/p0").await, source.get("Patient/never").await];
    assert_eq!((deleted.status, never.status), (404, 404));
    assert_eq!(deleted.body, never.body);
    assert_eq!(deleted.body["resourceType"], "OperationOutcome");
    let change = shown("p0", &version);
    let request = FetchRequest {
        change: &change,
        known: None,
    };
    let fetched = source.connector().fetch(request).await.unwrap();
    assert_eq!(fetched, Fetched::NotFound(NotFound::BySource));
}

#[tokio::test]
async fn medplum_ignores_the_conditions_of_reads_and_its_whole_answers_are_taken() {
    let source = start();
    let version = source.put("p0", "Synthetic").await;
    let tag = format!("W/\"{version}\"");
    let conditions = [
        ("if-none-match", tag.as_str()),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"),
    ];
    for condition in conditions {
        let answer = source.ask((Method::GET, "Patient/p0"), &[condition], None).await;
        assert_eq!(answer.status, 200, "{condition:?}");
    }
    let change = ChangeRef {
        version_id: None,
        ..shown("p0", &version)
    };
    let request = FetchRequest {
        change: &change,
        known: Some(&version),
    };
    let fetched = source.connector().fetch(request).await.unwrap();
    assert_eq!(version_found(&fetched), Some(version.as_str()));
}

#[tokio::test]
async fn medplum_refuses_a_stale_tag_and_its_stamps_are_exact_to_the_millisecond() {
    let source = start();
    let first = source.put("p0", "First").await;
    source.put("p0", "Second").await;
    let stale = [("if-match", format!("W/\"{first}\""))];
    let stale = stale.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = json!({"resourceType": "Patient", "id": "p0"});
    let answer = source.ask((Method::PUT, "Patient/p0"), &stale, Some(&body)).await;
    assert_eq!(answer.status, 412);
    let record = source.get("Patient/p0").await.body;
    let stamp = record["meta"]["lastUpdated"].as_str().unwrap();
    let instant: jiff::Timestamp = stamp.parse().unwrap();
    let later = instant + jiff::SignedDuration::from_millis(1);
    for (bound, found) in [(instant, 1), (later, 0)] {
        let answer = source.get(&format!("Patient?_lastUpdated=ge{bound:.3}")).await;
        assert_eq!(entries(&answer.body).len(), found, "{bound}");
    }
}

#[tokio::test]
async fn medplum_ignores_include_and_what_a_record_refers_to_is_read_by_itself() {
    let source = start();
    source.put_many(2).await;
    let body = json!({
        "resourceType": "Observation", "id": "o0", "status": "final", "code": {"text": "synthetic"},
        "subject": {"reference": "Patient/p0"}
    });
    let put = (Method::PUT, "Observation/o0");
    assert_eq!(source.ask(put, &[], Some(&body)).await.status, 200);
    let answer = source.get("Observation?_include=Observation:subject").await;
    assert_eq!(entries(&answer.body).len(), 1, "{answer:?}");
    let keys = [patient("p0"), patient("p1"), patient("never")];
    let found = source.connector().read_context_many(&keys).await.unwrap();
    let found: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, true, false]);
}
