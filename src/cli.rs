//! The command line: what can be asked of `ehr-courier`, and the exit code of each outcome.
//!
//! 0 done · 1 failed · 64 usage · 75 the store is locked by another process · 78 configuration.

mod audit;
mod backup;
mod check;
mod connect;
mod cursors;
mod dead_letters;
mod demo;
mod desk;
mod destinations;
mod events;
mod output;
mod poll;
mod profiles;
mod quarantine;
mod remote;
mod schema;
mod serve;
mod signals;
mod subscriptions;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use crate::app::AppError;
use crate::config::{ConfigErrors, Environment};
use crate::store::StoreError;
use crate::telemetry::Lines;
use output::Output;

const USAGE: u8 = 64;
const LOCKED: u8 = 75;
const CONFIGURATION: u8 = 78;

/// Polls health record systems that cannot push, and pushes one signed notification per changed record version.
#[derive(Debug, Parser)]
#[command(name = "ehr-courier", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log to standard error: `warn`, `info`, `ehr_courier=debug` …
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Print JSON lines instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

/// The configuration that a command works on.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(short, long, default_value = "courier.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CheckCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// Also ask each connection and destination whether it is there, and say how changes will be found.
    #[arg(long)]
    connect: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on this machine, without service or configuration: a sandbox EHR whose synthetic patients' records
    /// change, the courier, and a webhook receiver.
    Demo(demo::Demo),
    /// The service. SIGTERM drains it.
    Run(ConfigFile),
    /// Validates the configuration.
    Check(CheckCommand),
    /// One dry poll: the changed identifiers as a table; writes nothing.
    Poll(poll::PollCommand),
    /// Events: list, show, replay.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Dead letters: list, redrive.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Changes given up because their record could not be fetched: list, redrive.
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Cursors: show, set.
    #[command(subcommand)]
    Cursors(cursors::CursorsCommand),
    /// Subscriptions: list, pause, resume.
    #[command(subcommand)]
    Subscriptions(subscriptions::SubscriptionsCommand),
    /// Destinations: test.
    #[command(subcommand)]
    Destinations(destinations::DestinationsCommand),
    /// What is known of which kind of server: list, show.
    #[command(subcommand)]
    Profiles(profiles::ProfilesCommand),
    /// What operators changed, newest first.
    Audit(audit::AuditCommand),
    /// Copies the store to a new file, beside a running service.
    Backup(backup::BackupCommand),
    /// Makes a restored backup fit to go on with: new epoch, cursors rewound, numbers jump.
    Recover(backup::RecoverCommand),
    /// The sandbox EHR alone: a FHIR R4 server of synthetic patients, with fault switches.
    Sandbox(serve::SandboxCommand),
    /// A receiver that verifies signatures and prints what it accepts.
    Listen(serve::ListenCommand),
    /// JSON Schemas.
    Schema(schema::SchemaCommand),
}

/// A command that did not succeed; each variant has its exit code.
#[derive(Debug, Error)]
enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Config(ConfigErrors),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Config(_)
            | Self::App(AppError::Compose { .. } | AppError::Store(StoreError::WrongKey { .. }))
            | Self::Store(StoreError::WrongKey { .. }) => CONFIGURATION,
            Self::App(AppError::Store(StoreError::Locked { .. }))
            | Self::Store(StoreError::Locked { .. }) => LOCKED,
            Self::App(_) | Self::Store(_) | Self::Failed(_) | Self::Io(_) => 1,
        }
    }
}

/// Runs the command that the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_text = !error.use_stderr();
            let printed = error.print();
            return if asked_for_text && printed.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    let mut output = Output::new(cli.json);
    match start(cli, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.problem(&with_causes(&error));
            ExitCode::from(error.code())
        }
    }
}

fn start(cli: Cli, output: &mut Output) -> Result<(), CliError> {
    // redis, lapin and reqwest must not each bring a provider of their own; a second install is refused, harmlessly.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if installed.is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let environment = Environment::from_process();
    let default_filter = match cli.command {
        Command::Run(_) => "info",
        Command::Demo(_)
        | Command::Check(_)
        | Command::Poll(_)
        | Command::Events(_)
        | Command::DeadLetters(_)
        | Command::Quarantine(_)
        | Command::Cursors(_)
        | Command::Subscriptions(_)
        | Command::Destinations(_)
        | Command::Profiles(_)
        | Command::Audit(_)
        | Command::Backup(_)
        | Command::Recover(_)
        | Command::Sandbox(_)
        | Command::Listen(_)
        | Command::Schema(_) => "warn",
    };
    let filter = cli
        .log
        .as_deref()
        .or_else(|| environment.get("COURIER_LOG"))
        .unwrap_or(default_filter);
    let lines = if let Command::Run(file) = &cli.command {
        check::log_lines(&file.config, &environment)
    } else {
        Lines::of_standard_error()
    };
    crate::telemetry::init_logs(filter, lines).map_err(|error| CliError::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli.command, &environment, output))
}

async fn dispatch(command: Command, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    match command {
        Command::Demo(demo) => demo::run(&demo, output).await,
        Command::Run(file) => {
            // From here on a hang-up asks for a reload; it must not end a service that is still starting.
            let asked = signals::on_hangup()?;
            let config = check::load(&file.config, environment)?;
            let reloading = check::reloading(&file.config, environment, asked);
            Ok(crate::app::run(config, reloading, signals::until_terminated()?).await?)
        }
        Command::Check(command) => {
            check::run(&command.file.config, environment, output)?;
            if command.connect {
                connect::run(&command.file, environment, output).await?;
            }
            Ok(())
        }
        Command::Poll(command) => poll::run(&command, environment, output).await,
        Command::Events(command) => events::run(command, environment, output).await,
        Command::DeadLetters(command) => dead_letters::run(command, environment, output).await,
        Command::Quarantine(command) => quarantine::run(command, environment, output).await,
        Command::Cursors(command) => cursors::run(command, environment, output).await,
        Command::Subscriptions(command) => subscriptions::run(command, environment, output).await,
        Command::Destinations(command) => destinations::run(command, environment, output).await,
        Command::Profiles(command) => profiles::run(&command, output),
        Command::Audit(command) => audit::run(&command, environment, output).await,
        Command::Backup(command) => backup::back_up(&command, environment, output),
        Command::Recover(command) => backup::recover(&command, environment, output).await,
        Command::Sandbox(command) => serve::sandbox(command, output).await,
        Command::Listen(command) => serve::listen(command, environment, output).await,
        Command::Schema(command) => {
            schema::run(&command, output);
            Ok(())
        }
    }
}

/// Parses a duration of an option, as the configuration writes it.
fn duration(text: &str) -> Result<Duration, String> {
    crate::config::duration(text).map_err(|help| format!("not a duration: {help}"))
}

fn with_causes(error: &CliError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
