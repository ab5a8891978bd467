//! Where a feed begins that begins now: found out from its first answer alone.
//!
//! It guarantees that a change is announced whose stamp lies after the earlier of `Date` and our own clock at that
//! answer: one of them may be as wrong as it likes. In silence goes what the first answer showed, what lies before
//! all that it was asked for, and, where it had further pages, what is stamped before that earlier instant. Where
//! `Date` lies far behind and rows show it, what lies before the search's lower bound is silent too.
//!
//! The first poll ends with its first answer, so that the beginning is durable at once and no later failure moves
//! it; further pages are the next poll's. It must not know HTTP or record bodies.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Fill, PRECISION, Shown};
use crate::cursor::{By, CursorState};
use crate::instant;

/// What a first answer is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// The search's lower bound: our own clock less the overlap.
    pub(crate) lower: Timestamp,
    /// Our own clock before the answer.
    pub(crate) ours: Timestamp,
    /// The source's time by its `Date`.
    pub(crate) bound: Timestamp,
    pub(crate) overlap: Duration,
}

/// Whether the two clocks can be told apart from the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// They agree within the overlap, or rows show where the source's stamps are.
    Settled,
    /// They differ by more than the overlap, and no row shows which one the stamps follow.
    Doubtful,
}

/// Finds where the feed begins.
///
/// The watermark is the greatest stamp shown that is not after `Date`, and never after our own clock: the next
/// poll then asks for all that this one asked for, so that what this one did not show is shown then.
pub(crate) fn begin(by: By, asked: Asked, shown: &Shown) -> (CursorState, Clocks) {
    let Asked {
        lower, ours, bound, ..
    } = asked;
    let earlier = bound.min(ours);
    let lowest = instant::back(lower, PRECISION);
    let within = |until: Timestamp| {
        let stamps = shown.stamps.iter().flatten().copied();
        stamps.filter(|stamp| (lowest..=until).contains(stamp)).max()
    };
    let watermark = within(bound).map_or(earlier, |greatest| greatest.min(ours));
    // A row where the bound lies shows that the source's stamps have come that far, whatever `Date` says.
    let reached = within(bound.max(ours)).is_some();
    let start = match (extent(shown), reached) {
        // All rows from the bound on were shown, and the ledger knows them: what comes there later is new.
        (Extent::Whole, true) => lower,
        (Extent::Whole, false) => lower.min(earlier),
        (Extent::Part, true) => lower.max(earlier),
        (Extent::Part, false) => earlier,
    };
    let apart = Duration::try_from(bound.duration_since(ours).abs()).unwrap_or(Duration::MAX);
    let clocks = if !reached && apart > asked.overlap {
        Clocks::Doubtful
    } else {
        Clocks::Settled
    };
    (CursorState::of(by, watermark, Some(start)), clocks)
}

/// Up to which stamp a row of the first answer is silent, exclusive: `Date` cuts off fractions of a second.
pub(crate) fn silent_below(bound: Timestamp) -> Timestamp {
    let precision = SignedDuration::try_from(PRECISION).unwrap_or(SignedDuration::ZERO);
    bound.checked_add(precision).unwrap_or(Timestamp::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Part,
}

fn extent(shown: &Shown) -> Extent {
    let counted = shown.total.is_none_or(|total| total <= shown.matches);
    if shown.next.is_none() && counted && shown.fill == Fill::Whole {
        Extent::Whole
    } else {
        Extent::Part
    }
}

#[cfg(test)]
mod tests {
    use super::super::Filter;
    use super::*;
    use crate::instant::Stored;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn page(seconds: &[i64], next: Option<&str>) -> Shown {
        Shown {
            stamps: seconds.iter().map(|second| Some(at(*second))).collect(),
            digest: 0,
            entries: seconds.len(),
            matches: seconds.len() as u64,
            total: None,
            filter: Filter::Applied,
            next: next.map(str::to_owned),
            fill: Fill::Whole,
        }
    }

    /// `Date`, the stamps shown, the further page; then the watermark and the start.
    type Row = (i64, &'static [i64], Option<&'static str>, i64, i64);

    #[test]
    fn a_beginning_is_where_the_first_answer_says() {
        // Our clock says 10 000 and the overlap is 300, so that the search asks from 9 700 on.
        const FAR: i64 = 2_000_000_000;
        let rows: [Row; 13] = [
            (10_000, &[9800, 9990], None, 9990, 9700),
            (10_000, &[], None, 10_000, 9700),
            (10_000, &[9800, 9990, 10_050], None, 9990, 9700),
            (10_000, &[9800, 9900], Some("p2"), 9900, 10_000),
            // `Date` an hour ahead.
            (13_600, &[9800, 9990], None, 9990, 9700),
            (13_600, &[], None, 10_000, 9700),
            (13_600, &[9800, 9990], Some("p2"), 9990, 10_000),
            // `Date` an hour behind; with no row it may be the source's clock that is.
            (6400, &[9800, 9990], None, 6400, 9700),
            (6400, &[], None, 6400, 6400),
            (6400, &[9800, 9990], Some("p2"), 6400, 9700),
            // `Date` in 2099 or so, and a row stamped there.
            (FAR, &[9800, 9990], None, 9990, 9700),
            (FAR, &[9800, FAR - 5], None, 10_000, 9700),
            // The bound was ignored: old rows say nothing.
            (10_000, &[5, 6], Some("p2"), 10_000, 10_000),
        ];
        for (bound, stamps, next, watermark, start) in rows {
            let asked = Asked {
                lower: at(9700),
                ours: at(10_000),
                bound: at(bound),
                overlap: Duration::from_mins(5),
            };
            let (state, clocks) = begin(By::LastUpdated, asked, &page(stamps, next));
            let expected = (Stored(at(watermark)), Some(Stored(at(start))));
            assert_eq!(
                (state.watermark, state.start),
                expected,
                "{bound} {stamps:?} {next:?}"
            );
            let doubtful = stamps.is_empty() && bound != 10_000;
            assert_eq!(clocks == Clocks::Doubtful, doubtful, "{bound} {stamps:?}");
        }
    }

    #[test]
    fn an_answer_that_may_be_cut_is_not_the_whole_beginning() {
        let cut = [
            Shown {
                total: Some(3),
                ..page(&[9800, 9990], None)
            },
            Shown {
                fill: Fill::PerhapsCut,
                ..page(&[9800, 9990], None)
            },
        ];
        for shown in cut {
            assert_eq!(extent(&shown), Extent::Part);
        }
    }
}
