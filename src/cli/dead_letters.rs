//! `dead-letters`: list, redrive.

use clap::{Args, Subcommand};

use super::desk::{ask, unexpected};
use super::output::Output;
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::ask::DeadLetterFilter;
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// Lists dead letters, oldest first.
    List(Which),
    /// Owes dead letters again, with a fresh schedule.
    Redrive(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
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

impl Which {
    fn parts(self) -> (ConfigFile, DeadLetterFilter) {
        let filter = DeadLetterFilter {
            delivery: self.delivery,
            destination: self.destination,
            subscription: self.subscription,
            limit: self.limit,
        };
        (self.file, filter)
    }
}

/// Runs the command.
pub(super) async fn run(
    command: DeadLettersCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        DeadLettersCommand::List(which) => {
            let (file, filter) = which.parts();
            let Answer::DeadLetters(rows) = ask(&file, environment, &Ask::DeadLetters(filter)).await? else {
                return Err(unexpected());
            };
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
            output.rows(&header, &rows, |row| {
                vec![
                    row.delivery.to_string(),
                    row.died_at.clone(),
                    row.destination.clone(),
                    row.subscription.clone(),
                    row.event.clone(),
                    row.record.clone(),
                    row.attempts.to_string(),
                    row.last_outcome.clone().unwrap_or_default(),
                ]
            });
            Ok(())
        }
        DeadLettersCommand::Redrive(which) => {
            let (file, filter) = which.parts();
            let Answer::Redriven(count) = ask(&file, environment, &Ask::Redrive(filter)).await? else {
                return Err(unexpected());
            };
            output.count("deliveries", "redriven", count);
            if count == 0 {
                return Err(CliError::Failed("no dead letter matches".to_owned()));
            }
            Ok(())
        }
    }
}
