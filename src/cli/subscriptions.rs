//! `subscriptions`: list, pause, resume.

use clap::{Args, Subcommand};

use super::desk::{ask, unexpected};
use super::output::Output;
use super::{CliError, ConfigFile};
use crate::config::Environment;
use crate::operate::ask::FlowWord;
use crate::operate::view::SubscriptionView;
use crate::operate::{Answer, Ask};

#[derive(Debug, Subcommand)]
pub(super) enum SubscriptionsCommand {
    /// Lists subscriptions with their numbers, a row for each connection.
    List(ConfigFile),
    /// Pauses a subscription: nothing of it is sent until it is resumed, its numbers go on.
    Pause(Which),
    /// Resumes a subscription: what waits is sent in its order.
    Resume(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    file: ConfigFile,
    /// The subscription.
    name: String,
}

/// Runs the command.
pub(super) async fn run(
    command: SubscriptionsCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let (which, flow) = match command {
        SubscriptionsCommand::List(file) => {
            let Answer::Subscriptions(rows) = ask(&file, environment, &Ask::Subscriptions).await? else {
                return Err(unexpected());
            };
            table(&rows, output);
            return Ok(());
        }
        SubscriptionsCommand::Pause(which) => (which, FlowWord::Paused),
        SubscriptionsCommand::Resume(which) => (which, FlowWord::Flowing),
    };
    let set = Ask::SetFlow {
        subscription: which.name,
        flow,
    };
    let Answer::Flow(set) = ask(&which.file, environment, &set).await? else {
        return Err(unexpected());
    };
    if output.is_json() {
        output.value(&set);
    } else {
        let already = if set.changed { "" } else { " already" };
        output.line(&format!("{} is{already} {}", set.subscription, word(set.state)));
    }
    Ok(())
}

fn table(rows: &[SubscriptionView], output: &mut Output) {
    let header = [
        "subscription",
        "connection",
        "destination",
        "state",
        "last_number",
        "pending",
    ];
    output.rows(&header, rows, |row| {
        let mut state = word(row.state).to_owned();
        if let Some(since) = &row.paused_since {
            state = format!("{state} since {since}");
        }
        if row.behind {
            state.push_str(", catching up");
        }
        vec![
            row.subscription.clone(),
            row.connection.clone().unwrap_or_else(|| "-".to_owned()),
            row.destination.clone(),
            state,
            row.last_number.to_string(),
            row.pending.to_string(),
        ]
    });
}

fn word(flow: FlowWord) -> &'static str {
    match flow {
        FlowWord::Flowing => "flowing",
        FlowWord::Paused => "paused",
    }
}
