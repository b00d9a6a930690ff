//! Blocks of a bulk stream, unpacked as they come. Plain bytes are handed on where they lie.

use migrt_proto::pack::{BLOCK_LEN_MAX, BlockHead, HEAD_LEN_MAX};

/// Takes a stream's bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    /// Of a head that has not come whole.
    head: Vec<u8>,
    state: State,
    /// Packed bytes of the current block, and what they become: used again for each block.
    packed: Vec<u8>,
    plain: Vec<u8>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Plain {
        left: usize,
    },
    Packed {
        len: usize,
        plain_len: usize,
    },
}

/// What is done with plain bytes.
type Seen<'a> = dyn FnMut(&[u8]) -> Result<(), String> + 'a;

impl Unpacker {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// They are no blocks, or `seen` fails.
    pub(super) fn take(&mut self, mut bytes: &[u8], seen: &mut Seen<'_>) -> Result<(), String> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head => bytes = self.take_head(bytes)?,
                State::Plain { left } => {
                    let (now, rest) = bytes.split_at(bytes.len().min(*left));
                    *left -= now.len();
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    bytes = rest;
                    seen(now)?;
                }
                State::Packed { len, plain_len } => {
                    let missing = *len - self.packed.len();
                    let (now, rest) = bytes.split_at(bytes.len().min(missing));
                    self.packed.extend_from_slice(now);
                    bytes = rest;
                    if self.packed.len() == *len {
                        let plain_len = *plain_len;
                        self.state = State::Head;
                        seen(self.unpack(plain_len)?)?;
                        self.packed.clear();
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here.
    pub(super) fn is_at_end(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let known = self.head.len();
        let more = bytes.len().min(HEAD_LEN_MAX - known);
        self.head.extend_from_slice(&bytes[..more]);
        let decoded = BlockHead::decode(&self.head).map_err(|e| e.to_string())?;
        let Some((head, behind)) = decoded else { return Ok(&bytes[more..]) };
        let used = self.head.len() - behind.len() - known;
        self.state = match head {
            BlockHead::Plain { len } => State::Plain { left: len },
            BlockHead::Packed { len, plain_len } => State::Packed { len, plain_len },
        };
        self.head.clear();
        Ok(&bytes[used..])
    }

    /// The block that has come whole. Its lengths were checked with its head.
    fn unpack(&mut self, plain_len: usize) -> Result<&[u8], String> {
        debug_assert!(plain_len <= BLOCK_LEN_MAX);
        self.plain.resize(BLOCK_LEN_MAX, 0);
        let plain = &mut self.plain[..plain_len];
        match lz4_flex::block::decompress_into(&self.packed, plain) {
            Ok(len) if len == plain_len => Ok(plain),
            Ok(len) => Err(format!("a packed block became {len} bytes, not {plain_len}")),
            Err(why) => Err(format!("a packed block cannot be unpacked: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(plain: &[u8], is_packed: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if is_packed {
            let packed = lz4_flex::block::compress(plain);
            BlockHead::Packed { len: packed.len(), plain_len: plain.len() }.encode(&mut bytes);
            bytes.extend(packed);
        } else {
            BlockHead::Plain { len: plain.len() }.encode(&mut bytes);
            bytes.extend(plain);
        }
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 100 % 7) as u8).collect()
    }

    /// What comes out when the bytes come in pieces of `step`.
    fn unpack(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool), String> {
        let (mut unpacker, mut out) = (Unpacker::default(), Vec::new());
        for piece in bytes.chunks(step) {
            unpacker.take(piece, &mut |plain| {
                out.extend_from_slice(plain);
                Ok(())
            })?;
        }
        Ok((out, unpacker.is_at_end()))
    }

    #[test]
    fn blocks_come_back_however_they_are_cut() {
        let (a, b) = (text(70_000), text(300));
        let stream =
            [block(&a, true), block(&b, false), block(&[9], false), block(&b, true)].concat();
        let plain = [&a[..], &b, &[9], &b].concat();
        for step in [1, 2, 3, 5, 7, 8, 9, 100, 6_400, stream.len()] {
            assert_eq!(unpack(&stream, step), Ok((plain.clone(), true)), "steps of {step}");
        }
        for cut in [1, 4, 6, 9, stream.len() - 1] {
            let (out, is_at_end) = unpack(&stream[..cut], 100).unwrap();
            assert!(plain.starts_with(&out) && !is_at_end, "cut at {cut}");
        }
    }

    #[test]
    fn a_packed_block_that_lies_about_its_length_is_an_error() {
        let plain = text(5_000);
        let packed = lz4_flex::block::compress(&plain);
        for plain_len in [packed.len() + 1, plain.len() - 1, plain.len() + 1, BLOCK_LEN_MAX] {
            let mut bytes = Vec::new();
            BlockHead::Packed { len: packed.len(), plain_len }.encode(&mut bytes);
            bytes.extend_from_slice(&packed);
            assert!(unpack(&bytes, 64).is_err(), "said to become {plain_len}");
        }
    }

    #[test]
    fn corrupt_blocks_are_errors_or_other_bytes_and_never_more_than_announced() {
        let good = block(&text(3_000), true);
        let mut random = 1u64;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (random >> 33) as usize % bytes.len();
                bytes[at] = (random >> 8) as u8;
            }
            if let Ok((out, _)) = unpack(&bytes, 1_000) {
                assert!(out.len() <= BLOCK_LEN_MAX);
            }
        }
    }
}
