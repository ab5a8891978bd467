//! The courier against its floor: how much of what the machine can do is left when nothing may be lost.
//!
//! Each pair of runs is made close together and compared with itself, because a machine's speed changes from minute
//! to minute: the ratio is the result, the absolute figures stand beside it for information.

mod backlog;
mod courier;
mod floor;
mod meter;
mod report;
mod sink;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::{Pair, Report};

/// Whatever went wrong: a benchmark only says so and ends.
type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Measures EHR Courier against a bare loop that does the same requests and fsyncs")]
struct Arguments {
    #[command(subcommand)]
    what: What,
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
        /// Prints one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let What::Drain { records, pairs, json } = Arguments::parse().what;
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(drain(records.max(1), pairs.max(1))))
        .and_then(|report| print(&report, json));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            writeln!(std::io::stderr(), "bench: {error}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

async fn drain(records: u32, pairs: usize) -> Result<Report, Failed> {
    let mut made = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let folder = tempfile::tempdir()?;
        let (courier, seen) = courier::run(folder.path(), records).await?;
        let floor = floor::run(folder.path(), &seen, courier.fsyncs).await?;
        made.push(Pair { courier, floor });
    }
    Ok(Report { records, pairs: made })
}

fn print(report: &Report, json: bool) -> Result<(), Failed> {
    let text = if json {
        report.json().to_string()
    } else {
        report.table()
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
