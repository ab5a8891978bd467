//! The checker's own derivation of event ids, from the published rule and from nothing of the courier's.

use aws_lc_rs::digest;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The event id of a version.
pub(crate) fn event_id(connection: &str, record_type: &str, id: &str, version_key: &str) -> String {
    let mut input = Vec::new();
    for part in [connection, record_type, id, version_key] {
        input.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    let digest = digest::digest(&digest::SHA256, &input);
    let mut text = String::from("ev_");
    // Twenty bytes are four groups of five; five bytes are eight letters of five bits.
    for group in digest.as_ref()[..20].chunks(5) {
        let bits = group.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        for letter in (0..8).rev() {
            let index = usize::try_from(bits >> (letter * 5) & 31).unwrap();
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

/// SHA-256 of a body, to compare what arrived with what was shown.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .unwrap()
}
