//! References of one batch: each record that several changes refer to is read once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::pipeline;
use ehr_courier::sandbox::{Ehr, Options};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{EventQuery, Store as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::front::{Arrival, Front};
use crate::composed;
use crate::composed::loopback;

const APPOINTMENTS: usize = 12;

/// What is asked for patients while twelve appointments of so many of them are taken in.
async fn asked_for(patients: usize) -> Vec<Arrival> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (listener, url) = loopback().await;
    let ehr = Arc::new(Ehr::new(Options::new(9, url.clone()), Arc::clone(&clock)));
    let front = Front::new(&ehr, |_| (0, 0));
    let text = format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{url}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         limits = {{ concurrent = 6 }}\n\
         [[connections.mercy.feeds]]\nrecord = \"Appointment\"\ninclude = [\"Appointment:patient\"]\n"
    );
    let config = composed::config(Path::new("courier.toml"), &text, &Environment::default());
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
        assert!(Instant::now() < deadline, "the first poll");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for nth in 0..patients {
        ehr.write("Patient", &format!("kin-{nth}"), r#"{"active":true}"#)
            .unwrap();
    }
    for nth in 0..APPOINTMENTS {
        let patient = nth % patients;
        let body = format!(
            r#"{{"status":"booked","participant":[{{"actor":{{"reference":"Patient/kin-{patient}"}},"status":"accepted"}}]}}"#
        );
        ehr.write("Appointment", &format!("kin-{nth}"), &body).unwrap();
    }
    loop {
        let query = EventQuery {
            limit: 1_000,
            ..EventQuery::default()
        };
        let events = store.events(&query).await.unwrap();
        if events.len() >= APPOINTMENTS {
            break;
        }
        assert!(Instant::now() < deadline, "{} events", events.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let of_patients = |arrival: &Arrival| arrival.path.contains("Patient");
    front.arrivals().into_iter().filter(of_patients).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_changes_of_a_batch_refer_to_is_read_once() {
    let asked = asked_for(1).await;
    // Two batches at the most: a poll may come between the writes.
    assert!((1..=2).contains(&asked.len()), "{asked:?}");
    assert!(asked.iter().all(|one| one.path.ends_with("/kin-0")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_changes_of_a_batch_refer_to_is_read_together() {
    let asked = asked_for(4).await;
    assert!(asked.len() <= 3, "{asked:?}");
    let together = asked.iter().filter(|one| one.query.starts_with("_id="));
    assert!(together.count() >= 1, "{asked:?}");
}
