//! A worker of one connection, put together as the service does, on a store in memory. Nothing of it runs.

use std::path::Path;
use std::sync::Arc;

use courier_fhir::Profile;
use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::{self, Environment, Secrets, Surroundings};
use ehr_courier::pipeline::Worker;
use ehr_courier::store::memory::MemoryStore;

pub(crate) fn worker() -> Worker {
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
    app::compose(&config, Arc::new(MemoryStore::default()), clock).unwrap()
}
