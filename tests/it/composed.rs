//! Configurations read and workers put together as the service does, and where servers of the tests listen. Nothing of
//! them runs.

use std::path::Path;
use std::sync::Arc;

use courier_fhir::Profile;
use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::{self, Config, Environment, Secrets, Surroundings};
use ehr_courier::pipeline::Worker;
use ehr_courier::store::memory::MemoryStore;
use tokio::net::TcpListener;
use url::Url;

/// Listens on a free port of this machine; answers with its address.
pub(crate) async fn loopback() -> (TcpListener, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    (listener, url)
}

/// Reads a configuration that is sound.
pub(crate) fn config(path: &Path, text: &str, environment: &Environment) -> Config {
    let surroundings = Surroundings {
        environment,
        known_profiles: &Profile::names(),
        includable: courier_fhir::includable,
        now: SystemClock.now(),
        secrets: Secrets::Required,
    };
    config::from_text(path, text, &surroundings).unwrap()
}

/// A worker of one connection on a store in memory.
pub(crate) fn worker() -> Worker {
    let text = "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n\
                [connections.mercy]\nbase_url = \"https://ehr.example.com/\"\n\
                [[connections.mercy.feeds]]\nrecord = \"Patient\"\n";
    let config = config(Path::new("courier.toml"), text, &Environment::default());
    app::compose(&config, Arc::new(MemoryStore::default()), Arc::new(SystemClock)).unwrap()
}
