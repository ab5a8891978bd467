//! Atomic point 2: changes are claimed, fetched and settled, or given up into quarantine.

use courier_sdk::{ConnectionName, FeedName, RecordKey};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params, params_from_iter};

use super::connection::Connection;
use super::intake::{self};
use super::rows::{
    CHANGE_COLUMNS, Columns, Failure, baseline_word, change_values, instant, nanos, stored, text,
};
use super::{feed, lease, ledger_rows, quarantine, stage};
use crate::domain::event::{Change, Timeliness};
use crate::domain::ledger::{Baseline, Source};
use crate::store::batch::{
    Arrival, Batch, Bounds, Effect, INCOMPLETE_RETRIED_AFTER, change_bytes, has_replaced, known_id, later,
    must_be_read, settling_source,
};
use crate::store::{ClaimChanges, ClaimedChange, InboxId, SettleChanges, SettleResult, Settled, Settlement};

/// Puts a change into the inbox; a further showing of one that waits there raises that row's generation, even
/// while it is claimed.
pub(super) fn put(db: &Connection, batch: &Batch<'_>, arrival: &Arrival) -> Result<(), Failure> {
    let (change, fresh_as_of) = arrival;
    if let Some(id) = waiting_row(db, batch.connection, change)? {
        return show_again(db, batch, id, arrival);
    }
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO inbox (connection, feed, fresh_as_of, baseline, due_at, written_at, generation, attempts, claims,
             {CHANGE_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1, 0, 0, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
    ))?;
    let own = [
        text(batch.connection.as_str()),
        text(batch.feed.as_str()),
        Value::Integer(nanos(*fresh_as_of)),
        text(baseline_word(batch.baseline)),
        Value::Integer(nanos(batch.at)),
    ];
    insert.execute(params_from_iter(own.into_iter().chain(change_values(
        db,
        batch.connection,
        change,
    )?)))?;
    Ok(())
}

/// The row that a change is a further showing of: by event id where that is known, else the last unnamed one of
/// the record if it carries the same content (or, like this one, none).
fn waiting_row(
    db: &Connection,
    connection: &ConnectionName,
    change: &Change,
) -> Result<Option<i64>, Failure> {
    if let Some(id) = known_id(change) {
        let mut by_id = db.prepare_cached("SELECT id FROM inbox WHERE connection = ?1 AND event_id = ?2")?;
        let found = by_id
            .query_row([connection.as_str(), id.as_str()], |row| row.get(0))
            .optional()?;
        return Ok(found);
    }
    let mut last = db.prepare_cached(
        "SELECT id, hash IS ?4 FROM inbox
         WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3 AND event_id IS NULL ORDER BY id DESC LIMIT 1",
    )?;
    let hash = change.content.as_ref().map(|content| content.hash.as_str());
    let key = &change.key;
    let found: Option<(i64, bool)> = last
        .query_row(
            params![
                connection.as_str(),
                key.record_type.as_str(),
                key.id.as_str(),
                hash
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    Ok(found.and_then(|(id, same)| same.then_some(id)))
}

fn show_again(
    db: &Connection,
    batch: &Batch<'_>,
    id: i64,
    (change, fresh_as_of): &Arrival,
) -> Result<(), Failure> {
    // A row that failed waits its back-off out: the source shows it at every poll.
    let mut update = db.prepare_cached(
        "UPDATE inbox SET fresh_as_of = ?2, generation = generation + 1,
             due_at = CASE attempts WHEN 0 THEN ?3 ELSE due_at END,
             record_type = ?4, record_id = ?5, shown = ?6,
             novelty = CASE WHEN novelty = 'announce' THEN novelty ELSE ?7 END,
             version_id = ?8, clue = ?9, version = ?10, event_id = ?11, order_number = ?12, order_stamp = ?13,
             first_version = ?14, hash = coalesce(?15, hash), body = coalesce(?16, body),
             meaning = CASE WHEN ?15 IS NULL THEN meaning ELSE ?17 END, trace = coalesce(trace, ?18)
         WHERE id = ?1",
    )?;
    let own = [
        Value::Integer(id),
        Value::Integer(nanos(*fresh_as_of)),
        Value::Integer(nanos(batch.at)),
    ];
    update.execute(params_from_iter(own.into_iter().chain(change_values(
        db,
        batch.connection,
        change,
    )?)))?;
    Ok(())
}

pub(super) fn claim(db: &Connection, claim: &ClaimChanges) -> Result<Vec<ClaimedChange>, Failure> {
    lease::check_fence(db, &claim.connection, claim.fence)?;
    let mut bounds = Bounds::new(claim.limit);
    let mut claimed = Vec::new();
    if claim_of(db, claim, "NOT IN", (&mut bounds, &mut claimed))? && !claim.last.is_empty() {
        claim_of(db, claim, "IN", (&mut bounds, &mut claimed))?;
    }
    let mut update =
        db.prepare_cached("UPDATE inbox SET claimed_fence = ?2, claims = claims + 1 WHERE id = ?1")?;
    for one in &claimed {
        update.execute([stored(one.id.0), stored(claim.fence.0)])?;
    }
    Ok(claimed)
}

/// Claims changes of the feeds that give way (`IN`), or of all others (`NOT IN`); answers whether there is room for more.
fn claim_of(
    db: &Connection,
    claim: &ClaimChanges,
    of_those: &'static str,
    (bounds, claimed): (&mut Bounds, &mut Vec<ClaimedChange>),
) -> Result<bool, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT id, generation, feed, fresh_as_of, attempts, claims, {CHANGE_COLUMNS}
         FROM inbox AS front INDEXED BY inbox_in_order
         WHERE connection = ?1 AND due_at <= ?2 AND claimed_fence IS NOT ?3
             AND feed {of_those} (SELECT value FROM json_each(?4))
             AND NOT EXISTS (SELECT 1 FROM inbox AS other INDEXED BY inbox_by_record
                             WHERE other.connection = front.connection AND other.record_type = front.record_type
                                 AND other.record_id = front.record_id AND other.id < front.id)
         ORDER BY id"
    ))?;
    let last: Vec<&str> = claim.last.iter().map(FeedName::as_str).collect();
    let mut rows = select.query(params![
        claim.connection.as_str(),
        nanos(claim.at),
        stored(claim.fence.0),
        serde_json::to_string(&last).map_err(Failure::engine)?
    ])?;
    while claimed.len() < claim.limit
        && let Some(row) = rows.next()?
    {
        let mut columns = Columns::of(row);
        let mut one = ClaimedChange {
            id: InboxId(columns.count()?),
            generation: columns.count()?,
            feed: columns.feed()?,
            fresh_as_of: columns.instant()?,
            attempts: columns.small_count()?,
            claims: columns.small_count()?.saturating_add(1),
            change: columns.change(db, &claim.connection)?,
            head: None,
        };
        // A row whose last claim ended without a word may have killed its worker: it goes alone, so that it is found
        // out and its neighbours are not blamed.
        let suspect = one.claims > 1;
        if suspect && !claimed.is_empty() {
            continue;
        }
        if !bounds.admit(change_bytes(&one.change)) {
            return Ok(false);
        }
        if must_be_read(&one.change) {
            one.head = ledger_rows::head(db, &claim.connection, &one.change.key)?;
        }
        claimed.push(one);
        if suspect {
            return Ok(false);
        }
    }
    Ok(claimed.len() < claim.limit)
}

pub(super) fn next_due(db: &Connection, connection: &ConnectionName) -> Result<Option<Timestamp>, Failure> {
    let mut select =
        db.prepare_cached("SELECT min(due_at) FROM inbox INDEXED BY inbox_in_order WHERE connection = ?1")?;
    let due: Option<i64> = select.query_row([connection.as_str()], |row| row.get(0))?;
    Ok(due.map(instant))
}

pub(super) fn settle(db: &Connection, settle: &SettleChanges) -> Result<Settled, Failure> {
    lease::check_fence(db, &settle.connection, settle.fence)?;
    let mut settled = Settled::default();
    for settlement in &settle.settlements {
        let Some(row) = claimed_row(db, settle, settlement.id)? else {
            continue;
        };
        match &settlement.result {
            SettleResult::Fetched(change)
            | SettleResult::Stands(change)
            | SettleResult::Deleted(change)
            | SettleResult::Unavailable(change) => {
                settle_found(db, (settle, settlement), &row, change, &mut settled)?;
            }
            SettleResult::RetryAt { due_at, reason } => retry(db, settlement.id, *due_at, Some(reason))?,
            SettleResult::Keep {
                change,
                due_at,
                reason,
            } => {
                if settle_kept(db, (settle, settlement), &row, change, &mut settled)? {
                    match reason {
                        Some(_) => retry(db, settlement.id, *due_at, reason.as_ref())?,
                        None => release(db, settlement.id, *due_at)?,
                    }
                }
            }
            SettleResult::Release { due_at } => release(db, settlement.id, *due_at)?,
            SettleResult::Quarantine { reason } => {
                give_up(db, (settle, settlement), &row, reason, &mut settled)?;
            }
        }
    }
    Ok(settled)
}

/// A row that is claimed under the settling fence.
struct InboxRow {
    feed: FeedName,
    fresh_as_of: Timestamp,
    generation: u64,
    baseline: Baseline,
    change: Change,
}

fn claimed_row(db: &Connection, settle: &SettleChanges, id: InboxId) -> Result<Option<InboxRow>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT feed, fresh_as_of, generation, baseline, {CHANGE_COLUMNS} FROM inbox
         WHERE id = ?1 AND connection = ?2 AND claimed_fence = ?3"
    ))?;
    let mut rows = select.query(params![
        stored(id.0),
        settle.connection.as_str(),
        stored(settle.fence.0)
    ])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut columns = Columns::of(row);
    Ok(Some(InboxRow {
        feed: columns.feed()?,
        fresh_as_of: columns.instant()?,
        generation: columns.count()?,
        baseline: columns.baseline()?,
        change: columns.change(db, &settle.connection)?,
    }))
}

fn settle_found(
    db: &Connection,
    (settle, settlement): (&SettleChanges, &Settlement),
    row: &InboxRow,
    change: &Change,
    settled: &mut Settled,
) -> Result<(), Failure> {
    if let SettleResult::Deleted(_) = &settlement.result
        && holds_a_record_beside(db, &settle.connection, settlement.id, &change.key)?
    {
        // What was shown before the read is told of before the delete.
        settled.shown_again += 1;
        return line_up_again(db, settlement.id, settle.at);
    }
    let batch = Batch {
        connection: &settle.connection,
        feed: &row.feed,
        source: settling_source(&row.change),
        baseline: baseline_of(db, settle, row)?,
        unchanged: settle.unchanged_of(&row.feed),
        at: settle.at,
    };
    let unavailable = matches!(settlement.result, SettleResult::Unavailable(_));
    let arrival = (change.clone(), row.fresh_as_of);
    for written in intake::decide_and_write(db, &batch, std::slice::from_ref(&arrival))? {
        match written.effect {
            Effect::Appended(timeliness) => {
                settled.appended += 1;
                settled.late += u64::from(timeliness == Timeliness::Late);
            }
            Effect::Known => settled.known += 1,
            Effect::Unchanged => settled.unchanged += 1,
            Effect::Silenced | Effect::Refused | Effect::Doubted => {}
            Effect::Enqueued => {
                return retry(
                    db,
                    settlement.id,
                    later(settle.at, INCOMPLETE_RETRIED_AFTER),
                    None,
                );
            }
        }
        // A row whose record came along meanwhile is not superseded: that record is still to be told of.
        if let Some(asked_for) = known_id(&row.change)
            && written.id.as_ref() != Some(asked_for)
            && row.change.content.is_none()
        {
            if !unavailable && !has_replaced(change, &row.change) {
                // An older answer, as far as anybody knows: what was asked for is still to come.
                settled.ids.extend(written.id);
                let due_at = later(settle.at, INCOMPLETE_RETRIED_AFTER);
                return retry(db, settlement.id, due_at, None);
            }
            if !stage::holds(db, &settle.connection, &row.change)? {
                ledger_rows::accept(db, &settle.connection, asked_for, row.change.order, settle.at)?;
                settled.superseded += u64::from(!unavailable);
            }
        }
        settled.ids.extend(written.id);
    }
    let shown_again = row.generation != settlement.generation;
    if shown_again && !cfg!(sabotage = "inbox_row_without_a_generation") {
        settled.shown_again += 1;
        if row.change.content.is_some() {
            // What came with its record is not read again: it is known, and must not stand behind what came later.
            return release(db, settlement.id, settle.at);
        }
        return line_up_again(db, settlement.id, settle.at);
    }
    remove(db, settlement.id)
}

/// Leaves a row with what was read for it; answers whether it stays, and not another one that waits for the same.
fn settle_kept(
    db: &Connection,
    (settle, settlement): (&SettleChanges, &Settlement),
    row: &InboxRow,
    change: &Change,
    settled: &mut Settled,
) -> Result<bool, Failure> {
    let connection = &settle.connection;
    let unnamed = known_id(&row.change).is_none();
    let replaced = !unnamed && known_id(&row.change) != known_id(change);
    // Its record came along meanwhile, or it was not what was read: it is told of for itself.
    let stands_apart = replaced && (row.change.content.is_some() || !has_replaced(change, &row.change));
    if replaced
        && !stands_apart
        && let Some(id) = known_id(&row.change)
        && !stage::holds(db, connection, &row.change)?
    {
        ledger_rows::accept(db, connection, id, row.change.order, settle.at)?;
        settled.superseded += 1;
    }
    let batch = Batch {
        connection,
        feed: &row.feed,
        source: Source::Inbox,
        baseline: row.baseline,
        unchanged: settle.unchanged_of(&row.feed),
        at: settle.at,
    };
    let waits = waiting_row(db, connection, change)?.is_some_and(|id| id != stored(settlement.id.0));
    let stays = stands_apart || !waits;
    if stands_apart || !stays {
        put(db, &batch, &(change.clone(), row.fresh_as_of))?;
    } else {
        keep(db, connection, settlement.id, change)?;
    }
    if !stays {
        remove(db, settlement.id)?;
    }
    // What was read may be older than a showing from meanwhile, which is then read for itself.
    if unnamed && row.generation != settlement.generation {
        put(db, &batch, &(row.change.clone(), row.fresh_as_of))?;
        settled.shown_again += 1;
    }
    Ok(stays)
}

/// Takes what was read for a row; what is announced stays announced.
fn keep(db: &Connection, connection: &ConnectionName, id: InboxId, read: &Change) -> Result<(), Failure> {
    let mut update = db.prepare_cached(
        "UPDATE inbox SET record_type = ?2, record_id = ?3, shown = ?4,
             novelty = CASE WHEN novelty = 'announce' THEN novelty ELSE ?5 END,
             version_id = ?6, clue = ?7, version = ?8, event_id = ?9, order_number = ?10, order_stamp = ?11,
             first_version = ?12, hash = ?13, body = ?14, meaning = ?15, trace = coalesce(trace, ?16)
         WHERE id = ?1",
    )?;
    let values = change_values(db, connection, read)?;
    update.execute(params_from_iter(
        std::iter::once(Value::Integer(stored(id.0))).chain(values),
    ))?;
    Ok(())
}

/// A first sight is a creation only if the baseline was complete when the change was shown, and still is.
fn baseline_of(db: &Connection, settle: &SettleChanges, row: &InboxRow) -> Result<Baseline, Failure> {
    match row.baseline {
        Baseline::Unproven | Baseline::Forfeited => Ok(Baseline::Unproven),
        Baseline::Complete => Ok(feed::load(db, &settle.connection, &row.feed)?.baseline),
    }
}

fn give_up(
    db: &Connection,
    (settle, settlement): (&SettleChanges, &Settlement),
    row: &InboxRow,
    reason: &str,
    settled: &mut Settled,
) -> Result<(), Failure> {
    // Shown again while it was given up, perhaps with its record: the next tries are for that showing.
    let shown_again = row.generation != settlement.generation;
    if shown_again || row.change.content.is_some() {
        settled.shown_again += 1;
        db.prepare_cached("UPDATE inbox SET attempts = 0 WHERE id = ?1")?
            .execute([stored(settlement.id.0)])?;
        return line_up_again(db, settlement.id, settle.at);
    }
    remove(db, settlement.id)?;
    if let Some(id) = known_id(&row.change) {
        if ledger_rows::shown_at(db, &settle.connection, id)?.is_some() {
            // It came by another way meanwhile: there is nothing left to give up.
            settled.known += 1;
            return Ok(());
        }
        // An id in quarantine is not new.
        ledger_rows::accept(db, &settle.connection, id, row.change.order, settle.at)?;
    }
    let entry = quarantine::Entry {
        connection: &settle.connection,
        feed: &row.feed,
        change: &row.change,
        fresh_as_of: row.fresh_as_of,
        baseline: row.baseline,
        reason,
        at: settle.at,
    };
    settled.quarantined += u64::from(quarantine::put(db, &entry)?);
    Ok(())
}

fn retry(db: &Connection, id: InboxId, due_at: Timestamp, reason: Option<&String>) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE inbox SET attempts = attempts + 1, claims = 0, due_at = ?2, claimed_fence = NULL, last_reason = ?3
         WHERE id = ?1",
    )?
    .execute(params![stored(id.0), nanos(due_at), reason])?;
    Ok(())
}

/// A polite end is no killed worker.
fn release(db: &Connection, id: InboxId, due_at: Timestamp) -> Result<(), Failure> {
    db.prepare_cached("UPDATE inbox SET due_at = ?2, claimed_fence = NULL, claims = 0 WHERE id = ?1")?
        .execute([stored(id.0), nanos(due_at)])?;
    Ok(())
}

/// Whether another row of a record waits that came with its record.
fn holds_a_record_beside(
    db: &Connection,
    connection: &ConnectionName,
    id: InboxId,
    key: &RecordKey,
) -> Result<bool, Failure> {
    let mut select = db.prepare_cached(
        "SELECT 1 FROM inbox WHERE connection = ?1 AND record_type = ?2 AND record_id = ?3 AND id <> ?4 AND body IS NOT NULL",
    )?;
    Ok(select.exists(params![
        connection.as_str(),
        key.record_type.as_str(),
        key.id.as_str(),
        stored(id.0)
    ])?)
}

/// Releases a row that was shown again meanwhile behind all others: left in front, records that every poll shows anew
/// would be read again and again, and those behind them never.
fn line_up_again(db: &Connection, id: InboxId, due_at: Timestamp) -> Result<(), Failure> {
    // By the sequence, not by the greatest id there is: no id is given twice.
    db.prepare_cached("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'inbox'")?
        .execute([])?;
    db.prepare_cached(
        "UPDATE inbox SET id = (SELECT seq FROM sqlite_sequence WHERE name = 'inbox'),
             due_at = ?2, claimed_fence = NULL, claims = 0
         WHERE id = ?1",
    )?
    .execute([stored(id.0), nanos(due_at)])?;
    Ok(())
}

fn remove(db: &Connection, id: InboxId) -> Result<(), Failure> {
    db.prepare_cached("DELETE FROM inbox WHERE id = ?1")?
        .execute([stored(id.0)])?;
    Ok(())
}
