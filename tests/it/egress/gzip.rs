//! A gzip bomb, written bit by bit.

/// Writes a gzip stream of `repeats` times 258 zeros: each costs 13 bits, so it inflates 158-fold.
pub(super) fn bomb(repeats: usize) -> Vec<u8> {
    let mut bits = BitWriter {
        bytes: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
        used: 8,
    };
    bits.push(&[1]); // the last block,
    bits.push(&[1, 0]); // with the fixed code,
    bits.push(&[0, 0, 1, 1, 0, 0, 0, 0]); // begins with the literal 0.
    for _ in 0..repeats {
        bits.push(&[1, 1, 0, 0, 0, 1, 0, 1]); // 258 bytes,
        bits.push(&[0, 0, 0, 0, 0]); // copied from one byte back.
    }
    bits.bytes
}

struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn push(&mut self, bits: &[u8]) {
        for bit in bits {
            if self.used == 8 {
                self.bytes.push(0);
                self.used = 0;
            }
            *self.bytes.last_mut().unwrap() |= bit << self.used;
            self.used += 1;
        }
    }
}
