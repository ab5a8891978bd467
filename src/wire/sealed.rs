//! What is kept at rest: compressed, and encrypted where the configuration names a key.
//!
//! The first byte is the form, so that both forms stand side by side in one file: a store that was plain is
//! encrypted row by row from the day it has a key. What is encrypted is bound to its place: moved to another
//! record's row it does not open. Sizes are not hidden.

mod keys;

use std::cell::RefCell;
use std::sync::Arc;

use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use keys::Keys;
pub use keys::{InvalidKey, KeyId};

/// Plain text under zstd.
const ZSTD_PLAIN: u8 = 1;

/// Under zstd, then AES-256-GCM-SIV: key id (4 bytes), nonce (12), text and tag.
const ZSTD_ENCRYPTED: u8 = 2;

/// zstd's default: fast enough to vanish beside the fsync, and FHIR bodies shrink to about a fifth.
const LEVEL: i32 = 3;

/// No stored body is larger: the record limit is 32 MiB, a page link far less.
const BODY_BYTES_MAX: usize = 64 << 20;

thread_local! {
    // Working memory, nothing else: making it anew costs more than opening a body of a few KiB.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Stored bytes that cannot be opened: the store is damaged, newer than this binary, or sealed with another key.
#[derive(Debug, Error)]
pub enum SealError {
    /// The first byte names a form that this binary does not know.
    #[error("the stored body has form {form}, which this version of ehr-courier does not know")]
    UnknownForm {
        /// The form byte.
        form: u8,
    },
    /// The body is empty, cut or too large.
    #[error("the stored body cannot be decompressed")]
    Damaged(#[source] std::io::Error),
    /// The key that sealed it is not configured.
    #[error("the stored body was sealed with key {key}: name that key in `state.previous_keys`")]
    UnknownKey {
        /// The key's public id.
        key: KeyId,
    },
    /// It was changed, or moved from another place.
    #[error("the stored body was changed, or belongs elsewhere: the store is damaged or was tampered with")]
    Forged,
    /// The system gives no random bytes, or the body exceeds what one key may encrypt at once.
    #[error("the body cannot be encrypted")]
    Encrypt,
}

/// Where sealed bytes belong: a kind, and names that tell them apart from all others of that kind.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    kind: &'static str,
    names: &'a [&'a str],
}

impl<'a> Place<'a> {
    /// Names a place.
    #[must_use]
    pub const fn new(kind: &'static str, names: &'a [&'a str]) -> Self {
        Self { kind, names }
    }

    /// What the encryption is bound to: kind and names, each after its length, so that no two places are alike.
    fn bound(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in std::iter::once(&self.kind).chain(self.names) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// Seals and opens what is kept at rest. Cheap to clone; `Debug` shows no key.
#[derive(Debug, Clone, Default)]
pub struct Seals(Option<Arc<Keys>>);

impl Seals {
    /// Seals with the first key, opens with it and with the earlier ones; 32 bytes each.
    ///
    /// # Errors
    /// [`InvalidKey`] when one has another size.
    pub fn encrypted<'a>(
        key: &[u8],
        previous: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, InvalidKey> {
        Ok(Self(Some(Arc::new(Keys::new(key, previous)?))))
    }

    /// Only compresses: the operator accepts plain text.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// The public id of the key that seals; absent for plain text.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.0.as_ref().map(|keys| keys.current())
    }

    /// Whether it opens what this key sealed.
    #[must_use]
    pub fn knows(&self, key: KeyId) -> bool {
        self.0.as_ref().is_some_and(|keys| keys.knows(key))
    }

    /// How everything begins that this key sealed.
    #[must_use]
    pub fn head(key: KeyId) -> Vec<u8> {
        let mut head = vec![ZSTD_ENCRYPTED];
        head.extend_from_slice(key.bytes());
        head
    }

    /// Makes bytes ready for the store.
    ///
    /// # Errors
    /// [`SealError::Damaged`] when the compressor fails, which only a lack of memory can cause; [`SealError::Encrypt`].
    pub fn seal(&self, body: &[u8], place: Place<'_>) -> Result<Vec<u8>, SealError> {
        let compressed = compress(body).map_err(SealError::Damaged)?;
        let (form, text) = match &self.0 {
            None => (ZSTD_PLAIN, compressed),
            Some(keys) => (ZSTD_ENCRYPTED, keys.encrypt(compressed, &place.bound())?),
        };
        let mut sealed = Vec::with_capacity(text.len() + 1);
        sealed.push(form);
        sealed.extend(text);
        Ok(sealed)
    }

    /// Opens what [`Seals::seal`] made for this place.
    ///
    /// # Errors
    /// [`SealError`] when the bytes are not what a courier with these keys wrote there.
    pub fn open(&self, sealed: &[u8], place: Place<'_>) -> Result<Vec<u8>, SealError> {
        match sealed.split_first() {
            Some((&ZSTD_PLAIN, compressed)) => decompress(compressed).map_err(SealError::Damaged),
            Some((&ZSTD_ENCRYPTED, rest)) => {
                let compressed = keys::decrypt(self.0.as_deref(), rest, &place.bound())?;
                decompress(&compressed).map_err(SealError::Damaged)
            }
            Some((&form, _)) => Err(SealError::UnknownForm { form }),
            None => Err(SealError::Damaged(std::io::Error::other("empty"))),
        }
    }
}

fn compress(body: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(body),
        None => kept.insert(Compressor::new(LEVEL)?).compress(body),
    })
}

/// The size stands in the frame, so that nothing larger than a body is ever made room for.
fn decompress(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    let size = zstd_safe::get_frame_content_size(compressed).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| std::io::Error::other("no frame that says its size"))?;
    if size > BODY_BYTES_MAX {
        return Err(std::io::Error::other("larger than any body"));
    }
    DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress(compressed, size),
        None => kept.insert(Decompressor::new()?).decompress(compressed, size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place {
        kind: "body",
        names: &["mercy", "17"],
    };

    fn keyed(key: u8, previous: &[u8]) -> Seals {
        let previous: Vec<[u8; 32]> = previous.iter().map(|byte| [*byte; 32]).collect();
        Seals::encrypted(&[key; 32], previous.iter().map(|key| &key[..])).unwrap()
    }

    #[test]
    fn a_body_comes_back_byte_for_byte_and_only_where_it_belongs() {
        let elsewhere = Place::new("body", &["mercy1", "7"]);
        for body in [&b""[..], b"{\"v\":1.10}", &vec![0u8; 100_000]] {
            let plain = Seals::plain();
            let sealed = plain.seal(body, HERE).unwrap();
            assert_eq!(plain.open(&sealed, HERE).unwrap(), body);
            assert_eq!(
                keyed(1, &[]).open(&sealed, HERE).unwrap(),
                body,
                "plain stays readable"
            );
            let secret = keyed(1, &[]).seal(body, HERE).unwrap();
            assert_eq!(keyed(1, &[]).open(&secret, HERE).unwrap(), body);
            assert_eq!(keyed(2, &[1]).open(&secret, HERE).unwrap(), body);
            assert!(matches!(
                keyed(1, &[]).open(&secret, elsewhere),
                Err(SealError::Forged)
            ));
            for without in [plain, keyed(2, &[])] {
                let refused = without.open(&secret, HERE);
                assert!(matches!(refused, Err(SealError::UnknownKey { .. })));
            }
        }
    }

    #[test]
    fn no_two_seals_of_a_body_are_alike_and_each_changed_byte_is_noticed() {
        let seals = keyed(1, &[]);
        let sealed = seals.seal(b"needle", HERE).unwrap();
        assert_ne!(sealed, seals.seal(b"needle", HERE).unwrap());
        assert!(!sealed.windows(6).any(|window| window == b"needle"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seals.open(&changed, HERE).is_err(), "byte {at}");
            assert!(seals.open(&sealed[..at], HERE).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_was_not_sealed_here_is_refused() {
        for bad in [&b""[..], b"\x01garbage", b"\x02", b"\x02short", b"\x09{}"] {
            assert!(keyed(1, &[]).open(bad, HERE).is_err());
        }
    }

    #[test]
    fn keys_do_not_show_in_debug_output_and_have_32_bytes() {
        let text = format!("{:?}", keyed(7, &[]));
        assert!(!text.contains("7, 7"), "{text}");
        assert!(Seals::encrypted(&[7; 31], []).is_err());
    }
}
