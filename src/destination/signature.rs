//! Standard Webhooks signatures: HMAC-SHA256 over message id, time of the attempt and body.
//!
//! Keys are never shown. Several keys yield several signatures, so that a secret can be rotated while both
//! sides run.
//!
//! **Source:** <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>,
//! version 1.0.0, seen 2026-11-20.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use jiff::Timestamp;
use thiserror::Error;

/// Carries the message id: the event id, the same at every attempt.
pub const HEADER_ID: &str = "webhook-id";
/// Carries the time of the attempt, in seconds since 1970.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// Carries the signatures, separated by spaces.
pub const HEADER_SIGNATURE: &str = "webhook-signature";

/// How far a signature's time may lie from the receiver's clock: the specification's libraries use five minutes.
pub const TOLERANCE: Duration = Duration::from_mins(5);

/// The prefix of a symmetric secret's text form.
const SECRET_PREFIX: &str = "whsec_";
/// The specification's bounds for a secret: 192 and 512 bits.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The prefix of a symmetric signature.
const SIGNATURE_PREFIX: &str = "v1,";
/// How many of a request's signatures are looked at; a rotation needs two.
const SIGNATURES_MAX: usize = 16;

/// A secret that cannot be used. Messages never show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidSecret {
    /// The prefix is missing.
    #[error("a signing secret is whsec_ followed by base64")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("what follows whsec_ in the signing secret is not base64")]
    Base64,
    /// It is too short or too long.
    #[error("a signing secret has 24 to 64 bytes, this one has {bytes}")]
    Length {
        /// How many bytes it has.
        bytes: usize,
    },
}

/// A symmetric signing key. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Parses the text form, `whsec_` and base64.
    ///
    /// # Errors
    /// [`InvalidSecret`], which says what is wrong with it and does not show it.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text
            .trim()
            .strip_prefix(SECRET_PREFIX)
            .ok_or(InvalidSecret::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret::Base64)?;
        Self::from_bytes(&bytes)
    }

    /// Accepts 24 to 64 random bytes.
    ///
    /// # Errors
    /// [`InvalidSecret::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if SECRET_BYTES.contains(&bytes.len()) {
            Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
        } else {
            Err(InvalidSecret::Length { bytes: bytes.len() })
        }
    }

    fn tag(&self, id: &str, seconds: &str, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
            context.update(part);
        }
        context.sign()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Signs a message: the value of [`HEADER_SIGNATURE`], one signature per key in the keys' order.
#[must_use]
pub fn sign(keys: &[SigningKey], id: &str, at: Timestamp, body: &[u8]) -> String {
    let seconds = at.as_second().to_string();
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| {
            format!(
                "{SIGNATURE_PREFIX}{}",
                STANDARD.encode(key.tag(id, &seconds, body))
            )
        })
        .collect();
    signatures.join(" ")
}

/// A message whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The message id.
    pub id: String,
    /// When the attempt was made, by the sender's clock.
    pub timestamp: Timestamp,
}

/// A message that must not be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A header is missing, repeated or cannot be read: the request is malformed.
    #[error("the header {header} is missing or cannot be read")]
    Header {
        /// Which one.
        header: &'static str,
    },
    /// The attempt's time is too far from now: the message may be replayed.
    #[error("the timestamp is more than five minutes from now")]
    Stale,
    /// No signature matches a key.
    #[error("no signature matches")]
    Mismatch,
}

/// Verifies a received message against any of the keys, in time that does not depend on the signature.
///
/// # Errors
/// [`Rejection`]: the message must not be trusted.
pub fn verify(
    keys: &[SigningKey],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<Verified, Rejection> {
    let claim = read_claim(headers)?;
    if now.duration_since(claim.timestamp).unsigned_abs() > TOLERANCE {
        return Err(Rejection::Stale);
    }
    let seconds = single(headers, HEADER_TIMESTAMP)?;
    let presented: Vec<Vec<u8>> = single(headers, HEADER_SIGNATURE)?
        .split(' ')
        .take(SIGNATURES_MAX)
        .filter_map(|signature| STANDARD.decode(signature.strip_prefix(SIGNATURE_PREFIX)?).ok())
        .collect();
    let matches = keys.iter().any(|key| {
        let tag = key.tag(&claim.id, seconds, body);
        presented
            .iter()
            .any(|signature| constant_time::verify_slices_are_equal(tag.as_ref(), signature).is_ok())
    });
    if matches {
        Ok(claim)
    } else {
        Err(Rejection::Mismatch)
    }
}

/// Reads what a message says of itself, without verifying it.
///
/// # Errors
/// [`Rejection::Header`].
pub fn read_claim(headers: &HeaderMap) -> Result<Verified, Rejection> {
    let malformed = Rejection::Header {
        header: HEADER_TIMESTAMP,
    };
    let seconds = single(headers, HEADER_TIMESTAMP)?;
    let timestamp = seconds
        .parse()
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(Verified {
        id: single(headers, HEADER_ID)?.to_owned(),
        timestamp: timestamp.ok_or(malformed)?,
    })
}

fn single<'a>(headers: &'a HeaderMap, header: &'static str) -> Result<&'a str, Rejection> {
    let mut values = headers.get_all(header).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().filter(|text| !text.is_empty()),
        (Some(_), Some(_)) | (None, _) => None,
    }
    .ok_or(Rejection::Header { header })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    // The vector of the specification's own libraries (their test of the sign function).
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    // A well-formed signature by nobody, from the same tests.
    const FOREIGN: &str = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn keys() -> Vec<SigningKey> {
        vec![SigningKey::parse(SECRET).unwrap()]
    }

    fn headers(id: &str, seconds: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (HEADER_ID, id),
            (HEADER_TIMESTAMP, seconds),
            (HEADER_SIGNATURE, signature),
        ] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        headers
    }

    #[test]
    fn the_published_vector_is_reproduced() {
        assert_eq!(sign(&keys(), ID, at(AT), BODY), SIGNATURE);
    }

    #[test]
    fn the_published_cases_are_judged_as_published() {
        let header = |header| Err(Rejection::Header { header });
        let many = format!(
            "{FOREIGN} v2,{} {SIGNATURE} {FOREIGN}",
            FOREIGN.trim_start_matches("v1,")
        );
        let seconds = AT.to_string();
        let rows = [
            (headers(ID, &seconds, SIGNATURE), AT, Ok(())),
            (headers("", &seconds, SIGNATURE), AT, header(HEADER_ID)),
            (headers(ID, "", SIGNATURE), AT, header(HEADER_TIMESTAMP)),
            (headers(ID, &seconds, ""), AT, header(HEADER_SIGNATURE)),
            (headers(ID, "soon", SIGNATURE), AT, header(HEADER_TIMESTAMP)),
            (
                headers(ID, "99999999999999999999", SIGNATURE),
                AT,
                header(HEADER_TIMESTAMP),
            ),
            (headers(ID, &seconds, FOREIGN), AT, Err(Rejection::Mismatch)),
            (headers(ID, &seconds, "v1,"), AT, Err(Rejection::Mismatch)),
            (
                headers(ID, &seconds, &SIGNATURE[3..]),
                AT,
                Err(Rejection::Mismatch),
            ),
            (headers(ID, &seconds, &many), AT, Ok(())),
            (
                headers("msg_other", &seconds, SIGNATURE),
                AT,
                Err(Rejection::Mismatch),
            ),
            (headers(ID, "1614265331", SIGNATURE), AT, Err(Rejection::Mismatch)),
            (headers(ID, &seconds, SIGNATURE), AT + 300, Ok(())),
            (headers(ID, &seconds, SIGNATURE), AT + 301, Err(Rejection::Stale)),
            (headers(ID, &seconds, SIGNATURE), AT - 300, Ok(())),
            (headers(ID, &seconds, SIGNATURE), AT - 301, Err(Rejection::Stale)),
        ];
        for (row, (headers, now, expected)) in rows.into_iter().enumerate() {
            let said = verify(&keys(), &headers, BODY, at(now)).map(|_| ());
            assert_eq!(said, expected, "row {row}");
        }
        let intact = headers(ID, &seconds, SIGNATURE);
        let changed = verify(&keys(), &intact, b"{\"test\":2432232314}", at(AT));
        assert_eq!(changed, Err(Rejection::Mismatch));
        assert_eq!(verify(&[], &intact, BODY, at(AT)), Err(Rejection::Mismatch));
    }

    #[test]
    fn while_a_secret_is_rotated_either_key_verifies() {
        let old = SigningKey::from_bytes(&[1; 24]).unwrap();
        let new = SigningKey::from_bytes(&[2; 64]).unwrap();
        let both = sign(&[new.clone(), old.clone()], ID, at(AT), BODY);
        assert_eq!(both.split(' ').count(), 2);
        let headers = headers(ID, &AT.to_string(), &both);
        for key in [old, new] {
            assert!(verify(&[key], &headers, BODY, at(AT)).is_ok());
        }
    }

    #[test]
    fn secrets_are_checked_and_never_shown() {
        let text = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        let rows = [
            (text(24), None),
            (text(64), None),
            (text(23), Some(InvalidSecret::Length { bytes: 23 })),
            (text(65), Some(InvalidSecret::Length { bytes: 65 })),
            ("whsec_".to_owned(), Some(InvalidSecret::Length { bytes: 0 })),
            ("whsec_%%%".to_owned(), Some(InvalidSecret::Base64)),
            (SECRET[6..].to_owned(), Some(InvalidSecret::Prefix)),
        ];
        for (text, expected) in rows {
            assert_eq!(SigningKey::parse(&text).err(), expected, "{text}");
        }
        assert_eq!(format!("{:?}", keys()), "[SigningKey(..)]");
    }
}
