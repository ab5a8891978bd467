//! The FHIR server's process: helios-hfs on a spare loopback port with a fresh data folder.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

/// It is up in half a second; a loaded machine may need longer.
const START: Duration = Duration::from_secs(30);

/// A running server; it ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it answers.
    pub(crate) url: Url,
}

impl Server {
    /// Starts it; its links name `seen_as`, the address that its clients know.
    pub(crate) fn start(seen_as: &Url) -> Self {
        let binary = binary();
        assert!(
            binary.exists(),
            "{} is not there: tests/interop/run installs it",
            binary.display()
        );
        let folder = tempfile::tempdir().unwrap();
        let port = spare_port();
        let log = File::create(folder.path().join("server.log")).unwrap();
        let child = Command::new(&binary)
            .current_dir(folder.path())
            .env("HFS_SERVER_HOST", "127.0.0.1")
            .env("HFS_SERVER_PORT", port.to_string())
            .env("HFS_BASE_URL", seen_as.as_str().trim_end_matches('/'))
            .env("DATABASE_URL", folder.path().join("fhir.db"))
            .env("HFS_DATA_DIR", folder.path().join("data"))
            .env("HFS_UI_ENABLED", "false")
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

#[expect(
    clippy::disallowed_methods,
    reason = "the script says where the server was installed"
)]
fn binary() -> PathBuf {
    let installed = || {
        let cache = std::env::var("COURIER_INTEROP_CACHE")
            .unwrap_or_else(|_| format!("{}/.cache/ehr-courier", std::env::var("HOME").unwrap()));
        format!("{cache}/helios-hfs-0.2.7/bin/hfs")
    };
    PathBuf::from(std::env::var("INTEROP_SERVER").unwrap_or_else(|_| installed()))
}

fn spare_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
