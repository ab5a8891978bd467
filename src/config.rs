//! Configuration: `courier.toml` becomes a [`Config`], complete and valid, or is refused.
//!
//! Everything is parsed before anything is opened or bound: names, durations, addresses and secrets are
//! resolved, references hold, unsafe combinations are refused. A refusal lists every problem that can be
//! found, each with file, line, key and remedy, and shows no secret. A key whose feature is not built is
//! refused, never ignored. This module knows nothing of stores, connectors or sockets.

mod auth;
mod broker;
mod connection;
mod credentials;
mod dedup;
mod delivery;
mod environment;
mod fingerprint;
mod keys;
mod limits;
mod parts;
mod problem;
mod raw;
mod record;
mod resolve;
mod route;
mod scope;
mod source;
mod state;
mod suggest;
mod telemetry;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use courier_sdk::{ConnectionName, Detect, FeedName, FeedSpec, FetchMode, Include, RecordType, Scope, Start};
use ipnet::IpNet;
use jiff::Timestamp;
use secrecy::{SecretSlice, SecretString};
use url::Url;

use crate::domain::calendar::Calendar;
use crate::domain::fan_out::Subscription;
use crate::domain::ledger::Unchanged;
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::egress::dial::Broker;
use crate::egress::route::Route;
use crate::wire::routing_key::Template;
pub use credentials::{Auth, NamedKey, OAuth, Proof, Refresh};
pub use environment::Environment;
use fingerprint::Fingerprints;
pub use problem::ConfigErrors;
pub use raw::schema;

/// What a configuration is read against.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The process environment: overrides and `env:` secrets.
    pub environment: &'a Environment,
    /// The names of the profiles that the connectors bring.
    pub known_profiles: &'a [&'a str],
    /// The references of a record type that can be followed.
    pub includable: fn(&RecordType) -> Vec<&'static str>,
    /// The current wall time; a feed cannot start after it.
    pub now: Timestamp,
    /// Which secrets are read.
    pub secrets: Secrets<'a>,
}

/// Which secrets are read. Those that are not are empty or `Unread` in the [`Config`]: nothing can be signed or opened
/// with them. That they are references, not literals, is checked all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets<'a> {
    /// All: each must be there.
    Required,
    /// Those of one connection.
    OfConnection(&'a ConnectionName),
    /// Those of one connection, and the key of the state, which seals what is kept of them.
    OfConnectionAndState(&'a ConnectionName),
    /// The key of the state.
    OfState,
    /// None: the configuration is only looked at.
    Unneeded,
}

/// A complete, valid configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the courier keeps its state.
    pub state: State,
    /// What stands in front of the store.
    pub dedup: Dedup,
    /// The HTTP listener.
    pub http: Http,
    /// How the courier is watched.
    pub telemetry: Telemetry,
    /// The source systems; at least one.
    pub connections: BTreeMap<ConnectionName, Connection>,
    /// Where notifications go.
    pub destinations: BTreeMap<DestinationName, Destination>,
    /// Which events go where. Every reference holds.
    pub subscriptions: BTreeMap<SubscriptionName, Subscription>,
    /// Choices that weaken protection and belong in the audit log.
    pub audits: Vec<Audit>,
    /// What a reload compares.
    fingerprints: Fingerprints,
}

/// Where the courier keeps its state.
#[derive(Debug, Clone)]
pub struct State {
    /// The SQLite file; relative paths were joined to the configuration file's folder.
    pub database: PathBuf,
    /// How long settled bodies and events are kept.
    pub retention: Duration,
    /// How bodies and secrets are protected at rest.
    pub key: Key,
}

/// How bodies and secrets are protected at rest. `Debug` shows no key.
#[derive(Debug, Clone)]
pub enum Key {
    /// Not at all: the configuration says so in so many words.
    PlainText,
    /// Encrypted.
    Encrypted {
        /// The key's 32 bytes.
        key: SecretSlice<u8>,
        /// Earlier keys, 32 bytes each, which only open.
        previous: Vec<SecretSlice<u8>>,
    },
    /// The key was not read ([`Secrets`]): no store can be opened.
    Unread,
}

/// What stands in front of the store. `Debug` shows no address: it may hold a password.
#[derive(Debug)]
pub enum Dedup {
    /// A bounded cache of this process.
    InProcess,
    /// A Redis.
    Redis {
        /// Its address: scheme redis or rediss, a host, no query, no fragment.
        address: SecretString,
    },
}

/// The HTTP listener. `Debug` shows no token.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address to listen on; a loopback one, unless there are tokens.
    pub listen: SocketAddr,
    /// The bearer tokens that open it; none leave it open.
    pub tokens: Vec<SecretString>,
}

/// How the courier is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// How log lines are written.
    pub log: LogFormat,
    /// Where traces go; absent where nothing is traced.
    pub traces: Option<Traces>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// As text on a terminal, as JSON lines elsewhere.
    #[default]
    Auto,
    /// As text.
    Text,
    /// As JSON lines.
    Json,
}

/// Where traces go, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// The base address of an OTLP/HTTP collector, without query.
    pub collector: Url,
    /// How many of a hundred polls that show something new are traced; 1 to 100.
    pub percent: u8,
}

/// One source system.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub name: ConnectionName,
    /// The vendor's constants, by a known profile's name.
    pub profile: String,
    /// The address below which the records lie; no user info, query or fragment.
    pub base_url: Url,
    /// How often a feed is polled unless it says otherwise.
    pub every: Duration,
    /// The credentials.
    pub auth: Auth,
    /// How hard the source may be worked.
    pub limits: Limits,
    /// Which networks may be reached.
    pub egress: Egress,
    /// Whom it trusts, what it shows of itself, and through which proxy it goes.
    pub route: Route,
    /// The kinds of record to follow; at least one, names unique.
    pub feeds: Vec<Feed>,
}

/// How hard a source may be worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second, if limited.
    pub requests_per_second: Option<NonZeroU32>,
    /// Requests in any 24 hours, if limited; at least 24.
    pub requests_per_day: Option<NonZeroU32>,
    /// Requests at the same time.
    pub concurrent: NonZeroUsize,
    /// From how many times the usual on the new versions of one poll are a storm; `None` for never.
    pub storm: Option<NonZeroU32>,
    /// When it is asked less, or not at all.
    pub calendar: Calendar,
}

/// Which networks may be reached beside the public ones over https.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Private and loopback networks that may be reached; loopback ones also over plain http.
    pub allow_networks: Vec<IpNet>,
    /// Networks that may be reached over plain http.
    pub plain_http_networks: Vec<IpNet>,
}

/// One kind of record to follow. `Debug` leaves the search parameters out: they can name patients.
#[derive(Clone, PartialEq, Eq)]
pub struct Feed {
    /// Its name, to which the cursor belongs.
    pub name: FeedName,
    /// The kind of record.
    pub record_type: RecordType,
    /// How often it is polled.
    pub every: Duration,
    /// Further search parameters, or empty.
    pub filter: String,
    /// Where it begins when it has no cursor.
    pub start: Start,
    /// How far back of the cursor each poll looks again; where that adapts, at least.
    pub overlap: Duration,
    /// Whether it adapts to how late the source shows changes.
    pub adapts: bool,
    /// How often all there is is listed, to find what every poll missed; `None` for never.
    pub reconcile: Option<Duration>,
    /// Whether a version with the content of its record's last one is told of.
    pub unchanged: Unchanged,
    /// Whether the record is taken from the page or read by itself.
    pub fetch: FetchMode,
    /// How changes are to be found.
    pub detect: Detect,
    /// Which references of a record are followed.
    pub include: Vec<Include>,
    /// Which records it looks at.
    pub scope: Scope,
}

impl Feed {
    /// Returns what a connector needs to know of this feed.
    #[must_use]
    pub fn spec(&self) -> FeedSpec {
        FeedSpec {
            name: self.name.clone(),
            record_type: self.record_type.clone(),
            filter: self.filter.clone(),
            start: self.start,
            overlap: self.overlap,
            fetch: self.fetch,
            detect: self.detect,
            include: self.include.clone(),
            scope: self.scope.clone(),
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Feed({} of {}, every {} s)",
            self.name,
            self.record_type,
            self.every.as_secs()
        )
    }
}

/// Where notifications go.
#[derive(Debug)]
pub struct Destination {
    /// Its name.
    pub name: DestinationName,
    /// What it is, with what that kind needs.
    pub target: Target,
    /// The waits between attempts, 1 to 20 of them.
    pub retry: Vec<Duration>,
    /// Which networks may be reached.
    pub egress: Egress,
}

/// The kinds of destination. `Debug` shows the host only: a path can be a secret, a broker's address holds one.
pub enum Target {
    /// A webhook.
    Webhook {
        /// The address to post to.
        url: Url,
        /// The signing key's bytes, 24 to 64.
        secret: SecretSlice<u8>,
    },
    /// An exchange of an AMQP 0-9-1 broker.
    Amqp(AmqpTarget),
}

/// An exchange of a broker.
#[derive(Debug)]
pub struct AmqpTarget {
    /// The broker and who we are to it.
    pub broker: Broker,
    /// The exchange, 1 to 255 bytes.
    pub exchange: String,
    /// What the routing key is made of.
    pub routing_key: Template,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook { url, .. } => write!(f, "Webhook({})", url.host_str().unwrap_or("-")),
            Self::Amqp(AmqpTarget { broker, exchange, .. }) => {
                write!(f, "Amqp({exchange} at {})", broker.endpoint.host)
            }
        }
    }
}

/// A choice that weakens protection or may be a mistake. `Display` is one line for the audit log, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// Bodies are kept in plain text.
    PlainTextState,
    /// Nothing is subscribed: changes are recorded and sent to nobody.
    NoSubscriptions,
    /// A connection or destination may be reached in these private or loopback networks.
    AllowedNetworks {
        /// `connections.NAME` or `destinations.NAME`.
        place: String,
        /// The networks.
        networks: Vec<IpNet>,
    },
    /// A feed follows a record type that FHIR does not know.
    UnknownType {
        /// `connections.NAME.feeds[INDEX]`.
        place: String,
        /// The type.
        record_type: RecordType,
    },
    /// A connection or destination may be reached over plain http in these networks.
    PlainHttp {
        /// `connections.NAME` or `destinations.NAME`.
        place: String,
        /// The networks.
        networks: Vec<IpNet>,
    },
    /// A subscription sends whole records.
    FullResource {
        /// The subscription.
        subscription: SubscriptionName,
        /// Where it sends them.
        destination: DestinationName,
    },
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |networks: &[IpNet]| {
            networks
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Self::NoSubscriptions => {
                write!(
                    f,
                    "subscriptions: there is none, so changes are recorded and sent to nobody"
                )
            }
            Self::PlainTextState => write!(f, "state.key: bodies are kept in plain text"),
            Self::AllowedNetworks { place, networks } => write!(f, "{place}: may reach {}", list(networks)),
            Self::UnknownType { place, record_type } => write!(
                f,
                "{place}.record: FHIR knows no {record_type}; the server must have a type of its own by this name"
            ),
            Self::PlainHttp { place, networks } => write!(f, "{place}: plain http in {}", list(networks)),
            Self::FullResource {
                subscription,
                destination,
            } => {
                write!(
                    f,
                    "subscriptions.{subscription}: sends whole records to {destination}"
                )
            }
        }
    }
}

/// Reads a configuration file, and the files of the folder `courier.d` beside it.
///
/// # Errors
/// [`ConfigErrors`] with every problem that was found; the caller prints it and exits with 78.
pub fn load(path: &Path, surroundings: &Surroundings<'_>) -> Result<Config, ConfigErrors> {
    resolve::load(path, surroundings)
}

/// Reads a duration as the configuration writes it, between a second and 366 days.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_hours(366 * 24);
    value::duration(text, &range, "1s and 366d").map_err(|refusal| refusal.help)
}

/// Reads a configuration from a text that stands for the file at `path`.
///
/// # Errors
/// Those of [`load`], except what concerns the file itself.
pub fn from_text(path: &Path, text: &str, surroundings: &Surroundings<'_>) -> Result<Config, ConfigErrors> {
    resolve::from_texts(&[(path.to_owned(), text.to_owned())], surroundings)
}
