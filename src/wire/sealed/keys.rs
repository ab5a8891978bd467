//! The keys that encrypt what is kept at rest.
//!
//! AES-256-GCM-SIV (RFC 8452) with random nonces: plain GCM may seal 2^32 bodies under one key, which a busy
//! courier reaches within months; here even a nonce that comes twice shows no more than that two bodies are equal.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use thiserror::Error;

use super::SealError;

/// The size of a key's public id, in bytes.
const ID_BYTES: usize = 4;

/// What a key's public id is derived from; never change it.
const ID_LABEL: &[u8] = b"ehr-courier state key id";

/// A key's public id: tells keys apart, and nothing else about them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; ID_BYTES]);

/// A key that does not have 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key has 32 bytes")]
pub struct InvalidKey;

/// The key that encrypts, and all that decrypt. `Debug` shows their ids.
#[derive(Debug)]
pub(super) struct Keys {
    current: Key,
    previous: Vec<Key>,
}

struct Key {
    id: KeyId,
    cipher: LessSafeKey,
}

impl KeyId {
    /// Reads an id as [`KeyId::bytes`] wrote it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id's four bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let cipher = UnboundKey::new(&AES_256_GCM_SIV, bytes).map_err(|_| InvalidKey)?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), ID_LABEL);
        let id = tag.as_ref().get(..ID_BYTES).and_then(KeyId::from_bytes);
        Ok(Self {
            id: id.ok_or(InvalidKey)?,
            cipher: LessSafeKey::new(cipher),
        })
    }
}

impl Keys {
    pub(super) fn new<'a>(
        current: &[u8],
        previous: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, InvalidKey> {
        Ok(Self {
            current: Key::new(current)?,
            previous: previous.into_iter().map(Key::new).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn current(&self) -> KeyId {
        self.current.id
    }

    pub(super) fn knows(&self, id: KeyId) -> bool {
        self.key(id).is_some()
    }

    fn key(&self, id: KeyId) -> Option<&Key> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == id)
    }

    /// Answers key id, nonce, text and tag.
    pub(super) fn encrypt(&self, mut text: Vec<u8>, bound: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Encrypt)?;
        self.current
            .cipher
            .seal_in_place_append_tag(Nonce::from(&nonce), Aad::from(bound), &mut text)
            .map_err(|_| SealError::Encrypt)?;
        let mut sealed = Vec::with_capacity(ID_BYTES + NONCE_LEN + text.len());
        sealed.extend_from_slice(self.current.id.bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend(text);
        Ok(sealed)
    }
}

/// Opens what [`Keys::encrypt`] made, with whichever key made it.
pub(super) fn decrypt(keys: Option<&Keys>, sealed: &[u8], bound: &[u8]) -> Result<Vec<u8>, SealError> {
    let cut = || SealError::Damaged(std::io::Error::other("cut short"));
    let (id, rest) = sealed.split_first_chunk::<ID_BYTES>().ok_or_else(cut)?;
    let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(cut)?;
    let id = KeyId(*id);
    let key = keys
        .and_then(|keys| keys.key(id))
        .ok_or(SealError::UnknownKey { key: id })?;
    let mut text = text.to_vec();
    let opened = key
        .cipher
        .open_in_place(Nonce::from(nonce), Aad::from(bound), &mut text)
        .map_err(|_| SealError::Forged)?
        .len();
    text.truncate(opened);
    Ok(text)
}
