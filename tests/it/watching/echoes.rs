//! Services that say back what they were told: a token endpoint, a broker and a Redis, each on loopback.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::leaks::{ACCESS_TOKEN, AMQP_PASSWORD, REDIS_PASSWORD};

/// What the token endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granting {
    /// A token.
    Grants,
    /// 401, with the request in its words.
    Refuses,
    /// A token as the type of a token.
    Garbles,
}

/// What each service was sent.
#[derive(Default)]
pub(super) struct Told {
    /// The forms of the token requests.
    pub(super) forms: Vec<Bytes>,
    /// Logins at the broker.
    pub(super) logins: usize,
    /// Commands of the Redis.
    pub(super) commands: usize,
}

/// The three services, while it lives.
pub(super) struct Echoes {
    pub(super) token_url: String,
    pub(super) amqp_url: String,
    pub(super) redis_url: String,
    pub(super) told: Arc<Mutex<Told>>,
    _tasks: JoinSet<()>,
}

impl Echoes {
    pub(super) async fn start(granting: Granting) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let mut tasks = JoinSet::new();
        let tokens = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let token_url = format!("http://{}/token", tokens.local_addr().unwrap());
        let router = Router::new()
            .route("/token", post(grant))
            .with_state((granting, Arc::clone(&told)));
        tasks.spawn(async move { axum::serve(tokens, router).await.unwrap() });
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = broker.local_addr().unwrap();
        let amqp_url = format!("amqp://courier:{AMQP_PASSWORD}@{address}/ehr");
        let seen = Arc::clone(&told);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = broker.accept().await {
                connections.spawn(refuse_login(stream, Arc::clone(&seen)));
            }
        });
        let redis = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let redis_url = format!("redis://:{REDIS_PASSWORD}@{}", redis.local_addr().unwrap());
        let seen = Arc::clone(&told);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = redis.accept().await {
                connections.spawn(refuse_commands(stream, Arc::clone(&seen)));
            }
        });
        Self {
            token_url,
            amqp_url,
            redis_url,
            told,
            _tasks: tasks,
        }
    }
}

type Granter = (Granting, Arc<Mutex<Told>>);

async fn grant(State((granting, told)): State<Granter>, headers: HeaderMap, body: Bytes) -> Response {
    let said = format!("{headers:?} {}", String::from_utf8_lossy(&body));
    told.lock().unwrap().forms.push(body);
    let (status, answer) = match granting {
        Granting::Grants => (
            StatusCode::OK,
            json!({ "access_token": ACCESS_TOKEN, "token_type": "bearer", "expires_in": 300 }),
        ),
        Granting::Refuses => (
            StatusCode::UNAUTHORIZED,
            json!({ "error": said, "error_description": said, "error_uri": said }),
        ),
        Granting::Garbles => (
            StatusCode::OK,
            json!({ "access_token": format!("{ACCESS_TOKEN}\n"), "token_type": ACCESS_TOKEN, "scope": said }),
        ),
    };
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        answer.to_string(),
    )
        .into_response()
}

/// A frame of AMQP 0-9-1 on channel 0 with one method.
fn method(class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
    frame.extend(class.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend(arguments);
    frame.push(0xce);
    frame
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// Takes a login and closes the connection with the password in its words.
async fn refuse_login(mut stream: TcpStream, told: Arc<Mutex<Told>>) -> std::io::Result<()> {
    let mut protocol = [0; 8];
    stream.read_exact(&mut protocol).await?;
    let start = [vec![0, 9, 0, 0, 0, 0], long("PLAIN"), long("en_US")].concat();
    stream.write_all(&method(10, 10, &start)).await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut login = vec![0; usize::try_from(size).unwrap() + 1];
    stream.read_exact(&mut login).await?;
    told.lock().unwrap().logins += 1;
    let said = format!("ACCESS_REFUSED - courier:{AMQP_PASSWORD} is not right");
    let close = [
        &403_u16.to_be_bytes()[..],
        &short(&said),
        &10_u16.to_be_bytes(),
        &11_u16.to_be_bytes(),
    ]
    .concat();
    stream.write_all(&method(10, 50, &close)).await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(drop)
}

/// Refuses whatever it is sent, with the password in its words and as their code.
async fn refuse_commands(mut stream: TcpStream, told: Arc<Mutex<Told>>) -> std::io::Result<()> {
    let mut sent = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut sent).await?;
        if length == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&sent[..length]).into_owned();
        for _ in text.lines().filter(|line| line.starts_with('*')) {
            let commands = {
                let mut told = told.lock().unwrap();
                told.commands += 1;
                told.commands
            };
            // At times it lets the login pass and refuses what comes after.
            let answer = if text.contains("AUTH") && commands % 2 == 0 {
                "+OK\r\n".to_owned()
            } else {
                format!("-{REDIS_PASSWORD} {REDIS_PASSWORD} {text:?}\r\n")
            };
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}
