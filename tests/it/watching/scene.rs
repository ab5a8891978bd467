//! A source, a receiver and a collector of traces on loopback, and the binary between them.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Guards against hanging, nothing else.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// What the source answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Its record.
    Well,
    /// 401, with the credentials and the record in the body.
    Unauthorized,
    /// 500, with the record in the body.
    Broken,
    /// 200, with something that is no JSON.
    Malformed,
    /// A search that works, and 403 with the record in the body to who reads it.
    Unreadable,
}

/// What the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiver {
    /// 204.
    Accepts,
    /// 500, with the notification and its headers in the body and in a header.
    Echoes,
}

/// What was seen on loopback, and how it is answered.
pub(super) struct Seen {
    pub(super) source: Source,
    pub(super) receiver: Receiver,
    /// How many requests the source was asked.
    pub(super) asked: usize,
    /// The headers and body of each notification.
    pub(super) notified: Vec<(HeaderMap, Bytes)>,
    /// The spans that the collector was sent.
    pub(super) spans: Vec<Span>,
    /// What the collector was sent, as bytes.
    pub(super) exported: Vec<Bytes>,
    record: Value,
}

type Shared = Arc<Mutex<Seen>>;

/// The servers and the folder that the binary is run in.
pub(super) struct Scene {
    pub(super) folder: TempDir,
    pub(super) base: String,
    seen: Shared,
    // Dropping it ends the servers.
    _tasks: JoinSet<()>,
}

impl Scene {
    /// Starts the servers; the source has one record, an Appointment `a1`.
    pub(super) async fn raise(record: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen {
            source: Source::Well,
            receiver: Receiver::Accepts,
            asked: 0,
            notified: Vec::new(),
            spans: Vec::new(),
            exported: Vec::new(),
            record,
        }));
        let router = Router::new()
            .route("/fhir/Appointment", get(search))
            .route("/fhir/Appointment/a1", get(read))
            .route("/hook/{*path}", post(receive))
            .route("/v1/traces", post(collect))
            .with_state(Arc::clone(&seen));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            folder: TempDir::new().unwrap(),
            base,
            seen,
            _tasks: tasks,
        }
    }

    /// Looks at, or changes, what was seen and how it is answered.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    /// Waits until something was seen.
    pub(super) async fn until(&self, what: &str, mut seen: impl FnMut(&Seen) -> bool) {
        let waiting = async {
            while !self.with(|now| seen(now)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "never seen: {what}");
    }

    /// Writes `courier.toml`: `telemetry` is a whole section, `feed` further keys of the feed.
    pub(super) fn configure(&self, telemetry: &str, feed: &str, retry: &str) {
        let base = &self.base;
        let text = format!(
            r#"
[state]
url = "sqlite://courier.db"
key = "none"

[http]
listen = "127.0.0.1:0"

{telemetry}

[connections.mercy]
base_url = "{base}/fhir"
every = "1s"
auth = {{ type = "bearer", token = "env:SOURCE_TOKEN" }}
allow_networks = ["127.0.0.0/8"]

[[connections.mercy.feeds]]
record = "Appointment"
name = "appointments"
start = "beginning"
{feed}

[destinations.hook]
type = "webhook"
url = "{base}/hook/a-path"
secret = "env:HOOK_SECRET"
allow_networks = ["127.0.0.0/8"]
retry = {retry}

[[subscriptions]]
name = "everything"
from = "beginning"
content = "full-resource"
destination = "hook"
"#
        );
        std::fs::write(self.folder.path().join("courier.toml"), text).unwrap();
    }

    /// Starts a command; both its outputs go to files in the folder.
    pub(super) fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
        let file = |name: &str| {
            let path = self.folder.path().join(name);
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
        };
        let mut command = binary(self.folder.path(), arguments);
        command.envs(environment.iter().copied());
        command.stdout(file("stdout.log")).stderr(file("stderr.log"));
        command.spawn().unwrap()
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = binary(self.folder.path(), arguments);
        command.envs(environment.iter().copied());
        timeout(PATIENCE, command.output()).await.unwrap().unwrap()
    }

    /// Where the service that was started last listens, once its log says so.
    async fn listening(&self) -> String {
        loop {
            let log = self.log();
            let named = log.rsplit("listen").next().filter(|_| log.contains("listen"));
            let address = named.and_then(|rest| rest.split("127.0.0.1:").nth(1));
            let port: String = address
                .unwrap_or_default()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            if !port.is_empty() {
                return format!("127.0.0.1:{port}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What was written to standard error by what was started.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr.log")).unwrap_or_default()
    }

    /// Asks the service's listener, whose port its log names, for a page.
    pub(super) async fn page(&self, path: &str) -> String {
        let address = timeout(PATIENCE, self.listening()).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }
}

/// The binary, in a folder, without the surroundings' settings.
pub(super) fn binary(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ehr-courier"));
    command
        .current_dir(folder)
        .env_clear()
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Asks a service to end, and waits for that.
pub(super) async fn terminate(mut service: Child) {
    let pid = service.id().unwrap().to_string();
    let asked = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(asked.unwrap().success());
    let ended = timeout(PATIENCE, service.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

async fn search(State(seen): State<Shared>, headers: HeaderMap) -> Response {
    let mut seen = seen.lock().unwrap();
    seen.asked += 1;
    let entry = json!({ "resource": seen.record, "search": { "mode": "match" } });
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "link": [], "entry": [entry] });
    match seen.source {
        Source::Well | Source::Unreadable => fhir(StatusCode::OK, bundle.to_string()),
        Source::Unauthorized => fhir(StatusCode::UNAUTHORIZED, format!("{headers:?} {bundle}")),
        Source::Broken => fhir(StatusCode::INTERNAL_SERVER_ERROR, bundle.to_string()),
        Source::Malformed => fhir(StatusCode::OK, format!("{{\"entry\": [{} oh", seen.record)),
    }
}

async fn read(State(seen): State<Shared>) -> Response {
    let mut seen = seen.lock().unwrap();
    seen.asked += 1;
    let status = match seen.source {
        Source::Unreadable => StatusCode::FORBIDDEN,
        Source::Well | Source::Unauthorized | Source::Broken | Source::Malformed => StatusCode::OK,
    };
    fhir(status, seen.record.to_string())
}

fn fhir(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/fhir+json")], body).into_response()
}

async fn receive(State(seen): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut seen = seen.lock().unwrap();
    seen.notified.push((headers.clone(), body.clone()));
    match seen.receiver {
        Receiver::Accepts => StatusCode::NO_CONTENT.into_response(),
        Receiver::Echoes => {
            let mut said = format!("{headers:?} ").into_bytes();
            said.extend_from_slice(&body);
            let name = seen.record["subject"]["display"]
                .as_str()
                .unwrap_or("-")
                .to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, [("x-reason", name)], said).into_response()
        }
    }
}

async fn collect(State(seen): State<Shared>, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let scopes = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans);
    let mut seen = seen.lock().unwrap();
    seen.exported.push(body);
    seen.spans.extend(scopes.flat_map(|scope| scope.spans));
    StatusCode::OK
}
