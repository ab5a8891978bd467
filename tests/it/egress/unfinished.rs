//! Answers that break off or never end: a webhook's counts by its status, a page's counts not at all.

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\n";

fn unfinished() -> [Vec<u8>; 4] {
    [
        format!("{HEAD}content-length: 100\r\n\r\nshort").into_bytes(),
        format!("{HEAD}transfer-encoding: chunked\r\n\r\n5\r\nshort").into_bytes(),
        format!("{HEAD}transfer-encoding: chunked\r\n\r\n5\r\nshort\r\nnonsense\r\n").into_bytes(),
        format!("{HEAD}content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope").into_bytes(),
    ]
}

#[tokio::test]
async fn a_2xx_whose_body_breaks_off_is_an_acceptance() {
    for bytes in unfinished() {
        let server = Server::start(Script::Write(bytes)).await;
        let said = attempt(server.url(), Duration::from_secs(5)).await;
        let accepted = Attempt::Accepted {
            detail: "200".to_owned(),
        };
        assert_eq!(said, accepted);
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn a_status_that_refuses_does_so_though_its_body_breaks_off() {
    let text = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 100\r\n\r\nshort";
    let server = Server::start(Script::Write(text.as_bytes().to_vec())).await;
    let said = attempt(server.url(), Duration::from_secs(5)).await;
    let refused = Attempt::Failed {
        detail: "status 503".to_owned(),
        retry_after: Some(Duration::from_secs(7)),
    };
    assert_eq!(said, refused);
}

#[tokio::test]
async fn a_2xx_whose_body_stalls_is_an_acceptance_at_the_deadline() {
    let server = Server::start(Script::Trickle).await;
    let deadline = Duration::from_millis(300);
    let begun = tokio::time::Instant::now();
    let said = attempt(server.url(), deadline).await;
    assert!(matches!(said, Attempt::Accepted { .. }), "{said:?}");
    let took = begun.elapsed();
    assert!(took >= deadline && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn what_was_read_before_a_body_broke_off_is_kept_where_it_may_be_cut() {
    for bytes in unfinished().into_iter().take(3) {
        let answered = fetch(Script::Write(bytes), 1000, AtLimit::Cut).await.unwrap();
        assert_eq!(answered.body, Bytes::from_static(b"short"));
    }
}

#[tokio::test]
async fn a_page_that_stalls_fails_at_the_deadline() {
    let server = Server::start(Script::Trickle).await;
    let mut request = get(server.url(), 1_000_000, AtLimit::Fail);
    request.deadline = Duration::from_millis(300);
    let failed = loopback_client().send(request).await;
    assert!(matches!(failed, Err(HttpError::Timeout { .. })), "{failed:?}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline_as_a_failure() {
    {
        let server = Server::start(Script::Hang).await;
        let deadline = Duration::from_millis(300);
        let begun = tokio::time::Instant::now();
        let said = attempt(server.url(), deadline).await;
        assert_eq!(failure(said), "no complete answer within 300 ms");
        let took = begun.elapsed();
        assert!(took >= deadline && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn an_unfinished_answer_is_broken_off() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"[..],
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
    ] {
        let broken = fetch(Script::Write(bytes.to_vec()), 1000, AtLimit::Fail).await;
        let Err(HttpError::Broken { reason }) = broken else {
            panic!("{broken:?}");
        };
        assert!(!reason.contains("secret") && !reason.contains('/'), "{reason}");
    }
}
