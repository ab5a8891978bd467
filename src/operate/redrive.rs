//! Redrives: what was given up is owed again, slice by slice, so that the pipeline's own writes go between.
//!
//! No more is redriven than waits at the beginning: what is given up again meanwhile stays.

use courier_sdk::ConnectionName;

use super::ask::DeadLetterFilter;
use super::{Answer, Desk, Refusal, dead_letter_query};
use crate::store::{DeadLetterQuery, SLICE_ROWS_MAX};

/// Owes dead letters again, oldest first.
pub(super) async fn dead_letters(desk: &Desk, filter: &DeadLetterFilter) -> Result<Answer, Refusal> {
    let query = dead_letter_query(filter)?;
    let waiting: u64 = desk
        .store
        .depths()
        .await?
        .values()
        .map(|depths| depths.dead)
        .sum();
    let asked = match query.limit {
        0 => waiting,
        limit => waiting.min(limit as u64),
    };
    let now = desk.clock.now();
    let mut redriven = 0;
    while redriven < asked {
        let rest = usize::try_from(asked - redriven).unwrap_or(SLICE_ROWS_MAX);
        let slice = DeadLetterQuery {
            limit: rest.min(SLICE_ROWS_MAX),
            ..query.clone()
        };
        let taken = desk.store.redrive(&slice, now).await?;
        redriven += taken;
        if taken < slice.limit as u64 {
            break;
        }
    }
    if redriven == 0 {
        desk.know_destination(query.destination.as_ref())?;
        desk.know_subscription(query.subscription.as_ref())?;
    }
    Ok(Answer::Redriven(redriven))
}

/// Puts a connection's quarantined changes back, oldest first.
pub(super) async fn quarantine(desk: &Desk, connection: &str) -> Result<Answer, Refusal> {
    let connection = ConnectionName::parse(connection)?;
    let waiting = desk.store.backlog(&connection).await?.quarantine;
    let now = desk.clock.now();
    let mut redriven = 0;
    while redriven < waiting {
        let taken = desk.store.redrive_quarantine(&connection, now).await?;
        redriven += taken;
        if taken < SLICE_ROWS_MAX as u64 {
            break;
        }
    }
    if redriven == 0 {
        desk.know_connection(Some(&connection))?;
    }
    Ok(Answer::Redriven(redriven))
}
