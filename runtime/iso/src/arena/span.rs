//! A span: blocks of one size behind a header, with one bit per block that says whether it is free.
//!
//! ```text
//! | Span, 64 bytes | block 0 | block 1 | ...              1, 2, 4 or 8 pages, or a mini of 512 bytes
//! ```
//!
//! The lowest free block is always taken next, so pages that were never needed stay untouched, and
//! live blocks gather at the low end: fewer pages to ship. No links run through free blocks; the
//! bits answer exactly which blocks live, and catch a double free.

use core::cell::Cell;

use super::size;
use crate::page::PAGE_LEN;

/// Bytes in front of the first block.
pub(super) const SPAN_HEADER_LEN: usize = 64;
/// Length of a mini, a span inside an extent's first page.
pub(super) const MINI_LEN: usize = 512;

#[derive(Debug)]
#[repr(C)]
pub(super) struct Span {
    /// Neighbours in the arena's list of spans of this class with free blocks; 0 ends it.
    pub(super) next: Cell<usize>,
    pub(super) prev: Cell<usize>,
    /// A set bit is a free block.
    free: [Cell<u64>; 4],
    /// 2^32 / size, rounded up: turns the division by the block size into a multiplication.
    reciprocal: u32,
    size: u16,
    capacity: u16,
    live: Cell<u16>,
    class: u8,
    /// Number of pages; 0 is a mini.
    page_count: u8,
    /// Words of `free` below this one are zero.
    hint: Cell<u8>,
}

impl Span {
    /// Makes an empty span of `class` at `addr`; `page_count` 0 makes a mini.
    ///
    /// # Safety
    ///
    /// - the pages (or the mini) at `addr` belong to the arena and hold nothing
    pub(super) unsafe fn init<'a>(addr: usize, class: usize, page_count: usize) -> &'a Span {
        let len = if page_count == 0 { MINI_LEN } else { page_count * PAGE_LEN };
        let size = size::SIZES[class] as usize;
        let capacity = (len - SPAN_HEADER_LEN) / size;
        let word = |n: usize| match capacity.saturating_sub(n * 64) {
            bits @ 0..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        let span = Span {
            next: Cell::new(0),
            prev: Cell::new(0),
            free: [Cell::new(word(0)), Cell::new(word(1)), Cell::new(word(2)), Cell::new(word(3))],
            reciprocal: (1u64 << 32).div_ceil(size as u64) as u32,
            size: size as u16,
            capacity: capacity as u16,
            live: Cell::new(0),
            class: class as u8,
            page_count: page_count as u8,
            hint: Cell::new(0),
        };
        // SAFETY: the caller's promise.
        unsafe { (addr as *mut Span).write(span) };
        // SAFETY: written just now.
        unsafe { Span::at(addr) }
    }

    /// # Safety
    ///
    /// - a span was made at `addr`, and is not undone during `'a`
    #[inline]
    pub(super) unsafe fn at<'a>(addr: usize) -> &'a Span {
        // SAFETY: the caller's promise; all that changes later is in cells.
        unsafe { &*(addr as *const Span) }
    }

    #[inline]
    pub(super) fn addr(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    #[inline]
    pub(super) fn class(&self) -> usize {
        self.class as usize
    }

    #[inline]
    pub(super) fn size(&self) -> usize {
        self.size as usize
    }

    pub(super) fn page_count(&self) -> usize {
        self.page_count as usize
    }

    #[inline]
    pub(super) fn live_count(&self) -> usize {
        self.live.get() as usize
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.live.get() == self.capacity
    }

    /// Takes the lowest free block. The span must not be full.
    #[inline]
    pub(super) fn take(&self) -> usize {
        let mut word = self.hint.get() as usize & 3;
        let bits = self.free[word].get();
        debug_assert!(bits != 0, "the hint of a span that is not full shows a free block");
        let left = bits & (bits - 1);
        self.free[word].set(left);
        self.live.set(self.live.get() + 1);
        let block = word * 64 + bits.trailing_zeros() as usize;
        if left == 0 {
            while word < 3 && self.free[word].get() == 0 {
                word += 1;
            }
            self.hint.set(word as u8);
        }
        self.block_addr(block)
    }

    /// Frees a block; whether it was live.
    #[inline]
    #[must_use]
    pub(super) fn give(&self, block: usize) -> bool {
        let (word, bit) = ((block / 64) & 3, 1u64 << (block % 64));
        let bits = self.free[word].get();
        self.free[word].set(bits | bit);
        self.live.set(self.live.get().wrapping_sub(1));
        self.hint.set(self.hint.get().min(word as u8));
        bits & bit == 0
    }

    /// Index of the block that `addr` lies in, if it lies in one.
    #[inline]
    pub(super) fn block_at(&self, addr: usize) -> Option<usize> {
        let offset = addr.checked_sub(self.addr() + SPAN_HEADER_LEN)?;
        let block = ((offset as u64).wrapping_mul(u64::from(self.reciprocal)) >> 32) as usize;
        (block < self.capacity as usize).then_some(block)
    }

    #[inline]
    pub(super) fn block_addr(&self, block: usize) -> usize {
        self.addr() + SPAN_HEADER_LEN + block * self.size()
    }

    pub(super) fn is_live(&self, block: usize) -> bool {
        self.free[block / 64].get() >> (block % 64) & 1 == 0
    }

    pub(super) fn live_blocks(&self) -> impl Iterator<Item = usize> {
        (0..self.capacity as usize).filter(|&block| self.is_live(block))
    }

    /// Pages that hold the header or a live block, as bits.
    pub(super) fn live_pages(&self) -> u32 {
        if self.page_count == 1 {
            return 1;
        }
        self.live_blocks().fold(1, |pages, block| {
            let first = (self.block_addr(block) - self.addr()) / PAGE_LEN;
            let last = (self.block_addr(block) + self.size() - 1 - self.addr()) / PAGE_LEN;
            pages | 1 << first | 1 << last
        })
    }
}

const _: () = assert!(size_of::<Span>() == SPAN_HEADER_LEN);
