//! The Redis that the tests are given, and private ones that a test may stop, kill and starve.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue};
use tempfile::TempDir;

/// No wait of these tests is longer: it guards against hanging only.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// The Redis that `tests/run` starts or the environment names.
pub(super) fn given_address() -> String {
    let named = std::env::vars().find(|(name, _)| name == "COURIER_TEST_REDIS_URL");
    let (_, address) = named.expect("run tests/run, which starts a Redis, or set COURIER_TEST_REDIS_URL");
    address
}

/// A `redis-server` of this test alone. It keeps nothing on disk: what is restarted is empty.
pub(super) struct PrivateRedis {
    port: u16,
    child: Child,
    folder: TempDir,
}

impl PrivateRedis {
    pub(super) async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(port, &folder);
        let server = Self { port, child, folder };
        server.until_it_answers().await;
        server
    }

    pub(super) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Stops the process without a word: connections stay open, and nothing answers.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder);
        self.until_it_answers().await;
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = connect(&self.address()).await.unwrap();
        ask(&mut connection, words).await
    }

    /// Writes something, whether or not there is room for it.
    pub(super) async fn nudge(&self) {
        let mut connection = connect(&self.address()).await.unwrap();
        let mut command = redis::cmd("SET");
        let written: redis::RedisResult<()> = command.arg("nudge").arg(1).query_async(&mut connection).await;
        drop(written);
    }

    /// A number of `INFO`.
    pub(super) async fn info(&self, name: &str) -> u64 {
        let text: String = self.ask(&["INFO"]).await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    async fn until_it_answers(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while connect(&self.address()).await.is_err() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "redis-server does not answer"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is not installed: run tests/run, or apt-get install redis-server")
}

pub(super) async fn connect(address: &str) -> redis::RedisResult<MultiplexedConnection> {
    Client::open(address)?.get_multiplexed_async_connection().await
}

pub(super) async fn ask<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(connection).await.unwrap()
}
