//! The exit codes that scripts rely on, and the demo.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::courier::{Courier, binary};

/// The first notification of the demo must be there by then.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_broken_configuration_exits_78() {
    let _turn = crate::turn();
    let courier = Courier::new(
        "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\ncolour = \"blue\"\n",
        Vec::new(),
    );
    assert_eq!(courier.run().ended(Duration::from_secs(15)).code(), Some(78));
    assert!(
        courier.log_tail().contains("courier.toml"),
        "{}",
        courier.log_tail()
    );
}

#[test]
fn a_usage_error_exits_64() {
    let _turn = crate::turn();
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["frobnicate"][..], &["run", "--no-such-option"], &[]] {
        let output = binary(folder.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn the_demo_shows_its_first_notification_soon_and_loses_nothing() {
    let _turn = crate::turn();
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut demo = binary(folder.path())
        .args(["demo", "--events", "20", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    let mut first = None;
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        first.get_or_insert_with(|| started.elapsed());
        lines.push(serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    }
    assert_eq!(demo.wait().unwrap().code(), Some(0), "{:?}", lines.last());
    let (summary, first) = (lines.last().unwrap(), first.unwrap());
    writeln!(
        std::io::stderr(),
        "demo: first notification after {first:?}, {summary}"
    )
    .unwrap();
    assert_eq!(summary["lost"], 0);
    assert_eq!(summary["duplicates"], 0);
    assert_eq!(summary["delivered"], 20);
    assert!(first < FIRST_WITHIN, "the first notification took {first:?}");
}
