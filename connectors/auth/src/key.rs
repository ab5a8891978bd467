//! The key that signs a client's assertions, and what is signed with it.
//!
//! RSA keys sign RS384, P-384 keys sign ES384: the two algorithms that SMART asks clients for.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use thiserror::Error;
use url::Url;

use crate::published::PublicKey;

/// How long an assertion holds. SMART allows five minutes; a minute is left for clocks that disagree.
const ASSERTION_LIFETIME: Duration = Duration::from_mins(4);

/// A private key with its algorithm and its name. `Debug` shows the latter two.
#[derive(Clone)]
pub struct ClientKey {
    key: EncodingKey,
    algorithm: Algorithm,
    id: String,
    public: Box<PublicKey>,
}

/// A text that is no key to sign assertions with. Each message says what to do; none shows any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidKey {
    /// A public key or certificate.
    #[error("this is a public key: name the file of the private one")]
    Public,
    /// A key under a passphrase.
    #[error(
        "the key is under a passphrase: write it without, with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`"
    )]
    Encrypted,
    /// An elliptic key in the older form.
    #[error(
        "the key is in the older form SEC1: write it as PKCS#8, with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`"
    )]
    Sec1,
    /// An elliptic key on another curve.
    #[error(
        "the key is not on the curve P-384: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384`"
    )]
    Curve,
    /// A short RSA key.
    #[error(
        "the RSA key is shorter than 2048 bits: make one with `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072`"
    )]
    Short,
    /// Anything else.
    #[error(
        "not a private key in PEM: a text that begins with -----BEGIN PRIVATE KEY-----, of an RSA or P-384 key"
    )]
    NoKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    jti: String,
}

impl ClientKey {
    /// Reads a private key: PKCS#8, or PKCS#1 for RSA. Without an id it is named by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`InvalidKey`], which says what to do.
    pub fn parse(pem: &SecretString, id: Option<&str>) -> Result<Self, InvalidKey> {
        let text = pem.expose_secret().trim();
        match label(text) {
            Some("PRIVATE KEY" | "RSA PRIVATE KEY") => {}
            Some("EC PRIVATE KEY") => return Err(InvalidKey::Sec1),
            Some("ENCRYPTED PRIVATE KEY") => return Err(InvalidKey::Encrypted),
            Some(other) if other.contains("PUBLIC") || other.contains("CERTIFICATE") => {
                return Err(InvalidKey::Public);
            }
            Some(_) | None => return Err(InvalidKey::NoKey),
        }
        // PKCS#1 keys under a passphrase say so in a header below their label.
        if text.contains("ENCRYPTED") {
            return Err(InvalidKey::Encrypted);
        }
        let bytes = text.as_bytes();
        let (key, algorithm) = EncodingKey::from_rsa_pem(bytes)
            .map(|key| (key, Algorithm::RS384))
            .or_else(|_| EncodingKey::from_ec_pem(bytes).map(|key| (key, Algorithm::ES384)))
            .map_err(|_| InvalidKey::NoKey)?;
        // An elliptic key that does not fit the algorithm is on another curve; an RSA key that is not read is none.
        let unfit = if algorithm == Algorithm::ES384 {
            InvalidKey::Curve
        } else {
            InvalidKey::NoKey
        };
        let public = Jwk::from_encoding_key(&key, algorithm).map_err(|_| unfit)?;
        let public = PublicKey::of(public, id)?;
        Ok(Self {
            key,
            algorithm,
            id: public.id().to_owned(),
            public: Box::new(public),
        })
    }

    /// Its public half, under the same name.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The algorithm's name, as servers list it.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        if self.algorithm == Algorithm::ES384 {
            "ES384"
        } else {
            "RS384"
        }
    }

    /// The key's name: the `kid` under which the server must know its public half.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Signs an assertion for one token request: `nonce` is new each time.
    ///
    /// `None` where the signature cannot be made, which a key that was parsed does not cause.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        token_url: &Url,
        now: Timestamp,
        nonce: u128,
    ) -> Option<SecretString> {
        let claims = Claims {
            iss: client_id,
            sub: client_id,
            aud: token_url.as_str(),
            exp: now
                .as_second()
                .saturating_add(i64::try_from(ASSERTION_LIFETIME.as_secs()).ok()?),
            jti: format!("{nonce:032x}"),
        };
        let header = Header {
            kid: Some(self.id.clone()),
            ..Header::new(self.algorithm)
        };
        let signed = jsonwebtoken::encode(&header, &claims, &self.key).ok()?;
        Some(SecretString::from(signed))
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({}, {})", self.algorithm(), self.id)
    }
}

pub(crate) fn label(pem: &str) -> Option<&str> {
    pem.strip_prefix("-----BEGIN ")?
        .split_once("-----")
        .map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pem: &str) -> InvalidKey {
        ClientKey::parse(&SecretString::from(pem), None).unwrap_err()
    }

    #[test]
    fn what_is_no_usable_private_key_is_refused_with_what_to_do() {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (text, expected) in [
            (String::new(), InvalidKey::NoKey),
            ("hunter2".to_owned(), InvalidKey::NoKey),
            (pem("PRIVATE KEY"), InvalidKey::NoKey),
            (pem("OPENSSH PRIVATE KEY"), InvalidKey::NoKey),
            (pem("EC PRIVATE KEY"), InvalidKey::Sec1),
            (pem("ENCRYPTED PRIVATE KEY"), InvalidKey::Encrypted),
            (pem("PUBLIC KEY"), InvalidKey::Public),
            (pem("CERTIFICATE"), InvalidKey::Public),
        ] {
            assert_eq!(refused(&text), expected, "{text}");
        }
    }
}
