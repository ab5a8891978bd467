//! A day's requests and the hours of a source, under simulated time: what a worker says of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::config::Environment;
use ehr_courier::face::{Reload, health};
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::store::memory::MemoryStore;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::composed;

const PER_DAY: u32 = 2_400;

#[derive(Debug)]
struct Simulated {
    began: Timestamp,
    origin: Instant,
}

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        self.began.checked_add(self.origin.elapsed()).unwrap()
    }
}

fn worker(limits: &str) -> Arc<Worker> {
    let text = format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\n\
         base_url = \"http://127.0.0.1:9/\"\nallow_networks = [\"127.0.0.0/8\"]\nlimits = {{ {limits} }}\n\
         [[connections.mercy.feeds]]\nrecord = \"Patient\"\n"
    );
    let config = composed::config(Path::new("courier.toml"), &text, &Environment::default());
    let clock = Simulated {
        began: "2026-11-20T02:30:00Z".parse().unwrap(),
        origin: Instant::now(),
    };
    Arc::new(app::compose(&config, Arc::new(MemoryStore::default()), Arc::new(clock)).unwrap())
}

fn report(worker: &Worker) -> health::Report {
    health::report(worker, false, Reload::None)
}

#[tokio::test(start_paused = true)]
async fn a_days_requests_are_never_exceeded_over_restarts_and_readyz_warns_before_they_end() {
    let mut sent = Vec::new();
    let mut warned_with = None;
    // As fast as the budget allows, for two days; the process starts anew now and then, at the worst moment: when all
    // that was saved up is gone.
    for restart_after in [30, 1, 5, 3, 9] {
        let worker = worker(&format!("requests_per_day = {PER_DAY}"));
        let connection = worker.connections.values().next().unwrap();
        let restarts_at = Instant::now() + Duration::from_hours(restart_after);
        while Instant::now() < restarts_at {
            let _leave = connection.budget.leave().await.unwrap();
            drop(connection.budget.request(None).await.unwrap());
            sent.push(Instant::now());
            if let Some(low) = report(&worker).low_budgets.get("mercy") {
                assert_eq!(low.per_day, PER_DAY);
                warned_with.get_or_insert(low.left);
            }
        }
    }
    let left = warned_with.expect("readyz warns");
    assert!(left > 0, "and does so before nothing is left");
    let most = usize::try_from(PER_DAY).unwrap();
    for window in sent.windows(most + 1) {
        let apart = window[most].duration_since(window[0]);
        assert!(apart >= Duration::from_hours(24), "{} within {apart:?}", most + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_modest_use_of_the_day_is_not_warned_of() {
    let worker = worker(&format!("requests_per_day = {PER_DAY}"));
    let connection = worker.connections.values().next().unwrap();
    for _ in 0..24 * 60 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(connection.budget.request(None).await.unwrap());
        assert!(report(&worker).low_budgets.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn in_maintenance_the_source_is_not_asked_nothing_fails_and_afterwards_it_is_asked_again() {
    let worker =
        worker("maintenance = [{ hours = \"02:00-04:00\", days = \"fri\", zone = \"UTC\" }], concurrent = 1");
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    tokio::time::sleep(Duration::from_mins(89)).await;
    let said = report(&worker);
    assert!(
        said.troubles.is_empty(),
        "nobody was asked, so nobody is missed: {said:?}"
    );
    assert_eq!(said.in_maintenance["mercy"], "2026-11-20T04:00:00Z");
    tokio::time::sleep(Duration::from_mins(3)).await;
    // Nobody listens there.
    let deadline = Instant::now() + Duration::from_mins(10);
    while report(&worker).troubles.is_empty() {
        assert!(Instant::now() < deadline, "it is asked again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(report(&worker).in_maintenance.is_empty());
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
