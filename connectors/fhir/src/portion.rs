//! How much a feed's pages are asked to hold: less after an answer that was too large, more again in time.
//!
//! It guarantees that a page above the limit is not asked for in the same way again, as long as there is a smaller
//! one. What it remembers only spares requests: after a restart the first answer too large teaches it anew.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use courier_sdk::{ConnectorError, FeedName, FeedSpec, FetchMode};
use jiff::Timestamp;

use crate::FhirConnector;
use crate::answer::Asked;

/// By how much a poll's first page, or that of a window, shrinks: nothing is lost by trying again.
const FIRST_PAGE_DIVISOR: u32 = 2;

/// By how much pages shrink when a further one was too large. The poll begins anew, and a history that has to do so
/// three times is caught up by a search: from 200 records this leads to one in two steps.
const FURTHER_PAGE_DIVISOR: u32 = 16;

/// By how much pages grow again: small ones cost a request each, and one that is too large again costs little.
const GROWTH: u32 = 8;

/// What a page is asked to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Portion {
    /// At most so many records.
    Records(u32),
    /// Ids and stamps, as many as ever: each changed record is then read by itself.
    Ids,
}

/// Which portions a request can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Least {
    /// A page of one record is the smallest.
    OneRecord,
    /// Below that there are ids.
    Ids,
}

/// So many answers in a row that were too large show that the page is so: one may be a gateway's mishap.
const TOO_LARGE_IN_A_ROW: u32 = 2;

/// What is remembered of a feed that an answer too large was got for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reduced {
    portion: Portion,
    changed_at: Timestamp,
    in_a_row: u32,
}

/// The feeds whose pages are asked to hold less than the limit says, or may be soon.
pub(crate) type Portions = BTreeMap<FeedName, Reduced>;

impl Portion {
    fn smaller(self, divisor: u32, least: Least) -> Option<Self> {
        match (self, least) {
            (Self::Ids, _) | (Self::Records(0 | 1), Least::OneRecord) => None,
            (Self::Records(0 | 1), Least::Ids) => Some(Self::Ids),
            (Self::Records(count), _) => Some(Self::Records((count / divisor).max(1))),
        }
    }

    fn larger(self) -> Self {
        match self {
            Self::Ids => Self::Records(1),
            Self::Records(count) => Self::Records(count.saturating_mul(GROWTH)),
        }
    }
}

impl FhirConnector {
    /// What the feed's next page is to hold.
    pub(crate) fn portion(&self, feed: &FeedSpec) -> Portion {
        let reduced = self.portions().get(&feed.name).copied();
        reduced.map_or(Portion::Records(self.limits.page_count), |reduced| {
            reduced.portion
        })
    }

    /// How small the portions of a search can be.
    pub(crate) fn least_searched(&self, feed: &FeedSpec) -> Least {
        match feed.fetch {
            FetchMode::FromPage if self.profile.ids_only => Least::Ids,
            // Read one by one they are ids already.
            FetchMode::FromPage | FetchMode::ByRead => Least::OneRecord,
        }
    }

    /// Notes that an answer was too large, and says what the caller does next.
    pub(crate) fn too_large(
        &self,
        feed: &FeedSpec,
        operation: &str,
        asked: Asked<'_>,
        least: Least,
    ) -> ConnectorError {
        let limit = self.limits.page_bytes_max;
        let exceeds = format!("the answer exceeds the page limit of {limit} bytes");
        let unreadable = |what: &str| ConnectorError::Unreadable {
            operation: operation.to_owned(),
            reason: format!("{exceeds}{what}"),
        };
        let portion = self.portion(feed);
        let divisor = match asked {
            Asked::PageLink(_) => FURTHER_PAGE_DIVISOR,
            Asked::Search | Asked::Read => FIRST_PAGE_DIVISOR,
        };
        let Some(smaller) = portion.smaller(divisor, least) else {
            return unreadable(match portion {
                Portion::Records(_) => ", though no more than one record was asked for",
                Portion::Ids => ", though no more than ids was asked for",
            });
        };
        let now = self.clock.now();
        let mut portions = self.portions();
        let reduced = portions.entry(feed.name.clone()).or_insert(Reduced {
            portion,
            changed_at: now,
            in_a_row: 0,
        });
        reduced.in_a_row += 1;
        if reduced.in_a_row < TOO_LARGE_IN_A_ROW {
            return unreadable("; it is asked for once more");
        }
        tracing::warn!(
            feed = %feed.name, before = ?portion, now = ?smaller,
            "the answer exceeds the page limit: the feed's pages are asked to hold less"
        );
        *reduced = Reduced {
            portion: smaller,
            changed_at: now,
            in_a_row: 0,
        };
        match asked {
            // The link goes on asking for as much as before.
            Asked::PageLink(_) => ConnectorError::PageExpired {
                operation: operation.to_owned(),
                status: 0,
            },
            Asked::Search | Asked::Read => unreadable("; a smaller page is next"),
        }
    }

    /// Notes a page that was not too large.
    pub(crate) fn page_fits(&self, feed: &FeedSpec) {
        if let Some(reduced) = self.portions().get_mut(&feed.name) {
            reduced.in_a_row = 0;
        }
    }

    /// Notes that a poll has come to its end. What was too large is shown again until the overlap has passed it, so
    /// that pages grow no sooner.
    pub(crate) fn poll_has_ended(&self, feed: &FeedSpec) {
        let now = self.clock.now();
        let mut portions = self.portions();
        let Some(reduced) = portions.get_mut(&feed.name) else {
            return;
        };
        if now.duration_since(reduced.changed_at).unsigned_abs() <= feed.overlap {
            return;
        }
        match reduced.portion.larger() {
            Portion::Records(count) if count >= self.limits.page_count => {
                portions.remove(&feed.name);
            }
            larger @ (Portion::Records(_) | Portion::Ids) => {
                reduced.portion = larger;
                reduced.changed_at = now;
            }
        }
    }

    fn portions(&self) -> MutexGuard<'_, Portions> {
        self.portions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_shrink_to_the_least_and_grow_faster() {
        let records = Portion::Records;
        let rows = [
            (records(200), 2, Least::OneRecord, Some(records(100))),
            (records(200), 16, Least::Ids, Some(records(12))),
            (records(12), 16, Least::OneRecord, Some(records(1))),
            (records(3), 2, Least::Ids, Some(records(1))),
            (records(1), 2, Least::Ids, Some(Portion::Ids)),
            (records(1), 2, Least::OneRecord, None),
            (Portion::Ids, 2, Least::Ids, None),
        ];
        for (portion, divisor, least, expected) in rows {
            assert_eq!(
                portion.smaller(divisor, least),
                expected,
                "{portion:?} {divisor} {least:?}"
            );
        }
        assert_eq!(Portion::Ids.larger(), records(1));
        assert_eq!(records(6).larger(), records(48));
        assert_eq!(records(u32::MAX).larger(), records(u32::MAX));
    }
}
