//! Readiness: whether the worker does its main job, and which feed keeps it from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::Reload;
use crate::domain::name::DestinationName;
use crate::pipeline::{Outlet, Worker};

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
    /// Feeds in trouble, by connection and feed. One bad connection does not make the worker unready.
    pub troubles: BTreeMap<String, BTreeMap<String, Trouble>>,
    /// Destinations whose last attempt failed. What they are owed waits, and is tried again by their schedule.
    pub failing_destinations: BTreeMap<String, FailingDestination>,
}

/// One destination that fails.
#[derive(Debug, Serialize)]
pub struct FailingDestination {
    /// Attempts that failed since the last one that was accepted.
    pub attempts: u32,
    /// What the last one said; no PHI.
    pub reason: String,
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
    let reason = if draining {
        Some("the service is draining".to_owned())
    } else if unheld > 0 && unheld == worker.connections.len() && reload != Reload::Running {
        Some("no connection is leased by this worker".to_owned())
    } else {
        None
    };
    Report {
        ready: reason.is_none(),
        reason,
        reload,
        troubles,
        failing_destinations: failing_destinations(worker),
    }
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

/// Brings the gauges up to date that grow by themselves while nothing happens: a feed that stands still must not go on
/// showing its last good value.
pub fn measure(worker: &Worker) {
    let now = worker.clock.now();
    for (name, connection) in &worker.connections {
        for feed in &connection.feeds {
            let fresh_as_of = connection
                .condition(&feed.spec.name)
                .and_then(|condition| condition.fresh_as_of);
            if let Some(fresh_as_of) = fresh_as_of {
                let labels = [
                    ("connection", name.to_string()),
                    ("feed", feed.spec.name.to_string()),
                ];
                metrics::gauge!("courier_cursor_lag_seconds", &labels)
                    .set(now.duration_since(fresh_as_of).as_secs_f64().max(0.0));
            }
        }
    }
}
