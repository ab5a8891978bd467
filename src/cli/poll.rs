//! `poll`: one dry poll of a connection; shows the changed identifiers and writes nothing.

use std::sync::Arc;

use clap::Args;
use courier_sdk::{ChangeRef, Clock, ConnectionName, FeedName, Next, PollRequest, Shown};
use jiff::Timestamp;

use super::output::Output;
use super::{CliError, ConfigFile, check};
use crate::app::{self, Clients};
use crate::clock::SystemClock;
use crate::config::{self, Auth, Environment, Secrets};
use crate::pipeline::connection::{Connection, Feed};
use crate::pipeline::watch::Labels;

/// Without `--since` a dry poll looks back this far.
const LOOK_BACK: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// A dry poll stops here: it is a look, not a load.
const PAGES_MAX: usize = 20;

#[derive(Debug, Args)]
pub(super) struct PollCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// The connection to poll.
    #[arg(long)]
    connection: String,
    /// Only this feed.
    #[arg(long)]
    feed: Option<String>,
    /// Changes from this instant on (RFC 3339); one hour back if not given.
    #[arg(long)]
    since: Option<Timestamp>,
}

/// Runs the command.
pub(super) async fn run(
    command: &PollCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let usage = |error: courier_sdk::InvalidName| CliError::Usage(error.to_string());
    let name = ConnectionName::parse(&command.connection).map_err(usage)?;
    let wanted = command
        .feed
        .as_deref()
        .map(FeedName::parse)
        .transpose()
        .map_err(usage)?;
    let load = |secrets| check::load_with(&command.file.config, environment, secrets);
    let mut config = load(Secrets::OfConnection(&name))?;
    let kept =
        |entry: &config::Connection| matches!(&entry.auth, Auth::OAuth(oauth) if oauth.refresh.is_some());
    if config.connections.get(&name).is_some_and(kept) {
        // What the server gave in place of the refresh token lies sealed.
        config = load(Secrets::OfConnectionAndState(&name))?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entry = config
        .connections
        .get(&name)
        .ok_or_else(|| CliError::Usage(format!("no connection named {name} in the configuration")))?;
    let connection = app::connection(entry, &clock, &Labels::default(), &mut Clients::default())?;
    if let Some(until) = connection.budget.maintenance_until() {
        let reason = format!(
            "connection {name} is in maintenance until {until} (limits.maintenance): it is not asked"
        );
        return Err(CliError::Failed(reason));
    }
    let since = command
        .since
        .unwrap_or_else(|| clock.now().saturating_sub(LOOK_BACK).unwrap_or(Timestamp::MIN));
    let is_wanted = |feed: &&Feed| wanted.as_ref().is_none_or(|name| feed.spec.name == *name);
    if connection.live_feeds().filter(is_wanted).count() == 0 {
        return Err(CliError::Usage(format!("connection {name} has no such feed")));
    }
    let mut rows = Vec::new();
    let mut outcome = Ok(());
    for feed in connection.live_feeds().filter(is_wanted) {
        outcome = poll(&connection, feed, since, (&mut rows, output)).await;
        if outcome.is_err() {
            break;
        }
    }
    // What was found before an error was found all the same.
    if outcome.is_ok() || !rows.is_empty() {
        output.table(&["feed", "record", "version", "change", "last_updated"], &rows);
    }
    outcome
}

/// Polls one feed page by page, within the connection's budget.
async fn poll(
    connection: &Connection,
    feed: &Feed,
    since: Timestamp,
    (rows, output): (&mut Vec<Vec<String>>, &mut Output),
) -> Result<(), CliError> {
    let cursor = connection.connector.cursor_at(since);
    let mut resume = None;
    for _ in 0..PAGES_MAX {
        let request = PollRequest {
            feed: &feed.spec,
            cursor: Some(&cursor),
            resume: resume.as_ref(),
        };
        let leave = connection.budget.leave().await;
        let polled = connection.connector.poll(request).await;
        drop(leave);
        let page = polled.map_err(|error| CliError::Failed(error.to_string()))?;
        // A poll looks back further than asked, for what was committed late; the question was another.
        let asked = |change: &&ChangeRef| change.last_updated.is_none_or(|at| at >= since);
        rows.extend(page.changes.iter().filter(asked).map(|change| row(feed, change)));
        match page.next {
            Next::Page(next) => resume = Some(next),
            Next::Done(_) => return Ok(()),
            Next::Inconclusive { reason } => {
                output.problem(&format!("note: {}: {reason}", feed.spec.name));
                return Ok(());
            }
        }
    }
    output.problem(&format!(
        "note: {}: stopped after {PAGES_MAX} pages, there are more; ask from a later instant with --since",
        feed.spec.name
    ));
    Ok(())
}

fn row(feed: &Feed, change: &ChangeRef) -> Vec<String> {
    vec![
        feed.spec.name.to_string(),
        change.key.to_string(),
        change.version_id.clone().unwrap_or_else(|| "-".to_owned()),
        match change.shown {
            Shown::State => "-",
            Shown::Created => "created",
            Shown::Updated => "updated",
            Shown::Deleted => "deleted",
            Shown::Missing => "missing",
        }
        .to_owned(),
        change
            .last_updated
            .map_or_else(|| "-".to_owned(), |at| at.to_string()),
    ]
}
