//! Storms: a poll that brings far more new versions than is usual, as when a source writes all its records anew.
//!
//! While one lasts, versions with the content of their record's last one are not told of, and the feed gives way to the
//! others of its connection. What is usual is remembered for as long as the process lives.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::FeedName;
use tokio::time::Instant;
use tracing::{error, info};

use super::Worker;
use super::connection::{Connection, Feed};
use crate::store::{Backlog, PollId, StoreError};

/// A feed that usually brings less is taken to bring so many: a few hundred at once are no flood for anybody.
const USUAL_MIN: u64 = 300;

/// Before so many complete polls nothing is known of what is usual: after a start, the first catches up.
const POLLS_KNOWN_MIN: u32 = 8;

/// A storm that lasts longer is no storm but what is usual from now on.
const LASTS_MAX: Duration = Duration::from_hours(24);

/// Of the rows that may wait downstream of a connection, a feed in a storm leaves all but this part to the others.
const SHARE: u64 = 10;

/// A storm lasts while more of the connection's changes wait to be read: they are its own, most likely.
const WAITING_MAX: u64 = 100;

/// What is usual for the feeds of a connection, and which of them are in a storm.
#[derive(Debug, Default)]
pub struct Storms(Mutex<BTreeMap<FeedName, Weather>>);

/// From when on a poll is a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    /// From so many times the usual on.
    factor: NonZeroU32,
    /// The least that is taken for usual.
    usual_min: u64,
}

/// How one feed fares.
#[derive(Debug, Clone, Default)]
struct Weather {
    /// Eight times what a poll usually brings: the mean of its polls, of which each counts an eighth.
    usual_times_eight: u64,
    /// Complete polls, up to [`POLLS_KNOWN_MIN`].
    polls: u32,
    /// The poll that runs, and what it brought so far.
    running: PollId,
    brought: u64,
    storm: Option<Storm>,
}

/// One feed's storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Since when.
    pub since: Instant,
    /// How many new versions its polls brought so far.
    pub versions: u64,
}

impl Weather {
    fn usual(&self, rule: Rule) -> u64 {
        (self.usual_times_eight / 8).max(rule.usual_min)
    }

    /// Counts new versions of a poll; answers whether a storm begins with them.
    fn count(&mut self, rule: Rule, poll: PollId, versions: u64, now: Instant) -> bool {
        if self.running != poll {
            (self.running, self.brought) = (poll, 0);
        }
        self.brought += versions;
        if let Some(storm) = &mut self.storm {
            storm.versions += versions;
            return false;
        }
        let begins = self.polls >= POLLS_KNOWN_MIN && self.is_flood(rule);
        if begins {
            self.storm = Some(Storm {
                since: now,
                versions: self.brought,
            });
        }
        begins
    }

    fn is_flood(&self, rule: Rule) -> bool {
        self.brought > self.usual(rule).saturating_mul(u64::from(rule.factor.get()))
    }

    /// Ends a complete poll; `waiting` changes of the connection are still to be read. Answers the storm that is over.
    fn end_poll(&mut self, rule: Rule, waiting: u64, now: Instant) -> Option<Storm> {
        let lasts = self.storm.is_some_and(|storm| {
            let goes_on = self.is_flood(rule) || waiting > WAITING_MAX;
            goes_on && now.saturating_duration_since(storm.since) < LASTS_MAX
        });
        let brought = std::mem::take(&mut self.brought);
        if lasts {
            return None;
        }
        let over = self.storm.take();
        if over.is_some_and(|storm| now.saturating_duration_since(storm.since) >= LASTS_MAX) {
            self.usual_times_eight = brought.saturating_mul(8);
        } else {
            self.usual_times_eight = self.usual_times_eight - self.usual_times_eight / 8 + brought;
        }
        self.polls = POLLS_KNOWN_MIN.min(self.polls + 1);
        over
    }
}

impl Storms {
    fn with<T>(&self, feed: &FeedName, act: impl FnOnce(&mut Weather) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry(feed.clone()).or_default())
    }

    /// A feed's storm, if it is in one.
    #[must_use]
    pub fn of(&self, feed: &FeedName) -> Option<Storm> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(feed).and_then(|weather| weather.storm)
    }
}

/// The rule of a feed, unless it is watched by none: sweeps and backfills are slow by themselves.
fn rule(feed: &Feed) -> Option<Rule> {
    let factor = feed.storm.filter(|_| feed.is_live())?;
    Some(Rule {
        factor,
        usual_min: USUAL_MIN,
    })
}

/// Counts new versions that a feed's poll brought.
pub(super) fn observe(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
    (poll, versions): (PollId, u64),
) {
    let Some(rule) = rule(feed) else {
        return;
    };
    let name = &feed.spec.name;
    let (begins, usual) = connection.storms.with(name, |weather| {
        let begins = weather.count(rule, poll, versions, Instant::now());
        (begins, weather.usual(rule))
    });
    if begins {
        error!(
            connection = %connection.name, feed = %name, usual,
            "one poll brings far more new versions than is usual: until it is over, those without a change are not told of, and other feeds go first"
        );
        let label = worker.watch.connections.of(connection.name.as_str());
        metrics::counter!("courier_storms_total", "connection" => label).increment(1);
    }
}

/// Notes that a feed's poll is complete.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn end_poll(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
) -> Result<(), StoreError> {
    let Some(rule) = rule(feed) else {
        return Ok(());
    };
    let name = &feed.spec.name;
    let waiting = match connection.storms.of(name) {
        Some(_) => worker.store.backlog(&connection.name).await?.inbox,
        None => 0,
    };
    let over = connection
        .storms
        .with(name, |weather| weather.end_poll(rule, waiting, Instant::now()));
    if let Some(storm) = over {
        info!(
            connection = %connection.name, feed = %name, versions = storm.versions,
            seconds = storm.since.elapsed().as_secs(), "the flood of new versions is over"
        );
    }
    Ok(())
}

/// Whether a feed in a storm has to leave the room downstream to the others.
pub(super) fn fills_its_share(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
    backlog: &Backlog,
) -> bool {
    let full = backlog.inbox > worker.limits.inbox / SHARE || backlog.log > worker.limits.log / SHARE;
    full && connection.storms.of(&feed.spec.name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        factor: NonZeroU32::MIN.saturating_add(9),
        usual_min: 300,
    };

    /// A feed whose polls have brought this, each at once.
    fn after(polls: impl IntoIterator<Item = u64>, now: Instant) -> Weather {
        let mut weather = Weather::default();
        for (brought, poll) in polls.into_iter().zip(1..) {
            assert!(!weather.count(RULE, PollId(poll), brought, now), "{brought}");
            assert_eq!(weather.end_poll(RULE, 0, now), None);
        }
        weather
    }

    #[tokio::test]
    async fn more_than_so_many_times_the_usual_is_a_storm_that_begins_once_and_ends_with_a_usual_poll() {
        let now = Instant::now();
        let mut weather = after([5; 10], now);
        let poll = PollId(100);
        assert!(!weather.count(RULE, poll, 3_000, now), "ten times the least");
        assert!(weather.count(RULE, poll, 1, now), "over several pages");
        assert!(!weather.count(RULE, poll, 5_000, now), "told once");
        assert_eq!(weather.end_poll(RULE, 0, now), None);
        assert!(!weather.count(RULE, PollId(101), 7, now));
        let over = weather.end_poll(RULE, 0, now).unwrap();
        assert_eq!(over.versions, 8_008);
        assert_eq!(weather.usual(RULE), 300, "a storm is not usual");
    }

    #[tokio::test]
    async fn a_storm_lasts_while_what_it_brought_waits_to_be_read() {
        let now = Instant::now();
        let mut weather = after([5; 10], now);
        assert!(weather.count(RULE, PollId(100), 9_000, now));
        assert_eq!(weather.end_poll(RULE, 8_000, now), None);
        assert_eq!(weather.end_poll(RULE, WAITING_MAX + 1, now), None);
        assert!(weather.end_poll(RULE, WAITING_MAX, now).is_some());
    }

    #[tokio::test]
    async fn what_is_usual_follows_the_polls_and_is_unknown_at_first() {
        let now = Instant::now();
        let first = [50_000, 0, 0, 0];
        assert!(after(first, now).storm.is_none(), "the first polls catch up");
        let mut busy = after([2_000; 40], now);
        assert!(
            (1_900..=2_000).contains(&busy.usual(RULE)),
            "{}",
            busy.usual(RULE)
        );
        assert!(!busy.count(RULE, PollId(100), 15_000, now));
        assert!(busy.count(RULE, PollId(100), 6_000, now));
    }

    #[tokio::test]
    async fn a_poll_that_begins_anew_is_counted_anew() {
        let now = Instant::now();
        let mut weather = after([5; 10], now);
        assert!(!weather.count(RULE, PollId(100), 2_000, now));
        assert!(!weather.count(RULE, PollId(101), 2_000, now));
        assert!(weather.count(RULE, PollId(101), 1_001, now));
    }

    #[tokio::test]
    async fn a_storm_of_a_day_is_what_is_usual_from_then_on() {
        let now = Instant::now();
        let mut weather = after([5; 10], now);
        assert!(weather.count(RULE, PollId(100), 9_000, now));
        assert_eq!(weather.end_poll(RULE, 0, now + LASTS_MAX / 2), None);
        weather.count(RULE, PollId(101), 9_000, now + LASTS_MAX);
        assert!(weather.end_poll(RULE, 0, now + LASTS_MAX).is_some());
        assert_eq!(weather.usual(RULE), 9_000);
        assert!(!weather.count(RULE, PollId(102), 10_000, now + LASTS_MAX));
    }
}
