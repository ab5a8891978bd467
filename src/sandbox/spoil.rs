//! Faults of bodies: cut, oversized, malformed, deep, or a gzip bomb. A spoiled answer shows nothing.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use http::{StatusCode, header};
use rand::RngExt;

use super::answer::{Draft, outcome, set};
use super::world::World;

/// How deep the deep body is: far beyond any limit on depth, and enough to overflow a recursive reader.
const DEPTH: usize = 10_000;

/// The bomb repeats one block of this size …
const BOMB_BLOCK_BYTES: usize = 1024 * 1024;
/// … this many times: more than 256 MiB.
const BOMB_BLOCKS: usize = 257;

impl World {
    /// Spoils an answer, by at most one fault.
    pub(super) fn perhaps_spoiled(&mut self, mut draft: Draft) -> Draft {
        let faults = self.faults;
        let choices: [(&'static str, f64); 5] = [
            ("truncated", faults.truncated.share),
            ("malformed", faults.malformed.share),
            ("deep", faults.deep.share),
            ("oversized", faults.oversized.share),
            ("gzip_bomb", faults.gzip_bomb.share),
        ];
        let Some((name, _)) = choices.into_iter().find(|(_, share)| self.chance(*share)) else {
            return draft;
        };
        let length = draft.answer.body.len();
        match name {
            "truncated" => {
                let eighth = (length / 8).max(1);
                draft.answer.cut_at =
                    Some((eighth * self.random.random_range(1_usize..8)).min(length.saturating_sub(1)));
            }
            "malformed" => draft.answer.body = malformed(&draft.answer.body),
            "deep" => draft.answer.body = deep(),
            "oversized" => {
                let headers = draft.answer.headers.clone();
                let padding = "x".repeat(faults.oversized.bytes);
                draft.answer = outcome(StatusCode::OK, "too-long", &padding);
                draft.answer.headers = headers;
            }
            _ => {
                let Some((body, unpacked)) = self.bomb() else {
                    return draft;
                };
                draft.answer.body = body;
                draft.answer.unpacked_bytes = Some(unpacked);
                set(&mut draft.answer, header::CONTENT_ENCODING, "gzip");
            }
        }
        self.strikes.count(name);
        draft.showings.clear();
        draft
    }

    fn bomb(&self) -> Option<(Bytes, usize)> {
        if let Some(bomb) = self.bomb.get() {
            return Some(bomb.clone());
        }
        let bomb = gzip_bomb().ok()?;
        Some(self.bomb.get_or_init(|| bomb).clone())
    }
}

fn malformed(body: &[u8]) -> Bytes {
    let (first, second) = body.split_at(body.len() / 2);
    Bytes::from([first, b"\x01,,}", second].concat())
}

fn deep() -> Bytes {
    let body = format!(
        r#"{{"resourceType":"Bundle","type":"searchset","total":0,"deep":{}{},"entry":[]}}"#,
        "[".repeat(DEPTH),
        "]".repeat(DEPTH)
    );
    Bytes::from(body)
}

/// Builds the bomb from one compressed block, repeated: a block after a full flush stands alone.
fn gzip_bomb() -> io::Result<(Bytes, usize)> {
    let head = br#"{"resourceType":"Bundle","type":"searchset","entry":["#;
    let tail = b"]}";
    let block = vec![b' '; BOMB_BLOCK_BYTES];
    let mut crc = Crc::new();
    let mut packed: Vec<u8> = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    crc.update(head);
    packed.write_all(&deflated(head, FlushCompress::Full)?)?;
    let repeated = deflated(&block, FlushCompress::Full)?;
    let mut block_crc = Crc::new();
    block_crc.update(&block);
    for _ in 0..BOMB_BLOCKS {
        crc.combine(&block_crc);
        packed.write_all(&repeated)?;
    }
    crc.update(tail);
    packed.write_all(&deflated(tail, FlushCompress::Finish)?)?;
    packed.write_all(&crc.sum().to_le_bytes())?;
    packed.write_all(&crc.amount().to_le_bytes())?;
    Ok((
        Bytes::from(packed),
        head.len() + BOMB_BLOCKS * BOMB_BLOCK_BYTES + tail.len(),
    ))
}

fn deflated(input: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut output = Vec::with_capacity(input.len() / 2 + 1024);
    let mut compress = Compress::new(Compression::best(), false);
    compress
        .compress_vec(input, &mut output, flush)
        .map_err(io::Error::other)?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_bomb_is_small_whole_and_expands_beyond_256_mib() {
        let (packed, unpacked) = gzip_bomb().unwrap();
        assert!(packed.len() < 1024 * 1024, "{}", packed.len());
        let mut reader = flate2::read::GzDecoder::new(packed.as_ref());
        let mut buffer = vec![0_u8; 1 << 20];
        let mut total = 0;
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                read => total += read,
            }
        }
        assert_eq!(total, unpacked);
        assert!(total > 256 * 1024 * 1024);
    }
}
