//! `quarantine`: changes that were given up because their record could not be fetched or carried. They are kept, and
//! put back by an operator's word once the cause is mended.

use clap::Subcommand;
use courier_sdk::{Clock as _, ConnectionName};

use super::operate::{reading, say, writing};
use super::output::Output;
use super::{CliError, ConfigFile};
use crate::clock::SystemClock;
use crate::config::Environment;
use crate::store::{QuarantineRow, Store as _};

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
            let store = reading(&file, environment)?;
            let cells = |row: &QuarantineRow| {
                vec![
                    row.at.to_string(),
                    row.connection.to_string(),
                    row.feed.to_string(),
                    row.key.to_string(),
                    row.reason.clone(),
                ]
            };
            let rows: Vec<Vec<String>> = store.quarantine(limit).await?.iter().map(cells).collect();
            output.table(&["at", "connection", "feed", "record", "reason"], &rows);
            Ok(())
        }
        QuarantineCommand::Redrive { file, connection } => {
            let name =
                ConnectionName::parse(&connection).map_err(|error| CliError::Usage(error.to_string()))?;
            let store = writing(&file, environment)?;
            let count = store.redrive_quarantine(&name, SystemClock.now()).await?;
            say(output, "changes", "redriven", count);
            if count == 0 {
                return Err(CliError::Failed(format!(
                    "nothing of connection {name} is in quarantine"
                )));
            }
            Ok(())
        }
    }
}
