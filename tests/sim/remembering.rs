//! What stands in front of the store, as a Redis shared by all workers: it outlives them, it forgets, it is flushed, it
//! goes away and comes back empty, it is slow. What it never does is know an id that nobody marked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::ConnectionName;
use ehr_courier::dedup::Dedup;
use ehr_courier::domain::identity::EventId;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::life::Life;

/// The longest that a caller waits for an answer; then it is a no.
const DEADLINE: Duration = Duration::from_millis(500);

/// What goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DedupPlan {
    Faithful,
    /// Evicts an id that is asked for with this probability.
    Evicting(f64),
    /// Forgets everything with this probability per call.
    Flushed(f64),
    /// Goes away with this probability per call, for some seconds, and comes back empty.
    Away(f64),
    /// Answers late with this probability, and half of those times too late.
    Slow(f64),
}

/// The server, with what happened to it.
pub(crate) struct Remembering {
    plan: DedupPlan,
    state: Mutex<State>,
}

struct State {
    known: BTreeSet<(ConnectionName, EventId)>,
    away_until: Option<Instant>,
    dice: StdRng,
    strikes: BTreeMap<&'static str, u64>,
    spared: u64,
}

/// How one call goes.
enum Call {
    Answered,
    Late(Duration),
    Unanswered(Duration),
}

impl Remembering {
    pub(crate) fn new(plan: DedupPlan, dice: StdRng) -> Self {
        let state = State {
            known: BTreeSet::new(),
            away_until: None,
            dice,
            strikes: BTreeMap::new(),
            spared: 0,
        };
        Self {
            plan,
            state: Mutex::new(state),
        }
    }

    /// How often each fault struck.
    pub(crate) fn strikes(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap().strikes.clone()
    }

    /// How many look-ups it spared the store.
    pub(crate) fn spared(&self) -> u64 {
        self.state.lock().unwrap().spared
    }

    fn call(&self) -> Call {
        let mut state = self.state.lock().unwrap();
        if let Some(until) = state.away_until {
            if Instant::now() < until {
                return Call::Unanswered(Duration::ZERO);
            }
            state.away_until = None;
        }
        match self.plan {
            DedupPlan::Flushed(share) if state.dice.random_bool(share) && !state.known.is_empty() => {
                state.strike("dedup_flushed");
                state.known.clear();
                Call::Answered
            }
            DedupPlan::Away(share) if state.dice.random_bool(share) => {
                state.strike("dedup_restarted_empty");
                state.known.clear();
                let seconds = state.dice.random_range(1..15);
                state.away_until = Some(Instant::now() + Duration::from_secs(seconds));
                Call::Unanswered(DEADLINE)
            }
            DedupPlan::Slow(share) if state.dice.random_bool(share) => {
                state.strike("dedup_slow");
                if state.dice.random_bool(0.5) {
                    Call::Late(DEADLINE.mul_f64(state.dice.random_range(0.1..0.9)))
                } else {
                    Call::Unanswered(DEADLINE)
                }
            }
            DedupPlan::Faithful
            | DedupPlan::Evicting(_)
            | DedupPlan::Flushed(_)
            | DedupPlan::Away(_)
            | DedupPlan::Slow(_) => Call::Answered,
        }
    }

    /// Waits as long as the call takes; says whether its answer comes in time.
    async fn is_answered(&self) -> bool {
        match self.call() {
            Call::Answered => true,
            Call::Late(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            Call::Unanswered(wait) => {
                tokio::time::sleep(wait).await;
                false
            }
        }
    }

    fn know(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        let mut state = self.state.lock().unwrap();
        let mut known = |id: &EventId| {
            let key = (connection.clone(), id.clone());
            if let DedupPlan::Evicting(share) = self.plan
                && state.known.contains(&key)
                && state.dice.random_bool(share)
            {
                state.strike("dedup_evicted");
                state.known.remove(&key);
            }
            let knows = state.known.contains(&key);
            state.spared += u64::from(knows);
            knows
        };
        ids.iter().map(&mut known).collect()
    }
}

impl State {
    fn strike(&mut self, name: &'static str) {
        *self.strikes.entry(name).or_default() += 1;
    }
}

/// One life's way to it: the dead cannot write.
pub(crate) struct Gated {
    pub(crate) inner: Arc<Remembering>,
    pub(crate) life: Arc<Life>,
}

#[async_trait]
impl Dedup for Gated {
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        self.life.gate().await;
        let answered = self.inner.is_answered().await;
        self.life.gate().await;
        if answered {
            self.inner.know(connection, ids)
        } else {
            vec![false; ids.len()]
        }
    }

    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]) {
        self.life.gate().await;
        // What was sent in time is carried out even if nobody hears of it; what was sent to nobody is lost.
        if self.inner.is_answered().await {
            let mut state = self.inner.state.lock().unwrap();
            let marked = ids.iter().map(|id| (connection.clone(), id.clone()));
            state.known.extend(marked);
        }
        self.life.gate().await;
    }

    async fn forget(&self, connection: &ConnectionName, ids: &[EventId]) {
        self.life.gate().await;
        if self.inner.is_answered().await {
            let mut state = self.inner.state.lock().unwrap();
            for id in ids {
                state.known.remove(&(connection.clone(), id.clone()));
            }
        }
        self.life.gate().await;
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
