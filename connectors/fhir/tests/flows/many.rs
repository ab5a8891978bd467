//! Several records with one request: what may be taken from its answer, and what is left to a read by itself.

use courier_fhir::{FhirConnector, Limits, Profile, ReadMany, Settings};
use courier_sdk::{
    ChangeRef, Connector, ConnectorError, FetchRequest, Fetched, Fixed, HttpError, Novelty, RecordId,
    RecordKey, RecordType, Shown,
};
use std::sync::Arc;
use url::Url;

use crate::server::{Condition, OurClock, Server, at, connector};

fn record_type() -> RecordType {
    RecordType::parse("Appointment").unwrap()
}

fn shown(id: &str, version: Option<&str>, second: Option<i64>) -> ChangeRef {
    ChangeRef {
        key: RecordKey {
            record_type: record_type(),
            id: RecordId::parse(id).unwrap(),
        },
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: version.map(str::to_owned),
        last_updated: second.map(at),
        record: None,
    }
}

async fn ask(
    connector: &FhirConnector,
    changes: &[ChangeRef],
) -> Result<Vec<Option<Fetched>>, ConnectorError> {
    let requests: Vec<FetchRequest<'_>> = changes
        .iter()
        .map(|change| FetchRequest { change, known: None })
        .collect();
    connector.fetch_many(&requests).await
}

/// Which of the changes were answered with a record, as a word of `y` and `n`.
async fn answered(connector: &FhirConnector, changes: &[ChangeRef]) -> String {
    let answers = ask(connector, changes).await.unwrap();
    assert_eq!(answers.len(), changes.len());
    let word = |(change, answer): (&ChangeRef, Option<Fetched>)| match answer {
        None => 'n',
        Some(Fetched::Found(found, record)) => {
            assert_eq!(found.key, change.key, "each in its place");
            assert!(record.bytes().starts_with(b"{\"resourceType\""));
            'y'
        }
        Some(other) => panic!("{other:?}"),
    };
    changes.iter().zip(answers).map(word).collect()
}

fn clinic(count: usize) -> (Server, Vec<ChangeRef>) {
    let server = Server::new(1_000);
    let ids: Vec<String> = (0..count).map(|nth| format!("a{nth}")).collect();
    for (id, second) in ids.iter().zip(100..) {
        server.put(id, second);
    }
    let changes = ids.iter().zip(100..);
    let changes = changes.map(|(id, second)| shown(id, Some("1"), Some(second)));
    (server, changes.collect())
}

#[tokio::test]
async fn records_that_are_as_shown_come_with_one_request() {
    let (server, changes) = clinic(12);
    let connector = connector(&server);
    assert_eq!(connector.fetch_at_once(&record_type()), 20);
    assert_eq!(answered(&connector, &changes).await, "y".repeat(12));
    assert_eq!(server.with(|state| state.asked_ids.clone()), [12]);
}

#[tokio::test]
async fn what_is_missing_or_of_another_version_is_left_to_a_read_by_itself() {
    let (server, mut changes) = clinic(4);
    // Deleted, or not ours to see: a search cannot tell.
    server.with(|state| state.rows.retain(|row| row.id != "a0"));
    // Newer, and an answer from before the change.
    server.put("a1", 500);
    changes[2].version_id = Some("2".to_owned());
    // Without a version only a stamp tells that an answer is no older than the change.
    changes.push(shown("a3", None, Some(103)));
    changes.push(shown("a3", None, Some(104)));
    changes.push(shown("a3", None, None));
    // No list can hold it.
    changes.push(shown("a,3", Some("1"), Some(103)));
    let connector = connector(&server);
    assert_eq!(answered(&connector, &changes).await, "nnnyynnn");
    assert_eq!(server.with(|state| state.asked_ids.clone()), [4], "each id once");
}

#[tokio::test]
async fn records_that_nobody_asked_for_are_ignored_and_the_server_is_read_one_by_one_for_an_hour() {
    let (server, changes) = clinic(6);
    server.with(|state| state.ids = Condition::Ignored);
    let connector = connector(&server);
    // `_count` of two: the first two rows, whatever was asked for.
    assert_eq!(answered(&connector, &changes[3..5]).await, "nn");
    assert_eq!(connector.fetch_at_once(&record_type()), 1);
    server.with(|state| state.ours += 3_600);
    assert_eq!(connector.fetch_at_once(&record_type()), 20);
}

#[tokio::test]
async fn a_server_that_refuses_is_read_one_by_one_and_one_that_is_away_says_so() {
    let (server, changes) = clinic(3);
    for (status, at_once) in [(400, 1), (403, 1), (404, 1), (501, 1)] {
        let connector = connector(&server);
        server.with(|state| state.fail = Some(status));
        assert_eq!(answered(&connector, &changes).await, "nnn", "{status}");
        assert_eq!(connector.fetch_at_once(&record_type()), at_once, "{status}");
    }
    for (status, class) in [(429, "throttled"), (500, "transient"), (401, "unauthorized")] {
        let connector = connector(&server);
        server.with(|state| state.fail = Some(status));
        let error = ask(&connector, &changes).await.unwrap_err();
        assert_eq!(
            (error.class(), connector.fetch_at_once(&record_type())),
            (class, 20)
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_asked_for_in_halves() {
    let (server, changes) = clinic(8);
    server.with(|state| state.broken = Some(HttpError::TooLarge { limit: 20_000 }));
    let connector = connector(&server);
    assert_eq!(answered(&connector, &changes).await, "yyyyyyyy");
    assert_eq!(server.with(|state| state.asked_ids.clone()), [4, 4]);
    assert_eq!(
        connector.fetch_at_once(&record_type()),
        4,
        "and no more for an hour"
    );
}

#[tokio::test]
async fn a_record_above_the_limit_is_named_so_and_a_page_that_goes_on_asks_for_fewer() {
    let (server, changes) = clinic(5);
    server.with(|state| {
        state.rows[1].filler = 3_000;
        state.page_size = 3;
    });
    let connector = connector(&server);
    let answers = ask(&connector, &changes).await.unwrap();
    assert_eq!(answers[1], Some(Fetched::TooLarge));
    assert!(matches!(answers[2], Some(Fetched::Found(..))));
    assert_eq!((&answers[3], &answers[4]), (&None, &None));
    assert_eq!(connector.fetch_at_once(&record_type()), 3);
}

#[tokio::test]
async fn long_ids_are_asked_for_in_addresses_that_every_server_takes() {
    let server = Server::new(1_000);
    let ids: Vec<String> = (0..20).map(|nth| format!("{nth:0>200}")).collect();
    let changes: Vec<ChangeRef> = ids.iter().map(|id| shown(id, Some("1"), Some(7))).collect();
    for id in &ids {
        server.put(id, 7);
    }
    assert_eq!(answered(&connector(&server), &changes).await, "y".repeat(20));
    assert_eq!(server.with(|state| state.asked_ids.clone()), [7, 7, 6]);
}

#[tokio::test]
async fn context_is_read_together_too() {
    let (server, changes) = clinic(3);
    let mut keys: Vec<RecordKey> = changes.into_iter().map(|change| change.key).collect();
    keys.push(shown("nobody", None, None).key);
    let found = connector(&server).read_context_many(&keys).await.unwrap();
    let found: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, true, true, false]);
    assert_eq!(server.with(|state| state.asked_ids.clone()), [4]);
}

fn with(server: &Server, profile: Profile) -> FhirConnector {
    FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile,
        http: Arc::new(server.clone()),
        clock: Arc::new(OurClock(server.clone())),
        limits: Limits::default(),
    })
}

#[tokio::test]
async fn a_batch_is_taken_entry_by_entry() {
    let (server, changes) = clinic(3);
    let mut profile = Profile::builtin("sandbox").unwrap();
    profile.read_many = ReadMany::Batch;
    let entry = |id: &str, status: &str| {
        format!(
            r#"{{"resource":{{"resourceType":"Appointment","id":"{id}","meta":{{"versionId":"1"}}}},"response":{{"status":"{status}"}}}}"#
        )
    };
    let entries = [
        entry("a0", "200 OK"),
        entry("a1", "410 Gone"),
        entry("a2", "200 OK"),
        entry("x", "200 OK"),
    ];
    let body = format!(
        r#"{{"resourceType":"Bundle","type":"batch-response","entry":[{}]}}"#,
        entries.join(",")
    );
    server.with(|state| state.body = Some(body));
    assert_eq!(answered(&with(&server, profile), &changes).await, "yny");
    let kind = server.with(|state| state.headers["content-type"].clone());
    assert_eq!(kind, "application/fhir+json");
}

#[tokio::test]
async fn a_profile_without_such_requests_is_asked_for_none() {
    let (server, _) = clinic(3);
    let mut profile = Profile::builtin("sandbox").unwrap();
    profile.read_many = ReadMany::None;
    assert_eq!(with(&server, profile).fetch_at_once(&record_type()), 1);
}

#[tokio::test]
async fn a_limit_told_in_the_body_alone_throttles_whatever_the_status() {
    let (server, changes) = clinic(1);
    let mut profile = Profile::builtin("sandbox").unwrap();
    profile.inband_limit_codes = vec!["4135".to_owned()];
    let connector = with(&server, profile);
    let outcome = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"fatal","code":"processing",
        "details":{"coding":[{"code":"4135"}]}}]}"#;
    server.with(|state| state.body = Some(outcome.to_owned()));
    let request = FetchRequest {
        change: &changes[0],
        known: None,
    };
    let error = connector.fetch(request).await.unwrap_err();
    assert_eq!((error.class(), error.retry_after()), ("throttled", None));
    server.with(|state| state.body = Some(outcome.replace("4135", "4119")));
    assert_eq!(connector.fetch(request).await.unwrap_err().class(), "transient");
}
