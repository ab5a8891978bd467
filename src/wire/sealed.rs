//! Bodies at rest: a version byte, then the body under zstd.
//!
//! The version byte says how to open what was written, so that a later form (encryption with the configured key)
//! can stand beside this one in the same file.

use std::cell::RefCell;

use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// Plain text under zstd.
const ZSTD_PLAIN: u8 = 1;

/// zstd's default: fast enough to vanish beside the fsync, and FHIR bodies shrink to about a fifth.
const LEVEL: i32 = 3;

/// No stored body is larger: the record limit is 32 MiB, a page link far less.
const BODY_BYTES_MAX: usize = 64 << 20;

thread_local! {
    // Working memory, nothing else: making it anew costs more than opening a body of a few KiB.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A stored body that cannot be opened: the store is damaged or newer than this binary.
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
}

/// Makes a body ready for the store.
///
/// # Errors
/// [`SealError::Damaged`] when the compressor fails, which only a lack of memory can cause.
pub fn seal(body: &[u8]) -> Result<Vec<u8>, SealError> {
    let compressed = COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(body),
        None => kept.insert(Compressor::new(LEVEL)?).compress(body),
    });
    let mut sealed = vec![ZSTD_PLAIN];
    sealed.extend(compressed.map_err(SealError::Damaged)?);
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SealError`] when the bytes are not what any version of the courier wrote.
pub fn open(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    match sealed.split_first() {
        Some((&ZSTD_PLAIN, compressed)) => decompress(compressed).map_err(SealError::Damaged),
        Some((&form, _)) => Err(SealError::UnknownForm { form }),
        None => Err(SealError::Damaged(std::io::Error::other("empty"))),
    }
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

    #[test]
    fn a_body_comes_back_byte_for_byte() {
        for body in [&b""[..], b"{\"v\":1.10}", &vec![0u8; 100_000]] {
            assert_eq!(open(&seal(body).unwrap()).unwrap(), body);
        }
    }

    #[test]
    fn what_was_not_sealed_here_is_refused() {
        for bad in [&b""[..], b"\x01garbage", b"\x09{}"] {
            assert!(open(bad).is_err());
        }
    }
}
