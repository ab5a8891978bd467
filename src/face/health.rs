//! Readiness: whether the worker does its main job, and which feed keeps it from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use courier_sdk::ConnectionName;
use metrics::SharedString;
use serde::Serialize;

use super::Reload;
use crate::domain::name::DestinationName;
use crate::pipeline::budget::DayLeft;
use crate::pipeline::connection::Connection;
use crate::pipeline::heartbeat::Part;
use crate::pipeline::watch::OTHER;
use crate::pipeline::{Outlet, Worker};
use crate::store::PauseRow;

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether requests and work are welcome here.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the last reload fares.
    pub reload: Reload,
    /// The parts of the worker that are watched, each with `ok` or for how long it has been silent.
    pub watchdogs: BTreeMap<&'static str, String>,
    /// Feeds in trouble, by connection and feed. One bad connection does not make the worker unready.
    pub troubles: BTreeMap<String, BTreeMap<String, Trouble>>,
    /// Feeds of which no complete answer came for ten of their intervals, and for a quarter of an hour at least: by
    /// connection and feed. One source that hangs does not make the worker unready.
    pub frozen_feeds: BTreeMap<String, BTreeMap<String, Frozen>>,
    /// Feeds of which one poll brought far more new versions than is usual, while that lasts: by connection and feed.
    pub storms: BTreeMap<String, BTreeMap<String, Storm>>,
    /// Destinations whose last attempt failed. What they are owed waits, and is tried again by their schedule.
    pub failing_destinations: BTreeMap<String, FailingDestination>,
    /// Why the deduplication spares the store nothing at present. It is ready all the same: the store decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_dedup: Option<String>,
    /// Connections whose requests of the day come to their end; those that ask for more than the day brings wait.
    pub low_budgets: BTreeMap<String, LowBudget>,
    /// Connections that are not asked because their source is in maintenance, each until when.
    pub in_maintenance: BTreeMap<String, String>,
    /// Subscriptions that an operator paused, each since when.
    pub paused_subscriptions: BTreeMap<String, String>,
}

/// One flood of new versions.
#[derive(Debug, Serialize)]
pub struct Storm {
    /// For how long it has lasted, in seconds.
    pub seconds: u64,
    /// How many new versions it brought so far.
    pub versions: u64,
}

/// One destination that fails.
#[derive(Debug, Serialize)]
pub struct FailingDestination {
    /// Attempts that failed since the last one that was accepted.
    pub attempts: u32,
    /// What the last one said; no PHI.
    pub reason: String,
}

/// A day's requests that come to their end.
#[derive(Debug, Serialize)]
pub struct LowBudget {
    /// Requests that any 24 hours may see.
    pub per_day: u32,
    /// Those that the last 24 hours have left, as far as this process has counted.
    pub left: u32,
    /// Requests wait for their share of the day: polls are late because of it.
    pub waiting: bool,
}

/// One feed that stands still.
#[derive(Debug, Serialize)]
pub struct Frozen {
    /// For how long, in seconds, by the source's clock.
    pub stale_seconds: u64,
}

/// One feed in trouble.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// Failed turns in a row.
    pub failures: u32,
    /// Why the last one failed; no PHI.
    pub reason: String,
    /// When a turn ended well last.
    pub succeeded_at: Option<String>,
}

/// Works out the report.
#[must_use]
pub fn report(worker: &Worker, draining: bool, reload: Reload) -> Report {
    let mut troubles: BTreeMap<String, BTreeMap<String, Trouble>> = BTreeMap::new();
    for (name, connection) in &worker.connections {
        for feed in &connection.feeds {
            let Some(condition) = connection.condition(&feed.spec.name) else {
                continue;
            };
            if let Some(reason) = condition.trouble {
                let trouble = Trouble {
                    failures: condition.failures,
                    reason,
                    succeeded_at: condition.succeeded_at.map(|at| at.to_string()),
                };
                troubles
                    .entry(name.to_string())
                    .or_default()
                    .insert(feed.spec.name.to_string(), trouble);
            }
        }
    }
    let unheld = worker
        .connections
        .values()
        .filter(|connection| connection.fence().is_none())
        .count();
    let silent = worker.watch.heartbeats.silent();
    let reason = if draining {
        Some("the service is draining".to_owned())
    } else if !silent.is_empty() {
        let names: Vec<&str> = silent.keys().map(|part| part.as_str()).collect();
        Some(format!("silent for too long: {}", names.join(", ")))
    } else if unheld > 0 && unheld == worker.connections.len() && reload != Reload::Running {
        Some("no connection is leased by this worker".to_owned())
    } else {
        None
    };
    Report {
        ready: reason.is_none(),
        reason,
        reload,
        watchdogs: watchdogs(&silent),
        troubles,
        frozen_feeds: frozen_feeds(worker),
        storms: storms(worker),
        failing_destinations: failing_destinations(worker),
        failing_dedup: worker.dedup.trouble(),
        low_budgets: low_budgets(worker),
        in_maintenance: in_maintenance(worker),
        paused_subscriptions: BTreeMap::new(),
    }
}

/// Sweeps are not among them: they come seldom, and show nothing that must be fresh.
fn frozen_feeds(worker: &Worker) -> BTreeMap<String, BTreeMap<String, Frozen>> {
    let now = worker.clock.now();
    let mut frozen: BTreeMap<String, BTreeMap<String, Frozen>> = BTreeMap::new();
    for (name, connection) in &worker.connections {
        for feed in connection.live_feeds() {
            let stale = connection.stale_for(&feed.spec.name, now);
            if let Some(stale) = stale.filter(|stale| *stale > feed.frozen_after()) {
                let stale_seconds = stale.as_secs();
                let feeds = frozen.entry(name.to_string()).or_default();
                feeds.insert(feed.spec.name.to_string(), Frozen { stale_seconds });
            }
        }
    }
    frozen
}

fn storms(worker: &Worker) -> BTreeMap<String, BTreeMap<String, Storm>> {
    let mut storms: BTreeMap<String, BTreeMap<String, Storm>> = BTreeMap::new();
    for (name, connection) in &worker.connections {
        for feed in connection.live_feeds() {
            if let Some(storm) = connection.storms.of(&feed.spec.name) {
                let shown = Storm {
                    seconds: storm.since.elapsed().as_secs(),
                    versions: storm.versions,
                };
                let feeds = storms.entry(name.to_string()).or_default();
                feeds.insert(feed.spec.name.to_string(), shown);
            }
        }
    }
    storms
}

fn failing_destinations(worker: &Worker) -> BTreeMap<String, FailingDestination> {
    let failing = |(name, outlet): (&DestinationName, &Arc<Outlet>)| {
        let failing = outlet.failing()?;
        let shown = FailingDestination {
            attempts: failing.attempts,
            reason: failing.detail,
        };
        Some((name.to_string(), shown))
    };
    worker.destinations.iter().filter_map(failing).collect()
}

fn low_budgets(worker: &Worker) -> BTreeMap<String, LowBudget> {
    let low = |(name, connection): (&ConnectionName, &Arc<Connection>)| {
        let day = connection.budget.day_left().filter(DayLeft::is_low)?;
        let shown = LowBudget {
            per_day: day.per_day,
            left: day.left,
            waiting: day.short,
        };
        Some((name.to_string(), shown))
    };
    worker.connections.iter().filter_map(low).collect()
}

fn in_maintenance(worker: &Worker) -> BTreeMap<String, String> {
    let until = |(name, connection): (&ConnectionName, &Arc<Connection>)| {
        Some((
            name.to_string(),
            connection.budget.maintenance_until()?.to_string(),
        ))
    };
    worker.connections.iter().filter_map(until).collect()
}

fn watchdogs(silent: &BTreeMap<Part, Duration>) -> BTreeMap<&'static str, String> {
    let shown = |part: Part| match silent.get(&part) {
        None => "ok".to_owned(),
        Some(silence) => format!("silent for {} s", silence.as_secs()),
    };
    Part::ALL
        .into_iter()
        .map(|part| (part.as_str(), shown(part)))
        .collect()
}

/// Adds to a report what stands in the store; a store that cannot be read makes the worker unready.
pub async fn add_paused(report: &mut Report, worker: &Worker) {
    match worker.store.paused().await {
        Ok(rows) => {
            let row = |row: PauseRow| (row.subscription.to_string(), row.since.to_string());
            report.paused_subscriptions = rows.into_iter().map(row).collect();
        }
        Err(error) => {
            report.ready = false;
            report.reason = Some(error.to_string());
        }
    }
}

/// Brings the gauges up to date that grow by themselves while nothing happens: a feed that stands still must not go on
/// showing its last good value.
pub fn measure(worker: &Worker) {
    let now = worker.clock.now();
    let mut lags: BTreeMap<(SharedString, SharedString), f64> = BTreeMap::new();
    let mut frozen: BTreeMap<SharedString, u32> = BTreeMap::new();
    for (name, connection) in &worker.connections {
        let label = worker.watch.connections.of(name.as_str());
        for feed in connection.live_feeds() {
            let stale = connection.stale_for(&feed.spec.name, now);
            let is_frozen = stale.is_some_and(|stale| stale > feed.frozen_after());
            *frozen.entry(label.clone()).or_default() += u32::from(is_frozen);
            let condition = connection.condition(&feed.spec.name);
            let Some(fresh_as_of) = condition.and_then(|condition| condition.fresh_as_of) else {
                continue;
            };
            // Connections that share a label share its feeds' too: the one that is furthest behind is shown.
            let feed = if &*label == OTHER {
                OTHER.into()
            } else {
                SharedString::from(feed.spec.name.to_string())
            };
            let lag = now.duration_since(fresh_as_of).as_secs_f64().max(0.0);
            let shown = lags.entry((label.clone(), feed)).or_default();
            *shown = shown.max(lag);
        }
    }
    for left in worker.watch.lags.replace(lags.keys().cloned().collect()) {
        lags.insert(left, 0.0);
    }
    for ((connection, feed), lag) in lags {
        metrics::gauge!("courier_cursor_lag_seconds", "connection" => connection, "feed" => feed).set(lag);
    }
    measure_budgets(worker);
    for left in worker.watch.frozen.replace(frozen.keys().cloned().collect()) {
        frozen.insert(left, 0);
    }
    for (connection, feeds) in frozen {
        metrics::gauge!("courier_feeds_frozen", "connection" => connection).set(f64::from(feeds));
    }
    let silent = worker.watch.heartbeats.silent();
    for part in Part::ALL {
        let failing = if silent.contains_key(&part) { 1.0 } else { 0.0 };
        metrics::gauge!("courier_watchdog_failing", "part" => part.as_str()).set(failing);
    }
}

/// Shows what the day leaves to each connection that counts its days; those that share a label are summed.
fn measure_budgets(worker: &Worker) {
    let mut left: BTreeMap<SharedString, f64> = BTreeMap::new();
    for (name, connection) in &worker.connections {
        if let Some(day) = connection.budget.day_left() {
            let label = worker.watch.connections.of(name.as_str());
            *left.entry(label).or_default() += f64::from(day.left);
        }
    }
    for gone in worker.watch.budgets.replace(left.keys().cloned().collect()) {
        // Zero would say that nothing is left of a budget that is no more.
        left.insert(gone, f64::NAN);
    }
    for (connection, left) in left {
        metrics::gauge!("courier_budget_left", "connection" => connection).set(left);
    }
}
