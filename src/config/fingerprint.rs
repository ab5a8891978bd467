//! What a reload compares: a digest of each connection and destination as written, with the secrets it refers to, and
//! of each key of the sections that only a restart can change.
//!
//! Text, not resolved values, is compared: so whatever key is added, an edit of it counts as a change.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use courier_sdk::ConnectionName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problems};
use super::source::Source;
use super::value;
use super::{Config, ConfigErrors, Secrets, Surroundings};
use crate::domain::name::DestinationName;

/// Sections whose entries a reload may add, change and remove.
const CHANGING: [&str; 3] = ["connections", "destinations", "subscriptions"];

/// Keys of the other sections that a reload may change all the same: tokens are rotated.
const ROTATING: [&str; 1] = ["http.tokens"];

/// A digest of what is written in one place. `Debug` shows nothing: secrets went into it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// The digests of a whole configuration.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    connections: BTreeMap<String, Fingerprint>,
    destinations: BTreeMap<String, Fingerprint>,
    tokens: Option<Fingerprint>,
    /// By dotted key, with the place of the key.
    fixed: BTreeMap<String, (Fingerprint, Place)>,
    /// What is read where a fixed key is gone.
    file: String,
}

/// Where a key stands, as a refusal names it.
type Place = ConfigErrors;

impl Fingerprints {
    /// Adds what one file says. Secrets are looked at only where all are needed.
    pub(super) fn add(
        &mut self,
        root: &DeTable<'_>,
        folder: &Path,
        source: &Source,
        surroundings: &Surroundings<'_>,
    ) {
        let print = |value: &Spanned<DeValue<'_>>| fingerprint(value, folder, surroundings);
        if self.file.is_empty() {
            source.name().clone_into(&mut self.file);
        }
        for (section, value) in root {
            let section: &str = section.get_ref();
            let DeValue::Table(table) = value.get_ref() else {
                continue;
            };
            for (key, value) in table {
                let name: &str = key.get_ref();
                let path = format!("{section}.{name}");
                match section {
                    "connections" => {
                        self.connections.insert(name.to_owned(), print(value));
                    }
                    "destinations" => {
                        self.destinations.insert(name.to_owned(), print(value));
                    }
                    _ if CHANGING.contains(&section) => {}
                    _ if ROTATING.contains(&path.as_str()) => self.tokens = Some(print(value)),
                    _ => {
                        let place = changed(Origin::from(key), &path, source);
                        self.fixed.insert(path, (print(value), place));
                    }
                }
            }
        }
    }
}

impl Config {
    /// Whether a connection is configured the same in both.
    #[must_use]
    pub fn keeps_connection(&self, next: &Self, name: &ConnectionName) -> bool {
        let (was, now) = (&self.fingerprints.connections, &next.fingerprints.connections);
        was.get(name.as_str()) == now.get(name.as_str())
    }

    /// Whether a destination is configured the same in both.
    #[must_use]
    pub fn keeps_destination(&self, next: &Self, name: &DestinationName) -> bool {
        let (was, now) = (&self.fingerprints.destinations, &next.fingerprints.destinations);
        was.get(name.as_str()) == now.get(name.as_str())
    }

    /// Whether nothing differs that a reload can change.
    #[must_use]
    pub fn is_same_as(&self, next: &Self) -> bool {
        let (was, now) = (&self.fingerprints, &next.fingerprints);
        was.connections == now.connections
            && was.destinations == now.destinations
            && was.tokens == now.tokens
            && self.subscriptions == next.subscriptions
    }

    /// The keys that differ and that only a restart can change; each with its place and what to do.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> Option<ConfigErrors> {
        let (was, now) = (&self.fingerprints.fixed, &next.fingerprints.fixed);
        let edited = now.iter().filter_map(|(key, (print, place))| {
            let same = was.get(key).is_some_and(|(before, _)| before == print);
            (!same).then(|| place.clone())
        });
        let removed = was.keys().filter(|key| !now.contains_key(*key)).map(|key| {
            let source = Source::new(Path::new(&next.fingerprints.file), "");
            changed(Origin::File, key, &source)
        });
        ConfigErrors::joined(edited.chain(removed))
    }
}

fn changed(origin: Origin, path: &str, source: &Source) -> Place {
    let mut problems = Problems::default();
    let help = "restart the service to apply it, or put back what stood here";
    problems.add(origin, path, "changed, which needs a restart", help);
    problems.into_errors(std::slice::from_ref(source))
}

fn fingerprint(value: &Spanned<DeValue<'_>>, folder: &Path, surroundings: &Surroundings<'_>) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    feed(value.get_ref(), folder, surroundings, &mut context);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Fingerprint(bytes)
}

/// Feeds a value in a form that no other value has: its kind, its length and its parts.
fn feed(value: &DeValue<'_>, folder: &Path, surroundings: &Surroundings<'_>, context: &mut Context) {
    match value {
        DeValue::Table(table) => {
            count(b't', table.len(), context);
            for (key, value) in table {
                text(key.get_ref(), context);
                feed(value.get_ref(), folder, surroundings, context);
            }
        }
        DeValue::Array(array) => {
            count(b'a', array.len(), context);
            for element in array {
                feed(element.get_ref(), folder, surroundings, context);
            }
        }
        DeValue::String(written) => {
            text(written, context);
            if surroundings.secrets == Secrets::Required {
                // A secret that cannot be read refuses the configuration elsewhere.
                let secret = value::referred(written, folder, surroundings.environment);
                bytes(&secret.unwrap_or_default(), context);
            }
        }
        DeValue::Integer(number) => text(number.as_str(), context),
        DeValue::Float(number) => text(number.as_str(), context),
        DeValue::Boolean(choice) => count(b'b', usize::from(*choice), context),
        DeValue::Datetime(time) => text(&time.to_string(), context),
    }
}

fn text(text: &str, context: &mut Context) {
    bytes(text.as_bytes(), context);
}

fn bytes(bytes: &[u8], context: &mut Context) {
    count(b's', bytes.len(), context);
    context.update(bytes);
}

fn count(kind: u8, number: usize, context: &mut Context) {
    context.update(&[kind]);
    context.update(&u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes());
}
