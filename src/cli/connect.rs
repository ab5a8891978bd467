//! `check --connect`: asks each connection and each destination whether it is there, and says per feed how changes will
//! be found and what will be missed. Writes nothing; no record and no notification leaves a page.

use std::sync::Arc;

use courier_sdk::{Clock, Detection, PageOrder};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::output::{Colour, Output};
use super::{CliError, ConfigFile, check};
use crate::app::{self, Clients};
use crate::clock::SystemClock;
use crate::config::{Config, Environment};
use crate::destination::Attempt;
use crate::pipeline::connection::{Connection, Feed};
use crate::pipeline::watch::Labels;

/// Connections and destinations asked at once.
const AT_ONCE: usize = 16;

/// How one feed is found.
#[derive(Debug, Serialize)]
struct FeedLine {
    connection: String,
    feed: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Found {
    Ok {
        detection: &'static str,
        why: String,
        granularity: &'static str,
        order: &'static str,
        deletes: &'static str,
        blind_spots: Vec<&'static str>,
        /// Records that a backfill would bring, where the source counts them.
        #[serde(skip_serializing_if = "Option::is_none")]
        backfill_records: Option<u64>,
    },
    Failed {
        reason: String,
    },
}

/// Whether one destination is there.
#[derive(Debug, Serialize)]
struct DestinationLine {
    destination: String,
    reached: bool,
    detail: String,
}

/// Runs the command, after the configuration was found valid.
pub(super) async fn run(
    file: &ConfigFile,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let config = check::load(&file.config, environment)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let feeds = ask_connections(&config, &clock).await;
    let destinations = ask_destinations(&config).await;
    let mut failed = 0;
    for line in &feeds {
        failed += usize::from(matches!(line.found, Found::Failed { .. }));
        say_feed(line, output);
    }
    for line in &destinations {
        failed += usize::from(!line.reached);
        say_destination(line, output);
    }
    if failed == 0 {
        return Ok(());
    }
    let all = feeds.len() + destinations.len();
    Err(CliError::Failed(format!(
        "{failed} of {all} feeds and destinations do not answer as they should"
    )))
}

/// One bad connection leaves the others their say.
async fn ask_connections(config: &Config, clock: &Arc<dyn Clock>) -> Vec<FeedLine> {
    let mut clients = Clients::default();
    let made: Vec<_> = config
        .connections
        .values()
        .map(|entry| {
            (
                entry,
                app::connection(entry, clock, &Labels::default(), &mut clients),
            )
        })
        .collect();
    let asking = made.into_iter().map(|(entry, made)| async move {
        match made {
            Ok(connection) => probe(&connection).await,
            Err(error) => {
                let failed = |feed: &crate::config::Feed| FeedLine {
                    connection: entry.name.to_string(),
                    feed: feed.name.to_string(),
                    found: Found::Failed {
                        reason: error.to_string(),
                    },
                };
                entry.feeds.iter().map(failed).collect()
            }
        }
    });
    let lines: Vec<Vec<FeedLine>> = stream::iter(asking).buffered(AT_ONCE).collect().await;
    lines.into_iter().flatten().collect()
}

/// Asks about one feed after the other, within the connection's budget.
async fn probe(connection: &Connection) -> Vec<FeedLine> {
    let mut lines = Vec::new();
    for feed in connection.live_feeds() {
        let found = match connection.budget.maintenance_until() {
            Some(until) => Found::Failed {
                reason: format!("in maintenance until {until} (limits.maintenance): it is not asked"),
            },
            None => asked(connection, feed).await,
        };
        lines.push(FeedLine {
            connection: connection.name.to_string(),
            feed: feed.spec.name.to_string(),
            found,
        });
    }
    lines
}

async fn asked(connection: &Connection, feed: &Feed) -> Found {
    let leave = connection.budget.leave().await;
    let found = connection.connector.probe(&feed.spec).await;
    drop(leave);
    match found {
        Ok(detection) => described(detection, counted(connection, feed).await),
        Err(error) => Found::Failed {
            reason: error.to_string(),
        },
    }
}

/// How many records a backfill would bring. Not to know it is no failure.
async fn counted(connection: &Connection, feed: &Feed) -> Option<u64> {
    let backfill = feed.backfill()?;
    let leave = connection.budget.leave().await;
    let counted = connection.connector.count_past(&backfill.spec).await;
    drop(leave);
    counted.ok().flatten()
}

fn described(detection: Detection, backfill_records: Option<u64>) -> Found {
    Found::Ok {
        detection: detection.strategy.as_str(),
        why: detection.why,
        granularity: detection.granularity.as_str(),
        order: match detection.order {
            PageOrder::OldestFirst => "oldest first",
            PageOrder::NewestFirst => "newest first",
        },
        deletes: detection.deletes.as_str(),
        blind_spots: detection.blind_spots,
        backfill_records,
    }
}

async fn ask_destinations(config: &Config) -> Vec<DestinationLine> {
    let mut clients = Clients::default();
    let made: Vec<_> = config
        .destinations
        .values()
        .map(|entry| {
            (
                entry.name.to_string(),
                app::outlet(entry, &Labels::default(), &mut clients),
            )
        })
        .collect();
    let asking = made.into_iter().map(|(destination, made)| async move {
        let (reached, detail) = match made {
            Ok(outlet) => {
                let probed = outlet.destination.probe().await;
                outlet.destination.close().await;
                match probed {
                    Attempt::Accepted { detail } => (true, detail),
                    Attempt::Failed { detail, .. } => (false, detail),
                }
            }
            Err(error) => (false, error.to_string()),
        };
        DestinationLine {
            destination,
            reached,
            detail,
        }
    });
    stream::iter(asking).buffered(AT_ONCE).collect().await
}

fn say_feed(line: &FeedLine, output: &mut Output) {
    if output.is_json() {
        output.value(line);
        return;
    }
    let name = format!("{}/{}", line.connection, line.feed);
    match &line.found {
        Found::Ok {
            detection,
            why,
            granularity,
            order,
            deletes,
            blind_spots,
            backfill_records,
        } => {
            let good = output.coloured(detection, Colour::Green);
            output.line(&format!("{name}: {good}, {why}"));
            output.line(&format!(
                "  granularity {granularity}; shown {order}; deletes {deletes}"
            ));
            if let Some(records) = backfill_records {
                output.line(&format!("  start: a backfill would bring {records} records"));
            }
            for spot in blind_spots {
                output.line(&format!("  cannot see: {spot}"));
            }
        }
        Found::Failed { reason } => {
            let bad = output.coloured("failed", Colour::Red);
            output.line(&format!("{name}: {bad}: {reason}"));
        }
    }
}

fn say_destination(line: &DestinationLine, output: &mut Output) {
    if output.is_json() {
        output.value(line);
        return;
    }
    let word = if line.reached {
        output.coloured("reached", Colour::Green)
    } else {
        output.coloured("failed", Colour::Red)
    };
    output.line(&format!("{}: {word}: {}", line.destination, line.detail));
}
