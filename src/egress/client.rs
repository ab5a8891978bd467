//! The guarded client: the courier's one way out over HTTP.
//!
//! Guarantees: nothing is sent to an address that the policy refuses, whether it was written as a literal or
//! came out of DNS (the address that was judged is the one that is dialled); no redirect is followed; no proxy
//! is used that it was not told of; nothing is retried; every request ends within its deadline and its answer within its size limit.
//! Where an answer may be cut, a body that breaks off or stalls is cut there: the status stands.
//! Error messages name neither path nor query.
//!
//! **Behind a proxy** the guard judges the proxy's address as above, and the target's only where it is written as a
//! literal: names are resolved by the proxy, so what it lets through is the proxy's business. Only https goes there.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use courier_sdk::{AtLimit, Http, HttpError, HttpRequest, HttpResponse};
use futures_util::StreamExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, tls};
use rustls::{AlertDescription, CertificateError};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::guard::{AddressPolicy, PortClass, Reach, Refusal, Scheme};
use super::route::Route;

/// How long an idle connection is kept; most servers close theirs after 60 to 120 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// A longer deadline is cut to this, so that instants stay in range; no request of ours takes as long.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// What a client needs beside its policy.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long DNS, TCP and TLS may take together, within a request's deadline.
    pub connect_timeout: Duration,
    /// The `User-Agent` sent where a request names none.
    pub user_agent: &'static str,
    /// How many idle connections are kept per host.
    pub idle_per_host_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            user_agent: concat!("ehr-courier/", env!("CARGO_PKG_VERSION")),
            // As many as may be in flight to one destination: with fewer, each lull between two claims closes
            // connections that the next claim opens again.
            idle_per_host_max: 64,
        }
    }
}

/// A client that cannot be built, for example because the machine has no root certificates.
#[derive(Debug, Clone, Error)]
#[error("cannot set up outbound http: {reason}")]
pub struct ClientUnavailable {
    reason: String,
}

impl ClientUnavailable {
    pub(super) fn because(reason: String) -> Self {
        Self { reason }
    }
}

/// Sends requests under one address policy.
///
/// The resolver hook sees a name only, while the policy also asks for scheme and port. So there is one inner
/// client, with its own hook and pool, for each combination of the two.
#[derive(Debug, Clone)]
pub struct GuardedClient {
    policy: Arc<AddressPolicy>,
    // A machine without root certificates still sends plain http to loopback: https then fails by itself.
    http: Lanes,
    https: Lanes,
    proxy: Option<Url>,
}

impl GuardedClient {
    /// Builds the client. A scheme that cannot be set up fails each request that needs it.
    #[must_use]
    pub fn new(policy: AddressPolicy, options: &ClientOptions) -> Self {
        Self::by(policy, options, &Route::default())
    }

    /// Builds a client whose connections are made by this route.
    #[must_use]
    pub fn by(policy: AddressPolicy, options: &ClientOptions, route: &Route) -> Self {
        let policy = Arc::new(policy);
        let lanes = |scheme| Lanes {
            ordinary: lane(&policy, (scheme, PortClass::Ordinary), options, route),
            system: lane(&policy, (scheme, PortClass::System), options, route),
        };
        Self {
            http: lanes(Scheme::Http),
            https: lanes(Scheme::Https),
            proxy: route.proxy().map(as_tunnel),
            policy,
        }
    }

    /// What decides how a request goes out, once the policy has judged its address and the proxy's.
    fn reach(&self, url: &Url) -> Result<Reach, HttpError> {
        let target = self.policy.check_url(url).map_err(|refusal| blocked(&refusal))?;
        let Some(proxy) = &self.proxy else {
            return Ok(target);
        };
        if target.scheme == Scheme::Http {
            let reason = "plain http is not sent through a proxy; use https".to_owned();
            return Err(HttpError::Blocked { reason });
        }
        self.policy.check_url(proxy).map_err(|refusal| blocked(&refusal))
    }

    fn lane(&self, reach: Reach) -> Result<&Client, &ClientUnavailable> {
        let lanes = match reach.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        match reach.port {
            PortClass::Ordinary => lanes.ordinary.as_ref(),
            PortClass::System => lanes.system.as_ref(),
        }
    }

    /// Sends a request and waits for the head of its answer.
    async fn ask(&self, request: HttpRequest) -> Result<Response, HttpError> {
        let reach = self.reach(&request.url)?;
        let client = self.lane(reach).map_err(|unavailable| HttpError::Connect {
            reason: unavailable.to_string(),
        })?;
        client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send()
            .await
            .map_err(|error| classify(&error))
    }
}

#[async_trait]
impl Http for GuardedClient {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        Limit::of(&request).answer(self.ask(request)).await
    }
}

/// One scheme's inner clients, by the class of port.
#[derive(Debug, Clone)]
struct Lanes {
    ordinary: Result<Client, ClientUnavailable>,
    system: Result<Client, ClientUnavailable>,
}

fn lane(
    policy: &Arc<AddressPolicy>,
    (scheme, port): (Scheme, PortClass),
    options: &ClientOptions,
    route: &Route,
) -> Result<Client, ClientUnavailable> {
    let guard = Guard {
        policy: Arc::clone(policy),
        reach: Reach { scheme, port },
    };
    let builder = Client::builder()
        .dns_resolver(guard)
        .redirect(Policy::none())
        // None of the environment; a route may bring one.
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(options.idle_per_host_max)
        .user_agent(options.user_agent);
    let builder = match scheme {
        Scheme::Https => {
            let builder = builder.https_only(true).tls_version_min(tls::Version::TLS_1_2);
            route.apply(builder)
        }
        // Plain http needs no roots: not loading them keeps it independent of the machine's certificates.
        Scheme::Http => builder.http1_only().tls_certs_only([]),
    };
    builder
        .build()
        .map_err(|error| ClientUnavailable::because(root_cause(&error)))
}

/// How much of an answer is read, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    bytes_max: usize,
    past_bytes: AtLimit,
    deadline: Duration,
    ends: Instant,
}

impl Limit {
    /// A request's limits; its time runs from now on.
    pub(super) fn of(request: &HttpRequest) -> Self {
        Self {
            bytes_max: request.response_bytes_max,
            past_bytes: request.at_limit,
            deadline: request.deadline,
            ends: Instant::now() + request.deadline.min(DEADLINE_MAX),
        }
    }

    /// Waits for an answer and reads it, within the limits.
    pub(super) async fn answer(
        self,
        asking: impl Future<Output = Result<Response, HttpError>>,
    ) -> Result<HttpResponse, HttpError> {
        let deadline = self.deadline;
        let answer = timeout_at(self.ends, asking)
            .await
            .unwrap_or(Err(HttpError::Timeout { deadline }))?;
        Ok(HttpResponse {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: self.read(answer).await?,
        })
    }

    /// Reads the body, decompressed, up to the limit; a compressed bomb is inflated no further than that.
    async fn read(self, answer: Response) -> Result<Bytes, HttpError> {
        let announced = answer
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        if matches!(self.past_bytes, AtLimit::Fail) && announced.is_some_and(|length| length > self.bytes_max)
        {
            return Err(self.too_large());
        }
        let mut body = BytesMut::new();
        let ended = self.collect(answer, &mut body).await;
        match self.past_bytes {
            AtLimit::Fail => ended?,
            // The status has been said: how the body ended changes nothing of it.
            AtLimit::Cut => {}
        }
        Ok(body.freeze())
    }

    /// Collects the body until it ends, breaks off, or is over its limit or deadline.
    async fn collect(self, answer: Response, body: &mut BytesMut) -> Result<(), HttpError> {
        let mut chunks = answer.bytes_stream();
        loop {
            let next = timeout_at(self.ends, chunks.next())
                .await
                .map_err(|_elapsed| HttpError::Timeout {
                    deadline: self.deadline,
                })?;
            let Some(chunk) = next else {
                return Ok(());
            };
            let chunk = chunk.map_err(|error| HttpError::Broken {
                reason: root_cause(&error),
            })?;
            let room = self.bytes_max.saturating_sub(body.len());
            if chunk.len() > room {
                body.extend_from_slice(chunk.get(..room).unwrap_or_default());
                return Err(self.too_large());
            }
            body.extend_from_slice(&chunk);
        }
    }

    fn too_large(self) -> HttpError {
        HttpError::TooLarge {
            limit: self.bytes_max,
        }
    }
}

/// Resolves names and lets only those addresses through that the policy permits.
#[derive(Debug)]
struct Guard {
    policy: Arc<AddressPolicy>,
    reach: Reach,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        let reach = self.reach;
        Box::pin(async move {
            let found: Vec<IpAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await?
                .map(|address| address.ip())
                .collect();
            let permitted = permitted(&policy, reach, &found)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// Keeps the permitted addresses; when there are none, the first refusal is the answer.
fn permitted(policy: &AddressPolicy, reach: Reach, found: &[IpAddr]) -> Result<Vec<SocketAddr>, Refusal> {
    let mut refused = None;
    let mut kept = Vec::new();
    for address in found {
        match policy.check_reach(*address, reach) {
            // Port 0: the connector puts the request's port there.
            Ok(()) => kept.push(SocketAddr::new(*address, 0)),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) if kept.is_empty() => Err(refusal),
        Some(_) | None => Ok(kept),
    }
}

/// A proxy's address as the guard judges it. What goes through it is TLS from end to end, so that it is judged as one
/// over TLS is, whatever the proxy itself is spoken to in.
fn as_tunnel(proxy: &Url) -> Url {
    let mut tunnel = proxy.clone();
    let port = proxy.port_or_known_default();
    // Both schemes are ordinary ones: neither call fails.
    let changed = tunnel.set_scheme("https").and_then(|()| tunnel.set_port(port));
    debug_assert!(changed.is_ok());
    tunnel
}

fn blocked(refusal: &Refusal) -> HttpError {
    HttpError::Blocked {
        reason: refusal.to_string(),
    }
}

/// Says what became of a request that has no answer.
pub(super) fn classify(error: &reqwest::Error) -> HttpError {
    if let Some(refusal) = causes(error).find_map(|cause| cause.downcast_ref::<Refusal>()) {
        return blocked(refusal);
    }
    if let Some(reason) = causes(error).find_map(handshake) {
        return HttpError::Connect { reason };
    }
    let reason = root_cause(error);
    if error.is_connect() {
        HttpError::Connect { reason }
    } else {
        HttpError::Broken { reason }
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| StdError::source(*error))
}

/// Why TLS was not agreed on, where whoever runs the courier can do something about it. A server may say so after the
/// handshake (TLS 1.3), when it would look like an answer that broke off.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's lists are open and long; what is not named here is passed on in its own words"
)]
fn handshake(cause: &(dyn StdError + 'static)) -> Option<String> {
    let said = match tls_error(cause)? {
        rustls::Error::InvalidCertificate(invalid) => match invalid {
            CertificateError::UnknownIssuer => {
                "the server's certificate is of an authority that is not trusted here: name it as `ca` in the \
                 connection's `tls`"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet, or our clock is behind"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name"
            }
            _ => return Some(format!("the server's certificate is refused: {invalid}")),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server wants a client certificate: name it as `client_cert` and `client_key` in the connection's \
                 `tls`"
            }
            AlertDescription::CertificateExpired => "the server says that our client certificate has expired",
            AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => "the server does not accept our client certificate",
            other => return Some(format!("the server ended the TLS handshake: {other:?}")),
        },
        _ => return None,
    };
    Some(said.to_owned())
}

/// What TLS says, however often it is wrapped: an I/O error does not name what it holds as its source.
fn tls_error<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = cause.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    tls_error(cause.downcast_ref::<std::io::Error>()?.get_ref()?)
}

/// The innermost cause in words: the outer ones repeat it, and reqwest's own names the address with its query.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let Some(cause) = causes(error).skip(1).last() else {
        return "the request could not be made".to_owned();
    };
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) if io.raw_os_error().is_some() => io.kind().to_string(),
        Some(_) | None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_names_addresses_only_the_permitted_ones_are_dialled() {
        let reach = Reach {
            scheme: Scheme::Https,
            port: PortClass::Ordinary,
        };
        let policy = AddressPolicy::default();
        let public: IpAddr = "8.8.8.8".parse().unwrap();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let metadata: IpAddr = "169.254.169.254".parse().unwrap();
        assert_eq!(
            permitted(&policy, reach, &[loopback, public, metadata]),
            Ok(vec![SocketAddr::new(public, 0)])
        );
        assert!(matches!(
            permitted(&policy, reach, &[loopback, metadata]),
            Err(Refusal::Unnamed { address, .. }) if address == loopback
        ));
        assert_eq!(permitted(&policy, reach, &[]), Ok(Vec::new()));
    }
}
