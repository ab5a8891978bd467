//! The past alone: what changed last between a feed's start and the beginning of the feed beside it, stretch after
//! stretch, each a closed window of its own and a poll of its own.
//!
//! A stretch ends where its answer has shown all of it, or, in the order of stamps, as far as it came in
//! [`PAGES_MAX`] pages: so the cursor moves along, and no page link need last. Where a link expires all the same, half
//! the stretch is asked for next time. It guarantees that the cursor never stands after the upper bound, and that all
//! up to it was shown. It must not know HTTP or record bodies.

use std::time::Duration;

use courier_sdk::{Aim, FeedSpec, Start};
use jiff::{SignedDuration, Timestamp};

use super::order::Order;
use super::{First, Plan, Poll};
use crate::cursor::CursorState;
use crate::instant::{self, Stored};
use crate::profile::Cut;

/// So many pages in the order of stamps are a stretch.
const PAGES_MAX: u32 = 20;

/// A page whose records are read by themselves holds so many: live changes stand behind no more.
const READS_MAX: u32 = 20;

/// A stretch is not made shorter than this: servers write stamps no finer.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);

/// The most that a page of a feed holds.
pub(crate) fn page_max(feed: &FeedSpec, ids_only: bool) -> u32 {
    let is_read = ids_only || !feed.include.is_empty();
    match feed.scope.aim {
        Aim::Past { .. } if is_read => READS_MAX,
        Aim::Past { .. } | Aim::Changes | Aim::Present | Aim::Everything => u32::MAX,
    }
}

/// Plans a poll of what is left up to an instant, at most so long; nothing where nothing is left.
pub(crate) fn plan(
    feed: &FeedSpec,
    cursor: Option<&CursorState>,
    (until, longest): (Timestamp, Option<SignedDuration>),
    cut: Cut,
) -> Option<Plan> {
    let start = match feed.start {
        Start::At(start) => Some(start),
        Start::Now | Start::Beginning => None,
    };
    let floor = cursor.map(|cursor| cursor.watermark.0).or(start);
    let from = floor.unwrap_or(Timestamp::UNIX_EPOCH);
    let upper = longest.map_or(until, |longest| until.min(later(from, longest)));
    (upper > from).then_some(Plan {
        lower: floor.map(|floor| cut.floor(floor)),
        floor,
        start,
        first: First::Known,
        upper: Some(upper),
    })
}

/// How long a stretch is asked for after one whose link had expired.
pub(crate) fn halved(plan: &Plan) -> Option<SignedDuration> {
    let from = plan.floor.unwrap_or(Timestamp::UNIX_EPOCH);
    let length = plan.upper?.duration_since(from);
    Some((length / 2).max(SHORTEST))
}

/// How long one is asked for after one that was shown whole.
pub(crate) fn doubled(longest: SignedDuration) -> Option<SignedDuration> {
    longest.checked_mul(2)
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

impl Poll {
    /// The upper bound, where the poll is for the past alone.
    pub(crate) fn upper(&self) -> Option<Timestamp> {
        self.upper.map(|upper| upper.0)
    }

    /// The poll as it was planned.
    pub(crate) fn planned(&self) -> Plan {
        Plan {
            lower: self.lower.map(|lower| lower.0),
            floor: self.floor.map(|floor| floor.0),
            start: self.start.map(|start| start.0),
            first: First::Known,
            upper: self.upper(),
        }
    }

    /// Whether a stretch has come so far that it may end with what was shown: all before the greatest stamp was.
    pub(super) fn has_come_far(&self) -> bool {
        let in_order = self.order == Order::Ascending && self.doubt.is_none();
        self.upper.is_some() && self.pages >= PAGES_MAX && in_order && self.greatest > self.floor
    }

    /// Notes that all up to the upper bound was shown.
    pub(super) fn reach_the_end(&mut self) {
        self.floor = self.floor.max(self.upper);
    }

    /// No further than the upper bound: a source that ignores it shows what lies after it too.
    pub(super) fn within(&self, seen: Option<Stored>) -> Option<Stored> {
        match self.upper {
            Some(upper) => seen.min(Some(upper)),
            None => seen,
        }
    }

    /// Before which stamp a row lies that no later poll shows. Of a stretch of the past that is every row.
    pub(super) fn not_shown_again(&self, overlap: Duration) -> Timestamp {
        match self.upper {
            Some(upper) => later(upper.0, SHORTEST),
            None => instant::back(self.bound.0, overlap),
        }
    }
}

#[cfg(test)]
mod tests;
