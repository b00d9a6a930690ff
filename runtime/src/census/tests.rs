//! Stops and roots with real threads: what is planted is found where it was planted, and what is dead
//! is not.

use std::arch::asm;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrt_iso::raw;

use super::*;
use crate::task::prefix::HeaderPrefix;

/// Long: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of these tests runs at a time: one has a thread that cannot be stopped.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    install().unwrap();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sight() -> TaskSight {
    TaskSight {
        // SAFETY: called for blocks of mobile tasks that run.
        worker_tp: |fs_base| unsafe {
            (*HeaderPrefix::of(fs_base as *mut u8)).worker_tp() as usize
        },
        worker_rsp: |_| None,
    }
}

/// A key stands for a planted word, so that the word itself lies nowhere else.
#[derive(Clone, Copy)]
struct Key(usize);

impl Key {
    fn new() -> Key {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        Key(NEXT.fetch_add(16, Ordering::Relaxed))
    }

    #[inline(always)]
    fn word(self) -> usize {
        black_box(self.0) ^ 0x2fab_cdef_0000
    }
}

/// Whose roots hold the key's word.
fn holders(key: Key) -> Vec<Root> {
    #[inline(never)]
    fn inner(key: Key, scratch: &mut Scratch, found: &mut [Option<Root>; 64]) -> bool {
        let seen = with_stopped_threads(PATIENCE, |stopped| {
            let mut count = 0;
            for_each_root_range(stopped, scratch, &mut |root, start, len| {
                let word = key.word();
                // SAFETY: roots are readable.
                unsafe {
                    scan_words(start, len, word, word + 1, &mut |_, _| {
                        if count < found.len() {
                            found[count] = Some(root);
                            count += 1;
                        }
                    });
                }
            })
        });
        seen.expect("the world did not stop")
    }
    std::thread::spawn(move || {
        let outermost = 0u8;
        let mut scratch = Scratch::new(sight()).unwrap();
        scratch.set_caller_from(&raw const outermost as usize);
        let mut found = [None; 64];
        assert!(inner(key, &mut scratch, &mut found), "something could not be seen");
        // Libc keeps the stack for another thread, and until then it is a mapping like all others.
        clear_stack();
        found.into_iter().flatten().collect()
    })
    .join()
    .unwrap()
}

/// Runs `plant` on a thread that says its number through the cell, then `check` while it waits in it.
fn with_thread(plant: impl FnOnce(&dyn Fn()) + Send, check: impl FnOnce(i32)) {
    let (ready, done) = (Barrier::new(2), AtomicBool::new(false));
    let tid = AtomicI32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tid.store(stop::own_tid(), Ordering::Relaxed);
            plant(&|| {
                ready.wait();
                while !done.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        });
        // Also if the check fails: else its text would be waited for without end.
        let _done = Done(&done);
        ready.wait();
        // So that it sleeps, and its frames hold what they will.
        std::thread::sleep(Duration::from_millis(5));
        check(tid.load(Ordering::Relaxed));
    });
}

/// Sets the flag when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The key's word has this root, whatever others.
fn expect_held(key: Key, root: Root) {
    let found = holders(key);
    assert!(found.contains(&root), "{root:?} is not among {found:?}");
}

#[test]
fn busy_threads_stand_still_two_hundred_times_and_go_on() {
    let _alone = alone();
    let done = AtomicBool::new(false);
    let steps: [AtomicUsize; 8] = Default::default();
    std::thread::scope(|scope| {
        for (index, step) in steps.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                while !done.load(Ordering::Relaxed) {
                    match index {
                        0 => std::thread::sleep(Duration::from_micros(300)),
                        1 => std::thread::yield_now(),
                        2 | 3 => std::hint::spin_loop(),
                        _ => {
                            kept.push_back(vec![0u8; step.load(Ordering::Relaxed) % 9000]);
                            if kept.len() > 50 {
                                kept.pop_front();
                            }
                        }
                    }
                    step.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let values = || steps.each_ref().map(|step| step.load(Ordering::SeqCst));
        for round in 0..200 {
            let same = with_stopped_threads(PATIENCE, |stopped| {
                let before = values();
                let mut blocks = 0;
                live::for_each_live(&mut |_, _| blocks += 1);
                stopped.len() >= 8 && blocks > 0 && before == values()
            });
            assert_eq!(same, Some(true), "round {round}");
            // Given up half-way: its late signals must not disturb the next.
            with_stopped_threads(Duration::from_micros(round % 50), |_| ());
        }
        for _ in 0..2000 {
            let before = values();
            std::thread::sleep(Duration::from_millis(1));
            if values().iter().zip(before).all(|(now, before)| *now > before) {
                break;
            }
        }
        let before = values();
        std::thread::sleep(Duration::from_millis(200));
        for (index, (now, before)) in values().iter().zip(before).enumerate() {
            assert!(*now > before, "thread {index} no longer runs");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn stops_from_two_threads_at_once_take_turns() {
    let _alone = alone();
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let others = with_stopped_threads(PATIENCE, |_| {
                        let others = inside.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        others
                    });
                    assert_eq!(others, Some(0));
                }
            });
        }
    });
}

#[test]
fn a_thread_that_blocks_the_signal_makes_the_stop_give_up_and_nobody_hangs() {
    let _alone = alone();
    with_thread(
        |wait| {
            // SAFETY: a set on this stack, for this thread.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
            }
            wait();
        },
        |_| assert_eq!(with_stopped_threads(Duration::from_millis(20), |_| ()), None),
    );
    assert_eq!(with_stopped_threads(PATIENCE, |_| ()), Some(()));
}

static PLANTED: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_word_in_a_static_is_found_in_the_image() {
    let _alone = alone();
    let key = Key::new();
    PLANTED.store(key.word(), Ordering::Relaxed);
    expect_held(key, Root::Image);
    let mut at = Vec::new();
    for_each_image_word(key.word(), key.word() + 1, &mut |addr| at.push(addr));
    assert!(at.contains(&(PLANTED.as_ptr() as usize)));
    PLANTED.store(0, Ordering::Relaxed);
    assert!(!holders(key).contains(&Root::Image));
}

#[test]
fn a_word_in_a_live_block_is_found_and_in_a_freed_one_it_is_not() {
    let _alone = alone();
    // Another test may get the freed block, whose bytes are live then as they are: once more.
    let is_gone = |len: usize| {
        let key = Key::new();
        // SAFETY: room for the word; freed once below.
        let block = unsafe {
            let block = libc::malloc(len).cast::<usize>();
            block.add(4).write_volatile(key.word());
            block
        };
        // This thread's own stack may keep the word for a while.
        let found = holders(key);
        assert_eq!(found.iter().filter(|root| **root == Root::Block).count(), 1, "{len}");
        assert!(!found.contains(&Root::Mapping), "{len}");
        // SAFETY: as above.
        unsafe { libc::free(block.cast()) };
        holders(key).iter().all(|root| matches!(root, Root::Stack(_)))
    };
    for len in [64, 5000, 3 << 20] {
        assert!((0..10).any(|_| is_gone(len)), "{len}: found in a freed block each time");
    }
}

#[test]
fn a_word_on_a_stack_is_found_and_below_the_stack_pointer_it_is_not() {
    let _alone = alone();
    #[inline(never)]
    fn plant_deep(key: Key) {
        let mut frame = [0usize; 2048];
        frame[1000] = key.word();
        black_box(&mut frame);
    }
    let (live, dead) = (Key::new(), Key::new());
    with_thread(
        |wait| {
            plant_deep(dead);
            let mut frame = [0usize; 8];
            frame[3] = live.word();
            black_box(&mut frame);
            wait();
            black_box(&mut frame);
        },
        |tid| {
            expect_held(live, Root::Stack(tid));
            assert_eq!(holders(dead), []);
        },
    );
}

#[test]
fn a_word_in_a_thread_local_is_found() {
    let _alone = alone();
    thread_local!(static LOCAL: AtomicUsize = const { AtomicUsize::new(0) });
    let key = Key::new();
    with_thread(
        |wait| {
            // Black box: a word that nobody in sight reads need not be written.
            LOCAL.with(|local| black_box(local).store(key.word(), Ordering::Relaxed));
            wait();
        },
        |tid| expect_held(key, Root::Stack(tid)),
    );
}

#[test]
fn a_word_in_a_register_alone_is_found() {
    let _alone = alone();
    for in_vector in [false, true] {
        let key = Key::new();
        let (tid, done) = (AtomicI32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: waits for the flag with the word in one register, and leaves it cleared.
                // The number of the thread is published once the word is nowhere else.
                unsafe {
                    asm!(
                        "mov {word}, {key}", "xor {word}, {mask}",
                        "test {kind:e}, {kind:e}", "jz 2f",
                        "movq xmm15, {word}", "xor {word:e}, {word:e}",
                        "2:", "mov [{tid}], {own:e}",
                        "3:", "pause", "cmp byte ptr [{done}], 0", "je 3b",
                        "xor {word:e}, {word:e}", "pxor xmm15, xmm15",
                        word = out(reg) _, key = in(reg) key.0, mask = in(reg) 0x2fab_cdef_0000usize,
                        kind = in(reg) i32::from(in_vector), tid = in(reg) tid.as_ptr(),
                        own = in(reg) stop::own_tid(), done = in(reg) done.as_ptr(), out("xmm15") _,
                    );
                }
            });
            while tid.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            let found = holders(key);
            done.store(true, Ordering::Release);
            assert_eq!(found, [Root::Registers(tid.load(Ordering::Relaxed))], "{in_vector}");
        });
    }
}

#[test]
fn a_word_in_a_mapping_is_found_unless_it_is_excluded() {
    let _alone = alone();
    let key = Key::new();
    let map = raw::map(1 << 20).unwrap();
    // SAFETY: a mapping of ours.
    unsafe { ((map + 300_000) as *mut usize).write_volatile(key.word()) };
    assert_eq!(holders(key), [Root::Mapping]);
    assert!(exclude(map, 1 << 20));
    assert_eq!(holders(key), []);
    unexclude(map);
    assert_eq!(holders(key), [Root::Mapping]);
    // SAFETY: made above, used no more.
    unsafe { raw::unmap(map, 1 << 20) };
    assert_eq!(holders(key), []);
}

#[test]
fn addresses_are_told_apart_while_everybody_runs() {
    let _alone = alone();
    let block = vec![0u8; 1000];
    let addr = block.as_ptr() as usize;
    let Some(NodeMemory::Block { start, len }) = is_node_memory(addr + 999) else {
        panic!("{:?}", is_node_memory(addr + 999));
    };
    assert!(start == addr && len >= 1000);
    let local = 0u8;
    assert_eq!(is_node_memory(&raw const local as usize), Some(NodeMemory::Stack));
    let map = raw::map(64 << 20).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(is_node_memory(map + 5_000_000), Some(NodeMemory::Mapping));
    // SAFETY: made above, used no more.
    unsafe { raw::unmap(map, 64 << 20) };
    std::thread::sleep(Duration::from_millis(60));
    let code = addresses_are_told_apart_while_everybody_runs as *const () as usize;
    for addr in [
        map + 5_000_000,
        code,
        PLANTED.as_ptr() as usize,
        migrt_iso::REGION_BASE,
        0,
        1 << 60,
        12_345_678,
    ] {
        assert_eq!(is_node_memory(addr), None, "{addr:#x}");
    }
}
