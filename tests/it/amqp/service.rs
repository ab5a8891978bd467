//! The whole courier with one AMQP destination: a sandbox EHR over TCP, SQLite in a folder of its own, the real pipeline.

use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::domain::name::DestinationName;
use ehr_courier::pipeline;
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use ehr_courier::store::{DeliveryCounts, EventQuery, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::PATIENCE;
use crate::composed;

/// A running courier.
pub(super) struct Service {
    pub(super) store: Arc<dyn Store>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _folder: TempDir,
}

impl Service {
    /// Starts a courier that publishes so many Appointments to an exchange, each once.
    pub(super) async fn start(records: usize, broker: &Url, exchange: &str, retry: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = format!("http://{}/fhir", listener.local_addr().unwrap());
        let mut options = Options::new(7, source.parse().unwrap());
        options.patients = 0;
        let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
        for number in 0..records {
            let text = r#"{"status":"booked","participant":[{"status":"accepted"}]}"#;
            ehr.write("Appointment", &format!("synthetic-{number}"), text)
                .unwrap();
        }
        let text = format!(
            "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n\
             [connections.mercy]\nprofile = \"sandbox\"\nbase_url = \"{source}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
             [[connections.mercy.feeds]]\nrecord = \"Appointment\"\nstart = \"beginning\"\ndetect = \"last-updated\"\n\
             [destinations.bus]\ntype = \"amqp\"\nurl = \"env:BUS_URL\"\nexchange = \"{exchange}\"\nretry = {retry}\n\
             allow_networks = [\"127.0.0.0/8\"]\n\
             [[subscriptions]]\nname = \"all\"\ndestination = \"bus\"\nformat = \"cloudevents-binary\"\n"
        );
        let environment = Environment::from_iter([("BUS_URL".to_owned(), broker.to_string())]);
        let config = composed::config(&folder.path().join("courier.toml"), &text, &environment);
        assert!(!format!("{config:?}").contains("guest"), "{config:?}");
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&config.state.database, OpenMode::Service).unwrap());
        let worker = Arc::new(app::compose(&config, Arc::clone(&store), clock).unwrap());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = stop.clone();
        tasks.spawn(async move {
            sandbox::serve(listener, ehr, Pace::per_second(0.0), token)
                .await
                .unwrap();
        });
        let token = stop.clone();
        tasks.spawn(async move { pipeline::run(worker, token).await.unwrap() });
        Self {
            store,
            stop,
            tasks,
            _folder: folder,
        }
    }

    /// Waits until the destination's deliveries stand so.
    pub(super) async fn until(&mut self, reached: impl Fn(&DeliveryCounts) -> bool) -> DeliveryCounts {
        let bus = DestinationName::parse("bus").unwrap();
        let waited = timeout(PATIENCE, async {
            loop {
                let counts = self.store.deliveries_by_state(&bus).await.unwrap();
                if reached(&counts) {
                    return counts;
                }
                tokio::select! {
                    biased;
                    ended = self.tasks.join_next() => panic!("a part ended: {ended:?}"),
                    () = tokio::time::sleep(Duration::from_millis(5)) => {}
                }
            }
        });
        let Ok(counts) = waited.await else {
            panic!("{:?}", self.store.deliveries_by_state(&bus).await);
        };
        counts
    }

    /// The ids of all events in the log.
    pub(super) async fn event_ids(&self) -> Vec<String> {
        let all = EventQuery {
            connection: None,
            record: None,
            since: None,
            limit: 100_000,
        };
        let events = self.store.events(&all).await.unwrap();
        events.iter().map(|event| event.id.to_string()).collect()
    }

    /// Drains the courier.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.transpose().unwrap().is_some() {} };
        timeout(PATIENCE, ended).await.unwrap();
    }
}
