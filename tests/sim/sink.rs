//! Fake destinations: prompt, slow, flaky, hanging, down for a while, dead for ever. Each notes what really reached it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ehr_courier::destination::{Attempt, Destination, Notification};
use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::book::{Arrival, Book, Ending};
use crate::life::Life;

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
    pub(crate) hung: AtomicUsize,
    pub(crate) refused: AtomicUsize,
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
    Refuse,
    HangHaving,
    HangEmpty,
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
            return (quick, Answer::Refuse);
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
            Temper::Flaky(share) if dice.random_bool(share) => (quick, Answer::Refuse),
            Temper::Hangs(share) if dice.random_bool(share) => (quick, hang(dice.random_bool(0.5))),
            Temper::DownUntil(until) if Instant::now() < until => (quick, Answer::Refuse),
            Temper::Prompt | Temper::Dead | Temper::Flaky(_) | Temper::Hangs(_) | Temper::DownUntil(_) => {
                (quick, Answer::Accept)
            }
        }
    }

    fn begin(&self, notification: &Notification) -> (usize, (String, String)) {
        let record = (notification.connection.to_string(), notification.key.to_string());
        let mut under_way = self.under_way.lock().unwrap();
        let subscription = &self.state.subscription;
        if !under_way.insert(record.clone()) {
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

#[async_trait]
impl Destination for Sink {
    async fn deliver(&self, notification: &Notification, _now: Timestamp) -> Attempt {
        self.life.gate().await;
        let (index, record) = self.begin(notification);
        let (wait, answer) = self.answer();
        tokio::time::sleep(wait).await;
        // What was sent arrives even if its sender is dead by now: it was on the wire.
        let ending = match answer {
            Answer::Accept => {
                self.note_received(index);
                Ending::Accepted
            }
            Answer::Refuse => {
                self.state.refused.fetch_add(1, Ordering::Relaxed);
                Ending::Failed
            }
            Answer::HangHaving | Answer::HangEmpty => {
                self.state.hung.fetch_add(1, Ordering::Relaxed);
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
