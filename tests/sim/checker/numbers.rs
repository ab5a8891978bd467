//! Event numbers: dense per subscription and connection, from 1, one for each event, visible whatever became of it.

use std::collections::{BTreeMap, BTreeSet};

use ehr_courier::domain::delivery::DeliveryState;
use ehr_courier::domain::name::SubscriptionName;
use ehr_courier::store::{DeadLetterQuery, EventQuery, Store as _};

use super::Findings;
use super::arrivals::body;
use crate::book::{Pages, RecordRef};
use crate::world::World;

/// Subscription and connection.
type Line = (String, String);

/// What was given up: subscription and event id.
pub(super) async fn dead_letters(world: &World) -> BTreeSet<(String, String)> {
    let rows = world
        .store
        .dead_letters(&DeadLetterQuery::default())
        .await
        .unwrap();
    rows.into_iter()
        .map(|row| (row.delivery.subscription.to_string(), row.event_id.to_string()))
        .collect()
}

/// The records of which a read stands in quarantine.
pub(super) async fn quarantined(world: &World) -> BTreeSet<RecordRef> {
    let rows = world.store.quarantine(usize::MAX).await.unwrap();
    rows.into_iter()
        .map(|row| {
            let key = row.key;
            (
                row.connection.to_string(),
                key.record_type.to_string(),
                key.id.to_string(),
            )
        })
        .collect()
}

pub(super) async fn check(world: &World, pages: &Pages, findings: &mut Findings) {
    let mut numbers: BTreeMap<Line, BTreeMap<u64, String>> = BTreeMap::new();
    for arrival in &pages.arrivals {
        let line = (arrival.subscription.clone(), arrival.connection.clone());
        let number: u64 = body(arrival).sequence.parse().unwrap();
        enter(&mut numbers, &line, number, &arrival.event_id, findings);
    }
    let query = EventQuery {
        limit: usize::MAX,
        ..EventQuery::default()
    };
    for row in world.store.events(&query).await.unwrap() {
        let Some(detail) = world.store.event(&row.id).await.unwrap() else {
            findings
                .violations
                .push(format!("{} is listed and not there", row.id));
            continue;
        };
        for delivery in detail.deliveries {
            let line = (delivery.subscription.to_string(), row.connection.to_string());
            enter(&mut numbers, &line, delivery.number, row.id.as_str(), findings);
            if delivery.state == DeliveryState::Pending {
                findings
                    .violations
                    .push(format!("{} is still owed to {}", row.id, delivery.subscription));
            }
        }
    }
    for plan in &world.plan.subscriptions {
        let name = SubscriptionName::parse(&plan.name).unwrap();
        // Cancelled numbers are swept like delivered ones; with a brief retention nobody can look for them.
        let brief = world.plan.limits.retention < std::time::Duration::from_hours(1);
        if brief && plan.until_life.is_some() {
            continue;
        }
        for row in world.store.standings(&name).await.unwrap() {
            let line = (plan.name.clone(), row.connection.to_string());
            let seen = numbers.remove(&line).unwrap_or_default();
            let dense = seen.keys().copied().eq(1..=row.last_number);
            if !dense {
                findings.violations.push(format!(
                    "numbers of {line:?}: {} of 1..={} seen, {:?} … {:?}",
                    seen.len(),
                    row.last_number,
                    seen.keys().next(),
                    seen.keys().last()
                ));
            }
        }
    }
}

fn enter(
    numbers: &mut BTreeMap<Line, BTreeMap<u64, String>>,
    line: &Line,
    number: u64,
    event_id: &str,
    findings: &mut Findings,
) {
    let of_line = numbers.entry(line.clone()).or_default();
    let known = of_line.entry(number).or_insert_with(|| event_id.to_owned());
    if known != event_id {
        findings.violations.push(format!(
            "number {number} of {line:?} stands for {known} and {event_id}"
        ));
    }
}
