//! `profiles list` and `profiles show`: what is known of which kind of server, and from where.

use clap::Subcommand;
use courier_fhir::{InvalidProfile, Profile};

use super::CliError;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum ProfilesCommand {
    /// Lists the profiles that connections can name.
    List,
    /// Prints one profile as it is written, each line with its source.
    Show {
        /// The profile.
        name: String,
    },
}

/// Runs the command.
pub(super) fn run(command: &ProfilesCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        ProfilesCommand::List => {
            let unknown = |error: InvalidProfile| CliError::Usage(error.to_string());
            let rows: Result<Vec<Vec<String>>, CliError> = Profile::names()
                .into_iter()
                .map(|name| {
                    Ok(vec![
                        name.to_owned(),
                        Profile::builtin(name).map_err(unknown)?.about,
                    ])
                })
                .collect();
            output.table(&["profile", "about"], &rows?);
            Ok(())
        }
        ProfilesCommand::Show { name } => {
            let text = Profile::text(name).map_err(|error| CliError::Usage(error.to_string()))?;
            output.line(text.trim_end());
            Ok(())
        }
    }
}
