//! Encryption at rest, over the whole way: what was planted in records, credentials and secrets is nowhere on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName, Cursor, FeedName};
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::{Config, Environment};
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::domain::backfill;
use ehr_courier::pipeline;
use ehr_courier::pipeline::reconcile;
use ehr_courier::receiver;
use ehr_courier::sandbox::{self, Access, Ehr, Options, Pace};
use ehr_courier::store::sqlite::OpenMode;
use ehr_courier::store::{CursorRow, EventQuery, SetCursor, Store as _, StoreError, Sweep};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::composed;

const NAME: &str = "Zebulonqvx Testperson";
const MRN: &str = "MRN-7741902238";
const TOKEN: &str = "tok-9fK2mQ7xV4bN8sR1";
const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const FIRST_KEY: &str = "5Yy3Zf0m1cK7nq8t2uV4wX6zA9bD0eG1hJ3kL5mN7pQ=";
const SECOND_KEY: &str = "q1W2e3R4t5Y6u7I8o9P0a1S2d3F4g5H6j7K8l9Z0x1c=";

fn load(folder: &Path, source: &Url, hook: &Url, state: &str) -> Config {
    let pairs = [
        ("HOOK_SECRET", SECRET),
        ("TOKEN", TOKEN),
        ("FIRST", FIRST_KEY),
        ("SECOND", SECOND_KEY),
    ];
    let environment: Environment = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let text = format!(
        "[state]\nurl = \"sqlite://courier.db\"\n{state}\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{source}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         auth = {{ type = \"bearer\", token = \"env:TOKEN\" }}\n[[connections.mercy.feeds]]\nrecord = \"Patient\"\n\
         start = \"beginning\"\n[destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\ndestination = \"hook\"\n\
         content = \"full-resource\"\nfrom = \"beginning\"\n"
    );
    composed::config(&folder.join("courier.toml"), &text, &environment)
}

async fn loopback(path: &str) -> (TcpListener, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}{path}", listener.local_addr().unwrap())).unwrap();
    (listener, url)
}

/// Lets a planted patient's record go the whole way, and looks at the files before the store is closed.
async fn carry_a_planted_record(folder: &Path, state: &str) -> Vec<u8> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (source, source_url) = loopback("/fhir").await;
    let (hook, hook_url) = loopback("/hook").await;
    let options = Options {
        patients: 0,
        auth: Access::Bearer {
            token: TOKEN.to_owned(),
        },
        ..Options::new(5, source_url.clone())
    };
    let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
    let body = format!("{{\"name\":[{{\"text\":\"{NAME}\"}}],\"identifier\":[{{\"value\":\"{MRN}\"}}]}}");
    ehr.write("Patient", "planted", &body).unwrap();
    let config = load(folder, &source_url, &hook_url, state);
    let store = Arc::new(app::open_store(&config, OpenMode::Service).unwrap());
    let worker = Arc::new(app::compose(&config, store, Arc::clone(&clock)).unwrap());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let served = sandbox::serve(source, ehr, Pace::per_second(0.0), stop.clone());
    tasks.spawn(async move { served.await.unwrap() });
    let (sink, mut received) = mpsc::channel(64);
    let key = SigningKey::parse(SECRET).unwrap();
    let receiving = receiver::serve(hook, vec![key], clock, sink, stop.clone());
    tasks.spawn(async move { receiving.await.unwrap() });
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    let arrived = tokio::time::timeout(Duration::from_mins(1), async {
        while let Some(received) = received.recv().await {
            let text = String::from_utf8_lossy(&received.body).into_owned();
            if text.contains(NAME) && text.contains(MRN) {
                return true;
            }
        }
        false
    });
    assert!(arrived.await.unwrap(), "the record arrived, and readable");
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    bytes
}

fn shows(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn with_a_key_no_name_number_token_or_secret_is_in_the_database_its_log_or_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = carry_a_planted_record(folder.path(), "key = \"env:FIRST\"").await;
    // The look itself works: ids are not encrypted.
    assert!(shows(&bytes, "planted"), "the record's id is not in the files");
    assert!(folder.path().join("courier.db").is_file());
    for planted in ["Zebulonqvx", "7741902238", "9fK2mQ7x", "AAECAwQFBgc", FIRST_KEY] {
        assert!(!shows(&bytes, planted), "{planted} is on disk");
    }
    // Nor is anything of the body to be had by undoing the compression alone.
    let frame = [0x28, 0xb5, 0x2f, 0xfd];
    assert!(
        !bytes.windows(4).any(|window| window == frame),
        "a zstd frame is on disk"
    );
    let folder = tempfile::tempdir().unwrap();
    let plain = carry_a_planted_record(folder.path(), "key = \"none\"").await;
    assert!(
        plain.windows(4).any(|window| window == frame),
        "the check can fail"
    );
}

#[tokio::test]
async fn a_store_opens_with_its_own_key_only_and_can_move_on_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Url::parse("https://ehr.example/fhir").unwrap();
    carry_a_planted_record(folder.path(), "key = \"env:FIRST\"").await;
    let config = |state: &str| load(folder.path(), &nowhere, &nowhere, state);
    let readable = async |state: &str| {
        let store = app::open_for_reading(&config(state)).unwrap();
        let query = EventQuery {
            limit: 10,
            ..EventQuery::default()
        };
        let rows = store.events(&query).await.unwrap();
        let detail = store.event(&rows[0].id).await.unwrap().unwrap();
        String::from_utf8_lossy(detail.event.record.unwrap().bytes()).contains(NAME)
    };
    assert!(readable("key = \"env:FIRST\"").await);
    for (state, remedy) in [
        ("key = \"none\"", "write that key as `state.key`"),
        ("key = \"env:SECOND\"", "in `state.previous_keys`"),
    ] {
        for opened in [
            app::open_for_reading(&config(state)),
            app::open_store(&config(state), OpenMode::Service),
        ] {
            let Err(StoreError::WrongKey { reason }) = opened.map(drop) else {
                panic!("{state} was not refused")
            };
            assert!(reason.contains(remedy), "{reason}");
        }
    }
    let both = "key = \"env:SECOND\"\nprevious_keys = [\"env:FIRST\"]";
    drop(app::open_store(&config(both), OpenMode::Service).unwrap());
    assert!(readable(both).await, "what the first key sealed stays readable");
    let first = app::open_for_reading(&config("key = \"env:FIRST\""));
    assert!(
        matches!(first, Err(StoreError::WrongKey { .. })),
        "it has moved on"
    );
}

#[tokio::test]
async fn a_store_that_was_plain_stays_readable_when_it_gets_a_key() {
    let folder = tempfile::tempdir().unwrap();
    carry_a_planted_record(folder.path(), "key = \"none\"").await;
    let nowhere = Url::parse("https://ehr.example/fhir").unwrap();
    let config = load(folder.path(), &nowhere, &nowhere, "key = \"env:FIRST\"");
    let store = app::open_store(&config, OpenMode::Service).unwrap();
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let rows = store.events(&query).await.unwrap();
    let detail = store.event(&rows[0].id).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(detail.event.record.unwrap().bytes()).contains(NAME));
    drop(store);
    let plain = load(folder.path(), &nowhere, &nowhere, "key = \"none\"");
    assert!(matches!(
        app::open_store(&plain, OpenMode::Service).map(drop),
        Err(StoreError::WrongKey { .. })
    ));
}

#[tokio::test]
async fn an_old_key_can_go_once_what_it_sealed_is_swept_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Url::parse("https://ehr.example/fhir").unwrap();
    carry_a_planted_record(folder.path(), "key = \"env:FIRST\"").await;
    let open = |state: &str| {
        let config = load(folder.path(), &nowhere, &nowhere, state);
        app::open_store(&config, OpenMode::Service)
    };
    let place = |feed: &str| {
        (
            ConnectionName::parse("mercy").unwrap(),
            FeedName::parse(feed).unwrap(),
        )
    };
    // A feed that is in the configuration no longer.
    let (connection, removed) = place("removed");
    let set = SetCursor {
        connection: connection.clone(),
        feed: removed.clone(),
        cursor: Some(Cursor::new("a cursor".to_owned())),
        note: String::new(),
        at: SystemClock.now(),
    };
    let store = open("key = \"env:FIRST\"").unwrap();
    store.set_cursor(&set).await.unwrap();
    let before = store.cursors().await.unwrap();
    // The feed's sweep and its backfill may have been there too.
    let is_beside = |row: &&CursorRow| {
        [reconcile::SUFFIX, backfill::SUFFIX]
            .iter()
            .any(|suffix| row.feed.as_str().ends_with(suffix))
    };
    assert_eq!(before.len() - before.iter().filter(is_beside).count(), 2);
    drop(store);

    let both = "key = \"env:SECOND\"\nprevious_keys = [\"env:FIRST\"]";
    drop(open(both).unwrap());
    let second = "key = \"env:SECOND\"";
    let Err(StoreError::WrongKey { reason }) = open(second).map(drop) else {
        panic!("the events are sealed with the key that is gone")
    };
    assert!(reason.contains("state.previous_keys"), "{reason}");

    let store = open(both).unwrap();
    let sweep = Sweep {
        at: SystemClock.now() + Duration::from_hours(24 * 30),
        retention: Duration::from_hours(24),
        unseen_for: Duration::from_hours(24),
        stamped_before: std::collections::BTreeMap::new(),
        limit: 100,
    };
    assert!(store.sweep(&sweep).await.unwrap().events > 0);
    drop(store);
    let store = open(second).unwrap();
    assert_eq!(store.cursors().await.unwrap(), before);
    let read = store.feed(&connection, &removed).await.unwrap();
    assert_eq!(read.cursor, set.cursor);
    drop(store);
    assert!(open(second).is_ok());
}
