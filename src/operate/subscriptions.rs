//! Subscriptions: how they stand, and whether they flow.

use std::collections::BTreeMap;

use tracing::info;

use super::ask::FlowWord;
use super::view::{Answer, FlowView, SubscriptionView, text};
use super::{Desk, Refusal};
use crate::domain::name::SubscriptionName;
use crate::store::{Flow, SetFlow};

pub(super) async fn list(desk: &Desk) -> Result<Answer, Refusal> {
    let paused: BTreeMap<SubscriptionName, jiff::Timestamp> = desk
        .store
        .paused()
        .await?
        .into_iter()
        .map(|row| (row.subscription, row.since))
        .collect();
    let mut rows = Vec::new();
    for subscription in &desk.subscriptions {
        let since = paused.get(&subscription.name).copied();
        let bare = SubscriptionView {
            subscription: subscription.name.to_string(),
            connection: None,
            destination: subscription.destination.to_string(),
            state: since.map_or(FlowWord::Flowing, |_| FlowWord::Paused),
            paused_since: text(since),
            last_number: 0,
            pending: 0,
            behind: false,
        };
        let standings = desk.store.standings(&subscription.name).await?;
        let covered = standings.into_iter().filter(|row| {
            subscription.covers(&row.connection) && desk.connections.contains_key(&row.connection)
        });
        let before = rows.len();
        rows.extend(covered.map(|row| SubscriptionView {
            connection: Some(row.connection.to_string()),
            last_number: row.last_number,
            pending: row.standing.pending,
            behind: row.standing.own.is_some(),
            ..bare.clone()
        }));
        if rows.len() == before {
            rows.push(bare);
        }
    }
    Ok(Answer::Subscriptions(rows))
}

/// Pauses or resumes. A pause can be ended for a name that is no longer in force, too.
pub(super) async fn set_flow(desk: &Desk, name: &str, word: FlowWord) -> Result<Answer, Refusal> {
    let subscription = SubscriptionName::parse(name)?;
    let was_paused = desk
        .store
        .paused()
        .await?
        .iter()
        .any(|row| row.subscription == subscription);
    if !was_paused {
        desk.know_subscription(Some(&subscription))?;
    }
    let flow = match word {
        FlowWord::Flowing => Flow::Flowing,
        FlowWord::Paused => Flow::Paused,
    };
    desk.store
        .set_flow(&SetFlow {
            subscription: subscription.clone(),
            flow,
            at: desk.clock.now(),
        })
        .await?;
    let changed = was_paused != (word == FlowWord::Paused);
    if changed {
        match word {
            FlowWord::Paused => info!(%subscription, "an operator paused a subscription"),
            FlowWord::Flowing => info!(%subscription, "an operator resumed a subscription"),
        }
    }
    Ok(Answer::Flow(FlowView {
        subscription: subscription.to_string(),
        state: word,
        changed,
    }))
}
