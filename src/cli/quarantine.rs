//! `quarantine`: changes that were given up because their record could not be fetched or carried. They are kept, and
//! put back by an operator's word once the cause is mended.

use clap::Subcommand;

use super::desk::{ask, unexpected};
use super::output::Output;
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Lists changes in quarantine.
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// The most rows.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Puts a connection's quarantined changes back: they are fetched again.
    Redrive {
        #[command(flatten)]
        file: ConfigFile,
        /// The connection.
        #[arg(long)]
        connection: String,
    },
}

/// Runs the command.
pub(super) async fn run(
    command: QuarantineCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        QuarantineCommand::List { file, limit } => {
            let Answer::Quarantine(rows) = ask(&file, environment, &Ask::Quarantine { limit }).await? else {
                return Err(unexpected());
            };
            output.rows(&["at", "connection", "feed", "record", "reason"], &rows, |row| {
                vec![
                    row.at.clone(),
                    row.connection.clone(),
                    row.feed.clone(),
                    row.record.clone(),
                    row.reason.clone(),
                ]
            });
            Ok(())
        }
        QuarantineCommand::Redrive { file, connection } => {
            let redrive = Ask::RedriveQuarantine {
                connection: connection.clone(),
            };
            let Answer::Redriven(count) = ask(&file, environment, &redrive).await? else {
                return Err(unexpected());
            };
            output.count("changes", "redriven", count);
            if count == 0 {
                return Err(CliError::Failed(format!(
                    "nothing of connection {connection} is in quarantine"
                )));
            }
            Ok(())
        }
    }
}
