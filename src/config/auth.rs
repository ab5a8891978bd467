//! The `auth` of a connection: which type it is, which keys belong to it, and its secrets.

use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use toml::Spanned;
use url::Url;

use super::raw::{RawAuth, Text};
use super::resolve::Context;
use super::value::{self, Refusal, refusal};
use super::{Auth, Egress};

/// What a backend service usually needs: to read and search every type that its registration allows.
const SMART_SCOPE_DEFAULT: &str = "system/*.rs";

/// Headers that the connector sets itself, or that could smuggle a second request.
const RESERVED_HEADERS: [&str; 9] = [
    "accept",
    "cache-control",
    "connection",
    "content-length",
    "host",
    "prefer",
    "te",
    "transfer-encoding",
    "upgrade",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Basic,
    Bearer,
    ApiKey,
    OAuth2,
    Smart,
}

const KINDS: [(&str, Kind); 6] = [
    ("none", Kind::None),
    ("basic", Kind::Basic),
    ("bearer", Kind::Bearer),
    ("api-key", Kind::ApiKey),
    ("oauth2", Kind::OAuth2),
    ("smart-backend-services", Kind::Smart),
];

/// The value is there and was refused; the problem is noted.
struct Noted;

/// What resolving one connection's credentials needs.
struct Section<'a, 'b> {
    raw: &'a Spanned<RawAuth>,
    path: &'a str,
    egress: Option<&'a Egress>,
    context: &'a mut Context<'b>,
}

pub(super) fn resolve(
    raw: &Spanned<RawAuth>,
    path: &str,
    egress: Option<&Egress>,
    context: &mut Context<'_>,
) -> Option<Auth> {
    let Some(kind) = &raw.get_ref().kind else {
        let help = "write type = \"none\", \"basic\", \"bearer\", \"api-key\", \"oauth2\" or \"smart-backend-services\"";
        return context.missing(raw, &format!("{path}.type"), help);
    };
    let kind = context.word(kind, &format!("{path}.type"), &KINDS, &["refresh-token"])?;
    let mut section = Section {
        raw,
        path,
        egress,
        context,
    };
    section.refuse_strangers(kind);
    let auth = section.resolve(kind)?;
    let is_read = context.reads(&format!("{path}."));
    Some(if kind == Kind::None || is_read {
        auth
    } else {
        Auth::Unread
    })
}

impl Section<'_, '_> {
    fn resolve(&mut self, kind: Kind) -> Option<Auth> {
        let raw = self.raw.get_ref();
        match kind {
            Kind::None => Some(Auth::None),
            Kind::Basic => {
                let user = self.required("user", raw.user.as_ref(), user_name);
                let password = self.secret("password", raw.password.as_ref());
                Some(Auth::Basic {
                    user: user?,
                    password: password?,
                })
            }
            Kind::Bearer => Some(Auth::Bearer {
                token: self.secret("token", raw.token.as_ref())?,
            }),
            Kind::ApiKey => {
                let header = self.required("header", raw.header.as_ref(), header_name);
                let value = self.secret("value", raw.value.as_ref());
                Some(Auth::ApiKey {
                    header: header?,
                    value: value?,
                })
            }
            Kind::OAuth2 => {
                let client_id = self.required("client_id", raw.client_id.as_ref(), plain);
                let client_secret = self.secret("client_secret", raw.client_secret.as_ref());
                let token_url = match &raw.token_url {
                    Some(text) => self.token_url(text),
                    None => self.missing("token_url", "write token_url = \"https://…\" in it"),
                };
                let scope = self.optional("scope", raw.scope.as_ref(), scope);
                Some(Auth::OAuth2 {
                    client_id: client_id?,
                    client_secret: client_secret?,
                    token_url: token_url?,
                    scope: scope.ok()?.unwrap_or_default(),
                })
            }
            Kind::Smart => {
                let client_id = self.required("client_id", raw.client_id.as_ref(), plain);
                let key = match &raw.key {
                    Some(text) => self.private_key(text),
                    None => self.missing(
                        "key",
                        "write key = \"file:PATH\" or \"env:NAME\" in it: a private key in PEM",
                    ),
                };
                let key_id = self.optional("key_id", raw.key_id.as_ref(), plain);
                let token_url = match &raw.token_url {
                    Some(text) => self.token_url(text).map(Some),
                    None => Some(None),
                };
                let scope = self.optional("scope", raw.scope.as_ref(), scope);
                Some(Auth::Smart {
                    client_id: client_id?,
                    key: key?,
                    key_id: key_id.ok()?,
                    token_url: token_url?,
                    scope: scope.ok()?.unwrap_or_else(|| SMART_SCOPE_DEFAULT.to_owned()),
                })
            }
        }
    }

    /// Refuses the keys of other types.
    fn refuse_strangers(&mut self, kind: Kind) {
        let raw = self.raw.get_ref();
        let keys: [(&str, Option<&Text>, &[Kind]); 10] = [
            ("user", raw.user.as_ref(), &[Kind::Basic]),
            ("password", raw.password.as_ref(), &[Kind::Basic]),
            ("token", raw.token.as_ref(), &[Kind::Bearer]),
            ("header", raw.header.as_ref(), &[Kind::ApiKey]),
            ("value", raw.value.as_ref(), &[Kind::ApiKey]),
            ("client_secret", raw.client_secret.as_ref(), &[Kind::OAuth2]),
            ("key", raw.key.as_ref(), &[Kind::Smart]),
            ("key_id", raw.key_id.as_ref(), &[Kind::Smart]),
            ("token_url", raw.token_url.as_ref(), &[Kind::OAuth2, Kind::Smart]),
            ("scope", raw.scope.as_ref(), &[Kind::OAuth2, Kind::Smart]),
        ];
        let client_id = (
            "client_id",
            raw.client_id.as_ref(),
            &[Kind::OAuth2, Kind::Smart][..],
        );
        for (key, text, of) in keys.into_iter().chain([client_id]) {
            if let Some(text) = text.filter(|_| !of.contains(&kind)) {
                let named = KINDS.iter().filter(|(_, kind)| of.contains(kind));
                let right = named
                    .map(|(name, _)| format!("\"{name}\""))
                    .collect::<Vec<_>>()
                    .join(" or ");
                let refused = refusal(
                    "this key does not belong to this type",
                    format!("remove `{key}`, or write type = {right}"),
                );
                self.context
                    .accept::<()>(Err(refused), text, &format!("{}.{key}", self.path));
            }
        }
    }

    fn missing<T>(&mut self, key: &str, help: &str) -> Option<T> {
        self.context
            .missing(self.raw, &format!("{}.{key}", self.path), help)
    }

    fn required<T>(
        &mut self,
        key: &str,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        match self.optional(key, text, parse) {
            Ok(Some(value)) => Some(value),
            Ok(None) => self.missing(key, &format!("write {key} = \"…\" in it")),
            Err(Noted) => None,
        }
    }

    fn optional<T>(
        &mut self,
        key: &str,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Noted> {
        let Some(text) = text else {
            return Ok(None);
        };
        let path = format!("{}.{key}", self.path);
        let value = self.context.accept(parse(text.get_ref()), text, &path);
        value.map(Some).ok_or(Noted)
    }

    fn secret(&mut self, key: &str, text: Option<&Text>) -> Option<SecretString> {
        match text {
            Some(text) => self.context.secret(text, &format!("{}.{key}", self.path), Ok),
            None => self.missing(key, "write \"env:NAME\" or \"file:PATH\" for it"),
        }
    }

    /// A key in PEM, as far as its text shows it; what it holds is judged by whoever signs with it.
    fn private_key(&mut self, text: &Text) -> Option<SecretString> {
        let path = format!("{}.key", self.path);
        let (folder, environment) = (self.context.folder, self.context.surroundings.environment);
        let key = if self.context.reads(&path) {
            value::secret_text(text.get_ref(), folder, environment).and_then(pem)
        } else {
            value::secret_reference(text.get_ref()).map(|()| SecretString::default())
        };
        self.context.accept(key, text, &path)
    }

    fn token_url(&mut self, text: &Text) -> Option<Url> {
        let path = format!("{}.token_url", self.path);
        let url = self
            .context
            .accept(value::web_address(text.get_ref()), text, &path)?;
        let reachable = match self.egress {
            Some(egress) => value::reachable(&url, egress),
            None => Ok(()),
        };
        self.context.accept(reachable, text, &path).map(|()| url)
    }
}

fn user_name(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        let help = "write the user name alone; the password stands in `password`";
        return Err(refusal("not a user name for HTTP Basic", help));
    }
    Ok(text.to_owned())
}

fn plain(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let help = "write it as the source shows it at the registration, without spaces";
        return Err(refusal("not an id", help));
    }
    Ok(text.to_owned())
}

fn scope(text: &str) -> Result<String, Refusal> {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.split(' ').all(word) {
        let help = "write the scopes with one space between: \"system/Appointment.rs system/Patient.rs\"";
        return Err(refusal("not a list of scopes", help));
    }
    Ok(text.to_owned())
}

fn header_name(text: &str) -> Result<String, Refusal> {
    let help = "write the header's name alone: \"x-api-key\"";
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| refusal("not a header's name", help))?;
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err(refusal("this header is set by the courier itself", help));
    }
    Ok(name.as_str().to_owned())
}

fn pem(key: SecretString) -> Result<SecretString, Refusal> {
    if key.expose_secret().trim_start().starts_with("-----BEGIN ") {
        return Ok(key);
    }
    Err(refusal(
        "not a key in PEM: its first line is not -----BEGIN PRIVATE KEY-----",
        "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem",
    ))
}
