//! From the written file to the valid [`Config`]: the steps, the fixed sections, and what all sections share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::environment::Overrides;
use super::fingerprint::Fingerprints;
use super::problem::{Origin, Problems};
use super::raw::{RawConfig, RawHttp, Text, Texts};
use super::source::Source;
use super::suggest::nearest;
use super::value::{self, Refusal, refusal};
use super::{Audit, Config, ConfigErrors, Egress, Http, Key, Secrets, State, Surroundings};
use super::{connection, dedup, delivery, keys, parts, raw, state, telemetry};

const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
/// One for each who asks, twice while they are changed: each request is compared with all.
const TOKENS_MAX: usize = 64;

/// What resolving a section needs: the surroundings, the file that it stands in, and the problems found so far.
pub(super) struct Context<'a> {
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) folder: &'a Path,
    source: &'a Source,
    pub(super) problems: &'a mut Problems,
    pub(super) audits: Vec<Audit>,
    /// The database and what seals it, once they are known.
    pub(super) state: Option<(PathBuf, Key)>,
}

/// What is known of one file of the configuration beside its values.
struct File {
    folder: PathBuf,
    source: Source,
}

pub(super) fn load(path: &Path, surroundings: &Surroundings<'_>) -> Result<Config, ConfigErrors> {
    from_texts(&parts::read(path)?, surroundings)
}

/// Reads the texts of a configuration, each with its path: the main file's first, then those of `courier.d`.
pub(super) fn from_texts(
    texts: &[(PathBuf, String)],
    surroundings: &Surroundings<'_>,
) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    let mut fingerprints = Fingerprints::default();
    let schema = raw::schema();
    let (mut files, mut raws) = (Vec::new(), Vec::new());
    for (index, (path, text)) in texts.iter().enumerate() {
        problems.enter(index);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut source = Source::new(path, text);
        let root = parse(text, &mut source, &mut problems).and_then(|mut root| {
            if index > 0 {
                keys::check_part(root.get_mut(), &schema, &mut problems);
            }
            keys::check(root.get_mut(), &schema, &mut problems);
            fingerprints.add(root.get_ref(), &folder, &source, surroundings);
            deserialize(root, &mut problems)
        });
        raws.extend(root);
        files.push(File { folder, source });
    }
    problems.enter(0);
    // Where a file cannot be read at all, what it might have said is not known: nothing else can be said of the whole.
    let config = if raws.len() == files.len() {
        resolve(raws, &files, surroundings, &mut problems)
    } else {
        None
    };
    match config {
        Some(config) if problems.is_empty() => Ok(Config {
            fingerprints,
            ..config
        }),
        _ => {
            let sources: Vec<Source> = files.into_iter().map(|file| file.source).collect();
            Err(problems.into_errors(&sources))
        }
    }
}

fn parse<'a>(text: &'a str, source: &mut Source, problems: &mut Problems) -> Option<Spanned<DeTable<'a>>> {
    match DeTable::parse(text) {
        Ok(root) => {
            source.learn(root.get_ref());
            Some(root)
        }
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let help = "text stands in double quotes, lists in [ ], each key once and on its own line";
            problems.add(span, "", format!("not TOML: {}", error.message()), help);
            None
        }
    }
}

fn deserialize(root: Spanned<DeTable<'_>>, problems: &mut Problems) -> Option<RawConfig> {
    let span = root.span();
    let tree = Spanned::new(span.clone(), DeValue::Table(root.into_inner()));
    let raw = RawConfig::deserialize(ValueDeserializer::from(tree)).ok();
    if raw.is_none() {
        problems.add(
            span,
            "",
            "the file cannot be read",
            "compare it with schemas/config.schema.json",
        );
    }
    raw
}

fn resolve(
    raws: Vec<RawConfig>,
    files: &[File],
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    let overrides = Overrides::read(surroundings.environment, problems);
    let main = files.first()?;
    let mut context = Context {
        surroundings,
        folder: &main.folder,
        source: &main.source,
        problems,
        audits: Vec::new(),
        state: None,
    };
    let mut written = delivery::Written::default();
    let (mut connections, mut destinations) = (BTreeMap::new(), BTreeMap::new());
    let (mut fixed, mut subscribing) = (None, Vec::new());
    for (index, (raw, file)) in raws.into_iter().zip(files).enumerate() {
        context.enter(index, file);
        if index == 0 {
            let state = state::resolve(&raw.state.unwrap_or_default(), &overrides, &mut context);
            let kept = |state: &State| (state.database.clone(), state.key.clone());
            context.state = state.as_ref().map(kept);
            let dedup = dedup::resolve(raw.dedup.as_ref(), &overrides, &mut context);
            let http = http(&raw.http.unwrap_or_default(), &overrides, &mut context);
            let telemetry = telemetry::resolve(&raw.telemetry.unwrap_or_default(), &overrides, &mut context);
            fixed = state.zip(dedup).zip(http.zip(telemetry));
        }
        written.add(&raw.connections, &raw.destinations, &mut context);
        connections.extend(connection::resolve(raw.connections, &mut context));
        destinations.extend(delivery::destinations(raw.destinations, &mut context));
        subscribing.push(raw.subscriptions);
    }
    context.enter(0, main);
    if written.names_no_connection() {
        let help = "add [connections.NAME] with a base_url and at least one [[connections.NAME.feeds]]";
        context.missing::<()>(Origin::File, "connections", help);
    }
    let mut subscriptions = BTreeMap::new();
    let any = subscribing.iter().any(|written| !written.is_empty());
    for (index, (raw, file)) in subscribing.iter().zip(files).enumerate() {
        context.enter(index, file);
        let found = delivery::subscriptions(raw, &mut written, &connections, &mut context);
        subscriptions.extend(found);
    }
    if !any {
        context.audits.push(Audit::NoSubscriptions);
    }
    let audits = context.audits;
    let ((state, dedup), (http, telemetry)) = fixed?;
    Some(Config {
        state,
        dedup,
        http,
        telemetry,
        connections,
        destinations,
        subscriptions,
        audits,
        fingerprints: Fingerprints::default(),
    })
}

/// A scalar of a fixed section: the variable that overrides it, else what the file says.
pub(super) fn scalar<'a>(
    key: &str,
    text: Option<&'a Text>,
    overrides: &'a Overrides,
) -> Option<(&'a str, Origin)> {
    overrides
        .get(key)
        .or_else(|| text.map(|text| (text.get_ref().as_str(), Origin::from(text))))
}

fn http(raw: &RawHttp, overrides: &Overrides, context: &mut Context<'_>) -> Option<Http> {
    let tokens = tokens(raw.tokens.as_ref(), context);
    let named = raw
        .tokens
        .as_ref()
        .is_some_and(|tokens| !tokens.get_ref().is_empty());
    let (text, origin) =
        scalar("http.listen", raw.listen.as_ref(), overrides).unwrap_or((LISTEN_DEFAULT, Origin::File));
    let listen = match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() || named => Ok(address),
        Ok(address) => Err(refusal(
            "listening off loopback needs tokens",
            format!(
                "write tokens = [\"env:NAME\"] below [http], or listen = \"127.0.0.1:{}\"",
                address.port()
            ),
        )),
        Err(_) => Err(refusal(
            "not an address and port",
            format!("write listen = \"{LISTEN_DEFAULT}\""),
        )),
    };
    Some(Http {
        listen: context.accept(listen, origin, "http.listen")?,
        tokens: tokens?,
    })
}

/// Takes the tokens of the HTTP face; an empty list would look as if it protected something.
fn tokens(raw: Option<&Texts>, context: &mut Context<'_>) -> Option<Vec<SecretString>> {
    let Some(raw) = raw else {
        return Some(Vec::new());
    };
    if !(1..=TOKENS_MAX).contains(&raw.get_ref().len()) {
        let help = "write tokens = [\"env:NAME\"], or remove the key and listen on loopback";
        let refused = refusal(format!("not 1 to {TOKENS_MAX} tokens"), help);
        return context.accept(Err(refused), raw, "http.tokens");
    }
    let mut tokens = Vec::new();
    for text in raw.get_ref() {
        tokens.push(context.secret(text, "http.tokens", value::token));
    }
    tokens.into_iter().collect()
}

impl<'a> Context<'a> {
    /// Says that what follows stands in this file.
    fn enter(&mut self, index: usize, file: &'a File) {
        self.problems.enter(index);
        self.folder = &file.folder;
        self.source = &file.source;
    }

    /// Names a place of the file for a message: `courier.d/mercy.toml:3`.
    pub(super) fn line<T>(&self, spanned: &Spanned<T>) -> String {
        let span = spanned.span();
        let line = self.source.place(span.start, span.end).line;
        format!("{}:{line}", self.source.name())
    }
}

impl Context<'_> {
    /// Passes a value on, or notes why it is refused.
    pub(super) fn accept<T>(
        &mut self,
        value: Result<T, Refusal>,
        origin: impl Into<Origin>,
        path: &str,
    ) -> Option<T> {
        value
            .map_err(|Refusal { message, help }| self.problems.add(origin, path, message, help))
            .ok()
    }

    /// Notes that a required key is not there, unless it is and was already refused.
    pub(super) fn missing<T>(&mut self, origin: impl Into<Origin>, path: &str, help: &str) -> Option<T> {
        if !self.problems.name_here(path) {
            self.problems.add(origin, path, "missing", help);
        }
        None
    }

    /// Reads a secret that is needed; of one that is not, only that it is a reference is checked.
    pub(super) fn secret<T: Default>(
        &mut self,
        text: &Text,
        path: &str,
        take: impl FnOnce(SecretString) -> Result<T, Refusal>,
    ) -> Option<T> {
        let secret = if self.reads(path) {
            value::secret(text.get_ref(), self.folder, self.surroundings.environment).and_then(take)
        } else {
            value::secret_reference(text.get_ref()).map(|()| T::default())
        };
        self.accept(secret, text, path)
    }

    /// Reads the list that a file holds; nothing where lists need not be there.
    pub(super) fn list_file(&self, file: &str, path: &str) -> Result<Option<String>, value::Refusal> {
        self.reads(path)
            .then(|| value::list_file(file, self.folder))
            .transpose()
    }

    /// Whether the secret at a path is needed.
    pub(super) fn reads(&self, path: &str) -> bool {
        match self.surroundings.secrets {
            Secrets::Required => true,
            Secrets::OfConnection(name) => path.starts_with(&format!("connections.{name}.")),
            Secrets::OfConnectionAndState(name) => {
                path.starts_with("state.") || path.starts_with(&format!("connections.{name}."))
            }
            Secrets::OfState => path.starts_with("state."),
            Secrets::Unneeded => false,
        }
    }

    /// Takes one of a few words. `later` are the words whose feature is not built.
    pub(super) fn word<T: Copy>(
        &mut self,
        text: &Text,
        path: &str,
        known: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        self.word_from((text.get_ref(), text.into()), path, known, later)
    }

    /// Takes one of a few words, wherever it came from.
    pub(super) fn word_from<T: Copy>(
        &mut self,
        (word, origin): (&str, Origin),
        path: &str,
        known: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        if let Some((_, value)) = known.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let all = names
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(" or ");
        let refused = if later.contains(&word) {
            refusal(format!("\"{word}\" is not built yet"), format!("write {all}"))
        } else {
            match nearest(word, names.iter().copied()) {
                Some(meant) => refusal("unknown word", format!("write \"{meant}\"")),
                None => refusal("unknown word", format!("write {all}")),
            }
        };
        self.accept(Err(refused), origin, path)
    }

    /// Takes the networks of a connection or destination, and notes them for the audit log.
    pub(super) fn egress(
        &mut self,
        allow: Option<&Texts>,
        plain: Option<&Texts>,
        place: &str,
    ) -> Option<Egress> {
        let allow_networks = self.networks(allow, &format!("{place}.allow_networks"));
        let plain_http_networks = self.networks(plain, &format!("{place}.plain_http_networks"));
        let egress = Egress {
            allow_networks: allow_networks?,
            plain_http_networks: plain_http_networks?,
        };
        if !egress.allow_networks.is_empty() {
            let networks = egress.allow_networks.clone();
            self.audits.push(Audit::AllowedNetworks {
                place: place.to_owned(),
                networks,
            });
        }
        if !egress.plain_http_networks.is_empty() {
            let networks = egress.plain_http_networks.clone();
            self.audits.push(Audit::PlainHttp {
                place: place.to_owned(),
                networks,
            });
        }
        Some(egress)
    }

    fn networks(&mut self, texts: Option<&Texts>, path: &str) -> Option<Vec<ipnet::IpNet>> {
        let texts = texts.map(|texts| texts.get_ref().as_slice()).unwrap_or_default();
        let mut networks = Vec::new();
        for text in texts {
            networks.push(self.accept(value::network(text.get_ref()), text, path));
        }
        networks.into_iter().collect()
    }
}
