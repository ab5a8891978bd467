//! `/readyz`: which watchdog fails, by name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_fhir::Profile;
use courier_sdk::{Clock, FeedName};
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::{self, Environment, Secrets, Surroundings};
use ehr_courier::domain::delivery::Fence;
use ehr_courier::face::{self, health};
use ehr_courier::pipeline::Worker;
use ehr_courier::pipeline::heartbeat::Part;
use ehr_courier::store::memory::MemoryStore;
use serde_json::Value;
use tokio::time::Instant;

/// A worker that holds its one connection for a day.
fn worker() -> Worker {
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
    let worker = app::compose(&config, Arc::new(MemoryStore::default()), clock).unwrap();
    for connection in worker.connections.values() {
        connection.hold(Fence(1), Instant::now(), Duration::from_hours(24));
    }
    worker.watch.heartbeats.start();
    worker
}

fn report(worker: &Worker) -> Value {
    serde_json::to_value(health::report(worker, false, face::Reload::None)).unwrap()
}

/// Everything turns but one part, for longer than that may be silent.
async fn silenced(silent: Part) -> Value {
    let worker = worker();
    assert_eq!(report(&worker)["ready"], true);
    tokio::time::advance(silent.silence_max() + Duration::from_secs(1)).await;
    for part in Part::ALL.into_iter().filter(|part| *part != silent) {
        worker.watch.heartbeats.beat(part);
    }
    let said = report(&worker);
    assert_eq!(said["ready"], false, "{said}");
    let named = said["watchdogs"].as_object().unwrap();
    let failing: Vec<&str> = named
        .iter()
        .filter(|(_, state)| *state != "ok")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(failing, [silent.as_str()]);
    said
}

macro_rules! watchdogs {
    ($($test:ident: $part:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                let said = silenced(Part::$part).await;
                let reason = format!("silent for too long: {}", Part::$part.as_str());
                assert_eq!(said["reason"], reason);
            }
        )*
    };
}

watchdogs! {
    readyz_names_a_schedule_that_stands_still: Poll,
    readyz_names_a_fetch_stage_that_stands_still: Fetch,
    readyz_names_a_fan_out_stage_that_stands_still: FanOut,
    readyz_names_a_deliver_stage_that_stands_still: Deliver,
    readyz_names_a_sweep_that_stands_still: Sweep,
    readyz_names_leases_that_are_not_renewed: Lease,
    readyz_names_a_store_that_commits_nothing: Store,
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_trouble_is_named_and_the_worker_stays_ready() {
    let worker = worker();
    let feed = FeedName::parse("Patient").unwrap();
    for connection in worker.connections.values() {
        connection.note_failure(&feed, "the source answered 503".to_owned());
    }
    let said = report(&worker);
    assert_eq!(said["ready"], true);
    assert_eq!(
        said["troubles"]["mercy"]["Patient"]["reason"],
        "the source answered 503"
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_a_lease_is_not_ready() {
    let worker = worker();
    for connection in worker.connections.values() {
        connection.let_go();
    }
    let said = report(&worker);
    assert_eq!(said["ready"], false);
    assert_eq!(said["reason"], "no connection is leased by this worker");
}
