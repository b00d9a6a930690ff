//! A heap on slots of its own, and what must hold of it.

mod model;
mod questions;
mod stop;
mod threads;

use std::collections::BTreeMap;

use super::*;
use crate::page;
use crate::pool::SlotPool;
use crate::region::Region;

/// The part of the task slot that the first extent has, as in a real task.
const FIRST_LEN: usize = 256 << 10;

/// A task slot with a heap in it: the extent at the low end, the arena on the last page.
struct Heap {
    pool: SlotPool,
    slot: SlotId,
    granted: u32,
}

impl Heap {
    /// `part` (0 to 15) sets the tests apart: the region is one for all of them.
    fn new(part: u32) -> Heap {
        Region::reserve().unwrap();
        let pool = SlotPool::new();
        for class in SlotClass::all() {
            let count = class.slot_count() / 16;
            pool.grant(class, part * count, count);
        }
        let granted = free_slots(&pool);
        let slot = pool.take(SlotClass::TASK).unwrap();
        // A heap starts on whatever its slot's last tenant left.
        // SAFETY: the slot is ours and nothing is in it.
        unsafe { (slot.base() as *mut u8).write_bytes(0xa5, FIRST_LEN) };
        let heap = Heap { pool, slot, granted };
        // SAFETY: as above; nobody else knows of the slot.
        unsafe { Arena::init(heap.arena_addr() as *mut Arena, slot.base(), FIRST_LEN) };
        heap
    }

    fn arena_addr(&self) -> usize {
        self.slot.end() - PAGE_LEN
    }

    fn arena(&self) -> &Arena {
        // SAFETY: made in `new`, and the slot is given back in `drop` only.
        unsafe { &*(self.arena_addr() as *const Arena) }
    }

    fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: the test's thread is the owner, the slots are the pool's.
        unsafe { self.arena().alloc(size, align, &mut |class| self.pool.take(class)) }
    }

    fn alloc_zeroed(&self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { self.arena().alloc_zeroed(size, align, &mut |class| self.pool.take(class)) }
    }

    fn free(&self, ptr: *mut u8) {
        // SAFETY: the tests free what they allocated (or mean to stop the process).
        unsafe { self.arena().free(ptr, &mut |slot| self.pool.give(slot)) }
    }

    fn realloc(&self, ptr: *mut u8, size: usize, align: usize) -> *mut u8 {
        let (more, done) = (&mut |class| self.pool.take(class), &mut |slot| self.pool.give(slot));
        // SAFETY: as in `alloc`.
        unsafe { self.arena().realloc(ptr, size, align, more, done) }
    }

    fn drain(&self) {
        // SAFETY: as in `alloc`.
        unsafe { self.arena().drain_remote(&mut |slot| self.pool.give(slot)) }
    }

    fn extents(&self) -> Vec<SlotId> {
        let mut extents = Vec::new();
        self.arena().for_each_extent(&mut |slot| extents.push(slot));
        extents
    }

    /// Ships the heap to nowhere and back: only live runs survive.
    fn byte_copy(&self) {
        let mut shipped = Vec::new();
        let mut take = |addr: usize, len: usize| {
            assert!((addr | len).is_multiple_of(PAGE_LEN));
            // SAFETY: the run is mapped and nobody writes to it meanwhile.
            shipped.push((
                addr,
                unsafe { std::slice::from_raw_parts(addr as *const u8, len) }.to_vec(),
            ));
        };
        take(self.arena_addr(), PAGE_LEN);
        self.arena().for_each_live_run(&mut take);
        for slot in self.extents().into_iter().chain([self.slot]) {
            // SAFETY: all that is still needed was copied.
            unsafe { page::discard(slot.base(), slot.len()) };
        }
        for (addr, bytes) in shipped {
            // SAFETY: the run lies in slots of this heap.
            unsafe { (addr as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
    }

    /// The heap's records agree with themselves and with each other.
    fn check_records(&self) {
        let arena = self.arena();
        let mut blocks = BTreeMap::new();
        arena.for_each_block(&mut |addr, len| assert!(blocks.insert(addr, len).is_none()));
        let mut end = 0;
        for (&addr, &len) in &blocks {
            assert!(addr >= end, "two blocks overlap at {addr:#x}");
            end = addr + len;
            for inside in [addr, addr + len / 2, addr + len - 1] {
                assert_eq!(arena.block_of(inside), Some((addr, len)));
            }
            let before = arena.block_of(addr - 1);
            assert!(
                before.is_none_or(|(start, len)| start + len == addr),
                "{before:x?} before {addr:#x}"
            );
        }
        let mut runs = BTreeMap::new();
        arena.for_each_live_run(&mut |addr, len| assert!(runs.insert(addr, len).is_none()));
        for (&addr, &len) in &blocks {
            let (start, run_len) = runs.range(..=addr).next_back().unwrap();
            assert!(addr + len <= start + run_len, "block {addr:#x}+{len:#x} would not be shipped");
        }
        for extent in arena.extents() {
            self.check_extent(extent);
        }
        for class in 0..size::COUNT {
            let mut at = arena.spans[class].get();
            let (mut prev, mut empty) = (0, 0);
            while at != 0 {
                // SAFETY: the list holds spans.
                let span = unsafe { Span::at(at) };
                assert_eq!((span.class(), span.prev.get()), (class, prev));
                assert!(!span.is_full());
                if span.live_count() == 0 {
                    assert_eq!(
                        std::mem::replace(&mut empty, at),
                        0,
                        "two empty spans of class {class} are kept"
                    );
                }
                (prev, at) = (at, span.next.get());
            }
            assert_eq!(arena.empty_spans[class].get(), empty);
        }
    }

    fn check_extent(&self, extent: &Extent) {
        let mut busy = 0;
        let mut was_free = false;
        let (mut longest, mut starts) = (0, std::collections::BTreeSet::new());
        let count_span = |addr: usize| {
            // SAFETY: the records say that a span is there.
            let span = unsafe { Span::at(addr) };
            assert_eq!(span.live_blocks().count(), span.live_count());
            u32::from(span.live_count() > 0)
        };
        extent.for_each_run(&mut |first, count, what| {
            let is_free = matches!(what, Page::Free(_));
            assert!(!(is_free && was_free), "two free runs touch at page {first}");
            was_free = is_free;
            starts.insert(first as u32);
            longest = longest.max(if is_free { count as u32 } else { 0 });
            assert!(!is_free || first as u32 >= extent.lowest_free.get());
            match what {
                Page::Run(_) => busy += 1,
                Page::Span { at, .. } => {
                    assert_eq!(at, 0);
                    busy += count_span(extent.page_addr(first));
                }
                _ => {}
            }
            if is_free {
                assert_eq!(
                    extent.page_of(extent.page_addr(first + count - 1)).unwrap().1,
                    Page::Free(count)
                );
                let inner = |page| extent.page_of(extent.page_addr(page)).unwrap().1;
                assert!((first + 1..first + count - 1).all(|page| inner(page) == Page::Free(0)));
            }
        });
        busy += extent.taken_minis().map(|mini| count_span(extent.mini_addr(mini))).sum::<u32>();
        assert_eq!(extent.busy.get(), busy, "extent {:#x}", extent.base());
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: the test is over.
        unsafe { self.arena().destroy(&mut |slot| self.pool.give(slot)) };
        self.pool.give_clean(self.slot);
        assert_eq!(free_slots(&self.pool), self.granted, "slots are missing at the end");
        // What stayed warm is taken and emptied, so that the next heap of this part starts alike.
        while self.pool.warm_len() > 0 {
            for class in SlotClass::all().take(5) {
                if let Some(slot) = self.pool.take(class) {
                    self.pool.give_clean(slot);
                }
            }
        }
    }
}

fn free_slots(pool: &SlotPool) -> u32 {
    SlotClass::all().map(|class| pool.free_count(class)).sum()
}

#[test]
fn an_idle_task_costs_one_heap_page() {
    let heap = Heap::new(0);
    // SAFETY: the heap is empty.
    unsafe { page::discard(heap.slot.base(), FIRST_LEN) };
    // SAFETY: the slot is ours, and this heap replaces the one before.
    unsafe { Arena::init(heap.arena_addr() as *mut Arena, heap.slot.base(), FIRST_LEN) };
    for size in [48, 16, 128, 48, 24, 200, 100] {
        // SAFETY: a fresh block of `size` bytes.
        unsafe { heap.alloc(size, 8).write_bytes(1, size) };
    }
    assert_eq!(page::present_count(heap.slot.base(), FIRST_LEN), 1);
}

#[test]
fn blocks_are_aligned_as_asked() {
    let heap = Heap::new(1);
    let mut blocks = Vec::new();
    for shift in 0..=22 {
        for size in [1, 100, 3000, 70_000, 3 << 20] {
            let block = heap.alloc(size, 1 << shift);
            assert!(
                !block.is_null() && block.addr().is_multiple_of(1 << shift),
                "{size} at {block:?}"
            );
            assert!(block.addr().is_multiple_of(BLOCK_ALIGN_MIN));
            // SAFETY: a fresh block of `size` bytes.
            unsafe { block.write_bytes(shift as u8, size) };
            blocks.push(block);
        }
        heap.check_records();
    }
    for (n, &block) in blocks.iter().enumerate() {
        // SAFETY: a live block.
        assert_eq!(unsafe { block.read() } as usize, n / 5);
        heap.free(block);
    }
    heap.check_records();
    assert_eq!(heap.arena().live_blocks(), 0);
}

#[test]
fn zeroed_memory_is_zero_whatever_was_there_and_fresh_pages_stay_untouched() {
    let heap = Heap::new(2);
    for size in [16, 700, 5000, 200 << 10, 900 << 10, 9 << 20, 40 << 20] {
        for _ in 0..3 {
            let block = heap.alloc_zeroed(size, 16);
            // SAFETY: a live block of `size` bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
            assert!(bytes.iter().all(|&byte| byte == 0), "{size}");
            bytes.fill(0xee);
            heap.free(block);
        }
    }
    let block = heap.alloc_zeroed(48 << 20, 16);
    assert_eq!(page::present_count(block.addr(), 48 << 20), 0);
    heap.free(block);
}

#[test]
fn requests_beyond_all_slots_get_null_and_change_nothing() {
    let heap = Heap::new(3);
    assert!(heap.alloc(16 << 30, 16).is_null());
    assert!(heap.alloc(usize::MAX, 16).is_null());
    assert!(heap.alloc(isize::MAX as usize, 16).is_null());
    let huge = heap.alloc((16 << 30) - PAGE_LEN, 16);
    assert!(!huge.is_null());
    heap.free(huge);
    let none = &mut |_| None;
    // SAFETY: the test is the owner.
    let block = unsafe { heap.arena().alloc(FIRST_LEN, 16, none) };
    assert!(block.is_null());
    let mut blocks = Vec::new();
    loop {
        // SAFETY: as above.
        let block = unsafe { heap.arena().alloc(1000, 16, none) };
        if block.is_null() {
            break;
        }
        blocks.push(block);
    }
    assert!(blocks.len() > 220, "{}", blocks.len());
    heap.check_records();
    blocks.into_iter().for_each(|block| heap.free(block));
    assert_eq!(heap.arena().live_bytes(), 0);
    // The span that was kept empty gives way: all pages but the first are to be had again.
    // SAFETY: as above.
    let all = unsafe { heap.arena().alloc(FIRST_LEN - PAGE_LEN, 16, none) };
    assert_eq!(all.addr(), heap.slot.base() + PAGE_LEN);
}

#[test]
fn a_heap_is_found_from_its_blocks() {
    let heap = Heap::new(11);
    for size in [1, 100, 3000, 300_000, 40 << 20] {
        let block = heap.alloc(size, 16);
        // SAFETY: a live block.
        assert_eq!(unsafe { Arena::arena_of(block) } as usize, heap.arena_addr());
        let (start, len) = heap.arena().block_of(block.addr() + size - 1).unwrap();
        assert_eq!(start, block.addr());
        heap.free(block);
        assert_eq!(heap.arena().block_of(start), None);
        assert_eq!(heap.arena().block_of(start + len - 1), None);
    }
    assert_eq!(heap.arena().block_of(0), None);
    assert_eq!(heap.arena().block_of(heap.arena_addr()), None);
    assert_eq!(heap.arena().block_of(heap.slot.base()), None);
}

#[test]
fn a_long_block_grows_where_it_stands() {
    let heap = Heap::new(4);
    let start = heap.alloc(20_000, 16);
    let mut block = start;
    for size in (20_000..200_000).step_by(10_000) {
        block = heap.realloc(block, size, 16);
    }
    assert_eq!(block, start);
    block = heap.realloc(block, 40 << 20, 16);
    let huge = block;
    block = heap.realloc(block, 60 << 20, 16);
    assert_eq!(block, huge);
    // SAFETY: a live block.
    assert!(unsafe { Arena::usable_size(block) } >= 60 << 20);
    block = heap.realloc(block, 100, 16);
    assert_ne!(block, huge);
    heap.free(block);
    heap.check_records();
}

#[test]
fn emptied_extents_go_back_at_once() {
    let heap = Heap::new(5);
    let blocks: Vec<_> = (0..100_000).map(|n| heap.alloc(100 + n % 1000, 16)).collect();
    assert!(heap.extents().len() >= 5);
    for (n, &block) in blocks.iter().enumerate() {
        // Every other block first, then the rest.
        if n % 2 == 0 {
            heap.free(block);
        }
    }
    heap.check_records();
    blocks.iter().skip(1).step_by(2).for_each(|&block| heap.free(block));
    heap.check_records();
    assert!(heap.extents().len() <= 1, "{:?}", heap.extents());
    let huge = heap.alloc(50 << 20, 16);
    heap.free(huge);
    assert!(heap.extents().len() <= 1, "{:?}", heap.extents());
}
