use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::instant;
use crate::last_updated::{Fill, Filter, First};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A poll from a cursor at 1000 with an overlap of 300, begun when the source's clock says 2000.
fn poll() -> History {
    let plan = Plan {
        lower: Some(at(700)),
        floor: Some(at(1000)),
        start: None,
        first: First::Known,
        upper: None,
    };
    History::begin(&plan, at(2000))
}

fn page(seconds: &[i64], next: Option<&str>) -> Shown {
    Shown {
        stamps: seconds.iter().map(|second| Some(at(*second))).collect(),
        digest: 0,
        entries: seconds.len(),
        matches: seconds.len() as u64,
        total: None,
        filter: Filter::Unsaid,
        next: next.map(str::to_owned),
        fill: Fill::Whole,
    }
}

fn ask(step: Step) -> History {
    let Step::Ask(poll) = step else {
        panic!("{step:?}");
    };
    // What is stored between two pages comes back whole.
    History::parse(&serde_json::to_string(&poll).unwrap()).unwrap()
}

fn watermark(step: &Step) -> Timestamp {
    let Step::Done(state) = step else {
        panic!("{step:?}");
    };
    assert_eq!(state.by, By::History);
    state.watermark.0
}

#[test]
fn the_cursor_moves_with_the_last_page_to_the_greatest_stamp_of_all() {
    let poll = ask(poll().absorb(&page(&[1900, 1800], Some("p2"))));
    assert_eq!(poll.link.as_deref(), Some("p2"));
    let poll = ask(poll.absorb(&page(&[1700, 1700], Some("p3"))));
    assert_eq!(watermark(&poll.absorb(&page(&[800], None))), at(1900));
}

#[test]
fn an_empty_history_leaves_the_cursor_and_a_stamp_of_2099_does_not_move_it() {
    assert_eq!(watermark(&poll().absorb(&page(&[], None))), at(1000));
    assert_eq!(watermark(&poll().absorb(&page(&[800], None))), at(1000));
    assert_eq!(
        watermark(&poll().absorb(&page(&[2_000_000_000, 1500], None))),
        at(1500)
    );
}

#[test]
fn empty_pages_are_followed_three_times_and_end_the_poll() {
    let poll = ask(poll().absorb(&page(&[1900], Some("p2"))));
    let poll = ask(poll.absorb(&page(&[], Some("p3"))));
    // A page between them begins the count anew.
    let poll = ask(poll.absorb(&page(&[1800], Some("p4"))));
    let poll = ask(poll.absorb(&page(&[], Some("p5"))));
    let poll = ask(poll.absorb(&page(&[], Some("p6"))));
    assert_eq!(watermark(&poll.absorb(&page(&[], Some("p7")))), at(1900));
}

/// So many rows that lie before the bound, newest first.
fn too_old(rows: i64) -> Vec<i64> {
    (0..rows).map(|number| 600 - number).collect()
}

#[test]
fn a_row_too_old_between_others_ends_nothing() {
    // A node whose clock lags, in a history that is sorted by commits.
    let poll = ask(poll().absorb(&page(&[1900, 600, 1800, 500], Some("p2"))));
    let poll = ask(poll.absorb(&page(&[400, 1700, 300], Some("p3"))));
    assert_eq!(poll.tail.left_out(3), 0, "it is announced");
    assert_eq!(watermark(&poll.absorb(&page(&[1600], None))), at(1900));
}

#[test]
fn an_ignored_since_ends_the_poll_at_twenty_rows_too_old_where_newest_comes_first() {
    let rows = [vec![1900, 1500], too_old(19)].concat();
    let state = ask(poll().absorb(&page(&rows, Some("p2"))));
    assert_eq!(state.tail.left_out(21), 0);
    assert_eq!(watermark(&state.absorb(&page(&[580], Some("p3")))), at(1900));
    // They are counted from the last row on that was asked for.
    let rows = [too_old(19), vec![1500, 599]].concat();
    let state = ask(poll().absorb(&page(&rows, Some("p2"))));
    assert_eq!(state.tail.rows, 1);
    let tail = Tail::default().after(
        &page(&[vec![1900], too_old(30)].concat(), None).stamps,
        Some(at(700)),
    );
    assert_eq!((tail.left_out(31), tail.left_out(7)), (30, 7));
}

#[test]
fn an_ignored_since_without_order_leaves_the_cursor() {
    // Servers with second precision show rows up to a second below the bound.
    assert_eq!(watermark(&poll().absorb(&page(&[1500, 699], None))), at(1500));
    // A history that was read to its end is complete.
    assert_eq!(watermark(&poll().absorb(&page(&[100, 1500], None))), at(1500));
    let oldest_first: Vec<i64> = (0..300).collect();
    for rows in [oldest_first, [vec![1500, 1600], too_old(30)].concat()] {
        let mut state = ask(poll().absorb(&page(&rows, Some("p"))));
        for number in 0..IGNORED_PAGES_MAX - 2 {
            state = ask(state.absorb(&page(&[1], Some(&format!("p{number}")))));
        }
        let step = state.absorb(&page(&[1], Some("more")));
        assert_eq!(step, Step::Inconclusive(Doubt::FilterIgnored));
    }
}

#[test]
fn circles_leave_the_cursor() {
    let state = ask(poll().absorb(&page(&[1900], Some("p2"))));
    assert_eq!(
        state.absorb(&page(&[1800], Some("p2"))),
        Step::Inconclusive(Doubt::Circle)
    );
}

#[test]
fn a_search_under_way_is_no_history_and_the_other_way_round() {
    let history = serde_json::to_string(&poll()).unwrap();
    assert!(crate::last_updated::Poll::parse(&history).is_none());
    let plan = Plan {
        lower: None,
        floor: None,
        start: None,
        first: First::Known,
        upper: None,
    };
    let search = serde_json::to_string(&crate::last_updated::Poll::begin(&plan, at(0))).unwrap();
    assert!(History::parse(&search).is_none());
}

proptest! {
    /// However a history is cut into pages, and whatever is pushed on to the next one, the cursor ends at the same
    /// place, never behind where it was and never after the source's own time.
    #[test]
    fn paging_does_not_change_where_a_poll_ends(
        mut stamps in prop::collection::vec(700_i64..2_500, 0..60),
        size in 1_usize..9,
        pushed in 0_usize..3,
    ) {
        stamps.sort_unstable();
        stamps.reverse();
        let expected = stamps.iter().copied().filter(|stamp| *stamp <= 2000).max().unwrap_or(0).max(1000);
        let mut state = poll();
        let mut begin: usize = 0;
        let end = loop {
            let shown = &stamps[begin.saturating_sub(pushed)..(begin + size).min(stamps.len())];
            begin += size;
            let link = format!("p{begin}");
            let step = state.absorb(&page(shown, (begin < stamps.len()).then_some(link.as_str())));
            if let Step::Ask(next) = step {
                state = *next;
            } else {
                break watermark(&step);
            }
        };
        prop_assert_eq!(end, at(expected));
        prop_assert!(instant::back(end, Duration::ZERO) <= at(2000));
    }
}
