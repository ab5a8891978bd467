//! SMART Backend Services: our assertions before another library, and whole polls against a sandbox that wants a token.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use courier_auth::{Client, ClientKey, Endpoint, Settings, Tokens};
use courier_sdk::{
    Clock, ConnectorError, Credentials, Http, HttpError, HttpRequest, HttpResponse, PollRequest,
};
use ehr_courier::app::{self, Clients};
use ehr_courier::clock::SystemClock;
use ehr_courier::config::Environment;
use ehr_courier::pipeline::connection::Connection;
use ehr_courier::sandbox::{self, Access, Ehr, Options, Pace, SmartClient};
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode};
use jwt_simple::prelude::{
    ECDSAP384PublicKeyLike, ES384PublicKey, JWTClaims, NoCustomClaims, RS384PublicKey, RSAPublicKeyLike,
    Token, VerificationOptions,
};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::composed;

/// A key pair in PEM.
pub(crate) struct Pair {
    pub(crate) private: String,
    pub(crate) public: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn rsa() -> Pair {
    let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    Pair {
        private: pem("PRIVATE KEY", private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
}

pub(crate) fn elliptic() -> Pair {
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let private = key.to_pkcs8v1().unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    Pair {
        private: pem("PRIVATE KEY", private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
}

/// A token endpoint that keeps what it is sent.
#[derive(Default)]
struct Endpoints(Mutex<Vec<HttpRequest>>);

#[async_trait]
impl Http for Endpoints {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.lock().unwrap().push(request);
        Ok(HttpResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(br#"{"access_token":"t","token_type":"bearer","expires_in":1}"#),
        })
    }
}

const TOKEN_URL: &str = "https://auth.example/oauth2/token";

/// The assertions of two token requests.
async fn assertions(pair: &Pair, key_id: Option<&str>) -> Vec<String> {
    let endpoint = Arc::new(Endpoints::default());
    let key = ClientKey::parse(&SecretString::from(pair.private.as_str()), key_id).unwrap();
    for _ in 0..2 {
        let tokens = Tokens::new(Settings {
            client: Client::Key {
                id: "courier-client".to_owned(),
                key: key.clone(),
            },
            endpoint: Endpoint::At(Url::parse(TOKEN_URL).unwrap()),
            scope: "system/Patient.rs".to_owned(),
            http: Arc::<Endpoints>::clone(&endpoint),
            clock: Arc::new(SystemClock),
            nonce: rand::random,
        });
        tokens.present("search Patient").await.unwrap();
    }
    let sent = endpoint.0.lock().unwrap();
    sent.iter()
        .map(|request| {
            assert_eq!(request.url.as_str(), TOKEN_URL);
            let form: Vec<(String, String)> =
                url::form_urlencoded::parse(&request.body).into_owned().collect();
            let field = |name: &str| form.iter().find(|(key, _)| key == name).unwrap().1.clone();
            assert_eq!(field("grant_type"), "client_credentials");
            assert_eq!(field("scope"), "system/Patient.rs");
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            assert_eq!(field("client_assertion_type"), kind);
            field("client_assertion")
        })
        .collect()
}

/// What the other library is told to insist on.
fn rules(key_id: &str) -> VerificationOptions {
    VerificationOptions {
        required_subject: Some("courier-client".to_owned()),
        required_key_id: Some(key_id.to_owned()),
        required_signature_type: Some("JWT".to_owned()),
        allowed_issuers: Some(HashSet::from(["courier-client".to_owned()])),
        allowed_audiences: Some(HashSet::from([TOKEN_URL.to_owned()])),
        ..VerificationOptions::default()
    }
}

fn check(claims: &[JWTClaims<NoCustomClaims>]) {
    let now = u64::try_from(SystemClock.now().as_second()).unwrap();
    for claims in claims {
        let ends = claims.expires_at.unwrap().as_secs();
        assert!((now + 60..=now + 300).contains(&ends), "{ends} at {now}");
    }
    assert!(claims[0].jwt_id.is_some());
    assert_ne!(claims[0].jwt_id, claims[1].jwt_id, "each request signs anew");
}

#[tokio::test]
async fn our_assertions_are_accepted_by_a_library_that_did_not_write_them() {
    let (first, second) = (rsa(), rsa());
    let verify = |public: &Pair, token: &String| {
        let key = RS384PublicKey::from_pem(&public.public).unwrap();
        key.verify_token::<NoCustomClaims>(token, Some(rules("2026-11")))
    };
    let signed = assertions(&first, Some("2026-11")).await;
    check(
        &signed
            .iter()
            .map(|token| verify(&first, token).unwrap())
            .collect::<Vec<_>>(),
    );
    assert!(verify(&second, &signed[0]).is_err(), "the check can fail");

    let (first, second) = (elliptic(), elliptic());
    let signed = assertions(&first, None).await;
    // Without a name of its own a key is named by its thumbprint.
    let metadata = Token::decode_metadata(&signed[0]).unwrap();
    let thumbprint = metadata.key_id().unwrap().to_owned();
    assert_eq!(thumbprint.len(), 43);
    let verify = |public: &Pair, token: &String| {
        let key = ES384PublicKey::from_pem(&public.public).unwrap();
        key.verify_token::<NoCustomClaims>(token, Some(rules(&thumbprint)))
    };
    check(
        &signed
            .iter()
            .map(|token| verify(&first, token).unwrap())
            .collect::<Vec<_>>(),
    );
    assert!(verify(&second, &signed[0]).is_err(), "the check can fail");
}

/// A sandbox that wants a token, and a connection to it.
struct Scene {
    ehr: Arc<Ehr>,
    connection: Connection,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Scene {
    /// `registered` is the key that the sandbox knows, `ours` the one that signs.
    async fn raise(registered: &Pair, ours: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Url::parse(&format!("http://{}/fhir", listener.local_addr().unwrap())).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let client = SmartClient::new("courier-client", &registered.public, Duration::from_mins(5)).unwrap();
        let options = Options {
            auth: Access::Smart(client),
            ..Options::new(3, base_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, Arc::clone(&clock)));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("client.pem"), &ours.private).unwrap();
        let environment = Environment::default();
        let text = format!(
            "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\nprofile = \"sandbox\"\n\
             base_url = \"{base_url}\"\nallow_networks = [\"127.0.0.0/8\"]\n\
             auth = {{ type = \"smart-backend-services\", client_id = \"courier-client\", key = \"file:client.pem\" }}\n\
             [[connections.mercy.feeds]]\nrecord = \"Patient\"\nstart = \"beginning\"\n"
        );
        let path = folder.path().join("courier.toml");
        let config = composed::config(Path::new(&path), &text, &environment);
        let entry = config.connections.values().next().unwrap();
        let connection = app::connection(entry, &clock, &mut Clients::default()).unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let served = sandbox::serve(listener, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
        tasks.spawn(async move { served.await.unwrap() });
        Self {
            ehr,
            connection,
            stop,
            tasks,
        }
    }

    /// Polls once; answers how many records were shown.
    async fn poll(&self) -> Result<usize, ConnectorError> {
        let request = PollRequest {
            feed: &self.connection.feeds[0].spec,
            cursor: None,
            resume: None,
        };
        let page = self.connection.connector.poll(request).await?;
        Ok(page.changes.len())
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn a_poll_finds_the_token_endpoint_gets_one_token_and_replaces_it_when_the_source_refuses_it() {
    for pair in [rsa(), elliptic()] {
        let scene = Scene::raise(&pair, &pair).await;
        assert_eq!(
            scene.ehr.tokens_granted(),
            0,
            "nothing is asked before it is needed"
        );
        for polled in join_all((0..20).map(|_| scene.poll())).await {
            assert!(polled.unwrap() > 0);
        }
        assert_eq!(
            scene.ehr.tokens_granted(),
            1,
            "twenty polls at once share one token"
        );
        scene.ehr.revoke_tokens();
        assert!(scene.poll().await.unwrap() > 0);
        assert_eq!(scene.ehr.tokens_granted(), 2);
        // A source that refuses what it has just granted is not asked for more and more tokens.
        scene.ehr.revoke_tokens();
        let refused = scene.poll().await.unwrap_err();
        assert_eq!(refused.class(), "unauthorized", "{refused}");
        assert_eq!(scene.ehr.tokens_granted(), 2);
        scene.end().await;
    }
}

#[tokio::test]
async fn a_client_that_is_not_registered_is_told_so_without_a_secret_and_stays_quiet() {
    let (registered, ours) = (elliptic(), elliptic());
    let scene = Scene::raise(&registered, &ours).await;
    let refused = scene.poll().await.unwrap_err();
    assert_eq!(refused.class(), "unauthorized");
    let text = refused.to_string();
    assert!(text.contains("status 400: invalid_client"), "{text}");
    assert!(text.contains("public half of this key"), "{text}");
    assert!(!text.contains("eyJ"), "{text}");
    // The next poll asks nobody: it gets the same answer even when nobody is there.
    let connection = Arc::clone(&scene.connection.connector);
    let spec = scene.connection.feeds[0].spec.clone();
    scene.end().await;
    let request = PollRequest {
        feed: &spec,
        cursor: None,
        resume: None,
    };
    let again = connection.poll(request).await.unwrap_err();
    assert_eq!(again.to_string(), text);
}
