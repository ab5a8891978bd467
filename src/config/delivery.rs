//! The `[destinations]` and `[[subscriptions]]` sections, and the references between all sections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use courier_sdk::ConnectionName;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use toml::Spanned;

use super::connection::record_type;
use super::problem::Origin;
use super::raw::{RawConnection, RawDestination, RawSubscription, Text, Texts};
use super::resolve::Context;
use super::suggest::nearest;
use super::value::{self, Refusal, refusal};
use super::{Audit, Connection, Destination, Egress, Target, broker};
use crate::domain::fan_out::{ConnectionSet, ContentLevel, Format, From, Subscription, Topic};
use crate::domain::name::{DestinationName, SubscriptionName};
use crate::domain::retry::DEFAULT_SCHEDULE;

const SECOND: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_hours(7 * 24);
const RETRY_STEPS_MAX: usize = 20;
/// Standard Webhooks asks for keys of this size, in bytes.
const SIGNING_KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The names that the files give, whether or not what they name is valid, and where each stands first.
#[derive(Default)]
pub(super) struct Written {
    connections: BTreeMap<String, String>,
    destinations: BTreeMap<String, String>,
    subscriptions: BTreeMap<SubscriptionName, String>,
}

impl Written {
    /// Adds the names of a file's raw sections; one that another file gave already is a problem.
    pub(super) fn add(
        &mut self,
        connections: &BTreeMap<Text, RawConnection>,
        destinations: &BTreeMap<Text, RawDestination>,
        context: &mut Context<'_>,
    ) {
        for key in connections.keys() {
            once("connections", &mut self.connections, key, context);
        }
        for key in destinations.keys() {
            once("destinations", &mut self.destinations, key, context);
        }
    }

    /// Whether there is no connection at all.
    pub(super) fn names_no_connection(&self) -> bool {
        self.connections.is_empty()
    }
}

fn once(section: &str, places: &mut BTreeMap<String, String>, key: &Text, context: &mut Context<'_>) {
    let name = key.get_ref();
    if let Some(place) = places.get(name) {
        let refused = refusal(
            format!("also in {place}"),
            "give each a name of its own, or remove one of the two",
        );
        context.accept::<()>(Err(refused), key, &format!("{section}.{name}"));
    } else {
        places.insert(name.clone(), context.line(key));
    }
}

pub(super) fn destinations(
    raw: BTreeMap<Text, RawDestination>,
    context: &mut Context<'_>,
) -> BTreeMap<DestinationName, Destination> {
    raw.into_iter()
        .filter_map(|(name, raw)| {
            let destination = destination(&name, &raw, context)?;
            Some((destination.name.clone(), destination))
        })
        .collect()
}

fn destination(key: &Text, raw: &RawDestination, context: &mut Context<'_>) -> Option<Destination> {
    let path = format!("destinations.{}", key.get_ref());
    let name = DestinationName::parse(key.get_ref())
        .map_err(|error| refusal(error.to_string(), "rename it: [destinations.scheduling]"));
    let name = context.accept(name, key, &path);
    let kind = if let Some(kind) = &raw.kind {
        context.word(kind, &format!("{path}.type"), &KINDS, &[])?
    } else {
        let help = "write type = \"webhook\" or \"amqp\"";
        context.missing(key, &format!("{path}.type"), help)?
    };
    foreign_keys(kind, raw, &path, context);
    let egress = context.egress(
        raw.allow_networks.as_ref(),
        raw.plain_http_networks.as_ref(),
        &path,
    );
    let target = match kind {
        Kind::Webhook => webhook(key, raw, &path, egress.as_ref(), context),
        Kind::Amqp => broker::target(key, raw, &path, egress.as_ref(), context),
    };
    let retry = retry(raw.retry.as_ref(), &format!("{path}.retry"), context);
    Some(Destination {
        name: name?,
        target: target?,
        retry: retry?,
        egress: egress?,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Webhook,
    Amqp,
}

const KINDS: [(&str, Kind); 2] = [("webhook", Kind::Webhook), ("amqp", Kind::Amqp)];

/// Refuses keys of the other kind: they would do nothing.
fn foreign_keys(kind: Kind, raw: &RawDestination, path: &str, context: &mut Context<'_>) {
    for (key, text, of) in [
        ("secret", &raw.secret, Kind::Webhook),
        ("exchange", &raw.exchange, Kind::Amqp),
        ("routing_key", &raw.routing_key, Kind::Amqp),
    ] {
        if let Some(text) = text.as_ref().filter(|_| kind != of) {
            let right = if of == Kind::Amqp { "amqp" } else { "webhook" };
            let refused = refusal(
                "this key does not belong to this type",
                format!("remove `{key}`, or write type = \"{right}\""),
            );
            context.accept::<()>(Err(refused), text, &format!("{path}.{key}"));
        }
    }
}

fn webhook(
    key: &Text,
    raw: &RawDestination,
    path: &str,
    egress: Option<&Egress>,
    context: &mut Context<'_>,
) -> Option<Target> {
    let url_path = format!("{path}.url");
    let url = match &raw.url {
        Some(text) => context.accept(value::web_address(text.get_ref()), text, &url_path),
        None => context.missing(key, &url_path, "write url = \"https://hooks.example.com/ehr\""),
    };
    if let (Some(url), Some(egress), Some(text)) = (&url, egress, &raw.url) {
        context.accept(value::reachable(url, egress), text, &url_path);
    }
    let secret_path = format!("{path}.secret");
    let secret = match &raw.secret {
        Some(text) => context.secret(text, &secret_path, |secret| signing_key(&secret)),
        None => context.missing(key, &secret_path, "write secret = \"env:NAME\" or \"file:PATH\""),
    };
    Some(Target::Webhook {
        url: url?,
        secret: secret?,
    })
}

fn signing_key(secret: &SecretString) -> Result<SecretSlice<u8>, Refusal> {
    let help = "make one with: echo \"whsec_$(openssl rand -base64 32)\"";
    let Some(encoded) = secret.expose_secret().strip_prefix("whsec_") else {
        return Err(refusal("the signing key does not start with whsec_", help));
    };
    match STANDARD.decode(encoded) {
        Ok(bytes) if SIGNING_KEY_BYTES.contains(&bytes.len()) => Ok(SecretSlice::from(bytes)),
        Ok(_) => Err(refusal("the signing key does not have 24 to 64 bytes", help)),
        Err(_) => Err(refusal("the signing key is not base64 after whsec_", help)),
    }
}

fn retry(raw: Option<&Texts>, path: &str, context: &mut Context<'_>) -> Option<Vec<Duration>> {
    let Some(raw) = raw else {
        return Some(DEFAULT_SCHEDULE.to_vec());
    };
    let steps = raw.get_ref();
    if !(1..=RETRY_STEPS_MAX).contains(&steps.len()) {
        let refused = refusal(
            format!("not 1 to {RETRY_STEPS_MAX} steps"),
            "write retry = [\"5s\", \"5m\", \"2h\"]",
        );
        return context.accept(Err(refused), raw, path);
    }
    let mut waits = Vec::new();
    for step in steps {
        waits.push(context.accept(
            value::duration(step.get_ref(), &(SECOND..=WEEK), "1s and 7d"),
            step,
            path,
        ));
    }
    waits.into_iter().collect()
}

pub(super) fn subscriptions(
    raw: &[Spanned<RawSubscription>],
    written: &mut Written,
    connections: &BTreeMap<ConnectionName, Connection>,
    context: &mut Context<'_>,
) -> BTreeMap<SubscriptionName, Subscription> {
    let mut all = BTreeMap::new();
    for (index, raw) in raw.iter().enumerate() {
        let path = format!("subscriptions[{index}]");
        let Some(subscription) = subscription(raw, &path, written, context) else {
            continue;
        };
        let origin = raw
            .get_ref()
            .name
            .as_ref()
            .map_or_else(|| Origin::from(raw), Origin::from);
        if all.contains_key(&subscription.name) {
            let refused = refusal(
                "two subscriptions have one name",
                "rename one: its numbers belong to the name",
            );
            context.accept::<()>(Err(refused), origin, &format!("{path}.name"));
            continue;
        }
        if let Some(place) = written.subscriptions.get(&subscription.name) {
            let help = "rename one: its numbers belong to the name";
            let refused = refusal(format!("also in {place}"), help);
            context.accept::<()>(Err(refused), origin, &format!("{path}.name"));
            continue;
        }
        let place = context.line(raw);
        written.subscriptions.insert(subscription.name.clone(), place);
        if context.problems.is_empty() {
            unfed_topic(raw, &subscription, connections, &path, context);
        }
        if subscription.content == ContentLevel::FullResource {
            let (subscription, destination) = (subscription.name.clone(), subscription.destination.clone());
            context.audits.push(Audit::FullResource {
                subscription,
                destination,
            });
        }
        all.insert(subscription.name.clone(), subscription);
    }
    all
}

/// Refuses a topic that none of the subscription's connections follows: it would wait for ever.
fn unfed_topic(
    raw: &Spanned<RawSubscription>,
    subscription: &Subscription,
    connections: &BTreeMap<ConnectionName, Connection>,
    path: &str,
    context: &mut Context<'_>,
) {
    let Topic::Records(record_type) = &subscription.topic else {
        return;
    };
    let feeds = connections
        .values()
        .filter(|connection| subscription.covers(&connection.name))
        .flat_map(|c| &c.feeds);
    let fed: BTreeSet<&str> = feeds.map(|feed| feed.record_type.as_str()).collect();
    if fed.contains(record_type.as_str()) {
        return;
    }
    let help = match nearest(record_type.as_str(), fed.iter().copied()) {
        Some(meant) => format!("write topic = \"{meant}\", or add a feed with record = \"{record_type}\""),
        None => format!("add a feed with record = \"{record_type}\" to one of its connections"),
    };
    let origin = raw
        .get_ref()
        .topic
        .as_ref()
        .map_or_else(|| Origin::from(raw), Origin::from);
    context.problems.add(
        origin,
        &format!("{path}.topic"),
        "no feed of its connections follows this type",
        help,
    );
}

fn subscription(
    raw: &Spanned<RawSubscription>,
    path: &str,
    written: &Written,
    context: &mut Context<'_>,
) -> Option<Subscription> {
    let given = raw.get_ref();
    let name = match &given.name {
        Some(text) => {
            let name = SubscriptionName::parse(text.get_ref())
                .map_err(|error| refusal(error.to_string(), "write name = \"mercy-appointments\""));
            context.accept(name, text, &format!("{path}.name"))
        }
        None => context.missing(
            raw,
            &format!("{path}.name"),
            "write name = \"…\": its numbers belong to it",
        ),
    };
    let connections = named_connections(
        given.connections.as_ref(),
        &format!("{path}.connections"),
        written,
        context,
    );
    let topic = match &given.topic {
        Some(text) => context.accept(topic(text.get_ref()), text, &format!("{path}.topic")),
        None => Some(Topic::Any),
    };
    let from = match &given.from {
        Some(text) => {
            let known = [("now", From::Now), ("beginning", From::Beginning)];
            context.word(text, &format!("{path}.from"), &known, &[])
        }
        None => Some(From::Now),
    };
    let detail = match &given.content {
        Some(text) => {
            let known = [
                ("empty", ContentLevel::Empty),
                ("id-only", ContentLevel::IdOnly),
                ("full-resource", ContentLevel::FullResource),
            ];
            context.word(text, &format!("{path}.content"), &known, &[])
        }
        None => Some(ContentLevel::IdOnly),
    };
    order(given, path, context);
    let format = format_of(given, path, context);
    let destination = match &given.destination {
        Some(text) => reference(
            text,
            "destinations",
            &written.destinations,
            &format!("{path}.destination"),
            context,
        )
        .and_then(|name| DestinationName::parse(name).ok()),
        None => context.missing(
            raw,
            &format!("{path}.destination"),
            "write destination = \"…\", the name of one",
        ),
    };
    Some(Subscription {
        name: name?,
        connections: connections?,
        topic: topic?,
        from: from?,
        content: detail?,
        format: format?,
        destination: destination?,
    })
}

const FORMATS: [(&str, Format); 2] = [
    ("cloudevents", Format::CloudEvents),
    ("cloudevents-binary", Format::CloudEventsBinary),
];

fn format_of(given: &RawSubscription, path: &str, context: &mut Context<'_>) -> Option<Format> {
    let Some(text) = &given.format else {
        return Some(Format::CloudEvents);
    };
    let later = ["fhir-r4", "fhir-r4b", "fhir-r5", "redox"];
    context.word(text, &format!("{path}.format"), &FORMATS, &later)
}

/// Refuses orders that are not built: there is one for now.
fn order(given: &RawSubscription, path: &str, context: &mut Context<'_>) {
    if let Some(text) = &given.order {
        let later = ["latest-only", "strict", "none"];
        context.word(text, &format!("{path}.order"), &[("per-record", ())], &later);
    }
}

fn topic(text: &str) -> Result<Topic, Refusal> {
    if text == "*" {
        return Ok(Topic::Any);
    }
    record_type(text).map(Topic::Records).map_err(|_| {
        let help = "write a record type such as \"Appointment\", or \"*\"";
        refusal("topics by name or canonical URL are not built yet", help)
    })
}

fn named_connections(
    raw: Option<&Texts>,
    path: &str,
    written: &Written,
    context: &mut Context<'_>,
) -> Option<ConnectionSet> {
    let Some(raw) = raw else {
        return Some(ConnectionSet::All);
    };
    let names = raw.get_ref();
    if let [only] = names.as_slice()
        && only.get_ref() == "*"
    {
        return Some(ConnectionSet::All);
    }
    if names.is_empty() || names.iter().any(|name| name.get_ref() == "*") {
        let refused = refusal(
            "neither names nor \"*\" alone",
            "write [\"*\"] for all, or their names",
        );
        return context.accept(Err(refused), raw, path);
    }
    let mut found = BTreeSet::new();
    let mut complete = true;
    for text in names {
        match reference(text, "connections", &written.connections, path, context)
            .and_then(|name| ConnectionName::parse(name).ok())
        {
            Some(name) if found.contains(&name) => {
                let refused = refusal("the same connection twice", "write each name once");
                context.accept::<()>(Err(refused), text, path);
            }
            Some(name) => {
                found.insert(name);
            }
            None => complete = false,
        }
    }
    complete.then_some(ConnectionSet::Named(found))
}

/// Returns the name that a reference gives, if the file has it.
fn reference<'a>(
    text: &'a Text,
    section: &str,
    written: &BTreeMap<String, String>,
    path: &str,
    context: &mut Context<'_>,
) -> Option<&'a str> {
    let name = text.get_ref().as_str();
    if written.contains_key(name) {
        return Some(name);
    }
    if context.problems.name(&format!("{section}.{name}")) {
        return None;
    }
    let help = match nearest(name, written.keys().map(String::as_str)) {
        Some(meant) => format!("write \"{meant}\", or add [{section}.{name}]"),
        None => format!("add [{section}.{name}], or write the name of another"),
    };
    context.accept(
        Err(refusal(format!("there is no [{section}.{name}]"), help)),
        text,
        path,
    )
}
