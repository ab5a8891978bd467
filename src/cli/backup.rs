//! `backup` and `recover`: a copy of the state, and what makes a restored one fit to go on with.
//!
//! Both work on the file itself: a copy is one read of it, with or without a service; a recovery needs it alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use courier_sdk::Clock;
use serde_json::json;

use super::output::{Colour, Output};
use super::{CliError, ConfigFile, check, duration};
use crate::app;
use crate::app::operate::{Needs, desk};
use crate::clock::SystemClock;
use crate::config::{Environment, Secrets};
use crate::operate;
use crate::store::Epoch;
use crate::store::sqlite::{OpenMode, backup};

#[derive(Debug, Args)]
pub(super) struct BackupCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to; nothing must stand there.
    target: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RecoverCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// How far all cursors move back from where the backup has them.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    rewind: Duration,
}

/// Copies the store.
pub(super) fn back_up(
    command: &BackupCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let config = check::load_with(&command.file.config, environment, Secrets::Unneeded)?;
    let made = backup::copy(&config.state.database, &command.target, SystemClock.now())?;
    if output.is_json() {
        let target = command.target.display().to_string();
        output.value(&json!({ "file": target, "bytes": made.bytes, "epoch": made.epoch.as_str() }));
    } else {
        output.line(&format!(
            "{}: {} bytes, epoch {}",
            command.target.display(),
            made.bytes,
            made.epoch
        ));
    }
    Ok(())
}

/// Recovers a restored store, which no service may have open.
pub(super) async fn recover(
    command: &RecoverCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let config = check::load_with(&command.file.config, environment, Secrets::OfState)?;
    let store = app::open_store(&config, OpenMode::Recovery)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let desk = desk(&config, Arc::new(store), &clock, &Needs::Connectors)?;
    let report = operate::recover(&desk, Epoch::drawn(rand::random()), command.rewind).await?;
    if output.is_json() {
        output.value(&report);
        return Ok(());
    }
    let header = ["connection", "feed", "backup stood at", "goes on from"];
    let stays = "as in the backup".to_owned();
    output.rows(&header, &report.feeds, |feed| {
        vec![
            feed.connection.clone(),
            feed.feed.clone(),
            feed.from.clone().unwrap_or_else(|| "-".to_owned()),
            feed.to.clone().unwrap_or_else(|| stays.clone()),
        ]
    });
    let loud = output.coloured("recovered", Colour::Red);
    output.line(&format!("{loud}: new epoch {}", report.epoch));
    output.line(&format!(
        "All numbers jump by {} ({} numberings): the gap in `sequence` is this recovery, not a loss.",
        report.numbers_jumped_by, report.numberings
    ));
    output.line(
        "What was accepted after the backup is not in it: it is found again, and comes a second time with the same id \
         under another number. Versions that the sources no longer show are not found again.",
    );
    Ok(())
}
