//! The canary test of what lets the courier in elsewhere: passwords of a broker and a Redis, a client's secret and key,
//! its assertions, and the tokens that it is granted.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use courier_auth::{Client, ClientKey, Endpoint, Grant, Settings, Tokens};
use courier_sdk::{Http, HttpError, HttpRequest, HttpResponse};
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use secrecy::SecretString;
use tokio::time::timeout;
use url::Url;

use super::canary::{Outputs, record};
use super::echoes::{Echoes, Granting};
use super::leaks::{self, ACCESS_TOKEN, AMQP_PASSWORD, CLIENT_SECRET, REDIS_PASSWORD, TOKEN, found_in};
use super::scene::{PATIENCE, Scene, Source, terminate};
use crate::composed;

/// A private key in PEM, made for this run.
fn private_key() -> String {
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let text = STANDARD.encode(key.to_pkcs8v1().unwrap().as_ref());
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

/// What of a key must not show: each of its lines but a short last one.
fn lines_of(key: &str) -> Vec<String> {
    let lines = key
        .lines()
        .filter(|line| !line.starts_with('-') && line.len() > 16);
    lines.map(str::to_owned).collect()
}

#[derive(Debug, Clone, Copy)]
enum Auth {
    Secret,
    Key,
}

const SECRET: &str = r#"{ type = "oauth2", client_id = "courier", client_secret = "env:CLIENT_SECRET", token_url = "TOKEN_URL" }"#;
const KEY: &str = r#"{ type = "smart-backend-services", client_id = "courier", key = "file:client.pem", token_url = "TOKEN_URL" }"#;

const BROKER: &str = r#"
[destinations.broker]
type = "amqp"
url = "file:broker.url"
exchange = "ehr.changes"
allow_networks = ["127.0.0.0/8"]
retry = ["1s"]

[[subscriptions]]
name = "published"
from = "beginning"
destination = "broker"
"#;

/// Writes `courier.toml` with a Redis and a broker, and returns it.
fn configure(scene: &Scene, auth: Auth, token_url: &str, log: &str) -> String {
    let telemetry = format!(
        "[dedup]\nurl = \"env:REDIS_URL\"\n\n[telemetry]\nlog = \"{log}\"\notlp_endpoint = \"{}\"",
        scene.base
    );
    scene.configure(&telemetry, "", "[\"1s\"]");
    let path = scene.folder.path().join("courier.toml");
    let auth = match auth {
        Auth::Secret => SECRET,
        Auth::Key => KEY,
    };
    let written = std::fs::read_to_string(&path).unwrap();
    let text = written.replace(
        r#"{ type = "bearer", token = "env:SOURCE_TOKEN" }"#,
        &auth.replace("TOKEN_URL", token_url),
    ) + BROKER;
    assert!(text.contains("client_id"));
    std::fs::write(path, &text).unwrap();
    text
}

/// Runs the service at the lowest level of logging against services that say back what they are told.
async fn leaks_nothing(auth: Auth, granting: Granting, source: Source, log: &str) {
    let echoes = Echoes::start(granting).await;
    let scene = Scene::raise(record()).await;
    scene.with(|seen| seen.source = source);
    let key = private_key();
    let write = |name: &str, text: &str| std::fs::write(scene.folder.path().join(name), text).unwrap();
    write("client.pem", &key);
    write("broker.url", &echoes.amqp_url);
    configure(&scene, auth, &echoes.token_url, log);
    let secret = leaks::signing_secret();
    let environment = [
        ("CLIENT_SECRET", CLIENT_SECRET),
        ("REDIS_URL", echoes.redis_url.as_str()),
        ("HOOK_SECRET", secret.as_str()),
    ];
    let service = scene.start(&["run", "--log", "trace"], &environment);
    let polls = granting == Granting::Grants;
    wait_until_told(&scene, &echoes, (polls, polls && source == Source::Well)).await;
    let mut outputs = Outputs::default();
    for path in ["/metrics", "/readyz", "/healthz"] {
        outputs.add(path, scene.page(path).await);
    }
    let quiet: [&[&str]; 3] = [
        &["destinations", "test", "broker"],
        &["dead-letters", "list", "--json"],
        &["cursors", "show"],
    ];
    for command in quiet {
        let ended = scene.run(command, &environment).await;
        outputs.add_output(&command.join(" "), ended);
    }
    terminate(service).await;
    outputs.add("the log", scene.log());
    let loud: [&[&str]; 3] = [
        &["check", "--connect"],
        &["poll", "--connection", "mercy"],
        &["destinations", "test", "broker"],
    ];
    for command in loud {
        let arguments = [command, &["--log", "trace"]].concat();
        let ended = scene.run(&arguments, &environment).await;
        outputs.add_output(&command.join(" "), ended);
    }
    scene.with(|seen| {
        for bytes in &seen.exported {
            outputs.add("a trace", bytes.to_vec());
        }
    });
    assert!(outputs.0.iter().any(|(_, bytes)| bytes.len() > 500));
    assert!(
        echoes.told.lock().unwrap().logins >= 1,
        "by the tests of the broker at the latest"
    );
    outputs.hold_no_canary();
    holds_no_part(&outputs, &key, &echoes);
}

/// Waits until the services were told all that the courier has to tell them: whether it polls, whether it delivers.
async fn wait_until_told(scene: &Scene, echoes: &Echoes, (polls, delivers): (bool, bool)) {
    let told = async {
        loop {
            let asked = scene.with(|seen| seen.asked);
            {
                let told = echoes.told.lock().unwrap();
                // A broker is called when there is something for it.
                let enough = !told.forms.is_empty()
                    && (!polls || asked >= 1)
                    && (!delivers || (told.logins >= 1 && told.commands >= 2));
                if enough {
                    break;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, told).await.is_ok(), "never told everything");
    // What follows from it is logged at once; failed deliveries are attempted again within a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
}

/// No line of the key and no part of an assertion is in what was printed.
fn holds_no_part(outputs: &Outputs, key: &str, echoes: &Echoes) {
    let mut made = lines_of(key);
    for form in &echoes.told.lock().unwrap().forms {
        let fields = url::form_urlencoded::parse(form);
        let assertions = fields.filter(|(name, _)| name == "client_assertion");
        for (_, assertion) in assertions {
            // Its header and its signature, each by itself.
            made.extend(assertion.split('.').map(str::to_owned));
        }
    }
    assert!(made.len() >= 3);
    for (from, bytes) in &outputs.0 {
        let text = String::from_utf8_lossy(bytes);
        let found = made.iter().filter(|part| text.contains(part.as_str())).count();
        assert!(found == 0, "{from}: {found} parts of a key or an assertion");
    }
}

#[tokio::test]
async fn a_client_with_a_key_leaks_neither_it_nor_assertions_nor_tokens() {
    leaks_nothing(Auth::Key, Granting::Grants, Source::Well, "json").await;
    leaks_nothing(Auth::Key, Granting::Refuses, Source::Well, "text").await;
}

#[tokio::test]
async fn a_client_with_a_secret_leaks_neither_it_nor_tokens() {
    leaks_nothing(Auth::Secret, Granting::Grants, Source::Unauthorized, "json").await;
    leaks_nothing(Auth::Secret, Granting::Refuses, Source::Well, "text").await;
    leaks_nothing(Auth::Secret, Granting::Garbles, Source::Well, "json").await;
}

/// A configuration with the key, the broker's URL, Redis' URL and the client's secret that go with it.
type Case = (String, [String; 4]);

/// Secrets that are no good, or stand where references belong.
fn refused(good: &str, key: &str) -> Vec<Case> {
    let amqp = |rest: &str| format!("amqp://courier:{AMQP_PASSWORD}@{rest}");
    let redis = |rest: &str| format!("redis://:{REDIS_PASSWORD}@{rest}");
    let (good_amqp, good_redis) = (amqp("127.0.0.1:1/ehr"), redis("127.0.0.1:1"));
    let owned = |secrets: [&str; 4]| secrets.map(str::to_owned);
    let literal = |from: &str, to: &str| {
        let secrets = [key, &good_amqp, &good_redis, CLIENT_SECRET];
        (good.replace(from, to), owned(secrets))
    };
    let of_no_use = ["-----BEGIN PRIVATE KEY-----\n", &good_redis, &good_redis, "\u{7}"];
    let (mut wrong_places, secrets) = literal("env:CLIENT_SECRET", CLIENT_SECRET);
    wrong_places = wrong_places.replace("file:client.pem", ACCESS_TOKEN);
    let mut cases = vec![
        (good.to_owned(), owned(of_no_use)),
        (
            good.to_owned(),
            owned([ACCESS_TOKEN, AMQP_PASSWORD, REDIS_PASSWORD, ""]),
        ),
        literal("env:REDIS_URL", &good_redis),
        literal("file:broker.url", &good_amqp),
        (wrong_places, secrets),
        literal("client_id = ", &format!("{CLIENT_SECRET} = \"x\", client_id = ")),
    ];
    let odd = [
        (amqp("h/a/b"), redis("h/first")),
        (amqp("h/v?x=1"), redis("h/?x=1")),
        (amqp(""), redis("")),
        (
            format!("https{}", &good_amqp[4..]),
            format!("http{}", &good_redis[5..]),
        ),
    ];
    let odd = odd.map(|(amqp, redis)| (good.to_owned(), [key.to_owned(), amqp, redis, "\u{7}".to_owned()]));
    cases.extend(odd);
    cases
}

#[tokio::test]
async fn refused_credentials_are_not_repeated() {
    let scene = Scene::raise(record()).await;
    let write = |name: &str, text: &str| std::fs::write(scene.folder.path().join(name), text).unwrap();
    let (key, secret) = (private_key(), leaks::signing_secret());
    let mut outputs = Outputs::default();
    let mut cases = Vec::new();
    for auth in [Auth::Key, Auth::Secret] {
        let good = configure(&scene, auth, "http://127.0.0.1:1/token", "json");
        cases.extend(refused(&good, &key));
    }
    assert_eq!(cases.len(), 20);
    for (number, (text, [pem, broker, redis_url, client_secret])) in cases.iter().enumerate() {
        write("courier.toml", text);
        write("client.pem", pem);
        write("broker.url", broker);
        let environment = [
            ("CLIENT_SECRET", client_secret.as_str()),
            ("REDIS_URL", redis_url.as_str()),
            ("HOOK_SECRET", secret.as_str()),
        ];
        let commands: [&[&str]; 3] = [
            &["check", "--connect"],
            &["run"],
            &["destinations", "test", "broker"],
        ];
        for command in commands {
            let arguments = [command, &["--log", "trace"]].concat();
            let ended = scene.run(&arguments, &environment).await;
            assert!(!ended.status.success(), "case {number}, {command:?}");
            outputs.add_output(&format!("case {number}, {}", command.join(" ")), ended);
        }
    }
    outputs.hold_no_canary();
    for (from, bytes) in &outputs.0 {
        let text = String::from_utf8_lossy(bytes);
        assert!(!lines_of(&key).iter().any(|line| text.contains(line)), "{from}");
    }
}

/// Nothing is sent through it.
struct NoHttp;

#[async_trait]
impl Http for NoHttp {
    async fn send(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Timeout { deadline: PATIENCE })
    }
}

/// Every place that a secret may stand at.
const EVERYWHERE: &str = r#"
[state]
url = "sqlite://courier.db"
key = "none"
[dedup]
url = "env:REDIS_URL"
[http]
tokens = ["env:SOURCE_TOKEN"]
[connections.mercy]
base_url = "https://ehr.example.com/"
auth = { type = "oauth2", client_id = "c", client_secret = "env:CLIENT_SECRET", token_url = "https://ehr.example.com/t" }
[[connections.mercy.feeds]]
record = "Patient"
[connections.harbor]
base_url = "https://ehr.example.com/"
auth = { type = "smart-backend-services", client_id = "c", key = "env:CLIENT_KEY" }
[[connections.harbor.feeds]]
record = "Patient"
[connections.north]
base_url = "https://ehr.example.com/"
auth = { type = "api-key", header = "x-api-key", value = "env:SOURCE_TOKEN" }
[[connections.north.feeds]]
record = "Patient"
[destinations.broker]
type = "amqp"
url = "env:AMQP_URL"
exchange = "ehr.changes"
"#;

/// What a panic prints is what `Debug` shows.
#[test]
fn debug_shows_no_credentials() {
    let key = private_key();
    let variables = [
        ("SOURCE_TOKEN", TOKEN.to_owned()),
        ("CLIENT_SECRET", CLIENT_SECRET.to_owned()),
        ("CLIENT_KEY", key.clone()),
        ("REDIS_URL", format!("redis://:{REDIS_PASSWORD}@127.0.0.1")),
        (
            "AMQP_URL",
            format!("amqps://courier:{AMQP_PASSWORD}@mq.example.com/ehr"),
        ),
    ];
    let environment: Environment = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let config = composed::config(Path::new("courier.toml"), EVERYWHERE, &environment);
    let parsed = ClientKey::parse(&SecretString::from(key.as_str()), None).unwrap();
    let tokens = Tokens::new(Settings {
        client: Client::Secret {
            id: "courier".to_owned(),
            secret: SecretString::from(CLIENT_SECRET),
        },
        grant: Grant::ClientCredentials,
        endpoint: Endpoint::At(Url::parse("https://ehr.example.com/t").unwrap()),
        scope: String::new(),
        http: Arc::new(NoHttp),
        clock: Arc::new(SystemClock),
        nonce: || 1,
    });
    for shown in [
        format!("{config:?}"),
        format!("{parsed:?}"),
        format!("{tokens:?}"),
    ] {
        assert!(found_in(shown.as_bytes()).is_empty());
        assert!(!lines_of(&key).iter().any(|line| shown.contains(line)));
    }
}
