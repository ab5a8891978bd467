//! A roster's searches go together where the source takes batches: how many requests a cycle costs, and that nothing is
//! lost by it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::pipeline;
use ehr_courier::sandbox::{Dialect, Ehr, Options};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{EventQuery, Store as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::front::{Arrival, Front};
use crate::composed;
use crate::composed::loopback;

const PATIENTS: usize = 40;

/// Each patient has so many appointments.
const APPOINTMENTS: usize = 3;

/// What a roster cost until its first cycle was over.
#[derive(Debug, PartialEq, Eq)]
struct Cycle {
    batches: usize,
    searches: usize,
}

/// Writes patients with their appointments; answers the ids of these.
fn book(ehr: &Ehr) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for patient in 0..PATIENTS {
        ehr.write("Patient", &format!("kin-{patient}"), r#"{"active":true}"#)
            .unwrap();
        for nth in 0..APPOINTMENTS {
            let id = format!("kin-{patient}-{nth}");
            let body = format!(
                r#"{{"status":"booked","participant":[{{"actor":{{"reference":"Patient/kin-{patient}"}},"status":"accepted"}}]}}"#
            );
            ehr.write("Appointment", &id, &body).unwrap();
            written.insert(id);
        }
    }
    written
}

async fn first_cycle(dialect: &str, page_rows: usize) -> Cycle {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (listener, url) = loopback().await;
    let options = Options {
        page_size_max: page_rows,
        dialect: Dialect::default()
            .with("needs_patient")
            .unwrap()
            .with(dialect)
            .unwrap(),
        ..Options::new(9, url.clone())
    };
    let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
    let written = book(&ehr);
    let folder = tempfile::tempdir().unwrap();
    let roster: Vec<String> = (0..PATIENTS).map(|patient| format!("kin-{patient}")).collect();
    std::fs::write(folder.path().join("roster.txt"), roster.join("\n")).unwrap();
    let front = Front::new(&ehr, |_| (0, 0));
    let text = format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{url}\"\nevery = \"1h\"\nallow_networks = [\"127.0.0.0/8\"]\nroster = \"file:roster.txt\"\n\
         [[connections.mercy.feeds]]\nrecord = \"Appointment\"\ndetect = \"roster\"\nstart = \"beginning\"\n"
    );
    let path = folder.path().join("courier.toml");
    let config = composed::config(Path::new(&path), &text, &Environment::default());
    let store = MemoryStore::default();
    let worker = app::compose(&config, Arc::new(store.clone()), Arc::clone(&clock)).unwrap();
    let worker = Arc::new(worker);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    front.serve(listener, &mut tasks, &stop);
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    let connection = worker.connections.values().next().unwrap();
    let feed = &connection.feeds[0].spec.name;
    let deadline = Instant::now() + Duration::from_mins(1);
    while connection.condition(feed).unwrap().succeeded_at.is_none() {
        assert!(Instant::now() < deadline, "the first cycle");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let query = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    let events = store.events(&query).await.unwrap();
    let told: BTreeSet<String> = events.iter().map(|event| event.key.id.to_string()).collect();
    assert_eq!(told, written, "nothing is lost, and nothing made up");
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let arrivals = front.arrivals();
    let counted = |counts: fn(&Arrival) -> bool| arrivals.iter().filter(|one| counts(one)).count();
    let cycle = Cycle {
        batches: counted(|one| one.method == http::Method::POST),
        searches: counted(|one| one.path.ends_with("Appointment")),
    };
    assert_eq!(cycle.batches + cycle.searches, arrivals.len(), "{arrivals:?}");
    cycle
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rosters_cycle_costs_a_twentieth_of_its_searches_where_the_source_takes_batches() {
    let together = first_cycle("max_count=0", 100).await;
    let expected = Cycle {
        batches: PATIENTS / 20,
        searches: 0,
    };
    assert_eq!(together, expected);
    // A source without batches is tried once, and searched patient by patient.
    let single = first_cycle("no_batch", 100).await;
    let expected = Cycle {
        batches: 1,
        searches: PATIENTS,
    };
    assert_eq!(single, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_further_pages_of_a_batchs_searches_are_followed_one_by_one() {
    let cycle = first_cycle("max_count=0", APPOINTMENTS - 1).await;
    let expected = Cycle {
        batches: PATIENTS / 20,
        searches: PATIENTS,
    };
    assert_eq!(cycle, expected);
}
