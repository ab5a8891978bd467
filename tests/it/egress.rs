//! The way out over real TCP on loopback: what is accepted, what is refused, and what is cut short.

mod gzip;
mod unfinished;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{
    AtLimit, Clock, ConnectionName, Http, HttpError, HttpRequest, HttpResponse, RecordId, RecordKey,
    RecordType,
};
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::destination::webhook::{Settings, Webhook};
use ehr_courier::destination::{Attempt, Destination, Notification};
use ehr_courier::domain::delivery::Replay;
use ehr_courier::domain::event::EventKind;
use ehr_courier::domain::identity::EventId;
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::receiver::{Received, serve};
use ehr_courier::wire::{Mode, Rendered};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

/// What a scripted server does with a connection once the request's head has arrived.
#[derive(Debug, Clone)]
enum Script {
    /// Writes these bytes and closes.
    Write(Vec<u8>),
    /// Writes a head that promises a long body, then a byte at a time for ever.
    Trickle,
    /// Says nothing for ever.
    Hang,
}

/// A server that follows a script and counts its connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    // Dropping it ends the server.
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut held = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                held.spawn(follow(script.clone(), stream));
            }
        });
        Self {
            address,
            connections,
            _tasks: tasks,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn url(&self) -> Url {
        url(&format!("http://{}/hook?secret=1", self.address))
    }
}

async fn follow(script: Script, mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    match script {
        // The client may have had enough before everything is written.
        Script::Write(bytes) => drop(stream.write_all(&bytes).await),
        Script::Trickle => {
            let mut alive = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                .await;
            while alive.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                alive = stream.write_all(b"x").await;
            }
        }
        Script::Hang => std::future::pending().await,
    }
}

fn answer(head: &str, body: &[u8]) -> Script {
    let mut bytes = format!(
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Script::Write(bytes)
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn client(allow: &[&str]) -> GuardedClient {
    let policy = AddressPolicy {
        allow_networks: allow.iter().map(|network| network.parse().unwrap()).collect(),
        plain_http_networks: Vec::new(),
    };
    GuardedClient::new(policy, &ClientOptions::default())
}

fn loopback_client() -> GuardedClient {
    client(&["127.0.0.0/8"])
}

fn get(url: Url, response_bytes_max: usize, at_limit: AtLimit) -> HttpRequest {
    HttpRequest {
        method: http::Method::GET,
        url,
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        deadline: Duration::from_secs(10),
        response_bytes_max,
        at_limit,
    }
}

async fn fetch(script: Script, bytes_max: usize, at_limit: AtLimit) -> Result<HttpResponse, HttpError> {
    let server = Server::start(script).await;
    loopback_client()
        .send(get(server.url(), bytes_max, at_limit))
        .await
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32]).unwrap()
}

fn webhook(url: Url, http: GuardedClient, deadline: Duration) -> Webhook {
    Webhook::new(Settings {
        url,
        keys: vec![key()],
        http: Arc::new(http),
        deadline,
    })
}

fn notification() -> Notification {
    Notification {
        event_id: EventId::parse("ev_abcdefghijklmnopqrstuvwxyz234567").unwrap(),
        connection: ConnectionName::parse("mercy").unwrap(),
        key: RecordKey {
            record_type: RecordType::parse("Appointment").unwrap(),
            id: RecordId::parse("17").unwrap(),
        },
        kind: EventKind::Updated,
        rendered: Rendered {
            content_type: Some("application/cloudevents+json"),
            body: Bytes::from_static(b"{\"synthetic\": 1.10}"),
            mode: Mode::Structured,
            attributes: Vec::new(),
        },
        replay: Replay::Replayed,
        trace: None,
    }
}

async fn attempt(url: Url, deadline: Duration) -> Attempt {
    let webhook = webhook(url, loopback_client(), deadline);
    webhook.deliver(&notification(), SystemClock.now()).await
}

fn failure(attempt: Attempt) -> String {
    match attempt {
        Attempt::Failed { detail, .. } => detail,
        Attempt::Accepted { detail } => panic!("accepted: {detail}"),
    }
}

/// The project's receiver on a spare port, with its sink.
struct Listening {
    address: SocketAddr,
    received: mpsc::Receiver<Received>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Listening {
    async fn start(keys: Vec<SigningKey>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sink, received) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            serve(listener, keys, Arc::new(SystemClock), sink, token)
                .await
                .unwrap();
        });
        Self {
            address,
            received,
            stop,
            tasks,
        }
    }

    fn url(&self) -> Url {
        url(&format!("http://{}/any/path", self.address))
    }
}

#[tokio::test]
async fn a_signed_notification_is_accepted_and_verified() {
    let mut listening = Listening::start(vec![key()]).await;
    let said = attempt(listening.url(), Duration::from_secs(5)).await;
    assert_eq!(
        said,
        Attempt::Accepted {
            detail: "204".to_owned()
        }
    );
    let received = listening.received.recv().await.unwrap();
    assert_eq!(received.event_id, notification().event_id);
    assert_eq!(received.body, notification().rendered.body);
    assert!(received.verified && received.replay);
}

#[tokio::test]
async fn another_key_is_refused_and_nothing_is_handed_on() {
    let other = SigningKey::from_bytes(&[6; 32]).unwrap();
    let mut listening = Listening::start(vec![other]).await;
    let said = attempt(listening.url(), Duration::from_secs(5)).await;
    assert_eq!(failure(said), "status 401");
    assert!(listening.received.try_recv().is_err());
}

#[tokio::test]
async fn a_stale_or_unsigned_request_is_refused() {
    let listening = Listening::start(vec![key()]).await;
    let hour_ago = SystemClock.now() - jiff::SignedDuration::from_hours(1);
    let webhook = webhook(listening.url(), loopback_client(), Duration::from_secs(5));
    assert_eq!(
        failure(webhook.deliver(&notification(), hour_ago).await),
        "status 401"
    );
    let mut unsigned = get(listening.url(), 1000, AtLimit::Cut);
    let status = loopback_client().send(unsigned.clone()).await.unwrap().status;
    assert_eq!(status.as_u16(), 405);
    unsigned.method = http::Method::POST;
    let status = loopback_client().send(unsigned).await.unwrap().status;
    assert_eq!(status.as_u16(), 400);
}

#[tokio::test]
async fn a_receiver_without_keys_says_that_nothing_was_verified() {
    let mut listening = Listening::start(Vec::new()).await;
    attempt(listening.url(), Duration::from_secs(5)).await;
    assert!(!listening.received.recv().await.unwrap().verified);
}

#[tokio::test]
async fn a_full_sink_answers_503_and_loses_nothing_it_accepted() {
    let mut listening = Listening::start(vec![key()]).await;
    let first = attempt(listening.url(), Duration::from_secs(5)).await;
    assert_eq!(
        first,
        Attempt::Accepted {
            detail: "204".to_owned()
        }
    );
    let second = attempt(listening.url(), Duration::from_secs(5)).await;
    assert_eq!(failure(second), "status 503");
    assert!(listening.received.try_recv().is_ok());
    assert!(listening.received.try_recv().is_err());
}

#[tokio::test]
async fn a_stopped_receiver_ends_though_a_connection_is_open() {
    let mut listening = Listening::start(vec![key()]).await;
    let mut idle = TcpStream::connect(listening.address).await.unwrap();
    idle.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
    listening.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), listening.tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))));
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let target = Server::start(answer("200 OK", b"")).await;
    let head = format!("307 Temporary Redirect\r\nlocation: {}", target.url());
    let server = Server::start(answer(&head, b"")).await;
    let said = attempt(server.url(), Duration::from_secs(5)).await;
    assert_eq!(failure(said), "status 307, redirects are not followed");
    assert_eq!((server.connections(), target.connections()), (1, 0));
}

#[tokio::test]
async fn a_body_is_cut_or_refused_at_its_limit() {
    let limit = 16 * 1024;
    let script = |bytes: usize| answer("200 OK", &vec![b'x'; bytes]);
    for (bytes, cut_to) in [(0, 0), (limit - 1, limit - 1), (limit, limit), (5_000_000, limit)] {
        let cut = fetch(script(bytes), limit, AtLimit::Cut).await.unwrap();
        assert_eq!(cut.body.len(), cut_to, "{bytes}");
    }
    assert!(fetch(script(limit), limit, AtLimit::Fail).await.is_ok());
    let refused = fetch(script(limit + 1), limit, AtLimit::Fail).await;
    assert!(matches!(refused, Err(HttpError::TooLarge { limit: 16384 })));
    // Without a length the bytes themselves are counted.
    let mut endless = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    endless.extend_from_slice(&vec![b'x'; limit + 1]);
    let refused = fetch(Script::Write(endless), limit, AtLimit::Fail).await;
    assert!(matches!(refused, Err(HttpError::TooLarge { limit: 16384 })));
}

#[tokio::test]
async fn a_large_answer_to_a_webhook_is_still_an_acceptance() {
    let server = Server::start(answer("200 OK", &vec![b'x'; 5_000_000])).await;
    let said = attempt(server.url(), Duration::from_secs(5)).await;
    assert_eq!(
        said,
        Attempt::Accepted {
            detail: "200".to_owned()
        }
    );
}

#[tokio::test]
async fn loopback_is_refused_in_every_spelling_and_nothing_connects() {
    let server = Server::start(answer("200 OK", b"")).await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST",
        "0.0.0.0",
    ] {
        for scheme in ["http", "https"] {
            let request = get(url(&format!("{scheme}://{host}:{port}/a?b")), 1000, AtLimit::Cut);
            let refused = client(&[]).send(request).await;
            assert!(
                matches!(&refused, Err(HttpError::Blocked { .. })),
                "{scheme} {host}: {refused:?}"
            );
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_is_judged_by_what_it_resolves_to() {
    let server = Server::start(answer("200 OK", b"hello")).await;
    let named = url(&format!("http://localhost:{}/", server.address.port()));
    let answered = loopback_client()
        .send(get(named.clone(), 1000, AtLimit::Fail))
        .await;
    assert_eq!(answered.unwrap().body, Bytes::from_static(b"hello"));
    let refused = client(&["10.0.0.0/8"])
        .send(get(named, 1000, AtLimit::Fail))
        .await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("is loopback; name its network in allow_networks"),
        "{text}"
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_system_port_is_refused_by_name_too() {
    // Loopback is named in one policy only, so only there the port alone is at stake.
    let refused = client(&[])
        .send(get(url("https://localhost:22/"), 10, AtLimit::Cut))
        .await;
    assert!(matches!(refused, Err(HttpError::Blocked { .. })));
    let tried = loopback_client()
        .send(get(url("http://localhost:1/"), 10, AtLimit::Cut))
        .await;
    assert!(matches!(tried, Err(HttpError::Connect { .. })), "{tried:?}");
}

#[tokio::test]
async fn what_cannot_be_connected_is_worded_without_path_or_query() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let said = attempt(
        url(&format!("http://{address}/secret?q=1")),
        Duration::from_secs(5),
    )
    .await;
    assert_eq!(failure(said), "cannot connect: connection refused");
}

#[tokio::test]
async fn plain_bytes_where_tls_is_expected_are_a_failure_to_connect() {
    let server = Server::start(answer("200 OK", b"")).await;
    let tls = url(&format!("https://{}/", server.address));
    let mut request = get(tls, 1000, AtLimit::Cut);
    request.deadline = Duration::from_millis(500);
    let refused = loopback_client().send(request).await;
    assert!(
        matches!(
            refused,
            Err(HttpError::Connect { .. } | HttpError::Timeout { .. })
        ),
        "{refused:?}"
    );
}

fn gzipped(body: &[u8]) -> Script {
    answer("200 OK\r\ncontent-encoding: gzip", body)
}

#[tokio::test]
async fn compressed_answers_are_inflated_no_further_than_the_limit() {
    let mut small = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 5, 0, 0xfa, 0xff];
    small.extend_from_slice(b"hello\x86\xa6\x10\x36\x05\x00\x00\x00");
    let answered = fetch(gzipped(&small), 5, AtLimit::Fail).await.unwrap();
    assert_eq!(answered.body, Bytes::from_static(b"hello"));

    // 258 MB, had it been inflated whole; the limit is less than the compressed size, then more.
    let bomb = gzip::bomb(1_000_000);
    for limit in [1 << 20, 8 << 20] {
        let refused = fetch(gzipped(&bomb), limit, AtLimit::Fail).await;
        assert!(matches!(refused, Err(HttpError::TooLarge { .. })), "{refused:?}");
        let cut = fetch(gzipped(&bomb), limit, AtLimit::Cut).await.unwrap();
        assert_eq!(cut.body.len(), limit);
        assert!(cut.body.iter().all(|byte| *byte == 0));
    }
}
