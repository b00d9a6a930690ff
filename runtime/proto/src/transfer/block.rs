//! 1,024 neighbouring pages, a bit each: what a [`PageSet`](super::PageSet) is made of.
//!
//! 128 bytes describe 4 MiB of memory: the 65,536 pages of 256 MiB fit into 8 KiB, and a lone page costs one block.

use core::ops::Range;

/// Pages per block.
pub(super) const BLOCK_PAGES: u32 = 1024;
const WORDS: usize = BLOCK_PAGES as usize / 64;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Block {
    words: [u64; WORDS],
}

impl Block {
    pub(super) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn contains(&self, bit: u32) -> bool {
        self.words[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    /// Sets the bits; how many were clear.
    pub(super) fn insert(&mut self, bits: Range<u32>) -> u64 {
        self.change(bits, |word, mask| {
            let new = mask & !*word;
            *word |= mask;
            new
        })
    }

    /// Clears the bits; how many were set.
    pub(super) fn remove(&mut self, bits: Range<u32>) -> u64 {
        self.change(bits, |word, mask| {
            let gone = mask & *word;
            *word &= !mask;
            gone
        })
    }

    fn change(&mut self, bits: Range<u32>, each: impl Fn(&mut u64, u64) -> u64) -> u64 {
        let mut changed = 0;
        let mut at = bits.start;
        while at < bits.end {
            let stop = bits.end.min((at / 64 + 1) * 64);
            let mask = (u64::MAX >> (64 - (stop - at))) << (at % 64);
            changed += u64::from(each(&mut self.words[at as usize / 64], mask).count_ones());
            at = stop;
        }
        changed
    }

    /// First set bit from `bit` on.
    pub(super) fn first_from(&self, bit: u32) -> Option<u32> {
        self.find_from(bit, |word| word)
    }

    /// First clear bit from `bit` on; the block's length if there is none.
    pub(super) fn gap_from(&self, bit: u32) -> u32 {
        self.find_from(bit, |word| !word).unwrap_or(BLOCK_PAGES)
    }

    fn find_from(&self, bit: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        if bit >= BLOCK_PAGES {
            return None;
        }
        let first = bit as usize / 64;
        let mut mask = u64::MAX << (bit % 64);
        for index in first..WORDS {
            let word = view(self.words[index]) & mask;
            if word != 0 {
                return Some(index as u32 * 64 + word.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// Last set bit up to `bit`, which counts.
    pub(super) fn last_to(&self, bit: u32) -> Option<u32> {
        let last = bit as usize / 64;
        let mut mask = u64::MAX >> (63 - bit % 64);
        for index in (0..=last).rev() {
            let word = self.words[index] & mask;
            if word != 0 {
                return Some(index as u32 * 64 + 63 - word.leading_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    pub(super) fn union(&self, other: &Block) -> Block {
        self.combine(other, |a, b| a | b)
    }

    pub(super) fn difference(&self, other: &Block) -> Block {
        self.combine(other, |a, b| a & !b)
    }

    pub(super) fn intersection(&self, other: &Block) -> Block {
        self.combine(other, |a, b| a & b)
    }

    fn combine(&self, other: &Block, word: impl Fn(u64, u64) -> u64) -> Block {
        Block { words: core::array::from_fn(|index| word(self.words[index], other.words[index])) }
    }
}
