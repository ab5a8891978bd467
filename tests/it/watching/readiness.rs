//! `/readyz`: which watchdog fails, by name.

use std::sync::Arc;
use std::time::Duration;

use courier_sdk::FeedName;
use ehr_courier::domain::delivery::Fence;
use ehr_courier::face::{self, health};
use ehr_courier::pipeline::heartbeat::Part;
use ehr_courier::pipeline::{self, Worker};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::composed;

/// A worker that holds its one connection for a day.
fn worker() -> Worker {
    let worker = composed::worker();
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
async fn a_worker_with_nothing_to_do_stays_ready() {
    let worker = Arc::new(composed::worker());
    for connection in worker.connections.values() {
        // Its source does not exist: nobody is asked.
        connection.budget.pause(Duration::from_hours(1));
    }
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(pipeline::run(Arc::clone(&worker), stop.clone()));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let said = report(&worker);
        assert_eq!(said["ready"], true, "{said}");
    }
    stop.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
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
