//! Single values: durations, addresses, networks, search parameters and secrets, parsed once.
//!
//! Every refusal is a message and a remedy; neither repeats a value that could be secret.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::Egress;
use super::environment::Environment;
use crate::egress::dial::Endpoint;
use crate::egress::guard::{self, AddressPolicy, Scheme};

/// What is wrong with a value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) help: String,
}

/// The largest secret file that is read, in bytes: a private key with its chain fits.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Some hundred thousand ids; a roster of more is polled for hours.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// The largest file of certificates that is read, in bytes: a whole system's authorities fit.
const CERTIFICATES_BYTES_MAX: u64 = 1 << 20;

/// How long a token of the HTTP face may be, in bytes: 128 bits at least, and what one header holds at most.
const TOKEN_BYTES: RangeInclusive<usize> = 16..=4_096;

/// Search parameters that the courier itself sets or that would hide changes from it.
const RESERVED_PARAMETERS: [&str; 17] = [
    "_at",
    "_contained",
    "_containedType",
    "_count",
    "_cursor",
    "_elements",
    "_format",
    "_getpages",
    "_include",
    "_lastUpdated",
    "_offset",
    "_page",
    "_revinclude",
    "_since",
    "_sort",
    "_summary",
    "_total",
];

/// What to write where plain http is refused.
const PLAIN_HELP: &str = "write https, or name the network in `plain_http_networks`";

pub(super) fn refusal(message: impl Into<String>, help: impl Into<String>) -> Refusal {
    Refusal {
        message: message.into(),
        help: help.into(),
    }
}

/// Parses `60s`, `5m`, `2h` or `7d` within a range, which is named in words.
pub(super) fn duration(
    text: &str,
    range: &RangeInclusive<Duration>,
    words: &str,
) -> Result<Duration, Refusal> {
    let refuse = |message: &str| {
        refusal(
            message,
            format!("write a whole number and s, m, h or d, between {words}: \"60s\", \"5m\", \"2h\""),
        )
    };
    let unit = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(refuse("not a duration")),
    };
    let digits = text.get(..text.len() - 1).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refuse("not a duration"));
    }
    let seconds = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match seconds.map(Duration::from_secs) {
        Some(duration) if range.contains(&duration) => Ok(duration),
        _ => Err(refuse(&format!("not between {words}"))),
    }
}

/// Parses an absolute http or https address without user name, password or fragment.
pub(super) fn web_address(text: &str) -> Result<Url, Refusal> {
    let example = "write an absolute address such as \"https://ehr.example.com/fhir\"";
    let Ok(url) = Url::parse(text) else {
        return Err(refusal("not an absolute address", example));
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refusal("neither http nor https", example));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refusal(
            "an address must not hold a user name or password",
            "remove what stands before the `@`",
        ));
    }
    if url.fragment().is_some() {
        return Err(refusal(
            "an address must not hold a fragment",
            "remove the `#` and what follows",
        ));
    }
    Ok(url)
}

/// Checks that an address may be asked under the named networks, as far as the text shows it: the guard's own rule,
/// which judges names again by what they resolve to.
pub(super) fn reachable(url: &Url, egress: &Egress) -> Result<(), Refusal> {
    let policy = AddressPolicy {
        allow_networks: egress.allow_networks.clone(),
        plain_http_networks: egress.plain_http_networks.clone(),
    };
    let reach = policy.check_url(url).map_err(|refused| explained(&refused))?;
    let Some(Host::Domain(name)) = url.host() else {
        return Ok(());
    };
    if is_local_name(name) {
        let [v4, v6] = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        return policy
            .check_reach(v4, reach)
            .or_else(|refused| policy.check_reach(v6, reach).map_err(|_same| refused))
            .map_err(|refused| explained(&refused));
    }
    let loopback = |network: &IpNet| network.network().is_loopback();
    let plain_somewhere =
        !policy.plain_http_networks.is_empty() || policy.allow_networks.iter().any(loopback);
    if reach.scheme == Scheme::Http && !plain_somewhere {
        return Err(refusal("plain http is not allowed here", PLAIN_HELP));
    }
    Ok(())
}

/// Checks that a broker may be dialled under the named networks, as far as its address shows it, by the guard's own rule.
pub(super) fn dialable(endpoint: &Endpoint, egress: &Egress) -> Result<(), Refusal> {
    let policy = AddressPolicy {
        allow_networks: egress.allow_networks.clone(),
        plain_http_networks: egress.plain_http_networks.clone(),
    };
    let literals = match endpoint.host.parse::<IpAddr>() {
        Ok(literal) => vec![literal],
        Err(_) if is_local_name(&endpoint.host) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => return Ok(()),
    };
    let mut judged = literals
        .into_iter()
        .map(|address| policy.check_broker(address, endpoint.port, endpoint.transport));
    let first = judged.next().unwrap_or(Ok(()));
    // Of a name one address that may be dialled is enough.
    first
        .or_else(|refused| judged.find(Result::is_ok).unwrap_or(Err(refused)))
        .map_err(|refused| explained(&refused))
}

/// The guard's words, with what to write instead. What is never reached is not opened by any key.
fn explained(refused: &guard::Refusal) -> Refusal {
    let help = match refused {
        guard::Refusal::Unnamed { address, .. } if address.is_loopback() => {
            "write allow_networks = [\"127.0.0.0/8\", \"::1/128\"]".to_owned()
        }
        guard::Refusal::Unnamed { address, .. } | guard::Refusal::SystemPort { address } => format!(
            "write allow_networks = [\"{}\"], or a wider range",
            IpNet::from(*address)
        ),
        guard::Refusal::PlainHttp { .. } => PLAIN_HELP.to_owned(),
        guard::Refusal::PlainAmqp { .. } => {
            "write amqps, or name the network in `plain_http_networks`".to_owned()
        }
        guard::Refusal::Never { .. } => "write another address: no setting opens this one".to_owned(),
        guard::Refusal::PortZero => "write another port".to_owned(),
        guard::Refusal::Scheme | guard::Refusal::NoHost | guard::Refusal::UserInfo => {
            "write an absolute address such as \"https://ehr.example.com/fhir\"".to_owned()
        }
    };
    refusal(refused.to_string(), help)
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Parses a network such as `10.20.0.0/16`. The whole Internet is not one.
pub(super) fn network(text: &str) -> Result<IpNet, Refusal> {
    let help = "write an address and a prefix length: \"10.20.0.0/16\", \"127.0.0.1/32\"";
    match text.parse::<IpNet>() {
        Ok(network) if network.prefix_len() == 0 => Err(refusal("this names every address there is", help)),
        Ok(network) if network.trunc() != network => Err(refusal(
            "the address has bits outside the prefix",
            format!("write \"{}\"", network.trunc()),
        )),
        Ok(network) => Ok(network),
        Err(_) => Err(refusal("not a network", help)),
    }
}

/// Checks further search parameters: `key=value` pairs that leave the courier's own parameters alone.
pub(super) fn search_parameters(text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Ok(());
    }
    let form = "write `key=value` pairs joined by `&`, percent-encoded: \"status=booked&location=7\"";
    for pair in text.split('&') {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(refusal("not `key=value` pairs", form));
        };
        let clean = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'?'))
        };
        if name.is_empty() || value.is_empty() || !clean(name) || !clean(value) {
            return Err(refusal("not `key=value` pairs", form));
        }
        let bare = name.split([':', '.']).next().unwrap_or(name);
        let bare = percent_decoded(bare);
        if let Some(reserved) = RESERVED_PARAMETERS
            .iter()
            .find(|reserved| reserved.eq_ignore_ascii_case(&bare))
        {
            let help =
                format!("remove `{reserved}`: a feed's limits are set with `start`, `overlap` and `every`");
            return Err(refusal(
                format!("`{reserved}` is set by the courier itself"),
                help,
            ));
        }
    }
    Ok(())
}

fn percent_decoded(name: &str) -> String {
    let pair = format!("{name}=");
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

/// Checks that a secret is referred to, without reading it.
pub(super) fn secret_reference(text: &str) -> Result<(), Refusal> {
    if text.starts_with("env:") || text.starts_with("file:") {
        return Ok(());
    }
    let help = "write \"env:NAME\" or \"file:PATH\" and keep the secret there";
    Err(refusal("a secret must not stand in the configuration", help))
}

/// Reads the secret that `env:NAME` or `file:PATH` refers to; one trailing newline of a file is left out.
pub(super) fn secret(text: &str, folder: &Path, environment: &Environment) -> Result<SecretString, Refusal> {
    let value = secret_text(text, folder, environment)?;
    if value.expose_secret().chars().any(char::is_control) {
        return Err(refusal(
            "the secret holds control characters",
            "keep it on one line, without tabs",
        ));
    }
    Ok(value)
}

/// Reads a secret that may have several lines, as keys in PEM have.
pub(super) fn secret_text(
    text: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<SecretString, Refusal> {
    text_up_to(SECRET_BYTES_MAX, text, folder, environment)
}

/// Reads certificates, or the key of one.
pub(super) fn certificates(
    text: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<SecretString, Refusal> {
    text_up_to(CERTIFICATES_BYTES_MAX, text, folder, environment)
}

fn text_up_to(
    bytes_max: u64,
    text: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<SecretString, Refusal> {
    secret_reference(text)?;
    let value = if let Some(name) = text.strip_prefix("env:") {
        let help = "set it before the start, or refer to another with `env:NAME` or `file:PATH`";
        let shown = if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            name
        } else {
            "…"
        };
        let missing = || refusal(format!("the variable {shown} is not set"), help);
        environment.get(name).ok_or_else(missing)?.to_owned()
    } else {
        secret_file(text.strip_prefix("file:").unwrap_or_default(), folder, bytes_max)?
    };
    if value.is_empty() {
        return Err(refusal(
            "the secret is empty",
            "put the secret into the variable or file that is named here",
        ));
    }
    Ok(SecretString::from(value))
}

/// Checks a token that opens the HTTP face: long enough not to be guessed, and of what a header can carry.
pub(super) fn token(secret: SecretString) -> Result<SecretString, Refusal> {
    let help = "make one with: openssl rand -base64 32";
    let bytes = secret.expose_secret().as_bytes();
    if !TOKEN_BYTES.contains(&bytes.len()) {
        return Err(refusal("the token does not have 16 to 4096 bytes", help));
    }
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(refusal("the token holds more than visible ASCII letters", help));
    }
    Ok(secret)
}

/// What `env:NAME` or `file:PATH` holds now, as it is; nothing for any other text and for what cannot be read.
pub(super) fn referred(text: &str, folder: &Path, environment: &Environment) -> Option<Vec<u8>> {
    if let Some(name) = text.strip_prefix("env:") {
        return environment.get(name).map(|value| value.as_bytes().to_owned());
    }
    let path = folder.join(text.strip_prefix("file:")?);
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > LIST_BYTES_MAX {
        return None;
    }
    std::fs::read(&path).ok()
}

fn secret_file(path: &str, folder: &Path, bytes_max: u64) -> Result<String, Refusal> {
    let help =
        "create it with the secret as its only line, or write another `file:PATH` (relative to this file)";
    let mut value = file_text(path, folder, bytes_max, help)?;
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok(value)
}

/// Reads a list that `file:PATH` names.
pub(super) fn list_file(path: &str, folder: &Path) -> Result<String, Refusal> {
    let help = "create it with one id a line, or write another `file:PATH` (relative to this file)";
    file_text(path, folder, LIST_BYTES_MAX, help)
}

fn file_text(path: &str, folder: &Path, bytes_max: u64, help: &'static str) -> Result<String, Refusal> {
    let full = folder.join(path);
    let readable =
        |error: std::io::Error| refusal(format!("the file cannot be read: {}", error.kind()), help);
    let metadata = std::fs::metadata(&full).map_err(readable)?;
    if !metadata.is_file() {
        return Err(refusal("not a regular file", help));
    }
    if metadata.len() > bytes_max {
        return Err(refusal(
            format!("the file is larger than {bytes_max} bytes"),
            help,
        ));
    }
    String::from_utf8(std::fs::read(&full).map_err(readable)?)
        .map_err(|_| refusal("the file is not UTF-8", help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit_within_their_range() {
        let range = Duration::from_secs(1)..=Duration::from_hours(24);
        for (text, expected) in [
            ("1s", Some(1)),
            ("5m", Some(300)),
            ("24h", Some(86_400)),
            ("1d", Some(86_400)),
            ("0s", None),
            ("2d", None),
            ("60", None),
            ("s", None),
            ("", None),
            ("1.5h", None),
            ("-1s", None),
            ("5 m", None),
            ("5µ", None),
            ("99999999999999999999d", None),
        ] {
            let found = duration(text, &range, "1s and 1d").ok();
            assert_eq!(found, expected.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn private_addresses_and_plain_http_need_a_named_network() {
        let check = |url: &str, allow: &[&str], plain: &[&str]| {
            let nets = |texts: &[&str]| texts.iter().map(|text| network(text).unwrap()).collect();
            let egress = Egress {
                allow_networks: nets(allow),
                plain_http_networks: nets(plain),
            };
            reachable(&Url::parse(url).unwrap(), &egress).is_ok()
        };
        assert!(check("https://ehr.example.com/", &[], &[]));
        assert!(check("https://8.8.8.8/", &[], &[]));
        assert!(!check("http://ehr.example.com/", &[], &[]));
        assert!(check("http://ehr.example.com/", &[], &["10.0.0.0/8"]));
        for private in [
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "[::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "0x7f.1",
        ] {
            assert!(!check(&format!("https://{private}/"), &[], &[]), "{private}");
        }
        assert!(check("https://10.1.2.3/", &["10.1.0.0/16"], &[]));
        assert!(!check("http://10.1.2.3/", &["10.1.0.0/16"], &[]));
        assert!(check("http://10.1.2.3/", &["10.1.0.0/16"], &["10.1.2.0/24"]));
        assert!(!check("http://10.1.2.3/", &[], &["10.1.2.0/24"]));
        assert!(check("http://127.0.0.1:8080/", &["127.0.0.0/8"], &[]));
        assert!(check("http://localhost:8080/", &["127.0.0.0/8"], &[]));
        assert!(!check("http://localhost:8080/", &[], &["10.0.0.0/8"]));
        // What the guard never reaches is refused here already, whatever is named.
        for never in [
            "169.254.169.254",
            "203.0.113.7",
            "[2002:7f00:1::]",
            "[64:ff9b::127.0.0.1]",
        ] {
            let networks = ["169.254.0.0/16", "203.0.113.0/24", "2002::/16", "64:ff9b::/96"];
            assert!(!check(&format!("https://{never}/"), &networks, &[]), "{never}");
        }
        assert!(!check("https://8.8.8.8:25/", &[], &[]));
    }

    #[test]
    fn search_parameters_leave_the_couriers_own_alone() {
        for good in [
            "",
            "status=booked",
            "status=booked&location=7",
            "_tag=a|b",
            "date:missing=false",
        ] {
            assert!(search_parameters(good).is_ok(), "{good}");
        }
        for bad in [
            "status",
            "=x",
            "a=",
            "a=b&",
            "a=b c",
            "_lastUpdated=gt2020",
            "_SORT=x",
            "_count=5",
            "_include:iterate=a",
            "_%73ort=x",
            "a=ü",
            "?a=b",
        ] {
            assert!(search_parameters(bad).is_err(), "{bad}");
        }
    }
}
