//! Claims of deliveries: those longest due, and some in turn, so that no backlog holds up another connection.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Rows, params};

use super::connection::Connection;
use super::outbox::{Claims, DUE, Front, Fronts, Handover};
use super::outbox_rows;
use super::rows::{Columns, Failure, nanos};
use crate::store::ClaimDeliveries;
use crate::store::batch::{Bounds, event_bytes};
use crate::store::turns::{Standing, Turns};

/// The most standings that one claim looks at for their turn; the next one goes on behind them.
const LOOKED_AT_MAX: usize = 512;

/// The most of those whose rows are read.
const TRIED_MAX: usize = 16;

/// The standings in the order of their turns, from one on.
const STANDINGS: &str = "SELECT connection, subscription, pending FROM standing
     WHERE (connection, subscription) > (?1, ?2) ORDER BY connection, subscription LIMIT 512";

/// A standing's fronts that are due at a destination, among its first pending rows. One with more of them, all waiting
/// for a retry, is no quiet one: it is served by due time.
const DUE_OF_STANDING: &str = "SELECT id FROM (
         SELECT id, ready, destination, due_at FROM delivery INDEXED BY delivery_line
         WHERE subscription = ?1 AND connection = ?2 AND state = 'pending'
         ORDER BY record_type, record_id, number LIMIT 64)
     WHERE ready = 1 AND destination = ?3 AND due_at <= ?4 ORDER BY due_at, id";

pub(super) fn claim(db: &Connection, claims: &Claims, claim: &ClaimDeliveries) -> Result<Handover, Failure> {
    let mut turns = claims.take_turns(&claim.destination);
    let claimed = claim_in_turn(db, claims, claim, &mut turns);
    claims.put_turns(&claim.destination, turns);
    claimed
}

fn claim_in_turn(
    db: &Connection,
    claims: &Claims,
    claim: &ClaimDeliveries,
    turns: &mut Turns,
) -> Result<Handover, Failure> {
    let kept = turns.keep(claim.limit);
    let mut is_due = db.prepare_cached(DUE)?;
    let mut rows = is_due.query(params![claim.destination.as_str(), nanos(claim.at)])?;
    let mut taking = Taking {
        db,
        fronts: Fronts::new(db, claims, &claim.holder, claim.at),
        select: outbox_rows::select_claimed(db)?,
        bounds: Bounds::new(claim.limit),
        handover: Handover::new(claims),
    };
    if taking.by_due_time(&mut rows, claim.limit - kept)? == Room::Full || kept == 0 {
        return Ok(taking.handover);
    }
    // Whoever finds no place by due time waits for its turn; without such there is nothing to be fair about.
    let Some(waiting) = taking.fronts.next_free(&mut rows, &mut taking.select)? else {
        return Ok(taking.handover);
    };
    if taking.in_turn(claims, claim, kept, turns)? == Room::Full || taking.handover.len() == claim.limit {
        return Ok(taking.handover);
    }
    if taking.fronts.is_free(&waiting.line)? && taking.take(waiting) == Room::Full {
        return Ok(taking.handover);
    }
    taking.by_due_time(&mut rows, claim.limit)?;
    Ok(taking.handover)
}

/// Whether a claim holds more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Left,
    Full,
}

/// A claim that is being filled.
struct Taking<'a> {
    db: &'a Connection,
    fronts: Fronts<'a>,
    select: CachedStatement<'a>,
    bounds: Bounds,
    handover: Handover,
}

impl Taking<'_> {
    /// Fills the claim up to so many deliveries.
    fn by_due_time(&mut self, rows: &mut Rows<'_>, limit: usize) -> Result<Room, Failure> {
        while self.handover.len() < limit
            && let Some(front) = self.fronts.next_free(rows, &mut self.select)?
        {
            if self.take(front) == Room::Full {
                return Ok(Room::Full);
            }
        }
        Ok(Room::Left)
    }

    fn take(&mut self, front: Front) -> Room {
        if !self.bounds.admit(event_bytes(&front.delivery.event)) {
            return Room::Full;
        }
        self.handover.add(front);
        Room::Left
    }

    /// Takes one delivery of each of the next standings of which nothing is being attempted, `kept` at most.
    fn in_turn(
        &mut self,
        claims: &Claims,
        claim: &ClaimDeliveries,
        kept: usize,
        turns: &mut Turns,
    ) -> Result<Room, Failure> {
        let (db, full) = (self.db, self.handover.len() + kept);
        let began = turns.last.clone();
        let mut subscribed: BTreeMap<String, bool> = BTreeMap::new();
        let (mut looked_at, mut tried) = (0, 0);
        for (from, to) in [(began.clone(), None), (Standing::default(), Some(began))] {
            let mut standings = db.prepare_cached(STANDINGS)?;
            let mut rows = standings.query([from.0, from.1])?;
            while let Some(row) = rows.next()? {
                let mut columns = Columns::of(row);
                let standing = (columns.text()?, columns.text()?);
                if to.as_ref().is_some_and(|to| standing > *to) || self.handover.len() == full {
                    return Ok(Room::Left);
                }
                looked_at += 1;
                let waits = columns.count()? > 0 && self.waits(claims, &standing)?;
                if waits && self.goes_to(&mut subscribed, &standing.1, claim)? {
                    tried += 1;
                    if let Some(front) = self.first_due(&standing, claim)? {
                        turns.last.clone_from(&standing);
                        if self.take(front) == Room::Full {
                            return Ok(Room::Full);
                        }
                    }
                }
                if looked_at == LOOKED_AT_MAX || tried == TRIED_MAX {
                    turns.last = standing;
                    return Ok(Room::Left);
                }
            }
        }
        Ok(Room::Left)
    }

    /// Whether the holder may attempt what is due of a standing, and attempts nothing of it.
    fn waits(&mut self, claims: &Claims, standing: &Standing) -> Result<bool, Failure> {
        let fence = self.fronts.fence(&standing.0)?;
        Ok(fence.is_some_and(|fence| !claims.serve(standing, fence)))
    }

    /// Whether a subscription goes to the claim's destination; each is asked for once.
    fn goes_to(
        &self,
        known: &mut BTreeMap<String, bool>,
        subscription: &str,
        claim: &ClaimDeliveries,
    ) -> Result<bool, Failure> {
        if let Some(known) = known.get(subscription) {
            return Ok(*known);
        }
        let mut select = self
            .db
            .prepare_cached("SELECT 1 FROM subscription WHERE name = ?1 AND destination = ?2")?;
        let goes_there = select.exists([subscription, claim.destination.as_str()])?;
        known.insert(subscription.to_owned(), goes_there);
        Ok(goes_there)
    }

    fn first_due(&mut self, standing: &Standing, claim: &ClaimDeliveries) -> Result<Option<Front>, Failure> {
        let db = self.db;
        let mut select = db.prepare_cached(DUE_OF_STANDING)?;
        let mut rows = select.query(params![
            standing.1,
            standing.0,
            claim.destination.as_str(),
            nanos(claim.at)
        ])?;
        self.fronts.next_free(&mut rows, &mut self.select)
    }
}
