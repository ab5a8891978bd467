//! A proxy between the courier and a source that only the proxy can find.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use courier_sdk::{AtLimit, Http, HttpError, HttpRequest};
use ehr_courier::config::Environment;
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::egress::route::Route;
use ehr_courier::sandbox::{Access, RefreshClient};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::authority::{Authority, Behind, Holds, acceptor};
use super::scene::{connection, poll};

const PASSWORD: &str = "hunter2";

/// A proxy that knows where everything leads: to one address. It keeps the heads that it is sent.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn raise(target: SocketAddr) -> Self {
        Self::speaking(target, None).await
    }

    /// Speaks TLS itself, if it has something to show for it.
    async fn speaking(target: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (kept, mut tasks) = (Arc::clone(&heads), JoinSet::new());
        tasks.spawn(async move {
            let mut held = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, kept) = (tls.clone(), Arc::clone(&kept));
                held.spawn(async move {
                    match tls {
                        None => tunnel(stream, target, kept).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                tunnel(stream, target, kept).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            heads,
            _tasks: tasks,
        }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn tunnel(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    target: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let login = format!("basic {}", STANDARD.encode(format!("courier:{PASSWORD}"))).to_ascii_lowercase();
    let known = head.contains(&login);
    heads.lock().unwrap().push(head);
    if !known {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        drop(stream.write_all(refusal).await);
        return;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let mut beyond = TcpStream::connect(target).await.unwrap();
    drop(tokio::io::copy_bidirectional(&mut stream, &mut beyond).await);
}

fn public(_: &Url) -> Access {
    Access::Refresh(RefreshClient {
        id: "courier".to_owned(),
        secret: None,
        first: "first-token".to_owned(),
        rotates: true,
        token_lifetime: Duration::from_mins(5),
    })
}

#[tokio::test]
async fn polls_and_token_requests_go_through_the_proxy_which_sees_the_name_alone() {
    let ours = Authority::new();
    let behind = Behind::raise(&ours.sign(Holds::Still), None, public, "ehr.mercy.example").await;
    let proxy = Proxy::raise(behind.address).await;
    behind.write("ca.pem", &ours.pem());
    behind.write("first", "first-token");
    behind.write("password", PASSWORD);
    let text = behind.text(&format!(
        "auth = {{ type = \"refresh-token\", client_id = \"courier\", token_url = \"{}/auth/token\", \
         refresh_token = \"file:first\" }}\n\
         tls = {{ ca = \"file:ca.pem\" }}\n\
         proxy = {{ url = \"http://{}\", user = \"courier\", password = \"file:password\" }}",
        behind.base_url, proxy.address
    ));
    let path = behind.folder.path().join("courier.toml");
    let made = connection(&path, &text, &Environment::default());
    assert!(poll(&made).await.unwrap() > 0);
    assert_eq!(behind.ehr.tokens_granted(), 1);
    let heads = proxy.heads();
    let expected = format!("connect ehr.mercy.example:{} http/1.1\r\n", behind.address.port());
    assert!(!heads.is_empty());
    for head in &heads {
        assert!(head.starts_with(&expected), "{head}");
        assert!(!head.contains("bearer") && !head.contains("fhir"), "{head}");
    }

    behind.write("password", "hunter3");
    let made = connection(&path, &text, &Environment::default());
    let refused = poll(&made).await.unwrap_err().to_string();
    assert!(
        refused.contains("cannot connect") && refused.contains("proxy"),
        "{refused}"
    );
    assert!(!refused.contains("hunter"), "{refused}");
}

#[tokio::test]
async fn a_proxy_that_is_spoken_to_over_tls_is_trusted_as_a_server_is() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let behind = Behind::raise(
        &ours.sign(Holds::Still),
        None,
        |_| Access::Open,
        "ehr.mercy.example",
    )
    .await;
    let proxy = Proxy::speaking(behind.address, Some(acceptor(&theirs.sign(Holds::Still), None))).await;
    behind.write("password", PASSWORD);
    let text = behind.text(&format!(
        "tls = {{ ca = \"file:ca.pem\" }}\n\
         proxy = {{ url = \"https://{}\", user = \"courier\", password = \"file:password\" }}",
        proxy.address
    ));
    let path = behind.folder.path().join("courier.toml");
    let made = |ca: String| {
        behind.write("ca.pem", &ca);
        connection(&path, &text, &Environment::default())
    };
    // Both are judged: of each the authority must be named.
    for ca in [ours.pem(), theirs.pem()] {
        let refused = poll(&made(ca)).await.unwrap_err().to_string();
        assert!(
            refused.contains("an authority that is not trusted here"),
            "{refused}"
        );
    }
    let seen = proxy.heads().len();
    assert!(
        poll(&made(format!("{}{}", ours.pem(), theirs.pem())))
            .await
            .unwrap()
            > 0
    );
    let heads = proxy.heads();
    assert!(heads.len() > seen);
    let expected = format!("connect ehr.mercy.example:{} http/1.1\r\n", behind.address.port());
    for head in &heads {
        assert!(head.starts_with(&expected) && !head.contains("fhir"), "{head}");
    }

    let former = proxy.address;
    let expired = theirs.sign(Holds::NoMore);
    let proxy = Proxy::speaking(behind.address, Some(acceptor(&expired, None))).await;
    let text = text.replace("file:ca.pem", "file:both.pem");
    behind.write("both.pem", &format!("{}{}", ours.pem(), theirs.pem()));
    let former = format!("https://{former}");
    let text = text.replace(&former, &format!("https://{}", proxy.address));
    let refused = poll(&connection(&path, &text, &Environment::default()))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
    assert!(
        proxy.heads().is_empty(),
        "it was told nothing, the password neither"
    );
}

async fn sent(allow: &[&str], target: &str, proxy: &str) -> HttpError {
    let policy = AddressPolicy {
        allow_networks: allow.iter().map(|network| network.parse().unwrap()).collect(),
        plain_http_networks: Vec::new(),
    };
    let login = SecretString::from(PASSWORD);
    let route = Route::default()
        .through(&Url::parse(proxy).unwrap(), Some(("courier", &login)))
        .unwrap();
    let client = GuardedClient::by(policy, &ClientOptions::default(), &route);
    let request = HttpRequest {
        method: http::Method::GET,
        url: Url::parse(target).unwrap(),
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        deadline: Duration::from_secs(10),
        response_bytes_max: 1024,
        at_limit: AtLimit::Fail,
    };
    client.send(request).await.unwrap_err()
}

#[tokio::test]
async fn the_guard_judges_the_proxy_and_what_of_the_target_is_written_out() {
    let target: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let proxy = Proxy::raise(target).await;
    let (by_address, by_name) = (
        format!("http://{}", proxy.address),
        format!("http://localhost:{}", proxy.address.port()),
    );
    for (allow, target, proxy) in [
        // The proxy itself lies where nobody allowed it, as a literal or behind a name.
        (&[][..], "https://ehr.mercy.example/", by_address.as_str()),
        (&[], "https://ehr.mercy.example/", &by_name),
        // The target is written out, and lies where nobody allowed it.
        (&["127.0.0.0/8", "::1/128"], "https://10.1.2.3/", &by_address),
        (
            &["127.0.0.0/8", "::1/128"],
            "https://169.254.169.254/",
            &by_address,
        ),
        // Plain text would be the proxy's to read.
        (&["127.0.0.0/8", "::1/128"], "http://127.0.0.1:9/", &by_address),
    ] {
        let error = sent(allow, target, proxy).await;
        assert!(
            matches!(error, HttpError::Blocked { .. }),
            "{target} by {proxy}: {error}"
        );
    }
    assert_eq!(proxy.heads(), Vec::<String>::new(), "nothing was sent");
}
