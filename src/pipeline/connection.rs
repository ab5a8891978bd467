//! One connection at work: its connector, feeds, budget, lease and condition.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::{ConnectionName, Connector, Detect, FeedName, FeedSpec};
use jiff::Timestamp;
use tokio::time::Instant;

use super::budget::Budget;
use super::gone::Gone;
use super::overlap::Lateness;
use super::roll::Listings;
use super::storm::Storms;
use crate::domain::delivery::Fence;
use crate::domain::ledger::Unchanged;

/// One connection at work.
pub struct Connection {
    /// Its name.
    pub name: ConnectionName,
    /// Who speaks to the source.
    pub connector: Arc<dyn Connector>,
    /// What is polled.
    pub feeds: Vec<Feed>,
    /// What the source is asked to bear.
    pub budget: Arc<Budget>,
    /// How many requests may be under way at once.
    pub concurrent: usize,
    /// What its reads suggest of records that are gone.
    pub gone: Gone,
    /// What its feeds list.
    pub listings: Listings,
    /// Which of its feeds are in a storm.
    pub storms: Storms,
    lease: Mutex<Option<Held>>,
    condition: Mutex<std::collections::BTreeMap<FeedName, Condition>>,
    fetched_at: Mutex<Option<Instant>>,
    answered_at: Mutex<Option<Instant>>,
    /// Live feeds that wait for leave to ask.
    waiting: Mutex<BTreeSet<FeedName>>,
    made_at: Instant,
}

/// One feed and its interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// What the connector needs to know.
    pub spec: FeedSpec,
    /// How often it is polled.
    pub every: Duration,
    /// Whether its overlap stays as it is configured.
    pub overlap: Overlap,
    /// Whether a version with the content of its record's last one is told of.
    pub unchanged: Unchanged,
    /// From how many times the usual on the new versions of a poll are a storm; `None` for never.
    pub storm: Option<NonZeroU32>,
}

/// However often a feed is polled, it is not called frozen sooner than this.
const FROZEN_AFTER_MIN: Duration = Duration::from_mins(15);

/// Nor before so many of its intervals have passed.
const FROZEN_AFTER_INTERVALS: u32 = 10;

impl Feed {
    /// A feed of which no complete answer is younger than this is frozen.
    #[must_use]
    pub fn frozen_after(&self) -> Duration {
        self.every
            .saturating_mul(FROZEN_AFTER_INTERVALS)
            .max(FROZEN_AFTER_MIN)
    }
}

/// Whether a feed's overlap stays as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It does.
    #[default]
    Fixed,
    /// It adapts to how late the source shows changes.
    Adaptive,
}

/// How a feed fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// Failed turns in a row.
    pub failures: u32,
    /// When its last turn ended well.
    pub succeeded_at: Option<Timestamp>,
    /// What the source's last complete answer was as fresh as, by the source's clock.
    pub fresh_as_of: Option<Timestamp>,
    /// Why it is set aside or failing; no PHI.
    pub trouble: Option<String>,
    /// Stages in a row that came to nothing.
    pub lost_stages: u32,
    /// How its changes are found for now.
    pub way: Way,
    /// How late its changes were seen.
    pub lateness: Lateness,
    /// What the sweep that runs has brought so far.
    pub recovered: u64,
    /// When a page of it was handed over last, where it is a backfill.
    pub paged_at: Option<Instant>,
}

/// How a feed's changes are found for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// As configured.
    #[default]
    Configured,
    /// By a search, until one is complete.
    BySearch,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    fence: Fence,
    trusted_until: Instant,
}

impl Connection {
    /// Makes a connection that holds no lease yet.
    #[must_use]
    pub fn new(
        name: ConnectionName,
        connector: Arc<dyn Connector>,
        feeds: Vec<Feed>,
        budget: impl Into<Arc<Budget>>,
        concurrent: usize,
    ) -> Self {
        let condition = feeds
            .iter()
            .map(|feed| (feed.spec.name.clone(), Condition::default()))
            .collect();
        Self {
            name,
            connector,
            feeds,
            budget: budget.into(),
            concurrent,
            gone: Gone::default(),
            listings: Listings::default(),
            storms: Storms::default(),
            lease: Mutex::new(None),
            condition: Mutex::new(condition),
            fetched_at: Mutex::new(None),
            answered_at: Mutex::new(None),
            waiting: Mutex::default(),
            made_at: Instant::now(),
        }
    }

    /// The feeds that find changes, without their sweeps and backfills.
    pub fn live_feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.iter().filter(|feed| feed.is_live())
    }

    /// The feed of that name, if it is polled.
    #[must_use]
    pub fn feed(&self, name: &FeedName) -> Option<&Feed> {
        self.feeds.iter().find(|feed| feed.spec.name == *name)
    }

    /// How long this worker has had it.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.made_at.elapsed()
    }

    /// The sweep of a feed, if it has one.
    #[must_use]
    pub fn sweep_of(&self, live: &FeedName) -> Option<FeedName> {
        let sweep = self
            .feeds
            .iter()
            .find(|feed| feed.sweeps().as_ref() == Some(live));
        sweep.map(|feed| feed.spec.name.clone())
    }

    /// The feeds of which a version with the content of its record's last one is not told.
    #[must_use]
    pub fn unchanged_untold(&self) -> BTreeSet<FeedName> {
        let untold = self
            .feeds
            .iter()
            .filter(|feed| self.unchanged(feed) == Unchanged::Suppress);
        untold.map(|feed| feed.spec.name.clone()).collect()
    }

    /// Whether a version of a feed is told of that has the content of its record's last one.
    #[must_use]
    pub fn unchanged(&self, feed: &Feed) -> Unchanged {
        match self.storms.of(&feed.spec.name) {
            Some(_) => Unchanged::Suppress,
            None => feed.unchanged,
        }
    }

    /// The feeds that give way to the others: those in a storm.
    #[must_use]
    pub fn giving_way(&self) -> BTreeSet<FeedName> {
        let names = self.feeds.iter().map(|feed| &feed.spec.name);
        names
            .filter(|name| self.storms.of(name).is_some())
            .cloned()
            .collect()
    }

    /// The fence of the lease, while it can be trusted. A lease in doubt is no lease: nothing is asked of the source.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        let held = *self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        held.filter(|held| Instant::now() < held.trusted_until)
            .map(|held| held.fence)
    }

    /// Notes a lease that was granted or renewed by a request sent at `asked_at`.
    pub fn hold(&self, fence: Fence, asked_at: Instant, trust: Duration) {
        let held = Held {
            fence,
            trusted_until: asked_at + trust,
        };
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    /// Notes that the lease is gone.
    pub fn let_go(&self) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that a record was read.
    pub fn note_fetched(&self) {
        self.budget.answered();
        *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.note_answered();
    }

    /// Notes a search or a read that was answered well.
    pub fn note_answered(&self) {
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When a search or a read was answered well last.
    #[must_use]
    pub fn answered_at(&self) -> Option<Instant> {
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a record was read within so long.
    #[must_use]
    pub fn fetched_within(&self, by: Duration) -> bool {
        let fetched_at = *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner);
        fetched_at.is_some_and(|at| at.elapsed() <= by)
    }

    /// How a feed fares.
    #[must_use]
    pub fn condition(&self, feed: &FeedName) -> Option<Condition> {
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(feed)
            .cloned()
    }

    /// Notes a turn that ended well, and what its answer was as fresh as.
    pub fn note_success(&self, feed: &FeedName, now: Timestamp, fresh_as_of: Option<Timestamp>) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = conditions.entry(feed.clone()).or_default();
        condition.failures = 0;
        condition.trouble = None;
        condition.lost_stages = 0;
        condition.way = Way::Configured;
        condition.succeeded_at = Some(now);
        condition.fresh_as_of = fresh_as_of.or(condition.fresh_as_of);
    }

    /// Notes a page that was handed over: what failed before it no longer counts as failed in a row, or a long
    /// catch-up from a source that stumbles now and then would wait ever longer.
    pub fn note_progress(&self, feed: &FeedName) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(condition) = conditions.get_mut(feed) {
            condition.failures = 0;
        }
    }

    /// Notes a stage that came to nothing, and returns how many have in a row.
    pub fn note_lost_stage(&self, feed: &FeedName) -> u32 {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = conditions.entry(feed.clone()).or_default();
        condition.lost_stages = condition.lost_stages.saturating_add(1);
        condition.lost_stages
    }

    /// Lets a feed search for its current state until one search is complete.
    pub fn search_instead(&self, feed: &FeedName) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.entry(feed.clone()).or_default().way = Way::BySearch;
    }

    /// What the connector is to know of a feed now.
    #[must_use]
    pub fn spec_in_force(&self, feed: &Feed) -> FeedSpec {
        let condition = self.condition(&feed.spec.name).unwrap_or_default();
        let detect = match condition.way {
            Way::Configured => feed.spec.detect,
            Way::BySearch => Detect::LastUpdated,
        };
        let overlap = match feed.overlap {
            Overlap::Fixed => feed.spec.overlap,
            Overlap::Adaptive => condition.lateness.overlap(Instant::now()),
        };
        FeedSpec {
            detect,
            overlap,
            ..feed.spec.clone()
        }
    }

    /// Notes a change that came so late.
    pub fn note_lateness(&self, feed: &FeedName, late: Duration) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = conditions.entry(feed.clone()).or_default();
        condition.lateness.note(late, Instant::now());
    }

    /// Notes changes that a sweep brought.
    pub fn note_recovered(&self, sweep: &FeedName, changes: u64) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.entry(sweep.clone()).or_default().recovered += changes;
    }

    /// What a sweep has brought; forgets it.
    pub fn take_recovered(&self, sweep: &FeedName) -> u64 {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut conditions.entry(sweep.clone()).or_default().recovered)
    }

    /// Notes that a page of a backfill was handed over.
    pub fn note_paged(&self, backfill: &FeedName) {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.entry(backfill.clone()).or_default().paged_at = Some(Instant::now());
    }

    /// Notes a live feed that was refused leave to ask.
    pub fn note_waits(&self, feed: &FeedName) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(feed.clone());
    }

    /// Notes that a feed does not wait for leave, or not any more.
    pub fn note_waits_no_longer(&self, feed: &FeedName) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(feed);
    }

    /// Whether a live feed waits for leave to ask.
    #[must_use]
    pub fn live_waits(&self) -> bool {
        !self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// How long no complete answer has come of a feed, or how old by the source's clock the last one is. Of a connection
    /// that this worker does not hold, nothing.
    #[must_use]
    pub fn stale_for(&self, feed: &FeedName, now: Timestamp) -> Option<Duration> {
        self.fence()?;
        let fresh_as_of = self.condition(feed).and_then(|condition| condition.fresh_as_of);
        Some(fresh_as_of.map_or_else(
            || self.made_at.elapsed(),
            |at| Duration::try_from(now.duration_since(at)).unwrap_or_default(),
        ))
    }

    /// Notes a turn that failed, and returns how many have in a row.
    pub fn note_failure(&self, feed: &FeedName, trouble: String) -> u32 {
        let mut conditions = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = conditions.entry(feed.clone()).or_default();
        condition.failures = condition.failures.saturating_add(1);
        condition.trouble = Some(trouble);
        condition.failures
    }
}
