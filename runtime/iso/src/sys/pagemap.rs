//! Which pages of a range are there: `PAGEMAP_SCAN` (Linux 6.7), else `/proc/self/pagemap` read page
//! by page.
//!
//! The sharp edge are guards: `PAGEMAP_SCAN` counts them as swapped pages unless asked not to, and
//! reading one is a SIGSEGV. Kernels 6.13 and 6.14 have guards and no way to see them;
//! [`guard_sight`] finds out, and `guard` then falls back to protection.

use core::ops::Range;
use std::sync::OnceLock;

use linux_raw_sys::general as k;

use super::linux::{EINTR, EINVAL, ENOSYS, syscall};
use super::{Errno, guard_install, map_private, unmap};
use crate::page::PAGE_LEN;

/// `_IOWR('f', 16, struct pm_scan_arg)`; the struct has 96 bytes.
const PAGEMAP_SCAN: usize = 0xc060_6610;

/// How guards by madvise behave here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardSight {
    /// They work, and scans tell them from pages.
    Seen,
    /// The kernel has none, or scans mistake them for pages.
    Unusable,
}

/// Tries guards out on a mapping made for it, once.
pub(crate) fn guard_sight() -> GuardSight {
    static SIGHT: OnceLock<GuardSight> = OnceLock::new();
    *SIGHT.get_or_init(|| probe_guard().unwrap_or(GuardSight::Unusable))
}

fn probe_guard() -> Result<GuardSight, Errno> {
    let base = map_private(2 * PAGE_LEN)?;
    // SAFETY: a mapping of our own; the store is to its second page.
    unsafe { ((base + PAGE_LEN) as *mut u8).write_volatile(1) };
    // SAFETY: as above, the first page is not used.
    let installed = unsafe { guard_install(base, PAGE_LEN) };
    let mut seen = 0;
    present_runs(base..base + 2 * PAGE_LEN, &mut |run| seen += run.len());
    // SAFETY: nothing refers to the mapping any more.
    unsafe { unmap(base, 2 * PAGE_LEN) };
    installed?;
    Ok(if seen == PAGE_LEN { GuardSight::Seen } else { GuardSight::Unusable })
}

/// How to ask; found out at the first question.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `PAGEMAP_SCAN`; whether it knows the guard category.
    Scan { fd: usize, knows_guard: bool },
    /// One `u64` per page.
    Read { fd: usize },
    /// No `/proc`: every page counts as present, guards must be masked out by the caller.
    Blind,
}

fn way() -> Way {
    static WAY: OnceLock<Way> = OnceLock::new();
    *WAY.get_or_init(|| {
        let path = c"/proc/self/pagemap";
        let flags = (k::O_RDONLY | k::O_CLOEXEC) as usize;
        let at_cwd = k::AT_FDCWD as isize as usize;
        // SAFETY: the path is a C string of static life.
        let opened =
            unsafe { syscall(k::__NR_openat, [at_cwd, path.as_ptr() as usize, flags, 0, 0, 0]) };
        let Ok(fd) = opened else { return Way::Blind };
        let probe = &raw const path as usize & !(PAGE_LEN - 1);
        for knows_guard in [true, false] {
            let mut vec = [k::page_region { start: 0, end: 0, categories: 0 }; 1];
            let question = Question::present(knows_guard);
            if scan(fd, probe..probe + PAGE_LEN, question, &mut vec).is_ok() {
                return Way::Scan { fd, knows_guard };
            }
        }
        Way::Read { fd }
    })
}

/// Calls `found` for each maximal run of pages in `range` that hold memory (present or swapped, not a
/// guard, not the shared zero page), in rising order.
pub(crate) fn present_runs(range: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let mut joined = Joined { pending: 0..0, found };
    match way() {
        Way::Scan { fd, knows_guard } => {
            let done = scan_all(fd, range.clone(), Question::present(knows_guard), &mut joined);
            if let Err(errno) = done {
                panic!(
                    "PAGEMAP_SCAN of {:#x}..{:#x} failed: error {errno}",
                    range.start, range.end
                );
            }
        }
        Way::Read { fd } => read_all(fd, range, |word| word & GUARD == 0, &mut joined),
        Way::Blind => joined.add(range),
    }
    joined.flush();
}

/// Calls `found` for each maximal run of pages in `range` that hold memory and were written since
/// they were last armed, in rising order. With `rearm` each page of an answer is armed by the same
/// step that saw it, so that no write is lost in between. A failure half-way leaves the pages before
/// it told and armed.
///
/// A page is *armed* by a bit in its table entry, which goes where the page goes: a page that is made
/// new (first touch, or again after `discard`) has none and counts as written.
pub(crate) fn written_runs(
    range: Range<usize>,
    rearm: bool,
    found: &mut dyn FnMut(Range<usize>),
) -> Result<(), Errno> {
    let Way::Scan { fd, knows_guard } = way() else { return Err(ENOSYS) };
    let mut joined = Joined { pending: 0..0, found };
    let done = scan_all(fd, range, Question::written(knows_guard, rearm), &mut joined);
    joined.flush();
    done
}

/// Calls `found` for each run of guards by madvise in `range`, in rising order. None where they are
/// not seen: they are made by protection there.
pub(crate) fn guard_runs(range: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let mut joined = Joined { pending: 0..0, found };
    match way() {
        Way::Scan { fd, knows_guard: true } => {
            let done = scan_all(fd, range.clone(), Question::GUARDS, &mut joined);
            if let Err(errno) = done {
                panic!(
                    "PAGEMAP_SCAN of {:#x}..{:#x} failed: error {errno}",
                    range.start, range.end
                );
            }
        }
        Way::Scan { .. } | Way::Blind => {}
        Way::Read { fd } => read_all(fd, range, |word| word & GUARD != 0, &mut joined),
    }
    joined.flush();
}

/// Joins runs that touch each other, so that a full answer buffer does not cut a run in two.
struct Joined<'a> {
    pending: Range<usize>,
    found: &'a mut dyn FnMut(Range<usize>),
}

impl Joined<'_> {
    fn add(&mut self, run: Range<usize>) {
        if run.start == self.pending.end && !self.pending.is_empty() {
            self.pending.end = run.end;
        } else {
            self.flush();
            self.pending = run;
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            (self.found)(self.pending.clone());
        }
        self.pending = 0..0;
    }
}

/// Which pages a scan is about, and what is done to them.
#[derive(Clone, Copy, Debug)]
struct Question {
    flags: u32,
    /// All of these.
    all: u32,
    /// None of these.
    none: u32,
}

impl Question {
    const GUARDS: Question = Question { flags: 0, all: k::PAGE_IS_GUARD, none: 0 };

    const fn present(knows_guard: bool) -> Question {
        let none = k::PAGE_IS_PFNZERO | if knows_guard { k::PAGE_IS_GUARD } else { 0 };
        Question { flags: 0, all: 0, none }
    }

    const fn written(knows_guard: bool, rearm: bool) -> Question {
        // A mapping that is not registered makes the scan fail rather than lie.
        let arm = if rearm { k::PM_SCAN_WP_MATCHING } else { 0 };
        Question {
            flags: k::PM_SCAN_CHECK_WPASYNC | arm,
            all: k::PAGE_IS_WRITTEN,
            ..Question::present(knows_guard)
        }
    }
}

fn scan_all(
    fd: usize,
    range: Range<usize>,
    question: Question,
    joined: &mut Joined<'_>,
) -> Result<(), Errno> {
    let mut vec = [k::page_region { start: 0, end: 0, categories: 0 }; 128];
    let mut at = range.start;
    while at < range.end {
        match scan(fd, at..range.end, question, &mut vec) {
            Ok((count, walk_end)) => {
                for region in &vec[..count] {
                    joined.add(region.start as usize..region.end as usize);
                }
                assert!(walk_end > at, "PAGEMAP_SCAN of {at:#x}..{:#x} stands still", range.end);
                at = walk_end;
            }
            // Interrupted before it saw a page.
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn scan(
    fd: usize,
    range: Range<usize>,
    question: Question,
    vec: &mut [k::page_region],
) -> Result<(usize, usize), Errno> {
    // Of pages that hold memory, wherever it is; guards count as swapped.
    let there = u64::from(k::PAGE_IS_PRESENT | k::PAGE_IS_SWAPPED);
    let mut arg = k::pm_scan_arg {
        size: size_of::<k::pm_scan_arg>() as u64,
        flags: u64::from(question.flags),
        start: range.start as u64,
        end: range.end as u64,
        walk_end: 0,
        vec: vec.as_mut_ptr() as u64,
        vec_len: vec.len() as u64,
        max_pages: 0,
        category_inverted: u64::from(question.none),
        category_mask: u64::from(question.none | question.all),
        category_anyof_mask: there,
        // One category only: an answer with several would cut runs where another one changes.
        return_mask: if question.all == 0 { there } else { u64::from(question.all) },
    };
    // SAFETY: the kernel writes at most `vec_len` entries to `vec`, and `walk_end` of `arg`. Arming
    // changes no contents.
    let count =
        unsafe { syscall(k::__NR_ioctl, [fd, PAGEMAP_SCAN, &raw mut arg as usize, 0, 0, 0]) }?;
    if count > vec.len() {
        return Err(EINVAL);
    }
    Ok((count, arg.walk_end as usize))
}

/// Bits of a `/proc/self/pagemap` word: present, swapped, guard.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const GUARD: u64 = 1 << 58;

/// Of the pages that hold memory (which guards seem to), those whose word is `wanted`.
fn read_all(fd: usize, range: Range<usize>, wanted: impl Fn(u64) -> bool, joined: &mut Joined<'_>) {
    let mut words = [0u64; 512];
    let mut at = range.start;
    while at < range.end {
        let want = ((range.end - at) / PAGE_LEN).min(words.len());
        let args = [fd, words.as_mut_ptr() as usize, want * 8, at / PAGE_LEN * 8, 0, 0];
        // SAFETY: the kernel writes at most `want` words to `words`.
        let got = unsafe { syscall(k::__NR_pread64, args) };
        let got = match got {
            Ok(bytes) if bytes >= 8 => bytes / 8,
            Err(EINTR) => continue,
            answer => panic!("reading the page map at {at:#x} failed: {answer:?}"),
        };
        for word in &words[..got] {
            if word & (PRESENT | SWAPPED | GUARD) != 0 && wanted(*word) {
                joined.add(at..at + PAGE_LEN);
            }
            at += PAGE_LEN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::discard;
    use super::*;

    #[test]
    fn both_ways_of_asking_agree() {
        let Way::Scan { fd, knows_guard } = way() else {
            println!("skipped: this kernel has no PAGEMAP_SCAN");
            return;
        };
        let len = 700 * PAGE_LEN;
        let base = map_private(len).unwrap();
        for page in (0..700).filter(|page| page % 7 < 3) {
            // SAFETY: a mapping of our own.
            unsafe { ((base + page * PAGE_LEN) as *mut u8).write_volatile(1) };
        }
        // SAFETY: the page is ours and its byte is not used again.
        unsafe { discard(base + 8 * PAGE_LEN, PAGE_LEN).unwrap() };
        // SAFETY: as above.
        let _ = unsafe { guard_install(base + 15 * PAGE_LEN, PAGE_LEN) };
        let (mut scanned, mut read) = (Vec::new(), Vec::new());
        let mut found = |run: Range<usize>| scanned.push(run);
        let mut joined = Joined { pending: 0..0, found: &mut found };
        scan_all(fd, base..base + len, Question::present(knows_guard), &mut joined).unwrap();
        joined.flush();
        let mut found = |run: Range<usize>| read.push(run);
        let mut joined = Joined { pending: 0..0, found: &mut found };
        read_all(fd, base..base + len, |word| word & GUARD == 0, &mut joined);
        joined.flush();
        assert_eq!(scanned, read);
        assert_eq!(scanned[0], base..base + 3 * PAGE_LEN);
        assert!(scanned.iter().all(|run| !run.contains(&(base + 8 * PAGE_LEN))));
        assert!(scanned.iter().all(|run| !run.contains(&(base + 15 * PAGE_LEN))));
        // SAFETY: nothing refers to the mapping any more.
        unsafe { unmap(base, len) };
    }
}
