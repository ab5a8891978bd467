//! Access tokens by client credentials: asked for once, shared by all requests, renewed before they end.
//!
//! At most one token request is under way for a connection; whoever needs the token meanwhile waits for it. A
//! refused client asks ever more seldom. Requests go through the connection's `Http`, so that the address
//! guard judges token endpoints, discovered ones too; redirects are not followed and answers are bounded.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use courier_sdk::credentials::sensitive;
use courier_sdk::{AtLimit, Clock, ConnectorError, Credentials, Http, HttpRequest, HttpResponse, Renewal};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};
use url::{Url, form_urlencoded};

use crate::answer::{self, Failure, Granted};
use crate::cache::Cache;
use crate::discovery;
use crate::key::ClientKey;

/// The total deadline of a token request.
const DEADLINE: Duration = Duration::from_secs(15);

/// The largest answer that is read, in bytes: tokens and configurations have a few thousand.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How SMART marks an assertion (RFC 7523).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Who asks for tokens, and with what proof.
#[derive(Clone)]
pub enum Client {
    /// An OAuth 2.0 client with a secret, sent by HTTP Basic (RFC 6749, 2.3.1).
    Secret {
        /// The client's id.
        id: String,
        /// Its secret.
        secret: SecretString,
    },
    /// A SMART backend service with a key.
    Key {
        /// The client's id.
        id: String,
        /// Its key.
        key: ClientKey,
    },
}

/// Where tokens are granted.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// At this address.
    At(Url),
    /// Where the source at this base address says (`.well-known/smart-configuration`).
    Discovered(Url),
}

/// What [`Tokens`] needs.
pub struct Settings {
    /// Who asks.
    pub client: Client,
    /// Whom it asks.
    pub endpoint: Endpoint,
    /// The scopes that are asked for, with spaces between; empty for what the server grants by itself.
    pub scope: String,
    /// Through which requests are sent.
    pub http: Arc<dyn Http>,
    /// Our own clock, for when assertions end.
    pub clock: Arc<dyn Clock>,
    /// Draws a number for each assertion; no two may be equal.
    pub nonce: fn() -> u128,
}

/// Credentials that are obtained and renewed as they are needed. `Debug` shows the client's id only.
pub struct Tokens {
    settings: Settings,
    /// The one leave to send a token request.
    asking: Semaphore,
    cache: Mutex<Cache>,
}

impl Tokens {
    /// Makes credentials; nothing is sent before they are needed.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            asking: Semaphore::new(1),
            cache: Mutex::default(),
        }
    }

    async fn header(&self) -> Result<HeaderValue, Failure> {
        if let Some(ready) = self.cache().ready(Instant::now()) {
            return ready;
        }
        // It is never closed; were it, asking at the same time as another would do no harm.
        let _leave = self.asking.acquire().await;
        // Whoever had leave before may have brought what we wait for.
        if let Some(ready) = self.cache().ready(Instant::now()) {
            return ready;
        }
        let asked = self.ask().await;
        let (mut cache, now) = (self.cache(), Instant::now());
        match asked {
            Ok(granted) => {
                info!(
                    client = self.id(),
                    seconds = granted.lifetime.as_secs(),
                    "token granted"
                );
                let header = granted.header.clone();
                cache.granted(granted, now);
                Ok(header)
            }
            Err(failure) => {
                let error = failure.as_error("token request");
                if !matches!(failure, Failure::Held(_)) {
                    warn!(client = self.id(), class = error.class(), %error, "no token");
                }
                cache.failed(failure.clone(), now);
                // A token that runs out serves while it lasts.
                cache.ready(now).unwrap_or(Err(failure))
            }
        }
    }

    async fn ask(&self) -> Result<Granted, Failure> {
        let url = self.token_url().await?;
        let who = host(&url);
        let response = self.send(self.request(&url)?, &who).await?;
        answer::token(&response, &who, self.settings.clock.now())
    }

    async fn token_url(&self) -> Result<Url, Failure> {
        let base = match &self.settings.endpoint {
            Endpoint::At(url) => return Ok(url.clone()),
            Endpoint::Discovered(base) => base,
        };
        if let Some(url) = self.cache().token_url.clone() {
            return Ok(url);
        }
        let url = discovery::address(base);
        let who = host(&url);
        let response = self.send(request(Method::GET, url, Bytes::new()), &who).await?;
        if !response.status.is_success() {
            return Err(undescribed(&response, &who, self.settings.clock.now()));
        }
        let algorithm = match &self.settings.client {
            Client::Key { key, .. } => Some(key.algorithm()),
            Client::Secret { .. } => None,
        };
        let found = discovery::token_url(base, &response.body, algorithm).map_err(Failure::Refused)?;
        self.cache().token_url = Some(found.clone());
        Ok(found)
    }

    fn request(&self, url: &Url) -> Result<HttpRequest, Failure> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !self.settings.scope.is_empty() {
            form.append_pair("scope", &self.settings.scope);
        }
        let mut authorization = None;
        match &self.settings.client {
            Client::Secret { id, secret } => authorization = Some(client_basic(id, secret)?),
            Client::Key { id, key } => {
                let (now, nonce) = (self.settings.clock.now(), (self.settings.nonce)());
                let assertion = key.assertion(id, url, now, nonce);
                let assertion =
                    assertion.ok_or_else(|| Failure::Refused("the key cannot sign".to_owned()))?;
                form.append_pair("client_assertion_type", ASSERTION_TYPE);
                form.append_pair("client_assertion", assertion.expose_secret());
            }
        }
        let mut request = request(Method::POST, url.clone(), Bytes::from(form.finish()));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, kind);
        request
            .headers
            .extend(authorization.map(|value| (AUTHORIZATION, value)));
        Ok(request)
    }

    async fn send(&self, request: HttpRequest, who: &str) -> Result<HttpResponse, Failure> {
        let sent = self.settings.http.send(request).await;
        sent.map_err(|error| answer::broken(&error, who))
    }

    fn id(&self) -> &str {
        match &self.settings.client {
            Client::Secret { id, .. } | Client::Key { id, .. } => id,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.id())
    }
}

#[async_trait]
impl Credentials for Tokens {
    async fn present(&self, operation: &str) -> Result<HeaderMap, ConnectorError> {
        let header = self.header().await;
        let header = header.map_err(|failure| failure.as_error(operation))?;
        Ok(HeaderMap::from_iter([(AUTHORIZATION, header)]))
    }

    fn refused(&self, shown: &HeaderMap) -> Renewal {
        let header = shown.get(AUTHORIZATION);
        if self.cache().refused(header, Instant::now()) {
            Renewal::Possible
        } else {
            Renewal::Pointless
        }
    }
}

fn request(method: Method, url: Url, body: Bytes) -> HttpRequest {
    HttpRequest {
        method,
        url,
        headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]),
        body,
        deadline: DEADLINE,
        response_bytes_max: ANSWER_BYTES_MAX,
        at_limit: AtLimit::Fail,
    }
}

/// Id and secret are form-encoded before they are joined (RFC 6749, 2.3.1).
fn client_basic(id: &str, secret: &SecretString) -> Result<HeaderValue, Failure> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = SecretString::from(format!("{}:{}", encoded(id), encoded(secret.expose_secret())));
    let value = SecretString::from(format!("Basic {}", STANDARD.encode(pair.expose_secret())));
    sensitive(value.expose_secret()).map_err(|error| Failure::Refused(error.to_string()))
}

/// A source that does not say where it grants tokens.
fn undescribed(response: &HttpResponse, who: &str, now: jiff::Timestamp) -> Failure {
    match answer::failure(response, who, now) {
        Failure::Refused(_) => Failure::Refused(format!(
            "{who} has no .well-known/smart-configuration (status {}): write `token_url` in the connection's auth",
            response.status.as_u16()
        )),
        failure @ (Failure::Away(_) | Failure::Busy(_) | Failure::Held(_)) => failure,
    }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("-").to_owned()
}
