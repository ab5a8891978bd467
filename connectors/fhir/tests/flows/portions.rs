//! Answers above the page limit, of 20,000 bytes here: the same is not asked for again.

use std::collections::BTreeSet;

use courier_fhir::FhirConnector;
use courier_sdk::{Connector as _, ConnectorError, Cursor, FeedSpec, Next, Novelty, PollRequest, Start};

use super::server::{Server, connector};
use super::{feed, names};

/// Polls until a poll is complete, as the courier does; what was shown and how often a poll failed.
async fn complete(
    connector: &FhirConnector,
    feed: &FeedSpec,
    cursor: Option<&Cursor>,
) -> (BTreeSet<String>, Vec<&'static str>, Cursor) {
    let (mut shown, mut failures, mut resume) = (BTreeSet::new(), Vec::new(), None);
    for _ in 0..100 {
        let request = PollRequest {
            feed,
            cursor,
            resume: resume.as_ref(),
        };
        match connector.poll(request).await {
            Ok(page) => {
                shown.extend(names(&page.changes, Novelty::Announce));
                match page.next {
                    Next::Page(next) => resume = Some(next),
                    Next::Done(cursor) => return (shown, failures, cursor),
                    Next::Inconclusive { reason } => panic!("{reason}"),
                }
            }
            Err(error) => {
                failures.push(error.class());
                if let ConnectorError::PageExpired { .. } = error {
                    resume = None;
                }
            }
        }
    }
    panic!("never complete: {failures:?}");
}

fn count_asked(server: &Server) -> String {
    let query = server.with(|state| state.query.clone());
    let count = query.split('&').find_map(|pair| pair.strip_prefix("_count="));
    count.unwrap_or("-").to_owned()
}

/// A server of so many records, each of which has about 1,100 bytes.
fn of_large_records(records: i64) -> Server {
    let server = Server::new(200);
    for number in 0..records {
        server.put(&format!("r{number}"), 500 + number);
    }
    server.with(|state| {
        state.ours = 1000;
        for row in &mut state.rows {
            row.filler = 1000;
        }
    });
    server
}

#[tokio::test]
async fn a_first_page_too_large_is_asked_for_in_halves_and_grows_back_after_the_overlap() {
    let server = of_large_records(60);
    let (connector, spec) = (connector(&server), feed(Start::Beginning));
    let (shown, failures, cursor) = complete(&connector, &spec, None).await;
    assert_eq!(shown.len(), 60);
    assert_eq!(failures, ["unreadable"; 8], "200, 100, 50, 25, each twice");
    for (seconds, count) in [(300, "12"), (1, "96"), (301, "200")] {
        server.with(|state| {
            state.ours += seconds;
            state.rows.truncate(1);
        });
        complete(&connector, &spec, Some(&cursor)).await;
        complete(&connector, &spec, Some(&cursor)).await;
        assert_eq!(count_asked(&server), count);
    }
}

#[tokio::test]
async fn a_further_page_too_large_begins_the_poll_anew_with_much_smaller_ones() {
    let server = of_large_records(30);
    server.with(|state| {
        state.page_size = 15;
        for row in state.rows.iter_mut().skip(15) {
            row.filler = 1500;
        }
    });
    let (connector, spec) = (connector(&server), feed(Start::Beginning));
    let (shown, failures, _) = complete(&connector, &spec, None).await;
    assert_eq!(
        (shown.len(), failures),
        (30, vec!["unreadable", "page_expired"]),
        "asked for once more, then anew"
    );
}

#[tokio::test]
async fn a_record_that_fills_a_page_alone_is_named_by_its_id_and_left_to_a_read() {
    let server = of_large_records(3);
    server.with(|state| state.rows[1].filler = 30_000);
    let (connector, spec) = (connector(&server), feed(Start::Beginning));
    let (shown, _, _) = complete(&connector, &spec, None).await;
    assert_eq!(shown.len(), 3);
    let query = server.with(|state| state.query.clone());
    assert!(query.contains("_elements=id,meta"), "{query}");
    let (feed, cursor, resume) = (&spec, None, None);
    let page = connector
        .poll(PollRequest { feed, cursor, resume })
        .await
        .unwrap();
    // This server does not tag what it shortened: none of it is taken for a whole record.
    assert!(page.changes.iter().all(|change| change.record.is_none()));
}
