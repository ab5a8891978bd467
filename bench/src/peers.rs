//! Beside Node-RED: a flow that polls the same source and posts each record to the same kind of sink.
//!
//! What the flow does not do stands in the README: it remembers nothing, signs nothing, keeps no order, tries nothing
//! again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::Failed;
use crate::courier;
use crate::report::median;
use crate::sink::{Seen, Sink};
use crate::source::{Pace, Source};

/// A flow that has sent nothing for so long will send no more.
const QUIET: Duration = Duration::from_secs(10);

/// How long Node-RED may take to start.
const START_MAX: Duration = Duration::from_mins(2);

/// Fast enough that the whole backlog is there when the first poll comes.
const AT_ONCE: u32 = 1_000_000;

/// Where Node-RED and the flow are.
pub(crate) struct Peer {
    /// Its program.
    pub(crate) node_red: PathBuf,
    /// The flow, beside its settings.
    pub(crate) flow: PathBuf,
}

/// What one side made of the backlog.
struct Outcome {
    per_second: f64,
    lost: usize,
    repeated: usize,
}

/// All runs.
pub(crate) struct Report {
    changes: u32,
    courier: Vec<Outcome>,
    node_red: Vec<Outcome>,
}

/// Lets both take the same backlog from a source to a webhook, in turns.
pub(crate) async fn run(peer: &Peer, changes: u32, pairs: usize) -> Result<Report, Failed> {
    let mut report = Report {
        changes,
        courier: Vec::new(),
        node_red: Vec::new(),
    };
    let pace = Pace {
        per_second: AT_ONCE,
        changes,
    };
    for _ in 0..pairs {
        let folder = tempfile::tempdir()?;
        let (cost, seen) = courier::pipeline(folder.path(), pace).await?;
        report.courier.push(outcome(changes, &seen, cost.seconds));
        report.node_red.push(node_red(peer, folder.path(), pace).await?);
    }
    Ok(report)
}

fn outcome(changes: u32, seen: &Seen, seconds: f64) -> Outcome {
    let arrived: BTreeSet<u64> = seen.arrivals.iter().map(|(change, _)| *change).collect();
    let lost = (changes as usize).saturating_sub(arrived.len());
    Outcome {
        per_second: (f64::from(changes) - f64::from(u32::try_from(lost).unwrap_or(changes))) / seconds,
        lost,
        repeated: seen.arrivals.len() - arrived.len(),
    }
}

/// From the first request to the source to the last arrival.
async fn node_red(peer: &Peer, folder: &Path, pace: Pace) -> Result<Outcome, Failed> {
    let (source, sink) = (
        Source::open(pace).await?,
        Sink::open(pace.changes as usize).await?,
    );
    let mut process = start(peer, folder, &source, &sink)?;
    if timeout(START_MAX, source.asked()).await.is_err() {
        return Err("Node-RED never asked the source".into());
    }
    let began = Instant::now();
    let mut arrived = 0;
    while timeout(QUIET, sink.full.cancelled()).await.is_err() {
        let now = sink.seen().arrivals.len();
        if now == arrived {
            break;
        }
        arrived = now;
    }
    if let Some(status) = process.0.try_wait()? {
        return Err(format!("Node-RED ended by itself: {status}").into());
    }
    // A repeat that is still under way is to be counted too.
    sleep(Duration::from_millis(200)).await;
    let seen = sink.seen();
    let last = seen.arrivals.iter().map(|(_, at)| *at).max().unwrap_or(began);
    Ok(outcome(
        pace.changes,
        &seen,
        last.duration_since(began).as_secs_f64(),
    ))
}

/// A process that is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(peer: &Peer, folder: &Path, source: &Source, sink: &Sink) -> Result<Process, Failed> {
    let user = folder.join("node-red");
    std::fs::create_dir_all(&user)?;
    // Node-RED writes beside its flow: it gets a copy.
    let flow = user.join("flow.json");
    std::fs::copy(&peer.flow, &flow)?;
    let settings = peer.flow.with_file_name("settings.js");
    let child = Command::new("node")
        .arg(&peer.node_red)
        .args(["--userDir".as_ref(), user.as_os_str()])
        .args(["--settings".as_ref(), settings.as_os_str()])
        .arg(&flow)
        .env(
            "COURIER_BENCH_SOURCE",
            format!("{}/Appointment?_count=200", source.url),
        )
        .env("COURIER_BENCH_SINK", sink.url.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Process(child))
}

impl Report {
    fn sides(&self) -> [(&'static str, &[Outcome]); 2] {
        [("courier", &self.courier), ("Node-RED", &self.node_red)]
    }

    /// As a table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "peers: {} changes from a source to a webhook, {} runs each, medians\n\n{:<12}{:>12}  {:<20}{}\n",
            self.changes,
            self.courier.len(),
            "",
            "changes/s",
            "lost in each run",
            "repeated"
        );
        for (name, outcomes) in self.sides() {
            let list = |of: fn(&Outcome) -> usize| {
                let texts: Vec<String> = outcomes.iter().map(|it| of(it).to_string()).collect();
                texts.join(", ")
            };
            // Writing to a String cannot fail; the result is consumed to say so.
            writeln!(
                out,
                "{name:<12}{:>12.0}  {:<20}{}",
                median(outcomes.iter().map(|it| it.per_second).collect()),
                list(|it| it.lost),
                list(|it| it.repeated)
            )
            .unwrap_or_default();
        }
        out.push_str("\nNode-RED remembers nothing, signs nothing, keeps no order and tries nothing again.");
        out
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        let side = |outcomes: &[Outcome]| {
            json!({
                "changes_per_second": median(outcomes.iter().map(|it| it.per_second).collect()),
                "lost": outcomes.iter().map(|it| it.lost).collect::<Vec<_>>(),
                "repeated": outcomes.iter().map(|it| it.repeated).collect::<Vec<_>>(),
            })
        };
        json!({
            "benchmark": "peers",
            "changes": self.changes,
            "courier": side(&self.courier),
            "node_red": side(&self.node_red),
        })
    }
}
