//! SIGHUP on the real binary: what was added, changed and removed comes into force without a restart, nothing is lost
//! or sent twice, and a configuration that is refused changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::Clock;
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::receiver::{self, Received};
use ehr_courier::sandbox::{self, Ehr, Options, Pace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::composed::loopback;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_mins(2);

struct Scene {
    folder: TempDir,
    one: Arc<Ehr>,
    two: Arc<Ehr>,
    two_url: Url,
    hook: Url,
    received: mpsc::Receiver<Received>,
    /// How often each version arrived, by the path that its subscription posts to.
    seen: BTreeMap<String, u32>,
    courier: Child,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

fn connection(name: &str, url: &Url) -> String {
    format!(
        "[connections.{name}]\nprofile = \"sandbox\"\nbase_url = \"{url}\"\nevery = \"1s\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n[[connections.{name}.feeds]]\nrecord = \"Patient\"\n"
    )
}

fn destination(name: &str, hook: &Url) -> String {
    format!(
        "[destinations.{name}]\ntype = \"webhook\"\nurl = \"{hook}{name}\"\nsecret = \"file:secret\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n"
    )
}

fn subscription(name: &str, connection: &str, destination: &str, from: &str) -> String {
    format!(
        "[[subscriptions]]\nname = \"{name}\"\nconnections = [\"{connection}\"]\nfrom = \"{from}\"\n\
         destination = \"{destination}\"\n"
    )
}

impl Scene {
    async fn raise() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ((a, one_url), (b, two_url), (c, hook)) = (loopback().await, loopback().await, loopback().await);
        let ehr = |seed, url: &Url| Arc::new(Ehr::new(Options::new(seed, url.clone()), Arc::clone(&clock)));
        let (one, two) = (ehr(1, &one_url), ehr(2, &two_url));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (listener, ehr) in [(a, &one), (b, &two)] {
            let served = sandbox::serve(listener, Arc::clone(ehr), Pace::per_second(0.0), stop.clone());
            tasks.spawn(async move { served.await.unwrap() });
        }
        let (sink, received) = mpsc::channel(1024);
        let keys = vec![SigningKey::parse(SECRET).unwrap()];
        let receiving = receiver::serve(c, keys, clock, sink, stop.clone());
        tasks.spawn(async move { receiving.await.unwrap() });

        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("courier.d")).unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        std::fs::write(folder.path().join("courier.d/secret"), SECRET).unwrap();
        let main = format!(
            "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n[http]\nlisten = \"127.0.0.1:0\"\n{}{}{}",
            connection("one", &one_url),
            destination("hook", &hook),
            subscription("ones", "one", "hook", "now"),
        );
        std::fs::write(folder.path().join("courier.toml"), main).unwrap();
        let courier = start(folder.path());
        Self {
            folder,
            one,
            two,
            two_url,
            hook,
            received,
            seen: BTreeMap::new(),
            courier,
            stop,
            _tasks: tasks,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("log")).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn hang_up(&self) {
        signal("HUP", &self.courier);
    }

    /// What `/readyz` answers, once the service listens.
    async fn ready(&self) -> Option<Value> {
        let log = self.log();
        let running = log
            .iter()
            .find(|line| line["message"] == "ehr-courier is running")?;
        let mut stream = TcpStream::connect(running["listen"].as_str()?).await.ok()?;
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// Waits until `holds`, taking in what arrives meanwhile.
    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(
                Instant::now() < deadline,
                "gave up waiting until {what}: {:#?}",
                self.log()
            );
            let wait = tokio::time::timeout(Duration::from_millis(50), self.received.recv());
            if let Ok(Some(received)) = wait.await {
                let event: Value = serde_json::from_slice(&received.body).unwrap();
                let (source, subject) = (
                    event["source"].as_str().unwrap(),
                    event["subject"].as_str().unwrap(),
                );
                let version = event["recordversion"].as_str().unwrap();
                *self
                    .seen
                    .entry(format!("{source} {subject} {version}"))
                    .or_default() += 1;
            }
        }
    }

    async fn until_reload_is(&mut self, state: &str, problems: u64) {
        self.until(&format!("the reload is {state}"), async |scene| {
            let Some(report) = scene.ready().await else {
                return false;
            };
            assert_eq!(
                report["ready"], true,
                "a reload leaves the service ready: {report}"
            );
            let reload = &report["reload"];
            reload["state"] == state && reload["problems"].as_u64().unwrap_or_default() == problems
        })
        .await;
    }

    fn times(&self, connection: &str, id: &str) -> u32 {
        let version = format!("/connections/{connection} Patient/{id} 1");
        self.seen.get(&version).copied().unwrap_or_default()
    }
}

fn start(folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ehr-courier"))
        .current_dir(folder)
        .env_clear()
        .args(["run", "--log", "info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn signal(name: &str, child: &Child) {
    let pid = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(sent.unwrap().success());
}

fn write(ehr: &Ehr, id: &str) {
    ehr.write("Patient", id, r#"{"active":true}"#).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one scenario, told in its order")]
async fn sighup_brings_courier_d_into_force_and_a_refused_reload_changes_nothing() {
    let mut scene = Scene::raise().await;
    scene
        .until("the first connection was polled", async |s| {
            s.log().iter().any(|line| line["message"] == "lease acquired")
                && s.ready().await.is_some_and(|report| report["ready"] == true)
        })
        .await;
    // A change counts as new once the feed has begun: it is written again until one arrives.
    let mut first = 0;
    scene
        .until("the first connection delivers", async |s| {
            first += 1;
            write(&s.one, &format!("first-{first}"));
            !s.seen.is_empty()
        })
        .await;
    write(&scene.one, "a");
    scene.until("a arrived", async |s| s.times("one", "a") == 1).await;

    // Added: a connection, a destination, and a subscription that begins with the log that is retained.
    let added = format!(
        "{}{}{}{}",
        connection("two", &scene.two_url),
        destination("late", &scene.hook),
        subscription("twos", "two", "hook", "now"),
        subscription("late", "one", "late", "beginning"),
    );
    std::fs::write(scene.path("courier.d/two.toml"), &added).unwrap();
    scene.hang_up();
    scene.until_reload_is("applied", 0).await;
    scene
        .until("the late subscription got what was there", async |s| {
            s.times("one", "a") == 2
        })
        .await;
    let mut second = 0;
    scene
        .until("the second connection delivers", async |s| {
            second += 1;
            write(&s.two, &format!("second-{second}"));
            s.seen
                .keys()
                .any(|version| version.starts_with("/connections/two"))
        })
        .await;

    // Refused: a section that belongs elsewhere, a duplicate, an unset secret; and a key that needs a restart.
    let broken = format!(
        "[state]\nretention = \"1d\"\n{}{}",
        connection("two", &scene.two_url),
        "[destinations.bad]\ntype = \"webhook\"\nurl = \"https://hooks.example.com/\"\nsecret = \"env:NOT_SET\"\n"
    );
    std::fs::write(scene.path("courier.d/zz.toml"), broken).unwrap();
    scene.hang_up();
    scene.until_reload_is("refused", 3).await;
    let log = scene.log();
    let refusal = log.iter().rfind(|line| line["level"] == "ERROR").unwrap();
    let reason = refusal["reason"].as_str().unwrap();
    for expected in [
        "courier.d/zz.toml:1:2: state: not in courier.d",
        "courier.d/zz.toml:3:14: connections.two: also in courier.d/two.toml:1",
        "courier.d/zz.toml:13:10: destinations.bad.secret: the variable NOT_SET is not set",
    ] {
        assert!(reason.contains(expected), "{expected}\n{reason}");
    }
    write(&scene.one, "b");
    scene
        .until("the configuration before is still in force", async |s| {
            s.times("one", "b") == 2
        })
        .await;
    std::fs::remove_file(scene.path("courier.d/zz.toml")).unwrap();
    let main = std::fs::read_to_string(scene.path("courier.toml")).unwrap();
    let other = main.replace("key = \"none\"\n", "key = \"none\"\nretention = \"2d\"\n");
    std::fs::write(scene.path("courier.toml"), other).unwrap();
    scene.hang_up();
    scene.until_reload_is("refused", 1).await;
    let log = scene.log();
    let refusal = log.iter().rfind(|line| line["level"] == "ERROR").unwrap();
    let reason = refusal["reason"].as_str().unwrap();
    let expected = "courier.toml:4:1: state.retention: changed, which needs a restart";
    assert!(reason.contains(expected), "{reason}");

    // Removed, and added again: said, and the cursor goes on.
    std::fs::write(scene.path("courier.toml"), main).unwrap();
    std::fs::remove_file(scene.path("courier.d/two.toml")).unwrap();
    scene.hang_up();
    scene.until_reload_is("applied", 0).await;
    write(&scene.two, "meanwhile");
    std::fs::write(scene.path("courier.d/two.toml"), &added).unwrap();
    scene.hang_up();
    scene
        .until("what changed meanwhile arrived", async |s| {
            s.times("two", "meanwhile") == 1
        })
        .await;
    let said: Vec<String> = scene
        .log()
        .iter()
        .filter_map(|line| Some(line["message"].as_str()?.to_owned()))
        .collect();
    for expected in [
        "a feed of this name was followed before: it goes on at its old cursor",
        "a subscription of this name was in force before: its numbers go on",
    ] {
        assert!(said.iter().any(|line| line == expected), "{expected}: {said:#?}");
    }

    write(&scene.one, "c");
    scene
        .until("c arrived at both", async |s| s.times("one", "c") == 2)
        .await;
    signal("TERM", &scene.courier);
    let ended = tokio::time::timeout(PATIENCE, scene.courier.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.code(), Some(0));
    for (version, times) in &scene.seen {
        let most = if version.starts_with("/connections/one") {
            2
        } else {
            1
        };
        assert!(*times <= most, "{version} came {times} times");
    }
    scene.stop.cancel();
}
