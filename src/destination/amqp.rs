//! The AMQP 0-9-1 destination: one persistent, mandatory message per attempt, accepted when the broker confirms it and did
//! not return it.
//!
//! Guarantees: at most [`WINDOW`] messages await their confirm, each on a channel of its own, so that a confirm, a
//! returned message or an error belongs to one message and to no other; every wait ends within a deadline; a connection
//! that is lost fails whatever awaited its confirm, at once. What the broker writes back and its credentials never leave
//! this module. The rows in the store remember what to send again; this module remembers nothing but its connection.

mod link;
mod message;
mod refused;
mod supervise;
pub mod topology;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use lapin::types::ShortString;
use metrics::SharedString;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Destination, Notification};
use crate::domain::name::DestinationName;
use crate::egress::dial::Broker;
use crate::egress::guard::AddressPolicy;
use crate::wire::routing_key::Template;
use refused::Refused;
use supervise::State;

/// The total deadline of one attempt, waiting for a connection included.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Messages that await their confirm at once: as many as the pipeline has in flight to one destination.
pub const WINDOW: usize = 64;

/// How long a clean goodbye may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What an AMQP destination needs.
#[derive(Clone)]
pub struct Settings {
    /// Its name.
    pub name: DestinationName,
    /// What its metrics are labelled with: its name, or what stands for the many.
    pub label: SharedString,
    /// The broker and who we are to it.
    pub broker: Broker,
    /// The exchange to publish to, which must exist: 1 to 255 bytes.
    pub exchange: String,
    /// What the routing key is made of.
    pub routing_key: Template,
    /// Which addresses the broker may have.
    pub policy: AddressPolicy,
    /// The total deadline of one attempt, usually [`DEADLINE`].
    pub deadline: Duration,
}

/// Publishes notifications to one exchange. The first attempt starts the task that keeps the connection.
pub struct Amqp {
    settings: Arc<Settings>,
    window: Semaphore,
    state: watch::Sender<State>,
    supervisor: Mutex<Supervisor>,
}

/// The task that keeps the connection. Dropping it ends the task and with it the connection.
#[derive(Default)]
struct Supervisor {
    task: JoinSet<()>,
    stop: CancellationToken,
}

impl Amqp {
    /// Makes the destination. Nothing is connected before the first attempt.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            window: Semaphore::new(WINDOW),
            state: watch::Sender::new(State::Connecting),
            supervisor: Mutex::default(),
        }
    }

    /// Starts the supervisor unless it runs. Its panic is the attempt's, so that it ends the process.
    fn supervise(&self) {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        match supervisor.task.try_join_next() {
            Some(Err(error)) if error.is_panic() => {
                drop(supervisor);
                std::panic::resume_unwind(error.into_panic())
            }
            Some(_) | None => {}
        }
        if supervisor.task.is_empty() {
            self.state.send_replace(State::Connecting);
            let (settings, state) = (Arc::clone(&self.settings), self.state.clone());
            let stop = supervisor.stop.clone();
            supervisor.task.spawn(supervise::run(settings, state, stop));
        }
    }

    async fn publish(&self, notification: &Notification, now: Timestamp) -> Result<(), Refused> {
        let Notification {
            connection,
            key,
            kind,
            ..
        } = notification;
        let routing_key = self.settings.routing_key.fill(connection, key, *kind)?;
        let routing_key = ShortString::try_new(routing_key).map_err(|_too_long| Refused::Names)?;
        let message = message::Message::of(notification, routing_key, now);
        let _place = self.window.acquire().await.map_err(|_closed| Refused::Stopped)?;
        let link = supervise::link(&self.state).await?;
        link.unblocked().await?;
        link.publish(&self.settings, &message).await
    }

    /// What an attempt was waiting for when its time was over.
    fn overdue(&self) -> Refused {
        let within = self.settings.deadline;
        match &*self.state.borrow() {
            State::Connecting => Refused::NotConnectedWithin(within),
            State::Up(link) => match link.blocked() {
                Some(shortage) => Refused::Blocked(shortage),
                None => Refused::NotConfirmedWithin(within),
            },
            State::Down(refused) => refused.clone(),
            State::Stopped => Refused::Stopped,
        }
    }
}

impl fmt::Debug for Amqp {
    /// Shows host and exchange only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { broker, exchange, .. } = self.settings.as_ref();
        write!(f, "Amqp({exchange} at {})", broker.endpoint.host)
    }
}

#[async_trait]
impl Destination for Amqp {
    async fn deliver(&self, notification: &Notification, now: Timestamp) -> Attempt {
        self.supervise();
        let outcome = timeout(self.settings.deadline, self.publish(notification, now)).await;
        match outcome.unwrap_or_else(|_elapsed| Err(self.overdue())) {
            Ok(()) => Attempt::Accepted {
                detail: "confirmed".to_owned(),
            },
            Err(refused) => Attempt::Failed {
                detail: refused.to_string(),
                retry_after: None,
            },
        }
    }

    /// Connects and logs in, as the first attempt would. Whether a message finds a queue only a message can tell.
    async fn probe(&self) -> Attempt {
        self.supervise();
        let connected = timeout(self.settings.deadline, supervise::link(&self.state)).await;
        match connected.unwrap_or_else(|_elapsed| Err(self.overdue())) {
            Ok(_link) => Attempt::Accepted {
                detail: "connected; `destinations test` shows whether a message finds a queue".to_owned(),
            },
            Err(refused) => Attempt::Failed {
                detail: refused.to_string(),
                retry_after: None,
            },
        }
    }

    async fn close(&self) {
        let mut supervisor =
            std::mem::take(&mut *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner));
        supervisor.stop.cancel();
        // Past the deadline the connection is cut when the task is dropped.
        let joined = timeout(CLOSE_DEADLINE * 2, supervisor.task.join_next()).await;
        if let Ok(Some(Err(error))) = joined
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
