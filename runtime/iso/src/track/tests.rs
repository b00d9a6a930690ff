//! Each rule of the module on real memory, for each way that works here.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};

use super::*;
use crate::{guard, page};

/// Runs a test with each tracker there is.
fn check(test: impl Fn(&Tracker)) {
    if sys::userfault().is_ok_and(|userfault| userfault.has(k::UFFD_FEATURE_WP_ASYNC)) {
        // A kernel that says so has the scan too: its failure is ours, and no reason to skip.
        assert_eq!(why_not_async(), None);
        test(&Tracker::new(TrackMode::Async).unwrap());
    } else {
        println!("async tracking is not tested: {}", why_not_async().unwrap());
    }
    let _alone = alone();
    install_handler();
    test(&Tracker::new(TrackMode::Sync).unwrap());
}

/// Tests of the sync way share one table and its retries.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn install_handler() {
    static ONCE: Once = Once::new();
    extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid siginfo and context, here and below.
        let addr = unsafe { (*info).si_addr() } as usize;
        // SAFETY: as above.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        let is_write = context.uc_mcontext.gregs[libc::REG_ERR as usize] & 2 != 0;
        if !on_fault(addr, is_write) {
            // SAFETY: the instruction is retried and ends the process.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        }
    }
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: `action` is live, its handler async-signal-safe.
        let done = unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
        assert_eq!(done, 0);
    });
}

/// Pages of a mapping of their own, gone on drop.
struct Pages {
    base: usize,
    count: usize,
}

impl Pages {
    fn new(count: usize) -> Pages {
        Pages { base: sys::map_private(count * PAGE_LEN).unwrap(), count }
    }

    fn len(&self) -> usize {
        self.count * PAGE_LEN
    }

    fn at(&self, page: usize) -> usize {
        assert!(page < self.count);
        self.base + page * PAGE_LEN
    }

    fn write(&self, page: usize) {
        // SAFETY: a mapping of our own.
        unsafe { (self.at(page) as *mut u8).write_volatile(1) };
    }

    fn read(&self, page: usize) -> u8 {
        // SAFETY: a mapping of our own.
        unsafe { (self.at(page) as *const u8).read_volatile() }
    }

    fn watch(&self, tracker: &Tracker) {
        tracker.watch(self.base, self.len()).unwrap();
    }

    fn take(&self, tracker: &Tracker) -> Vec<usize> {
        let mut pages = Vec::new();
        tracker.take_dirty(self.base, self.len(), &mut |run| self.add(&mut pages, run)).unwrap();
        pages
    }

    fn peek(&self, tracker: &Tracker) -> Vec<usize> {
        let mut pages = Vec::new();
        tracker.peek_dirty(self.base, self.len(), &mut |run| self.add(&mut pages, run)).unwrap();
        pages
    }

    fn add(&self, pages: &mut Vec<usize>, run: PageRun) {
        let first = (run.addr - self.base) / PAGE_LEN;
        assert!(pages.last().is_none_or(|last| *last < first), "runs rise");
        pages.extend(first..first + run.count);
    }

    fn mappings(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let parse = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
        let range = |line: &str| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            parse(start)..parse(end)
        };
        let overlaps = |at: Range<usize>| at.start < self.base + self.len() && at.end > self.base;
        maps.lines().filter(|line| overlaps(range(line))).count()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { sys::unmap(self.base, self.len()) };
    }
}

#[test]
fn written_pages_are_told_once_and_others_never() {
    check(|tracker| {
        let pages = Pages::new(1000);
        (0..500).for_each(|page| pages.write(page));
        pages.watch(tracker);
        assert_eq!(pages.take(tracker), []);
        [3, 4, 7, 499, 700].iter().for_each(|page| pages.write(*page));
        assert_eq!(pages.read(8), 1);
        assert_eq!(pages.peek(tracker), [3, 4, 7, 499, 700]);
        assert_eq!(pages.take(tracker), [3, 4, 7, 499, 700]);
        assert_eq!(pages.take(tracker), []);
        pages.write(7);
        assert_eq!(pages.take(tracker), [7]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn a_range_may_be_taken_in_parts() {
    check(|tracker| {
        let pages = Pages::new(64);
        pages.watch(tracker);
        (0..64).for_each(|page| pages.write(page));
        let mut found = Vec::new();
        let mut add = |run| pages.add(&mut found, run);
        tracker.take_dirty(pages.at(10), 20 * PAGE_LEN, &mut add).unwrap();
        assert_eq!(found, (10..30).collect::<Vec<_>>());
        assert_eq!(pages.take(tracker), (0..10).chain(30..64).collect::<Vec<_>>());
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn a_watch_that_begins_dirty_tells_all_that_is_there_first() {
    check(|tracker| {
        let pages = Pages::new(100);
        (20..40).for_each(|page| pages.write(page));
        tracker.watch_dirty(pages.base, pages.len()).unwrap();
        assert_eq!(pages.take(tracker), (20..40).collect::<Vec<_>>());
        assert_eq!(pages.take(tracker), []);
        pages.write(25);
        pages.write(90);
        assert_eq!(pages.take(tracker), [25, 90]);
        // And once more: a second watch of the same range forgets what was noted.
        pages.write(26);
        pages.watch(tracker);
        assert_eq!(pages.take(tracker), []);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn pages_that_were_never_there_are_dirty_when_written_and_not_when_read() {
    check(|tracker| {
        let pages = Pages::new(8);
        pages.watch(tracker);
        assert_eq!(pages.read(2), 0);
        assert_eq!(pages.take(tracker), []);
        pages.write(2);
        pages.write(5);
        assert_eq!(pages.take(tracker), [2, 5]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn discarded_pages_are_not_told_until_they_are_written_anew() {
    check(|tracker| {
        let pages = Pages::new(8);
        (0..8).for_each(|page| pages.write(page));
        pages.watch(tracker);
        pages.write(3);
        // SAFETY: pages of our own whose bytes are not used again.
        unsafe { page::discard(pages.at(2), 2 * PAGE_LEN) };
        assert_eq!(pages.take(tracker), [], "neither the clean one nor the dirty one");
        assert_eq!(page::present_count(pages.base, pages.len()), 6, "but they are gone");
        assert_eq!(pages.read(2), 0);
        assert_eq!(pages.take(tracker), []);
        pages.write(2);
        assert_eq!(pages.take(tracker), [2]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn guards_are_not_told_whenever_they_were_made() {
    check(|tracker| {
        if guard::method() == guard::GuardMethod::Mprotect && !tracker.is_async() {
            println!("guards by protection may not lie under a watch by protection");
            return;
        }
        let pages = Pages::new(8);
        (0..8).for_each(|page| pages.write(page));
        // SAFETY: pages of our own whose bytes are not used again, here and below.
        unsafe { guard::install(pages.at(1), PAGE_LEN) }.unwrap();
        pages.watch(tracker);
        pages.write(5);
        // SAFETY: as above.
        unsafe { guard::install(pages.at(4), 2 * PAGE_LEN) }.unwrap();
        pages.write(6);
        assert_eq!(pages.take(tracker), [6]);
        // SAFETY: nobody relies on the guards.
        unsafe { guard::remove(pages.base, pages.len()) }.unwrap();
        // Where guards by protection were ever made, this opens all and counts as writing.
        let _ = pages.take(tracker);
        [0, 1, 5].iter().for_each(|page| pages.write(*page));
        assert_eq!(pages.take(tracker), [0, 1, 5]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn guards_stay_guards_through_arming() {
    check(|tracker| {
        if guard::method() == guard::GuardMethod::Mprotect {
            return;
        }
        let pages = Pages::new(4);
        // SAFETY: pages of our own.
        unsafe { guard::install(pages.at(1), PAGE_LEN) }.unwrap();
        pages.watch(tracker);
        [0, 2].iter().for_each(|page| pages.write(*page));
        assert_eq!(pages.take(tracker), [0, 2]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
        let (_reader, mut writer) = std::io::pipe().unwrap();
        // SAFETY: the kernel checks the address itself; the bytes are never read by us.
        let guarded = unsafe { std::slice::from_raw_parts(pages.at(1) as *const u8, 1) };
        let refused = writer.write(guarded).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
    });
}

#[test]
fn populating_is_writing() {
    check(|tracker| {
        let pages = Pages::new(8);
        (0..4).for_each(|page| pages.write(page));
        pages.watch(tracker);
        // SAFETY: pages of our own without guards.
        unsafe { page::populate_write(pages.at(2), 4 * PAGE_LEN) };
        assert_eq!(pages.take(tracker), [2, 3, 4, 5]);
        pages.write(3);
        assert_eq!(pages.take(tracker), [3]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn system_calls_write_to_watched_pages() {
    check(|tracker| {
        let pages = Pages::new(4);
        pages.write(1);
        pages.write(2);
        pages.watch(tracker);
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[7; 2 * PAGE_LEN]).unwrap();
        // SAFETY: pages of our own, only used here.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(pages.at(1) as *mut u8, 2 * PAGE_LEN) };
        if !tracker.is_async() {
            let refused = reader.read(buffer).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
            assert_eq!(pages.take(tracker), []);
            tracker.prepare_write(pages.at(1) + 100, PAGE_LEN);
        }
        reader.read_exact(buffer).unwrap();
        assert_eq!(buffer[2 * PAGE_LEN - 1], 7);
        assert_eq!(pages.take(tracker), [1, 2]);
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn no_write_is_lost_between_two_rounds() {
    const WORDS: usize = PAGE_LEN / 8;
    check(|tracker| {
        let pages = Pages::new(64);
        let word = |page: usize, word: usize| {
            // SAFETY: words of our own, always used as atomics.
            unsafe { AtomicU64::from_ptr((pages.at(page) as *mut u64).add(word)) }
        };
        let stop = AtomicBool::new(false);
        let mut copy = vec![[0u64; WORDS]; 64];
        let mut rounds = 0;
        let mut told = 0;
        let mut round = |copy: &mut Vec<[u64; WORDS]>| {
            for page in pages.take(tracker) {
                told += 1;
                for (at, copied) in copy[page].iter_mut().enumerate() {
                    *copied = word(page, at).load(Ordering::Relaxed);
                }
            }
        };
        tracker.watch_dirty(pages.base, pages.len()).unwrap();
        std::thread::scope(|scope| {
            for seed in [0x9e37_79b9_7f4a_7c15_u64, 0xd1b5_4a32_d192_ed03] {
                let (stop, word) = (&stop, &word);
                scope.spawn(move || {
                    let mut random = seed;
                    while !stop.load(Ordering::Relaxed) {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let at = word(random as usize % 64, random as usize / 64 % WORDS);
                        at.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let begun = std::time::Instant::now();
            while begun.elapsed().as_millis() < 300 {
                round(&mut copy);
                rounds += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
        round(&mut copy);
        for (page, copied) in copy.iter().enumerate() {
            for (at, copied) in copied.iter().enumerate() {
                assert_eq!(*copied, word(page, at).load(Ordering::Relaxed), "{page} {at}");
            }
        }
        println!("async {}: {rounds} rounds, {told} pages", tracker.is_async());
        assert!(rounds > 10 && told > 64, "{rounds} rounds, {told} pages");
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn after_the_watch_all_is_as_before() {
    check(|tracker| {
        let pages = Pages::new(256);
        (0..256).for_each(|page| pages.write(page));
        let mappings = pages.mappings();
        for round in 0..100 {
            tracker.watch(pages.at(16), 64 * PAGE_LEN).unwrap();
            pages.write(20 + round % 40);
            tracker.unwatch(pages.at(16), 64 * PAGE_LEN).unwrap();
        }
        assert_eq!(pages.mappings(), mappings);
        (0..256).for_each(|page| assert_eq!(pages.read(page), 1));
        let not_watched = tracker.take_dirty(pages.base, pages.len(), &mut |_| {}).unwrap_err();
        assert_eq!(not_watched.errno, libc::EPERM, "{not_watched}");
        // To end what has not begun is no error.
        tracker.unwatch(pages.base, pages.len()).unwrap();
    });
}

#[test]
fn long_ranges_are_told_by_blocks_where_faults_are_dear() {
    let _alone = alone();
    install_handler();
    let tracker = Tracker::new(TrackMode::Sync).unwrap();
    // 4,096 blocks of 4 pages, the last one of 2.
    let pages = Pages::new(3 * 4096 + 2);
    (0..pages.count).for_each(|page| pages.write(page));
    pages.watch(&tracker);
    pages.write(5);
    pages.write(pages.count - 1);
    let last = pages.count - 2;
    assert_eq!(pages.peek(&tracker), [4, 5, 6, 7, last, last + 1]);
    // A part of a block is told and stays open: its other pages are dirty still.
    let mut part = Vec::new();
    tracker.take_dirty(pages.at(4), 2 * PAGE_LEN, &mut |run| pages.add(&mut part, run)).unwrap();
    assert_eq!(part, [4, 5]);
    assert_eq!(pages.take(&tracker), [4, 5, 6, 7, last, last + 1]);
    assert_eq!(pages.take(&tracker), []);
    tracker.unwatch(pages.base, pages.len()).unwrap();
}

#[test]
fn faults_that_are_not_writes_to_watched_pages_are_nobody_s() {
    let _alone = alone();
    let tracker = Tracker::new(TrackMode::Sync).unwrap();
    let pages = Pages::new(4);
    // Never mapped, so never watched either.
    assert!(!on_fault(PAGE_LEN, true));
    pages.watch(&tracker);
    assert!(!on_fault(pages.base, false));
    assert!(on_fault(pages.base, true));
    // Late, or a guard: retried, but not for ever.
    for _ in 0..crate::fault::TRIES_MAX {
        assert!(on_fault(pages.base, true));
    }
    assert!(!on_fault(pages.base, true));
    tracker.unwatch(pages.base, pages.len()).unwrap();
    // A fault from just before the end is retried too.
    assert!(on_fault(pages.at(1), true));
    assert_eq!((0..2000).filter(|_| on_fault(pages.at(1), true)).count(), 999);
}

#[test]
fn one_tracker_serves_the_process() {
    let (first, second) = (Tracker::choose(TrackMode::Auto), Tracker::choose(TrackMode::Off));
    assert_eq!(first.is_some(), second.is_some());
    assert_eq!(first.is_some(), !matches!(probe(), TrackSupport::None(_)));
    assert!(Tracker::new(TrackMode::Off).is_none());
    println!("{:?}", probe());
}
