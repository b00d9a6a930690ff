//! An extent: a stretch of pages that the arena cuts up. The first lies at the low end of the task
//! slot, each further one is a slot of its own, found from any address in it by a mask.
//!
//! ```text
//! | Extent | page map, 2 bytes a page | minis |  page  |  page  |  ...      a normal extent
//! |<------------- first page -------------->|                          (long maps take more pages,
//!                                                                       then without minis)
//! | Extent |            (to the alignment)  | the block                 a huge extent
//! ```
//!
//! What the page map says, and how pages are found and given back, is in `runs.rs`.

use core::cell::Cell;

use super::Arena;
use super::runs::Page;
use super::span::MINI_LEN;
use crate::page::PAGE_LEN;
use crate::pool::WARM_CLASS_MAX;
use crate::slot::SlotId;

const MAGIC: u64 = u64::from_le_bytes(*b"migrtext");
pub(super) const HEADER_LEN: usize = 96;

#[derive(Debug)]
#[repr(C)]
pub(super) struct Extent {
    magic: Cell<u64>,
    arena: usize,
    /// Neighbours in the arena's list of extents of this kind; 0 ends it.
    pub(super) next: Cell<usize>,
    pub(super) prev: Cell<usize>,
    /// The block of a huge extent; 0 in a normal one.
    pub(super) block: usize,
    pub(super) block_len: Cell<usize>,
    pub(super) page_count: u32,
    pub(super) meta_page_count: u32,
    /// Page runs, and spans with live blocks; for a huge extent 1 while its block lives.
    pub(super) busy: Cell<u32>,
    /// No free run is longer.
    pub(super) free_run_bound: Cell<u32>,
    /// All pages below are taken.
    pub(super) lowest_free: Cell<u32>,
    /// Where the last search for a longer run ended: the start of a run.
    pub(super) rover: Cell<u32>,
    /// Pages from here on were never handed out and read as zeros.
    pub(super) fresh_page: Cell<u32>,
    /// A set bit is a free mini of the first page.
    free_minis: Cell<u8>,
    is_first: bool,
}

impl Extent {
    /// Page map and header of an extent of `page_count` pages, in pages.
    pub(super) const fn meta_page_count(page_count: usize) -> usize {
        (HEADER_LEN + 2 * page_count).div_ceil(PAGE_LEN)
    }

    /// Makes an extent with all its pages free.
    ///
    /// # Safety
    ///
    /// - `base..base + len` belongs to the arena and holds nothing, `base` starts a slot
    /// - if the slot's class is above [`WARM_CLASS_MAX`], the memory reads as zeros
    pub(super) unsafe fn init<'a>(
        arena: &Arena,
        base: usize,
        len: usize,
        is_first: bool,
    ) -> &'a Extent {
        let page_count = len / PAGE_LEN;
        let meta = Extent::meta_page_count(page_count);
        assert!(page_count > meta && page_count <= 1 << 14, "an extent of {len:#x} bytes");
        let clean =
            !is_first && SlotId::of_addr(base).is_some_and(|slot| slot.class() > WARM_CLASS_MAX);
        let minis_below = (HEADER_LEN + 2 * page_count).div_ceil(MINI_LEN).min(8);
        // SAFETY: the caller's promise, forwarded.
        let extent =
            unsafe { Extent::write(arena, base, 0, 0, is_first, page_count as u32, meta as u32) };
        extent.free_minis.set((0xff_u32 << minis_below) as u8);
        extent.fresh_page.set(if clean { meta } else { page_count } as u32);
        extent.init_runs();
        extent
    }

    /// Makes an extent that holds one block.
    ///
    /// # Safety
    ///
    /// - the slot at `base` belongs to the arena and holds nothing
    pub(super) unsafe fn init_huge<'a>(
        arena: &Arena,
        base: usize,
        block: usize,
        block_len: usize,
    ) -> &'a Extent {
        // SAFETY: the caller's promise, forwarded.
        let extent = unsafe { Extent::write(arena, base, block, block_len, false, 0, 1) };
        extent.busy.set(1);
        extent
    }

    unsafe fn write<'a>(
        arena: &Arena,
        base: usize,
        block: usize,
        block_len: usize,
        is_first: bool,
        page_count: u32,
        meta_page_count: u32,
    ) -> &'a Extent {
        let extent = Extent {
            magic: Cell::new(MAGIC),
            arena: core::ptr::from_ref(arena) as usize,
            next: Cell::new(0),
            prev: Cell::new(0),
            block,
            block_len: Cell::new(block_len),
            page_count,
            meta_page_count,
            busy: Cell::new(0),
            free_run_bound: Cell::new(0),
            lowest_free: Cell::new(meta_page_count),
            rover: Cell::new(meta_page_count),
            fresh_page: Cell::new(0),
            free_minis: Cell::new(0),
            is_first,
        };
        // SAFETY: the caller owns the memory and it holds nothing.
        unsafe { (base as *mut Extent).write(extent) };
        // SAFETY: written just now.
        unsafe { Extent::at(base) }
    }

    /// # Safety
    ///
    /// - an extent was made at `base` and is not undone during `'a`
    #[inline]
    pub(super) unsafe fn at<'a>(base: usize) -> &'a Extent {
        // SAFETY: the caller's promise; all that changes later is in cells.
        unsafe { &*(base as *const Extent) }
    }

    /// The extent at the base of the slot that `addr` lies in, if there is one.
    ///
    /// # Safety
    ///
    /// - `addr` lies outside of the region, or in a slot whose first page is readable
    #[inline]
    pub(super) unsafe fn of<'a>(addr: usize) -> Option<&'a Extent> {
        let base = SlotId::of_addr(addr)?.base();
        // SAFETY: readable by the caller's promise; any bytes are valid integers.
        let extent = unsafe { Extent::at(base) };
        (extent.magic.get() == MAGIC).then_some(extent)
    }

    /// The extent is none any more: a late `free` into it is then seen as such.
    pub(super) fn retire(&self) {
        self.magic.set(0);
    }

    #[inline]
    pub(super) fn base(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    pub(super) fn arena(&self) -> *mut Arena {
        self.arena as *mut Arena
    }

    pub(super) fn slot(&self) -> SlotId {
        SlotId::of_addr(self.base()).expect("extents lie in the region")
    }

    /// Whether this is the extent in the task slot, which is never given back.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    #[inline]
    pub(super) fn is_huge(&self) -> bool {
        self.block != 0
    }

    /// Length in bytes of what the arena may use.
    pub(super) fn len(&self) -> usize {
        if self.is_huge() { self.slot().len() } else { self.page_count as usize * PAGE_LEN }
    }

    /// What the page of `addr` is, and its number; `None` beyond the extent's end.
    #[inline]
    pub(super) fn page_of(&self, addr: usize) -> Option<(usize, Page)> {
        let page = (addr - self.base()) / PAGE_LEN;
        (page < self.page_count as usize).then(|| (page, self.page(page)))
    }

    #[inline]
    pub(super) fn page_addr(&self, page: usize) -> usize {
        self.base() + page * PAGE_LEN
    }

    /// The mini that `addr` lies in, free or not: its number. `None` in front of the minis.
    #[inline]
    pub(super) fn mini_of(&self, addr: usize) -> Option<usize> {
        let mini = (addr - self.base()) / MINI_LEN;
        (mini >= self.minis_below() && mini < PAGE_LEN / MINI_LEN).then_some(mini)
    }

    fn minis_below(&self) -> usize {
        (HEADER_LEN + 2 * self.page_count as usize).div_ceil(MINI_LEN)
    }

    pub(super) fn is_mini_taken(&self, mini: usize) -> bool {
        self.free_minis.get() >> mini & 1 == 0
    }

    /// Numbers of the taken minis.
    pub(super) fn taken_minis(&self) -> impl Iterator<Item = usize> {
        (self.minis_below()..PAGE_LEN / MINI_LEN).filter(|&mini| self.is_mini_taken(mini))
    }

    pub(super) fn mini_addr(&self, mini: usize) -> usize {
        self.base() + mini * MINI_LEN
    }

    /// Takes the lowest free mini: its address.
    pub(super) fn take_mini(&self) -> Option<usize> {
        let free = self.free_minis.get();
        if free == 0 {
            return None;
        }
        self.free_minis.set(free & (free - 1));
        Some(self.mini_addr(free.trailing_zeros() as usize))
    }

    pub(super) fn give_mini(&self, addr: usize) {
        self.free_minis.set(self.free_minis.get() | 1 << ((addr - self.base()) / MINI_LEN));
    }
}

const _: () = assert!(size_of::<Extent>() <= HEADER_LEN && align_of::<Extent>() <= HEADER_LEN);
