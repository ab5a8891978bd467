//! A sandbox EHR, a receiver that verifies, a configuration that names both, and the binary.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::{Clock, ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::composed::loopback;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

/// One notification as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) id: String,
    pub(super) subject: String,
    pub(super) sequence: u64,
}

pub(super) struct Ward {
    pub(super) ehr: Arc<Ehr>,
    pub(super) folder: TempDir,
    received: mpsc::Receiver<Received>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Ward {
    /// Starts the two ends and writes a configuration that polls so often (`1s`, `1h`).
    pub(super) async fn raise(every: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (source, source_url) = loopback().await;
        let (hook, hook_url) = loopback().await;
        let options = Options {
            patients: 0,
            ..Options::new(7, source_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
        let (sink, received) = mpsc::channel(1_000);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (served, ends) = (Arc::clone(&ehr), stop.clone());
        tasks.spawn(async move {
            sandbox::serve(source, served, Pace::per_second(0.0), ends)
                .await
                .unwrap();
        });
        let (keys, ends) = (vec![SigningKey::parse(SECRET).unwrap()], stop.clone());
        tasks.spawn(async move { receiver::serve(hook, keys, clock, sink, ends).await.unwrap() });
        let folder = TempDir::new().unwrap();
        let text = format!(
            "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [connections.mercy]\nprofile = \"sandbox\"\nbase_url = \"{source_url}\"\nevery = \"{every}\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n[[connections.mercy.feeds]]\nrecord = \"Location\"\n\
             name = \"rooms\"\nstart = \"beginning\"\n\
             [destinations.hook]\ntype = \"webhook\"\nurl = \"{hook_url}\"\nsecret = \"env:HOOK_SECRET\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n[[subscriptions]]\nname = \"all\"\nfrom = \"beginning\"\n\
             destination = \"hook\"\n"
        );
        std::fs::write(folder.path().join("courier.toml"), text).unwrap();
        Self {
            ehr,
            folder,
            received,
            stop,
            _tasks: tasks,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a version of a room; answers the id of its event.
    pub(super) fn write(&self, room: &str, name: &str) -> String {
        let text = format!("{{\"name\": \"{name}\"}}");
        let written = self.ehr.write("Location", room, &text).unwrap();
        let key = RecordKey {
            record_type: RecordType::parse("Location").unwrap(),
            id: RecordId::parse(room).unwrap(),
        };
        let version = VersionKey::of_version_id(&written.version_id);
        EventId::derive(&ConnectionName::parse("mercy").unwrap(), &key, &version).to_string()
    }

    /// Waits for the next notification.
    pub(super) async fn next(&mut self) -> Arrived {
        let received = timeout(PATIENCE, self.received.recv()).await.unwrap().unwrap();
        assert!(received.verified);
        let body: Value = serde_json::from_slice(&received.body).unwrap();
        Arrived {
            id: received.event_id.to_string(),
            subject: body["subject"].as_str().unwrap().to_owned(),
            sequence: body["sequence"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// Whether a notification came that nobody waited for.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.received.try_recv().is_err()
    }

    /// Starts the service and waits until its control socket is there.
    pub(super) async fn start(&self) -> Child {
        let socket = self.path("courier.db.sock");
        let before = std::fs::metadata(&socket).ok().map(|it| inode(&it));
        let mut command = self.command(&["run"]);
        let mut service = command.spawn().unwrap();
        timeout(PATIENCE, async {
            while std::fs::metadata(&socket).ok().map(|it| inode(&it)) == before {
                assert!(service.try_wait().unwrap().is_none(), "the service ended");
                sleep(LOOK).await;
            }
        })
        .await
        .unwrap();
        service
    }

    /// SIGTERM, and the orderly end.
    pub(super) async fn end(&self, mut service: Child) {
        let pid = service.id().unwrap().to_string();
        let asked = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.unwrap().success());
        let status = timeout(PATIENCE, service.wait()).await.unwrap().unwrap();
        assert!(status.success());
    }

    pub(super) async fn ask(&self, arguments: &[&str]) -> Output {
        timeout(PATIENCE, self.command(arguments).output())
            .await
            .unwrap()
            .unwrap()
    }

    /// The JSON lines of a command that must succeed.
    pub(super) async fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.ask(&all).await;
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        let printed = String::from_utf8(output.stdout).unwrap();
        printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asks until the first row has a value.
    pub(super) async fn until(&self, arguments: &[&str], name: &str, value: impl Into<Value>) {
        let value = value.into();
        timeout(PATIENCE, async {
            while self.rows(arguments).await.first().map(|row| &row[name]) != Some(&value) {
                sleep(LOOK).await;
            }
        })
        .await
        .unwrap();
    }

    /// Asks until the first row has any value.
    pub(super) async fn until_some(&self, arguments: &[&str], name: &str) {
        timeout(PATIENCE, async {
            while self
                .rows(arguments)
                .await
                .first()
                .is_none_or(|row| row[name].is_null())
            {
                sleep(LOOK).await;
            }
        })
        .await
        .unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ehr-courier"));
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOOK_SECRET", SECRET)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// The permission bits of a file.
pub(super) fn mode(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&std::fs::symlink_metadata(path).unwrap()) & 0o777
}
