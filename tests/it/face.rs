//! The HTTP face over TCP: it answers, and it ends when it is told to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_fhir::Profile;
use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::{self, Environment, Secrets, Surroundings};
use ehr_courier::face::{self, Face};
use ehr_courier::store::memory::MemoryStore;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The face waits for requests in progress, but no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

fn face(draining: &CancellationToken) -> Face {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let text = "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n\
                [connections.mercy]\nbase_url = \"https://ehr.example.com/\"\n\
                [[connections.mercy.feeds]]\nrecord = \"Patient\"\n";
    let environment = Environment::default();
    let known_profiles = Profile::names();
    let surroundings = Surroundings {
        environment: &environment,
        known_profiles: &known_profiles,
        includable: courier_fhir::includable,
        now: clock.now(),
        secrets: Secrets::Required,
    };
    let config = config::from_text(Path::new("courier.toml"), text, &surroundings).unwrap();
    Face {
        worker: Arc::new(app::compose(&config, Arc::new(MemoryStore::default()), clock).unwrap()),
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        draining: draining.clone(),
    }
}

#[tokio::test]
async fn a_stopped_face_ends_though_a_client_holds_half_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(face::serve(listener, face(&stop), stop.clone()));

    let mut healthy = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    healthy.write_all(request).await.unwrap();
    let mut answer = String::new();
    healthy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /readyz HTTP/1.1\r\nhost").await.unwrap();
    // The face has read the half once it answers somebody who came later.
    let mut later = TcpStream::connect(address).await.unwrap();
    later.write_all(request).await.unwrap();
    later.read_to_string(&mut answer).await.unwrap();

    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
    drop(half);
}
