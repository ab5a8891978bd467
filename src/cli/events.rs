//! `events`: list, show, replay.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::desk::{ask, unexpected};
use super::output::{Output, visible};
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::ask::EventFilter;
use crate::operate::view::{EventDetailView, EventView};
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Lists events, newest first.
    List(ListEvents),
    /// Shows one event and its deliveries.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// The event's id.
        id: String,
        /// Also print the record itself, which is patient data.
        #[arg(long)]
        body: bool,
    },
    /// Owes an event's settled deliveries again, with the same id and bytes, marked by a header.
    Replay {
        #[command(flatten)]
        file: ConfigFile,
        /// The event's id.
        id: String,
        /// Only to this subscription.
        #[arg(long)]
        subscription: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct ListEvents {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this connection.
    #[arg(long)]
    connection: Option<String>,
    /// Only this record (`Appointment/17`) or type (`Appointment`).
    #[arg(long)]
    record: Option<String>,
    /// Only events recorded from this instant on (RFC 3339).
    #[arg(long)]
    since: Option<Timestamp>,
    /// The most rows.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Runs the command.
pub(super) async fn run(
    command: EventsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        EventsCommand::List(list) => {
            let filter = EventFilter {
                connection: list.connection,
                record: list.record,
                since: list.since.map(|since| since.to_string()),
                limit: list.limit,
            };
            let Answer::Events(rows) = ask(&list.file, environment, &Ask::Events(filter)).await? else {
                return Err(unexpected());
            };
            table(&rows, output);
            Ok(())
        }
        EventsCommand::Show { file, id, body } => {
            let Answer::Event(event) = ask(&file, environment, &Ask::Event { id, body }).await? else {
                return Err(unexpected());
            };
            show(*event, output);
            Ok(())
        }
        EventsCommand::Replay {
            file,
            id,
            subscription,
        } => {
            let replay = Ask::Replay { id, subscription };
            let Answer::Replayed(count) = ask(&file, environment, &replay).await? else {
                return Err(unexpected());
            };
            output.count("deliveries", "replayed", count);
            if count == 0 {
                return Err(CliError::Failed(
                    "no settled delivery of that event was found".to_owned(),
                ));
            }
            Ok(())
        }
    }
}

fn table(rows: &[EventView], output: &mut Output) {
    let header = [
        "recorded_at",
        "connection",
        "id",
        "change",
        "record",
        "version",
        "pending/done/dead",
    ];
    output.rows(&header, rows, |row| {
        vec![
            row.recorded_at.clone(),
            row.connection.clone(),
            row.id.clone(),
            row.change.clone(),
            row.record.clone(),
            row.version.clone(),
            format!("{}/{}/{}", row.pending, row.done, row.dead),
        ]
    });
}

fn show(mut event: EventDetailView, output: &mut Output) {
    if output.is_json() {
        output.value(&event);
        return;
    }
    let body = event.body.take();
    let summary = serde_json::to_string_pretty(&json!(event)).unwrap_or_default();
    for line in summary.lines() {
        output.line(&visible(line));
    }
    if let Some(body) = body {
        output.line(&body);
    }
}
