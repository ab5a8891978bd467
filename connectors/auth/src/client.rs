//! Who asks for tokens, and the request that asks. Pure.
//!
//! Secrets and assertions are put where a request carries them and nowhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use courier_sdk::HttpRequest;
use courier_sdk::credentials::sensitive;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use url::{Url, form_urlencoded};

use crate::answer::Failure;
use crate::key::ClientKey;

/// How SMART marks an assertion (RFC 7523).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Who asks for tokens, and with what proof.
#[derive(Clone)]
pub enum Client {
    /// An OAuth 2.0 client with a secret, sent by HTTP Basic (RFC 6749, 2.3.1).
    Secret {
        /// The client's id.
        id: String,
        /// Its secret.
        secret: SecretString,
    },
    /// A client with a key, which signs an assertion for each request (RFC 7523; SMART's asymmetric authentication).
    Key {
        /// The client's id.
        id: String,
        /// Its key.
        key: ClientKey,
    },
    /// A public client, which proves nothing: it can use a refresh token only.
    Public {
        /// The client's id.
        id: String,
    },
}

/// What one token request is for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The refresh token that is shown; absent where the client asks for itself.
    pub(crate) refresh_token: Option<&'a SecretString>,
    /// The scopes with spaces between, or empty.
    pub(crate) scope: &'a str,
    /// Our own time, for when an assertion ends.
    pub(crate) now: Timestamp,
    /// New for each assertion.
    pub(crate) nonce: u128,
}

impl Client {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Secret { id, .. } | Self::Key { id, .. } | Self::Public { id } => id,
        }
    }

    /// The algorithm of its assertions, if it signs any.
    pub(crate) fn algorithm(&self) -> Option<&'static str> {
        match self {
            Self::Key { key, .. } => Some(key.algorithm()),
            Self::Secret { .. } | Self::Public { .. } => None,
        }
    }

    /// The request that asks for a token at this address.
    pub(crate) fn request(&self, url: &Url, asked: Asked<'_>) -> Result<HttpRequest, Failure> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        match asked.refresh_token {
            None => form.append_pair("grant_type", "client_credentials"),
            Some(token) => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token.expose_secret()),
        };
        if !asked.scope.is_empty() {
            form.append_pair("scope", asked.scope);
        }
        let mut authorization = None;
        match self {
            Self::Secret { id, secret } => authorization = Some(basic(id, secret)?),
            Self::Key { id, key } => {
                let assertion = key.assertion(id, url, asked.now, asked.nonce);
                let assertion =
                    assertion.ok_or_else(|| Failure::Refused("the key cannot sign".to_owned()))?;
                form.append_pair("client_assertion_type", ASSERTION_TYPE);
                form.append_pair("client_assertion", assertion.expose_secret());
            }
            Self::Public { id } => {
                form.append_pair("client_id", id);
            }
        }
        let mut request = crate::tokens::request(Method::POST, url.clone(), Bytes::from(form.finish()));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, kind);
        request
            .headers
            .extend(authorization.map(|value| (AUTHORIZATION, value)));
        Ok(request)
    }
}

/// Id and secret are form-encoded before they are joined (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &SecretString) -> Result<HeaderValue, Failure> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = SecretString::from(format!("{}:{}", encoded(id), encoded(secret.expose_secret())));
    let value = SecretString::from(format!("Basic {}", STANDARD.encode(pair.expose_secret())));
    sensitive(value.expose_secret()).map_err(|error| Failure::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(client: &Client, refresh_token: Option<&SecretString>, scope: &str) -> (String, Option<String>) {
        let url = Url::parse("https://auth.example/token").unwrap();
        let asked = Asked {
            refresh_token,
            scope,
            now: Timestamp::UNIX_EPOCH,
            nonce: 7,
        };
        let request = client
            .request(&url, asked)
            .unwrap_or_else(|_| panic!("no request"));
        let shown = request.headers.get(AUTHORIZATION);
        let shown = shown.map(|value| value.to_str().unwrap().to_owned());
        (String::from_utf8(request.body.to_vec()).unwrap(), shown)
    }

    #[test]
    fn each_kind_of_client_asks_as_the_grant_wants_it() {
        let refresh = SecretString::from("r+1");
        let public = Client::Public { id: "a b".to_owned() };
        let secret = Client::Secret {
            id: "a:b".to_owned(),
            secret: "s".into(),
        };
        let basic = Some(format!("Basic {}", STANDARD.encode("a%3Ab:s")));
        for (client, token, scope, expected, shown) in [
            (&secret, None, "", "grant_type=client_credentials", &basic),
            (
                &secret,
                Some(&refresh),
                "a b",
                "grant_type=refresh_token&refresh_token=r%2B1&scope=a+b",
                &basic,
            ),
            (
                &public,
                Some(&refresh),
                "",
                "grant_type=refresh_token&refresh_token=r%2B1&client_id=a+b",
                &None,
            ),
        ] {
            assert_eq!(form(client, token, scope), (expected.to_owned(), shown.clone()));
        }
    }
}
