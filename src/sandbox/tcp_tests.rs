//! The sandbox over TCP, as a real client meets it.

use std::sync::Arc;

use reqwest::{Client, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::tests::HandClock;
use super::{Ehr, Options, Pace, serve};

struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    async fn get(&self, path: &str) -> Response {
        self.client
            .get(format!("{}/{path}", self.base))
            .send()
            .await
            .unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.text().await.unwrap()).unwrap()
    }

    async fn post(&self, path: &str, text: &'static str) -> String {
        let answer = self
            .client
            .post(format!("{}/{path}", self.base))
            .body(text)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    async fn put_faults(&self, text: &'static str) -> u16 {
        let put = self
            .client
            .put(format!("{}/faults", self.base))
            .header("content-type", "application/json");
        put.body(text).send().await.unwrap().status().as_u16()
    }
}

async fn check<F: Future<Output = ()>>(asked: impl FnOnce(Caller) -> F) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let ehr = Arc::new(Ehr::new(
        Options::new(12, base.parse().unwrap()),
        HandClock::new(),
    ));
    let stop = CancellationToken::new();
    let served = serve(listener, ehr, Pace::per_second(0.0), stop.clone());
    let asked = asked(Caller {
        client: Client::builder().no_proxy().build().unwrap(),
        base,
    });
    let (result, ()) = tokio::join!(served, async {
        asked.await;
        stop.cancel();
    });
    result.unwrap();
}

#[tokio::test]
async fn records_are_searched_read_written_and_deleted_over_tcp() {
    check(|caller| async move {
        assert_eq!(caller.json("metadata").await["fhirVersion"], "4.0.1");
        let patients = caller.get("Patient?_count=1000").await;
        assert_eq!(patients.headers()["date"], "Sun, 01 Mar 2026 12:00:00 GMT");
        let bundle: Value = serde_json::from_str(&patients.text().await.unwrap()).unwrap();
        let shown = caller.json("ledger").await.as_array().unwrap().len();
        assert_eq!(shown, bundle["entry"].as_array().unwrap().len());
        let stepped: Value = serde_json::from_str(&caller.post("step?n=5", "").await).unwrap();
        assert!(stepped.as_array().unwrap().len() >= 5);
        caller.post("write/Task/t", r#"{"n":1.10}"#).await;
        assert!(caller.get("Task/t").await.text().await.unwrap().contains("1.10"));
        let deleted = caller
            .client
            .delete(format!("{}/write/Task/t", caller.base))
            .send()
            .await
            .unwrap();
        assert_eq!(deleted.status(), 200);
        assert_eq!(caller.get("Task/t").await.status(), 410);
    })
    .await;
}

#[tokio::test]
async fn faults_are_switched_at_run_time_and_break_transfers() {
    check(|caller| async move {
        assert_eq!(caller.put_faults(r#"{"truncated":{"share":2}}"#).await, 400);
        assert_eq!(caller.put_faults(r#"{"truncated":{"share":1}}"#).await, 200);
        assert!(caller.get("Patient").await.bytes().await.is_err());
        assert_eq!(
            caller
                .put_faults(r#"{"truncated":{"share":0},"gzip_bomb":{"share":1}}"#)
                .await,
            200
        );
        // The test's client decodes gzip by itself and then hides the header.
        let mut bomb = caller.get("Patient").await;
        let mut bytes = 0;
        while let Some(chunk) = bomb.chunk().await.unwrap() {
            bytes += chunk.len();
        }
        assert!(bytes > 256 << 20);
        assert_eq!(caller.json("ledger").await.as_array().unwrap().len(), 0);
        let strikes = caller.json("strikes").await;
        assert_eq!(
            (&strikes["truncated"], &strikes["gzip_bomb"]),
            (&Value::from(1), &Value::from(1))
        );
    })
    .await;
}

#[tokio::test]
async fn the_clinic_goes_on_at_its_pace() {
    check(|caller| async move {
        let total = |bundle: Value| bundle["total"].as_u64().unwrap();
        let before = total(caller.json("Appointment").await);
        let put = caller
            .client
            .put(format!("{}/pace", caller.base))
            .header("content-type", "application/json");
        assert_eq!(
            put.body(r#"{"per_second":2000}"#).send().await.unwrap().status(),
            200
        );
        while total(caller.json("Appointment").await) <= before {}
    })
    .await;
}
