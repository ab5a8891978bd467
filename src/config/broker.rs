//! AMQP destinations: the broker's address out of a secret, the exchange and the routing key's template.

use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::raw::{RawDestination, Text};
use super::resolve::Context;
use super::value::{self, Refusal, refusal};
use super::{AmqpTarget, Egress, Target};
use crate::egress::dial::{Broker, Endpoint};
use crate::egress::guard::Transport;
use crate::wire::routing_key::Template;

/// The longest name of AMQP 0-9-1, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The routing key where none is written.
const ROUTING_KEY_DEFAULT: &str = "{connection}.{record_type}.{change}";

const ADDRESS_HELP: &str = "put amqps://USER:PASSWORD@HOST/VHOST there, each part percent-encoded";

/// Reads what an AMQP destination needs beside what all have.
pub(super) fn target(
    key: &Text,
    raw: &RawDestination,
    path: &str,
    egress: Option<&Egress>,
    context: &mut Context<'_>,
) -> Option<Target> {
    let url_path = format!("{path}.url");
    let broker = match &raw.url {
        Some(text) => context.secret(text, &url_path, |secret| broker(&secret, egress)),
        None => context.missing(key, &url_path, "write url = \"env:NAME\" or \"file:PATH\""),
    };
    let exchange_path = format!("{path}.exchange");
    let exchange = match &raw.exchange {
        Some(text) => context.accept(exchange(text.get_ref()), text, &exchange_path),
        None => context.missing(key, &exchange_path, "write exchange = \"ehr.changes\""),
    };
    let routing_key = match &raw.routing_key {
        Some(text) => context.accept(routing_key(text.get_ref()), text, &format!("{path}.routing_key")),
        None => Template::parse(ROUTING_KEY_DEFAULT).ok(),
    };
    Some(Target::Amqp(AmqpTarget {
        broker: broker?,
        exchange: exchange?,
        routing_key: routing_key?,
    }))
}

/// Parses a broker's address. No refusal repeats a part of it: it holds a password.
fn broker(secret: &SecretString, egress: Option<&Egress>) -> Result<Broker, Refusal> {
    let Ok(url) = Url::parse(secret.expose_secret()) else {
        return Err(refusal("not an address of a message broker", ADDRESS_HELP));
    };
    let (transport, port) = match url.scheme() {
        "amqp" => (Transport::Plain, 5672),
        "amqps" => (Transport::Tls, 5671),
        _ => return Err(refusal("neither amqp nor amqps", ADDRESS_HELP)),
    };
    if url.query().is_some() || url.fragment().is_some() {
        let help = "remove the `?` or `#` and what follows: the courier sets what stands there";
        return Err(refusal("a broker's address has no options here", help));
    }
    let decoded =
        |text: &str| percent_decoded(text).ok_or_else(|| refusal("not percent-encoded", ADDRESS_HELP));
    let (user, password) = (decoded(url.username())?, url.password());
    let (Some(password), false) = (password, user.is_empty()) else {
        return Err(refusal("user and password are missing", ADDRESS_HELP));
    };
    // Other than for http the host is kept as it is written: a number such as 0x7f.1 is an address all the same.
    let host = match url.host_str().map(Host::parse) {
        Some(Ok(Host::Domain(name))) => name,
        Some(Ok(Host::Ipv4(address))) => address.to_string(),
        Some(Ok(Host::Ipv6(address))) => address.to_string(),
        Some(Err(_)) | None => return Err(refusal("there is no host in it", ADDRESS_HELP)),
    };
    let virtual_host = match url.path().strip_prefix('/') {
        None | Some("") => "/".to_owned(),
        Some(name) => decoded(name)?,
    };
    if virtual_host.len() > NAME_BYTES_MAX {
        return Err(refusal("the virtual host is longer than 255 bytes", ADDRESS_HELP));
    }
    let endpoint = Endpoint {
        host,
        port: url.port().unwrap_or(port),
        transport,
    };
    if let Some(egress) = egress {
        value::dialable(&endpoint, egress)?;
    }
    Ok(Broker {
        endpoint,
        user,
        password: SecretString::from(decoded(password)?),
        virtual_host,
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn exchange(text: &str) -> Result<String, Refusal> {
    let help = "write the name of an exchange that exists: \"ehr.changes\"";
    if text.is_empty() {
        return Err(refusal("the default exchange is not published to", help));
    }
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(refusal("not a name of at most 255 bytes", help));
    }
    Ok(text.to_owned())
}

fn routing_key(text: &str) -> Result<Template, Refusal> {
    Template::parse(text).map_err(|error| {
        let known = Template::placeholders()
            .map(|name| format!("{{{name}}}"))
            .join(", ");
        let help = format!("write text and placeholders, \"{ROUTING_KEY_DEFAULT}\"; there are {known}");
        refusal(error.to_string(), help)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Broker, Refusal> {
        broker(&SecretString::from(text.to_owned()), None)
    }

    #[test]
    fn a_brokers_address_is_taken_apart() {
        let rows = [
            ("amqps://u:qz@mq.example.com", "mq.example.com", 5671, "/", "qz"),
            ("amqp://u:qz@127.0.0.1/", "127.0.0.1", 5672, "/", "qz"),
            ("amqp://u:qz@127.0.0.1:25672/%2f", "127.0.0.1", 25672, "/", "qz"),
            ("amqp://u:qz%40%2f@0x7f.1/ehr", "127.0.0.1", 5672, "ehr", "qz@/"),
            ("amqp://u:qz@[::1]:7/a%20b", "::1", 7, "a b", "qz"),
        ];
        for (text, host, port, virtual_host, password) in rows {
            let broker = read(text).unwrap();
            assert_eq!(
                (broker.endpoint.host.as_str(), broker.endpoint.port),
                (host, port),
                "{text}"
            );
            assert_eq!(
                (broker.virtual_host.as_str(), broker.user.as_str()),
                (virtual_host, "u")
            );
            assert_eq!(broker.password.expose_secret(), password);
            assert!(!format!("{broker:?}").contains(password), "{broker:?}");
        }
    }

    #[test]
    fn what_is_no_brokers_address_is_refused_without_repeating_it() {
        for text in [
            "hunter2",
            "https://u:hunter2@mq.example.com",
            "amqp:hunter2",
            "amqps://hunter2@mq.example.com",
            "amqps://:hunter2@mq.example.com",
            "amqps://mq.example.com/hunter2",
            "amqps://u:hunter2@/",
            "amqps://u:hunter2%4@mq.example.com",
            "amqps://u:hunter2@mq.example.com?heartbeat=0",
            "amqps://u:hunter2@mq.example.com#x",
            &format!("amqps://u:hunter2@mq.example.com/{}", "v".repeat(256)),
        ] {
            let refused = read(text).unwrap_err();
            assert!(
                !refused.message.contains("hunter2") && !refused.help.contains("hunter2"),
                "{refused:?}"
            );
        }
    }
}
