//! From the written file to the valid [`Config`]: the steps, the fixed sections, and what all sections share.

use std::path::Path;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::environment::Overrides;
use super::problem::{Origin, Problems};
use super::raw::{RawConfig, RawHttp, Text, Texts};
use super::source::Source;
use super::suggest::nearest;
use super::value::{self, Refusal, refusal};
use super::{Audit, Config, ConfigErrors, Egress, Http, Secrets, Surroundings};
use super::{connection, dedup, delivery, keys, raw, state, telemetry};

/// The largest configuration file, in bytes: ten thousand connections of a hundred bytes fit.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

const LISTEN_DEFAULT: &str = "127.0.0.1:8080";

/// What resolving a section needs: the surroundings, the folder of the file, and the problems found so far.
pub(super) struct Context<'a> {
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) folder: &'a Path,
    pub(super) problems: &'a mut Problems,
    pub(super) audits: Vec<Audit>,
}

pub(super) fn load(path: &Path, surroundings: &Surroundings<'_>) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    match read(path) {
        Ok(text) => from_text(path, &text, surroundings),
        Err(Refusal { message, help }) => {
            problems.add(Origin::File, "", message, help);
            Err(problems.into_errors(&Source::new(path, "")))
        }
    }
}

fn read(path: &Path) -> Result<String, Refusal> {
    let help = "name an existing file: ehr-courier run -c courier.toml";
    let readable =
        |error: std::io::Error| refusal(format!("the file cannot be read: {}", error.kind()), help);
    let metadata = std::fs::metadata(path).map_err(readable)?;
    if metadata.is_dir() {
        return Err(refusal("this is a folder", help));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(refusal(
            format!("the file is larger than {FILE_BYTES_MAX} bytes"),
            help,
        ));
    }
    let bytes = std::fs::read(path).map_err(readable)?;
    let more = path.with_file_name("courier.d");
    if more.is_dir() {
        let help = format!("move its contents into this file and remove {}", more.display());
        return Err(refusal(
            "a folder courier.d beside the file is not built yet",
            help,
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error
            .as_bytes()
            .get(..at)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
            .count();
        refusal(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

pub(super) fn from_text(
    path: &Path,
    text: &str,
    surroundings: &Surroundings<'_>,
) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    let mut source = Source::new(path, text);
    let mut root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let help = "text stands in double quotes, lists in [ ], each key once and on its own line";
            problems.add(span, "", format!("not TOML: {}", error.message()), help);
            return Err(problems.into_errors(&source));
        }
    };
    source.learn(root.get_ref());
    keys::check(root.get_mut(), &raw::schema(), &mut problems);
    let overrides = Overrides::read(surroundings.environment, &mut problems);
    let span = root.span();
    let tree = Spanned::new(span.clone(), DeValue::Table(root.into_inner()));
    let Ok(raw) = RawConfig::deserialize(ValueDeserializer::from(tree)) else {
        problems.add(
            span,
            "",
            "the file cannot be read",
            "compare it with schemas/config.schema.json",
        );
        return Err(problems.into_errors(&source));
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let config = resolve(raw, &overrides, surroundings, folder, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_errors(&source)),
    }
}

fn resolve(
    raw: RawConfig,
    overrides: &Overrides,
    surroundings: &Surroundings<'_>,
    folder: &Path,
    problems: &mut Problems,
) -> Option<Config> {
    let mut context = Context {
        surroundings,
        folder,
        problems,
        audits: Vec::new(),
    };
    let state = state::resolve(&raw.state.unwrap_or_default(), overrides, &mut context);
    let dedup = dedup::resolve(raw.dedup.as_ref(), overrides, &mut context);
    let http = http(&raw.http.unwrap_or_default(), overrides, &mut context);
    let telemetry = telemetry::resolve(&raw.telemetry.unwrap_or_default(), &mut context);
    let written = delivery::Written::of(&raw.connections, &raw.destinations);
    let connections = connection::resolve(raw.connections, &mut context);
    let destinations = delivery::destinations(raw.destinations, &mut context);
    let subscriptions = delivery::subscriptions(&raw.subscriptions, &written, &connections, &mut context);
    if raw.subscriptions.is_empty() {
        context.audits.push(Audit::NoSubscriptions);
    }
    let audits = context.audits;
    Some(Config {
        state: state?,
        dedup: dedup?,
        http: http?,
        telemetry: telemetry?,
        connections,
        destinations,
        subscriptions,
        audits,
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
    let (text, origin) =
        scalar("http.listen", raw.listen.as_ref(), overrides).unwrap_or((LISTEN_DEFAULT, Origin::File));
    let listen = match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(address) => Err(refusal(
            "listening off loopback needs tokens, which are not built yet",
            format!(
                "write listen = \"127.0.0.1:{}\" and put a proxy in front",
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
    })
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
        if !self.problems.name(path) {
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

    /// Whether the secret at a path is needed.
    pub(super) fn reads(&self, path: &str) -> bool {
        match self.surroundings.secrets {
            Secrets::Required => true,
            Secrets::OfConnection(name) => path.starts_with(&format!("connections.{name}.auth.")),
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
        let word = text.get_ref().as_str();
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
        self.accept(Err(refused), text, path)
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
