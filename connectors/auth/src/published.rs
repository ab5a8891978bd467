//! The public halves of clients' keys, as the key set (RFC 7517) that sources read to check our assertions.
//!
//! **Source**: SMART App Launch 2.2, `client-confidential-asymmetric.md` at 2494e06, seen 2026-11-20. It names `kty`,
//! `kid` and the key's own parameters; `alg` and `use` are written because servers filter by them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::key::{ClientKey, InvalidKey, label};

/// The shortest RSA modulus that is still thought safe (NIST SP 800-131A), in bytes.
const MODULUS_BYTES_MIN: usize = 256;

/// The public half of a key, with its name. It is no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    jwk: Jwk,
}

/// Two different keys under one name: whoever reads the set could not tell which of them signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("two different keys are published as {id}: give one of them another `key_id`")]
pub struct SameId {
    /// The name.
    pub id: String,
}

impl PublicKey {
    /// Reads a key, private or public (`-----BEGIN PUBLIC KEY-----`), and keeps its public half. Without an id it is
    /// named by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`InvalidKey`], which says what to do.
    pub fn parse(pem: &SecretString, id: Option<&str>) -> Result<Self, InvalidKey> {
        let text = pem.expose_secret().trim();
        if !matches!(label(text), Some("PUBLIC KEY" | "RSA PUBLIC KEY")) {
            return ClientKey::parse(pem, id).map(|key| key.public().clone());
        }
        let bytes = text.as_bytes();
        let (key, algorithm) = DecodingKey::from_rsa_pem(bytes)
            .map(|key| (key, Algorithm::RS384))
            .or_else(|_| DecodingKey::from_ec_pem(bytes).map(|key| (key, Algorithm::ES384)))
            .map_err(|_| InvalidKey::NoKey)?;
        let jwk = Jwk::from_decoding_key(&key, Some(algorithm)).map_err(|_| InvalidKey::NoKey)?;
        Self::of(jwk, id)
    }

    pub(crate) fn of(mut jwk: Jwk, id: Option<&str>) -> Result<Self, InvalidKey> {
        check_strength(&jwk)?;
        let id = match id {
            Some(id) => id.to_owned(),
            None => jwk
                .thumbprint(ThumbprintHash::SHA256)
                .map_err(|_| InvalidKey::NoKey)?,
        };
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { id, jwk })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// Writes a key set in JSON: each key once, by name.
///
/// # Errors
/// [`SameId`] where two of them are different keys under one name.
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Result<String, SameId> {
    let mut named: BTreeMap<&str, &PublicKey> = BTreeMap::new();
    for key in keys {
        if named.insert(key.id(), key).is_some_and(|other| other != key) {
            return Err(SameId {
                id: key.id().to_owned(),
            });
        }
    }
    let set = JwkSet {
        keys: named.into_values().map(|key| key.jwk.clone()).collect(),
    };
    Ok(serde_json::to_string(&set).unwrap_or_else(|_| String::from("{\"keys\":[]}")))
}

fn check_strength(public: &Jwk) -> Result<(), InvalidKey> {
    if let AlgorithmParameters::RSA(rsa) = &public.algorithm {
        let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).map_err(|_| InvalidKey::NoKey)?;
        let bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
        return if bytes < MODULUS_BYTES_MIN {
            Err(InvalidKey::Short)
        } else {
            Ok(())
        };
    }
    let fits = matches!(&public.algorithm, AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384);
    if fits { Ok(()) } else { Err(InvalidKey::Curve) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7638, 3.1.
    const EXAMPLE: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}"#;

    fn key(id: Option<&str>) -> PublicKey {
        PublicKey::of(serde_json::from_str(EXAMPLE).unwrap(), id).unwrap()
    }

    #[test]
    fn a_key_without_a_name_is_named_by_the_thumbprint_of_its_rfc() {
        assert_eq!(key(None).id(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_set_holds_each_key_once_and_refuses_one_name_for_two() {
        let set = key_set([&key(None), &key(Some("old")), &key(None)]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&set).unwrap();
        let keys = value["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        for key in keys {
            assert_eq!((&key["kty"], &key["use"]), (&"RSA".into(), &"sig".into()));
        }
        let mut other = key(Some("old"));
        let AlgorithmParameters::RSA(rsa) = &mut other.jwk.algorithm else {
            panic!("not RSA")
        };
        rsa.e = "Aw".to_owned();
        let refused = key_set([&key(Some("old")), &other]).unwrap_err();
        assert_eq!(refused.id, "old");
        assert_eq!(key_set([]).unwrap(), r#"{"keys":[]}"#);
    }

    #[test]
    fn a_public_key_that_cannot_be_read_is_refused() {
        let pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let refused = PublicKey::parse(&SecretString::from(pem), None).unwrap_err();
        assert_eq!(refused, InvalidKey::NoKey);
    }
}
