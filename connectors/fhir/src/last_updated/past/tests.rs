//! Rows of the past, without HTTP.

use std::time::Duration;

use courier_sdk::{Detect, FeedName, FetchMode, RecordType, Scope};

use super::super::{Fill, Filter, PRECISION, Rules, Shown, Step};
use super::*;
use crate::cursor::By;
use crate::profile::Paging;

const RULES: Rules = Rules {
    overlap: Duration::from_mins(5),
    precision: PRECISION,
    paging: Paging::Snapshot,
    count: 2,
    usual_count: 2,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn feed(start: Start) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("a.backfill").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start,
        overlap: RULES.overlap,
        fetch: FetchMode::FromPage,
        detect: Detect::LastUpdated,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

fn poll(cursor: Option<i64>, until: i64) -> Poll {
    let cursor = cursor.map(|second| CursorState::of(By::LastUpdated, at(second), None));
    let planned = plan(
        &feed(Start::Beginning),
        cursor.as_ref(),
        (at(until), None),
        Cut::Fraction,
    );
    Poll::begin(&planned.unwrap(), at(100_000))
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

/// Where the cursor stands after so many pages, each of them of these seconds further on.
fn ends_at(mut poll: Poll, pages: u32, seconds: impl Fn(i64) -> Vec<i64>) -> Option<Timestamp> {
    for number in 1..=pages {
        let link = format!("p{number}");
        let next = (number < pages).then_some(link.as_str());
        match poll.absorb(&page(&seconds(i64::from(number)), next), RULES) {
            Step::Ask(next) => poll = *next,
            Step::Done(state) => return Some(state.watermark.0),
            Step::Inconclusive(_) => return None,
        }
    }
    None
}

#[test]
fn a_stretch_that_was_shown_whole_ends_at_its_bound() {
    let ends = ends_at(poll(None, 5_000), 3, |page| vec![page * 10, page * 10 + 5]);
    assert_eq!(ends, Some(at(5_000)));
    assert_eq!(ends_at(poll(Some(7), 5_000), 1, |_| Vec::new()), Some(at(5_000)));
}

#[test]
fn a_long_stretch_in_order_ends_where_it_has_come_to() {
    let pages = PAGES_MAX + 10;
    let ends = ends_at(poll(None, 5_000), pages, |page| vec![page * 10, page * 10 + 5]);
    assert_eq!(ends, Some(at(i64::from(PAGES_MAX) * 10 + 5)));
    let tied = ends_at(poll(Some(7), 5_000), pages, |_| vec![7, 7]);
    assert_eq!(
        tied,
        Some(at(5_000)),
        "one stamp over many pages is no step forward"
    );
    let turned = ends_at(poll(None, 5_000), pages, |page| {
        vec![4_000 - page * 10, 4_000 - page * 10 - 5]
    });
    assert_eq!(
        turned,
        Some(at(5_000)),
        "in another order nothing is shown before the end"
    );
}

#[test]
fn a_source_that_ignores_the_upper_bound_moves_no_cursor_after_it() {
    assert_eq!(ends_at(poll(None, 50), 1, |_| vec![10, 90]), Some(at(50)));
    let ends = ends_at(poll(None, 50), PAGES_MAX + 10, |page| {
        vec![page * 10, page * 10 + 5]
    });
    assert_eq!(ends, Some(at(50)));
}

#[test]
fn nothing_is_planned_where_nothing_is_left() {
    let cursor = CursorState::of(By::LastUpdated, at(50), None);
    let planned = |until| {
        plan(
            &feed(Start::Beginning),
            Some(&cursor),
            (until, None),
            Cut::Fraction,
        )
    };
    assert!(planned(at(50)).is_none());
    assert!(planned(at(51)).is_some());
    let dated = plan(&feed(Start::At(at(9))), None, (at(50), None), Cut::Fraction).unwrap();
    assert_eq!(
        (dated.lower, dated.upper, dated.start),
        (Some(at(9)), Some(at(50)), Some(at(9)))
    );
}

#[test]
fn a_stretch_whose_links_expire_is_halved_until_it_is_short() {
    let cursor = CursorState::of(By::LastUpdated, at(0), None);
    let mut longest = None;
    let mut lengths = Vec::new();
    for _ in 0..6 {
        let planned = plan(
            &feed(Start::Beginning),
            Some(&cursor),
            (at(16), longest),
            Cut::Fraction,
        )
        .unwrap();
        lengths.push(planned.upper.unwrap().duration_since(at(0)).as_secs());
        longest = halved(&planned);
    }
    assert_eq!(lengths, [16, 8, 4, 2, 1, 1]);
}
