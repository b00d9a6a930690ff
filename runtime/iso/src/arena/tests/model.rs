//! Random histories against a model: contents, overlap, alignment, exact answers, byte copies.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Alloc { size: usize, align: usize, zeroed: bool },
    Realloc { nth: usize, size: usize },
    Free { nth: usize },
    FreeRemote { nth: usize },
    FreeMost { every: usize },
    Drain,
    Copy,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..300usize,
        5 => 0..3000usize,
        3 => 2000..20_000usize,
        2 => 0..400_000usize,
        1 => 0..(3usize << 20),
        1 => (30usize << 20)..(70 << 20),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let align =
        prop_oneof![6 => Just(8usize), 1 => (4..=12usize).prop_map(|n| 1 << n), 1 => Just(1 << 21)];
    prop_oneof![
        12 => (size(), align, any::<bool>()).prop_map(|(size, align, zeroed)| Op::Alloc { size, align, zeroed }),
        4 => (any::<usize>(), size()).prop_map(|(nth, size)| Op::Realloc { nth, size }),
        6 => any::<usize>().prop_map(|nth| Op::Free { nth }),
        2 => any::<usize>().prop_map(|nth| Op::FreeRemote { nth }),
        1 => (1..4usize).prop_map(|every| Op::FreeMost { every }),
        1 => Just(Op::Drain),
        1 => Just(Op::Copy),
    ]
}

struct Block {
    ptr: *mut u8,
    size: usize,
    align: usize,
    seed: u64,
}

impl Block {
    /// Offsets that carry the pattern: all of a short block; ends, and a word in each page, of a long.
    fn marked(size: usize) -> impl Iterator<Item = usize> {
        let step = if size <= 8192 { 1 } else { 1021 };
        (0..size).step_by(step).chain(size.saturating_sub(64)..size)
    }

    fn byte(&self, at: usize) -> u8 {
        ((self.seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    fn fill(&self) {
        for at in Block::marked(self.size) {
            // SAFETY: inside the live block.
            unsafe { self.ptr.add(at).write(self.byte(at)) };
        }
    }

    /// Checks the pattern as far as the first `len` bytes.
    fn check(&self, len: usize) {
        for at in Block::marked(self.size).filter(|&at| at < len) {
            // SAFETY: inside the live block.
            let byte = unsafe { self.ptr.add(at).read() };
            assert_eq!(byte, self.byte(at), "byte {at} of {:?}", self.ptr);
        }
    }
}

fn check_history(part: u32, ops: &[Op]) {
    let heap = Heap::new(part);
    let mut blocks: Vec<Block> = Vec::new();
    let mut pending = 0;
    for (seed, &op) in ops.iter().enumerate() {
        let seed = seed as u64;
        match op {
            Op::Alloc { size, align, zeroed } => {
                let ptr =
                    if zeroed { heap.alloc_zeroed(size, align) } else { heap.alloc(size, align) };
                assert!(!ptr.is_null() && ptr.addr().is_multiple_of(align.max(BLOCK_ALIGN_MIN)));
                let block = Block { ptr, size, align, seed };
                if zeroed {
                    // SAFETY: inside the fresh block.
                    assert!(Block::marked(size).all(|at| unsafe { ptr.add(at).read() } == 0));
                }
                block.fill();
                blocks.push(block);
                pending *= usize::from(heap.arena().has_remote_frees());
            }
            Op::Realloc { nth, size } if !blocks.is_empty() => {
                let nth = nth % blocks.len();
                let old = &mut blocks[nth];
                let kept = old.size.min(size);
                old.ptr = heap.realloc(old.ptr, size, old.align);
                assert!(!old.ptr.is_null());
                old.check(kept.min(old.size));
                (old.size, old.seed) = (size, seed);
                old.fill();
                pending *= usize::from(heap.arena().has_remote_frees());
            }
            Op::Free { nth } if !blocks.is_empty() => {
                let block = blocks.swap_remove(nth % blocks.len());
                block.check(block.size);
                heap.free(block.ptr);
            }
            Op::FreeRemote { nth } if !blocks.is_empty() => {
                let block = blocks.swap_remove(nth % blocks.len());
                block.check(block.size);
                // SAFETY: the block is live and the model forgets it.
                unsafe { Arena::free_remote(block.ptr) };
                pending += 1;
            }
            Op::FreeMost { every } => {
                let mut n = 0;
                blocks.retain(|block| {
                    n += 1;
                    if n % (every + 1) != 0 {
                        heap.free(block.ptr);
                    }
                    n % (every + 1) == 0
                });
            }
            Op::Drain => {
                heap.drain();
                pending = 0;
            }
            Op::Copy => {
                heap.byte_copy();
                blocks.iter().for_each(|block| block.check(block.size));
            }
            _ => {}
        }
        assert_eq!(heap.arena().live_blocks(), blocks.len() + pending, "after {op:?}");
        for block in &blocks {
            let (start, len) =
                heap.arena().block_of(block.ptr.addr()).expect("a live block is found");
            assert!(start <= block.ptr.addr() && block.ptr.addr() + block.size <= start + len);
            // SAFETY: a live block.
            assert_eq!(unsafe { Arena::usable_size(block.ptr) }, start + len - block.ptr.addr());
        }
        if let Op::Copy | Op::Drain | Op::FreeMost { .. } = op {
            heap.check_records();
        }
    }
    heap.check_records();
    for block in blocks.drain(..) {
        block.check(block.size);
        heap.free(block.ptr);
    }
    heap.drain();
    heap.check_records();
    assert_eq!(heap.arena().live_bytes(), 0);
    assert!(heap.extents().len() <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_keeps_every_block_and_gives_all_memory_back(ops in prop::collection::vec(op(), 1..150)) {
        check_history(6, &ops);
    }
}

/// Long histories of small blocks only: spans fill, empty and are used anew many times.
#[test]
fn a_storm_of_small_blocks_survives_byte_copies() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let heap = Heap::new(7);
    let mut blocks: Vec<Block> = Vec::new();
    for round in 0..300_000_u64 {
        // The heap breathes: it grows and shrinks by turns.
        let target = if round / 30_000 % 2 == 0 { 20_000 } else { 500 };
        if blocks.len() < target && next(3) > 0 {
            let size = 1 << next(11);
            let size = size + next(size);
            let block = Block { ptr: heap.alloc(size, 16), size, align: 16, seed: round };
            block.fill();
            blocks.push(block);
        } else if !blocks.is_empty() {
            let block = blocks.swap_remove(next(blocks.len()));
            block.check(block.size);
            heap.free(block.ptr);
        }
        if round % 20_000 == 0 {
            heap.byte_copy();
            heap.check_records();
        }
    }
    for block in blocks {
        block.check(block.size);
        heap.free(block.ptr);
    }
    heap.check_records();
}
