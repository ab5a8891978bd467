//! Sixty feeds, reads of single records, tokens and statements, on a budget of five requests a second.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::app;
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::pipeline;
use ehr_courier::sandbox::{Access, Ehr, Options, SmartClient};
use ehr_courier::store::memory::MemoryStore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::front::Front;
use crate::composed;
use crate::composed::loopback;
use crate::smart::elliptic;

const FEEDS: usize = 60;
const PER_SECOND: usize = 5;
const LASTS: Duration = Duration::from_secs(30);

fn configuration(base_url: &Url) -> String {
    let mut text = format!(
        "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
         base_url = \"{base_url}\"\nevery = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         limits = {{ requests_per_second = {PER_SECOND}, concurrent = 6 }}\n\
         auth = {{ type = \"smart-backend-services\", client_id = \"courier-client\", key = \"file:client.pem\" }}\n"
    );
    let types = ["Patient", "Appointment", "Practitioner", "Encounter"];
    for (nth, record_type) in types.into_iter().cycle().take(FEEDS).enumerate() {
        // Some have something to bring from before they begin, and read each record by itself.
        let (record_type, reads) = if nth % 20 == 0 {
            (
                "Observation",
                "fetch = \"read\"\ndetect = \"last-updated\"\nstart = \"beginning\"\n",
            )
        } else {
            (record_type, "")
        };
        write!(
            text,
            "[[connections.mercy.feeds]]\nname = \"f{nth}\"\nrecord = \"{record_type}\"\n{reads}"
        )
        .unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_at_the_source_sees_more_requests_than_the_budget_and_every_feed_gets_its_turn() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (listener, url) = loopback().await;
    let pair = elliptic();
    let client = SmartClient::new("courier-client", &pair.public, Duration::from_mins(5)).unwrap();
    let options = Options {
        auth: Access::Smart(client),
        ..Options::new(5, url.clone())
    };
    let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
    // A backfill gives way while so many feeds wait for leave: these are live.
    for number in 0..20 {
        ehr.write(
            "Observation",
            &format!("synthetic-{number}"),
            r#"{"status":"final"}"#,
        )
        .unwrap();
    }
    // The network takes up to a fifth of a second before and after, never twice the same.
    let front = Front::new(&ehr, |nth| (nth * 37 % 200, nth * 53 % 200));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("client.pem"), &pair.private).unwrap();
    let path = folder.path().join("courier.toml");
    let config = composed::config(Path::new(&path), &configuration(&url), &Environment::default());
    let worker = app::compose(&config, Arc::new(MemoryStore::default()), Arc::clone(&clock)).unwrap();
    let worker = Arc::new(worker);

    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    front.serve(listener, &mut tasks, &stop);
    let running = pipeline::run(Arc::clone(&worker), stop.clone());
    tasks.spawn(async move { running.await.unwrap() });
    tokio::time::sleep(LASTS / 2).await;
    // The token goes: it is asked for again, within the same budget.
    ehr.revoke_tokens();
    tokio::time::sleep(LASTS / 2).await;
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }

    let mut arrivals = front.arrivals();
    arrivals.sort_by_key(|arrival| arrival.at);
    for window in arrivals.windows(PER_SECOND + 1) {
        let apart = window[PER_SECOND].at.duration_since(window[0].at);
        assert!(
            apart >= Duration::from_secs(1),
            "six within {apart:?}: {window:?}"
        );
    }
    let lasted = arrivals.last().unwrap().at.duration_since(arrivals[0].at);
    let least = usize::try_from(3 * lasted.as_secs()).unwrap();
    assert!(arrivals.len() >= least, "{} in {lasted:?}", arrivals.len());
    let to = |part: &str| {
        let named =
            |arrival: &&super::front::Arrival| arrival.path.contains(part) || arrival.query.contains(part);
        arrivals.iter().filter(named).count()
    };
    assert!(
        to("smart-configuration") >= 1 && to("metadata") >= 1 && to("token") >= 2,
        "{arrivals:?}"
    );
    assert!(to("_id=") >= 1, "records are read too");
    let connection = worker.connections.values().next().unwrap();
    let polled = connection.feeds.iter().filter(|feed| {
        let condition = connection.condition(&feed.spec.name).unwrap();
        condition.succeeded_at.is_some()
    });
    assert_eq!(polled.count(), FEEDS, "each feed had its turn");
}
