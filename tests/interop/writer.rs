//! The writer: several clients that create, update, update again at once, delete, and, where the server takes them, post
//! transactions of 200 entries; it notes every version id that the server answered with.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use url::Url;

use crate::book::{Book, Record};

const CLIENTS: u64 = 4;
/// Records of each client that there are before anything else is written.
const FIRST: usize = 50;
const TRANSACTION_ENTRIES: usize = 200;
/// Turns between two transactions.
const TURNS: usize = 60;
/// Updates of one record, one straight after the other.
const BURST: usize = 4;
/// The longest pause between two turns.
const PAUSE_MS: u64 = 40;

const TYPES: [&str; 3] = ["Patient", "Observation", "Appointment"];

/// What is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// At least so many changes.
    pub(crate) changes: usize,
    /// Whether transactions are posted.
    pub(crate) transactions: bool,
    /// So many of a hundred turns delete a record.
    pub(crate) deletes: u32,
    /// Which writes are drawn.
    pub(crate) seed: u64,
}

/// Writes until there are as many changes as planned.
pub(crate) async fn write(base: Url, plan: Plan) -> Book {
    let book = Arc::new(Mutex::new(Book::default()));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let draws = StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000).wrapping_add(number));
        let http = Client::builder().no_proxy().build().unwrap();
        let client = Writer {
            base: base.clone(),
            http,
            plan,
            draws,
            book: Arc::clone(&book),
            own: Vec::new(),
            drawn: 0,
            number,
        };
        clients.spawn(client.work());
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let book = book.lock().unwrap();
    book.clone()
}

/// One client, with records of its own: nobody else changes them.
struct Writer {
    base: Url,
    http: Client,
    plan: Plan,
    draws: StdRng,
    book: Arc<Mutex<Book>>,
    own: Vec<Record>,
    drawn: u64,
    number: u64,
}

impl Writer {
    async fn work(mut self) {
        while self.own.len() < FIRST {
            self.create().await;
        }
        while self.book.lock().unwrap().changes() < self.plan.changes {
            if self.plan.transactions {
                self.transaction().await;
            }
            for _ in 0..TURNS {
                self.turn().await;
                tokio::time::sleep(Duration::from_millis(self.draws.random_range(0..=PAUSE_MS))).await;
            }
        }
    }

    async fn turn(&mut self) {
        let record = self.own.choose(&mut self.draws).cloned().unwrap();
        let draw = self.draws.random_range(0..100);
        match draw {
            _ if draw < self.plan.deletes => self.delete(&record).await,
            ..25 => self.create().await,
            25..70 => self.update(&record).await,
            _ => {
                for _ in 0..BURST {
                    self.update(&record).await;
                }
            }
        }
    }

    async fn create(&mut self) {
        let record_type = *TYPES.choose(&mut self.draws).unwrap();
        let body = self.body(record_type, None);
        let response = self.send(Method::POST, record_type, Some(&body)).await;
        let version = version(&response);
        let record = body_of(response).await;
        let record = (record_type.to_owned(), record["id"].as_str().unwrap().to_owned());
        self.note(&record, &version);
        self.own.push(record);
    }

    async fn update(&mut self, record: &Record) {
        let body = self.body(&record.0, Some(&record.1));
        let response = self
            .send(Method::PUT, &format!("{}/{}", record.0, record.1), Some(&body))
            .await;
        self.note(record, &version(&response));
    }

    async fn delete(&mut self, record: &Record) {
        self.send(Method::DELETE, &format!("{}/{}", record.0, record.1), None)
            .await;
        self.own.retain(|own| own != record);
        self.book.lock().unwrap().deleted(record);
    }

    /// Half of its entries create a record under an id of our choice or the server's, half update one.
    async fn transaction(&mut self) {
        let updates = self.own.len().min(TRANSACTION_ENTRIES / 2);
        let mut entries = Vec::new();
        for record in self.own.clone().sample(&mut self.draws, updates) {
            entries.push(self.entry("PUT", &record.0, Some(&record.1)));
        }
        while entries.len() < TRANSACTION_ENTRIES {
            let record_type = *TYPES.choose(&mut self.draws).unwrap();
            if entries.len().is_multiple_of(2) {
                entries.push(self.entry("POST", record_type, None));
            } else {
                self.drawn += 1;
                let id = format!("synthetic-{}-{}", self.number, self.drawn);
                entries.push(self.entry("PUT", record_type, Some(&id)));
            }
        }
        let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries});
        let response = self.send(Method::POST, "", Some(&bundle)).await;
        let answer = body_of(response).await;
        let answered = answer["entry"].as_array().unwrap();
        assert_eq!(answered.len(), TRANSACTION_ENTRIES);
        for entry in answered {
            let status = entry["response"]["status"].as_str().unwrap();
            assert!(
                status.starts_with('2'),
                "the server refused an entry with {status}"
            );
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let resource = &entry["resource"];
            let record = (text(&resource["resourceType"]), text(&resource["id"]));
            let etag = untagged(&text(&entry["response"]["etag"])).to_owned();
            assert_eq!(Some(etag.as_str()), resource["meta"]["versionId"].as_str());
            self.note(&record, &etag);
            if !self.own.contains(&record) {
                self.own.push(record);
            }
        }
        self.book.lock().unwrap().transactions += 1;
    }

    fn entry(&mut self, method: &str, record_type: &str, id: Option<&str>) -> Value {
        let url = id.map_or_else(|| record_type.to_owned(), |id| format!("{record_type}/{id}"));
        json!({"resource": self.body(record_type, id), "request": {"method": method, "url": url}})
    }

    fn body(&mut self, record_type: &str, id: Option<&str>) -> Value {
        let number: u32 = self.draws.random();
        let mut body = match record_type {
            "Patient" => {
                json!({"active": true, "name": [{"family": "Synthetic", "given": [number.to_string()]}]})
            }
            "Observation" => json!({
                "status": "final", "code": {"text": "synthetic"},
                "valueQuantity": {"value": f64::from(number % 1_000) / 10.0, "unit": "kg"}
            }),
            _ => json!({
                "status": if number.is_multiple_of(2) { "booked" } else { "arrived" },
                "minutesDuration": 5 + number % 55, "participant": [{"status": "accepted"}]
            }),
        };
        body["resourceType"] = record_type.into();
        if let Some(id) = id {
            body["id"] = id.into();
        }
        body
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let mut request = self.http.request(method, self.base.join(path).unwrap());
        if let Some(body) = body {
            request = request
                .header("content-type", "application/fhir+json")
                .body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        assert!(status.is_success(), "the server refused a write with {status}");
        response
    }

    fn note(&self, record: &Record, version: &str) {
        self.book.lock().unwrap().wrote(record, version);
    }
}

/// The version that the answer's `ETag` names.
fn version(response: &Response) -> String {
    untagged(response.headers()["etag"].to_str().unwrap()).to_owned()
}

fn untagged(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

async fn body_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}
