//! `demo --amqp`: the demo's notifications on a broker of yours too, with every confirm counted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::super::CliError;
use crate::app;
use crate::config::{Config, Target};
use crate::destination::amqp::topology;
use crate::destination::{Attempt, Destination, Notification};
use crate::domain::name::DestinationName;
use crate::pipeline::watch::Labels;
use crate::pipeline::{Outlet, Worker};

/// The demo's exchange, and the queue that gets all of its messages.
pub(super) const EXCHANGE: &str = "ehr.demo";
pub(super) const QUEUE: &str = "ehr.demo";

/// The destination's name and the variable that its address stands in, of the demo's own configuration.
const NAME: &str = "bus";
pub(super) const VARIABLE: &str = "DEMO_AMQP_URL";

/// What the demo adds to its configuration. The address was given on the command line: it is meant, wherever it leads.
pub(super) fn configuration() -> String {
    let networks =
        r#"["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]"#;
    format!(
        r#"
[destinations.{NAME}]
type = "amqp"
url = "env:{VARIABLE}"
exchange = "{EXCHANGE}"
routing_key = "{{connection}}.{{record_type}}.{{change}}"
allow_networks = {networks}
plain_http_networks = {networks}

[[subscriptions]]
name = "everything-on-the-bus"
connections = ["demo"]
topic = "*"
format = "cloudevents-binary"
destination = "{NAME}"
"#
    )
}

/// What the broker confirmed.
#[derive(Debug, Clone, Default)]
pub(super) struct Bus {
    confirmed: Arc<Mutex<BTreeSet<String>>>,
}

impl Bus {
    /// Declares the demo's exchange and queue, and counts what the worker publishes there from now on.
    pub(super) async fn board(config: &Config, worker: &mut Worker) -> Result<Self, CliError> {
        let bus = Self::default();
        for entry in config.destinations.values() {
            if let Target::Amqp(target) = &entry.target {
                topology::declare(&app::broker_settings(entry, target, &Labels::default()), QUEUE)
                    .await
                    .map_err(|error| CliError::Failed(format!("--amqp: {error}")))?;
                bus.count(&entry.name, worker);
            }
        }
        Ok(bus)
    }

    fn count(&self, name: &DestinationName, worker: &mut Worker) {
        if let Some(outlet) = worker.destinations.get_mut(name) {
            let counted = Counted {
                inner: Arc::clone(&outlet.destination),
                bus: self.clone(),
            };
            *outlet = Arc::new(Outlet::new(Arc::new(counted), outlet.retry.clone()));
        }
    }

    /// How many of these ids the broker confirmed.
    pub(super) fn confirmed_of<'a>(&self, mut ids: impl Iterator<Item = &'a String>) -> usize {
        let confirmed = self.lock();
        ids.by_ref().filter(|id| confirmed.contains(*id)).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A destination whose accepted events are noted.
struct Counted {
    inner: Arc<dyn Destination>,
    bus: Bus,
}

#[async_trait]
impl Destination for Counted {
    async fn deliver(&self, notification: &Notification, now: Timestamp) -> Attempt {
        let attempt = self.inner.deliver(notification, now).await;
        match &attempt {
            Attempt::Accepted { .. } => {
                self.bus.lock().insert(notification.event_id.to_string());
            }
            Attempt::Failed { .. } => {}
        }
        attempt
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
