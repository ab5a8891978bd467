//! Bodies at rest: a version byte, then the body under zstd.
//!
//! The version byte says how to open what was written, so that a later form (encryption with the configured key)
//! can stand beside this one in the same file.

use thiserror::Error;

/// Plain text under zstd.
const ZSTD_PLAIN: u8 = 1;

/// zstd's default: fast enough to vanish beside the fsync, and FHIR bodies shrink to about a fifth.
const LEVEL: i32 = 3;

/// No stored body is larger: the record limit is 32 MiB, a page link far less.
const BODY_BYTES_MAX: usize = 64 << 20;

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
    let mut sealed = vec![ZSTD_PLAIN];
    sealed.extend(zstd::bulk::compress(body, LEVEL).map_err(SealError::Damaged)?);
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`SealError`] when the bytes are not what any version of the courier wrote.
pub fn open(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    match sealed.split_first() {
        Some((&ZSTD_PLAIN, compressed)) => zstd::stream::decode_all(compressed)
            .map_err(SealError::Damaged)
            .and_then(|body| {
                if body.len() > BODY_BYTES_MAX {
                    return Err(SealError::Damaged(std::io::Error::other("larger than any body")));
                }
                Ok(body)
            }),
        Some((&form, _)) => Err(SealError::UnknownForm { form }),
        None => Err(SealError::Damaged(std::io::Error::other("empty"))),
    }
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
