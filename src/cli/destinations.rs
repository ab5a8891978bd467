//! `destinations test`: one signed sample of synthetic data, through the code that delivers the real ones.

use clap::Subcommand;

use super::desk::{ask, unexpected};
use super::output::{Colour, Output};
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum DestinationsCommand {
    /// Sends one sample notification and says what came back. Its record is `Basic/ehr-courier-test`.
    Test {
        #[command(flatten)]
        file: ConfigFile,
        /// The destination.
        name: String,
    },
}

/// Runs the command.
pub(super) async fn run(
    command: DestinationsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let DestinationsCommand::Test { file, name } = command;
    let test = Ask::TestDestination { destination: name };
    let Answer::Tested(test) = ask(&file, environment, &test).await? else {
        return Err(unexpected());
    };
    if output.is_json() {
        output.value(&test);
    } else if test.accepted {
        let good = output.coloured("accepted", Colour::Green);
        output.line(&format!(
            "{}: {good} the sample {}: {}",
            test.destination, test.id, test.detail
        ));
    }
    if test.accepted {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} did not accept the sample {}: {}",
        test.destination, test.id, test.detail
    )))
}
