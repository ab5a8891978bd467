//! The `auth` types that obtain access tokens: who the client is, how it proves it, and by which grant.

use courier_sdk::ConnectionName;
use secrecy::{ExposeSecret, SecretString};
use toml::Spanned;
use url::Url;

use super::{Kind, Section, plain, scope};
use crate::config::raw::{RawNamedKey, Text};
use crate::config::value::{self, Refusal, refusal};
use crate::config::{Auth, NamedKey, OAuth, Proof, Refresh};

/// What a backend service usually needs: to read and search every type that its registration allows.
const SMART_SCOPE_DEFAULT: &str = "system/*.rs";

/// Enough for a rotation under way at every source of a large site.
const OTHER_KEYS_MAX: usize = 16;

impl Section<'_, '_> {
    /// Resolves one of the types that obtain tokens.
    pub(super) fn oauth(&mut self, kind: Kind) -> Option<Auth> {
        let raw = self.raw.get_ref();
        let client_id = self.required("client_id", raw.client_id.as_ref(), plain);
        let proof = self.proof(kind);
        let other_keys = self.other_keys();
        let refresh = if kind == Kind::Refresh {
            self.refresh().map(Some)
        } else {
            Some(None)
        };
        let token_url = match &raw.token_url {
            Some(text) => self.token_url(text).map(Some),
            None if kind == Kind::Smart => Some(None),
            None => self.missing("token_url", "write token_url = \"https://…\" in it"),
        };
        let scope = self.optional("scope", raw.scope.as_ref(), scope).ok()?;
        let default = if kind == Kind::Smart {
            SMART_SCOPE_DEFAULT
        } else {
            ""
        };
        Some(Auth::OAuth(Box::new(OAuth {
            client_id: client_id?,
            proof: proof?,
            other_keys: other_keys?,
            refresh: refresh?,
            token_url: token_url?,
            scope: scope.unwrap_or_else(|| default.to_owned()),
        })))
    }

    /// How the client proves to be itself: by one of the two, where its type leaves a choice.
    fn proof(&mut self, kind: Kind) -> Option<Proof> {
        let raw = self.raw.get_ref();
        if let (None, Some(id)) = (&raw.key, &raw.key_id) {
            let refused = refusal("there is no key here", "write `key` too, or remove `key_id`");
            self.context
                .accept::<()>(Err(refused), id, &format!("{}.key_id", self.path));
        }
        let secret = raw.client_secret.as_ref().filter(|_| kind != Kind::Smart);
        match (secret, &raw.key) {
            (Some(_), Some(key)) => {
                let help = "remove `key`, or `client_secret`: a source checks one of them";
                let refused = refusal("a client has a secret or a key, not both", help);
                self.context
                    .accept(Err(refused), key, &format!("{}.key", self.path))
            }
            (Some(_), None) => Some(Proof::Secret(self.secret("client_secret", secret)?)),
            (None, Some(text)) => {
                let pem = self.pem(text, &format!("{}.key", self.path));
                let id = self.optional("key_id", raw.key_id.as_ref(), plain);
                Some(Proof::Key(NamedKey {
                    pem: pem?,
                    id: id.ok()?,
                }))
            }
            (None, None) if kind == Kind::Refresh => Some(Proof::Public),
            (None, None) if kind == Kind::Smart => self.missing(
                "key",
                "write key = \"file:PATH\" or \"env:NAME\" in it: a private key in PEM",
            ),
            (None, None) => self.missing(
                "client_secret",
                "write client_secret = \"env:NAME\" or \"file:PATH\" in it, or key = \"file:PATH\": a private key in PEM",
            ),
        }
    }

    /// The keys that are published beside the signing one's: without one that signs nobody would look for them.
    fn other_keys(&mut self) -> Option<Vec<NamedKey>> {
        let raw = self.raw.get_ref();
        let Some(written) = &raw.other_keys else {
            return Some(Vec::new());
        };
        let path = format!("{}.other_keys", self.path);
        if raw.key.is_none() {
            let help = "write the `key` that signs too, or remove `other_keys`";
            let refused = refusal("nothing is signed with a key here", help);
            return self.context.accept(Err(refused), written, &path);
        }
        if written.get_ref().len() > OTHER_KEYS_MAX {
            let help = "keep the next key and the one before; remove those that no source reads any more";
            let refused = refusal(format!("more than {OTHER_KEYS_MAX} keys"), help);
            return self.context.accept(Err(refused), written, &path);
        }
        let mut keys = Vec::new();
        for (index, key) in written.get_ref().iter().enumerate() {
            keys.push(self.other_key(key, &format!("{path}[{index}]")));
        }
        keys.into_iter().collect()
    }

    fn other_key(&mut self, raw: &Spanned<RawNamedKey>, path: &str) -> Option<NamedKey> {
        let written = raw.get_ref();
        let pem = if let Some(text) = &written.key {
            self.pem(text, &format!("{path}.key"))
        } else {
            let help = "write key = \"file:PATH\" in it: a key in PEM, private or public";
            self.context.missing(raw, &format!("{path}.key"), help)
        };
        let id = match &written.key_id {
            Some(text) => {
                let id = self
                    .context
                    .accept(plain(text.get_ref()), text, &format!("{path}.key_id"));
                Some(id?)
            }
            None => None,
        };
        Some(NamedKey { pem: pem?, id })
    }

    fn refresh(&mut self) -> Option<Refresh> {
        let raw = self.raw.get_ref();
        let first = self.secret("refresh_token", raw.refresh_token.as_ref());
        let connection = ConnectionName::parse(self.connection).ok();
        // Without a state the configuration is refused already.
        let (database, key) = self.context.state.clone()?;
        let connection = connection?;
        let mut folder = database.into_os_string();
        folder.push(".tokens");
        Some(Refresh {
            first: first?,
            kept: std::path::PathBuf::from(folder).join(connection.as_str()),
            connection,
            key,
        })
    }

    /// A key in PEM, as far as its text shows it; what it holds is judged by whoever signs with it.
    fn pem(&mut self, text: &Text, path: &str) -> Option<SecretString> {
        let (folder, environment) = (self.context.folder, self.context.surroundings.environment);
        let key = if self.context.reads(path) {
            value::secret_text(text.get_ref(), folder, environment).and_then(pem)
        } else {
            value::secret_reference(text.get_ref()).map(|()| SecretString::default())
        };
        self.context.accept(key, text, path)
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

fn pem(key: SecretString) -> Result<SecretString, Refusal> {
    if key.expose_secret().trim_start().starts_with("-----BEGIN ") {
        return Ok(key);
    }
    Err(refusal(
        "not a key in PEM: its first line is not -----BEGIN PRIVATE KEY-----",
        "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem",
    ))
}
