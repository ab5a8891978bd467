//! The FHIR servers' processes, on a spare loopback port and without any record.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

/// They are up in half a second to three; a loaded machine may need longer.
const START: Duration = Duration::from_mins(1);

/// A server that nobody here wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    /// helios-hfs 0.2.7 with SQLite: history, deletes, links.
    Helios,
    /// Medplum's `FhirRouter` 4.5.2 over its `MemoryRepository`: neither history nor links nor tombstones.
    Medplum,
}

/// A running server; it ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it answers.
    pub(crate) url: Url,
}

impl Product {
    /// The name, for a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Helios => "helios-hfs 0.2.7",
            Self::Medplum => "medplum fhir-router 4.5.2",
        }
    }

    /// The courier's profile of it.
    pub(crate) fn profile(self) -> &'static str {
        match self {
            Self::Helios => "helios",
            Self::Medplum => "medplum",
        }
    }

    fn command(self, port: u16, seen_as: Option<&Url>, folder: &tempfile::TempDir) -> Command {
        let installed = installed(self);
        assert!(
            installed.exists(),
            "{} is not there: tests/interop/run installs it",
            installed.display()
        );
        match self {
            Self::Helios => {
                let own = Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
                let seen_as = seen_as.unwrap_or(&own).as_str().trim_end_matches('/');
                let mut command = Command::new(installed);
                command
                    .current_dir(folder.path())
                    .env("HFS_SERVER_HOST", "127.0.0.1")
                    .env("HFS_SERVER_PORT", port.to_string())
                    .env("HFS_BASE_URL", seen_as)
                    .env("DATABASE_URL", folder.path().join("fhir.db"))
                    .env("HFS_DATA_DIR", folder.path().join("data"))
                    .env("HFS_UI_ENABLED", "false");
                command
            }
            Self::Medplum => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/medplum/server.mjs");
                let mut command = Command::new("node");
                command.current_dir(installed).args([script, &port.to_string()]);
                command
            }
        }
    }
}

impl Server {
    /// Starts it. Links of a server that has some name `seen_as`, the address that its clients know, else its own.
    pub(crate) fn start(product: Product, seen_as: Option<&Url>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = spare_port();
        let log = File::create(folder.path().join("server.log")).unwrap();
        let child = product
            .command(port, seen_as, &folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let mut server = Self { child, folder, url };
        server.wait_until_up();
        server
    }

    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + START;
        let port = self.url.port().unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
                panic!("the server did not start ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// The program or folder that the script installed.
#[expect(
    clippy::disallowed_methods,
    reason = "the script says where the servers were installed"
)]
fn installed(product: Product) -> PathBuf {
    let name = match product {
        Product::Helios => "INTEROP_HELIOS",
        Product::Medplum => "INTEROP_MEDPLUM",
    };
    let said = std::env::var(name);
    PathBuf::from(said.unwrap_or_else(|_| panic!("{name} is not set: run the tests by tests/interop/run")))
}

fn spare_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
