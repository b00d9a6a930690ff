//! The heap of one task.
//!
//! All of it lies in the region: [`Arena`] in the task's header, everything else at the low end of
//! the extents. So it survives a byte copy to the same addresses in another process. It relies on its
//! owner alone allocating and freeing (others use [`Arena::free_remote`]), on slots handed in by the
//! caller, and on nothing else: no node memory, no thread-locals, no `malloc`.
//!
//! ```text
//!   Arena --- lists of spans with room, by size class ---> Span ... Span
//!     |
//!     '------ extents ---> Extent (task slot) ---> Extent (slot) ---> ...     spans and page runs
//!     '------ huge ------> Extent (slot) ---> ...                             one block each
//! ```
//!
//! Up to 2 KiB a block comes from a span (`span.rs`), up to 32 MiB it is a page run of an extent
//! (`extent.rs`, `runs.rs`), beyond that it has a slot of its own. Memory goes back page-wise when spans empty and
//! slot-wise when extents empty. Nothing moves, nothing is collected.
//!
//! We failed (double free, foreign pointer): inside `free` no panic can work, so the process says what
//! happened and stops.

mod extent;
mod grow;
mod remote;
mod runs;
mod size;
mod span;
mod walk;

use core::cell::Cell;
use core::sync::atomic::AtomicUsize;

use extent::Extent;
use runs::Page;
use span::Span;

use crate::page::PAGE_LEN;
use crate::slot::{SlotClass, SlotId};
use crate::sys::abort_with;

/// Least alignment of every block, in bytes.
pub const BLOCK_ALIGN_MIN: usize = 16;

/// Requests of more bytes than this (alignment added) get a slot of their own.
const HUGE_MIN: usize = 32 << 20;

/// The heap of one task. See the [module](self).
///
/// Its address must not change: extents know it. Methods take `&self` because other threads may push
/// to its list of remote frees at any time; it is nevertheless the owner's alone and not `Sync`.
#[derive(Debug)]
#[repr(C)]
pub struct Arena {
    /// Per size class the first span that has a free block; 0 is none.
    spans: [Cell<usize>; size::COUNT],
    /// Per size class the one empty span that is kept; 0 is none.
    empty_spans: [Cell<usize>; size::COUNT],
    /// First normal extent, which is the one in the task slot.
    extents: Cell<usize>,
    huge: Cell<usize>,
    extra_count: Cell<u32>,
    /// Extents may have emptied when there was nobody to give them to.
    sweep_due: Cell<bool>,
    /// Blocks freed by others, linked through their first word.
    remote: AtomicUsize,
}

// The task header starts with it: the rest of the header should stay on the same page.
const _: () = assert!(size_of::<Arena>() <= 512);

/// Asks for a slot; `None` when the node has no more of the class. Slots of classes above
/// [`WARM_CLASS_MAX`](crate::pool::WARM_CLASS_MAX) must read as zeros; none may contain guards.
pub type MoreSlots<'a> = dyn FnMut(SlotClass) -> Option<SlotId> + 'a;
/// Takes a slot back that the arena does not need any more.
pub type DoneSlots<'a> = dyn FnMut(SlotId) + 'a;

impl Arena {
    /// Makes an empty heap at `this` whose first extent is `base..base + len`. Touches the first page
    /// of the extent, from which a handful of small blocks come too.
    ///
    /// # Safety
    ///
    /// - `this` is valid for writes and stays where it is while the heap is in use
    /// - `base` is the base of a slot owned by this node (I3), `len` bytes from there are readable,
    ///   writable and not used by anybody; contents do not matter
    /// - no heap that used this memory before is used any more
    ///
    /// # Panics
    ///
    /// If `len` is not a number of whole pages from 2 to 16,384.
    pub unsafe fn init(this: *mut Arena, base: usize, len: usize) {
        assert!(
            len.is_multiple_of(PAGE_LEN)
                && SlotId::of_addr(base).is_some_and(|slot| slot.base() == base)
        );
        let arena = Arena {
            spans: [const { Cell::new(0) }; size::COUNT],
            empty_spans: [const { Cell::new(0) }; size::COUNT],
            extents: Cell::new(base),
            huge: Cell::new(0),
            extra_count: Cell::new(0),
            sweep_due: Cell::new(false),
            remote: AtomicUsize::new(0),
        };
        // SAFETY: valid for writes by the caller's promise.
        unsafe { this.write(arena) };
        // SAFETY: written just now.
        let arena = unsafe { &*this };
        // SAFETY: the memory is the caller's and unused.
        unsafe { Extent::init(arena, base, len, true) };
    }

    /// Allocates `size` bytes aligned to `align` and at least to 16; null if no slot is to be had or
    /// `size` does not fit the longest slot. `more` is asked only when the heap has to grow.
    ///
    /// # Safety
    ///
    /// - the caller is the heap's owner: no other thread allocates, frees or walks meanwhile
    /// - `align` is a power of two
    /// - slots from `more` are owned by this node (I3), readable, writable and unused
    #[inline]
    pub unsafe fn alloc(&self, size: usize, align: usize, more: &mut MoreSlots<'_>) -> *mut u8 {
        if size <= size::SMALL_MAX && align <= BLOCK_ALIGN_MIN {
            let class = size::class_of(size);
            let head = self.spans[class].get();
            if head != 0 {
                // SAFETY: the list holds spans of this heap.
                let block = self.take_block(unsafe { Span::at(head) });
                if !size.is_multiple_of(8) {
                    // What the tenant leaves of its last word would show what was here before, perhaps
                    // half an address: an audit reads whole words.
                    // SAFETY: within a block that was just taken: blocks are whole words long.
                    unsafe { ((block + size / 8 * 8) as *mut usize).write(0) };
                }
                return block as *mut u8;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.alloc_slow(size, align, more) }.0 as *mut u8
    }

    /// As [`alloc`](Self::alloc), and the bytes are zero. Pages that never were handed out and come
    /// from a slot known to be clean are not touched.
    ///
    /// # Safety
    ///
    /// As [`alloc`](Self::alloc).
    pub unsafe fn alloc_zeroed(
        &self,
        size: usize,
        align: usize,
        more: &mut MoreSlots<'_>,
    ) -> *mut u8 {
        let (block, dirty_len) = if size <= size::SMALL_MAX && align <= BLOCK_ALIGN_MIN {
            // SAFETY: the caller's promise.
            (unsafe { self.alloc(size, align, more) }, size)
        } else {
            // SAFETY: the caller's promise.
            let (addr, dirty_len) = unsafe { self.alloc_slow(size, align, more) };
            (addr as *mut u8, dirty_len.min(size))
        };
        if !block.is_null() {
            // SAFETY: the block was handed out just now and is at least `size` bytes long.
            unsafe { block.write_bytes(0, dirty_len) };
        }
        block
    }

    /// Frees a block of this heap. Extents that empty go to `done`.
    ///
    /// A pointer that is no live block of a heap ends the process.
    ///
    /// # Safety
    ///
    /// - the caller is the heap's owner, as for [`alloc`](Self::alloc)
    /// - `ptr` came from this heap and nobody uses the block any more
    #[inline]
    pub unsafe fn free(&self, ptr: *mut u8, done: &mut DoneSlots<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.free_block(ptr as usize) };
        if self.sweep_due.get() {
            self.sweep(done);
        }
    }

    /// Makes a block `new_size` bytes long; where that is cheap, in place. Null, and the old block is
    /// as before, when there is no memory.
    ///
    /// # Safety
    ///
    /// - the caller is the heap's owner and `ptr` a live block of it, aligned to `align`
    /// - slots from `more` are as for [`alloc`](Self::alloc)
    pub unsafe fn realloc(
        &self,
        ptr: *mut u8,
        new_size: usize,
        align: usize,
        more: &mut MoreSlots<'_>,
        done: &mut DoneSlots<'_>,
    ) -> *mut u8 {
        // SAFETY: the caller's promise.
        if unsafe { self.resize_in_place(ptr as usize, new_size) } {
            return ptr;
        }
        // SAFETY: the caller's promise.
        let new = unsafe { self.alloc(new_size, align, more) };
        if new.is_null() {
            return new;
        }
        // SAFETY: `ptr` is a live block.
        let old_size = unsafe { Arena::usable_size(ptr) };
        // SAFETY: both blocks are live, long enough and distinct.
        unsafe { ptr.copy_to_nonoverlapping(new, old_size.min(new_size)) };
        // SAFETY: the caller gave the old block up.
        unsafe { self.free(ptr, done) };
        new
    }

    /// Bytes that may be used at `ptr`: at least what was asked for.
    ///
    /// # Safety
    ///
    /// - `ptr` is a live block of some heap of this process
    #[must_use]
    pub unsafe fn usable_size(ptr: *const u8) -> usize {
        let addr = ptr as usize;
        // SAFETY: a live block lies in an extent.
        match unsafe { Arena::find(addr) } {
            Found::Small(_, span, block) => span.block_addr(block) + span.size() - addr,
            Found::Run(_, _, page_count) => page_count * PAGE_LEN,
            Found::Huge(extent) => extent.block_len.get(),
        }
    }

    /// The heap that the block at `ptr` belongs to. It may lie in another task.
    ///
    /// # Safety
    ///
    /// - `ptr` is a live block of some heap of this process
    #[must_use]
    pub unsafe fn arena_of(ptr: *const u8) -> *mut Arena {
        // SAFETY: a live block lies in a slot that starts with an extent.
        match unsafe { Extent::of(ptr as usize) } {
            Some(extent) => extent.arena(),
            None => abort_with("a pointer that no task's heap gave out", ptr as usize),
        }
    }

    /// Takes the next block of a span that has one.
    #[inline]
    fn take_block(&self, span: &Span) -> usize {
        if span.live_count() == 0 {
            self.empty_spans[span.class()].set(0);
            // SAFETY: spans lie in extents.
            if let Some(extent) = unsafe { Extent::of(span.addr()) } {
                extent.busy.set(extent.busy.get() + 1);
            }
        }
        let addr = span.take();
        if span.is_full() {
            self.unlink_span(span);
        }
        addr
    }

    /// # Safety
    ///
    /// - as for [`free`](Self::free)
    #[inline]
    unsafe fn free_block(&self, addr: usize) {
        // SAFETY: the caller's promise.
        match unsafe { Arena::find(addr) } {
            Found::Small(extent, span, block) => {
                let was_full = span.is_full();
                if !span.give(block) {
                    abort_with("double free of a block", addr);
                }
                if was_full {
                    self.link_span(span);
                }
                if span.live_count() == 0 {
                    // One empty span per class is kept, others give their pages back.
                    let empty = &self.empty_spans[span.class()];
                    if empty.get() == 0 {
                        empty.set(span.addr());
                    } else {
                        self.drop_span(extent, span);
                    }
                    self.idle_step(extent);
                }
            }
            Found::Run(extent, first, page_count) => {
                extent.give_run(first, page_count);
                self.idle_step(extent);
            }
            Found::Huge(extent) => self.idle_step(extent),
        }
    }

    /// One run or span of the extent less is in use.
    #[inline]
    fn idle_step(&self, extent: &Extent) {
        extent.busy.set(extent.busy.get() - 1);
        if extent.busy.get() == 0 && !extent.is_first() {
            self.sweep_due.set(true);
        }
    }

    /// # Safety
    ///
    /// - `addr` is a live block of this heap
    unsafe fn resize_in_place(&self, addr: usize, new_size: usize) -> bool {
        // SAFETY: the caller's promise.
        match unsafe { Arena::find(addr) } {
            Found::Small(_, span, block) => {
                let usable = span.block_addr(block) + span.size() - addr;
                new_size <= usable && new_size.max(BLOCK_ALIGN_MIN) * 2 > usable
            }
            Found::Run(extent, first, page_count) => {
                new_size > size::SMALL_MAX
                    && new_size < isize::MAX as usize
                    && extent.resize_run(first, page_count, new_size.div_ceil(PAGE_LEN))
            }
            Found::Huge(extent) => {
                let fits = new_size > HUGE_MIN / 2 && new_size <= extent.slot().end() - addr;
                if fits {
                    extent.block_len.set(new_size.next_multiple_of(PAGE_LEN));
                }
                fits
            }
        }
    }

    /// Where the block at `addr` is; ends the process if there is none.
    ///
    /// # Safety
    ///
    /// - as for [`Extent::of`], and nobody changes the block's extent or span meanwhile
    #[inline]
    unsafe fn find<'a>(addr: usize) -> Found<'a> {
        // SAFETY: the caller's promise.
        let Some(extent) = (unsafe { Extent::of(addr) }) else {
            abort_with("a pointer that no task's heap gave out", addr)
        };
        // SAFETY: the page map says where spans are.
        match unsafe { Arena::find_in(extent, addr) } {
            Some(found) if found.starts_at(addr) => found,
            _ => abort_with("a pointer that is no block of the task's heap it points into", addr),
        }
    }

    /// The block that `addr` lies in, live or, if small, free.
    ///
    /// # Safety
    ///
    /// - nobody changes the extent meanwhile
    #[inline]
    unsafe fn find_in(extent: &Extent, addr: usize) -> Option<Found<'_>> {
        let (page, what) = match extent.page_of(addr) {
            Some(found) => found,
            None if extent.is_huge() && extent.busy.get() != 0 => {
                return (addr.wrapping_sub(extent.block) < extent.block_len.get())
                    .then_some(Found::Huge(extent));
            }
            None => return None,
        };
        let span_addr = match what {
            Page::Span { at, .. } => extent.page_addr(page - at),
            Page::Meta => match extent.mini_of(addr) {
                Some(mini) if extent.is_mini_taken(mini) => extent.mini_addr(mini),
                _ => return None,
            },
            Page::Run(page_count) => return Some(Found::Run(extent, page, page_count)),
            Page::RunRest(at) => match extent.page_of(extent.page_addr(page - at)) {
                Some((first, Page::Run(page_count))) => {
                    return Some(Found::Run(extent, first, page_count));
                }
                _ => return None,
            },
            Page::Free(_) => return None,
        };
        // SAFETY: the page map says that a span is there.
        let span = unsafe { Span::at(span_addr) };
        span.block_at(addr).map(|block| Found::Small(extent, span, block))
    }
}

/// A block: where it is kept.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    Small(&'a Extent, &'a Span, usize),
    /// First page and number of pages.
    Run(&'a Extent, usize, usize),
    Huge(&'a Extent),
}

impl Found<'_> {
    /// Whether a block handed out can start at `addr`: at the block's start, or further in when it
    /// was aligned to more than the block is.
    #[inline]
    fn starts_at(&self, addr: usize) -> bool {
        match *self {
            Found::Small(_, span, block) => {
                addr == span.block_addr(block) || addr.is_multiple_of(2 * BLOCK_ALIGN_MIN)
            }
            Found::Run(extent, first, _) => addr == extent.page_addr(first),
            Found::Huge(extent) => addr == extent.block,
        }
    }
}

#[cfg(test)]
mod tests;
