//! Backfills: what they are called, when one is owed or complete, and how far one has come.

use courier_sdk::{FeedName, Start};
use jiff::Timestamp;

use super::ledger::Baseline;

/// What a backfill's name ends with, after its feed's.
pub const SUFFIX: &str = ".backfill";

/// The name of a feed's backfill; `None` where it would be too long.
#[must_use]
pub fn beside(live: &FeedName) -> Option<FeedName> {
    FeedName::parse(&format!("{live}{SUFFIX}")).ok()
}

/// The name of the feed that a backfill of this name is for.
#[must_use]
pub fn filled_by(backfill: &FeedName) -> Option<FeedName> {
    FeedName::parse(backfill.as_str().strip_suffix(SUFFIX)?).ok()
}

/// How a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// None is owed: its feed began without one, or has not begun yet.
    NotOwed,
    /// It is owed and has not come to its end.
    UnderWay,
    /// Nothing is left, for ever.
    Complete,
}

impl Standing {
    /// Of a backfill so many of whose polls have ended. The first is used up to enter it as owed, and its baseline is
    /// complete when nothing is left.
    #[must_use]
    pub fn of(polls_ended: u64, baseline: Baseline) -> Self {
        match (polls_ended, baseline) {
            (0, _) => Self::NotOwed,
            (_, Baseline::Complete) => Self::Complete,
            (_, Baseline::Unproven | Baseline::Forfeited) => Self::UnderWay,
        }
    }
}

/// How much of the time between its start and where its live feed stands a backfill has brought, in whole percent;
/// `None` where times do not tell: nobody knows when everything began.
#[must_use]
pub fn percent(start: Start, stands_at: Option<Timestamp>, live: Option<Timestamp>) -> Option<u8> {
    let Start::At(start) = start else {
        return None;
    };
    let all = live?.duration_since(start).as_millis();
    let done = stands_at.map_or(0, |at| at.duration_since(start).as_millis());
    if all <= 0 {
        return Some(100);
    }
    u8::try_from((done.clamp(0, all) * 100) / all).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_time_is_told_where_the_start_is_a_date() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let share = |stands_at: Option<i64>, live: Option<i64>| {
            percent(Start::At(at(1_000)), stands_at.map(at), live.map(at))
        };
        assert_eq!(share(None, Some(2_000)), Some(0));
        assert_eq!(share(Some(1_255), Some(2_000)), Some(25));
        assert_eq!(share(Some(2_500), Some(2_000)), Some(100));
        assert_eq!(share(Some(1_255), None), None, "the feed has not begun");
        assert_eq!(share(None, Some(900)), Some(100), "there is no time between");
        assert_eq!(percent(Start::Beginning, Some(at(1)), Some(at(2))), None);
    }

    #[test]
    fn names_lead_there_and_back_and_are_never_too_long() {
        let name = |text: &str| FeedName::parse(text).unwrap();
        assert_eq!(beside(&name("rooms")), Some(name("rooms.backfill")));
        assert_eq!(filled_by(&name("rooms.backfill")), Some(name("rooms")));
        assert_eq!(filled_by(&name("rooms.sweep")), None);
        let longest = (1..10_000)
            .take_while(|length| FeedName::parse(&"a".repeat(*length)).is_ok())
            .last();
        assert_eq!(beside(&name(&"a".repeat(longest.unwrap()))), None);
    }
}
