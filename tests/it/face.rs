//! The HTTP face over TCP: it answers, and it ends when it is told to.

use std::sync::Arc;
use std::time::Duration;

use ehr_courier::face::access::Access;
use ehr_courier::face::{self, Face, Reload};
use metrics_exporter_prometheus::PrometheusBuilder;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::composed;

/// The face waits for requests in progress, but no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

fn face(draining: &CancellationToken, tokens: &[SecretString]) -> Face {
    Face {
        worker: watch::Sender::new(Arc::new(composed::worker())).subscribe(),
        access: watch::Sender::new(Arc::new(Access::new(tokens))).subscribe(),
        key_set: watch::Sender::new(Some(r#"{"keys":[]}"#.into())).subscribe(),
        reload: watch::Sender::new(Reload::None).subscribe(),
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        draining: draining.clone(),
    }
}

#[tokio::test]
async fn a_stopped_face_ends_though_a_client_holds_half_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(face::serve(listener, face(&stop, &[]), stop.clone()));

    let mut healthy = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    healthy.write_all(request).await.unwrap();
    let mut answer = String::new();
    healthy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /readyz HTTP/1.1\r\nhost").await.unwrap();
    // The face has read the half once it answers somebody who came later.
    let mut later = TcpStream::connect(address).await.unwrap();
    later.write_all(request).await.unwrap();
    later.read_to_string(&mut answer).await.unwrap();

    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
    drop(half);
}

#[tokio::test]
async fn with_tokens_all_but_health_needs_one_and_nothing_sent_is_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let face = face(&stop, &["the-right-token-1".into(), "the-other-token-2".into()]);
    tasks.spawn(face::serve(listener, face, stop.clone()));
    let ask = async |path: &str, header: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for (path, header, status) in [
        ("/healthz", "", "200"),
        ("/readyz", "", "503"),
        ("/.well-known/jwks.json", "", "200"),
        ("/metrics", "", "401"),
        ("/metrics", "authorization: Bearer the-wrong-token-3\r\n", "401"),
        ("/metrics?token=the-right-token-1", "", "401"),
        ("/metrics", "authorization: Bearer the-right-token-1\r\n", "200"),
        ("/metrics", "authorization: bearer the-other-token-2\r\n", "200"),
        ("/no-such-path", "", "401"),
        (
            "/no-such-path",
            "authorization: Bearer the-right-token-1\r\n",
            "404",
        ),
    ] {
        let answer = ask(path, header).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {header:?}: {answer}"
        );
        assert_eq!(
            answer.contains("www-authenticate: Bearer"),
            status == "401",
            "{answer}"
        );
        assert!(!answer.contains("-token-"), "{answer}");
    }
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_header_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(face::serve(listener, face(&stop, &[]), stop.clone()));
    for said in [&b""[..], b"GET /readyz HTTP/1.1\r\nhost"] {
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_mins(1), slow.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "it is still waited for");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(face::serve(listener, face(&stop, &[]), stop.clone()));
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut waiting = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    waiting.write_all(request).await.unwrap();
    let mut answer = String::new();
    let early = tokio::time::timeout(Duration::from_millis(500), waiting.readable()).await;
    assert!(early.is_err(), "it was answered beyond the limit");
    drop(silent.pop());
    let answered = tokio::time::timeout(PATIENCE, waiting.read_to_string(&mut answer)).await;
    assert!(
        answered.is_ok() && answer.starts_with("HTTP/1.1 200 OK"),
        "{answer}"
    );
}
