//! What lives in a heap: for shipping, for the audit, for tests.
//!
//! Only the owner may call these, or whoever holds the task frozen. Blocks freed from afar count as
//! live until they are drained.

use super::span::{MINI_LEN, Span};
use super::{Arena, Extent, Found, Page};
use crate::page::PAGE_LEN;
use crate::slot::SlotId;

impl Arena {
    /// Calls `seen` with address and length of each run of pages that holds live blocks or the heap's
    /// own records: what has to be shipped, beside the [`Arena`] itself. Whole pages, rising within
    /// each extent. What lies between may be lost.
    pub fn for_each_live_run(&self, seen: &mut dyn FnMut(usize, usize)) {
        for extent in self.extents() {
            let (mut start, mut end) = (extent.base(), extent.base());
            let mut add = |addr: usize, len: usize| {
                if addr == end {
                    end += len;
                } else {
                    seen(start, end - start);
                    (start, end) = (addr, addr + len);
                }
            };
            extent.for_each_run(&mut |first, count, what| match what {
                Page::Free(_) => {}
                Page::Span { .. } => {
                    // SAFETY: the page map says that a span is there.
                    let live = unsafe { Span::at(extent.page_addr(first)) }.live_pages();
                    for page in (0..count).filter(|page| live >> page & 1 == 1) {
                        add(extent.page_addr(first + page), PAGE_LEN);
                    }
                }
                Page::Meta | Page::Run(_) | Page::RunRest(_) => {
                    add(extent.page_addr(first), count * PAGE_LEN);
                }
            });
            seen(start, end - start);
        }
        for extent in self.huge_extents() {
            if extent.block == extent.base() + PAGE_LEN && extent.busy.get() != 0 {
                seen(extent.base(), PAGE_LEN + extent.block_len.get());
                continue;
            }
            seen(extent.base(), PAGE_LEN);
            if extent.busy.get() != 0 {
                seen(extent.block, extent.block_len.get());
            }
        }
    }

    /// Calls `seen` with address and length of each run of pages that holds records of an extent: what
    /// leads from a block to its heap. Beside the [`Arena`] itself it is all that others than the owner
    /// read of a heap; the owner reads records in spans too.
    pub fn for_each_record_run(&self, seen: &mut dyn FnMut(usize, usize)) {
        for extent in self.extents().chain(self.huge_extents()) {
            seen(extent.base(), extent.meta_page_count as usize * PAGE_LEN);
        }
    }

    /// Start and length of the live block that contains `addr`. Exact: `None` for free memory, for the
    /// heap's own records and for addresses elsewhere, mapped or not.
    #[must_use]
    pub fn block_of(&self, addr: usize) -> Option<(usize, usize)> {
        let contains = |extent: &&Extent| addr.wrapping_sub(extent.base()) < extent.len();
        let extent = self.extents().chain(self.huge_extents()).find(contains)?;
        // SAFETY: an extent of this heap, which nobody changes meanwhile.
        unsafe { Arena::block_in(extent, addr) }
    }

    /// As [`block_of`](Self::block_of), of whichever heap has an extent there: without a walk over the
    /// extents of one.
    ///
    /// # Safety
    ///
    /// - `addr` lies outside of the region, or in a slot whose first page is readable
    /// - nobody changes the heap that lies there meanwhile
    #[must_use]
    pub unsafe fn live_block_at(addr: usize) -> Option<(usize, usize)> {
        // SAFETY: the caller's promise.
        let extent = unsafe { Extent::of(addr) }?;
        if addr - extent.base() >= extent.len() {
            return None;
        }
        // SAFETY: an extent, which nobody changes meanwhile.
        unsafe { Arena::block_in(extent, addr) }
    }

    /// # Safety
    ///
    /// - nobody changes the extent meanwhile, and `addr` lies in it
    unsafe fn block_in(extent: &Extent, addr: usize) -> Option<(usize, usize)> {
        // SAFETY: the caller's promise.
        match unsafe { Arena::find_in(extent, addr) }? {
            Found::Small(_, span, block) => {
                span.is_live(block).then(|| (span.block_addr(block), span.size()))
            }
            Found::Run(extent, first, page_count) => {
                Some((extent.page_addr(first), page_count * PAGE_LEN))
            }
            Found::Huge(extent) => Some((extent.block, extent.block_len.get())),
        }
    }

    /// Calls `seen` with start and length of each live block.
    pub fn for_each_block(&self, seen: &mut dyn FnMut(usize, usize)) {
        for extent in self.extents() {
            let mut in_span = |addr: usize| {
                // SAFETY: the page map, or the mini's bit, says that a span is there.
                let span = unsafe { Span::at(addr) };
                span.live_blocks().for_each(|block| seen(span.block_addr(block), span.size()));
            };
            extent.taken_minis().for_each(|mini| in_span(extent.mini_addr(mini)));
            extent.for_each_run(&mut |first, count, what| match what {
                Page::Span { .. } => {
                    // SAFETY: as above.
                    let span = unsafe { Span::at(extent.page_addr(first)) };
                    span.live_blocks().for_each(|block| seen(span.block_addr(block), span.size()));
                }
                Page::Run(_) => seen(extent.page_addr(first), count * PAGE_LEN),
                Page::Free(_) | Page::Meta | Page::RunRest(_) => {}
            });
        }
        for extent in self.huge_extents().filter(|extent| extent.busy.get() != 0) {
            seen(extent.block, extent.block_len.get());
        }
    }

    /// Bytes in live blocks, as handed out (rounded up to their size class).
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        let mut sum = 0;
        self.for_each_block(&mut |_, len| sum += len);
        sum
    }

    /// The heap that has an extent in `slot`, if one has.
    ///
    /// # Safety
    ///
    /// - the first page of the slot is readable
    #[must_use]
    pub unsafe fn of_slot(slot: SlotId) -> Option<*const Arena> {
        // SAFETY: the caller's promise.
        unsafe { Extent::of(slot.base()) }.map(|extent| extent.arena().cast_const())
    }

    /// Whether no block is alive. Looks at each extent, not at the blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents().chain(self.huge_extents()).all(|extent| extent.busy.get() == 0)
    }

    /// Number of live blocks.
    #[must_use]
    pub fn live_blocks(&self) -> usize {
        let mut count = 0;
        self.for_each_block(&mut |_, _| count += 1);
        count
    }
}

const _: () = assert!(PAGE_LEN.is_multiple_of(MINI_LEN));
