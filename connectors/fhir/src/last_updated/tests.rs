//! Rows and properties of the strategy, without HTTP.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one outcome that it expects"
)]

use super::*;
use courier_sdk::{Detect, FeedName, FetchMode, RecordType, Scope};
use proptest::prelude::*;

const RULES: Rules = Rules {
    overlap: Duration::from_mins(5),
    precision: PRECISION,
    paging: Paging::Live,
    count: 2,
    usual_count: 2,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn feed(start: Start) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("a").unwrap(),
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

/// A poll from a cursor at `watermark`, begun when the source's clock says `bound`.
fn poll(watermark: i64, bound: i64) -> Poll {
    let plan = plan(
        &feed(Start::Now),
        Some(&CursorState::of(By::LastUpdated, at(watermark), None)),
        Cut::Fraction,
        at(0),
    );
    Poll::begin(&plan, at(bound))
}

fn page(seconds: &[i64], next: Option<&str>) -> Shown {
    Shown {
        stamps: seconds.iter().map(|second| Some(at(*second))).collect(),
        digest: seconds.iter().map(|second| second.unsigned_abs() + 1).sum(),
        entries: seconds.len(),
        matches: seconds.len() as u64,
        total: None,
        filter: Filter::Applied,
        next: next.map(str::to_owned),
        fill: Fill::Whole,
    }
}

fn ask(step: Step) -> Poll {
    match step {
        Step::Ask(poll) => Poll::parse(&serde_json::to_string(&poll).unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn watermark(step: Step) -> Timestamp {
    match step {
        Step::Done(state) => state.watermark.0,
        other => panic!("{other:?}"),
    }
}

fn bounds(poll: &Poll) -> Option<(Option<Timestamp>, Timestamp)> {
    let window = poll
        .window
        .as_ref()
        .filter(|_| poll.target == Some(Target::Window))?;
    Some((window.lo.map(|lo| lo.0), window.hi.0))
}

#[test]
fn the_watermark_moves_to_the_greatest_stamp_not_after_the_bound() {
    let future = 5_000_000_000 - 1_700_000_000;
    let rows: [(&[i64], i64); 7] = [
        (&[], 1000),
        (&[1010], 1010),
        (&[1010, 1010, 1010], 1010),
        (&[900], 1000),
        (&[1010, 1060], 1060),
        (&[1010, 1061], 1010),
        (&[future], 1000),
    ];
    for (stamps, expected) in rows {
        let step = poll(1000, 1060).absorb(&page(stamps, None), RULES);
        assert_eq!(watermark(step), at(expected), "{stamps:?}");
    }
}

#[test]
fn a_feed_begins_where_its_start_says() {
    let now = plan(&feed(Start::Now), None, Cut::Fraction, at(1000));
    assert_eq!(now.lower, Some(at(700)));
    assert_eq!(now.first, First::Now(at(1000)));

    let instant = plan(&feed(Start::At(at(500))), None, Cut::Fraction, at(1000));
    assert_eq!(instant.lower, Some(at(500)));
    let step = Poll::begin(&instant, at(990)).absorb(&page(&[], None), RULES);
    assert_eq!(watermark(step), at(500));

    let beginning = plan(&feed(Start::Beginning), None, Cut::Fraction, at(1000));
    assert_eq!(beginning.lower, None);
    let step = Poll::begin(&beginning, at(990)).absorb(&page(&[], None), RULES);
    assert_eq!(watermark(step), Timestamp::UNIX_EPOCH);
}

#[test]
fn a_seam_older_than_the_next_polls_reach_is_read_again() {
    // The bound is 10 000 and the overlap 300: the next poll covers what is stamped from 9 700 on.
    let first = ask(poll(1000, 10_000).absorb(&page(&[1000, 2000], Some("p2")), RULES));
    let second = ask(first.absorb(&page(&[2500, 9800], Some("p3")), RULES));
    assert_eq!(bounds(&second), Some((Some(at(2000)), at(2500))));
    let third = ask(second.absorb(&page(&[2000, 2200, 2500], None), RULES));
    assert_eq!(third.target, Some(Target::Link("p3".to_owned())));
    // This seam lies within the overlap.
    assert_eq!(watermark(third.absorb(&page(&[9900], None), RULES)), at(9900));
}

#[test]
fn descending_pages_have_seams_too_and_a_step_back_is_no_order() {
    let first = ask(poll(1000, 10_000).absorb(&page(&[9000, 8000], Some("p2")), RULES));
    let repeated = ask(first.clone().absorb(&page(&[8500, 7000], Some("p3")), RULES));
    assert_eq!((bounds(&repeated), repeated.order), (None, Order::Mixed));
    let seam = ask(first.clone().absorb(&page(&[7900, 7000], None), RULES));
    assert_eq!(bounds(&seam), Some((Some(at(7900)), at(8000))));
    let emptied = ask(first.absorb(&page(&[], None), RULES));
    assert_eq!(bounds(&emptied), Some((Some(at(700)), at(8000))));
    assert_eq!(
        watermark(seam.absorb(&page(&[8000, 7900], None), RULES)),
        at(9000)
    );
}

#[test]
fn snapshots_need_no_second_look() {
    let rules = Rules {
        paging: Paging::Snapshot,
        ..RULES
    };
    let first = ask(poll(1000, 10_000).absorb(&page(&[3000, 1000], Some("p2")), rules));
    assert_eq!(
        watermark(first.absorb(&page(&[2000, 9000], None), rules)),
        at(9000)
    );
}

#[test]
fn pages_in_no_order_are_settled_by_reading_the_strip_at_stake() {
    let first = ask(poll(1000, 10_000).absorb(&page(&[3000, 1000, 9000], Some("p2")), RULES));
    let strip = ask(first.absorb(&page(&[2000], None), RULES));
    assert_eq!(bounds(&strip), Some((Some(at(700)), at(9700))));
    assert_eq!(
        watermark(strip.absorb(&page(&[1000, 3000, 2000, 9000], None), RULES)),
        at(9000)
    );
    // Within the overlap nothing is at stake.
    let first = ask(poll(1000, 1010).absorb(&page(&[1003, 1001, 1004], Some("p2")), RULES));
    assert_eq!(bounds(&first), None);
    let last = first.absorb(&page(&[1002], None), RULES);
    assert!(
        matches!(last, Step::Ask(_)),
        "ten seconds of the overlap's far end are at stake"
    );
}

#[test]
fn a_window_of_several_pages_is_read_until_two_passes_agree() {
    let first = ask(poll(1000, 10_000).absorb(&page(&[2000, 2000], Some("p2")), RULES));
    let mut running = ask(first.absorb(&page(&[2000, 2000], None), RULES));
    for pass in [[2000_i64, 2000], [2000, 2000]] {
        assert_eq!(bounds(&running), Some((Some(at(2000)), at(2000))));
        running = ask(running.absorb(&page(&pass, Some("w2")), RULES));
        match running.clone().absorb(&page(&[2000], None), RULES) {
            Step::Ask(next) => running = *next,
            Step::Done(state) => return assert_eq!(state.watermark.0, at(2000)),
            Step::Inconclusive(reason) => panic!("{reason:?}"),
        }
    }
    panic!("two equal passes settle a window");
}

#[test]
fn a_window_that_never_rests_or_is_not_applied_leaves_the_cursor() {
    let first = ask(poll(1000, 10_000).absorb(&page(&[1000, 2000], Some("p2")), RULES));
    let window = ask(first.absorb(&page(&[2500], None), RULES));
    let ignored = window.clone().absorb(&page(&[100], None), RULES);
    assert_eq!(ignored, Step::Inconclusive(Doubt::WindowIgnored));
    let mut running = window;
    for pass in 1..=5 {
        let mut half = page(&[2000], Some("w2"));
        half.digest = pass;
        running = ask(running.absorb(&half, RULES));
        match running.absorb(&page(&[2400], None), RULES) {
            Step::Ask(next) => running = *next,
            other => {
                assert_eq!((pass, other), (5, Step::Inconclusive(Doubt::WindowRestless)));
                return;
            }
        }
    }
    panic!("a restless window ends");
}

#[test]
fn doubts_leave_the_cursor() {
    let ignored = Shown {
        filter: Filter::Ignored,
        ..page(&[1010], None)
    };
    let older = Shown {
        filter: Filter::Unsaid,
        ..page(&[100], None)
    };
    for (shown, doubt) in [
        (ignored, Doubt::FilterIgnored),
        (older, Doubt::FilterIgnored),
        (page(&[], Some("p2")), Doubt::EmptyPage),
    ] {
        let step = poll(1000, 1060).absorb(&shown, RULES);
        assert_eq!(step, Step::Inconclusive(doubt));
    }
}

#[test]
fn what_an_ascending_answer_showed_counts_even_if_the_rest_cannot_be_had() {
    let end = |stamps: &[i64]| {
        let first = ask(poll(1000, 1060).absorb(&page(stamps, Some("p2")), RULES));
        first.absorb(&page(&[], Some("p3")), RULES)
    };
    assert_eq!(watermark(end(&[1010, 1020])), at(1020));
    assert_eq!(
        end(&[1010, 1030, 1020]),
        Step::Inconclusive(Doubt::EmptyPage),
        "in no order"
    );
}

/// From where on and how much is asked for next.
fn rest(poll: &Poll) -> (Timestamp, Option<u32>) {
    assert_eq!(poll.target, Some(Target::Rest));
    let (from, count) = poll.rest_asked();
    (from.unwrap(), count)
}

#[test]
fn a_full_page_without_a_link_is_gone_on_from_its_last_row_or_asked_for_larger() {
    let full = |stamps: &[i64]| Shown {
        fill: Fill::PerhapsCut,
        ..page(stamps, None)
    };
    // The poll asks from 700 on, two at a time.
    let next = ask(poll(1000, 1060).absorb(&full(&[900, 910]), RULES));
    assert_eq!(rest(&next), (at(910), None), "below the cursor too");
    let one_stamp = ask(next.absorb(&full(&[910, 910]), RULES));
    assert_eq!(rest(&one_stamp), (at(910), Some(8)), "no step forward");
    let rules = Rules { count: 8, ..RULES };
    let whole = one_stamp
        .clone()
        .absorb(&page(&[910, 910, 910, 1020], None), rules);
    assert_eq!(watermark(whole), at(1020));
    let stuck = one_stamp.clone().absorb(&full(&[910, 910]), rules);
    assert_eq!(stuck, Step::Inconclusive(Doubt::FullPage), "no more is shown");
    let deceived = one_stamp.absorb(&page(&[1020, 910, 1030], None), rules);
    assert_eq!(deceived, Step::Inconclusive(Doubt::Cut), "an order that was none");
    let unordered = ask(poll(1000, 1060).absorb(&full(&[1020, 1010]), RULES));
    assert_eq!(rest(&unordered), (at(700), Some(8)));
    let mut larger = unordered;
    for count in [8, 32, 100] {
        let stamps: Vec<i64> = (0..i64::from(count)).map(|number| 1050 - number % 9).collect();
        let rules = Rules { count, ..RULES };
        match larger.absorb(&full(&stamps), rules) {
            Step::Ask(next) => larger = *next,
            end => return assert_eq!((count, end), (100, Step::Inconclusive(Doubt::FullPage))),
        }
    }
    panic!("no page is larger than fifty times the usual one");
}

#[test]
fn a_total_above_what_was_shown_proves_a_cut() {
    for paging in [Paging::Live, Paging::Snapshot] {
        let rules = Rules { paging, ..RULES };
        let counted = |seconds: &[i64], next, total| Shown {
            total: Some(total),
            ..page(seconds, next)
        };
        let cut = ask(poll(1000, 1060).absorb(&counted(&[1010], None, 2), rules));
        assert_eq!(rest(&cut), (at(700), Some(8)));
        let again = cut.absorb(&counted(&[1010], None, 2), rules);
        assert_eq!(again, Step::Inconclusive(Doubt::Cut));
        let empty = poll(1000, 1060).absorb(&counted(&[], None, 1), rules);
        assert_eq!(empty, Step::Inconclusive(Doubt::Cut));
        // What came in order is complete as far as it reaches.
        let ascending = ask(poll(1000, 1060).absorb(&counted(&[1010, 1020], None, 3), rules));
        assert_eq!(rest(&ascending), (at(1020), None));
        let whole = ascending.absorb(&counted(&[1020, 1030], None, 2), rules);
        assert_eq!(watermark(whole), at(1030), "each search has its own total");
        // All pages count together, and a total that is too small says nothing.
        let first = ask(poll(1000, 1060).absorb(&counted(&[1030, 1020], Some("p2"), 3), rules));
        let whole = first.clone().absorb(&counted(&[1010], None, 3), rules);
        assert_eq!(watermark(whole), at(1030));
        let cut = first.absorb(&counted(&[1010], None, 4), rules);
        assert_eq!(cut, Step::Inconclusive(Doubt::Cut));
    }
}

#[test]
fn a_window_that_was_cut_leaves_the_cursor() {
    let first = ask(poll(1000, 10_000).absorb(&page(&[1000, 2000], Some("p2")), RULES));
    let window = ask(first.absorb(&page(&[2500], None), RULES));
    let cut = Shown {
        total: Some(3),
        ..page(&[2000, 2500], None)
    };
    assert_eq!(window.absorb(&cut, RULES), Step::Inconclusive(Doubt::Cut));
}

#[test]
fn a_poll_whose_bound_is_ignored_reads_on_for_so_many_pages() {
    let mut running = poll(1000, 10_000);
    for number in 1..=IGNORED_PAGES_MAX {
        let shown = Shown {
            filter: Filter::Ignored,
            ..page(
                &[i64::from(number), i64::from(number) + 1],
                Some(&format!("p{number}")),
            )
        };
        match running.absorb(&shown, RULES) {
            Step::Ask(next) => {
                assert_eq!(next.window, None);
                running = *next;
            }
            other => {
                let expected = Step::Inconclusive(Doubt::FilterIgnored);
                assert_eq!((number, other), (IGNORED_PAGES_MAX, expected));
                return;
            }
        }
    }
    panic!("it ends");
}

#[test]
fn links_that_run_in_a_circle_end_the_poll() {
    let first = ask(poll(1000, 1060).absorb(&page(&[1010], Some("p2")), RULES));
    let step = first.absorb(&page(&[1010], Some("p2")), RULES);
    let step = match step {
        // The seam of equal stamps lies within the overlap, so that no window comes between.
        Step::Ask(poll) => panic!("{poll:?}"),
        other => other,
    };
    assert_eq!(step, Step::Inconclusive(Doubt::Circle));
}

#[test]
fn a_poll_of_too_many_pages_is_cut_where_it_stands() {
    let mut running = poll(0, 1_000_000);
    running.lower = Some(Stored(at(999_700)));
    for number in 1..PAGES_MAX {
        let second = 999_700 + i64::from(number / 50);
        running = match running.absorb(&page(&[second, second], Some(&format!("p{number}"))), RULES) {
            Step::Ask(poll) => *poll,
            other => panic!("{number}: {other:?}"),
        };
        assert!(running.visited.len() <= VISITED_MAX);
    }
    assert_eq!(
        watermark(running.absorb(&page(&[1_000_000], Some("more")), RULES)),
        at(1_000_000)
    );
}

#[test]
fn stored_forms_of_another_version_are_not_read() {
    assert_eq!(
        CursorState::parse(r#"{"v":2,"watermark":"2026-11-20T10:00:00Z","start":null}"#),
        None
    );
    assert_eq!(CursorState::parse("{}"), None);
    let text = r#"{"v":1,"watermark":"2026-11-20T10:00:00.123456789Z","start":null,"by":"history"}"#;
    let read = CursorState::parse(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    // One of before there was a choice.
    let earlier = CursorState::parse(&text.replace(r#","by":"history""#, "")).unwrap();
    assert_eq!((earlier.watermark, earlier.by), (read.watermark, By::LastUpdated));
}

proptest! {
    #[test]
    fn the_watermark_never_moves_back_and_never_passes_the_bound(
        watermark in 0_i64..10_000,
        bound in 0_i64..10_000,
        pages in prop::collection::vec(prop::collection::vec(0_i64..12_000, 0..5), 1..6),
        snapshot in any::<bool>(),
    ) {
        let rules = Rules { paging: if snapshot { Paging::Snapshot } else { Paging::Live }, ..RULES };
        let mut running = poll(watermark, bound);
        let greatest = pages.iter().flatten().copied().filter(|stamp| *stamp <= bound).max();
        let mut links = pages.iter().enumerate();
        for _ in 0..100 {
            let shown = if running.window.is_some() {
                page(&[], None)
            } else {
                let Some((index, stamps)) = links.next() else { break };
                let link = format!("p{index}");
                page(stamps, (index + 1 < pages.len()).then_some(link.as_str()))
            };
            match running.absorb(&shown, rules) {
                Step::Ask(next) => running = *next,
                Step::Inconclusive(_) => return Ok(()),
                Step::Done(state) => {
                    prop_assert!(state.watermark.0 >= at(watermark));
                    prop_assert!(state.watermark.0 <= at(bound.max(watermark)));
                    prop_assert!(state.watermark.0 <= at(greatest.unwrap_or(0).max(watermark)));
                    return Ok(());
                }
            }
        }
    }
}

#[test]
fn a_cursor_that_is_moved_keeps_its_feeds_start() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let cursor = CursorState::of(By::LastUpdated, at(100), Some(at(50)));
    let back = cursor.moved_to(at(40));
    assert_eq!(
        (back.watermark.0, back.start.map(|it| it.0)),
        (at(40), Some(at(50)))
    );
}
