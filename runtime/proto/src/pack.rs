//! Bulk as blocks, packed (lz4) where that pays: the format, and when it pays.
//!
//! ```text
//! block    | bit 31: packed, else plain   bits 0..30: length | length of the plain bytes, if packed | bytes |
//!          '--------------- u32, little-endian --------------'------------- u32 --------------------'
//! ```
//!
//! Packing takes time of the thread that sends, so it pays where the link is much slower than that, and the bytes
//! become fewer. The first is known from the link's measured rate and from how fast packing went so far; the second
//! shows in a *sample*, the first [`SAMPLE_LEN`] bytes of a piece. What a sample or a block says holds for some pieces,
//! and bytes that do not pack are asked after ever more rarely: random bytes are never packed.

use crate::wire::WireError;

/// Most plain bytes of one block.
pub const BLOCK_LEN_MAX: usize = 128 << 10;
/// Bytes of a sample.
pub const SAMPLE_LEN: usize = 4 << 10;

const PACKED: u32 = 1 << 31;
/// A block's head at most.
pub const HEAD_LEN_MAX: usize = 8;

/// What a block's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockHead {
    /// So many plain bytes follow.
    Plain {
        /// From 1 to [`BLOCK_LEN_MAX`].
        len: usize,
    },
    /// Packed bytes follow.
    Packed {
        /// How many, fewer than they become.
        len: usize,
        /// What they become, at most [`BLOCK_LEN_MAX`].
        plain_len: usize,
    },
}

impl BlockHead {
    /// Appends the head to `out`.
    ///
    /// # Panics
    /// If a length is outside of its limits.
    pub fn encode(self, out: &mut Vec<u8>) {
        assert_eq!(self.check(), Ok(()), "a block within its limits");
        match self {
            BlockHead::Plain { len } => out.extend_from_slice(&(len as u32).to_le_bytes()),
            BlockHead::Packed { len, plain_len } => {
                out.extend_from_slice(&(len as u32 | PACKED).to_le_bytes());
                out.extend_from_slice(&(plain_len as u32).to_le_bytes());
            }
        }
    }

    /// Takes a head from the front of `bytes`; `None` if it is not there whole.
    ///
    /// # Errors
    /// A length outside of its limits.
    pub fn decode(bytes: &[u8]) -> Result<Option<(BlockHead, &[u8])>, WireError> {
        let Some((first, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let first = u32::from_le_bytes(*first);
        let len = (first & !PACKED) as usize;
        let (head, rest) = if first & PACKED == 0 {
            (BlockHead::Plain { len }, rest)
        } else {
            let Some((plain_len, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (BlockHead::Packed { len, plain_len: u32::from_le_bytes(*plain_len) as usize }, rest)
        };
        head.check()?;
        Ok(Some((head, rest)))
    }

    fn check(self) -> Result<(), WireError> {
        let (len, limit) = match self {
            BlockHead::Plain { len } => (len, BLOCK_LEN_MAX),
            BlockHead::Packed { len, plain_len } => (len, plain_len.saturating_sub(1)),
        };
        let longest = match self {
            BlockHead::Plain { len } => len,
            BlockHead::Packed { plain_len, .. } => plain_len,
        };
        if longest > BLOCK_LEN_MAX {
            return Err(WireError::TooLong { len: longest, limit: BLOCK_LEN_MAX });
        }
        if len == 0 || len > limit {
            return Err(WireError::Malformed { what: "block" });
        }
        Ok(())
    }
}

/// What to do with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Send it as it is.
    Plain,
    /// Pack a sample, say how that [went](Packing::sampled), and do what that answers.
    Sample,
    /// Pack it, and say how that [went](Packing::packed).
    Pack,
}

/// What is known of one stream's bytes, and of packing.
#[derive(Clone, Debug)]
pub struct Packing {
    /// Plain bytes that are packed in a second.
    bytes_per_s: u64,
    /// What is left of 1,000 bytes when the last of them were packed.
    left_of_1000: u64,
    /// Pieces until the next sample.
    until_sample: u32,
    /// Pieces from one sample in vain to the next.
    gap: u32,
}

/// Until something was packed: a modest core.
const GUESS_BYTES_PER_S: u64 = 600_000_000;
/// At least so much of the time on the link must be saved.
const GAIN_OF_1000: u64 = 100;
const GAP_MIN: u32 = 4;
const GAP_MAX: u32 = 256;
/// So many pieces are packed by what one sample has shown.
const TRUST: u32 = 64;

impl Default for Packing {
    fn default() -> Packing {
        Packing {
            bytes_per_s: GUESS_BYTES_PER_S,
            left_of_1000: 1000,
            until_sample: 0,
            gap: GAP_MIN,
        }
    }
}

impl Packing {
    /// Nothing is known yet.
    pub fn new() -> Packing {
        Packing::default()
    }

    /// What to do with the next piece, on a link that carries so many bytes per second.
    pub fn plan(&mut self, link_bytes_per_s: u64) -> Plan {
        // On a link so fast that even nothing left of the bytes would not make up for packing them.
        if !self.pays(link_bytes_per_s, 0) {
            return Plan::Plain;
        }
        if self.until_sample == 0 {
            return Plan::Sample;
        }
        self.until_sample -= 1;
        match self.pays(link_bytes_per_s, self.left_of_1000) {
            true => Plan::Pack,
            false => Plan::Plain,
        }
    }

    /// A sample of so many plain bytes was packed in so many nanoseconds: [`Plan::Pack`] or [`Plan::Plain`].
    pub fn sampled(&mut self, link_bytes_per_s: u64, plain: usize, packed: usize, ns: u64) -> Plan {
        self.note(plain, packed, ns);
        if self.pays(link_bytes_per_s, self.left_of_1000) {
            (self.gap, self.until_sample) = (GAP_MIN, TRUST);
            return Plan::Pack;
        }
        self.until_sample = self.gap;
        self.gap = (2 * self.gap).min(GAP_MAX);
        Plan::Plain
    }

    /// A piece was packed. Whether to send it packed.
    pub fn packed(&mut self, plain: usize, packed: usize, ns: u64) -> bool {
        self.note(plain, packed, ns);
        let is_less = packed * 16 < plain * 15;
        if !is_less {
            (self.until_sample, self.gap) = (self.gap, (2 * self.gap).min(GAP_MAX));
        }
        is_less
    }

    fn note(&mut self, plain: usize, packed: usize, ns: u64) {
        let plain = plain.max(1) as u64;
        self.left_of_1000 = 1000 * packed as u64 / plain;
        let seen = plain.saturating_mul(1_000_000_000) / ns.max(1);
        // A thread that was interrupted seems slow: one value counts a quarter.
        self.bytes_per_s = (3 * (self.bytes_per_s / 4) + seen / 4).max(1);
    }

    /// Whether packing saves enough of the link's time, if so much is left of the bytes.
    fn pays(&self, link_bytes_per_s: u64, left_of_1000: u64) -> bool {
        // Packing here and unpacking there, which takes a third of it, per 1,000 of the time on the link.
        let effort = 1333 * u128::from(link_bytes_per_s) / u128::from(self.bytes_per_s);
        effort + u128::from(left_of_1000 + GAIN_OF_1000) <= 1000
    }
}
