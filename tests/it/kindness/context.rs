//! References of one batch: each record that several changes refer to is read once.

use std::io::Write as _;
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
use ehr_courier::store::{EventQuery, EventRow, Store as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::front::{Arrival, Front};
use crate::composed;
use crate::composed::loopback;

/// What is taken in, and by which server.
#[derive(Clone, Copy)]
struct Ward {
    appointments: usize,
    patients: usize,
    /// How changes are found.
    detect: &'static str,
    /// What the server is like.
    dialect: &'static str,
}

/// Writes so many patients, and so many appointments of theirs.
fn book(ehr: &Ehr, patients: usize, appointments: usize) {
    for nth in 0..patients {
        ehr.write("Patient", &format!("kin-{nth}"), r#"{"active":true}"#)
            .unwrap();
    }
    for nth in 0..appointments {
        let patient = nth % patients;
        let body = format!(
            r#"{{"status":"booked","participant":[{{"actor":{{"reference":"Patient/kin-{patient}"}},"status":"accepted"}}]}}"#
        );
        ehr.write("Appointment", &format!("kin-{nth}"), &body).unwrap();
    }
}

/// Each appointment is told of with its own patient.
async fn told_with_their_own(store: &MemoryStore, events: &[EventRow], patients: usize) {
    for event in events {
        let whole = store.event(&event.id).await.unwrap().unwrap();
        let context = whole.event.context.unwrap();
        assert_eq!((context.included.len(), context.missing.len()), (1, 0));
        let nth: usize = event.key.id.as_str().trim_start_matches("kin-").parse().unwrap();
        let patient = std::str::from_utf8(context.included[0].bytes()).unwrap();
        assert!(
            patient.contains(&format!("\"kin-{}\"", nth % patients)),
            "{patient}"
        );
    }
}

/// All that is asked while so many appointments of so many patients are taken in, each with its patient.
async fn asked_by(ward: Ward) -> Vec<Arrival> {
    let Ward {
        appointments,
        patients,
        detect,
        dialect,
    } = ward;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (listener, url) = loopback().await;
    let options = Options {
        dialect: Dialect::default().with(dialect).unwrap(),
        ..Options::new(9, url.clone())
    };
    let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
    let front = Front::new(&ehr, |_| (0, 0));
    let text = format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{url}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         limits = {{ concurrent = 6 }}\n\
         [[connections.mercy.feeds]]\nrecord = \"Appointment\"\ndetect = \"{detect}\"\ninclude = [\"Appointment:patient\"]\n"
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
    let before = front.count();
    book(&ehr, patients, appointments);
    loop {
        let query = EventQuery {
            limit: 1_000,
            ..EventQuery::default()
        };
        let events = store.events(&query).await.unwrap();
        if events.len() >= appointments {
            told_with_their_own(&store, &events, patients).await;
            break;
        }
        assert!(Instant::now() < deadline, "{} events", events.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    front.arrivals().split_off(before)
}

/// What is asked for patients while twelve appointments of so many of them are taken in by their history.
async fn asked_for(patients: usize) -> Vec<Arrival> {
    let ward = Ward {
        appointments: 12,
        patients,
        detect: "history",
        dialect: "max_count=0",
    };
    let asked = asked_by(ward).await.into_iter();
    asked.filter(|arrival| arrival.path.contains("Patient")).collect()
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

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_refer_to_comes_with_their_page_where_the_source_includes_it() {
    let ward = Ward {
        appointments: 200,
        patients: 100,
        detect: "last-updated",
        dialect: "max_count=0",
    };
    let is_of_patients = |arrival: &&Arrival| arrival.path.contains("Patient");
    let of_a_thousand = |asked: &[Arrival]| asked.len() * 1_000 / ward.appointments;
    let with = asked_by(ward).await;
    assert_eq!(with.iter().filter(is_of_patients).count(), 0, "{with:?}");
    assert!(with.iter().any(|arrival| arrival.query.contains("_include=")));
    // Refused, it is asked for once, and the patients are read, as many at once as may be.
    let without = asked_by(Ward {
        dialect: "no_include",
        ..ward
    })
    .await;
    assert!(without.iter().filter(is_of_patients).count() >= ward.patients / 20);
    writeln!(
        std::io::stdout(),
        "context with the page: {} requests for 1,000 changes; read: {}",
        of_a_thousand(&with),
        of_a_thousand(&without)
    )
    .unwrap();
    assert!(with.len() < without.len());
}
