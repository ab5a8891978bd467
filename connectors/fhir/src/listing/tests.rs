use courier_sdk::{FeedName, FetchMode, Ids, RecordId, RecordType, Scope};

use super::*;

const CHANGES: Rules = Rules {
    aim: Aim::Changes,
    cut: Cut::Fraction,
    count: 2,
    usual_count: 2,
};

const EVERYTHING: Rules = Rules {
    aim: Aim::Everything,
    ..CHANGES
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
        overlap: std::time::Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect: courier_sdk::Detect::Window,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

/// A listing of three ids, two at once, begun when the source's clock says 1000.
fn listing(start: Start, cursor: Option<&CursorState>) -> Listing {
    let list = Ids(["1", "2", "3"].map(|id| RecordId::parse(id).unwrap()).into());
    let mut listing = Listing::begin(&feed(start), cursor, Parts::list(&list, 2));
    listing.bound = Some(Stored(at(1000)));
    listing
}

fn seen(stamps: &[i64], next: Option<&str>) -> Seen {
    Seen {
        stamps: stamps.iter().map(|second| Some(at(*second))).collect(),
        entries: stamps.len(),
        matches: stamps.len() as u64,
        total: None,
        next: next.map(str::to_owned),
        fill: Fill::Whole,
    }
}

fn ask(step: Step) -> Listing {
    match step {
        Step::Ask(listing) => *listing,
        other @ (Step::Done(_) | Step::Inconclusive(_)) => panic!("{other:?}"),
    }
}

fn done(step: Step) -> CursorState {
    match step {
        Step::Done(state) => *state,
        other @ (Step::Ask(_) | Step::Inconclusive(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_listing_goes_through_all_pages_of_all_parts_and_stands_at_the_greatest_stamp() {
    let page = listing(Start::Beginning, None);
    let page = ask(page.absorb(&seen(&[5, 900], Some("p2")), CHANGES));
    assert_eq!(page.link.as_deref(), Some("p2"));
    let page = ask(page.absorb(&seen(&[7], None), CHANGES));
    assert_eq!((page.link.as_deref(), page.pages), (None, 0), "the second part");
    // A record stamped far ahead does not count.
    let state = done(page.absorb(&seen(&[2_000_000_000], None), CHANGES));
    assert_eq!(
        (state.watermark, state.start, state.by),
        (Stored(at(900)), None, By::Listing)
    );
}

#[test]
fn the_first_listing_of_a_feed_that_begins_now_is_silent_and_what_it_left_behind_stays_so() {
    let first = listing(Start::Now, None);
    assert!(first.is_silent(Some(at(1)), Cut::Fraction) && first.is_silent(None, Cut::Fraction));
    assert!(
        !first.is_silent(Some(at(1000)), Cut::Fraction),
        "it changes meanwhile"
    );
    let mut first = first;
    first.parts = Parts::Whole(false);
    let state = done(first.absorb(&seen(&[], None), CHANGES));
    assert_eq!(
        (state.watermark, state.start),
        (Stored(at(1000)), Some(Stored(at(1000))))
    );
    let next = listing(Start::Now, Some(&state));
    assert!(
        next.is_silent(Some(at(999)), Cut::Fraction),
        "it only came into view"
    );
    assert!(!next.is_silent(Some(at(1000)), Cut::Fraction) && !next.is_silent(None, Cut::Fraction));
    let since = listing(Start::At(at(50)), None);
    assert!(
        since.is_silent(Some(at(49)), Cut::Fraction)
            && since.is_silent(None, Cut::Fraction)
            && !since.is_silent(Some(at(50)), Cut::Fraction)
    );
}

#[test]
fn a_feed_that_begins_now_begins_with_its_first_page_though_its_listing_never_ends() {
    let cut = Seen {
        fill: Fill::PerhapsCut,
        ..seen(&[1], None)
    };
    for first_page in [seen(&[1, 1000], Some("p2")), seen(&[1], None), cut] {
        let begun = done(listing(Start::Now, None).absorb(&first_page, CHANGES));
        assert_eq!(
            (begun.start, begun.watermark, begun.by),
            (Some(Stored(at(1000))), Stored(at(1000)), By::Listing)
        );
        let mut again = listing(Start::Now, Some(&begun));
        again.bound = Some(Stored(at(5000)));
        let silent = |stamp: Option<i64>| again.is_silent(stamp.map(at), Cut::Fraction);
        assert!(silent(Some(999)) && silent(None), "it was there before");
        assert!(!silent(Some(1000)) && !silent(Some(2000)), "it changed since");
        let mut step = again.absorb(&seen(&[], None), CHANGES);
        while let Step::Ask(listing) = step {
            step = listing.absorb(&seen(&[], None), CHANGES);
        }
        let state = done(step);
        assert_eq!((state.start, state.begun), (begun.start, false));
    }
}

#[test]
fn where_stamps_are_days_what_changes_later_in_the_first_day_is_new() {
    let by_day = Rules {
        cut: Cut::Day,
        ..CHANGES
    };
    let mut first = listing(Start::Now, None);
    first.parts = Parts::Whole(false);
    let state = done(first.absorb(&seen(&[], None), by_day));
    let mut next = listing(Start::Now, Some(&state));
    next.parts = Parts::Whole(false);
    assert_eq!(
        done(next.absorb(&seen(&[], None), by_day)).start,
        state.start,
        "it stays"
    );
    let midnight = at(1000)
        .strftime("%Y-%m-%dT00:00:00Z")
        .to_string()
        .parse()
        .unwrap();
    assert!(!listing(Start::Now, Some(&state)).is_silent(Some(midnight), Cut::Fraction));
}

#[test]
fn a_part_that_may_be_cut_is_asked_for_in_halves_and_else_the_listing_concludes_nothing() {
    let cut = |listing: Listing| {
        let seen = Seen {
            total: Some(9),
            ..seen(&[1], None)
        };
        listing.absorb(&seen, CHANGES)
    };
    let halved = ask(cut(listing(Start::Beginning, None)));
    assert!(halved.doubt.is_none());
    let mut rest = ask(cut(halved));
    assert_eq!(rest.larger, Some((9, 1)), "one record was asked for");
    rest = ask(cut(rest));
    assert_eq!(rest.doubt, Some(Doubt::Cut), "no more is shown");
    assert_eq!(rest.larger, None);
    rest = ask(rest.absorb(&seen(&[1], None), CHANGES));
    let end = rest.absorb(&seen(&[1], None), CHANGES);
    let in_spite_of_the_others = Step::Inconclusive(Doubt::Cut);
    assert_eq!(end, in_spite_of_the_others);
    let full = Seen {
        fill: Fill::PerhapsCut,
        ..seen(&[1], None)
    };
    let mut whole = listing(Start::Beginning, None);
    whole.parts = Parts::Whole(false);
    let larger = ask(whole.absorb(&full, CHANGES));
    assert_eq!(larger.larger, Some((8, 1)));
    let same = larger.clone().absorb(&full, CHANGES);
    assert_eq!(same, Step::Inconclusive(Doubt::FullPage));
    let all = larger.absorb(&seen(&[1, 2, 3], None), CHANGES);
    assert!(matches!(all, Step::Done(_)));
}

#[test]
fn page_links_that_lead_nowhere_end_their_part_and_spoil_the_listing() {
    let rows = [
        (&[1_i64][..], true, Doubt::Circle),
        (&[], false, Doubt::EmptyPage),
    ];
    for (stamps, visited, doubt) in rows {
        let mut page = listing(Start::Beginning, None);
        if visited {
            visit(&mut page.visited, "p2");
        }
        let page = ask(page.absorb(&seen(stamps, Some("p2")), CHANGES));
        assert_eq!((page.link.as_deref(), page.doubt), (None, Some(doubt)));
    }
}

#[test]
fn what_has_no_stamp_is_old_for_a_sweep_and_for_the_first_listing_of_a_feed_that_searched() {
    let start = Some(at(500));
    let searched = CursorState::of(By::LastUpdated, at(900), start);
    let listed = CursorState::of(By::Listing, at(900), start);
    assert!(listing(Start::Now, Some(&searched)).is_silent(None, Cut::Fraction));
    assert!(!listing(Start::Now, Some(&listed)).is_silent(None, Cut::Fraction));
    let mut sweep = feed(Start::Now);
    sweep.scope.aim = Aim::Everything;
    let sweep = Listing::begin(&sweep, Some(&listed), Parts::Whole(false));
    assert!(sweep.is_silent(None, Cut::Fraction) && !sweep.is_silent(Some(at(500)), Cut::Fraction));
}

#[test]
fn a_sweep_stands_for_the_time_at_which_it_began() {
    let cursor = CursorState::of(By::History, at(400), None);
    let mut sweep = listing(Start::Now, Some(&cursor));
    sweep.parts = Parts::Whole(false);
    let state = done(sweep.absorb(&seen(&[10, 20], None), EVERYTHING));
    assert_eq!(state.watermark, Stored(at(1000)));
}

#[test]
fn a_stored_listing_is_read_back_and_nothing_else_is() {
    let window = courier_sdk::DateWindow::default();
    let rule = crate::profile::Profile::builtin("epic").unwrap().window;
    let mut before = listing(Start::Now, None);
    before.parts = Parts::days(&window, &rule, at(0));
    before.tags.insert("1".to_owned(), "W/\"2\"".to_owned());
    let text = crate::poll::text(&before);
    assert_eq!(Listing::parse(&text), Some(before));
    assert_eq!(
        Listing::parse(&text.replace("\"listing\":1", "\"listing\":9")),
        None
    );
    for other in ["{}", "", r#"{"history":2}"#, r#"{"v":1}"#] {
        assert_eq!(Listing::parse(other), None, "{other}");
    }
}
