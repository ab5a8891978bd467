//! The courier against its floor: how much of what the machine can do is left when nothing may be lost.
//!
//! Each pair of runs is made close together and compared with itself, because a machine's speed changes from minute
//! to minute: the ratio is the result, the absolute figures stand beside it for information.

mod backlog;
mod courier;
mod floor;
mod idle;
mod meter;
mod peers;
mod report;
mod restart;
mod service;
mod sink;
mod source;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use serde_json::Value;

use report::{Kind, Pair, Report};
use source::Pace;

/// Whatever went wrong: a benchmark only says so and ends.
type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Measures EHR Courier against a bare loop that does the same requests and fsyncs")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Prints one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Drains notifications that wait in a fresh SQLite store to one webhook.
    Drain {
        /// How many notifications wait.
        #[arg(long, default_value_t = 20_000)]
        records: u32,
        /// How many pairs of runs are made.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
    },
    /// Polls a source each second that changes at a steady pace, and delivers its changes to one webhook.
    Pipeline {
        /// Changes a second.
        #[arg(long, default_value_t = 500)]
        pace: u32,
        /// How long the source changes, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// How many pairs of runs are made.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
    },
    /// Watches sources that have nothing new.
    Idle {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
    },
    /// Takes a backlog from a source to a webhook, beside Node-RED; `bench/peers/run` installs that.
    Peers {
        /// Node-RED's program.
        #[arg(long)]
        node_red: PathBuf,
        /// The flow.
        #[arg(long)]
        flow: PathBuf,
        /// How many changes wait at the source.
        #[arg(long, default_value_t = 20_000)]
        changes: u32,
        /// How many runs each side makes.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
    },
    /// Starts on a store with much in it.
    Restart {
        /// How many events are in it.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
        /// How many starts are made, and as many on an empty store.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
    },
}

fn main() -> ExitCode {
    // The service that `idle` and `restart` measure is this program, asked to be the courier.
    if std::env::args().nth(1).is_some_and(|word| word == "run") {
        return ehr_courier::cli::main();
    }
    let Arguments { what, json } = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(measure(what)))
        .and_then(|result| print(&result, json));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            writeln!(std::io::stderr(), "bench: {error}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

/// What a benchmark came to, as a table and as JSON.
type Figures = (String, Value);

async fn measure(what: What) -> Result<Figures, Failed> {
    match what {
        What::Drain { records, pairs } => {
            let report = drain(records.max(1), pairs.max(1)).await?;
            Ok((report.table(), report.json()))
        }
        What::Pipeline { pace, seconds, pairs } => {
            let pace = Pace {
                per_second: pace.max(1),
                changes: pace.max(1).saturating_mul(seconds.max(1)),
            };
            let report = pipeline(pace, pairs.max(1)).await?;
            Ok((report.table(), report.json()))
        }
        What::Idle { connections } => {
            let report = idle::run(connections.max(1)).await?;
            Ok((report.table(), report.json()))
        }
        What::Peers {
            node_red,
            flow,
            changes,
            pairs,
        } => {
            let peer = peers::Peer { node_red, flow };
            let report = peers::run(&peer, changes.max(1), pairs.max(1)).await?;
            Ok((report.table(), report.json()))
        }
        What::Restart { events, pairs } => {
            let report = restart::run(events.max(1), pairs.max(1)).await?;
            Ok((report.table(), report.json()))
        }
    }
}

async fn drain(records: u32, pairs: usize) -> Result<Report, Failed> {
    let mut made = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let folder = tempfile::tempdir()?;
        let (courier, seen) = courier::drain(folder.path(), records).await?;
        let floor = floor::drain(folder.path(), &seen, courier.fsyncs).await?;
        made.push(Pair { courier, floor });
    }
    Ok(Report {
        kind: Kind::Drain,
        changes: records,
        pairs: made,
    })
}

async fn pipeline(pace: Pace, pairs: usize) -> Result<Report, Failed> {
    let mut made = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let folder = tempfile::tempdir()?;
        let (courier, seen) = courier::pipeline(folder.path(), pace).await?;
        let floor = floor::pipeline(folder.path(), &seen, courier.fsyncs, pace).await?;
        made.push(Pair { courier, floor });
    }
    Ok(Report {
        kind: Kind::Pipeline,
        changes: pace.changes,
        pairs: made,
    })
}

fn print((table, json): &Figures, as_json: bool) -> Result<(), Failed> {
    let text = if as_json { json.to_string() } else { table.clone() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
