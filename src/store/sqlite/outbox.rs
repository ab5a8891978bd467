//! Atomic point 4: which deliveries are due, which are being attempted, and what came of it.
//!
//! Claims live in memory: they are this process's alone and end with it. Beside the front's mark in the row they
//! keep a line to one attempt at a time, also when a row before the claimed one is owed again meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{CachedStatement, Rows, params};

use super::connection::Connection;
use super::outbox_rows::{self, Line};
use super::rows::{Columns, Failure, nanos, stored};
use super::{define, lease};
use crate::domain::delivery::{
    AttemptOutcome, AttemptRecord, ClaimedDelivery, DeliveryId, DeliveryState, Fence,
};
use crate::domain::name::DestinationName;
use crate::store::turns::{Standing, Turns};
use crate::store::{DueDestinations, Holder, Recorded};

/// The deliveries that this process is attempting.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<ClaimTable>>);

#[derive(Default)]
struct ClaimTable {
    by_delivery: BTreeMap<DeliveryId, (Fence, Arc<Line>)>,
    /// The claimed delivery of each line.
    by_line: BTreeMap<Arc<Line>, DeliveryId>,
    /// Whose turn it is at each destination.
    turns: BTreeMap<DestinationName, Turns>,
}

impl Claims {
    /// Under which fence a row is being attempted, and its line.
    fn of(&self, id: DeliveryId) -> Option<(Fence, Arc<Line>)> {
        self.table().by_delivery.get(&id).cloned()
    }

    /// Whether anything of a standing is being attempted; a claim under an earlier fence is void.
    pub(super) fn serve(&self, (connection, subscription): &Standing, fence: Fence) -> bool {
        let table = self.table();
        let first = Arc::new((
            subscription.clone(),
            connection.clone(),
            String::new(),
            String::new(),
        ));
        table
            .by_line
            .range(first..)
            .take_while(|(line, _)| line.0 == *subscription && line.1 == *connection)
            .filter_map(|(_, id)| table.by_delivery.get(id))
            .any(|(claimed, _)| *claimed == fence)
    }

    /// Takes a destination's turns, to be put back by [`Claims::put_turns`].
    pub(super) fn take_turns(&self, destination: &DestinationName) -> Turns {
        self.table().turns.remove(destination).unwrap_or_default()
    }

    /// Puts a destination's turns back.
    pub(super) fn put_turns(&self, destination: &DestinationName, turns: Turns) {
        self.table().turns.insert(destination.clone(), turns);
    }

    /// Whether a row of the line is being attempted; a claim under an earlier fence is void.
    pub(super) fn is_busy(&self, line: &Line, fence: Fence) -> bool {
        let table = self.table();
        let claim = table.by_line.get(line).and_then(|id| table.by_delivery.get(id));
        claim.is_some_and(|(claimed, _)| *claimed == fence)
    }

    fn insert(&self, id: DeliveryId, fence: Fence, line: Line) {
        let (mut table, line) = (self.table(), Arc::new(line));
        table.by_line.insert(Arc::clone(&line), id);
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
    /// Nothing is claimed yet.
    pub(super) fn new(claims: &Claims) -> Self {
        Self {
            claims: claims.clone(),
            claimed: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.claimed.len()
    }

    /// Claims one more.
    pub(super) fn add(&mut self, front: Front) {
        let Front { delivery, line } = front;
        self.claims.insert(delivery.delivery.id, delivery.fence, line);
        self.claimed.push(delivery);
    }

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

/// One destination's fronts that are due, by the index alone: most of those at its beginning are being attempted, and
/// are passed over without a look at their rows.
pub(super) const DUE: &str = "SELECT id FROM delivery INDEXED BY delivery_due
     WHERE state = 'pending' AND ready = 1 AND destination = ?1 AND due_at <= ?2 ORDER BY due_at, id";

/// One destination's fronts that fall due later.
const DUE_LATER: &str = "SELECT id FROM delivery INDEXED BY delivery_due
     WHERE state = 'pending' AND ready = 1 AND destination = ?1 AND due_at > ?2 ORDER BY due_at, id";

pub(super) fn due(
    db: &Connection,
    claims: &Claims,
    holder: &Holder,
    now: Timestamp,
) -> Result<DueDestinations, Failure> {
    let mut answer = DueDestinations::default();
    for destination in destinations(db)? {
        let mut fronts = Fronts::new(db, claims, holder, now);
        let mut is_due = db.prepare_cached(DUE)?;
        let mut rows = is_due.query(params![destination.as_str(), nanos(now)])?;
        if fronts.next_due_at(&mut rows)?.is_some() {
            answer.due.insert(destination.clone());
        }
        let mut falls_due = db.prepare_cached(DUE_LATER)?;
        let mut rows = falls_due.query(params![destination.as_str(), nanos(now)])?;
        if let Some(due_at) = fronts.next_due_at(&mut rows)? {
            answer.next_due_at = Some(answer.next_due_at.map_or(due_at, |other| other.min(due_at)));
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

/// A line's front that a holder may attempt.
pub(super) struct Front {
    pub(super) delivery: ClaimedDelivery,
    pub(super) line: Line,
}

/// Finds the fronts that a holder may attempt: their connection is leased to it, and no row of their line is being
/// attempted.
pub(super) struct Fronts<'a> {
    db: &'a Connection,
    claims: &'a Claims,
    holder: &'a Holder,
    now: Timestamp,
    /// The fences of the connections that the holder leases; `None` for those that it does not.
    fences: BTreeMap<String, Option<Fence>>,
}

impl<'a> Fronts<'a> {
    pub(super) fn new(db: &'a Connection, claims: &'a Claims, holder: &'a Holder, now: Timestamp) -> Self {
        Self {
            db,
            claims,
            holder,
            now,
            fences: BTreeMap::new(),
        }
    }

    /// The next front among rows of ids, read by a statement of [`outbox_rows::select_claimed`].
    pub(super) fn next_free(
        &mut self,
        ids: &mut Rows<'_>,
        select: &mut CachedStatement<'_>,
    ) -> Result<Option<Front>, Failure> {
        while let Some(id) = self.next_unclaimed(ids)? {
            let mut rows = select.query([stored(id.0)])?;
            let Some(row) = rows.next()? else {
                continue;
            };
            let mut columns = Columns::of(row);
            let line = outbox_rows::line(&mut columns)?;
            if self.is_free(&line)? {
                let delivery = outbox_rows::claimed(self.db, &mut columns)?;
                return Ok(Some(Front { delivery, line }));
            }
        }
        Ok(None)
    }

    /// When the next front among rows of ids is due.
    fn next_due_at(&mut self, ids: &mut Rows<'_>) -> Result<Option<Timestamp>, Failure> {
        while let Some(id) = self.next_unclaimed(ids)? {
            if let Some((due_at, line)) = outbox_rows::due_line_of(self.db, id)?
                && self.is_free(&line)?
            {
                return Ok(Some(due_at));
            }
        }
        Ok(None)
    }

    /// The next of the rows that is not being attempted.
    fn next_unclaimed(&mut self, ids: &mut Rows<'_>) -> Result<Option<DeliveryId>, Failure> {
        while let Some(row) = ids.next()? {
            let id = DeliveryId(Columns::of(row).count()?);
            // A claim under an earlier fence is void.
            match self.claims.of(id) {
                Some((claimed, line)) if self.fence(&line.1)? == Some(claimed) => {}
                Some(_) | None => return Ok(Some(id)),
            }
        }
        Ok(None)
    }

    /// Whether the holder may attempt a line's front.
    pub(super) fn is_free(&mut self, line: &Line) -> Result<bool, Failure> {
        let fence = self.fence(&line.1)?;
        Ok(fence.is_some_and(|fence| !self.claims.is_busy(line, fence)))
    }

    /// The fence of a connection's lease, if it is the holder's.
    pub(super) fn fence(&mut self, connection: &str) -> Result<Option<Fence>, Failure> {
        if let Some(fence) = self.fences.get(connection) {
            return Ok(*fence);
        }
        let mut select = self.db.prepare_cached(
            "SELECT fence FROM connection WHERE name = ?1 AND holder = ?2 AND lease_until > ?3",
        )?;
        let mut rows = select.query(params![connection, self.holder.0, nanos(self.now)])?;
        let fence = match rows.next()? {
            Some(row) => Some(Fence(Columns::of(row).count()?)),
            None => None,
        };
        self.fences.insert(connection.to_owned(), fence);
        Ok(fence)
    }
}

pub(super) fn record(
    db: &Connection,
    claims: &Claims,
    attempts: &[AttemptRecord],
) -> Result<Recorded, Failure> {
    let mut recorded = Recorded::default();
    // One transaction: who holds a lease at its beginning holds it at its end.
    let mut held = BTreeMap::new();
    let mut outcomes = Outcomes::prepare(db)?;
    for attempt in attempts {
        let turn = (&attempt.connection, attempt.fence);
        let holds = match held.get(&turn) {
            Some(holds) => *holds,
            None => lease::holds(db, &attempt.connection, attempt.fence)?,
        };
        held.insert(turn, holds);
        if holds {
            recorded.recorded += 1;
            if outcomes.write(attempt)? == Advance::Due {
                // What was claimed says which line it is of: its row need not be read again.
                let line = match claims.of(attempt.id) {
                    Some((_, line)) => Some(line),
                    None => outbox_rows::line_of(db, attempt.id)?.map(Arc::new),
                };
                if let Some(line) = line {
                    outbox_rows::advance(db, &line)?;
                }
            }
        } else {
            recorded.fenced += 1;
        }
    }
    for attempt in attempts {
        claims.end(attempt.id, attempt.fence);
    }
    Ok(recorded)
}

/// Whether the line of a recorded attempt has another front now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advance {
    Idle,
    Due,
}

/// The statements that write down what attempts led to, looked up once for a batch.
struct Outcomes<'a> {
    retry: CachedStatement<'a>,
    delivered: CachedStatement<'a>,
    dead: CachedStatement<'a>,
}

impl<'a> Outcomes<'a> {
    fn prepare(db: &'a Connection) -> Result<Self, Failure> {
        Ok(Self {
            retry: db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, due_at = ?3 WHERE id = ?1",
            )?,
            delivered: db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, state = 'done', ready = 0,
                     settled_at = ?3 WHERE id = ?1",
            )?,
            dead: db.prepare_cached(
                "UPDATE delivery SET attempts = attempts + 1, last_outcome = ?2, ready = 0,
                     settled_at = CASE state WHEN 'pending' THEN ?3 ELSE settled_at END,
                     state = CASE state WHEN 'pending' THEN 'dead' ELSE state END WHERE id = ?1",
            )?,
        })
    }

    /// Writes down what one attempt led to. A delivery that was cancelled under way stays cancelled unless it arrived.
    fn write(&mut self, attempt: &AttemptRecord) -> Result<Advance, Failure> {
        let (id, at) = (stored(attempt.id.0), nanos(attempt.at));
        match &attempt.outcome {
            AttemptOutcome::Released => Ok(Advance::Idle),
            AttemptOutcome::RetryAt { due_at, detail } => {
                self.retry.execute(params![id, detail, nanos(*due_at)])?;
                Ok(Advance::Idle)
            }
            AttemptOutcome::Delivered { detail } => {
                self.delivered.execute(params![id, detail, at])?;
                Ok(Advance::Due)
            }
            AttemptOutcome::Dead { detail } => {
                self.dead.execute(params![id, detail, at])?;
                Ok(Advance::Due)
            }
        }
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
