//! Atomic point 3: the log becomes deliveries with dense numbers, lane by lane.

use courier_sdk::{ConnectionName, RecordKey};
use rusqlite::{OptionalExtension, params};

use super::connection::Connection;
use super::rows::{Columns, Failure, count, nanos, row_limit, stored};
use super::{define, lease, outbox_rows};
use crate::domain::delivery::RENDERER;
use crate::domain::event::Event;
use crate::domain::fan_out::{Owed, Position, Standing, Subscription};
use crate::domain::name::SubscriptionName;
use crate::store::batch::{Bounds, event_bytes};
use crate::store::{FanOut, FanOutView, Lane, StandingRow};

pub(super) fn view(
    db: &Connection,
    connection: &ConnectionName,
    lane: &Lane,
    limit: usize,
) -> Result<FanOutView, Failure> {
    let (position, events) = match lane_position(db, connection, lane)? {
        Some(position) => {
            let events = events_after(db, connection, position.event, limit)?;
            (position, events)
        }
        None => (common_position(db, connection)?, Vec::new()),
    };
    Ok(FanOutView {
        position,
        revision: define::revision(db)?,
        members: members(db, connection, lane)?,
        own_lanes: own_lanes(db, connection)?,
        events,
    })
}

pub(super) fn fan_out(db: &Connection, slice: &FanOut) -> Result<(), Failure> {
    lease::check_fence(db, &slice.connection, slice.fence)?;
    if define::revision(db)? != slice.revision {
        return Err(Failure::conflict("the definitions"));
    }
    if lane_position(db, &slice.connection, &slice.lane)?.as_ref() != Some(&slice.from) {
        return Err(Failure::conflict("the lane's position"));
    }
    let mut event: Option<(u64, RecordKey)> = None;
    for owed in &slice.owed {
        let key = match event {
            Some((position, key)) if position == owed.event => key,
            Some(_) | None => key_of(db, &slice.connection, owed.event)?,
        };
        owe(db, &slice.connection, owed, &key)?;
        event = Some((owed.event, key));
    }
    move_lane(db, slice)
}

pub(super) fn standings(
    db: &Connection,
    subscription: &SubscriptionName,
) -> Result<Vec<StandingRow>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT connection, last_number, subscription, after, own, pending FROM standing
         WHERE subscription = ?1 ORDER BY connection",
    )?;
    let mut rows = select.query([subscription.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        found.push(StandingRow {
            connection: columns.connection()?,
            last_number: columns.count()?,
            standing: standing(&mut columns)?,
        });
    }
    Ok(found)
}

/// Where the common lane stands.
pub(super) fn common_position(db: &Connection, connection: &ConnectionName) -> Result<Position, Failure> {
    let mut select =
        db.prepare_cached("SELECT fanned_event, fanned_within FROM connection WHERE name = ?1")?;
    let mut rows = select.query([connection.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(Position::default());
    };
    let mut columns = Columns::of(row);
    let event = columns.count()?;
    let within: Option<String> = columns.get()?;
    Ok(Position {
        event,
        within: within
            .map(|name| SubscriptionName::parse(&name))
            .transpose()
            .map_err(Failure::engine)?,
    })
}

/// Whether a position has given anything that comes after a place in the log.
pub(super) fn is_ahead_of(position: &Position, place: u64) -> bool {
    position.event > place || (position.event == place && position.within.is_some())
}

/// Where a lane stands; a subscription that moves with the others has no lane of its own.
fn lane_position(
    db: &Connection,
    connection: &ConnectionName,
    lane: &Lane,
) -> Result<Option<Position>, Failure> {
    match lane {
        Lane::Common => common_position(db, connection).map(Some),
        Lane::Own(name) => {
            let mut select =
                db.prepare_cached("SELECT own FROM standing WHERE connection = ?1 AND subscription = ?2")?;
            let own: Option<Option<i64>> = select
                .query_row([connection.as_str(), name.as_str()], |row| row.get(0))
                .optional()?;
            Ok(own.flatten().map(|event| Position {
                event: count(event),
                within: None,
            }))
        }
    }
}

fn events_after(
    db: &Connection,
    connection: &ConnectionName,
    position: u64,
    limit: usize,
) -> Result<Vec<Event>, Failure> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {} FROM event AS e WHERE e.connection = ?1 AND e.position > ?2 ORDER BY e.position LIMIT ?3",
        outbox_rows::EVENT_COLUMNS
    ))?;
    let mut rows = select.query(params![connection.as_str(), stored(position), row_limit(limit)])?;
    let mut bounds = Bounds::new(limit);
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let event = outbox_rows::event(db, &mut Columns::of(row))?;
        if !bounds.admit(event_bytes(&event)) {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

/// The subscriptions that move in a lane, in the order of their names.
fn members(
    db: &Connection,
    connection: &ConnectionName,
    lane: &Lane,
) -> Result<Vec<(Subscription, Standing)>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT subscription, after, own, pending FROM standing
         WHERE connection = ?1 AND subscription = ?2 AND in_force = 1",
    )?;
    let mut found = Vec::new();
    for subscription in define::subscriptions(db)? {
        let mut rows = select.query([connection.as_str(), subscription.name.as_str()])?;
        let Some(row) = rows.next()? else { continue };
        let standing = standing(&mut Columns::of(row))?;
        let moves_here = match lane {
            Lane::Common => standing.own.is_none(),
            Lane::Own(name) => standing.own.is_some() && *name == subscription.name,
        };
        if moves_here {
            found.push((subscription, standing));
        }
    }
    Ok(found)
}

fn own_lanes(db: &Connection, connection: &ConnectionName) -> Result<Vec<SubscriptionName>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT subscription FROM standing
         WHERE connection = ?1 AND own IS NOT NULL AND in_force = 1 ORDER BY subscription",
    )?;
    let mut rows = select.query([connection.as_str()])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        names.push(Columns::of(row).subscription()?);
    }
    Ok(names)
}

fn standing(columns: &mut Columns<'_, '_>) -> Result<Standing, Failure> {
    Ok(Standing {
        subscription: columns.subscription()?,
        after: columns.count()?,
        own: columns.get::<Option<i64>>()?.map(count),
        pending: columns.count()?,
    })
}

fn key_of(db: &Connection, connection: &ConnectionName, position: u64) -> Result<RecordKey, Failure> {
    let mut select = db
        .prepare_cached("SELECT record_type, record_id FROM event WHERE connection = ?1 AND position = ?2")?;
    let mut rows = select.query(params![connection.as_str(), stored(position)])?;
    match rows.next()? {
        Some(row) => Columns::of(row).key(),
        None => Err(Failure::refused(
            "a slice of fan-out names an event that is not in the log".to_owned(),
        )),
    }
}

/// Writes one delivery with the next number; one that was owed before costs no number.
fn owe(db: &Connection, connection: &ConnectionName, owed: &Owed, key: &RecordKey) -> Result<(), Failure> {
    let mut insert = db.prepare_cached(
        "INSERT INTO delivery (subscription, connection, event, number, record_type, record_id, destination, content,
             format, renderer, state, ready, attempts, scheduled_from, due_at, replay)
         SELECT s.subscription, s.connection, ?3, s.last_number + 1, ?4, ?5, ?6, ?7, ?8, ?9, 'pending',
             NOT EXISTS (SELECT 1 FROM delivery AS other
                         WHERE other.subscription = ?2 AND other.connection = ?1 AND other.record_type = ?4
                             AND other.record_id = ?5 AND other.state = 'pending')
                 AND NOT EXISTS (SELECT 1 FROM pause WHERE pause.subscription = ?2),
             0, ?10, ?10, 0
         FROM standing AS s WHERE s.connection = ?1 AND s.subscription = ?2
         ON CONFLICT (connection, event, subscription) DO NOTHING",
    )?;
    let written = insert.execute(params![
        connection.as_str(),
        owed.subscription.as_str(),
        stored(owed.event),
        key.record_type.as_str(),
        key.id.as_str(),
        owed.destination.as_str(),
        owed.content.as_str(),
        owed.format.as_str(),
        RENDERER,
        nanos(owed.due_at),
    ])?;
    if written == 1 {
        db.prepare_cached(
            "UPDATE standing SET last_number = last_number + 1 WHERE connection = ?1 AND subscription = ?2",
        )?
        .execute([connection.as_str(), owed.subscription.as_str()])?;
        return Ok(());
    }
    revive(db, connection, owed, key)
}

/// Owes a delivery again that was cancelled when its subscription was removed, as the present one has it.
fn revive(db: &Connection, connection: &ConnectionName, owed: &Owed, key: &RecordKey) -> Result<(), Failure> {
    let mut update = db.prepare_cached(
        "UPDATE delivery SET state = 'pending', ready = 0, destination = ?4, content = ?5, format = ?6, renderer = ?7,
             attempts = 0, scheduled_from = ?8, due_at = ?8, settled_at = NULL
         WHERE connection = ?1 AND event = ?2 AND subscription = ?3 AND state = 'cancelled'",
    )?;
    let revived = update.execute(params![
        connection.as_str(),
        stored(owed.event),
        owed.subscription.as_str(),
        owed.destination.as_str(),
        owed.content.as_str(),
        owed.format.as_str(),
        RENDERER,
        nanos(owed.due_at),
    ])?;
    if revived == 0 {
        return Ok(());
    }
    let line = (
        owed.subscription.to_string(),
        connection.to_string(),
        key.record_type.to_string(),
        key.id.to_string(),
    );
    outbox_rows::reorder(db, &line)
}

fn move_lane(db: &Connection, slice: &FanOut) -> Result<(), Failure> {
    let connection = slice.connection.as_str();
    match &slice.lane {
        Lane::Common => {
            let within = slice.to.within.as_ref().map(SubscriptionName::as_str);
            db.prepare_cached("UPDATE connection SET fanned_event = ?2, fanned_within = ?3 WHERE name = ?1")?
                .execute(params![connection, stored(slice.to.event), within])?;
            for (name, given) in &slice.suspended {
                set_own(db, &slice.connection, name, Some(*given))?;
            }
        }
        Lane::Own(name) => {
            // At its outbox limit the lane stays before the first event that it did not get.
            let stopped = slice.suspended.iter().find(|(suspended, _)| suspended == name);
            let place = stopped.map_or(slice.to.event, |(_, given)| *given);
            // Where the common lane is within the next event, that event may be past this subscription there.
            let behind = is_ahead_of(&common_position(db, &slice.connection)?, place);
            set_own(db, &slice.connection, name, behind.then_some(place))?;
        }
    }
    Ok(())
}

fn set_own(
    db: &Connection,
    connection: &ConnectionName,
    subscription: &SubscriptionName,
    own: Option<u64>,
) -> Result<(), Failure> {
    db.prepare_cached("UPDATE standing SET own = ?3 WHERE connection = ?1 AND subscription = ?2")?
        .execute(params![
            connection.as_str(),
            subscription.as_str(),
            own.map(stored)
        ])?;
    Ok(())
}
