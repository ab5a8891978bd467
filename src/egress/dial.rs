//! Dialling a message broker: a name becomes addresses, the guard judges each, the permitted ones are tried in turn.
//!
//! Guarantees: the address that was judged is the one that is dialled; all of it ends within the deadline.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use secrecy::SecretString;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::guard::{AddressPolicy, Refusal, Transport};

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// A name or a literal address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How it is spoken to: plain text is dialled only where the policy allows it.
    pub transport: Transport,
}

/// A message broker and who we are to it. `Debug` shows the endpoint only.
#[derive(Clone, Default)]
pub struct Broker {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
    /// The virtual host, at most 255 bytes.
    pub virtual_host: String,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({}:{})", self.endpoint.host, self.endpoint.port)
    }
}

/// Why there is no connection. Messages name addresses only.
#[derive(Debug, Error)]
pub enum DialError {
    /// The policy refuses every address that the name has.
    #[error("address refused: {0}")]
    Refused(#[source] Refusal),
    /// The name has no address.
    #[error("the name cannot be resolved")]
    Unresolved,
    /// No permitted address answers.
    #[error("cannot connect: {0}")]
    Connect(io::ErrorKind),
    /// The deadline has passed.
    #[error("no connection within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Connects to the first permitted address that answers, each within an even share of what is left of `within`.
///
/// # Errors
/// [`DialError`], for the address that was tried last.
///
/// # Cancel safety
/// Dropping the future ends the attempt.
pub async fn dial(
    policy: &AddressPolicy,
    endpoint: &Endpoint,
    within: Duration,
) -> Result<TcpStream, DialError> {
    let ends = Instant::now() + within;
    let found = timeout_at(ends, resolve(endpoint))
        .await
        .map_err(|_elapsed| DialError::Timeout(within))??;
    let mut left = permitted(policy, endpoint, &found)?.into_iter();
    let mut last = DialError::Unresolved;
    while let Some(address) = left.next() {
        let others = u32::try_from(left.len()).unwrap_or(u32::MAX - 1);
        let share = ends.saturating_duration_since(Instant::now()) / (others + 1);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => DialError::Connect(error.kind()),
            Err(_elapsed) => DialError::Timeout(within),
        };
    }
    Err(last)
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(literal) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(literal, endpoint.port)]);
    }
    let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    Ok(found.map_err(|_io| DialError::Unresolved)?.collect())
}

/// Of a name's addresses those that may be dialled; if there is none, why.
fn permitted(
    policy: &AddressPolicy,
    endpoint: &Endpoint,
    found: &[SocketAddr],
) -> Result<Vec<SocketAddr>, DialError> {
    let mut kept = Vec::new();
    let mut refused = None;
    for address in found {
        match policy.check_broker(address.ip(), endpoint.port, endpoint.transport) {
            Ok(()) => kept.push(*address),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) if kept.is_empty() => Err(DialError::Refused(refusal)),
        Some(_) | None => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(host: &str, transport: Transport, allow: &[&str], plain: &[&str]) -> Option<String> {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = AddressPolicy {
            allow_networks: networks(allow),
            plain_http_networks: networks(plain),
        };
        let endpoint = Endpoint {
            host: host.to_owned(),
            port: 5672,
            transport,
        };
        let address = SocketAddr::new(host.parse().unwrap(), 5672);
        permitted(&policy, &endpoint, &[address])
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_broker_is_judged_like_a_webhook_and_plain_amqp_like_plain_http() {
        let loopback = ["127.0.0.0/8"];
        assert_eq!(refusal("127.0.0.1", Transport::Plain, &loopback, &[]), None);
        assert_eq!(refusal("8.8.8.8", Transport::Tls, &[], &[]), None);
        assert_eq!(
            refusal("10.1.2.3", Transport::Plain, &["10.0.0.0/8"], &["10.1.0.0/16"]),
            None
        );
        let rows = [
            ("127.0.0.1", Transport::Plain, &[][..], "is loopback"),
            ("8.8.8.8", Transport::Plain, &[][..], "plain amqp to 8.8.8.8"),
            ("10.1.2.3", Transport::Tls, &loopback[..], "is private"),
            (
                "169.254.169.254",
                Transport::Tls,
                &["169.254.0.0/16"],
                "never reached",
            ),
        ];
        for (host, transport, allow, expected) in rows {
            let refused = refusal(host, transport, allow, &[]).unwrap();
            assert!(
                refused.starts_with("address refused: ") && refused.contains(expected),
                "{refused}"
            );
        }
    }
}
