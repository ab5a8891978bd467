//! Fake destinations: prompt, slow, flaky, hanging, down for a while, dead for ever; and a broker that hands messages
//! back, refuses them, and loses its connection. Each notes what really reached it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ehr_courier::destination::{Attempt, Destination, Notification};
use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::book::{Arrival, Book, Ending};
use crate::life::Life;
use crate::plan::BrokerShares;

/// A destination's own deadline.
const DEADLINE: Duration = Duration::from_secs(5);

/// How a destination behaves until the world calms down; only the dead one stays as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Temper {
    /// Accepts at once.
    Prompt,
    /// Takes up to a second.
    Slow,
    /// Says 5xx with this probability.
    Flaky(f64),
    /// Says nothing within the deadline with this probability, although it took the notification in half of the
    /// times.
    Hangs(f64),
    /// Says 503 until then.
    DownUntil(Instant),
    /// A broker whose confirms tell what became of each message, while its connection lasts.
    Broker(BrokerShares),
    /// Says 410, always.
    Dead,
}

/// What lives of one destination keep in common.
pub(crate) struct SinkState {
    pub(crate) subscription: String,
    pub(crate) temper: Temper,
    pub(crate) permits: usize,
    pub(crate) calm: Arc<AtomicBool>,
    pub(crate) dice: Mutex<StdRng>,
    pub(crate) book: Arc<Book>,
    /// How often each fault struck.
    pub(crate) strikes: Mutex<BTreeMap<&'static str, u64>>,
    /// Rung when a broker's connection breaks, for all that wait for a confirm.
    pub(crate) connection_lost: Notify,
}

impl SinkState {
    fn strike(&self, name: &'static str) {
        *self.strikes.lock().unwrap().entry(name).or_default() += 1;
    }
}

/// One life's way to a destination.
pub(crate) struct Sink {
    pub(crate) state: Arc<SinkState>,
    pub(crate) life: Arc<Life>,
    /// Records with an attempt under way, by this life.
    pub(crate) under_way: Mutex<BTreeSet<(String, String)>>,
}

enum Answer {
    Accept,
    /// It says no, under this name.
    Refuse(&'static str),
    HangHaving,
    HangEmpty,
    /// The connection breaks before the confirm.
    Break,
    /// Another message's connection broke, after the broker had taken this one in, or before.
    LostHaving,
    LostEmpty,
}

impl Sink {
    pub(crate) fn new(state: Arc<SinkState>, life: Arc<Life>) -> Self {
        Self {
            state,
            life,
            under_way: Mutex::new(BTreeSet::new()),
        }
    }

    fn answer(&self) -> (Duration, Answer) {
        let state = &self.state;
        let mut dice = state.dice.lock().unwrap();
        let quick = Duration::from_millis(dice.random_range(1..30));
        if state.temper == Temper::Dead {
            return (quick, Answer::Refuse("destination_refused"));
        }
        if state.calm.load(Ordering::Relaxed) {
            return (quick, Answer::Accept);
        }
        let hang = |having: bool| {
            if having {
                Answer::HangHaving
            } else {
                Answer::HangEmpty
            }
        };
        match state.temper {
            Temper::Slow => (
                Duration::from_millis(dice.random_range(100..1000)),
                Answer::Accept,
            ),
            Temper::Flaky(share) if dice.random_bool(share) => (quick, Answer::Refuse("destination_refused")),
            Temper::Hangs(share) if dice.random_bool(share) => (quick, hang(dice.random_bool(0.5))),
            Temper::DownUntil(until) if Instant::now() < until => {
                (quick, Answer::Refuse("destination_refused"))
            }
            Temper::Broker(shares) => (quick, confirm(shares, dice.random())),
            Temper::Prompt | Temper::Dead | Temper::Flaky(_) | Temper::Hangs(_) | Temper::DownUntil(_) => {
                (quick, Answer::Accept)
            }
        }
    }

    /// A message that was in flight when the connection broke: taken in or not, without a confirm.
    fn unconfirmed(&self) -> Answer {
        self.state.strike("broker_unconfirmed");
        if self.state.dice.lock().unwrap().random_bool(0.5) {
            Answer::LostHaving
        } else {
            Answer::LostEmpty
        }
    }

    fn begin(&self, notification: &Notification) -> (usize, (String, String)) {
        let record = (notification.connection.to_string(), notification.key.to_string());
        let mut under_way = self.under_way.lock().unwrap();
        let subscription = &self.state.subscription;
        // A worker that stood still holds its lease anew and sends again what it was sending.
        let awake = !self.state.book.open().frozen.contains(&self.life.number);
        if !under_way.insert(record.clone()) && awake {
            let what = format!("two attempts at once for one record of {subscription}");
            self.state.book.violation(what);
        }
        if under_way.len() > self.state.permits {
            let what = format!("more than {} in flight to {subscription}", self.state.permits);
            self.state.book.violation(what);
        }
        let mut pages = self.state.book.open();
        let begun = pages.next();
        pages.arrivals.push(Arrival {
            begun,
            life: self.life.number,
            subscription: subscription.clone(),
            connection: record.0.clone(),
            event_id: notification.event_id.to_string(),
            body: notification.rendered.body.clone(),
            received: None,
            ending: Ending::Open,
        });
        (pages.arrivals.len() - 1, record)
    }

    fn note_received(&self, index: usize) {
        let mut pages = self.state.book.open();
        let tick = pages.next();
        pages.arrivals[index].received = Some(tick);
    }

    fn finish(&self, index: usize, record: &(String, String), ending: Ending) -> Attempt {
        self.under_way.lock().unwrap().remove(record);
        self.state.book.open().arrivals[index].ending = ending;
        match ending {
            Ending::Accepted => Attempt::Accepted {
                detail: "204".to_owned(),
            },
            Ending::Failed | Ending::Open => Attempt::Failed {
                detail: "failed".to_owned(),
                retry_after: None,
            },
        }
    }
}

/// What a broker says of a message, by one draw.
fn confirm(shares: BrokerShares, draw: f64) -> Answer {
    if draw < shares.returned {
        Answer::Refuse("broker_returned")
    } else if draw < shares.returned + shares.nacked {
        Answer::Refuse("broker_nacked")
    } else if draw < shares.returned + shares.nacked + shares.lost {
        Answer::Break
    } else {
        Answer::Accept
    }
}

#[async_trait]
impl Destination for Sink {
    async fn deliver(&self, notification: &Notification, _now: Timestamp) -> Attempt {
        self.life.gate().await;
        let (index, record) = self.begin(notification);
        let (wait, answer) = self.answer();
        let answer = tokio::select! {
            biased;
            // All that was in flight shares the fate of the connection, and nobody knows what the broker had taken.
            () = self.state.connection_lost.notified() => self.unconfirmed(),
            () = tokio::time::sleep(wait) => answer,
        };
        // What was sent arrives even if its sender is dead by now: it was on the wire.
        let ending = match answer {
            Answer::Accept => {
                self.note_received(index);
                Ending::Accepted
            }
            Answer::Refuse(name) => {
                self.state.strike(name);
                Ending::Failed
            }
            Answer::Break => {
                self.state.strike("broker_connection_lost");
                self.state.connection_lost.notify_waiters();
                Ending::Failed
            }
            Answer::LostHaving => {
                self.note_received(index);
                Ending::Failed
            }
            Answer::LostEmpty => Ending::Failed,
            Answer::HangHaving | Answer::HangEmpty => {
                self.state.strike("destination_hung");
                if matches!(answer, Answer::HangHaving) {
                    self.note_received(index);
                }
                tokio::time::sleep(DEADLINE).await;
                Ending::Failed
            }
        };
        self.life.gate().await;
        self.finish(index, &record, ending)
    }
}
