//! SMART Backend Services at the sandbox: it says where it grants tokens, checks assertions, and lets in who has one.
//!
//! **Source**: SMART App Launch 2.2, `backend-services.md` and `client-confidential-asymmetric.md` at 2494e06, seen
//! 2026-11-20. It is strict where the guide says SHALL, so that whoever passes here passes elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{AtLimit, Http, HttpRequest};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use url::{Url, form_urlencoded};

use super::refresh::Family;
use super::{Answer, Request};

/// An assertion may end this far ahead, in seconds.
const ASSERTION_SECONDS_MAX: i64 = 300;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The one client that a sandbox knows.
#[derive(Clone)]
pub struct SmartClient {
    id: String,
    registered: Registered,
    token_lifetime: Duration,
}

/// What the client was registered with.
#[derive(Clone)]
enum Registered {
    Key(PublicKey),
    /// Where its keys are published.
    KeySet(KeySet),
}

#[derive(Clone)]
struct PublicKey {
    key: DecodingKey,
    algorithm: Algorithm,
}

/// Where a client's keys are published, and through what they are read.
#[derive(Clone)]
pub(super) struct KeySet {
    url: Url,
    http: Arc<dyn Http>,
}

impl KeySet {
    /// Reads the set, or nothing.
    pub(super) async fn read(&self) -> Option<Bytes> {
        let request = HttpRequest {
            method: Method::GET,
            url: self.url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            deadline: Duration::from_secs(5),
            response_bytes_max: 64 << 10,
            at_limit: AtLimit::Fail,
        };
        let response = self.http.send(request).await.ok()?;
        response.status.is_success().then_some(response.body)
    }
}

/// A text that is no public key in PEM, of an RSA or a P-384 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a public key in PEM: write it with `openssl pkey -in key.pem -pubout -out public.pem`")]
pub struct InvalidPublicKey;

impl SmartClient {
    /// Registers a client by the public half of its key.
    ///
    /// # Errors
    /// [`InvalidPublicKey`].
    pub fn new(id: &str, public_pem: &str, token_lifetime: Duration) -> Result<Self, InvalidPublicKey> {
        let pem = public_pem.as_bytes();
        let (key, algorithm) = DecodingKey::from_rsa_pem(pem)
            .map(|key| (key, Algorithm::RS384))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES384)))
            .map_err(|_| InvalidPublicKey)?;
        Ok(Self {
            id: id.to_owned(),
            registered: Registered::Key(PublicKey { key, algorithm }),
            token_lifetime,
        })
    }

    /// Registers a client by the address of its key set, which is read when an assertion names a key that is not known.
    #[must_use]
    pub fn by_key_set(id: &str, url: Url, http: Arc<dyn Http>, token_lifetime: Duration) -> Self {
        Self {
            id: id.to_owned(),
            registered: Registered::KeySet(KeySet { url, http }),
            token_lifetime,
        }
    }

    fn algorithms(&self) -> &'static [&'static str] {
        match &self.registered {
            Registered::Key(key) if key.algorithm == Algorithm::ES384 => &["ES384"],
            Registered::Key(_) => &["RS384"],
            Registered::KeySet(_) => &["ES384", "RS384"],
        }
    }
}

/// Tokens that were granted, and assertions that were seen.
#[derive(Default)]
pub(super) struct Grants {
    tokens: BTreeMap<String, Timestamp>,
    seen: BTreeSet<String>,
    /// The client's keys by their ids, as its key set told them last.
    keys: BTreeMap<String, PublicKey>,
    pub(super) family: Option<Family>,
    pub(super) granted: u64,
}

/// What the assertion says of itself; the rest is checked while it is decoded.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    jti: String,
}

impl Grants {
    /// Whether a request shows a token that is in force.
    pub(super) fn admit(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let ends = shown
            .and_then(|shown| shown.strip_prefix("Bearer "))
            .and_then(|token| self.tokens.get(token));
        ends.is_some_and(|ends| now < *ends)
    }

    /// Takes every token back.
    pub(super) fn revoke(&mut self) {
        self.tokens.clear();
    }

    /// Enters a token that was granted.
    pub(super) fn grant_token(&mut self, token: &str, now: Timestamp, lifetime: Duration) {
        self.tokens.retain(|_, ends| now < *ends);
        self.tokens.insert(token.to_owned(), now + lifetime);
        self.granted += 1;
    }

    /// The key set to read before this request is answered: its assertion names a key that is not known.
    pub(super) fn key_set_for(&self, client: &SmartClient, request: &Request) -> Option<KeySet> {
        let Registered::KeySet(set) = &client.registered else {
            return None;
        };
        let mut form = form_urlencoded::parse(&request.body);
        let (_, assertion) = form.find(|(name, _)| name == "client_assertion")?;
        let id = jsonwebtoken::decode_header(assertion.as_ref()).ok()?.kid?;
        (!self.keys.contains_key(&id)).then(|| set.clone())
    }

    /// Takes a key set over, in place of what was known.
    pub(super) fn learn(&mut self, set: &[u8]) {
        let set: JwkSet = serde_json::from_slice(set).unwrap_or_default();
        let known = |jwk: &Jwk| {
            let elliptic = matches!(jwk.algorithm, AlgorithmParameters::EllipticCurve(_));
            let algorithm = if elliptic {
                Algorithm::ES384
            } else {
                Algorithm::RS384
            };
            let key = DecodingKey::from_jwk(jwk).ok()?;
            Some((jwk.common.key_id.clone()?, PublicKey { key, algorithm }))
        };
        self.keys = set.keys.iter().filter_map(known).collect();
    }

    /// Answers what stands outside the lock: the description, and the token endpoint.
    pub(super) fn answer(
        &mut self,
        client: &SmartClient,
        base_url: &Url,
        request: &Request,
        (now, draw): (Timestamp, u128),
    ) -> Option<Answer> {
        let base = base_url.as_str().trim_end_matches('/');
        let token_url = format!("{base}/auth/token");
        let prefix = base_url.path().trim_end_matches('/');
        match (&request.method, request.path.strip_prefix(prefix)?) {
            (&Method::GET, "/.well-known/smart-configuration") => {
                let body = json!({
                    "token_endpoint": token_url,
                    "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                    "token_endpoint_auth_signing_alg_values_supported": client.algorithms(),
                    "grant_types_supported": ["client_credentials"],
                    "scopes_supported": ["system/*.rs"],
                    "capabilities": ["client-confidential-asymmetric", "permission-v2"],
                });
                Some(answer(StatusCode::OK, &body))
            }
            (&Method::POST, "/auth/token") => Some(match self.grant(client, &token_url, request, now) {
                Ok(scope) => {
                    let token = format!("{draw:032x}");
                    self.grant_token(&token, now, client.token_lifetime);
                    let seconds = client.token_lifetime.as_secs();
                    let body = json!({
                        "access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": scope,
                    });
                    answer(StatusCode::OK, &body)
                }
                Err((error, reason)) => {
                    let body = json!({"error": error, "error_description": reason});
                    answer(StatusCode::BAD_REQUEST, &body)
                }
            }),
            _ => None,
        }
    }

    /// Checks a token request; answers the scope that it asks for.
    fn grant(
        &mut self,
        client: &SmartClient,
        token_url: &str,
        request: &Request,
        now: Timestamp,
    ) -> Result<String, (&'static str, &'static str)> {
        let form: BTreeMap<String, String> = form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("grant_type") != "client_credentials" {
            return Err(("unsupported_grant_type", "only client_credentials is offered"));
        }
        if field("scope").is_empty() {
            return Err(("invalid_scope", "scope is required"));
        }
        let refuse = |reason| Err(("invalid_client", reason));
        if field("client_assertion_type") != ASSERTION_TYPE {
            return refuse("client_assertion_type is not jwt-bearer");
        }
        let assertion = field("client_assertion");
        let Ok(head) = jsonwebtoken::decode_header(assertion) else {
            return refuse("the assertion is no JWT");
        };
        let (Some(id), Some("JWT")) = (&head.kid, head.typ.as_deref()) else {
            return refuse("the assertion's header lacks kid or typ");
        };
        let key = match &client.registered {
            Registered::Key(key) => Some(key),
            Registered::KeySet(_) => self.keys.get(id),
        };
        let Some(key) = key else {
            return refuse("the client's key set has no such key");
        };
        let mut rules = Validation::new(key.algorithm);
        rules.set_audience(&[token_url]);
        rules.set_issuer(&[&client.id]);
        rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
        // The sandbox has a clock of its own.
        rules.validate_exp = false;
        let Ok(decoded) = jsonwebtoken::decode::<Claims>(assertion, &key.key, &rules) else {
            return refuse("the assertion is not signed by this client for this endpoint");
        };
        let Claims { sub, exp, jti } = decoded.claims;
        let left = exp - now.as_second();
        if sub != client.id {
            return refuse("sub is not the client's id");
        }
        if !(1..=ASSERTION_SECONDS_MAX).contains(&left) {
            return refuse("the assertion has ended, or ends more than five minutes ahead");
        }
        if !self.seen.insert(jti) {
            return refuse("the assertion was used before");
        }
        Ok(field("scope").to_owned())
    }
}

pub(super) fn answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer {
        status,
        headers,
        body: Bytes::from(body.to_string()),
        cut_at: None,
        delay: None,
        unpacked_bytes: None,
    }
}
