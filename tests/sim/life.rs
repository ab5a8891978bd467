//! One worker's life: every seam it reaches the world through asks here first whether it still lives.
//!
//! A life ends (crash) or stands still (freeze) at a scripted store call. After its end nothing it had begun reaches
//! the world any more, whatever the runtime still polls.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::book::Book;

/// A kind of store call at which a life can be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    AcceptPage,
    StagePage,
    ReleaseStage,
    AbandonPoll,
    ClaimChanges,
    SettleChanges,
    FanOut,
    ClaimDeliveries,
    RecordAttempts,
    Other,
}

/// Before or after the call took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

/// What happens at the scripted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The process dies.
    Crash,
    /// The process stands still for so long (a stopped process, a paused machine).
    Freeze(Duration),
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) op: Op,
    /// At the n-th call of that kind, from 1.
    pub(crate) nth: u32,
    pub(crate) side: Side,
    pub(crate) blow: Blow,
    /// If that call has not come by then, at the next call of any kind.
    pub(crate) at_latest: Instant,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Alive,
    FrozenUntil(Instant),
    Dead,
}

struct Inner {
    state: State,
    trigger: Option<Trigger>,
    calls: BTreeMap<Op, u32>,
}

/// One worker's life.
pub(crate) struct Life {
    pub(crate) number: usize,
    inner: Mutex<Inner>,
    ended: Notify,
    book: Arc<Book>,
}

impl Life {
    pub(crate) fn begin(number: usize, trigger: Option<Trigger>, book: Arc<Book>) -> Arc<Self> {
        Arc::new(Self {
            number,
            inner: Mutex::new(Inner {
                state: State::Alive,
                trigger,
                calls: BTreeMap::new(),
            }),
            ended: Notify::new(),
            book,
        })
    }

    /// Passes while the life lasts; waits while it stands still; never returns after its end.
    pub(crate) async fn gate(&self) {
        loop {
            let state = self.inner.lock().unwrap().state;
            match state {
                State::Alive => return,
                State::FrozenUntil(until) if Instant::now() >= until => {
                    self.inner.lock().unwrap().state = State::Alive;
                }
                State::FrozenUntil(until) => tokio::time::sleep_until(until).await,
                State::Dead => pending().await,
            }
        }
    }

    /// Passes a store call, unless the script says otherwise.
    pub(crate) async fn at(&self, op: Op, side: Side) {
        self.gate().await;
        let blow = self.blow_at(op, side);
        match blow {
            None => {}
            Some(Blow::Crash) => {
                self.book.note_crash(self.number, op, side);
                self.end();
                pending::<()>().await;
            }
            Some(Blow::Freeze(how_long)) => {
                self.book.note_freeze(self.number);
                self.inner.lock().unwrap().state = State::FrozenUntil(Instant::now() + how_long);
                self.gate().await;
            }
        }
    }

    /// Waits for the life's end.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Ends it here and now.
    pub(crate) fn end(&self) {
        self.inner.lock().unwrap().state = State::Dead;
        self.ended.notify_one();
    }

    /// Waits until the life has stood still, if the script wants that, and goes on again.
    pub(crate) async fn freeze_is_over(&self) {
        loop {
            {
                let inner = self.inner.lock().unwrap();
                if inner.trigger.is_none() && matches!(inner.state, State::Alive) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn blow_at(&self, op: Op, side: Side) -> Option<Blow> {
        let mut inner = self.inner.lock().unwrap();
        if side == Side::Before {
            *inner.calls.entry(op).or_default() += 1;
        }
        let count = inner.calls.get(&op).copied().unwrap_or_default();
        let trigger = inner.trigger?;
        let here = trigger.op == op && trigger.side == side && trigger.nth <= count;
        if here || Instant::now() >= trigger.at_latest {
            inner.trigger = None;
            return Some(trigger.blow);
        }
        None
    }
}
