//! Whole polls and reads against a small FHIR server in memory, through the public contract alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails loudly and names the one outcome that it expects"
)]

mod begin_now;
mod cut;
mod history;
mod included;
mod known_version;
mod listing;
mod many;
mod portions;
mod reads;
mod rosters;
mod server;
mod statement;

use std::collections::BTreeSet;
use std::time::Duration;

use courier_sdk::{
    ChangePage, ChangeRef, Connector, ConnectorError, Cursor, Detect, FeedName, FeedSpec, FetchMode,
    FetchRequest, Fetched, HttpError, Next, Novelty, PollRequest, RecordType, Resume, Scope, Start,
};
use server::{Paging, Server, at, connector};

/// A read of a record of which nothing is known.
fn plain(change: &ChangeRef) -> FetchRequest<'_> {
    FetchRequest { change, known: None }
}

fn feed(start: Start) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("appointments").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: String::new(),
        start,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect: Detect::LastUpdated,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

async fn one_page(
    server: &Server,
    feed: &FeedSpec,
    cursor: Option<&Cursor>,
    resume: Option<&Resume>,
) -> Result<ChangePage, ConnectorError> {
    // A new connector each time: nothing may be remembered outside cursor and resume.
    connector(server).poll(PollRequest { feed, cursor, resume }).await
}

/// A whole poll: all its changes and how it ended.
async fn poll(server: &Server, feed: &FeedSpec, cursor: Option<&Cursor>) -> (Vec<ChangeRef>, Next) {
    let mut changes = Vec::new();
    let mut resume = None;
    loop {
        let page = one_page(server, feed, cursor, resume.as_ref()).await.unwrap();
        changes.extend(page.changes);
        match page.next {
            Next::Page(next) => resume = Some(next),
            end => return (changes, end),
        }
    }
}

fn done(next: Next) -> Cursor {
    match next {
        Next::Done(cursor) => cursor,
        other => panic!("{other:?}"),
    }
}

fn names(changes: &[ChangeRef], novelty: Novelty) -> BTreeSet<String> {
    let chosen = changes.iter().filter(|change| change.novelty == novelty);
    chosen.map(name).collect()
}

fn name(change: &ChangeRef) -> String {
    format!(
        "{}@{}",
        change.key.id,
        change.version_id.as_deref().unwrap_or("-")
    )
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn a_late_commit_behind_the_watermark_is_seen_within_the_overlap() {
    let server = Server::new(10);
    let spec = feed(Start::Beginning);
    server.put("a", 900);
    let cursor = done(poll(&server, &spec, None).await.1);
    server.put("late", 700);
    let (changes, next) = poll(&server, &spec, Some(&cursor)).await;
    assert_eq!(names(&changes, Novelty::Announce), set(["a@1", "late@1"]));
    assert_eq!(connector(&server).describe(&done(next)), Some(at(900)));
}

#[tokio::test]
async fn a_future_stamp_is_shown_but_never_moves_the_watermark() {
    let server = Server::new(10);
    let spec = feed(Start::Beginning);
    server.put("a", 900);
    server.put("future", 3_000_000);
    let (changes, next) = poll(&server, &spec, None).await;
    assert_eq!(changes.len(), 2);
    assert_eq!(connector(&server).describe(&done(next)), Some(at(900)));
}

#[tokio::test]
async fn date_age_and_a_missing_date_bound_the_watermark() {
    // The server's time is 1000; our own clock says 2000.
    for (header, expected) in [("date", 990), ("age", 910), ("none", 1700)] {
        let server = Server::new(10);
        server.put("a", 910);
        server.put("b", 990);
        server.put("c", 1700);
        server.with(|state| state.date = header);
        let cursor = done(poll(&server, &feed(Start::Beginning), None).await.1);
        assert_eq!(
            connector(&server).describe(&cursor),
            Some(at(expected)),
            "{header}"
        );
    }
}

/// Rows that leave earlier pages while the poll runs: each record must still be shown.
async fn shifting_pages_lose_nothing(paging: Paging) {
    for leave_at in 1..6 {
        let server = Server::new(3);
        server.with(|state| state.paging = paging);
        server.set_now(100_000);
        for number in 0..14 {
            server.put(&format!("r{number:02}"), number / 2 * 1000);
        }
        // Just before that request, two rows move to the newest end and one is deleted.
        server.with(|state| state.leave_at = leave_at);
        let (changes, next) = poll(&server, &feed(Start::Beginning), None).await;
        let shown: BTreeSet<_> = changes
            .iter()
            .map(|change| change.key.id.as_str().to_owned())
            .collect();
        let deleted = server.with(|state| state.deleted.clone());
        for row in server.with(|state| state.rows.clone()) {
            // What lies within the overlap of the bound may wait for the next poll.
            assert!(
                shown.contains(&row.id) || row.second >= 99_700,
                "{paging:?} {leave_at}: {}",
                row.id
            );
        }
        assert!(deleted.is_some(), "the fault must strike");
        done(next);
    }
}

#[tokio::test]
async fn ascending_pages_that_shift_lose_nothing() {
    shifting_pages_lose_nothing(Paging::Ascending).await;
}

#[tokio::test]
async fn descending_pages_that_shift_lose_nothing() {
    shifting_pages_lose_nothing(Paging::Descending).await;
}

#[tokio::test]
async fn unordered_pages_that_shift_lose_nothing() {
    shifting_pages_lose_nothing(Paging::Unordered).await;
}

/// Everything moves all the time, for hours, through several polls; then it rests.
async fn churn(seed: u64, paging: Paging) -> usize {
    // Tiny pages in no order often look ordered; real ones hold hundreds of rows.
    let (page_size, records) = if paging == Paging::Unordered {
        (10, 36)
    } else {
        (2, 12)
    };
    let server = Server::new(page_size + usize::try_from(seed % 3).unwrap());
    server.set_now(10_000);
    for number in 0..records {
        server.put(&format!("r{number:02}"), number * 9600 / records);
    }
    server.with(|state| (state.paging, state.churn) = (paging, Some(seed)));
    let spec = feed(Start::Beginning);
    let (mut cursor, mut shown, mut concluded) = (None, BTreeSet::new(), 0);
    for round in 0..8 {
        if round == 6 {
            server.with(|state| state.churn = None);
        }
        let (changes, next) = poll(&server, &spec, cursor.as_ref()).await;
        shown.extend(names(&changes, Novelty::Announce));
        if let Next::Done(next) = next {
            concluded += 1;
            cursor = Some(next);
        }
        server.with(|state| state.now += 60);
    }
    for row in server.with(|state| state.rows.clone()) {
        let name = format!("{}@{}", row.id, row.version);
        assert!(
            shown.contains(&name),
            "{paging:?} seed {seed}: {name} stamped {}",
            row.second
        );
    }
    concluded
}

#[tokio::test]
async fn what_rests_at_last_was_shown_whatever_moved_before() {
    for paging in [Paging::Ascending, Paging::Descending, Paging::Unordered] {
        let mut concluded = 0;
        for seed in 0..120 {
            concluded += churn(seed, paging).await;
        }
        // Polls that conclude are what could lose something: most must.
        assert!(concluded > 120 * 8 / 2, "{paging:?}: {concluded}");
    }
}

#[tokio::test]
async fn an_ignored_filter_is_reported_and_leaves_the_cursor() {
    let server = Server::new(10);
    let spec = feed(Start::Beginning);
    server.put("a", 900);
    server.put("old", 100);
    let cursor = done(poll(&server, &spec, None).await.1);
    for self_link in [true, false] {
        server.with(|state| (state.ignore_filter, state.self_link) = (true, self_link));
        let (changes, next) = poll(&server, &spec, Some(&cursor)).await;
        assert_eq!(changes.len(), 2);
        assert!(matches!(next, Next::Inconclusive { .. }), "{self_link}");
    }
}

#[tokio::test]
async fn an_entry_that_names_no_record_stalls_no_search() {
    let server = Server::new(10);
    for id in ["a", "no name", "b"] {
        server.put(id, 900);
    }
    let spec = feed(Start::Beginning);
    let page = one_page(&server, &spec, None, None).await.unwrap();
    assert_eq!(names(&page.changes, Novelty::Announce), set(["a@1", "b@1"]));
    assert_eq!(page.unusable, [1], "it is told of by its place");
    assert_eq!(connector(&server).describe(&done(page.next)), Some(at(900)));
}

#[tokio::test]
async fn where_a_source_ignores_where_nothing_is_taken() {
    let server = Server::new(1);
    server.put("a", 900);
    server.put("outside", 910);
    for start in [Start::Beginning, Start::Now, Start::At(at(0))] {
        let spec = FeedSpec {
            filter: "status=booked".to_owned(),
            ..feed(start)
        };
        server.with(|state| (state.ignore_where, state.ours) = (true, 1000));
        let (changes, next) = poll(&server, &spec, None).await;
        assert_eq!(changes, []);
        assert!(matches!(next, Next::Inconclusive { .. }), "{next:?}");
        server.with(|state| state.ignore_where = false);
        assert!(!poll(&server, &spec, None).await.0.is_empty());
    }
}

#[tokio::test]
async fn where_a_source_always_ignores_the_bound_new_records_are_still_shown() {
    let server = Server::new(3);
    for number in 0..30 {
        server.put(&format!("r{number}"), 100 + number);
    }
    let spec = feed(Start::Beginning);
    let cursor = done(poll(&server, &spec, None).await.1);
    server.with(|state| state.ignore_filter = true);
    server.put("new", 990);
    let (changes, next) = poll(&server, &spec, Some(&cursor)).await;
    assert!(names(&changes, Novelty::Announce).contains("new@1"));
    assert!(matches!(next, Next::Inconclusive { .. }));
}

#[tokio::test]
async fn a_link_to_another_origin_is_never_followed() {
    let server = Server::new(1);
    server.put("a", 900);
    server.put("b", 900);
    server.with(|state| state.next_base = "https://evil.example/fhir".to_owned());
    let error = one_page(&server, &feed(Start::Beginning), None, None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), "forbidden");
    assert!(server.with(|state| state.hosts.iter().all(|host| host == "ehr.example")));
    // A relative link is resolved against the page that names it.
    server.with(|state| state.next_base = "/fhir".to_owned());
    assert_eq!(poll(&server, &feed(Start::Beginning), None).await.0.len() % 2, 0);
}

#[tokio::test]
async fn an_expired_or_foreign_page_link_begins_the_poll_again() {
    let server = Server::new(1);
    server.put("a", 900);
    server.put("b", 910);
    let spec = feed(Start::Beginning);
    let first = one_page(&server, &spec, None, None).await.unwrap();
    let Next::Page(resume) = first.next else { panic!() };
    server.with(|state| state.fail = Some(410));
    let error = one_page(&server, &spec, None, Some(&resume)).await.unwrap_err();
    assert_eq!(error.class(), "page_expired");
    let foreign = Resume::new("{}".to_owned());
    let error = one_page(&server, &spec, None, Some(&foreign)).await.unwrap_err();
    assert_eq!(error.class(), "page_expired");
    server.with(|state| state.fail = None);
    assert!(one_page(&server, &spec, None, Some(&resume)).await.is_ok());
}

#[tokio::test]
async fn requests_carry_what_the_source_needs_and_debug_shows_no_secret() {
    let server = Server::new(1);
    one_page(&server, &feed(Start::Now), None, None).await.unwrap();
    let (headers, query) = server.with(|state| (state.headers.clone(), state.query.clone()));
    assert_eq!(headers["accept"], "application/fhir+json");
    assert_eq!(headers["prefer"], "handling=strict");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert!(headers["authorization"].is_sensitive());
    assert!(
        query.starts_with("_lastUpdated=ge2026-11-20T10:28:20.000Z&_sort="),
        "{query}"
    );
    assert!(!format!("{:?}", connector(&server)).contains("s3cret"));
}

#[tokio::test]
async fn bad_bodies_fail_that_poll_only() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for (body, class) in [
        (r#"{"resourceType":"Bundle","type":"sea"#.to_owned(), "unreadable"),
        (
            format!(r#"{{"resourceType":"Bundle","type":"searchset","x":{deep}}}"#),
            "unreadable",
        ),
        (" ".repeat(20_001), "unreadable"),
        (
            r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"timeout"}]}"#.into(),
            "transient",
        ),
    ] {
        let server = Server::new(1);
        server.with(|state| state.body = Some(body));
        let error = one_page(&server, &feed(Start::Beginning), None, None)
            .await
            .unwrap_err();
        assert_eq!(error.class(), class);
    }
    let server = Server::new(1);
    server.with(|state| {
        state.broken = Some(HttpError::Broken {
            reason: "eof".to_owned(),
        });
    });
    let error = one_page(&server, &feed(Start::Beginning), None, None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), "transient");
}

#[tokio::test]
async fn an_oversized_record_is_named_while_its_page_proceeds() {
    let server = Server::new(10);
    server.put("a", 900);
    server.with(|state| state.rows[0].filler = 5000);
    server.put("b", 910);
    let page = one_page(&server, &feed(Start::Beginning), None, None)
        .await
        .unwrap();
    assert_eq!(page.oversized.len(), 1);
    assert_eq!(page.oversized[0].id.as_str(), "a");
    assert_eq!(names(&page.changes, Novelty::Announce), set(["b@1"]));
    done(page.next);
}

#[tokio::test]
async fn by_read_asks_for_ids_only_and_reads_the_exact_version() {
    let server = Server::new(10);
    server.put("a", 900);
    let spec = FeedSpec {
        fetch: FetchMode::ByRead,
        ..feed(Start::Beginning)
    };
    let page = one_page(&server, &spec, None, None).await.unwrap();
    assert!(server.with(|state| state.query.contains("_elements=id,meta")));
    let silent = ChangeRef {
        novelty: Novelty::Silent,
        ..page.changes[0].clone()
    };
    let change = &silent;
    assert_eq!(change.record, None);
    match connector(&server).fetch(plain(change)).await.unwrap() {
        Fetched::Found(found, _) => assert_eq!(&found, change),
        other => panic!("{other:?}"),
    }
    server.put("a", 950);
    // Version 1 is gone here: the current one is read, and the answer says so.
    let connector = connector(&server);
    match connector.fetch(plain(change)).await.unwrap() {
        Fetched::Found(found, record) => {
            assert_eq!(found.version_id.as_deref(), Some("2"));
            assert_eq!(found.novelty, Novelty::Announce);
            assert!(std::str::from_utf8(record.bytes()).unwrap().contains("1.10"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_search_that_is_forbidden_sets_its_feed_aside_and_not_the_connection() {
    let server = Server::new(10);
    for (status, class) in [(403, "refused"), (401, "unauthorized")] {
        server.with(|state| state.fail = Some(status));
        let error = one_page(&server, &feed(Start::Beginning), None, None)
            .await
            .unwrap_err();
        assert_eq!(error.class(), class);
    }
}

#[tokio::test]
async fn a_cursor_set_to_an_instant_begins_there_and_announces() {
    let server = Server::new(10);
    server.put("a", 100);
    server.put("b", 500);
    let cursor = connector(&server).cursor_at(at(600));
    let (changes, _) = poll(&server, &feed(Start::Now), Some(&cursor)).await;
    assert_eq!(names(&changes, Novelty::Announce), set(["b@1"]));
    let unknown = Cursor::new("{\"v\":9}".to_owned());
    let error = one_page(&server, &feed(Start::Now), Some(&unknown), None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), "forbidden");
}
