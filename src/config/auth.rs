//! The `auth` of a connection: which type it is, which keys belong to it, and its secrets.

mod oauth;

use http::HeaderName;
use secrecy::SecretString;
use toml::Spanned;

use super::problem::Origin;
use super::raw::{RawAuth, Text};
use super::resolve::Context;
use super::value::{Refusal, refusal};
use super::{Auth, Egress};

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
    Refresh,
}

const KINDS: [(&str, Kind); 7] = [
    ("none", Kind::None),
    ("basic", Kind::Basic),
    ("bearer", Kind::Bearer),
    ("api-key", Kind::ApiKey),
    ("oauth2", Kind::OAuth2),
    ("smart-backend-services", Kind::Smart),
    ("refresh-token", Kind::Refresh),
];

/// The types that obtain tokens.
const TOKENS: &[Kind] = &[Kind::OAuth2, Kind::Smart, Kind::Refresh];

/// The value is there and was refused; the problem is noted.
struct Noted;

/// What resolving one connection's credentials needs.
struct Section<'a, 'b> {
    raw: &'a Spanned<RawAuth>,
    connection: &'a str,
    path: &'a str,
    egress: Option<&'a Egress>,
    context: &'a mut Context<'b>,
}

pub(super) fn resolve(
    raw: &Spanned<RawAuth>,
    (connection, path): (&str, &str),
    egress: Option<&Egress>,
    context: &mut Context<'_>,
) -> Option<Auth> {
    let Some(kind) = &raw.get_ref().kind else {
        let help = "write type = \"none\", \"basic\", \"bearer\", \"api-key\", \"oauth2\", \"smart-backend-services\" or \"refresh-token\"";
        return context.missing(raw, &format!("{path}.type"), help);
    };
    let kind = context.word(kind, &format!("{path}.type"), &KINDS, &[])?;
    let mut section = Section {
        raw,
        connection,
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
            Kind::OAuth2 | Kind::Smart | Kind::Refresh => self.oauth(kind),
        }
    }

    /// Refuses the keys of other types.
    fn refuse_strangers(&mut self, kind: Kind) {
        let raw = self.raw.get_ref();
        let text = |text: &Option<Text>| text.as_ref().map(Origin::from);
        let by_secret: &[Kind] = &[Kind::OAuth2, Kind::Refresh];
        let keys: [(&str, Option<Origin>, &[Kind]); 13] = [
            ("user", text(&raw.user), &[Kind::Basic]),
            ("password", text(&raw.password), &[Kind::Basic]),
            ("token", text(&raw.token), &[Kind::Bearer]),
            ("header", text(&raw.header), &[Kind::ApiKey]),
            ("value", text(&raw.value), &[Kind::ApiKey]),
            ("client_id", text(&raw.client_id), TOKENS),
            ("client_secret", text(&raw.client_secret), by_secret),
            ("key", text(&raw.key), TOKENS),
            ("key_id", text(&raw.key_id), TOKENS),
            ("other_keys", raw.other_keys.as_ref().map(Origin::from), TOKENS),
            ("token_url", text(&raw.token_url), TOKENS),
            ("scope", text(&raw.scope), TOKENS),
            ("refresh_token", text(&raw.refresh_token), &[Kind::Refresh]),
        ];
        for (key, origin, of) in keys {
            if let Some(origin) = origin.filter(|_| !of.contains(&kind)) {
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
                    .accept::<()>(Err(refused), origin, &format!("{}.{key}", self.path));
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
