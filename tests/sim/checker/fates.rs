//! What became of each answer: whether it was handed over, or died with its worker.

use std::collections::{BTreeMap, BTreeSet};

use crate::book::{Answer, Asked, FeedRef, Pages};

/// So many stages lost in a row let a feed catch up by its current state, as is documented.
const LOST_STAGES_MAX: usize = 3;

/// When a feed last had to catch up by its current state, if ever: one worker had lost three stages in a row.
pub(super) fn caught_up(pages: &Pages, feed: &FeedRef) -> Option<u64> {
    let of_feed = |it: &&(u64, usize, FeedRef)| it.2 == *feed;
    let abandoned: Vec<_> = pages.given_up.iter().filter(of_feed).collect();
    let complete = |from: u64, to: u64| {
        let mut done = pages.completed.iter();
        done.any(|(tick, of)| of == feed && (from..to).contains(tick))
    };
    abandoned
        .windows(LOST_STAGES_MAX)
        .filter_map(|row| {
            let (first, last) = (row.first()?, row.last()?);
            let alone = row.iter().all(|it| it.1 == first.1);
            (alone && !complete(first.0, last.0)).then_some(last.0)
        })
        .max()
}

/// Who asked for an answer: the life and the feed.
type Asker = (usize, FeedRef);

/// When answers were handed over, and when the next was asked for.
pub(super) struct Fates {
    asked: BTreeMap<Asker, BTreeSet<u64>>,
    handed: BTreeMap<Asker, BTreeSet<u64>>,
    settled: BTreeMap<(usize, String), BTreeSet<u64>>,
}

impl Fates {
    pub(super) fn of(pages: &Pages) -> Self {
        let mut fates = Self {
            asked: BTreeMap::new(),
            handed: BTreeMap::new(),
            settled: BTreeMap::new(),
        };
        for answer in &pages.answers {
            let feed = (answer.connection.clone(), answer.feed.clone());
            let asked = fates.asked.entry((answer.life, feed)).or_default();
            asked.insert(answer.tick);
        }
        for (tick, life, feed) in &pages.handed {
            let handed = fates.handed.entry((*life, feed.clone())).or_default();
            handed.insert(*tick);
        }
        for (tick, life, connection) in &pages.settled {
            let settled = fates.settled.entry((*life, connection.clone())).or_default();
            settled.insert(*tick);
        }
        fates
    }

    /// From when on an answer's fate is the courier's: it was handed over, or the same worker went on without a
    /// blow. `None` where its worker died over it.
    pub(super) fn handed(&self, pages: &Pages, answer: &Answer) -> Option<u64> {
        let after = |ticks: Option<&BTreeSet<u64>>| {
            ticks.and_then(|ticks| ticks.range(answer.tick + 1..).next().copied())
        };
        let end = pages.ends.get(&answer.life).copied().unwrap_or(u64::MAX);
        let was_frozen = pages.frozen.contains(&answer.life);
        if matches!(
            answer.asked,
            Asked::Version | Asked::Record | Asked::Several | Asked::Context
        ) {
            let settled = after(self.settled.get(&(answer.life, answer.connection.clone())));
            return settled.filter(|tick| *tick < end && !was_frozen);
        }
        let asker = (answer.life, (answer.connection.clone(), answer.feed.clone()));
        let next = after(self.asked.get(&asker));
        let handed = after(self.handed.get(&asker)).filter(|tick| next.is_none_or(|next| *tick < next));
        handed
            .or(next.filter(|_| !was_frozen))
            .or((end == u64::MAX && !was_frozen).then_some(u64::MAX))
    }
}
