//! Where operating commands take their questions: to the running service, else to the store itself.

use std::sync::Arc;

use courier_sdk::Clock;

use super::{CliError, ConfigFile, check, remote};
use crate::app;
use crate::app::operate::{Needs, desk};
use crate::clock::SystemClock;
use crate::config::{Environment, Secrets};
use crate::domain::name::DestinationName;
use crate::face::control::socket_of;
use crate::operate::{self, Answer, Ask, Refusal};
use crate::store::Store;
use crate::store::sqlite::OpenMode;

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Usage(reason) => Self::Usage(reason),
            Refusal::Unknown(reason) | Refusal::Conflict(reason) => Self::Failed(reason),
            Refusal::Store(error) => Self::Store(error),
        }
    }
}

/// Asks, wherever somebody answers. A service that starts or ends has the store and no socket: that is
/// [`CliError::Store`] with the store locked.
pub(super) async fn ask(file: &ConfigFile, environment: &Environment, ask: &Ask) -> Result<Answer, CliError> {
    let config = check::load_with(&file.config, environment, Secrets::Unneeded)?;
    let database = &config.state.database;
    if let Some(answer) = remote::ask(&socket_of(database), ask).await? {
        return Ok(answer);
    }
    let needs = needs(ask);
    let config = match &needs {
        // Nobody else has the key that a sample is signed with.
        Needs::Destination(_) => check::load(&file.config, environment)?,
        // Whoever opens the store needs its key.
        Needs::Names | Needs::Connectors => check::load_with(&file.config, environment, Secrets::OfState)?,
    };
    let store: Arc<dyn Store> = if ask.only_looks() {
        Arc::new(app::open_for_reading(&config)?)
    } else {
        Arc::new(app::open_store(&config, OpenMode::Offline)?)
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let desk = desk(&config, store, &clock, &needs)?;
    let answer = operate::answer(&desk, ask).await;
    for destination in desk.destinations.values().flatten() {
        destination.close().await;
    }
    Ok(answer?)
}

fn needs(ask: &Ask) -> Needs {
    match ask {
        Ask::Cursors | Ask::SetCursor(_) => Needs::Connectors,
        // A name that is none is refused by whoever answers.
        Ask::TestDestination { destination } => {
            DestinationName::parse(destination).map_or(Needs::Names, Needs::Destination)
        }
        Ask::Events(_)
        | Ask::Event { .. }
        | Ask::Replay { .. }
        | Ask::DeadLetters(_)
        | Ask::Redrive(_)
        | Ask::Quarantine { .. }
        | Ask::RedriveQuarantine { .. }
        | Ask::Subscriptions
        | Ask::SetFlow { .. }
        | Ask::Audit { .. } => Needs::Names,
    }
}

/// An answer of another kind than the question's: a service of another version.
pub(super) fn unexpected() -> CliError {
    CliError::Failed("the running service answered something else: it is of another version".to_owned())
}
