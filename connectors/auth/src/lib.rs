//! How the courier is let in at a source, whatever protocol the source speaks.
//!
//! [`basic`] and [`bearer`] never change. [`Tokens`] obtains short-lived access tokens, by client credentials or by a
//! refresh token; the client proves itself with its secret or with an assertion signed by its key (SMART Backend
//! Services), whose public half [`key_set`] publishes. Tokens, secrets and keys never reach `Debug`, errors or logs.
//! It must not know any connector.

mod answer;
mod cache;
mod client;
mod discovery;
mod keeper;
mod key;
mod published;
mod tokens;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use courier_sdk::Fixed;
use courier_sdk::credentials::InvalidCredential;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};

pub use client::Client;
pub use keeper::{Keeper, Turn, Unkept};
pub use key::{ClientKey, InvalidKey};
pub use published::{PublicKey, SameId, key_set};
pub use tokens::{Endpoint, Grant, Settings, Tokens};

/// HTTP Basic.
///
/// # Errors
/// Never in practice: base64 fits into a header.
pub fn basic(user: &str, password: &SecretString) -> Result<Fixed, InvalidCredential> {
    let pair = SecretString::from(format!("{user}:{}", password.expose_secret()));
    let value = SecretString::from(format!("Basic {}", STANDARD.encode(pair.expose_secret())));
    Fixed::header(AUTHORIZATION, value.expose_secret())
}

/// A fixed bearer token.
///
/// # Errors
/// [`InvalidCredential`] when the token has characters that no header can carry.
pub fn bearer(token: &SecretString) -> Result<Fixed, InvalidCredential> {
    let value = SecretString::from(format!("Bearer {}", token.expose_secret()));
    Fixed::header(AUTHORIZATION, value.expose_secret())
}
