//! A sandbox over HTTP, a folder with a configuration, and what is made of them: one connection, or the real binary.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectorError, PollRequest};
use ehr_courier::app::{self, Clients};
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::pipeline::connection::Connection;
use ehr_courier::pipeline::watch::Labels;
use ehr_courier::sandbox::{self, Access, Ehr, Options, Pace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

const PATIENCE: Duration = Duration::from_mins(1);

/// A sandbox, and the folder of the courier that polls it.
pub(super) struct Scene {
    pub(super) ehr: Arc<Ehr>,
    pub(super) base_url: Url,
    pub(super) folder: TempDir,
    _stop: tokio_util::sync::DropGuard,
    _tasks: JoinSet<()>,
}

impl Scene {
    pub(super) async fn raise(access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Url::parse(&format!("http://{}/fhir", listener.local_addr().unwrap())).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = Options {
            auth: access,
            ..Options::new(3, base_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, clock));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = sandbox::serve(listener, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
        tasks.spawn(async move { served.await.unwrap() });
        Self {
            ehr,
            base_url,
            folder: tempfile::tempdir().unwrap(),
            _stop: stop.drop_guard(),
            _tasks: tasks,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A configuration whose connection has this `auth`, and whose store this `key`.
    pub(super) fn text(&self, auth: &str, key: &str) -> String {
        format!(
            "[state]\nurl = \"sqlite://courier.db\"\nkey = \"{key}\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [connections.mercy]\nprofile = \"sandbox\"\nbase_url = \"{}\"\nevery = \"1s\"\n\
             allow_networks = [\"127.0.0.0/8\"]\nauth = {auth}\n\
             [[connections.mercy.feeds]]\nrecord = \"Patient\"\nstart = \"beginning\"\n",
            self.base_url
        )
    }

    /// The connection of a configuration, as the service makes it at each start.
    pub(super) fn connection(&self, text: &str) -> Connection {
        self.connection_with(text, &Environment::default())
    }

    pub(super) fn connection_with(&self, text: &str, environment: &Environment) -> Connection {
        connection(&self.path("courier.toml"), text, environment)
    }
}

/// The one connection of a configuration that stands at a path.
pub(super) fn connection(path: &Path, text: &str, environment: &Environment) -> Connection {
    let config = crate::composed::config(path, text, environment);
    let entry = config.connections.values().next().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    app::connection(entry, &clock, &Labels::default(), &mut Clients::default()).unwrap()
}

/// Polls once; answers how many records were shown.
pub(super) async fn poll(connection: &Connection) -> Result<usize, ConnectorError> {
    let request = PollRequest {
        feed: &connection.feeds[0].spec,
        cursor: None,
        resume: None,
    };
    let page = connection.connector.poll(request).await?;
    Ok(page.changes.len())
}

/// Runs a command of the real binary in a folder, its log in a file there.
pub(super) fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], log: &str) -> Child {
    let log = std::fs::File::create(folder.join(log)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ehr-courier"))
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

pub(super) fn signal(name: &str, child: &Child) {
    let pid = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(sent.unwrap().success());
}

/// The lines of a log that are JSON.
pub(super) fn lines(folder: &Path, log: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(log)).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Waits until `holds`.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a plain GET is answered, head and body; nothing where nobody listens.
pub(super) async fn get(address: &str, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
