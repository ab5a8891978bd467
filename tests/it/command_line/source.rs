//! A scripted source and receiver on loopback, with a configuration that names both.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, SECRET, binary};

pub(super) const TOKEN: &str = "synthetic-token";

/// What the source shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pages {
    /// One page with one record.
    One,
    /// One page with a record of before the instant asked for, one without stamp, and one after.
    Early,
    /// Pages without end.
    Endless,
    /// One page, then status 500.
    Broken,
}

#[derive(Deserialize)]
struct Asked {
    page: Option<u64>,
}

#[derive(Clone)]
struct Scripted {
    pages: Pages,
    base: String,
    delivered: Arc<Notify>,
}

/// The two servers and the folder that the binary is run in.
pub(super) struct Scene {
    pub(super) folder: TempDir,
    delivered: Arc<Notify>,
    // Dropping it ends the servers.
    _tasks: JoinSet<()>,
}

impl Scene {
    /// Starts the servers and writes a configuration; `more` is added to the connection.
    pub(super) async fn raise(pages: Pages, more: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let delivered = Arc::new(Notify::new());
        let scripted = Scripted {
            pages,
            base: base.clone(),
            delivered: Arc::clone(&delivered),
        };
        let router = Router::new()
            .route("/fhir/Appointment", get(search))
            .route("/hook", post(receive))
            .with_state(scripted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let folder = TempDir::new().unwrap();
        let text = format!(
            r#"
[state]
url = "sqlite://courier.db"
key = "none"

[http]
listen = "127.0.0.1:0"

[connections.mercy]
base_url = "{base}/fhir"
every = "1s"
auth = {{ type = "bearer", token = "env:SOURCE_TOKEN" }}
allow_networks = ["127.0.0.0/8"]
{more}
[[connections.mercy.feeds]]
record = "Appointment"
name = "appointments"
start = "beginning"

[destinations.hook]
type = "webhook"
url = "{base}/hook"
secret = "env:HOOK_SECRET"
allow_networks = ["127.0.0.0/8"]

[[subscriptions]]
name = "everything"
from = "beginning"
destination = "hook"
"#
        );
        std::fs::write(folder.path().join("courier.toml"), text).unwrap();
        Self {
            folder,
            delivered,
            _tasks: tasks,
        }
    }

    /// Runs the service until its first notification has arrived and is noted as done.
    pub(super) async fn deliver_one(&self) {
        let mut command = binary(self.folder.path(), &["run"]);
        command.env("SOURCE_TOKEN", TOKEN).env("HOOK_SECRET", SECRET);
        let mut service = command.spawn().unwrap();
        timeout(PATIENCE, self.delivered.notified()).await.unwrap();
        let pid = service.id().unwrap().to_string();
        let asked = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.unwrap().success());
        assert!(
            timeout(PATIENCE, service.wait())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
    }
}

async fn receive(State(scripted): State<Scripted>) -> StatusCode {
    scripted.delivered.notify_one();
    StatusCode::NO_CONTENT
}

async fn search(State(scripted): State<Scripted>, Query(asked): Query<Asked>) -> Response {
    let page = asked.page.unwrap_or(1);
    let second = 10 + page;
    let record = appointment(&format!("a{second}"), Some(second));
    let (records, more) = match scripted.pages {
        Pages::One => (vec![record], false),
        Pages::Early => (
            vec![
                appointment("early", Some(5)),
                appointment("unstamped", None),
                record,
            ],
            false,
        ),
        Pages::Broken if page > 1 => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Pages::Endless | Pages::Broken => (vec![record], true),
    };
    let entries: Vec<Value> = records
        .into_iter()
        .map(|record| json!({ "resource": record, "search": { "mode": "match" } }))
        .collect();
    let next = format!("{}/fhir/Appointment?page={}", scripted.base, page + 1);
    let links = if more {
        json!([{ "relation": "next", "url": next }])
    } else {
        json!([])
    };
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries });
    ([("content-type", "application/fhir+json")], bundle.to_string()).into_response()
}

/// A synthetic appointment, last updated so many seconds into the year.
fn appointment(id: &str, second: Option<u64>) -> Value {
    let mut meta = json!({ "versionId": "1" });
    if let Some(second) = second {
        meta["lastUpdated"] = format!("2026-01-01T00:00:{second:02}.000Z").into();
    }
    json!({ "resourceType": "Appointment", "id": id, "status": "booked", "meta": meta })
}
