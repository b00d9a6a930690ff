//! Frees from other threads.

use std::sync::mpsc;

use super::*;

/// A block on its way to a thread that frees it.
struct Sent(*mut u8);

// SAFETY: plain memory that its receiver alone uses.
unsafe impl Send for Sent {}

#[test]
fn what_other_threads_free_comes_back() {
    let heap = Heap::new(8);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = mpsc::channel::<(Sent, u8)>();
                scope.spawn(move || {
                    for (Sent(block), mark) in receiver {
                        // SAFETY: the block was sent to this thread alone.
                        assert_eq!(unsafe { block.add(8).read() }, mark);
                        // SAFETY: as above, and nobody uses it any more.
                        unsafe { Arena::free_remote(block) };
                    }
                });
                sender
            })
            .collect();
        for n in 0..60_000_usize {
            let size = [16, 40, 200, 1500, 5000][n % 5];
            let block = heap.alloc(size, 16);
            // SAFETY: a fresh block of 16 bytes at least.
            unsafe { block.add(8).write(n as u8) };
            senders[n % 3].send((Sent(block), n as u8)).unwrap();
            if n % 1000 == 0 {
                heap.drain();
            }
        }
    });
    heap.drain();
    heap.check_records();
    assert_eq!(heap.arena().live_blocks(), 0);
    assert!(heap.extents().len() <= 1);
}

#[test]
fn the_owner_takes_remote_frees_back_before_it_grows() {
    let heap = Heap::new(9);
    for _ in 0..1000 {
        let blocks: Vec<_> = (0..100).map(|_| heap.alloc(1000, 16)).collect();
        // SAFETY: the blocks are live and not used any more.
        blocks.into_iter().for_each(|block| unsafe { Arena::free_remote(block) });
    }
    assert_eq!(heap.extents(), [], "100 MB went through 256 KiB");
}
