//! `audit`: what operators changed.

use clap::Args;

use super::desk::{ask, unexpected};
use super::output::Output;
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::{Answer, Ask};

#[derive(Debug, Args)]
pub(super) struct AuditCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// The most rows.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Runs the command.
pub(super) async fn run(
    command: &AuditCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let limit = command.limit;
    let Answer::Audit(rows) = ask(&command.file, environment, &Ask::Audit { limit }).await? else {
        return Err(unexpected());
    };
    output.rows(&["at", "action", "subject", "detail"], &rows, |row| {
        vec![
            row.at.clone(),
            row.action.clone(),
            row.subject.clone(),
            row.detail.clone(),
        ]
    });
    Ok(())
}
