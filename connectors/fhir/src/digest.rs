//! A 64-bit digest that is the same in every build, for recognising links and sets of rows again.
//!
//! FNV-1a: it is stored between two pages, so the standard library's hasher, which may change with a
//! release, will not do. It guards against accidents, not against a source that wants to deceive.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Digests parts, each closed by a byte that no UTF-8 text holds.
pub(crate) fn of(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().copied().chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_between_parts_count() {
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_eq!(of(&[b"ab"]), of(&[b"ab"]));
    }
}
