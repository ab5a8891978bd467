//! Leases and the fence: who may write a connection's state.

use std::collections::BTreeMap;

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, count, nanos};
use crate::domain::delivery::Fence;
use crate::store::batch::later;
use crate::store::{LeaseRequest, RenewLeases, StoreError};

/// Voids every lease: the file's lock proves that no other worker lives. Fences stay.
pub(super) fn void_all(db: &rusqlite::Connection) -> Result<(), rusqlite::Error> {
    db.execute("UPDATE connection SET holder = NULL, lease_until = NULL", [])
        .map(drop)
}

pub(super) fn acquire(
    db: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
) -> Result<Option<Fence>, Failure> {
    let mut upsert = db.prepare_cached(
        "INSERT INTO connection (name, fence, holder, lease_until) VALUES (?1, 1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET fence = fence + 1, holder = ?2, lease_until = ?3
         WHERE holder IS NULL OR holder = ?2 OR lease_until <= ?4
         RETURNING fence",
    )?;
    let until = nanos(later(now, request.ttl));
    let fence: Option<i64> = upsert
        .query_row(
            params![request.connection.as_str(), request.holder.0, until, nanos(now)],
            |row| row.get(0),
        )
        .optional()?;
    Ok(fence.map(|fence| Fence(count(fence))))
}

/// Extends all leases of a holder, in one statement.
pub(super) fn renew_all(
    db: &Connection,
    renewal: &RenewLeases,
    now: Timestamp,
) -> Result<BTreeMap<ConnectionName, Fence>, Failure> {
    let mut update =
        db.prepare_cached("UPDATE connection SET lease_until = ?2 WHERE holder = ?1 RETURNING name, fence")?;
    let mut rows = update.query(params![renewal.holder.0, nanos(later(now, renewal.ttl))])?;
    let mut renewed = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        renewed.insert(columns.connection()?, Fence(columns.count()?));
    }
    Ok(renewed)
}

pub(super) fn release(db: &Connection, connection: &ConnectionName, fence: Fence) -> Result<(), Failure> {
    if holds(db, connection, fence)? {
        db.prepare_cached("UPDATE connection SET holder = NULL, lease_until = NULL WHERE name = ?1")?
            .execute([connection.as_str()])?;
    }
    Ok(())
}

/// Refuses all but the holder of the connection's last lease.
pub(super) fn check_fence(db: &Connection, connection: &ConnectionName, fence: Fence) -> Result<(), Failure> {
    if holds(db, connection, fence)? {
        return Ok(());
    }
    Err(passed_on(connection))
}

/// The one fence check: whether this is the connection's last fence.
pub(super) fn holds(db: &Connection, connection: &ConnectionName, fence: Fence) -> Result<bool, Failure> {
    Ok(match last_fence(db, connection)? {
        Some(last) => last == fence || cfg!(sabotage = "no_fence"),
        None => false,
    })
}

/// The fence of a connection's last grant.
pub(super) fn last_fence(db: &Connection, connection: &ConnectionName) -> Result<Option<Fence>, Failure> {
    let mut select = db.prepare_cached("SELECT fence FROM connection WHERE name = ?1 AND fence > 0")?;
    let fence: Option<i64> = select
        .query_row([connection.as_str()], |row| row.get(0))
        .optional()?;
    Ok(fence.map(|fence| Fence(count(fence))))
}

/// Makes sure that a connection has its row.
pub(super) fn ensure_connection(db: &Connection, connection: &ConnectionName) -> Result<(), Failure> {
    db.prepare_cached("INSERT INTO connection (name) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute(params![connection.as_str()])?;
    Ok(())
}

fn passed_on(connection: &ConnectionName) -> Failure {
    Failure::Answer(StoreError::Fenced {
        connection: connection.clone(),
    })
}
