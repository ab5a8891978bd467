//! What operators change: pauses, recoveries, and the trail that is left of it.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, nanos, row_limit, stored};
use super::{define, feed};
use crate::domain::name::SubscriptionName;
use crate::store::{
    AUDIT_ROWS_MAX, AuditRow, Epoch, Flow, PauseRow, Recovered, Recovery, SetFlow, StageState,
};

pub(super) fn set_flow(db: &Connection, set: &SetFlow) -> Result<(), Failure> {
    let name = &set.subscription;
    let action = match set.flow {
        Flow::Paused => {
            let mut in_force = define::subscriptions(db)?.into_iter();
            if !in_force.any(|subscription| subscription.name == *name) {
                return Err(Failure::refused(format!(
                    "no subscription named {name} is in force"
                )));
            }
            if !pause(db, name, set.at)? {
                return Ok(());
            }
            "subscriptions pause"
        }
        Flow::Flowing => {
            if !resume(db, name, set.at)? {
                return Ok(());
            }
            "subscriptions resume"
        }
    };
    note(db, action, (name.as_str(), ""), set.at)
}

/// Answers whether that changed anything.
fn pause(db: &Connection, name: &SubscriptionName, at: Timestamp) -> Result<bool, Failure> {
    let paused = db
        .prepare_cached("INSERT INTO pause (subscription, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![name.as_str(), nanos(at)])?;
    db.prepare_cached(
        "UPDATE delivery SET ready = 0 WHERE subscription = ?1 AND state = 'pending' AND ready = 1",
    )?
    .execute([name.as_str()])?;
    Ok(paused > 0)
}

/// Answers whether that changed anything. The time of the pause counts in no retry schedule, and what was never attempted
/// takes its place behind what is due by now.
fn resume(db: &Connection, name: &SubscriptionName, at: Timestamp) -> Result<bool, Failure> {
    let since: Option<i64> = db
        .prepare_cached("DELETE FROM pause WHERE subscription = ?1 RETURNING since")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    let Some(since) = since else {
        return Ok(false);
    };
    db.prepare_cached(
        "UPDATE delivery SET scheduled_from = scheduled_from + max(0, ?3 - max(scheduled_from, ?2)),
             due_at = CASE attempts WHEN 0 THEN max(due_at, ?3) ELSE due_at END
         WHERE subscription = ?1 AND state = 'pending'",
    )?
    .execute(params![name.as_str(), since, nanos(at)])?;
    // SQLite takes a bare column beside a single min() from the row that has the minimum.
    db.prepare_cached(
        "UPDATE delivery SET ready = 1 WHERE id IN (
             SELECT id FROM (SELECT id, min(number) FROM delivery WHERE subscription = ?1 AND state = 'pending'
                             GROUP BY connection, record_type, record_id))",
    )?
    .execute([name.as_str()])?;
    Ok(true)
}

pub(super) fn paused(db: &Connection) -> Result<Vec<PauseRow>, Failure> {
    let mut select = db.prepare_cached("SELECT subscription, since FROM pause ORDER BY subscription")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        found.push(PauseRow {
            subscription: columns.subscription()?,
            since: columns.instant()?,
        });
    }
    Ok(found)
}

pub(super) fn epoch(db: &rusqlite::Connection) -> Result<Epoch, Failure> {
    let mut select = db.prepare_cached("SELECT epoch FROM store")?;
    Ok(Epoch::from_stored(select.query_row([], |row| row.get(0))?))
}

pub(super) fn recover(db: &Connection, recovery: &Recovery) -> Result<Recovered, Failure> {
    db.execute(
        "UPDATE store SET epoch = ?1, copied_at = NULL",
        [recovery.epoch.as_str()],
    )?;
    for row in feed::cursors(db)? {
        let mut ended = feed::load(db, &row.connection, &row.feed)?;
        ended.end_poll(db, &row.connection, &row.feed)?;
        feed::save(db, &row.connection, &row.feed, &ended)?;
    }
    let mut recovered = Recovered::default();
    for (connection, name, cursor) in &recovery.cursors {
        if !feed::exists(db, connection, name)? {
            continue;
        }
        let mut moved = feed::load(db, connection, name)?;
        match (moved.state.stage, &mut moved.after_stage) {
            (StageState::Releasing, Some(end)) => end.cursor = cursor.clone(),
            (_, _) => moved.state.cursor = Some(cursor.clone()),
        }
        moved.state.advanced_at = Some(recovery.at);
        feed::save(db, connection, name, &moved)?;
        recovered.cursors += 1;
    }
    let jumped = db.execute(
        "UPDATE standing SET last_number = last_number + ?1",
        [stored(recovery.numbers)],
    )?;
    recovered.numberings = jumped as u64;
    let subject = format!("epoch {}", recovery.epoch);
    note(db, "recover", (&subject, &recovery.note), recovery.at)?;
    Ok(recovered)
}

pub(super) fn audit(db: &Connection, limit: usize) -> Result<Vec<AuditRow>, Failure> {
    let mut select =
        db.prepare_cached("SELECT at, action, subject, detail FROM audit ORDER BY id DESC LIMIT ?1")?;
    let mut rows = select.query([row_limit(limit)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        found.push(AuditRow {
            at: columns.instant()?,
            action: columns.text()?,
            subject: columns.text()?,
            detail: columns.text()?,
        });
    }
    Ok(found)
}

/// Leaves a trail of an operator's word.
pub(super) fn note(
    db: &Connection,
    action: &str,
    (subject, detail): (&str, &str),
    at: Timestamp,
) -> Result<(), Failure> {
    db.prepare_cached("INSERT INTO audit (at, action, subject, detail) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![nanos(at), action, subject, detail])?;
    db.prepare_cached("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?1")?
        .execute([stored(AUDIT_ROWS_MAX)])?;
    Ok(())
}
