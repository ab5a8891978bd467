//! The `[connections]` section: source systems, their credentials, limits and feeds.

use std::collections::BTreeMap;
use std::time::Duration;

use courier_sdk::{ConnectionName, Detect, FeedName, FetchMode, Ids, Include, RecordType, Roster, Start};
use jiff::Timestamp;
use toml::Spanned;
use url::Url;

use super::problem::Origin;
use super::raw::{RawConnection, RawFeed, Text};
use super::resolve::Context;
use super::suggest::nearest;
use super::value::{self, Refusal, refusal};
use super::{Audit, Auth, Connection, Feed, auth, limits, record, route, scope};
use crate::domain::ledger::Unchanged;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
/// Hospitals' servers stand a poll a minute; it is the interval that vendors' guides use.
const EVERY_DEFAULT: Duration = Duration::from_mins(1);
/// Covers the late commits that were seen with real servers.
const OVERLAP_DEFAULT: Duration = Duration::from_mins(5);
/// A day's late discovery is what a nightly comparison gives, and few pages beside a day's polls.
const RECONCILE_DEFAULT: Reconcile = Reconcile::Every(DAY);
/// What the names of feeds of our own end with, beside the feed that they are for.
const RESERVED_ENDINGS: [&str; 2] = [".sweep", ".backfill"];

/// What a feed takes over from its connection.
#[derive(Debug, Clone, Copy)]
struct Usual<'a> {
    every: Duration,
    reconcile: Reconcile,
    unchanged: Unchanged,
    roster: &'a Roster,
}

/// How often all there is is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reconcile {
    Every(Duration),
    Never,
}

impl Reconcile {
    /// Polls that list everything find what is missing by themselves.
    fn of(self, detect: Detect) -> Option<Duration> {
        match (self, detect) {
            (Self::Every(every), Detect::Auto | Detect::History | Detect::LastUpdated) => Some(every),
            (Self::Every(_), Detect::Window | Detect::Roster | Detect::Read) | (Self::Never, _) => None,
        }
    }
}

pub(super) fn resolve(
    raw: BTreeMap<Text, RawConnection>,
    context: &mut Context<'_>,
) -> BTreeMap<ConnectionName, Connection> {
    raw.into_iter()
        .filter_map(|(name, raw)| {
            let connection = connection(&name, &raw, context)?;
            Some((connection.name.clone(), connection))
        })
        .collect()
}

fn connection(key: &Text, raw: &RawConnection, context: &mut Context<'_>) -> Option<Connection> {
    let path = format!("connections.{}", key.get_ref());
    let name = ConnectionName::parse(key.get_ref())
        .map_err(|error| refusal(error.to_string(), "rename it: [connections.mercy]"));
    let name = context.accept(name, key, &path);
    if let Some(connector) = &raw.connector {
        let later = ["rest", "athenaone", "atomfeed", "aidbox"];
        context.word(connector, &format!("{path}.connector"), &[("fhir", ())], &later);
    }
    let profile = profile(raw.profile.as_ref(), &path, context);
    let every = every(raw.every.as_ref(), &path, EVERY_DEFAULT, context);
    let sweeps = reconcile(raw.reconcile.as_ref(), &path, RECONCILE_DEFAULT, context);
    let told = unchanged(raw.unchanged.as_ref(), &path, Unchanged::Tell, context);
    let egress = context.egress(
        raw.allow_networks.as_ref(),
        raw.plain_http_networks.as_ref(),
        &path,
    );
    let base_url = base_url(key, raw, &path, context);
    if let (Some(url), Some(egress), Some(text)) = (&base_url, &egress, &raw.base_url) {
        context.accept(value::reachable(url, egress), text, &format!("{path}.base_url"));
    }
    let auth = raw.auth.as_ref().map_or(Some(Auth::None), |raw| {
        let place = (key.get_ref().as_str(), format!("{path}.auth"));
        auth::resolve(raw, (place.0, &place.1), egress.as_ref(), context)
    });
    let route = route::resolve(raw, &path, egress.as_ref(), context);
    if raw.proxy.is_some() {
        only_https(raw, &path, context);
    }
    let limits = limits::resolve(raw.limits.as_ref(), &format!("{path}.limits"), context);
    let roster = scope::roster(raw.roster.as_ref(), &path, context);
    // Where the roster is refused, its feeds are not refused for want of one.
    let assumed = roster.clone().unwrap_or(Roster::Patients(Ids::default()));
    let usual = Usual {
        every: every.unwrap_or(EVERY_DEFAULT),
        reconcile: sweeps.unwrap_or(RECONCILE_DEFAULT),
        unchanged: told.unwrap_or_default(),
        roster: &assumed,
    };
    let feeds = feeds(key, raw, usual, context);
    roster.as_ref()?;
    Some(Connection {
        name: name?,
        profile: profile?,
        base_url: base_url?,
        every: every?,
        auth: auth?,
        limits: limits?,
        egress: egress?,
        route: route?,
        feeds: feeds?,
    })
}

/// Refuses plain http where a proxy stands between: it would read all that passes.
fn only_https(raw: &RawConnection, path: &str, context: &mut Context<'_>) {
    let auth = raw.auth.as_ref().map(Spanned::get_ref);
    let token_url = auth.and_then(|auth| auth.token_url.as_ref());
    for (text, key) in [(raw.base_url.as_ref(), "base_url"), (token_url, "auth.token_url")] {
        let Some(text) = text.filter(|text| text.get_ref().starts_with("http:")) else {
            continue;
        };
        let refused = refusal(
            "plain http is not sent through a proxy",
            "write https, or remove `proxy`",
        );
        context.accept::<()>(Err(refused), text, &format!("{path}.{key}"));
    }
}

fn profile(text: Option<&Text>, path: &str, context: &mut Context<'_>) -> Option<String> {
    let known = context.surroundings.known_profiles;
    let Some(text) = text else {
        return Some("generic".to_owned());
    };
    let name = text.get_ref();
    if known.contains(&name.as_str()) {
        return Some(name.clone());
    }
    let help = match nearest(name, known.iter().copied()) {
        Some(meant) => format!("write \"{meant}\""),
        None => format!("write one of {}", known.join(", ")),
    };
    context.accept(
        Err(refusal("unknown profile", help)),
        text,
        &format!("{path}.profile"),
    )
}

pub(super) fn every(
    text: Option<&Text>,
    path: &str,
    default: Duration,
    context: &mut Context<'_>,
) -> Option<Duration> {
    let Some(text) = text else {
        return Some(default);
    };
    let every = value::duration(text.get_ref(), &(SECOND..=DAY), "1s and 1d");
    context.accept(every, text, &format!("{path}.every"))
}

fn reconcile(
    text: Option<&Text>,
    path: &str,
    default: Reconcile,
    context: &mut Context<'_>,
) -> Option<Reconcile> {
    let Some(text) = text else {
        return Some(default);
    };
    if text.get_ref() == "off" {
        return Some(Reconcile::Never);
    }
    let every = value::duration(text.get_ref(), &(MINUTE..=30 * DAY), "1m and 30d, or \"off\"");
    context
        .accept(every, text, &format!("{path}.reconcile"))
        .map(Reconcile::Every)
}

fn unchanged(
    text: Option<&Text>,
    path: &str,
    default: Unchanged,
    context: &mut Context<'_>,
) -> Option<Unchanged> {
    let Some(text) = text else {
        return Some(default);
    };
    let known = [("tell", Unchanged::Tell), ("suppress", Unchanged::Suppress)];
    context.word(text, &format!("{path}.unchanged"), &known, &[])
}

/// How far back polls look; for `auto`, at least.
fn overlap(text: Option<&Text>, path: &str, context: &mut Context<'_>) -> Option<Duration> {
    match text {
        Some(text) if text.get_ref() != "auto" => {
            let overlap = value::duration(text.get_ref(), &(Duration::ZERO..=DAY), "0s and 1d");
            context.accept(overlap, text, &format!("{path}.overlap"))
        }
        Some(_) | None => Some(OVERLAP_DEFAULT),
    }
}

fn base_url(key: &Text, raw: &RawConnection, path: &str, context: &mut Context<'_>) -> Option<Url> {
    let path = format!("{path}.base_url");
    let Some(text) = &raw.base_url else {
        return context.missing(key, &path, "write base_url = \"https://ehr.example.com/fhir\"");
    };
    let url = value::web_address(text.get_ref()).and_then(|url| match url.query() {
        None => Ok(url),
        Some(_) => Err(refusal(
            "a base address must not hold a query",
            "remove the `?` and what follows",
        )),
    });
    context.accept(url, text, &path)
}

fn feeds(key: &Text, raw: &RawConnection, usual: Usual<'_>, context: &mut Context<'_>) -> Option<Vec<Feed>> {
    let path = format!("connections.{}.feeds", key.get_ref());
    let raw = raw.feeds.as_deref().unwrap_or_default();
    if raw.is_empty() {
        let help = format!("add [[{path}]] with record = \"Appointment\"");
        return context.missing(key, &path, &help);
    }
    let mut feeds: Vec<Option<Feed>> = Vec::new();
    for (index, written) in raw.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let found = feed(written, &path, usual, context);
        let double = found
            .as_ref()
            .and_then(|found| feeds.iter().flatten().find(|other| other.name == found.name));
        if double.is_some() {
            let raw = written.get_ref();
            let named = raw.name.as_ref().or(raw.record.as_ref());
            let origin = named.map_or_else(|| Origin::from(written), Origin::from);
            let help = "give each feed a `name` of its own: the cursor belongs to it";
            let refused = refusal("two feeds of this connection have one name", help);
            context.accept::<()>(Err(refused), origin, &format!("{path}.name"));
        }
        feeds.push(found);
    }
    feeds.into_iter().collect()
}

fn feed(raw: &Spanned<RawFeed>, path: &str, usual: Usual<'_>, context: &mut Context<'_>) -> Option<Feed> {
    let written = raw.get_ref();
    let record_type = match &written.record {
        Some(text) => context.accept(followed_type(text.get_ref()), text, &format!("{path}.record")),
        None => context.missing(raw, &format!("{path}.record"), "write record = \"Appointment\""),
    };
    let name = written.name.as_ref().map(|text| {
        let name = feed_name(text.get_ref());
        context.accept(name, text, &format!("{path}.name"))
    });
    let every = every(written.every.as_ref(), path, usual.every, context);
    let filter = match &written.filter {
        Some(text) => {
            let checked = value::search_parameters(text.get_ref()).map(|()| text.get_ref().clone());
            context.accept(checked, text, &format!("{path}.where"))
        }
        None => Some(String::new()),
    };
    let found = scope::resolve(written, filter.as_deref(), usual.roster, path, context);
    let overlap = overlap(written.overlap.as_ref(), path, context);
    let adapts = written
        .overlap
        .as_ref()
        .is_none_or(|text| text.get_ref() == "auto");
    let sweeps = reconcile(written.reconcile.as_ref(), path, usual.reconcile, context);
    let told = unchanged(written.unchanged.as_ref(), path, usual.unchanged, context);
    let start = match &written.start {
        Some(text) => {
            let start = start(text.get_ref(), context.surroundings.now);
            context.accept(start, text, &format!("{path}.start"))
        }
        None => Some(Start::Now),
    };
    let fetch = match &written.fetch {
        Some(text) => {
            let known = [("page", FetchMode::FromPage), ("read", FetchMode::ByRead)];
            context.word(text, &format!("{path}.fetch"), &known, &[])
        }
        None => Some(FetchMode::FromPage),
    };
    let include = include(written.include.as_deref(), record_type.as_ref(), path, context);
    let record_type = record_type?;
    if !record::is_known(record_type.as_str()) {
        context.audits.push(Audit::UnknownType {
            place: path.to_owned(),
            record_type: record_type.clone(),
        });
    }
    let found = found?;
    let name = match name {
        Some(name) => name?,
        None => FeedName::parse(record_type.as_str()).ok()?,
    };
    Some(Feed {
        name,
        record_type,
        every: every?,
        filter: filter?,
        start: start?,
        overlap: overlap?,
        adapts,
        reconcile: sweeps?.of(found.detect),
        unchanged: told?,
        fetch: fetch?,
        detect: found.detect,
        include: include?,
        scope: found.scope,
    })
}

/// Parses a feed's name. Beside a feed there are others of our own, whose names end in a way of their own.
fn feed_name(text: &str) -> Result<FeedName, Refusal> {
    let help = "write name = \"appointments\"";
    if let Some(ending) = RESERVED_ENDINGS.iter().find(|ending| text.ends_with(**ending)) {
        let message = format!("names that end in {ending} are the courier's own");
        return Err(refusal(message, help));
    }
    let longest = RESERVED_ENDINGS.map(|ending| FeedName::parse(&format!("{text}{ending}")));
    let name = longest
        .into_iter()
        .find_map(Result::err)
        .map_or_else(|| FeedName::parse(text), Err);
    name.map_err(|error| refusal(error.to_string(), help))
}

/// Parses the type that a feed follows: a mistyped one would be polled in vain.
fn followed_type(text: &str) -> Result<RecordType, Refusal> {
    match record::meant(text) {
        Some(meant) => Err(refusal("FHIR knows no such type", format!("write \"{meant}\""))),
        None => record_type(text),
    }
}

fn include(
    raw: Option<&[Text]>,
    record_type: Option<&RecordType>,
    path: &str,
    context: &mut Context<'_>,
) -> Option<Vec<Include>> {
    let mut includes = Vec::new();
    for (index, text) in raw.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.include[{index}]");
        let include = Include::parse(text.get_ref())
            .map_err(|error| refusal(error.to_string(), "write include = [\"Appointment:patient\"]"))
            .and_then(|include| known_include(include, record_type, context.surroundings.includable));
        includes.push(context.accept(include, text, &path));
    }
    includes.into_iter().collect()
}

fn known_include(
    include: Include,
    record_type: Option<&RecordType>,
    includable: fn(&RecordType) -> Vec<&'static str>,
) -> Result<Include, Refusal> {
    if let Some(of_feed) = record_type
        && include.record_type != *of_feed
    {
        let message = format!("this feed follows {of_feed}");
        return Err(refusal(
            message,
            format!("write \"{of_feed}:{}\"", include.parameter),
        ));
    }
    let known = includable(&include.record_type);
    if known.contains(&include.parameter.as_str()) {
        return Ok(include);
    }
    let help = match nearest(&include.parameter, known.iter().copied()) {
        Some(meant) => format!("write \"{}:{meant}\"", include.record_type),
        None if known.is_empty() => "leave it out: no reference of this type can be followed".to_owned(),
        None => format!("write one of {}", known.join(", ")),
    };
    Err(refusal("unknown reference", help))
}

/// Parses a FHIR record type: letters and digits after a capital.
pub(super) fn record_type(text: &str) -> Result<RecordType, Refusal> {
    let help = "write the type as FHIR names it: \"Appointment\", \"DiagnosticReport\"";
    let shaped =
        text.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(|c| c.is_ascii_alphanumeric());
    if !shaped {
        return Err(refusal("not a record type", help));
    }
    RecordType::parse(text).map_err(|error| refusal(error.to_string(), help))
}

fn start(text: &str, now: Timestamp) -> Result<Start, Refusal> {
    match text {
        "now" => return Ok(Start::Now),
        "beginning" => return Ok(Start::Beginning),
        _ => {}
    }
    match text.parse::<Timestamp>() {
        Ok(instant) if instant > now => Err(refusal(
            "this instant is in the future",
            "write \"now\", or an instant that has passed",
        )),
        Ok(instant) => Ok(Start::At(instant)),
        Err(_) => Err(refusal(
            "neither a word nor an instant",
            "write \"now\", \"beginning\" or an instant with its offset: \"2026-01-31T00:00:00Z\"",
        )),
    }
}
