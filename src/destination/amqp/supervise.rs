//! The supervisor: keeps one connection to the broker, opens it again when it is lost, and says how things stand.
//!
//! lapin's own recovery is off: it lets confirms wait until it has finished, and an attempt must end before.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::{Stream, StreamExt as _};
use lapin::Event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settings;
use super::link::Link;
use super::refused::{Refused, Shortage};

/// The wait before a lost connection is opened again: at first, and at most. A broker takes some seconds to start.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MOST: Duration = Duration::from_secs(30);

/// How often the connection is looked at beside what it tells by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the connection stands.
pub(super) enum State {
    /// There is none yet, or the last one was just lost: attempts wait.
    Connecting,
    /// There is one.
    Up(Arc<Link>),
    /// The last try failed: attempts fail at once, until a later try succeeds.
    Down(Refused),
    /// The courier is stopping.
    Stopped,
}

/// Waits for the connection; fails at once when the last try to open one failed.
pub(super) async fn link(state: &watch::Sender<State>) -> Result<Arc<Link>, Refused> {
    let mut state = state.subscribe();
    let settled = state
        .wait_for(|state| !matches!(state, State::Connecting))
        .await
        .map_err(|_closed| Refused::Stopped)?;
    match &*settled {
        State::Up(link) => Ok(Arc::clone(link)),
        State::Down(refused) => Err(refused.clone()),
        State::Connecting | State::Stopped => Err(Refused::Stopped),
    }
}

/// Keeps the connection until `stop`, then closes it.
pub(super) async fn run(settings: Arc<Settings>, state: watch::Sender<State>, stop: CancellationToken) {
    let mut waits = waits();
    loop {
        let Some(opened) = stop.run_until_cancelled(Link::open(&settings)).await else {
            break;
        };
        let lasted = match opened {
            Ok(link) => {
                count(&settings, "connected");
                info!(destination = %settings.name, "connected to the broker");
                let begun = Instant::now();
                keep(&settings, Arc::new(link), &state, &stop).await;
                begun.elapsed()
            }
            Err(refused) => {
                count(&settings, "refused");
                warn!(destination = %settings.name, reason = %refused, "no connection to the broker");
                state.send_replace(State::Down(refused));
                Duration::ZERO
            }
        };
        // A connection that is lost as soon as it is made is a storm: only one that lasted begins the waits anew.
        if lasted >= WAIT_MOST {
            waits = self::waits();
        }
        let wait = waits.next().unwrap_or(WAIT_MOST);
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            break;
        }
    }
    state.send_replace(State::Stopped);
}

fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(WAIT_FIRST)
        .with_max_delay(WAIT_MOST)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Shows a connection to the attempts until it is lost or `stop`.
async fn keep(settings: &Settings, link: Arc<Link>, state: &watch::Sender<State>, stop: &CancellationToken) {
    let events = link.connection().events_listener();
    state.send_replace(State::Up(Arc::clone(&link)));
    show_connected(settings, true);
    let ended = stop
        .run_until_cancelled(watch_over(settings, &link, events))
        .await;
    show_connected(settings, false);
    show_blocked(settings, false);
    link.lose();
    if ended.is_some() {
        warn!(destination = %settings.name, "the connection to the broker was lost");
        state.send_replace(State::Connecting);
    } else {
        state.send_replace(State::Stopped);
        link.close().await;
        info!(destination = %settings.name, "the connection to the broker is closed");
    }
}

/// Follows what the broker says of the connection, until it is gone.
async fn watch_over(settings: &Settings, link: &Link, events: impl Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = sleep(LOOK_EVERY) => {
                if link.connection().status().connected() {
                    continue;
                }
                None
            }
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                let shortage = Shortage::of(&reason);
                link.block(Some(shortage));
                show_blocked(settings, true);
                warn!(destination = %settings.name, reason = %shortage, "the broker takes no messages");
            }
            Some(Event::ConnectionUnblocked) => {
                link.block(None);
                show_blocked(settings, false);
                info!(destination = %settings.name, "the broker takes messages again");
            }
            Some(Event::Error(_)) | None => return,
            Some(_) => {}
        }
    }
}

fn show_connected(settings: &Settings, connected: bool) {
    let value = if connected { 1.0 } else { 0.0 };
    metrics::gauge!("courier_amqp_connected", "destination" => settings.label.clone()).set(value);
}

fn show_blocked(settings: &Settings, blocked: bool) {
    let value = if blocked { 1.0 } else { 0.0 };
    metrics::gauge!("courier_amqp_blocked", "destination" => settings.label.clone()).set(value);
}

fn count(settings: &Settings, outcome: &'static str) {
    metrics::counter!("courier_amqp_connects_total", "destination" => settings.label.clone(), "outcome" => outcome)
        .increment(1);
}
