//! What an answer to a read says of the record, and what it does not.

use courier_sdk::{Connector as _, Fetched, HttpError, NotFound, Start};

use crate::server::{Server, connector};
use crate::{feed, plain, poll};

#[tokio::test]
async fn a_reads_answer_says_what_became_of_the_record() {
    let server = Server::new(10);
    server.put("a", 900);
    let change = poll(&server, &feed(Start::Beginning), None).await.0.remove(0);
    for (status, expected) in [
        (410, Fetched::Deleted),
        (404, Fetched::NotFound(NotFound::Unattributed)),
        (403, Fetched::Unavailable),
    ] {
        server.with(|state| state.fail = Some(status));
        assert_eq!(connector(&server).fetch(plain(&change)).await.unwrap(), expected);
    }
    // Of a 404 it matters whose word it is: a proxy has a page of its own.
    let outcome = r#"{"resourceType":"OperationOutcome","issue":[]}"#;
    for (body, word) in [
        ("<html>not found</html>", NotFound::Unattributed),
        (r#"{"resourceType":"Bundle"}"#, NotFound::Unattributed),
        (outcome, NotFound::BySource),
    ] {
        server.with(|state| (state.fail, state.body) = (Some(404), Some(body.to_owned())));
        let answer = connector(&server).fetch(plain(&change)).await.unwrap();
        assert_eq!(answer, Fetched::NotFound(word), "{body}");
    }
    server.with(|state| state.body = None);
    server.with(|state| (state.fail, state.broken) = (None, Some(HttpError::TooLarge { limit: 1 })));
    assert_eq!(
        connector(&server).fetch(plain(&change)).await.unwrap(),
        Fetched::TooLarge
    );
    server.with(|state| (state.fail, state.broken) = (Some(500), None));
    assert_eq!(
        connector(&server)
            .fetch(plain(&change))
            .await
            .unwrap_err()
            .class(),
        "transient"
    );
}

#[tokio::test]
async fn a_version_read_that_is_refused_is_no_word_on_the_record() {
    let server = Server::new(10);
    server.put("a", 900);
    let change = poll(&server, &feed(Start::Beginning), None).await.0.remove(0);
    for status in [400, 403, 404, 405, 410, 501] {
        server.with(|state| state.fail_versions = Some(status));
        match connector(&server).fetch(plain(&change)).await.unwrap() {
            Fetched::Found(found, _) => assert_eq!(found.version_id.as_deref(), Some("1"), "{status}"),
            other => panic!("{status}: {other:?}"),
        }
    }
    server.with(|state| state.fail_versions = Some(401));
    let error = connector(&server).fetch(plain(&change)).await.unwrap_err();
    assert_eq!(error.class(), "unauthorized");
}
