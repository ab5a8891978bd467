//! The subscriptions and connections in force, and what an edit does to what is owed already.

use std::collections::BTreeSet;

use courier_sdk::{ConnectionName, RecordType};
use jiff::Timestamp;
use rusqlite::params;
use tracing::info;

use super::connection::Connection;
use super::rows::{Columns, Failure, count, damaged, nanos, stored};
use super::{fan_out, lease};
use crate::domain::fan_out::{ConnectionSet, ContentLevel, Format, From, Subscription, Topic};
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::store::{Definitions, StoreError};
use crate::wire;

pub(super) fn define(db: &Connection, definitions: &Definitions, now: Timestamp) -> Result<(), Failure> {
    check_renderers(db)?;
    let mut wanted = definitions.clone();
    wanted.subscriptions.sort_by(|a, b| a.name.cmp(&b.name));
    let in_force = Definitions {
        connections: connections(db, Only::InForce)?,
        destinations: destinations(db)?,
        subscriptions: subscriptions(db)?,
    };
    if in_force == wanted {
        return Ok(());
    }
    db.execute("UPDATE store SET revision = revision + 1", [])?;
    write(db, &wanted)?;
    for connection in connections(db, Only::All)? {
        end_standings(db, &wanted, &connection, now)?;
        if wanted.connections.contains(&connection) {
            begin_standings(db, &wanted, &connection)?;
        }
    }
    for subscription in &wanted.subscriptions {
        rewrite_pending(db, subscription)?;
    }
    Ok(())
}

/// The revision of the definitions in force.
pub(super) fn revision(db: &Connection) -> Result<u64, Failure> {
    let mut select = db.prepare_cached("SELECT revision FROM store")?;
    Ok(count(select.query_row([], |row| row.get(0))?))
}

/// The subscriptions in force, in the order of their names.
pub(super) fn subscriptions(db: &Connection) -> Result<Vec<Subscription>, Failure> {
    let mut select = db.prepare_cached(
        "SELECT name, connections, topic, begins, content, format, destination FROM subscription ORDER BY name",
    )?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        found.push(Subscription {
            name: columns.subscription()?,
            connections: parse_connections(&columns.text()?)?,
            topic: parse_topic(&columns.text()?)?,
            from: parse_from(&columns.text()?)?,
            content: ContentLevel::parse(&columns.text()?).ok_or_else(|| damaged("content level"))?,
            format: Format::parse(&columns.text()?).ok_or_else(|| damaged("format"))?,
            destination: columns.destination()?,
        });
    }
    Ok(found)
}

/// Which connections are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    InForce,
    All,
}

fn connections(db: &Connection, only: Only) -> Result<BTreeSet<ConnectionName>, Failure> {
    let mut select = db.prepare_cached("SELECT name FROM connection WHERE in_force = 1 OR ?1")?;
    let mut rows = select.query([only == Only::All])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        found.insert(Columns::of(row).connection()?);
    }
    Ok(found)
}

fn destinations(db: &Connection) -> Result<BTreeSet<DestinationName>, Failure> {
    let mut select = db.prepare_cached("SELECT name FROM destination")?;
    let mut rows = select.query([])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        found.insert(Columns::of(row).destination()?);
    }
    Ok(found)
}

fn check_renderers(db: &Connection) -> Result<(), Failure> {
    let mut select = db.prepare_cached("SELECT DISTINCT renderer FROM delivery WHERE state = 'pending'")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let renderer = Columns::of(row).small_count()?;
        if !wire::has_renderer(renderer) {
            return Err(Failure::Answer(StoreError::Unusable {
                reason: format!(
                    "a pending delivery needs renderer {renderer}, which this version of ehr-courier lacks"
                ),
            }));
        }
    }
    Ok(())
}

fn write(db: &Connection, wanted: &Definitions) -> Result<(), Failure> {
    db.execute("UPDATE connection SET in_force = 0", [])?;
    for connection in &wanted.connections {
        lease::ensure_connection(db, connection)?;
        db.prepare_cached("UPDATE connection SET in_force = 1 WHERE name = ?1")?
            .execute([connection.as_str()])?;
    }
    db.execute("DELETE FROM destination", [])?;
    let mut insert = db.prepare_cached("INSERT INTO destination (name) VALUES (?1)")?;
    for destination in &wanted.destinations {
        insert.execute([destination.as_str()])?;
    }
    db.execute("DELETE FROM subscription", [])?;
    let mut insert = db.prepare_cached(
        "INSERT INTO subscription (name, connections, topic, begins, content, format, destination)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for subscription in &wanted.subscriptions {
        insert.execute(params![
            subscription.name.as_str(),
            connections_text(&subscription.connections),
            topic_text(&subscription.topic),
            from_text(subscription.from),
            subscription.content.as_str(),
            subscription.format.as_str(),
            subscription.destination.as_str(),
        ])?;
    }
    Ok(())
}

/// Ends the standings of subscriptions that no longer cover the connection and cancels what they are owed, dead letters
/// too: nobody can redrive those, and they would be kept for ever.
fn end_standings(
    db: &Connection,
    wanted: &Definitions,
    connection: &ConnectionName,
    now: Timestamp,
) -> Result<(), Failure> {
    let covering = |name: &SubscriptionName| {
        wanted
            .subscriptions
            .iter()
            .any(|subscription| subscription.name == *name && wanted.cover(subscription, connection))
    };
    for name in standing_in_force(db, connection)? {
        if covering(&name) {
            continue;
        }
        let pair = [connection.as_str(), name.as_str()];
        let mut cancelled = 0;
        // One statement for each state: each has an index of its own.
        for cancel in [
            "UPDATE delivery SET state = 'cancelled', ready = 0, settled_at = ?3
             WHERE connection = ?1 AND subscription = ?2 AND state = 'pending'",
            "UPDATE delivery SET state = 'cancelled', settled_at = ?3
             WHERE connection = ?1 AND subscription = ?2 AND state = 'dead'",
        ] {
            let mut cancel = db.prepare_cached(cancel)?;
            cancelled += cancel.execute(params![pair[0], pair[1], nanos(now)])?;
        }
        info!(subscription = %name, %connection, cancelled, "a subscription left a connection");
        db.prepare_cached(
            "UPDATE standing SET in_force = 0, own = NULL WHERE connection = ?1 AND subscription = ?2",
        )?
        .execute(pair)?;
    }
    Ok(())
}

/// Gives a standing to subscriptions that are new on the connection; numbers go on where the name was used.
fn begin_standings(
    db: &Connection,
    wanted: &Definitions,
    connection: &ConnectionName,
) -> Result<(), Failure> {
    let standing = standing_in_force(db, connection)?;
    let mut upsert = db.prepare_cached(
        "INSERT INTO standing (connection, subscription, after, own, last_number, in_force) VALUES (?1, ?2, ?3, ?4, 0, 1)
         ON CONFLICT DO UPDATE SET after = excluded.after, own = excluded.own, in_force = 1",
    )?;
    for subscription in &wanted.subscriptions {
        if standing.contains(&subscription.name) || !subscription.covers(connection) {
            continue;
        }
        let (after, own) = beginning(db, connection, subscription.from)?;
        upsert.execute(params![
            connection.as_str(),
            subscription.name.as_str(),
            stored(after),
            own.map(stored)
        ])?;
    }
    Ok(())
}

fn standing_in_force(
    db: &Connection,
    connection: &ConnectionName,
) -> Result<BTreeSet<SubscriptionName>, Failure> {
    let mut select =
        db.prepare_cached("SELECT subscription FROM standing WHERE connection = ?1 AND in_force = 1")?;
    let mut rows = select.query([connection.as_str()])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        found.insert(Columns::of(row).subscription()?);
    }
    Ok(found)
}

/// How a new subscription stands: at the log's end, or on its own way from the oldest event retained.
fn beginning(
    db: &Connection,
    connection: &ConnectionName,
    from: From,
) -> Result<(u64, Option<u64>), Failure> {
    let mut select = db.prepare_cached(
        "SELECT last_event, (SELECT min(position) FROM event WHERE connection = ?1) FROM connection WHERE name = ?1",
    )?;
    let (last, oldest): (i64, Option<i64>) =
        select.query_row([connection.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let last = count(last);
    let before_oldest = oldest.map_or(last, |position| count(position - 1));
    match from {
        From::Now => Ok((last, None)),
        From::Beginning
            if fan_out::is_ahead_of(&fan_out::common_position(db, connection)?, before_oldest) =>
        {
            Ok((0, Some(before_oldest)))
        }
        From::Beginning => Ok((0, None)),
    }
}

/// Rows never attempted take the definition in force; narrower content applies to the others too.
fn rewrite_pending(db: &Connection, subscription: &Subscription) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE delivery SET destination = ?2, content = ?3, format = ?4
         WHERE subscription = ?1 AND state = 'pending' AND attempts = 0 AND replay = 0
             AND (destination <> ?2 OR content <> ?3 OR format <> ?4)",
    )?
    .execute([
        subscription.name.as_str(),
        subscription.destination.as_str(),
        subscription.content.as_str(),
        subscription.format.as_str(),
    ])?;
    confine_pending(db, subscription)
}

/// Keeps pending rows within what is in force: never wider than their subscription, and never for a destination that
/// left the configuration, where nothing would ever be attempted.
pub(super) fn confine_pending(db: &Connection, subscription: &Subscription) -> Result<(), Failure> {
    let (name, to) = (&subscription.name, &subscription.destination);
    let mut narrow = db.prepare_cached(
        "UPDATE delivery SET content = ?2 WHERE subscription = ?1 AND state = 'pending' AND content = ?3",
    )?;
    let mut narrowed = 0;
    for wider in [ContentLevel::IdOnly, ContentLevel::FullResource] {
        if wider > subscription.content {
            narrowed += narrow.execute([name.as_str(), subscription.content.as_str(), wider.as_str()])?;
        }
    }
    let moved = db
        .prepare_cached(
            "UPDATE delivery SET destination = ?2, format = ?3
             WHERE subscription = ?1 AND state = 'pending' AND destination <> ?2
                 AND destination NOT IN (SELECT name FROM destination)",
        )?
        .execute([name.as_str(), to.as_str(), subscription.format.as_str()])?;
    if narrowed + moved > 0 {
        info!(subscription = %name, %to, narrowed, moved, "pending deliveries follow their subscription");
    }
    Ok(())
}

fn connections_text(connections: &ConnectionSet) -> String {
    match connections {
        ConnectionSet::All => "*".to_owned(),
        ConnectionSet::Named(names) => {
            let names: Vec<&str> = names.iter().map(ConnectionName::as_str).collect();
            names.join(",")
        }
    }
}

fn parse_connections(text: &str) -> Result<ConnectionSet, Failure> {
    if text == "*" {
        return Ok(ConnectionSet::All);
    }
    let names = text.split(',').filter(|name| !name.is_empty());
    let names: Result<BTreeSet<ConnectionName>, _> = names.map(ConnectionName::parse).collect();
    names.map(ConnectionSet::Named).map_err(Failure::engine)
}

fn topic_text(topic: &Topic) -> &str {
    match topic {
        Topic::Any => "*",
        Topic::Records(record_type) => record_type.as_str(),
    }
}

fn parse_topic(text: &str) -> Result<Topic, Failure> {
    if text == "*" {
        return Ok(Topic::Any);
    }
    RecordType::parse(text)
        .map(Topic::Records)
        .map_err(Failure::engine)
}

fn from_text(from: From) -> &'static str {
    match from {
        From::Now => "now",
        From::Beginning => "beginning",
    }
}

fn parse_from(text: &str) -> Result<From, Failure> {
    match text {
        "now" => Ok(From::Now),
        "beginning" => Ok(From::Beginning),
        _ => Err(damaged("beginning of a subscription")),
    }
}
