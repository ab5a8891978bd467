//! Seeded randomness, forked by label: one more draw in one place changes nothing elsewhere.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The generator of one part of a world.
pub(crate) fn fork(seed: u64, label: &str) -> StdRng {
    // FNV-1a: stable across releases, unlike the standard library's hasher.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in label.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    StdRng::seed_from_u64(hash)
}

/// One of several, each as likely as the others.
pub(crate) fn pick<T: Clone>(dice: &mut StdRng, choices: &[T]) -> T {
    choices[dice.random_range(0..choices.len())].clone()
}
