//! `cursors`: show, set.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::desk::{ask, unexpected};
use super::output::{Colour, Output};
use super::{CliError, ConfigFile, duration};
use crate::config::Environment;
use crate::operate::ask::{SetCursor, Skip, Target};
use crate::operate::view::{BackfillView, CursorMove};
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum CursorsCommand {
    /// Shows how far each feed has been handed over.
    Show(ConfigFile),
    /// Moves a feed's cursor. The running poll ends; what the feed shows again and is known is not announced again.
    Set(Move),
}

#[derive(Debug, Args)]
pub(super) struct Move {
    #[command(flatten)]
    file: ConfigFile,
    /// The connection.
    #[arg(long)]
    connection: String,
    /// The feed.
    #[arg(long)]
    feed: String,
    #[command(flatten)]
    aim: Aim,
    /// Move forward even though what changed in between and was not seen is never announced.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Aim {
    /// To this instant by the source's clock (RFC 3339).
    #[arg(long, value_name = "INSTANT")]
    to: Option<Timestamp>,
    /// Back by so long from where it stands (`30m`, `2h`, `7d`).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    back: Option<Duration>,
}

/// Runs the command.
pub(super) async fn run(
    command: CursorsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        CursorsCommand::Show(file) => {
            let Answer::Cursors(rows) = ask(&file, environment, &Ask::Cursors).await? else {
                return Err(unexpected());
            };
            let header = [
                "connection",
                "feed",
                "cursor",
                "fresh_as_of",
                "advanced_at",
                "overlap",
                "found",
                "stage",
                "backfill",
            ];
            let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            output.rows(&header, &rows, |row| {
                vec![
                    row.connection.clone(),
                    row.feed.clone(),
                    dash(&row.cursor),
                    dash(&row.fresh_as_of),
                    dash(&row.advanced_at),
                    row.overlap_seconds
                        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
                    row.found.to_string(),
                    dash(&row.stage),
                    dash(&row.backfill.as_ref().map(in_words)),
                ]
            });
            Ok(())
        }
        CursorsCommand::Set(moved) => {
            let target = match (moved.aim.to, moved.aim.back) {
                (Some(to), _) => Target::To(to.to_string()),
                (None, Some(by)) => Target::Back(by),
                (None, None) => return Err(CliError::Usage("say --to or --back".to_owned())),
            };
            let set = Ask::SetCursor(SetCursor {
                connection: moved.connection,
                feed: moved.feed,
                target,
                skip: if moved.yes { Skip::Meant } else { Skip::Refuse },
            });
            let Answer::CursorSet(set) = ask(&moved.file, environment, &set).await? else {
                return Err(unexpected());
            };
            say(&set, output);
            Ok(())
        }
    }
}

/// A backfill's state and its share of the time, where that is known.
fn in_words(backfill: &BackfillView) -> String {
    match backfill.percent {
        Some(percent) => format!("{} {percent}%", backfill.state),
        None => backfill.state.clone(),
    }
}

fn say(set: &CursorMove, output: &mut Output) {
    if output.is_json() {
        output.value(set);
        return;
    }
    let from = set.from.as_deref().unwrap_or("nowhere");
    output.line(&format!(
        "{}/{}: from {from} to {}",
        set.connection, set.feed, set.to
    ));
    if set.skipped {
        let loud = output.coloured("skipped", Colour::Red);
        output.line(&format!(
            "{loud}: what changed in between and was not seen is never announced"
        ));
    }
    if set.backfill {
        output.line(
            "its backfill goes on where it is; the feed itself brings what lies between its cursor and now",
        );
    }
}
