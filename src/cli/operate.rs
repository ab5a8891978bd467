//! Operating commands: events, dead letters, cursors, schemas. Those that only look work beside a running service;
//! those that write take the store's lock (exit 75 while `run` holds it).

use clap::{Args, Subcommand, ValueEnum};
use courier_sdk::{Clock as _, ConnectionName};
use jiff::Timestamp;
use serde_json::json;

use super::output::{Output, visible};
use super::{CliError, ConfigFile, check};
use crate::app;
use crate::clock::SystemClock;
use crate::config::{Environment, Secrets};
use crate::domain::delivery::DeliveryId;
use crate::domain::identity::EventId;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::store::sqlite::{OpenMode, SqliteStore};
use crate::store::{DeadLetterQuery, EventDetail, EventQuery, ReplayRequest, StageState, Store as _};

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Lists events, newest first.
    List(EventFilter),
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
pub(super) struct EventFilter {
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

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// Lists dead letters, oldest first.
    List(DeadLetterFilter),
    /// Owes dead letters again, with a fresh schedule.
    Redrive(DeadLetterFilter),
}

#[derive(Debug, Args)]
pub(super) struct DeadLetterFilter {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this delivery's number in the list.
    #[arg(long)]
    delivery: Option<u64>,
    /// Only this destination.
    #[arg(long)]
    destination: Option<String>,
    /// Only this subscription.
    #[arg(long)]
    subscription: Option<String>,
    /// The most rows; 0 for all.
    #[arg(long, default_value_t = 0)]
    limit: usize,
}

#[derive(Debug, Subcommand)]
pub(super) enum CursorsCommand {
    /// Shows how far each feed has been handed over.
    Show(ConfigFile),
}

#[derive(Debug, Args)]
pub(super) struct SchemaCommand {
    /// Which schema.
    which: Schema,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schema {
    /// The configuration file.
    Config,
    /// A notification.
    Notification,
    /// A FHIR profile.
    Profile,
}

/// Runs an events command.
pub(super) async fn events(
    command: EventsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        EventsCommand::List(filter) => list_events(filter, environment, output).await,
        EventsCommand::Show { file, id, body } => {
            let store = reading(&file, environment)?;
            let id = event_id(&id)?;
            let detail = store
                .event(&id)
                .await?
                .ok_or_else(|| CliError::Failed(format!("no event {id}")))?;
            show(&detail, body, output);
            Ok(())
        }
        EventsCommand::Replay {
            file,
            id,
            subscription,
        } => {
            let store = writing(&file, environment)?;
            let request = ReplayRequest {
                event: event_id(&id)?,
                subscription: parse(subscription.as_deref(), SubscriptionName::parse)?,
            };
            let count = store.replay(&request, SystemClock.now()).await?;
            say(output, "deliveries", "replayed", count);
            if count == 0 {
                return Err(CliError::Failed(
                    "no settled delivery of that event was found".to_owned(),
                ));
            }
            Ok(())
        }
    }
}

async fn list_events(
    filter: EventFilter,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let store = reading(&filter.file, environment)?;
    let connection = parse(filter.connection.as_deref(), ConnectionName::parse)?;
    let query = EventQuery {
        connection,
        record: filter.record,
        since: filter.since,
        limit: filter.limit,
    };
    let cells = |row: &crate::store::EventRow| {
        vec![
            row.recorded_at.to_string(),
            row.connection.to_string(),
            row.id.to_string(),
            row.kind.as_str().to_owned(),
            row.key.to_string(),
            row.version.clone(),
            format!(
                "{}/{}/{}",
                row.deliveries.pending, row.deliveries.done, row.deliveries.dead
            ),
        ]
    };
    let rows: Vec<Vec<String>> = store.events(&query).await?.iter().map(cells).collect();
    let header = [
        "recorded_at",
        "connection",
        "id",
        "change",
        "record",
        "version",
        "pending/done/dead",
    ];
    output.table(&header, &rows);
    Ok(())
}

fn show(detail: &EventDetail, body: bool, output: &mut Output) {
    let event = &detail.event;
    let deliveries: Vec<serde_json::Value> = detail
        .deliveries
        .iter()
        .map(|delivery| {
            json!({
                "delivery": delivery.id.0,
                "subscription": delivery.subscription.as_str(),
                "number": delivery.number,
                "destination": delivery.destination.as_str(),
                "state": delivery.state.as_str(),
                "attempts": delivery.attempts,
                "due_at": delivery.due_at.to_string(),
                "last_outcome": delivery.last_outcome,
            })
        })
        .collect();
    let mut summary = json!({
        "id": event.id.as_str(),
        "connection": event.connection.as_str(),
        "feed": event.feed.as_str(),
        "record": event.key.to_string(),
        "version": crate::wire::cloudevents::version_label(event.version_id.as_deref(), &event.version),
        "change": event.kind.as_str(),
        "changed_at": event.changed_at.map(|at| at.to_string()),
        "recorded_at": event.recorded_at.to_string(),
        "fresh_as_of": event.fresh_as_of.to_string(),
        "deliveries": deliveries,
    });
    let body = event
        .record
        .as_ref()
        .filter(|_| body)
        .map(|record| String::from_utf8_lossy(record.bytes()));
    if output.is_json() {
        if let (Some(body), Some(members)) = (body, summary.as_object_mut()) {
            members.insert("body".to_owned(), body.into());
        }
        output.value(&summary);
        return;
    }
    for line in serde_json::to_string_pretty(&summary).unwrap_or_default().lines() {
        output.line(&visible(line));
    }
    if let Some(body) = body {
        output.line(&body);
    }
}

/// Runs a dead-letters command.
pub(super) async fn dead_letters(
    command: DeadLettersCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        DeadLettersCommand::List(filter) => {
            let store = reading(&filter.file, environment)?;
            let rows = store.dead_letters(&query(&filter)?).await?;
            let cells = |row: &crate::store::DeadLetterRow| {
                vec![
                    row.delivery.id.0.to_string(),
                    row.died_at.to_string(),
                    row.delivery.destination.to_string(),
                    row.delivery.subscription.to_string(),
                    row.event_id.to_string(),
                    row.key.to_string(),
                    row.delivery.attempts.to_string(),
                    row.delivery.last_outcome.clone().unwrap_or_default(),
                ]
            };
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            let header = [
                "delivery",
                "died_at",
                "destination",
                "subscription",
                "event",
                "record",
                "attempts",
                "last_outcome",
            ];
            output.table(&header, &rows);
            Ok(())
        }
        DeadLettersCommand::Redrive(filter) => {
            let store = writing(&filter.file, environment)?;
            let count = store.redrive(&query(&filter)?, SystemClock.now()).await?;
            say(output, "deliveries", "redriven", count);
            if count == 0 {
                return Err(CliError::Failed("no dead letter matches".to_owned()));
            }
            Ok(())
        }
    }
}

fn query(filter: &DeadLetterFilter) -> Result<DeadLetterQuery, CliError> {
    Ok(DeadLetterQuery {
        delivery: filter.delivery.map(DeliveryId),
        destination: parse(filter.destination.as_deref(), DestinationName::parse)?,
        subscription: parse(filter.subscription.as_deref(), SubscriptionName::parse)?,
        limit: filter.limit,
    })
}

/// Runs a cursors command.
pub(super) async fn cursors(
    command: CursorsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let CursorsCommand::Show(file) = command;
    let config = check::load_with(&file.config, environment, Secrets::OfState)?;
    let store = app::open_for_reading(&config)?;
    let clock: std::sync::Arc<dyn courier_sdk::Clock> = std::sync::Arc::new(SystemClock);
    let mut clients = app::Clients::default();
    let mut rows = Vec::new();
    for row in store.cursors().await? {
        let connector = config
            .connections
            .get(&row.connection)
            .map(|entry| app::connection(entry, &clock, &mut clients))
            .transpose()?;
        let stands_at = connector
            .and_then(|connection| connection.connector.describe(row.state.cursor.as_ref()?))
            .map_or_else(|| "-".to_owned(), |at| at.to_string());
        let stage = match row.state.stage {
            StageState::None => "-",
            StageState::Collecting => "collecting",
            StageState::Releasing => "releasing",
        };
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        rows.push(vec![
            row.connection.to_string(),
            row.feed.to_string(),
            stands_at,
            time(row.state.fresh_as_of),
            time(row.state.advanced_at),
            stage.to_owned(),
        ]);
    }
    output.table(
        &[
            "connection",
            "feed",
            "cursor",
            "fresh_as_of",
            "advanced_at",
            "stage",
        ],
        &rows,
    );
    Ok(())
}

/// Prints a schema.
pub(super) fn schema(command: &SchemaCommand, output: &mut Output) {
    let text = match command.which {
        Schema::Config => serde_json::to_string_pretty(&crate::config::schema()).unwrap_or_default(),
        Schema::Notification => include_str!("../../schemas/notification.schema.json").to_owned(),
        Schema::Profile => include_str!("../../schemas/profile.schema.json").to_owned(),
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(schema) if output.is_json() => output.value(&schema),
        Ok(_) | Err(_) => output.line(text.trim_end()),
    }
}

pub(super) fn reading(file: &ConfigFile, environment: &Environment) -> Result<SqliteStore, CliError> {
    let config = check::load_with(&file.config, environment, Secrets::OfState)?;
    Ok(app::open_for_reading(&config)?)
}

pub(super) fn writing(file: &ConfigFile, environment: &Environment) -> Result<SqliteStore, CliError> {
    let config = check::load_with(&file.config, environment, Secrets::OfState)?;
    Ok(app::open_store(&config, OpenMode::Offline)?)
}

fn parse<T>(
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, courier_sdk::InvalidName>,
) -> Result<Option<T>, CliError> {
    text.map(parse)
        .transpose()
        .map_err(|error| CliError::Usage(error.to_string()))
}

fn event_id(text: &str) -> Result<EventId, CliError> {
    EventId::parse(text).ok_or_else(|| {
        CliError::Usage(format!(
            "{text:?} is not an event id: ev_ and 32 letters, see `events list`"
        ))
    })
}

/// Says how many of what were moved.
pub(super) fn say(output: &mut Output, things: &str, what: &str, count: u64) {
    if output.is_json() {
        output.value(&json!({ what: count }));
    } else {
        output.line(&format!("{count} {things} {what}"));
    }
}
