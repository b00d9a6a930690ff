//! The slow paths: new spans, page runs, extents, and giving them back.

use core::sync::atomic::{Ordering, compiler_fence};

use super::span::Span;
use super::{Arena, BLOCK_ALIGN_MIN, DoneSlots, Extent, HUGE_MIN, MoreSlots, size};
use crate::page::PAGE_LEN;
use crate::slot::{SlotClass, SlotId};
use crate::sys::abort_with;

/// Classes of a task's first, second, ... further extent: 256 KiB to 64 MiB.
const GROWTH: [u8; 5] = [2, 4, 6, 8, 10];

/// Of the empty extents the arena keeps one, of this class at most (4 MiB): a task that takes and
/// frees the same buffer again and again should not fault its pages in each time.
const KEPT_CLASS_MAX: u8 = 6;

/// Address of a new block (0: no memory), and how many of its first bytes may not be zero.
type NewBlock = (usize, usize);

const NO_MEMORY: NewBlock = (0, 0);

impl Arena {
    /// Any allocation that the first span of its class cannot serve.
    ///
    /// # Safety
    ///
    /// - as for [`Arena::alloc`]
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn alloc_slow(
        &self,
        size: usize,
        align: usize,
        more: &mut MoreSlots<'_>,
    ) -> NewBlock {
        if size > SlotClass::MAX.slot_len() || align > SlotClass::MAX.slot_len() {
            return NO_MEMORY;
        }
        if self.has_remote_frees() {
            // SAFETY: the caller is the owner.
            unsafe { self.take_remote_frees() };
        }
        // A block in a span starts anywhere: ask for so much that an aligned address lies in it.
        let padded = size.max(BLOCK_ALIGN_MIN) + align.max(BLOCK_ALIGN_MIN) - BLOCK_ALIGN_MIN;
        if padded <= size::SMALL_MAX {
            let class = size::class_of(padded);
            let head = match self.spans[class].get() {
                // SAFETY: the caller's promise.
                0 => unsafe { self.new_span(class, more) },
                head => head,
            };
            if head == 0 {
                return NO_MEMORY;
            }
            // SAFETY: a span of this heap that has room.
            let addr = self.take_block(unsafe { Span::at(head) }).next_multiple_of(align);
            return (addr, size);
        }
        if size.max(1).next_multiple_of(PAGE_LEN) + align.max(PAGE_LEN) - PAGE_LEN > HUGE_MIN {
            // SAFETY: the caller's promise.
            return unsafe { self.new_huge(size, align, more) };
        }
        let count = size.max(1).div_ceil(PAGE_LEN);
        // SAFETY: the caller's promise.
        let Some((extent, first, dirty)) = (unsafe { self.take_run(count, align, more) }) else {
            return NO_MEMORY;
        };
        extent.mark_taken(first, count, false);
        extent.busy.set(extent.busy.get() + 1);
        let addr = extent.page_addr(first);
        if dirty == count {
            // What the tenant leaves of its last page would show what was there before, perhaps
            // addresses: an audit reads whole blocks.
            let end = size.next_multiple_of(8);
            // SAFETY: the rest of a block that was just taken.
            unsafe { ((addr + end) as *mut u8).write_bytes(0, count * PAGE_LEN - end) };
        }
        (addr, dirty * PAGE_LEN)
    }

    /// A new span of `class` in its list: its address, or 0.
    unsafe fn new_span(&self, class: usize, more: &mut MoreSlots<'_>) -> usize {
        let is_mini = size::SIZES[class] as usize <= size::MINI_MAX;
        let mini = if is_mini { self.extents().find_map(Extent::take_mini) } else { None };
        let (addr, page_count) = match mini {
            Some(addr) => (addr, 0),
            None => {
                let count = size::span_page_count(class);
                // SAFETY: the caller's promise.
                let Some((extent, first, _)) = (unsafe { self.take_run(count, PAGE_LEN, more) })
                else {
                    return 0;
                };
                extent.mark_taken(first, count, true);
                (extent.page_addr(first), count)
            }
        };
        // SAFETY: the pages were taken just now.
        let span = unsafe { Span::init(addr, class, page_count) };
        // `take_run` may have found room by other means than growing, but not by filling this list.
        self.link_span(span);
        self.empty_spans[class].set(addr);
        addr
    }

    /// Pages from the first extent that has them, or from a new one.
    unsafe fn take_run(
        &self,
        count: usize,
        align: usize,
        more: &mut MoreSlots<'_>,
    ) -> Option<(&Extent, usize, usize)> {
        let from = |extent: &'_ Extent| extent.take_run(count, align);
        let existing = || {
            self.extents()
                .find_map(|extent| from(extent).map(|(first, dirty)| (extent, first, dirty)))
        };
        if let Some(taken) = existing() {
            return Some(taken);
        }
        if self.drop_empty_spans()
            && let Some(taken) = existing()
        {
            return Some(taken);
        }
        let page_count = count + align.max(PAGE_LEN) / PAGE_LEN - 1;
        // SAFETY: the caller's promise.
        let extent = unsafe { self.new_extent(page_count, more) }?;
        from(extent).map(|(first, dirty)| (extent, first, dirty))
    }

    unsafe fn new_extent(&self, page_count: usize, more: &mut MoreSlots<'_>) -> Option<&Extent> {
        let fits = |class: &SlotClass| {
            let pages = class.slot_len() / PAGE_LEN;
            pages - Extent::meta_page_count(pages) >= page_count
        };
        let step = (self.extra_count.get() as usize).min(GROWTH.len() - 1);
        let usual = GROWTH[step..].iter().filter_map(|&class| SlotClass::new(class)).find(fits);
        // No such slot left: whatever else is long enough, shortest first.
        let others = (0..=GROWTH[4])
            .filter_map(SlotClass::new)
            .filter(fits)
            .filter(|&class| Some(class) != usual);
        let slot = usual.into_iter().chain(others).find_map(more)?;
        // SAFETY: the caller's promise about slots from `more`.
        let extent = unsafe { Extent::init(self, slot.base(), slot.len(), false) };
        let Some(last) = self.extents().last() else {
            let addr = core::ptr::from_ref(self) as usize;
            abort_with("an allocation from the heap of a task that has ended", addr)
        };
        extent.prev.set(last.base());
        // Linked when it is whole: a census may stop this thread anywhere and walk the list.
        compiler_fence(Ordering::SeqCst);
        last.next.set(extent.base());
        self.extra_count.set(self.extra_count.get() + 1);
        Some(extent)
    }

    unsafe fn new_huge(&self, size: usize, align: usize, more: &mut MoreSlots<'_>) -> NewBlock {
        let front = align.max(PAGE_LEN);
        let len = size.next_multiple_of(PAGE_LEN);
        let Some(least) = SlotClass::for_len(front + len) else {
            return NO_MEMORY;
        };
        let longer = SlotClass::all().filter(|&class| class >= least).take(2);
        let Some(slot) = longer.into_iter().find_map(more) else {
            return NO_MEMORY;
        };
        let block = slot.base() + front;
        // SAFETY: the caller's promise about slots from `more`.
        let extent = unsafe { Extent::init_huge(self, slot.base(), block, len) };
        extent.next.set(self.huge.get());
        if let Some(next) = self.huge_extents().next() {
            next.prev.set(extent.base());
        }
        // As in `new_extent`.
        compiler_fence(Ordering::SeqCst);
        self.huge.set(extent.base());
        // Slots of this length are handed out clean.
        (block, 0)
    }

    /// Undoes a span without live blocks.
    #[cold]
    #[inline(never)]
    pub(super) fn drop_span(&self, extent: &Extent, span: &Span) {
        self.unlink_span(span);
        let empty = &self.empty_spans[span.class()];
        if empty.get() == span.addr() {
            empty.set(0);
        }
        match span.page_count() {
            0 => extent.give_mini(span.addr()),
            count => extent.give_run((span.addr() - extent.base()) / PAGE_LEN, count),
        }
    }

    /// Gives up all kept empty spans; whether there were any with pages of their own.
    fn drop_empty_spans(&self) -> bool {
        let mut any = false;
        for empty in &self.empty_spans {
            if empty.get() != 0 {
                // SAFETY: a span of this heap.
                let span = unsafe { Span::at(empty.get()) };
                // SAFETY: spans lie in extents.
                if let Some(extent) = unsafe { Extent::of(span.addr()) } {
                    any |= span.page_count() > 0;
                    self.drop_span(extent, span);
                }
            }
        }
        any
    }

    /// Gives back what emptied: all huge extents without their block, and extents without live blocks
    /// but the longest of the short ones.
    #[cold]
    #[inline(never)]
    pub(super) fn sweep(&self, done: &mut DoneSlots<'_>) {
        self.sweep_due.set(false);
        let idle = |extent: &&Extent| extent.busy.get() == 0 && !extent.is_first();
        let small = |extent: &&Extent| extent.slot().class().number() <= KEPT_CLASS_MAX;
        let kept =
            self.extents().filter(idle).filter(small).max_by_key(|extent| extent.slot().class());
        let kept = kept.map(Extent::base);
        let mut at = self.extents.get();
        while at != 0 {
            // SAFETY: the list holds extents of this heap.
            let extent = unsafe { Extent::at(at) };
            at = extent.next.get();
            if !idle(&extent) || kept == Some(extent.base()) {
                continue;
            }
            self.drop_spans_of(extent);
            self.extra_count.set(self.extra_count.get() - 1);
            self.give_back(extent, &self.extents, done);
        }
        let mut at = self.huge.get();
        while at != 0 {
            // SAFETY: as above.
            let extent = unsafe { Extent::at(at) };
            at = extent.next.get();
            if idle(&extent) {
                self.give_back(extent, &self.huge, done);
            }
        }
    }

    /// Undoes the empty spans in an extent that has no others.
    fn drop_spans_of(&self, extent: &Extent) {
        for mini in extent.taken_minis() {
            // SAFETY: a taken mini is a span.
            self.drop_span(extent, unsafe { Span::at(extent.mini_addr(mini)) });
        }
        // At most one span of each class is empty and kept.
        for empty in &self.empty_spans {
            if extent.slot().contains(empty.get()) {
                // SAFETY: a span of this heap.
                self.drop_span(extent, unsafe { Span::at(empty.get()) });
            }
        }
    }

    fn give_back(&self, extent: &Extent, head: &core::cell::Cell<usize>, done: &mut DoneSlots<'_>) {
        let (prev, next) = (extent.prev.get(), extent.next.get());
        match prev {
            0 => head.set(next),
            // SAFETY: neighbours are extents of this heap.
            prev => unsafe { Extent::at(prev) }.next.set(next),
        }
        if next != 0 {
            // SAFETY: as above.
            unsafe { Extent::at(next) }.prev.set(prev);
        }
        compiler_fence(Ordering::SeqCst);
        extent.retire();
        done(extent.slot());
    }

    /// Ends the heap: all slots but the first extent's go to `done`. Blocks that still live are gone.
    ///
    /// # Safety
    ///
    /// - the caller is the heap's owner; nobody uses a block of it any more or frees one from afar
    pub unsafe fn destroy(&self, done: &mut DoneSlots<'_>) {
        for list in [&self.extents, &self.huge] {
            let mut at = list.take();
            while at != 0 {
                // SAFETY: the list holds extents of this heap.
                let extent = unsafe { Extent::at(at) };
                at = extent.next.get();
                extent.retire();
                if !extent.is_first() {
                    done(extent.slot());
                }
            }
        }
        self.spans.iter().chain(&self.empty_spans).for_each(|span| span.set(0));
        self.extra_count.set(0);
    }

    pub(super) fn extents(&self) -> impl Iterator<Item = &Extent> {
        chain(self.extents.get())
    }

    pub(super) fn huge_extents(&self) -> impl Iterator<Item = &Extent> {
        chain(self.huge.get())
    }

    /// Puts a span at the front of its class's list.
    pub(super) fn link_span(&self, span: &Span) {
        let head = &self.spans[span.class()];
        span.prev.set(0);
        span.next.set(head.get());
        if head.get() != 0 {
            // SAFETY: the list holds spans of this heap.
            unsafe { Span::at(head.get()) }.prev.set(span.addr());
        }
        head.set(span.addr());
    }

    pub(super) fn unlink_span(&self, span: &Span) {
        let (prev, next) = (span.prev.get(), span.next.get());
        match prev {
            0 => self.spans[span.class()].set(next),
            // SAFETY: neighbours are spans of this heap.
            prev => unsafe { Span::at(prev) }.next.set(next),
        }
        if next != 0 {
            // SAFETY: as above.
            unsafe { Span::at(next) }.prev.set(prev);
        }
    }

    /// The extra slots of this heap, normal and huge; not the task slot.
    ///
    /// Only the owner may call it, or whoever holds the task frozen.
    pub fn for_each_extent(&self, seen: &mut dyn FnMut(SlotId)) {
        for extent in self.extents().chain(self.huge_extents()).filter(|extent| !extent.is_first())
        {
            seen(extent.slot());
        }
    }
}

/// The extents from the one at `at` on.
fn chain<'a>(at: usize) -> impl Iterator<Item = &'a Extent> {
    // SAFETY: extent lists hold extents of the heap, which only its owner changes.
    let extent = |at: usize| (at != 0).then(|| unsafe { Extent::at(at) });
    core::iter::successors(extent(at), move |last| extent(last.next.get()))
}
