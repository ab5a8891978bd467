//! Access tokens, by client credentials or a refresh token: asked for once, shared by all requests, renewed before
//! they end.
//!
//! At most one token request is under way for a connection; whoever needs the token meanwhile waits for it. A
//! refused client asks ever more seldom. Requests go through the connection's `Http`, so that the address
//! guard judges token endpoints, discovered ones too; redirects are not followed and answers are bounded.
//! A use of a refresh token is brought to its end even if whoever asked has gone: its answer may hold the successor.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{AtLimit, Clock, ConnectorError, Credentials, Http, HttpRequest, HttpResponse, Renewal};
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::SecretString;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use crate::answer::{self, Failure, Granted, Way};
use crate::cache::Cache;
use crate::client::{Asked, Client};
use crate::discovery;
use crate::keeper::{Keeper, Unkept};

/// The total deadline of a token request.
const DEADLINE: Duration = Duration::from_secs(15);

/// The largest answer that is read, in bytes: tokens and configurations have a few thousand.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where tokens are granted.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// At this address.
    At(Url),
    /// Where the source at this base address says (`.well-known/smart-configuration`).
    Discovered(Url),
}

/// By what right tokens are asked for.
#[derive(Clone)]
pub enum Grant {
    /// The client's own (RFC 6749, 4.4).
    ClientCredentials,
    /// A refresh token that someone obtained for the client (RFC 6749, 6), kept there.
    RefreshToken(Arc<dyn Keeper>),
}

/// What [`Tokens`] needs.
pub struct Settings {
    /// Who asks.
    pub client: Client,
    /// By what right.
    pub grant: Grant,
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
    desk: Arc<Desk>,
    /// Uses of a refresh token, which go on when whoever waits for them is gone.
    uses: Mutex<JoinSet<()>>,
}

/// Where tokens are asked for and held.
struct Desk {
    settings: Settings,
    /// The one leave to send a token request.
    asking: Semaphore,
    cache: Mutex<Cache>,
}

impl Tokens {
    /// Makes credentials; nothing is sent before they are needed.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let desk = Desk {
            settings,
            asking: Semaphore::new(1),
            cache: Mutex::default(),
        };
        Self {
            desk: Arc::new(desk),
            uses: Mutex::default(),
        }
    }

    async fn header(&self) -> Result<HeaderValue, Failure> {
        if let Some(ready) = self.desk.cache().ready(Instant::now()) {
            return ready;
        }
        match &self.desk.settings.grant {
            Grant::ClientCredentials => self.desk.renew().await,
            Grant::RefreshToken(_) => {
                let told = self.use_refresh_token();
                let ended = || Failure::Away("the token request ended early".to_owned());
                told.await.unwrap_or_else(|_| Err(ended()))
            }
        }
    }

    fn use_refresh_token(&self) -> oneshot::Receiver<Result<HeaderValue, Failure>> {
        let (tell, told) = oneshot::channel();
        let desk = Arc::clone(&self.desk);
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        while uses.try_join_next().is_some() {}
        // Whoever asked may be gone by then: the token is in the cache for the next.
        uses.spawn(async move { drop(tell.send(desk.renew().await)) });
        told
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
        uses.detach_all();
    }
}

impl Desk {
    /// Asks for a token, unless somebody has brought one meanwhile.
    async fn renew(&self) -> Result<HeaderValue, Failure> {
        // It is never closed; were it, asking at the same time as another would do no harm.
        let _leave = self.asking.acquire().await;
        if let Some(ready) = self.cache().ready(Instant::now()) {
            return ready;
        }
        let asked = self.ask().await;
        let (mut cache, now) = (self.cache(), Instant::now());
        match asked {
            Ok(granted) => {
                info!(
                    client = self.settings.client.id(),
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
                    warn!(client = self.settings.client.id(), class = error.class(), %error, "no token");
                }
                cache.failed(failure.clone(), now);
                // A token that runs out serves while it lasts.
                cache.ready(now).unwrap_or(Err(failure))
            }
        }
    }

    async fn ask(&self) -> Result<Granted, Failure> {
        let url = self.token_url().await?;
        let Grant::RefreshToken(keeper) = &self.settings.grant else {
            return self.ask_at(&url, None).await;
        };
        let mut turn = keeper.begin().await.map_err(unkept)?;
        let mut granted = self.ask_at(&url, Some(turn.token())).await?;
        // Nothing rests on this answer before its refresh token is durable: the one before may have ended with it.
        if let Some(next) = granted.refresh_token.take() {
            turn.keep(next).await.map_err(unkept)?;
        }
        Ok(granted)
    }

    async fn ask_at(&self, url: &Url, refresh_token: Option<&SecretString>) -> Result<Granted, Failure> {
        let asked = Asked {
            refresh_token,
            scope: &self.settings.scope,
            now: self.settings.clock.now(),
            nonce: (self.settings.nonce)(),
        };
        let way = refresh_token.map_or(Way::ClientCredentials, |_| Way::RefreshToken);
        let (request, who) = (self.settings.client.request(url, asked)?, host(url));
        let response = self.send(request, &who).await?;
        answer::token(&response, (&who, way), self.settings.clock.now())
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
        let algorithm = self.settings.client.algorithm();
        let found = discovery::token_url(base, &response.body, algorithm).map_err(Failure::Refused)?;
        self.cache().token_url = Some(found.clone());
        Ok(found)
    }

    async fn send(&self, request: HttpRequest, who: &str) -> Result<HttpResponse, Failure> {
        let sent = self.settings.http.send(request).await;
        sent.map_err(|error| answer::broken(&error, who))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.desk.settings.client.id())
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
        if self.desk.cache().refused(header, Instant::now()) {
            Renewal::Possible
        } else {
            Renewal::Pointless
        }
    }
}

pub(crate) fn request(method: Method, url: Url, body: Bytes) -> HttpRequest {
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

/// A refresh token that is not at hand: the use has not begun, or its successor waits in memory to be written.
fn unkept(error: Unkept) -> Failure {
    match error {
        Unkept::ForNow(reason) => Failure::Away(reason),
        Unkept::ForGood(reason) => Failure::Refused(reason),
    }
}

/// A source that does not say where it grants tokens.
fn undescribed(response: &HttpResponse, who: &str, now: jiff::Timestamp) -> Failure {
    match answer::failure(response, (who, Way::ClientCredentials), now) {
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
