//! What a configuration says of the credentials for a source, resolved. `Debug` shows no secret.

use std::path::PathBuf;

use courier_sdk::ConnectionName;
use secrecy::SecretString;
use url::Url;

use super::Key;

/// The credentials for a source.
#[derive(Debug)]
pub enum Auth {
    /// No credentials.
    None,
    /// HTTP Basic.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A fixed bearer token.
    Bearer {
        /// The token.
        token: SecretString,
    },
    /// A fixed header.
    ApiKey {
        /// Its name, in lower case.
        header: String,
        /// Its value.
        value: SecretString,
    },
    /// Access tokens of OAuth 2.0.
    OAuth(Box<OAuth>),
    /// There are some, which were not read ([`super::Secrets`]).
    Unread,
}

/// How access tokens are obtained.
#[derive(Debug)]
pub struct OAuth {
    /// The client's id.
    pub client_id: String,
    /// How the client proves to be itself.
    pub proof: Proof,
    /// Public halves of keys that are published beside the signing one's.
    pub other_keys: Vec<NamedKey>,
    /// By which grant: a refresh token, or client credentials if absent.
    pub refresh: Option<Refresh>,
    /// Where tokens are granted; asked of the source if absent.
    pub token_url: Option<Url>,
    /// What is asked for, with spaces between, or empty.
    pub scope: String,
}

/// How a client proves to be itself.
#[derive(Debug)]
pub enum Proof {
    /// By a secret.
    Secret(SecretString),
    /// By assertions that it signs.
    Key(NamedKey),
    /// Not at all.
    Public,
}

/// A key in PEM, with the id that it was given, if any.
#[derive(Debug)]
pub struct NamedKey {
    /// The key.
    pub pem: SecretString,
    /// Its id.
    pub id: Option<String>,
}

/// A refresh token, and where the ones that follow it are kept.
#[derive(Debug)]
pub struct Refresh {
    /// The token that the configuration refers to: the first, until the server answers with another.
    pub first: SecretString,
    /// The connection that it belongs to.
    pub connection: ConnectionName,
    /// The file that holds its successor.
    pub kept: PathBuf,
    /// What seals that file.
    pub key: Key,
}
