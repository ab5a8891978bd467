//! Many connections whose sources have nothing new: what it costs to watch them, and merely to keep them.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Failed;
use crate::meter::{cpu_seconds, rss_max_kib};
use crate::report::count;
use crate::service::{Service, configure};
use crate::sink::Sink;
use crate::source::{Pace, Source};

/// How long processor time is counted: six renewals of every lease, and one look at what waits.
const WINDOW: Duration = Duration::from_mins(1);

/// How long a service may take to ask every source once.
const FIRST_ROUND_MAX: Duration = Duration::from_mins(10);

/// The most memory, and the most of one core between polls.
const RSS_MAX_MIB: f64 = 400.0;
const CORE_MAX: f64 = 0.05;

/// What one pace of polling costs.
struct Cost {
    every: Duration,
    /// The share of one core over the window.
    core: f64,
    requests: u64,
    rss_max_mib: f64,
}

/// What all of it came to.
pub(crate) struct Report {
    connections: u32,
    costs: Vec<Cost>,
}

/// Runs the service with so many connections, polled each minute, then each day: in the window of the second run
/// next to nothing falls due.
pub(crate) async fn run(connections: u32) -> Result<Report, Failed> {
    let mut costs = Vec::new();
    for every in [Duration::from_mins(1), Duration::from_hours(24)] {
        costs.push(measure(connections, every).await?);
    }
    Ok(Report { connections, costs })
}

async fn measure(connections: u32, every: Duration) -> Result<Cost, Failed> {
    let folder = tempfile::tempdir()?;
    let nothing = Pace {
        per_second: 0,
        changes: 0,
    };
    let (source, sink) = (Source::open(nothing).await?, Sink::open(1).await?);
    let names: Vec<String> = (0..connections).map(|n| format!("clinic-{n:05}")).collect();
    configure(folder.path(), &names, every, &source.url, &sink.url)?;
    let service = Service::start(folder.path())?;
    let deadline = Instant::now() + FIRST_ROUND_MAX;
    while source.paths_asked() < names.len() {
        if Instant::now() > deadline {
            let asked = source.paths_asked();
            return Err(format!("only {asked} of {connections} sources were asked").into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    let process = service.process();
    let (cpu, requests) = (cpu_seconds(&process)?, source.requests());
    sleep(WINDOW).await;
    Ok(Cost {
        every,
        core: (cpu_seconds(&process)? - cpu) / WINDOW.as_secs_f64(),
        requests: source.requests() - requests,
        rss_max_mib: count(rss_max_kib(&process)?) / 1024.0,
    })
}

impl Report {
    /// As a table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "idle: {} connections, {} s each\n\n{:<20}{:>12}{:>12}{:>14}\n",
            self.connections,
            WINDOW.as_secs(),
            "polled every",
            "core, %",
            "requests",
            "max rss, MiB"
        );
        for cost in &self.costs {
            // Writing to a String cannot fail; the result is consumed to say so.
            writeln!(
                out,
                "{:<20}{:>12.1}{:>12}{:>14.1}",
                format!("{} s", cost.every.as_secs()),
                cost.core * 100.0,
                cost.requests,
                cost.rss_max_mib
            )
            .unwrap_or_default();
        }
        write!(
            out,
            "\nat most {RSS_MAX_MIB} MiB, and {:.0} % of one core between polls",
            CORE_MAX * 100.0
        )
        .unwrap_or_default();
        out
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        let row = |cost: &Cost| {
            json!({
                "every_seconds": cost.every.as_secs(),
                "core": cost.core,
                "requests": cost.requests,
                "rss_max_mib": cost.rss_max_mib,
            })
        };
        let costs: Vec<Value> = self.costs.iter().map(row).collect();
        json!({ "benchmark": "idle", "connections": self.connections, "costs": costs })
    }
}
