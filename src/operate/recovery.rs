//! Recovery: what makes a restored backup a store to go on with. It is never asked of a running service.

use std::time::Duration;

use courier_sdk::{ConnectionName, FeedName};
use serde::Serialize;

use super::cursors::stands_at;
use super::{Desk, Refusal};
use crate::store::{CursorRow, Epoch, Recovery};

/// How far numbers jump: nothing that was given out between the backup and the accident reaches so far, so that no
/// receiver sees a number twice with another event.
pub const NUMBERS_JUMP: u64 = 1_000_000;

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// The new epoch.
    pub epoch: String,
    /// Numberings (a subscription on a connection) that jumped.
    pub numberings: u64,
    /// How far.
    pub numbers_jumped_by: u64,
    /// The feeds, in the order of their names.
    pub feeds: Vec<RewoundFeed>,
}

/// Where a recovery left one feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RewoundFeed {
    /// The connection.
    pub connection: String,
    /// The feed.
    pub feed: String,
    /// Where the backup had its cursor.
    pub from: Option<String>,
    /// Where it stands now; absent where it could not be moved and stays as the backup has it.
    pub to: Option<String>,
}

/// Recovers a restored store: a new epoch, all cursors back by `rewind`, numbers up by [`NUMBERS_JUMP`].
///
/// # Errors
/// [`Refusal::Store`] only.
pub async fn recover(desk: &Desk, epoch: Epoch, rewind: Duration) -> Result<RecoveryReport, Refusal> {
    let mut cursors = Vec::new();
    let mut feeds = Vec::new();
    for row in desk.store.cursors().await? {
        let rewound = rewound(desk, &row, rewind);
        let connector = desk.connectors.get(&row.connection);
        let to = connector
            .zip(rewound.as_ref())
            .and_then(|(it, cursor)| it.describe(&cursor.2));
        feeds.push(RewoundFeed {
            connection: row.connection.to_string(),
            feed: row.feed.to_string(),
            from: stands_at(desk, &row.connection, &row.state).map(|at| at.to_string()),
            to: to.map(|at| at.to_string()),
        });
        cursors.extend(rewound);
    }
    let recovery = Recovery {
        epoch,
        cursors,
        numbers: NUMBERS_JUMP,
        note: format!(
            "cursors back by {} s, numbers up by {NUMBERS_JUMP}",
            rewind.as_secs()
        ),
        at: desk.clock.now(),
    };
    let recovered = desk.store.recover(&recovery).await?;
    Ok(RecoveryReport {
        epoch: recovery.epoch.to_string(),
        numberings: recovered.numberings,
        numbers_jumped_by: NUMBERS_JUMP,
        feeds,
    })
}

fn rewound(
    desk: &Desk,
    row: &CursorRow,
    by: Duration,
) -> Option<(ConnectionName, FeedName, courier_sdk::Cursor)> {
    let connector = desk.connectors.get(&row.connection)?;
    let cursor = connector.rewound(row.state.cursor.as_ref()?, by)?;
    Some((row.connection.clone(), row.feed.clone(), cursor))
}
