//! One courier, one good source and four that are not: unreachable, without a name, refusing us, without TLS. The bad
//! ones are named in the readiness report, and the good one does not notice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::face::{Reload, health};
use ehr_courier::pipeline;
use ehr_courier::receiver;
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use ehr_courier::store::memory::MemoryStore;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::composed::{self, loopback};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_mins(1);
const BAD: [&str; 4] = ["nameless", "plain", "refusing", "unreachable"];

fn configuration(sources: &[(&str, String)], hook: &Url) -> String {
    let connection = |(name, url): &(&str, String)| {
        format!(
            "[connections.{name}]\nprofile = \"sandbox\"\nbase_url = \"{url}\"\nevery = \"1s\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n[[connections.{name}.feeds]]\nrecord = \"Patient\"\n"
        )
    };
    let connections: String = sources.iter().map(connection).collect();
    format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n{connections}\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret = \"env:HOOK_SECRET\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\ndestination = \"hook\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_connection_among_good_ones_keeps_nobody_from_running_and_is_named() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ((source, good), (hook_listener, hook)) = (loopback().await, loopback().await);
    // A port that nobody listens on any more.
    let (closed, unreachable) = loopback().await;
    drop(closed);
    let refusing = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(401))
        .mount(&refusing)
        .await;
    let sources = [
        ("good", good.to_string()),
        ("nameless", "https://ehr.invalid/fhir".to_owned()),
        ("plain", good.as_str().replace("http://", "https://")),
        ("refusing", refusing.uri()),
        ("unreachable", unreachable.to_string()),
    ];
    let environment = Environment::from_iter([("HOOK_SECRET".to_owned(), SECRET.to_owned())]);
    let text = configuration(&sources, &hook);
    let config = composed::config(Path::new("courier.toml"), &text, &environment);
    let worker = app::compose(&config, Arc::new(MemoryStore::default()), Arc::clone(&clock)).unwrap();
    let worker = Arc::new(worker);
    let ehr = Arc::new(Ehr::new(Options::new(1, good), Arc::clone(&clock)));

    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let served = sandbox::serve(source, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
    tasks.spawn(async move { served.await.unwrap() });
    let (sink, mut received) = mpsc::channel(1024);
    let keys = vec![SigningKey::parse(SECRET).unwrap()];
    let receiving = receiver::serve(hook_listener, keys, clock, sink, stop.clone());
    tasks.spawn(async move { receiving.await.unwrap() });
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });

    let deadline = Instant::now() + PATIENCE;
    let (mut arrived, mut written) = (0, 0);
    loop {
        let report = health::report(&worker, false, Reload::None);
        let troubles: Vec<&str> = report.troubles.keys().map(String::as_str).collect();
        if arrived >= 3 && troubles == BAD {
            assert!(
                report.ready,
                "bad connections do not make the worker unready: {report:?}"
            );
            for feeds in report.troubles.values() {
                let reason = &feeds["Patient"].reason;
                assert!(!reason.is_empty() && !reason.contains('?'), "{reason}");
            }
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{arrived} arrived, in trouble: {troubles:?}"
        );
        written += 1;
        ehr.write("Patient", &format!("p-{written}"), r#"{"active":true}"#)
            .unwrap();
        while tokio::time::timeout(Duration::from_millis(100), received.recv())
            .await
            .is_ok()
        {
            arrived += 1;
        }
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
