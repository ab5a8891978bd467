//! A RabbitMQ of one test's own: started on spare ports of loopback, killed, started again over the same files.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use url::Url;

use super::PATIENCE;

/// Where Debian keeps the programs themselves: the wrappers in the path change the user and write to /var.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// How long one login may take before it is tried anew.
const LOGIN: Duration = Duration::from_secs(5);

/// A node, and the port mapper that it would leave behind if it started one itself. Both end with this value.
pub(super) struct Node {
    home: TempDir,
    ports: [u16; 3],
    mapper: Child,
    broker: Option<Child>,
}

impl Node {
    /// Makes a node with an empty home and starts it.
    pub(super) async fn start() -> Self {
        let program = Path::new(PROGRAMS).join("rabbitmq-server");
        assert!(
            program.exists(),
            "install RabbitMQ: apt-get install rabbitmq-server"
        );
        let home = TempDir::new().unwrap();
        let ports = spare_ports().await;
        fs::write(home.path().join("plugins"), "[].\n").unwrap();
        fs::write(home.path().join("environment"), "").unwrap();
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 1GB\n",
            ports[0]
        );
        fs::write(home.path().join("rabbitmq.conf"), settings).unwrap();
        let mapper = Command::new("epmd")
            .args(["-port", &ports[2].to_string(), "-address", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut node = Self {
            home,
            ports,
            mapper,
            broker: None,
        };
        node.restart().await;
        node
    }

    /// The node's address, with the user that a fresh node has.
    pub(super) fn url(&self) -> Url {
        Url::parse(&format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports[0])).unwrap()
    }

    /// Ends the node as a power cut would: SIGKILL, to its own process.
    pub(super) async fn kill(&mut self) {
        let mut broker = self.broker.take().unwrap();
        broker.kill().await.unwrap();
    }

    /// Starts the node over the files it has, and waits until it takes logins.
    pub(super) async fn restart(&mut self) {
        let log = fs::File::create(self.home.path().join("log")).unwrap();
        let broker = self
            .command("rabbitmq-server")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.broker = Some(broker);
        let answers = async {
            // An attempt amid the node's start can hang for ever: lapin bounds none.
            let url = self.url();
            let login = || Connection::connect(url.as_str(), ConnectionProperties::default());
            while !matches!(timeout(LOGIN, login()).await, Ok(Ok(_))) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(PATIENCE, answers).await.is_err() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            panic!("RabbitMQ does not start:\n{log}");
        }
    }

    /// Runs a control command against the node.
    pub(super) async fn control(&self, arguments: &[&str]) {
        let output = self
            .command("rabbitmqctl")
            .args(["--node", &self.name()])
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
    }

    fn name(&self) -> String {
        format!("courier-test-{}@localhost", self.ports[0])
    }

    fn command(&self, program: &str) -> Command {
        let home = self.home.path();
        let [_, distribution, mapper] = self.ports;
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            // The script becomes the node, so that the process id is the node's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("HOME", home)
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP", home.join("crash"))
            .env("RABBITMQ_CONF_ENV_FILE", home.join("environment"))
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", home.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home)
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
            )
            .kill_on_drop(true);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Asked for here, done by the system: what is left of them is nobody's to wait for.
        if let Some(broker) = &mut self.broker {
            broker.start_kill().ok();
        }
        self.mapper.start_kill().ok();
    }
}

/// Three ports that are free now: for AMQP, for the node's own protocol and for the port mapper.
async fn spare_ports() -> [u16; 3] {
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let ports: Vec<u16> = held
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    ports.try_into().unwrap()
}
