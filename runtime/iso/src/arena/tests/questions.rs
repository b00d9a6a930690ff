//! What a heap answers about addresses and about itself.

use super::*;

#[test]
fn a_block_is_found_by_its_address_alone_as_by_its_heap() {
    let heap = Heap::new(12);
    let mut live: Vec<*mut u8> = Vec::new();
    for len in [1, 24, 500, 2_000, 5_000, 70_000, 900_000, 40 << 20] {
        live.push(heap.alloc(len, 16));
        let dead = heap.alloc(len, 16);
        heap.free(dead);
        for &block in live.iter().chain([&dead]) {
            for at in [0, 1, 4_000, 60_000] {
                let addr = block as usize + at;
                // SAFETY: nobody else changes the heap; slots of the region are readable.
                let found = unsafe { Arena::live_block_at(addr) };
                if SlotId::of_addr(addr) == SlotId::of_addr(block as usize) {
                    assert_eq!(found, heap.arena().block_of(addr), "{addr:#x}, {len}");
                }
            }
        }
    }
    // SAFETY: the slot's first page is readable.
    let owner = unsafe { Arena::of_slot(heap.slot) };
    assert_eq!(owner, Some(heap.arena() as *const Arena));
    for block in live {
        assert!(!heap.arena().is_empty());
        heap.free(block);
    }
    assert!(heap.arena().is_empty());
    assert_eq!(heap.arena().live_blocks(), 0);
}

#[test]
fn a_heap_with_one_block_of_any_kind_is_not_empty() {
    let heap = Heap::new(13);
    for len in [1, 24, 2_000, 5_000, 900_000, 40 << 20] {
        let block = heap.alloc(len, 16);
        assert!(!heap.arena().is_empty(), "{len}");
        // SAFETY: a live block, freed once.
        unsafe { Arena::free_remote(block) };
        assert!(!heap.arena().is_empty(), "{len}: freed from afar and not drained");
        heap.drain();
        assert!(heap.arena().is_empty(), "{len}");
    }
}

#[test]
fn the_rest_of_a_long_blocks_last_page_shows_nothing_old() {
    let heap = Heap::new(14);
    let (len, run_len) = (9_000, 3 * PAGE_LEN);
    let first = heap.alloc(run_len, 16);
    // SAFETY: a live block of that length.
    unsafe { first.write_bytes(0xab, run_len) };
    heap.free(first);
    let second = heap.alloc(len, 16);
    assert_eq!(second, first, "the same pages");
    // SAFETY: the block is a run of three pages.
    let rest = unsafe { std::slice::from_raw_parts(second.add(len), run_len - len) };
    assert!(rest.iter().all(|&byte| byte == 0));
    heap.free(second);
}
