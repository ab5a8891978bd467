//! The real binary: its folder, its configuration, its lives and its ends.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::receiver::SECRET;

/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What the surroundings tell a courier: names and values of variables.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// The folder, configuration and environment of one courier.
pub(crate) struct Courier {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl Courier {
    /// Writes the configuration into a folder of its own.
    pub(crate) fn new(configuration: &str, environment: Environment) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut courier = Self {
            folder,
            environment: Vec::new(),
        };
        courier.configure(configuration, environment);
        courier
    }

    /// Gives the next life, and every command, another configuration.
    pub(crate) fn configure(&mut self, configuration: &str, environment: Environment) {
        std::fs::write(self.folder.path().join("courier.toml"), configuration).unwrap();
        self.environment = environment;
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("courier.db")
    }

    /// How many rows a table of the SQLite file has; the courier may be using it.
    pub(crate) fn count(&self, table: &str) -> i64 {
        let file = rusqlite::Connection::open(self.database()).unwrap();
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap()
    }

    /// Starts `run`; its log is appended to a file in the folder.
    pub(crate) fn run(&self) -> Life {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut command = self.command(&["run", "-c", "courier.toml"]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Life {
            child,
            began: Instant::now(),
        }
    }

    /// Runs a command to its end and reads the JSON lines that it printed.
    pub(crate) fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.command(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The last lines of the log, for a failure's message.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("courier.log")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.folder.path());
        command.args(arguments).envs(self.environment.iter().cloned());
        command
    }
}

impl Drop for Courier {
    /// Keeps the folder of a test that failed, for a look at what went wrong, and says where it is.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            let folder = self.folder.path().display();
            writeln!(std::io::stderr(), "the courier's files: {folder}").unwrap();
        }
    }
}

/// The binary, in a folder, without the surroundings' settings.
pub(crate) fn binary(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ehr-courier"));
    command
        .current_dir(folder)
        .env_clear()
        .env("HOOK_SECRET", SECRET)
        .env("TMPDIR", folder);
    command.stdin(Stdio::null());
    command
}

/// One life of the service.
pub(crate) struct Life {
    child: Child,
    /// When it was started.
    pub(crate) began: Instant,
}

impl Life {
    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.code(),
            None,
            "it ended by itself before it was killed: {status}"
        );
    }

    /// Asks it to end, as an init system does, and waits for that.
    pub(crate) fn terminate(self, patience: Duration) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        (self.ended(patience), asked.elapsed())
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(LOOK);
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        panic!("it did not end within {patience:?}");
    }

    /// Whether it still lives.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Life {
    /// Leaves no process behind when a test fails.
    fn drop(&mut self) {
        if self.lives() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
