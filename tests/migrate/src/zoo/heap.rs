//! The task's heap: large, many, resized, aligned, zeroed, Rust's and C's.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};

use super::Run;
use crate::trip::{Plan, Seeded, begin, mix, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("heap_64_mib", heap_64_mib),
    ("alloc_free_storm", alloc_free_storm),
    ("realloc_growth", realloc_growth),
    ("over_aligned", over_aligned),
    ("zeroed_memory", zeroed_memory),
    ("c_malloc_family", c_malloc_family),
    ("children_in_storms", children_in_storms),
];

fn heap_64_mib(seed: u64) -> u64 {
    const WORDS: usize = (64 << 20) / 8;
    let mut random = Seeded::new(seed);
    let mut block: Vec<u64> = Vec::with_capacity(WORDS);
    while block.len() < WORDS {
        block.push(random.draw());
    }
    let mut sum = 0;
    for round in 0..6usize {
        step();
        for at in (round..WORDS).step_by(509) {
            sum = mix(sum, block[at]);
            block[at] = sum;
        }
    }
    block.iter().fold(sum, |sum, &word| mix(sum, word))
}

fn alloc_free_storm(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut sum = 0;
    for n in 0..20_000u32 {
        if held.len() > 300 || (random.below(3) == 0 && !held.is_empty()) {
            let gone = held.swap_remove(random.below(held.len() as u64) as usize);
            let expected = gone.first().copied().unwrap_or(0);
            assert!(gone.iter().all(|&b| b == expected), "a block was written by somebody else");
            sum = mix(sum, gone.len() as u64 + u64::from(expected));
        } else {
            let len = 1 << random.below(13);
            held.push(vec![n as u8; len as usize + random.below(17) as usize]);
        }
        if n % 2000 == 0 {
            step();
        }
    }
    mix(sum, held.len() as u64)
}

fn realloc_growth(seed: u64) -> u64 {
    let mut lists: Vec<Vec<u64>> = (0..8).map(|_| Vec::new()).collect();
    for n in 0..40_000u64 {
        lists[(n % 8) as usize].push(mix(seed, n));
        if n % 4000 == 0 {
            step();
        }
    }
    for list in &mut lists {
        list.truncate(100);
        list.shrink_to_fit();
    }
    step();
    // SAFETY: sizes and layouts match from call to call, and the writes stay inside.
    let raw = unsafe {
        let mut at = alloc(Layout::from_size_align_unchecked(16, 8));
        let mut len = 16;
        at.write_bytes(7, len);
        for _ in 0..12 {
            at = realloc(at, Layout::from_size_align_unchecked(len, 8), len * 2);
            at.add(len).write_bytes(len as u8, len);
            len *= 2;
            step();
        }
        let sum = (0..len).fold(0, |sum, n| mix(sum, u64::from(*at.add(n))));
        dealloc(at, Layout::from_size_align_unchecked(len, 8));
        sum
    };
    lists.into_iter().flatten().fold(raw, mix)
}

fn over_aligned(seed: u64) -> u64 {
    #[repr(align(4096))]
    struct Page([u64; 512]);
    #[repr(align(64))]
    struct Line(u64);
    let mut pages = Vec::new();
    for n in 0..12u64 {
        let mut page = Box::new(Page([0; 512]));
        page.0[(n * 31 % 512) as usize] = mix(seed, n);
        let line = Box::new(Line(n));
        assert!((&raw const *page).addr().is_multiple_of(4096));
        assert!((&raw const *line).addr().is_multiple_of(64));
        pages.push((page, line));
        step();
    }
    for align in [32usize, 256, 8192, 65_536, 1 << 20] {
        let layout = Layout::from_size_align(align / 2 + 40, align).expect("a power of two");
        // SAFETY: the layout has a size; the block is freed with the layout it was made with.
        unsafe {
            let at = alloc(layout);
            assert!(at.addr().is_multiple_of(align), "{align}");
            at.write_bytes(0x5a, layout.size());
            step();
            assert!((0..layout.size()).all(|n| *at.add(n) == 0x5a));
            dealloc(at, layout);
        }
    }
    let sum = |page: &Page| page.0.iter().fold(0, |sum, &word| mix(sum, word));
    pages.iter().fold(0, |all, (page, line)| mix(all, sum(page) ^ line.0))
}

fn zeroed_memory(seed: u64) -> u64 {
    let mut sum = seed;
    for n in 0..10u32 {
        // Dirty blocks of the same sizes before, so that the allocator has some to hand out again.
        let dirty: Vec<Vec<u8>> = (0..8).map(|_| vec![0xff; 300 << n]).collect();
        step();
        drop(dirty);
        let layout = Layout::from_size_align(300 << n, 16).expect("a valid layout");
        // SAFETY: the layout has a size; reads stay inside; freed with the same layout.
        unsafe {
            let at = alloc_zeroed(layout);
            assert!((0..layout.size()).all(|k| *at.add(k) == 0), "{} bytes", layout.size());
            step();
            assert!((0..layout.size()).all(|k| *at.add(k) == 0), "{} bytes after", layout.size());
            dealloc(at, layout);
        }
        sum = mix(sum, layout.size() as u64);
    }
    sum
}

fn c_malloc_family(seed: u64) -> u64 {
    let mut sum = seed;
    let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
    for n in 0..60usize {
        let len = 1 + n * 37 % 5000;
        // SAFETY: C's allocator with sizes above zero; writes stay within what was asked for.
        unsafe {
            let at: *mut u8 = match n % 5 {
                0 => libc::malloc(len).cast(),
                1 => libc::calloc(len, 1).cast(),
                2 => libc::realloc(libc::malloc(8), len).cast(),
                3 => libc::aligned_alloc(64, len.next_multiple_of(64)).cast(),
                _ => {
                    let mut at = std::ptr::null_mut();
                    assert_eq!(libc::posix_memalign(&mut at, 128, len), 0);
                    assert!(at.addr().is_multiple_of(128));
                    at.cast()
                }
            };
            assert!(!at.is_null());
            assert!(libc::malloc_usable_size(at.cast()) >= len);
            at.write_bytes(n as u8, len);
            held.push((at, len, n as u8));
        }
        if n % 6 == 0 {
            step();
        }
        if n % 3 == 2 {
            let (at, len, byte) = held.swap_remove(n / 3 % held.len());
            // SAFETY: a live block of `len` written bytes, freed once.
            unsafe {
                assert!((0..len).all(|k| *at.add(k) == byte));
                libc::free(at.cast());
            }
            sum = mix(sum, len as u64);
        }
    }
    // SAFETY: a C string within live memory; `strdup`'s copy is freed once.
    unsafe {
        let copy = libc::strdup(c"duplicated by libc".as_ptr());
        step();
        sum = mix(sum, libc::strlen(copy) as u64);
        libc::free(copy.cast());
    }
    for (at, len, byte) in held {
        // SAFETY: as above.
        unsafe {
            assert!((0..len).all(|k| *at.add(k) == byte));
            libc::free(at.cast());
        }
        sum = mix(sum, len as u64);
    }
    sum
}

#[migrt::migratable]
fn storm(plan: Plan, seed: u64) -> Vec<u64> {
    begin(plan);
    let mut list = Vec::new();
    for n in 0..8 {
        list.push(alloc_free_small(mix(seed, n)));
        step();
    }
    list
}

fn alloc_free_small(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let blocks: Vec<Box<[u8]>> =
        (0..200).map(|n| vec![n as u8; random.below(900) as usize + 1].into()).collect();
    blocks.iter().fold(0, |sum, block| mix(sum, block.len() as u64 + u64::from(block[0])))
}

/// Results of children are decoded into this task's heap while it is itself on its way.
fn children_in_storms(seed: u64) -> u64 {
    let plan = Plan::Hops { first: 2, hops: 3 };
    let children: Vec<_> = (0..5).map(|n| migrt::spawn(storm(plan, seed + n))).collect();
    let mut sum = alloc_free_small(seed);
    for child in children {
        step();
        sum = child.join().expect("a storm ends").into_iter().fold(sum, mix);
        step();
    }
    sum
}
