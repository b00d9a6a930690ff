//! The map of live node blocks: which addresses hold memory that somebody has allocated and not
//! freed.
//!
//! ```text
//!   address ──► one entry per GiB of address space ──► one byte per 16 bytes of that GiB
//!               (2^17, in .bss)                        (64 MiB, mapped at first use; 1: a block starts)
//! ```
//!
//! The allocator itself cannot say whether an address is live, and freed blocks keep stale copies of
//! what they held. The router reports every block here: [`born`] once the allocator has given it and
//! before anybody has it, [`died`] before the allocator gets it back. So **a byte is 1 only while the
//! allocator counts the block as allocated**, and asking for the length of such a block is sound,
//! wherever another thread stands: what that reads of the allocator's page cannot change while one of
//! its blocks is allocated.
//!
//! Relies on blocks that start at multiples of 16: the router asks for no fewer than 16 bytes. A map
//! is never given back; its memory is a sixteenth of the most node memory there has been.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use libmimalloc_sys as mi;
use migrt_iso::{page, raw};

/// What blocks are aligned to, and their least length.
pub(crate) const GRAIN: usize = 16;

const SPAN_SHIFT: u32 = 30;
const SPAN_COUNT: usize = 1 << (47 - SPAN_SHIFT);
/// Bytes of one GiB's map.
pub(super) const MAP_LEN: usize = (1 << SPAN_SHIFT) / GRAIN;
/// A page of a map describes this many bytes.
const PAGE_SPAN: usize = migrt_iso::PAGE_LEN * GRAIN;
/// Only blocks from this length on can reach past what [`mi::mi_is_in_heap_region`] knows.
const HUGE: usize = 1 << 20;

/// Per GiB: the place where its map would start if it began at address 0, so that one shift and one
/// addition lead to a byte. Null: no map.
static MAPS: [AtomicPtr<AtomicU8>; SPAN_COUNT] =
    [const { AtomicPtr::new(ptr::null_mut()) }; SPAN_COUNT];

/// Which of them there are, a bit for each: the table is a MiB long.
static PRESENT: [AtomicU64; SPAN_COUNT / 64] = [const { AtomicU64::new(0) }; SPAN_COUNT / 64];

/// The longest block that there has been, if it was huge.
static LONGEST: AtomicUsize = AtomicUsize::new(0);

/// Notes a new block of at least `len` bytes. Null is no block.
///
/// # Safety
///
/// - `block` was just given by the node's allocator, for `GRAIN` bytes or more, and nobody has it yet
#[inline(always)]
pub(crate) unsafe fn born(block: *mut u8, len: usize) {
    if block.is_null() {
        return;
    }
    let mut origin = MAPS[block as usize >> SPAN_SHIFT & (SPAN_COUNT - 1)].load(Ordering::Acquire);
    if origin.is_null() || len >= HUGE {
        origin = first_or_huge(block as usize, len);
        if origin.is_null() {
            return;
        }
    }
    // SAFETY: the map of the block's GiB. Relaxed: readers stop the writer first, or want a hint.
    unsafe { (*byte(origin, block as usize)).store(1, Ordering::Relaxed) };
}

/// Notes that a block is about to be freed.
///
/// # Safety
///
/// - `block` was noted by [`born`], and the allocator has not got it back
#[inline(always)]
pub(crate) unsafe fn died(block: *mut u8) {
    let origin = MAPS[block as usize >> SPAN_SHIFT & (SPAN_COUNT - 1)].load(Ordering::Relaxed);
    if origin.is_null() {
        // There was no memory for the map.
        return;
    }
    // SAFETY: as in `born`. A compiler barrier of its own is not needed: the call that frees follows.
    unsafe { (*byte(origin, block as usize)).store(0, Ordering::Relaxed) };
}

/// The live node block that holds `addr`: its start and its length in bytes.
pub(crate) fn block_of(addr: usize) -> Option<(usize, usize)> {
    let start = if addr >> 47 != 0 {
        return None;
    } else if is_known_to_allocator(addr) {
        start_below(addr, usize::MAX)?
    } else {
        // Only the far part of a huge block can be unknown to it.
        match LONGEST.load(Ordering::Relaxed) {
            0 => return None,
            longest => start_below(addr, longest)?,
        }
    };
    let len = len_of(start)?;
    (addr - start < len).then_some((start, len))
}

/// Calls `found` with start and length of each live node block, in rising order. Exact if no other
/// thread runs; else blocks that come or go meanwhile may be missed. Allocates nothing.
pub(crate) fn for_each_live(found: &mut dyn FnMut(usize, usize)) {
    for_each_map(&mut |map, base| {
        page::present_runs(map, MAP_LEN, &mut |run| {
            for at in (run.addr..run.end()).step_by(8) {
                let mut starts = word_at(at);
                while starts != 0 {
                    let index = at - map + (starts.trailing_zeros() / 8) as usize;
                    starts &= starts - 1;
                    let start = base + index * GRAIN;
                    if let Some(len) = len_of(start) {
                        found(start, len);
                    }
                }
            }
        });
    });
}

/// Calls `found` with the address of each map, [`MAP_LEN`] bytes, and of the GiB that it describes.
pub(super) fn for_each_map(found: &mut dyn FnMut(usize, usize)) {
    for (group, bits) in PRESENT.iter().enumerate() {
        let mut bits = bits.load(Ordering::Acquire);
        while bits != 0 {
            let index = group * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let base = index << SPAN_SHIFT;
            found(byte(MAPS[index].load(Ordering::Acquire), base) as usize, base);
        }
    }
}

/// Whether `addr` lies in one of the maps.
pub(super) fn is_map(addr: usize) -> bool {
    let mut is_map = false;
    for_each_map(&mut |map, _| is_map |= (map..map + MAP_LEN).contains(&addr));
    is_map
}

/// Where the table of the maps lies: start and length.
pub(super) fn table() -> (usize, usize) {
    (MAPS.as_ptr() as usize, size_of_val(&MAPS))
}

fn byte(origin: *mut AtomicU8, addr: usize) -> *mut AtomicU8 {
    origin.wrapping_add(addr / GRAIN)
}

fn word_at(at: usize) -> u64 {
    // SAFETY: `at` is a multiple of 8 in a map, which stays mapped; bytes and words are both stored
    // atomically, and a torn view is no worse than an early one.
    unsafe { AtomicU64::from_ptr(at as *mut u64) }.load(Ordering::Relaxed)
}

fn is_known_to_allocator(addr: usize) -> bool {
    // SAFETY: takes any address.
    unsafe { mi::mi_is_in_heap_region(addr as *const _) }
}

/// Whether `addr` is memory that the allocator manages, in use or not.
pub(super) fn is_of_allocator(addr: usize) -> bool {
    unsafe extern "C" {
        /// The allocator's own question; its public ones know only what is in use.
        fn _mi_arenas_contain(addr: *const u8) -> bool;
    }
    // SAFETY: takes any address, on an OS thread's block.
    is_known_to_allocator(addr) || unsafe { _mi_arenas_contain(addr as *const u8) }
}

/// Length of the block that starts at `start`, if it is still live.
fn len_of(start: usize) -> Option<usize> {
    // A stale byte would be a bug of the router; the check is two loads.
    if !is_known_to_allocator(start) {
        return None;
    }
    // SAFETY: a live block (the module says why), whose page the allocator knows.
    Some(unsafe { mi::mi_usable_size(start as *const _) })
}

/// The nearest start at or below `addr`, not more than `reach` bytes away.
fn start_below(addr: usize, reach: usize) -> Option<usize> {
    // Mostly it is in the page of the map that describes `addr`.
    let near = addr / PAGE_SPAN * PAGE_SPAN;
    let origin = MAPS[addr >> SPAN_SHIFT].load(Ordering::Acquire);
    if !origin.is_null()
        && let Some(at) = last_start(byte(origin, near) as usize, byte(origin, addr) as usize)
    {
        return Some(near + (at - byte(origin, near) as usize) * GRAIN);
    }
    // Then in windows that grow, as pages that were never written cost a look only.
    let lowest = addr.saturating_sub(reach);
    let (mut high, mut window) = (near, PAGE_SPAN * 64);
    while high > lowest {
        let span = (high - 1) >> SPAN_SHIFT << SPAN_SHIFT;
        let low = span.max(high.saturating_sub(window));
        let origin = MAPS[span >> SPAN_SHIFT].load(Ordering::Acquire);
        if !origin.is_null()
            && let Some(at) =
                last_start_in_present(byte(origin, low) as usize, byte(origin, high) as usize)
        {
            return Some(low + (at - byte(origin, low) as usize) * GRAIN);
        }
        high = if origin.is_null() { span } else { low };
        window *= 8;
    }
    None
}

/// The last byte in `low..high`, whole pages of a map, that is 1; pages that were never written are
/// not touched.
#[cold]
fn last_start_in_present(low: usize, high: usize) -> Option<usize> {
    let mut last = None;
    page::present_runs(low, high - low, &mut |run| {
        last = last_start(run.addr, run.end() - 1).or(last);
    });
    last
}

/// The last byte in `low..=high` of a map that is 1. `low` is a multiple of 8.
fn last_start(low: usize, high: usize) -> Option<usize> {
    let mut at = high & !7;
    // The bytes past `high` are no candidates.
    let mut starts = word_at(at) & (u64::MAX >> (8 * (7 - (high & 7))));
    loop {
        if starts != 0 {
            return Some(at + 7 - (starts.leading_zeros() / 8) as usize);
        }
        if at <= low {
            return None;
        }
        at -= 8;
        starts = word_at(at);
    }
}

/// Makes the map for a block's GiB, and notes a huge block's length. Null: no memory for a map.
#[cold]
#[inline(never)]
fn first_or_huge(block: usize, len: usize) -> *mut AtomicU8 {
    if len >= HUGE {
        // Twice: the allocator may round up.
        LONGEST.fetch_max(len.saturating_mul(2), Ordering::Relaxed);
    }
    let entry = &MAPS[block >> SPAN_SHIFT];
    let present = entry.load(Ordering::Acquire);
    if !present.is_null() {
        return present;
    }
    // Not by way of libc: this is malloc, errno must stay, and a hook on mmap may allocate.
    let Some(map) = raw::map(MAP_LEN) else { return ptr::null_mut() };
    let origin = (map as *mut AtomicU8).wrapping_sub((block >> SPAN_SHIFT << SPAN_SHIFT) / GRAIN);
    match entry.compare_exchange(ptr::null_mut(), origin, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            let index = block >> SPAN_SHIFT;
            PRESENT[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
            origin
        }
        Err(first) => {
            // SAFETY: made above, and nobody knows of it.
            unsafe { raw::unmap(map, MAP_LEN) };
            first
        }
    }
}

#[cfg(test)]
#[cfg(target_feature = "crt-static")]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A block whose address is kept as a number and given back by number.
    fn alloc(len: usize) -> usize {
        // SAFETY: any length is fine.
        let block = unsafe { libc::malloc(len) } as usize;
        assert_ne!(block, 0);
        block
    }

    fn free(block: usize) {
        // SAFETY: made by `alloc`, freed once.
        unsafe { libc::free(block as *mut _) };
    }

    #[test]
    fn every_byte_of_a_block_leads_to_it_and_none_beside_it() {
        for len in [0, 1, 8, 16, 17, 100, 4096, 70_000, 1 << 20, 5 << 20, 300 << 20, 3 << 30] {
            let block = alloc(len);
            // SAFETY: a live block.
            let usable = unsafe { libc::malloc_usable_size(block as *mut _) };
            let found = Some((block, usable));
            for at in [0, 1, 7, 15, len / 2, len.max(1) - 1, usable - 1] {
                assert_eq!(block_of(block + at), found, "byte {at} of {len}");
            }
            assert_ne!(block_of(block - 1), found, "before {len}");
            assert_ne!(block_of(block + usable), found, "after {len}");
            free(block);
            assert_ne!(block_of(block + len / 2), found, "freed {len}");
        }
    }

    #[test]
    fn memory_that_is_no_node_block_leads_nowhere() {
        let local = 0u8;
        for addr in [
            0,
            8,
            &raw const local as usize,
            block_of as *const () as usize,
            migrt_iso::REGION_BASE + 4096,
            usize::MAX,
            1 << 47,
            (1 << 47) - 1,
        ] {
            assert_eq!(block_of(addr), None, "{addr:#x}");
        }
    }

    #[test]
    fn resized_aligned_and_zeroed_blocks_are_live_under_their_new_address_only() {
        let block = alloc(40);
        // SAFETY: a live block of `alloc`.
        let grown = unsafe { libc::realloc(block as *mut _, 50_000) } as usize;
        assert_eq!(block_of(grown + 49_999).unwrap().0, grown);
        assert_ne!(block_of(block).map(|found| found.0), Some(block));
        // SAFETY: as above.
        let same = unsafe { libc::realloc(grown as *mut _, 49_000) } as usize;
        assert_eq!(block_of(same).unwrap().0, same);
        free(same);
        for align in [16, 64, 4096, 1 << 21] {
            // SAFETY: a power of two, and a length.
            let block = unsafe { libc::memalign(align, 1000) } as usize;
            assert_eq!(block_of(block + 999).unwrap().0, block, "{align}");
            free(block);
            assert_ne!(block_of(block).map(|found| found.0), Some(block), "{align}");
        }
        // SAFETY: any numbers are fine.
        let zeroed = unsafe { libc::calloc(10, 10) } as usize;
        assert_eq!(block_of(zeroed + 99).unwrap().0, zeroed);
        free(zeroed);
    }

    #[test]
    fn the_walk_meets_each_live_block_once_while_others_allocate() {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 1..5usize {
                let done = &done;
                scope.spawn(move || {
                    let mut kept = vec![0; 500];
                    let mut x = seed;
                    while !done.load(Ordering::Relaxed) {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let place = &mut kept[x >> 40 & 255];
                        if *place != 0 {
                            assert_eq!(block_of(*place).unwrap().0, *place);
                            free(*place);
                        }
                        *place = alloc(x >> 50 & 2047);
                        assert_eq!(block_of(*place).unwrap().0, *place);
                    }
                    kept.into_iter().filter(|&block| block != 0).for_each(free);
                });
            }
            let mine: Vec<usize> = (0..3000).map(|n| alloc(n * 7)).collect();
            for _ in 0..20 {
                let mut met: HashMap<usize, u32> = mine.iter().map(|&block| (block, 0)).collect();
                let mut last = 0;
                for_each_live(&mut |start, len| {
                    assert!(start >= last && len > 0, "{start:#x} follows a block up to {last:#x}");
                    last = start;
                    if let Some(count) = met.get_mut(&start) {
                        *count += 1;
                    }
                });
                assert!(met.values().all(|&count| count == 1));
            }
            mine.iter().copied().for_each(free);
            // Others may have got places of them by now, but not all.
            let freed: std::collections::HashSet<usize> = mine.into_iter().collect();
            let mut met = 0;
            for_each_live(&mut |start, _| met += usize::from(freed.contains(&start)));
            assert!(met < 2000, "{met} of 3000 freed blocks are live");
            done.store(true, Ordering::Relaxed);
        });
    }
}
