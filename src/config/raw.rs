//! `courier.toml` as it is written: names of keys and kinds of values, nothing resolved.
//!
//! These structs are the one truth about which keys exist: the JSON Schema is generated from them and the
//! loader refuses keys by that schema. They know nothing of ranges, references or files.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::telemetry::RawTelemetry;

/// A text with its place in the file.
pub(super) type Text = Spanned<String>;
/// A list with its place in the file, each element with its own.
pub(super) type Texts = Spanned<Vec<Text>>;
/// A whole number with its place in the file.
pub(super) type Number = Spanned<i64>;

/// Configuration of EHR Courier.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Where the courier keeps its state.
    pub(super) state: Option<RawState>,
    /// What stands in front of the store. Without it an in-process cache does.
    pub(super) dedup: Option<RawDedup>,
    /// The HTTP listener.
    pub(super) http: Option<RawHttp>,
    /// How the courier is watched.
    pub(super) telemetry: Option<RawTelemetry>,
    /// The source systems, by name.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, RawConnection>>")]
    pub(super) connections: BTreeMap<Text, RawConnection>,
    /// Where notifications go, by name.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, RawDestination>>")]
    pub(super) destinations: BTreeMap<Text, RawDestination>,
    /// Which events go to which destination, and how.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RawSubscription>>")]
    pub(super) subscriptions: Vec<Spanned<RawSubscription>>,
}

/// Where the courier keeps its state.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawState {
    /// The database: `sqlite://` and a path, relative to this file. Required (here or as `COURIER__STATE__URL`).
    #[schemars(with = "Option<String>")]
    pub(super) url: Option<Text>,
    /// How long settled bodies and events are kept: 1h to 3650d. Default: 7d.
    #[schemars(with = "Option<String>")]
    pub(super) retention: Option<Text>,
    /// The key that encrypts bodies, cursors and links at rest: `env:NAME` or `file:PATH` of 32 bytes in base64, or
    /// "none": you accept plain text. Required.
    #[schemars(with = "Option<String>", regex(pattern = "^(none$|(env|file):)"))]
    pub(super) key: Option<Text>,
    /// Earlier keys, which still open what they sealed: `env:NAME` or `file:PATH` each. Default: none.
    #[schemars(with = "Option<Vec<String>>", inner(regex(pattern = "^(env|file):")))]
    pub(super) previous_keys: Option<Texts>,
}

/// What stands in front of the store and spares it look-ups.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDedup {
    /// A Redis: `redis://` or `rediss://`, a host, a port and a database number; with a password `env:NAME` or
    /// `file:PATH`. Required in this section (here or as `COURIER__DEDUP__URL`).
    #[schemars(with = "Option<String>")]
    pub(super) url: Option<Text>,
}

/// The HTTP listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    /// The address and port to listen on; off loopback `tokens` are required. Default: 127.0.0.1:8080.
    #[schemars(with = "Option<String>")]
    pub(super) listen: Option<Text>,
    /// The bearer tokens (16 to 4096 bytes) that open all but health and public keys: `env:NAME` or `file:PATH`,
    /// 1 to 64 of them. Default: none, and the listener is open to this machine.
    #[schemars(with = "Option<Vec<String>>", length(min = 1, max = 64))]
    pub(super) tokens: Option<Texts>,
}

/// One source system.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConnection {
    /// The protocol. Default: fhir.
    #[schemars(with = "Option<String>", extend("enum" = ["fhir"]))]
    pub(super) connector: Option<Text>,
    /// The vendor's constants. Default: generic.
    #[schemars(with = "Option<String>")]
    pub(super) profile: Option<Text>,
    /// The address below which the records lie, without query. Required.
    #[schemars(with = "String")]
    pub(super) base_url: Option<Text>,
    /// How often each feed is polled: 1s to 1d. Default: 60s.
    #[schemars(with = "Option<String>")]
    pub(super) every: Option<Text>,
    /// How often each feed's records are all listed, to find what every poll missed: 1m to 30d, or off. Default: 24h.
    #[schemars(with = "Option<String>")]
    pub(super) reconcile: Option<Text>,
    /// Whether a version with the content of its record's last one is told of: tell or suppress. Default: tell.
    #[schemars(with = "Option<String>", extend("enum" = ["tell", "suppress"]))]
    pub(super) unchanged: Option<Text>,
    /// The credentials. Default: none.
    #[schemars(with = "Option<RawAuth>")]
    pub(super) auth: Option<Spanned<RawAuth>>,
    /// Whom it trusts and what it shows over TLS, in requests for tokens too. Default: the machine's authorities.
    #[schemars(with = "Option<RawTls>")]
    pub(super) tls: Option<Spanned<RawTls>>,
    /// The proxy through which all its requests go, those for tokens too. Default: none.
    #[schemars(with = "Option<RawProxy>")]
    pub(super) proxy: Option<Spanned<RawProxy>>,
    /// How hard the source may be worked.
    pub(super) limits: Option<RawLimits>,
    /// Private and loopback networks that may be reached.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) allow_networks: Option<Texts>,
    /// Networks that may be reached over plain http.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) plain_http_networks: Option<Texts>,
    /// The patients whose records are listed, for servers that show some types only for a named patient: `file:PATH` (one
    /// id a line) or `Group/ID`, whose members the source keeps. Default: none.
    #[schemars(with = "Option<String>", regex(pattern = "^(file:|Group/)"))]
    pub(super) roster: Option<Text>,
    /// The kinds of record to follow. Required, at least one.
    #[schemars(with = "Vec<RawFeed>", length(min = 1))]
    pub(super) feeds: Option<Vec<Spanned<RawFeed>>>,
}

/// The credentials for a source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    /// How to authenticate. Required.
    #[serde(rename = "type")]
    #[schemars(with = "String", extend("enum" = ["none", "basic", "bearer", "api-key", "oauth2", "smart-backend-services", "refresh-token"]))]
    pub(super) kind: Option<Text>,
    /// The user name (basic).
    #[schemars(with = "Option<String>")]
    pub(super) user: Option<Text>,
    /// The password (basic): `env:NAME` or `file:PATH`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) password: Option<Text>,
    /// The token (bearer): `env:NAME` or `file:PATH`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) token: Option<Text>,
    /// The header's name (api-key), for example x-api-key.
    #[schemars(with = "Option<String>")]
    pub(super) header: Option<Text>,
    /// The header's value (api-key): `env:NAME` or `file:PATH`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) value: Option<Text>,
    /// The id under which the courier is registered (oauth2, smart-backend-services, refresh-token).
    #[schemars(with = "Option<String>")]
    pub(super) client_id: Option<Text>,
    /// The client's secret (oauth2, refresh-token): `env:NAME` or `file:PATH`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) client_secret: Option<Text>,
    /// The private key in PEM, RSA or P-384, instead of a secret (oauth2, refresh-token; required for
    /// smart-backend-services): `env:NAME` or `file:PATH`. Its public half is published at /.well-known/jwks.json.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) key: Option<Text>,
    /// The key's id at the source (with key). Default: the key's thumbprint (RFC 7638).
    #[schemars(with = "Option<String>")]
    pub(super) key_id: Option<Text>,
    /// Keys whose public halves are published too: the next one, and the one before (with key). Default: none.
    #[schemars(with = "Option<Vec<RawNamedKey>>", length(max = 16))]
    pub(super) other_keys: Option<Spanned<Vec<Spanned<RawNamedKey>>>>,
    /// Where tokens are granted. Required for oauth2 and refresh-token; smart-backend-services asks the source by
    /// default.
    #[schemars(with = "Option<String>")]
    pub(super) token_url: Option<Text>,
    /// The scopes to ask for, with spaces between (oauth2, smart-backend-services, refresh-token). Default:
    /// system/*.rs for smart-backend-services, else none.
    #[schemars(with = "Option<String>")]
    pub(super) scope: Option<Text>,
    /// The refresh token (refresh-token): `env:NAME` or `file:PATH`. What the server answers in its place is kept
    /// beside the database.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) refresh_token: Option<Text>,
}

/// Whom a connection trusts and what it shows over TLS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// The certificate authorities that are trusted in place of the machine's, in PEM: `file:PATH` or `env:NAME`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) ca: Option<Text>,
    /// Our certificate in PEM, followed by those that lead to its authority: `file:PATH` or `env:NAME`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) client_cert: Option<Text>,
    /// Its private key in PEM, without passphrase: `file:PATH` or `env:NAME`. Required with `client_cert`.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) client_key: Option<Text>,
}

/// An HTTP proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProxy {
    /// Its address, such as `http://proxy.example.com:3128`, or `https://…` where it is spoken to over TLS. Required.
    #[schemars(with = "String")]
    pub(super) url: Option<Text>,
    /// The user that it wants.
    #[schemars(with = "Option<String>")]
    pub(super) user: Option<Text>,
    /// That user's password: `env:NAME` or `file:PATH`. Required with user.
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) password: Option<Text>,
}

/// A key that is published.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamedKey {
    /// The key in PEM, private or public: `env:NAME` or `file:PATH`. Required.
    #[schemars(with = "String", regex(pattern = "^(env|file):"))]
    pub(super) key: Option<Text>,
    /// Its id. Default: its thumbprint (RFC 7638).
    #[schemars(with = "Option<String>")]
    pub(super) key_id: Option<Text>,
}

/// How hard a source may be worked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    /// Requests a second: 1 to 10000. Default: no limit but the source's own.
    #[schemars(with = "Option<i64>", range(min = 1, max = 10_000))]
    pub(super) requests_per_second: Option<Number>,
    /// Requests in any 24 hours, spread over them: 24 to 100000000. Default: no limit.
    #[schemars(with = "Option<i64>", range(min = 24, max = 100_000_000))]
    pub(super) requests_per_day: Option<Number>,
    /// Requests at the same time: 1 to 64. Default: 2.
    #[schemars(with = "Option<i64>", range(min = 1, max = 64))]
    pub(super) concurrent: Option<Number>,
    /// From how many times the usual on the new versions of one poll are a storm: 2 to 1000, or 0 for never. Default: 10.
    #[schemars(with = "Option<i64>", range(min = 0, max = 1000))]
    pub(super) storm: Option<Number>,
    /// The hours in which the source is busy with its own users, and how it is spared then. Default: none.
    #[schemars(with = "Option<RawPeak>")]
    pub(super) peak: Option<Spanned<RawPeak>>,
    /// Hours in which the source is not asked at all, and nothing that fails counts. Default: none.
    #[schemars(with = "Option<Vec<RawWindow>>", length(min = 1, max = 32))]
    pub(super) maintenance: Option<Vec<Spanned<RawWindow>>>,
}

/// Hours of the day on some days of the week.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    /// From when to when, by the clock on the wall: "02:00-03:30"; over midnight where the end is not after the beginning. Required.
    #[schemars(with = "String")]
    pub(super) hours: Option<Text>,
    /// The days on which they begin: "sun", "mon-fri", "sat,sun". Default: every day.
    #[schemars(with = "Option<String>")]
    pub(super) days: Option<Text>,
    /// Where that clock hangs: a name of the tz database, as "America/Chicago" or "UTC". Required.
    #[schemars(with = "String")]
    pub(super) zone: Option<Text>,
}

/// How a source is spared while it is busy; `requests_per_second` or `every`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeak {
    /// From when to when, by the clock on the wall: "07:00-19:00". Required.
    #[schemars(with = "String")]
    pub(super) hours: Option<Text>,
    /// The days on which they begin: "mon-fri". Default: every day.
    #[schemars(with = "Option<String>")]
    pub(super) days: Option<Text>,
    /// Where that clock hangs: a name of the tz database, as "America/Chicago" or "UTC". Required.
    #[schemars(with = "String")]
    pub(super) zone: Option<Text>,
    /// Requests a second meanwhile: 1 to 10000. Default: as otherwise.
    #[schemars(with = "Option<i64>", range(min = 1, max = 10_000))]
    pub(super) requests_per_second: Option<Number>,
    /// Feeds are polled no more often than this meanwhile: 1s to 1d. Default: as otherwise.
    #[schemars(with = "Option<String>")]
    pub(super) every: Option<Text>,
}

/// One kind of record to follow.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFeed {
    /// The record type, for example Appointment. Required.
    #[schemars(with = "String")]
    pub(super) record: Option<Text>,
    /// The feed's name; the cursor belongs to it. Default: the record type; required when two feeds share one.
    #[schemars(with = "Option<String>")]
    pub(super) name: Option<Text>,
    /// How often it is polled: 1s to 1d. Default: the connection's.
    #[schemars(with = "Option<String>")]
    pub(super) every: Option<Text>,
    /// Further search parameters, `key=value` joined by `&`. A record that leaves the filter is no longer seen.
    #[serde(rename = "where")]
    #[schemars(with = "Option<String>")]
    pub(super) filter: Option<Text>,
    /// How changes are detected. auto is the best of these that profile and server offer: history, last-updated, roster
    /// (for types that are shown only for a named patient), window; and read where `ids` are named. Default: auto.
    #[schemars(with = "Option<String>", extend("enum" = ["auto", "history", "last-updated", "window", "roster", "read"]))]
    pub(super) detect: Option<Text>,
    /// The stretch of dates that is listed where changes cannot be searched for. Default: the profile's.
    pub(super) window: Option<RawDateWindow>,
    /// The records that are followed, and no others: `file:PATH`, one id a line. Default: all.
    #[schemars(with = "Option<String>", regex(pattern = "^file:"))]
    pub(super) ids: Option<Text>,
    /// How far back of the cursor each poll looks again: auto (5m, and more where changes come late) or 0s to 1d. Default: auto.
    #[schemars(with = "Option<String>")]
    pub(super) overlap: Option<Text>,
    /// How often all its records are listed, to find what every poll missed: 1m to 30d, or off. Default: the connection's.
    #[schemars(with = "Option<String>")]
    pub(super) reconcile: Option<Text>,
    /// Whether a version with the content of its record's last one is told of: tell or suppress. Default: the connection's.
    #[schemars(with = "Option<String>", extend("enum" = ["tell", "suppress"]))]
    pub(super) unchanged: Option<Text>,
    /// Where a feed without a cursor begins: now, beginning or an instant such as 2026-01-31T00:00:00Z. Default: now.
    #[schemars(with = "Option<String>")]
    pub(super) start: Option<Text>,
    /// References that are followed, as Type:parameter; the records behind them are frozen with each event. Default: none.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) include: Option<Vec<Text>>,
    /// Whether a record is taken from the page that shows it or read by itself. Default: page.
    #[schemars(with = "Option<String>", extend("enum" = ["page", "read"]))]
    pub(super) fetch: Option<Text>,
}

/// A stretch of dates around today.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDateWindow {
    /// The search parameter that holds the date. Default: the profile's for the type.
    #[schemars(with = "Option<String>")]
    pub(super) parameter: Option<Text>,
    /// How far back it reaches: 0d to 730d. Default: the profile's.
    #[schemars(with = "Option<String>")]
    pub(super) past: Option<Text>,
    /// How far ahead it reaches: 0d to 730d. Default: the profile's.
    #[schemars(with = "Option<String>")]
    pub(super) future: Option<Text>,
}

impl RawDateWindow {
    /// The first key that is written.
    pub(super) fn first(&self) -> Option<&Text> {
        [&self.parameter, &self.past, &self.future]
            .into_iter()
            .find_map(Option::as_ref)
    }
}

/// Where notifications go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDestination {
    /// The kind of destination. Required.
    #[serde(rename = "type")]
    #[schemars(with = "String", extend("enum" = ["webhook", "amqp"]))]
    pub(super) kind: Option<Text>,
    /// The address to post to (webhook), or where the broker's address stands (amqp): `env:NAME` or `file:PATH`. Required.
    #[schemars(with = "String")]
    pub(super) url: Option<Text>,
    /// The signing key (`whsec_` and base64 of 24 to 64 bytes): `env:NAME` or `file:PATH`. Required (webhook).
    #[schemars(with = "Option<String>", regex(pattern = "^(env|file):"))]
    pub(super) secret: Option<Text>,
    /// The exchange to publish to, which exists. Required (amqp).
    #[schemars(with = "Option<String>")]
    pub(super) exchange: Option<Text>,
    /// The routing key: text with `{connection}`, `{record_type}`, `{record_id}`, `{change}`. Default: `{connection}.{record_type}.{change}` (amqp).
    #[schemars(with = "Option<String>")]
    pub(super) routing_key: Option<Text>,
    /// The waits between attempts: 1 to 20 steps of 1s to 7d. Default: 5s 30s 5m 30m 2h 5h 10h 14h 20h 24h.
    #[schemars(with = "Option<Vec<String>>", length(min = 1, max = 20))]
    pub(super) retry: Option<Texts>,
    /// Private and loopback networks that may be reached.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) allow_networks: Option<Texts>,
    /// Networks that may be reached over plain http or amqp.
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) plain_http_networks: Option<Texts>,
}

/// Which events go to which destination, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubscription {
    /// The subscription's name; its numbers belong to it. Required.
    #[schemars(with = "String")]
    pub(super) name: Option<Text>,
    /// The connections whose events it gets, or `["*"]`. Default: `["*"]`.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub(super) connections: Option<Texts>,
    /// The record type whose changes it gets, or "*". Default: "*".
    #[schemars(with = "Option<String>")]
    pub(super) topic: Option<Text>,
    /// Where it begins: now or the beginning of the retained log. Default: now.
    #[schemars(with = "Option<String>", extend("enum" = ["now", "beginning"]))]
    pub(super) from: Option<Text>,
    /// How much a notification holds. Default: id-only.
    #[schemars(with = "Option<String>", extend("enum" = ["empty", "id-only", "full-resource"]))]
    pub(super) content: Option<Text>,
    /// How a notification is written. Default: cloudevents.
    #[schemars(with = "Option<String>", extend("enum" = ["cloudevents", "cloudevents-binary"]))]
    pub(super) format: Option<Text>,
    /// Which order is kept. Default: per-record.
    #[schemars(with = "Option<String>", extend("enum" = ["per-record"]))]
    pub(super) order: Option<Text>,
    /// The destination's name. Required.
    #[schemars(with = "String")]
    pub(super) destination: Option<Text>,
}

/// Returns the JSON Schema of `courier.toml`.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings
        .with_transform(WithoutNull)
        .into_generator()
        .into_root_schema_for::<RawConfig>();
    schema.insert("title".to_owned(), Value::from("courier.toml"));
    schema.to_value()
}

/// TOML has no null: an optional key is left out.
#[derive(Debug, Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        let null = Value::from("null");
        if let Some(Value::Array(kinds)) = schema.get_mut("type") {
            kinds.retain(|kind| *kind != null);
            if let [only] = kinds.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(branches)) = schema.get_mut("anyOf") {
            branches.retain(|branch| branch.get("type") != Some(&null));
            if let [Value::Object(only)] = branches.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
        schema.remove("default");
        transform_subschemas(self, schema);
    }
}
