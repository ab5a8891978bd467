//! The service itself, in a process of its own: this program run again with the courier's own command line.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use url::Url;

use crate::Failed;

/// Signs what is sent; nobody verifies it here.
const SECRET: &str = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A courier at work; it is killed when it is dropped.
pub(crate) struct Service {
    child: Child,
}

impl Service {
    /// Starts the service on the `courier.toml` of a folder.
    pub(crate) fn start(folder: &Path) -> Result<Self, Failed> {
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--log", "error", "-c"])
            .arg(folder.join("courier.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    /// Its process, as `/proc` names it.
    pub(crate) fn process(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that has ended by itself was noticed by what it no longer did.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes a configuration: connections to one source, each with one feed, and one webhook.
pub(crate) fn configure(
    folder: &Path,
    connections: &[String],
    every: Duration,
    source: &Url,
    sink: &Url,
) -> Result<(), Failed> {
    fs::write(folder.join("secret"), SECRET)?;
    let mut text = format!(
        "[state]\nurl = \"sqlite://bench.db\"\nkey = \"none\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n\
         [destinations.hook]\ntype = \"webhook\"\nurl = \"{sink}\"\nsecret = \"file:secret\"\n\
         allow_networks = [\"127.0.0.0/8\"]\n\n\
         [[subscriptions]]\nname = \"everything\"\nfrom = \"beginning\"\ncontent = \"full-resource\"\n\
         destination = \"hook\"\n"
    );
    for name in connections {
        write!(
            text,
            "\n[connections.{name}]\nprofile = \"sandbox\"\nbase_url = \"{source}/{name}\"\nevery = \"{}s\"\n\
             allow_networks = [\"127.0.0.0/8\"]\nfeeds = [{{ record = \"Appointment\", name = \"appointments\" }}]\n",
            every.as_secs()
        )?;
    }
    fs::write(folder.join("courier.toml"), text)?;
    Ok(())
}
