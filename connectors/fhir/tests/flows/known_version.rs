//! Reads of records whose last version is known: the record is sent only where there is another one.

use courier_sdk::{ChangeRef, Connector as _, FetchRequest, Fetched, Start};
use http::header::IF_NONE_MATCH;

use crate::server::{Condition, Server, at, connector};
use crate::{feed, plain, poll};

/// A server with record `a` at version 2, and a showing of it that names no version.
async fn unnamed() -> (Server, ChangeRef) {
    let server = Server::new(10);
    server.put("a", 900);
    server.put("a", 910);
    let shown = poll(&server, &feed(Start::Beginning), None).await.0.remove(0);
    let change = ChangeRef {
        version_id: None,
        record: None,
        ..shown
    };
    (server, change)
}

fn knowing<'a>(change: &'a ChangeRef, known: &'a str) -> FetchRequest<'a> {
    FetchRequest {
        change,
        known: Some(known),
    }
}

/// The version that a read found; `unchanged` without a record.
async fn found(server: &Server, request: FetchRequest<'_>) -> String {
    match connector(server).fetch(request).await.unwrap() {
        Fetched::Found(found, _) => found.version_id.unwrap(),
        Fetched::Unchanged => "unchanged".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn condition(server: &Server) -> Option<String> {
    server.with(|state| {
        let value = state.headers.get(IF_NONE_MATCH)?;
        Some(value.to_str().unwrap().to_owned())
    })
}

#[tokio::test]
async fn a_known_version_is_named_and_not_sent_again_while_it_stands() {
    let (server, change) = unnamed().await;
    assert_eq!(found(&server, knowing(&change, "2")).await, "unchanged");
    assert_eq!(condition(&server).as_deref(), Some("W/\"2\""));
    server.put("a", 950);
    assert_eq!(found(&server, knowing(&change, "2")).await, "3");
    assert_eq!(found(&server, plain(&change)).await, "3");
    assert_eq!(condition(&server), None);
}

#[tokio::test]
async fn a_server_that_ignores_the_condition_answers_with_the_record() {
    let (server, change) = unnamed().await;
    server.with(|state| state.condition = Condition::Ignored);
    assert_eq!(found(&server, knowing(&change, "2")).await, "2");
}

#[tokio::test]
async fn a_304_need_not_carry_a_tag_but_not_one_of_another_version() {
    let (server, change) = unnamed().await;
    for (tag, expected) in [
        ("", "unchanged"),
        ("W/\"1\"", "unchanged"),
        ("\"1\"", "unchanged"),
        // It answers for another version than ours: the record is read whole.
        ("W/\"2\"", "2"),
    ] {
        server.with(|state| state.condition = Condition::Answered(tag));
        assert_eq!(found(&server, knowing(&change, "1")).await, expected, "{tag}");
    }
}

#[tokio::test]
async fn a_304_that_nobody_asked_for_is_no_answer() {
    let (server, change) = unnamed().await;
    server.with(|state| state.fail = Some(304));
    let error = connector(&server).fetch(plain(&change)).await.unwrap_err();
    assert_eq!(error.class(), "unreadable");
}

#[tokio::test]
async fn the_exact_version_is_read_without_a_condition() {
    let (server, change) = unnamed().await;
    let named = ChangeRef {
        version_id: Some("2".to_owned()),
        ..change
    };
    assert_eq!(found(&server, knowing(&named, "2")).await, "2");
    assert_eq!(condition(&server), None);
    // It cannot be had any more, and the current one is asked for.
    server.with(|state| state.fail_versions = Some(404));
    assert_eq!(found(&server, knowing(&named, "2")).await, "unchanged");
    assert_eq!(named.last_updated, Some(at(910)));
}

#[tokio::test]
async fn a_version_id_that_cannot_stand_in_a_tag_is_not_named() {
    let (server, change) = unnamed().await;
    for known in ["a\"b", "a b", "a\nb", "ä"] {
        assert_eq!(found(&server, knowing(&change, known)).await, "2");
        assert_eq!(condition(&server), None, "{known:?}");
    }
}
