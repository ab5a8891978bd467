//! Atomic point 4: deliveries are claimed, attempted and recorded.
//!
//! Claims live in memory: they are this process's alone and end with it. Beside the front's mark in the row they
//! keep a line to one attempt at a time, also when a row before the claimed one is owed again meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::params;

use super::connection::Connection;
use super::outbox_rows::{self, Line};
use super::rows::{Columns, Failure, nanos, stored};
use super::{define, lease};
use crate::domain::delivery::{
    AttemptOutcome, AttemptRecord, ClaimedDelivery, DeliveryId, DeliveryState, Fence,
};
use crate::domain::name::DestinationName;
use crate::store::batch::Bounds;
use crate::store::{ClaimDeliveries, DueDestinations, Holder, Recorded};

/// The deliveries that this process is attempting.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<ClaimTable>>);

#[derive(Default)]
struct ClaimTable {
    by_delivery: BTreeMap<DeliveryId, (Fence, Line)>,
    /// The claimed delivery of each line.
    by_line: BTreeMap<Line, DeliveryId>,
}

impl Claims {
    /// Whether a row is being attempted: the cheap part of the question that [`Claims::is_busy`] answers.
    fn holds(&self, id: DeliveryId, fence: Fence) -> bool {
        let table = self.table();
        let claim = table.by_delivery.get(&id);
        claim.is_some_and(|(claimed, _)| *claimed == fence)
    }

    /// Whether a row of the line is being attempted; a claim under an earlier fence is void.
    fn is_busy(&self, line: &Line, fence: Fence) -> bool {
        let table = self.table();
        let claim = table.by_line.get(line).and_then(|id| table.by_delivery.get(id));
        claim.is_some_and(|(claimed, _)| *claimed == fence)
    }

    fn insert(&self, id: DeliveryId, fence: Fence, line: Line) {
        let mut table = self.table();
        table.by_line.insert(line.clone(), id);
        table.by_delivery.insert(id, (fence, line));
    }

    fn end(&self, id: DeliveryId, fence: Fence) {
        let mut table = self.table();
        if table
            .by_delivery
            .get(&id)
            .is_none_or(|(claimed, _)| *claimed != fence)
        {
            return;
        }
        if let Some((_, line)) = table.by_delivery.remove(&id)
            && table.by_line.get(&line) == Some(&id)
        {
            table.by_line.remove(&line);
        }
    }

    /// The deliveries that are being attempted.
    pub(super) fn ids(&self) -> Vec<DeliveryId> {
        self.table().by_delivery.keys().copied().collect()
    }

    fn table(&self) -> MutexGuard<'_, ClaimTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claimed deliveries on their way to the caller. Dropped on the way, because the caller is gone, they are free.
pub(super) struct Handover {
    claims: Claims,
    claimed: Vec<ClaimedDelivery>,
}

impl Handover {
    /// Takes the deliveries: the caller answers for them from now on.
    pub(super) fn take(mut self) -> Vec<ClaimedDelivery> {
        std::mem::take(&mut self.claimed)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        for one in &self.claimed {
            self.claims.end(one.delivery.id, one.fence);
        }
    }
}

/// Fronts of one destination's lines on connections that a holder leases.
const FRONTS: &str =
    "SELECT d.id, c.fence, d.due_at, d.subscription, d.connection, d.record_type, d.record_id
     FROM delivery AS d INDEXED BY delivery_due CROSS JOIN connection AS c
     WHERE d.state = 'pending' AND d.ready = 1 AND c.name = d.connection
         AND d.destination = ?1 AND c.holder = ?2 AND c.lease_until > ?3";

pub(super) fn due(
    db: &Connection,
    claims: &Claims,
    holder: &Holder,
    now: Timestamp,
) -> Result<DueDestinations, Failure> {
    let mut answer = DueDestinations::default();
    for destination in destinations(db)? {
        let mut is_due = db.prepare_cached(&format!("{FRONTS} AND d.due_at <= ?3"))?;
        if first_free(&mut is_due, claims, &destination, holder, now)?.is_some() {
            answer.due.insert(destination.clone());
        }
        let mut falls_due = db.prepare_cached(&format!("{FRONTS} AND d.due_at > ?3 ORDER BY d.due_at"))?;
        if let Some(due_at) = first_free(&mut falls_due, claims, &destination, holder, now)? {
            let earliest = answer.next_due_at.map_or(due_at, |other| other.min(due_at));
            answer.next_due_at = Some(earliest);
        }
    }
    Ok(answer)
}

/// The destinations with pending deliveries: one step through the index for each.
fn destinations(db: &Connection) -> Result<Vec<DestinationName>, Failure> {
    let mut next = db.prepare_cached(
        "SELECT destination FROM delivery INDEXED BY delivery_due
         WHERE state = 'pending' AND ready = 1 AND destination > ?1 ORDER BY destination LIMIT 1",
    )?;
    let mut found: Vec<DestinationName> = Vec::new();
    loop {
        let mut rows = next.query([found.last().map_or("", DestinationName::as_str)])?;
        let Some(row) = rows.next()? else {
            return Ok(found);
        };
        found.push(Columns::of(row).destination()?);
    }
}

fn first_free(
    fronts: &mut rusqlite::CachedStatement<'_>,
    claims: &Claims,
    destination: &DestinationName,
    holder: &Holder,
    now: Timestamp,
) -> Result<Option<Timestamp>, Failure> {
    let mut rows = fronts.query(params![destination.as_str(), holder.0, nanos(now)])?;
    while let Some(row) = rows.next()? {
        if let Some(front) = Front::free(&mut Columns::of(row), claims)? {
            return Ok(Some(front.due_at));
        }
    }
    Ok(None)
}

struct Front {
    id: DeliveryId,
    fence: Fence,
    due_at: Timestamp,
    line: Line,
}

impl Front {
    /// Reads the front of a line of which no row is being attempted.
    fn free(columns: &mut Columns<'_, '_>, claims: &Claims) -> Result<Option<Self>, Failure> {
        let id = DeliveryId(columns.count()?);
        let fence = Fence(columns.count()?);
        // Most fronts that are passed over are claimed themselves: they need not be read whole.
        if claims.holds(id, fence) {
            return Ok(None);
        }
        let front = Self {
            id,
            fence,
            due_at: columns.instant()?,
            line: outbox_rows::line(columns)?,
        };
        Ok((!claims.is_busy(&front.line, front.fence)).then_some(front))
    }
}

pub(super) fn claim(db: &Connection, claims: &Claims, claim: &ClaimDeliveries) -> Result<Handover, Failure> {
    let mut fronts = db.prepare_cached(&format!("{FRONTS} AND d.due_at <= ?3 ORDER BY d.due_at, d.id"))?;
    let mut rows = fronts.query(params![
        claim.destination.as_str(),
        claim.holder.0,
        nanos(claim.at)
    ])?;
    let mut bounds = Bounds::new(claim.limit);
    let mut handover = Handover {
        claims: claims.clone(),
        claimed: Vec::new(),
    };
    while handover.claimed.len() < claim.limit
        && let Some(row) = rows.next()?
    {
        let Some(front) = Front::free(&mut Columns::of(row), claims)? else {
            continue;
        };
        let Some(delivery) = outbox_rows::claimed(db, front.id)? else {
            continue;
        };
        if !bounds.admit(outbox_rows::event_bytes(&delivery.event)) {
            break;
        }
        claims.insert(front.id, front.fence, front.line);
        handover.claimed.push(delivery);
    }
    Ok(handover)
}

pub(super) fn record(
    db: &Connection,
    claims: &Claims,
    attempts: &[AttemptRecord],
) -> Result<Recorded, Failure> {
    let mut recorded = Recorded::default();
    // One transaction: who holds a lease at its beginning holds it at its end.
    let mut held = BTreeMap::new();
    for attempt in attempts {
        let turn = (&attempt.connection, attempt.fence);
        let holds = match held.get(&turn) {
            Some(holds) => *holds,
            None => lease::holds(db, &attempt.connection, attempt.fence)?,
        };
        held.insert(turn, holds);
        if holds {
            recorded.recorded += 1;
            record_one(db, attempt)?;
        } else {
            recorded.fenced += 1;
        }
    }
    for attempt in attempts {
        claims.end(attempt.id, attempt.fence);
    }
    Ok(recorded)
}

/// Writes down what an attempt led to. A delivery that was cancelled under way stays cancelled unless it arrived.
fn record_one(db: &Connection, attempt: &AttemptRecord) -> Result<(), Failure> {
    let id = stored(attempt.id.0);
    match &attempt.outcome {
        AttemptOutcome::Released => Ok(()),
        AttemptOutcome::RetryAt { due_at, detail } => {
            db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, due_at = ?3 WHERE id = ?1",
            )?
            .execute(params![id, detail, nanos(*due_at)])?;
            Ok(())
        }
        AttemptOutcome::Delivered { detail } => {
            db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, state = 'done', ready = 0,
                     settled_at = ?3 WHERE id = ?1",
            )?
            .execute(params![id, detail, nanos(attempt.at)])?;
            advance_line_of(db, attempt.id)
        }
        AttemptOutcome::Dead { detail } => {
            db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, ready = 0,
                     settled_at = CASE state WHEN 'pending' THEN ?3 ELSE settled_at END,
                     state = CASE state WHEN 'pending' THEN 'dead' ELSE state END WHERE id = ?1",
            )?
            .execute(params![id, detail, nanos(attempt.at)])?;
            advance_line_of(db, attempt.id)
        }
    }
}

fn advance_line_of(db: &Connection, id: DeliveryId) -> Result<(), Failure> {
    match outbox_rows::line_of(db, id)? {
        Some(line) => outbox_rows::advance(db, &line),
        None => Ok(()),
    }
}

/// Owes deliveries again, each with a schedule of its own that starts now.
pub(super) fn owe_again(db: &Connection, ids: &[DeliveryId], now: Timestamp) -> Result<u64, Failure> {
    let mut update = db.prepare_cached(
        "UPDATE delivery SET state = ?3, ready = 0, replay = 1, attempts = 0, scheduled_from = ?2, due_at = ?2,
             settled_at = NULL WHERE id = ?1",
    )?;
    for id in ids {
        update.execute(params![stored(id.0), nanos(now), DeliveryState::Pending.as_str()])?;
        if let Some(line) = outbox_rows::line_of(db, *id)? {
            outbox_rows::reorder(db, &line)?;
        }
    }
    for subscription in define::subscriptions(db)? {
        define::confine_pending(db, &subscription)?;
    }
    Ok(ids.len() as u64)
}
