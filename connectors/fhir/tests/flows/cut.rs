//! Servers without links to further pages: an answer is cut at `_count`, with or without saying so.

use std::sync::Arc;

use courier_fhir::{FhirConnector, FullPage, Limits, Profile, Settings};
use courier_sdk::{Aim, Fixed};
use url::Url;

use super::*;
use crate::server::{Further, OurClock};

const COUNT: u32 = 10;

/// A server without links, which says how many matches there are, or does not.
fn without_links(further: Further) -> Server {
    let server = Server::new(usize::MAX);
    server.with(|state| {
        state.further = further;
        state.self_link = false;
    });
    server
}

fn connector(server: &Server) -> FhirConnector {
    let mut profile = Profile::builtin("medplum").unwrap();
    profile.full_page_without_next = FullPage::Suspect;
    let limits = Limits {
        page_count: COUNT,
        ..Limits::default()
    };
    FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile,
        http: Arc::new(server.clone()),
        clock: Arc::new(OurClock(server.clone())),
        limits,
    })
}

/// A whole poll: the names of what it showed, the query of each request, and how it ended.
async fn poll(
    server: &Server,
    feed: &FeedSpec,
    cursor: Option<&Cursor>,
) -> (BTreeSet<String>, Vec<String>, Next) {
    let (mut shown, mut asked) = (BTreeSet::new(), Vec::new());
    let mut resume: Option<Resume> = None;
    loop {
        let request = PollRequest {
            feed,
            cursor,
            resume: resume.as_ref(),
        };
        let page = connector(server).poll(request).await.unwrap();
        asked.push(server.with(|state| state.query.clone()));
        shown.extend(page.changes.iter().map(name));
        match page.next {
            Next::Page(next) => resume = Some(next),
            end => return (shown, asked, end),
        }
    }
}

fn all(count: i64) -> BTreeSet<String> {
    (0..count).map(|number| format!("a{number}@1")).collect()
}

#[tokio::test]
async fn what_a_cut_answer_left_over_is_asked_for_from_its_last_row_on() {
    for further in [Further::Cut, Further::Counted] {
        let server = without_links(further);
        for number in 0..95 {
            server.put(&format!("a{number}"), 100 + number);
        }
        // From the beginning, and again and again where more than a page lies within the overlap.
        let (shown, asked, end) = poll(&server, &feed(Start::Beginning), None).await;
        assert_eq!(shown, all(95), "{further:?}");
        // Each answer repeats the last row of the one before: 10, then 9 new ones each time.
        assert_eq!(asked.len(), 11, "{asked:?}");
        let cursor = done(end);
        server.set_now(2000);
        let overlap = Duration::from_mins(30);
        let wide = FeedSpec {
            overlap,
            ..feed(Start::Now)
        };
        server.put("a95", 195);
        let (shown, _, end) = poll(&server, &wide, Some(&cursor)).await;
        assert_eq!(shown, all(96), "{further:?}");
        assert_eq!(
            connector(&server).describe(&done(end)),
            Some(at(195)),
            "{further:?}"
        );
    }
}

#[tokio::test]
async fn more_rows_of_one_stamp_than_a_page_holds_come_with_a_larger_page() {
    for further in [Further::Cut, Further::Counted] {
        let server = without_links(further);
        for number in 0..70 {
            server.put(&format!("a{number}"), if number < 3 { 100 } else { 200 });
        }
        let (shown, asked, end) = poll(&server, &feed(Start::Beginning), None).await;
        assert_eq!(shown, all(70), "{further:?}");
        assert!(asked.last().unwrap().contains("_lastUpdated=ge"), "{asked:?}");
        assert_eq!(connector(&server).describe(&done(end)), Some(at(200)));
    }
}

#[tokio::test]
async fn a_cut_answer_in_no_order_is_asked_for_as_a_whole() {
    for paging in [Paging::Unordered, Paging::Descending] {
        let server = without_links(Further::Cut);
        server.with(|state| state.paging = paging);
        for number in 0..70 {
            server.put(&format!("a{number}"), 100 + (number * 37) % 70);
        }
        let (shown, asked, end) = poll(&server, &feed(Start::Beginning), None).await;
        assert_eq!(shown, all(70), "{paging:?}");
        assert_eq!(asked.len(), 3, "10, 40, 160: {asked:?}");
        done(end);
    }
}

#[tokio::test]
async fn a_server_that_shows_no_more_for_a_larger_page_leaves_the_cursor() {
    let server = without_links(Further::Counted);
    server.with(|state| {
        state.page_size = 10;
        state.paging = Paging::Descending;
    });
    for number in 0..70 {
        server.put(&format!("a{number}"), 100 + number);
    }
    let (shown, asked, end) = poll(&server, &feed(Start::Beginning), None).await;
    assert_eq!((shown.len(), asked.len()), (10, 2), "{asked:?}");
    assert!(matches!(end, Next::Inconclusive { .. }), "{end:?}");
}

#[tokio::test]
async fn a_sweep_lists_a_type_that_exceeds_a_page_with_a_page_above_its_size() {
    for further in [Further::Cut, Further::Counted] {
        let server = without_links(further);
        for number in 0..95 {
            server.put(&format!("a{number}"), 100 + number);
        }
        let mut sweep = feed(Start::Beginning);
        sweep.scope.aim = Aim::Everything;
        let (shown, asked, end) = poll(&server, &sweep, None).await;
        assert_eq!(shown, all(95), "{further:?}");
        let expected = if further == Further::Counted { 2 } else { 3 };
        assert_eq!(asked.len(), expected, "{asked:?}");
        done(end);
    }
}
