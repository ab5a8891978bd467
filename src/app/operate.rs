//! What operating commands need where no service answers for them: a desk over the store itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use courier_sdk::Clock;

use super::{AppError, Clients, connection, outlet};
use crate::config::Config;
use crate::domain::name::DestinationName;
use crate::operate::Desk;
use crate::pipeline::watch::Labels;
use crate::store::Store;

/// Which parts of the configuration a question needs at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// Names only.
    Names,
    /// Whoever reads cursors.
    Connectors,
    /// One destination, with its secret.
    Destination(DestinationName),
}

/// Makes a desk of a configuration and a store.
///
/// # Errors
/// [`AppError::Compose`] when what is needed cannot be set up.
pub fn desk(
    config: &Config,
    store: Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    needs: &Needs,
) -> Result<Desk, AppError> {
    let mut clients = Clients::default();
    let mut connectors = BTreeMap::new();
    if *needs == Needs::Connectors {
        for entry in config.connections.values() {
            let made = connection(entry, clock, &Labels::default(), &mut clients)?;
            connectors.insert(entry.name.clone(), Arc::clone(&made.connector));
        }
    }
    let mut destinations = BTreeMap::new();
    for entry in config.destinations.values() {
        let sender = if *needs == Needs::Destination(entry.name.clone()) {
            Some(Arc::clone(
                &outlet(entry, &Labels::default(), &mut clients)?.destination,
            ))
        } else {
            None
        };
        destinations.insert(entry.name.clone(), sender);
    }
    let feeds =
        |entry: &crate::config::Connection| entry.feeds.iter().map(|feed| feed.name.clone()).collect();
    let (mut overlaps, mut starts) = (BTreeMap::new(), BTreeMap::new());
    for entry in config.connections.values() {
        for feed in &entry.feeds {
            let place = (entry.name.clone(), feed.name.clone());
            starts.insert(place.clone(), feed.start);
            overlaps.insert(place, feed.overlap);
        }
    }
    Ok(Desk {
        store,
        clock: Arc::clone(clock),
        connections: config
            .connections
            .values()
            .map(|entry| (entry.name.clone(), feeds(entry)))
            .collect(),
        connectors,
        overlaps,
        starts,
        destinations,
        subscriptions: config.subscriptions.values().cloned().collect(),
    })
}
