//! Pages: the unit of transfer. Which of them hold memory, which are zero, and how to drop or make
//! them. Relies on `sys`; knows nothing of slots or owners.

use crate::sys;

/// Length of a page in bytes.
pub const PAGE_LEN: usize = 4096;

/// Length of a huge page in bytes.
pub const HUGE_PAGE_LEN: usize = 2 << 20;

/// `count` pages in a row, the first at `addr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// Address of the first page's first byte.
    pub addr: usize,
    /// Number of pages.
    pub count: usize,
}

impl PageRun {
    /// Length in bytes.
    #[must_use]
    pub const fn byte_len(self) -> usize {
        self.count * PAGE_LEN
    }

    /// Address one past the last byte.
    #[must_use]
    pub const fn end(self) -> usize {
        self.addr + self.byte_len()
    }
}

/// Calls `found` for each run of pages in `addr..addr + len` that hold memory, in rising order.
/// Untouched pages, pages only ever read, and guards are left out. Where the kernel cannot tell
/// (no `/proc`), the whole range is one run.
///
/// # Panics
///
/// If the range is not made of whole pages.
pub fn present_runs(addr: usize, len: usize, found: &mut dyn FnMut(PageRun)) {
    assert_whole_pages(addr, len);
    sys::present_runs(addr..addr + len, &mut |run| {
        found(PageRun { addr: run.start, count: (run.end - run.start) / PAGE_LEN });
    });
}

/// How many pages of the range hold memory.
///
/// # Panics
///
/// If the range is not made of whole pages.
#[must_use]
pub fn present_count(addr: usize, len: usize) -> usize {
    let mut count = 0;
    present_runs(addr, len, &mut |run| count += run.count);
    count
}

/// Whether the page at `page` holds only zero bytes.
///
/// # Safety
///
/// - `page` points to [`PAGE_LEN`] readable bytes, aligned to 32, that nobody writes meanwhile
#[must_use]
pub unsafe fn is_zero_page(page: *const u8) -> bool {
    debug_assert!((page as usize).is_multiple_of(32));
    // SAFETY: the caller's promise; any bytes are valid words.
    let chunks = unsafe { &*page.cast::<[[u64; 16]; PAGE_LEN / 128]>() };
    // A live page mostly differs from zero within its first words; a chunk at a time vectorises.
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, word| all | word) == 0)
}

/// Drops the pages of the range: they cost nothing and read as zeros. Guards in it stay.
///
/// # Safety
///
/// - the bytes of the range are dead and nobody touches them meanwhile
///
/// # Panics
///
/// If the range is not made of whole pages or the kernel refuses: old bytes that stay where a new
/// owner expects zeros are worse than a stop (I9).
pub unsafe fn discard(addr: usize, len: usize) {
    assert_whole_pages(addr, len);
    // SAFETY: the caller's promise.
    let done = unsafe { sys::discard(addr, len) };
    assert!(done.is_ok(), "madvise({addr:#x}, {len:#x}, MADV_DONTNEED) failed: error {done:?}");
}

/// Makes all pages of the range present and writable in one call; contents do not change.
///
/// # Safety
///
/// - the range is mapped readable and writable, holds no guard, and stays so
///
/// # Panics
///
/// If the range is not made of whole pages.
pub unsafe fn populate_write(addr: usize, len: usize) {
    assert_whole_pages(addr, len);
    if len == 0 || sys::populate_write(addr, len).is_ok() {
        return;
    }
    // A kernel before 5.14, or a page that only a fault handler opens.
    for page in (addr..addr + len).step_by(PAGE_LEN) {
        // SAFETY: the page is mapped and writable by the caller's promise.
        unsafe { sys::touch(page) };
    }
}

/// As [`populate_write`], by huge pages where the range has room for whole ones and the system gives
/// them: memory that is about to be filled densely costs a fifth that way. It asks for them only for
/// as long as the call takes, so that whoever has these addresses later and uses them sparsely is not
/// given two megabytes for a byte.
///
/// # Safety
///
/// - the range is mapped readable and writable, holds no guard, and stays so
///
/// # Panics
///
/// If the range is not made of whole pages.
pub unsafe fn populate_huge(addr: usize, len: usize) {
    let end = addr + len;
    let (from, to) = (addr.next_multiple_of(HUGE_PAGE_LEN), end & !(HUGE_PAGE_LEN - 1));
    if from >= to || sys::huge_pages(from, to - from).is_err() {
        // SAFETY: the caller's promise, here and below.
        return unsafe { populate_write(addr, len) };
    }
    // SAFETY: as above.
    unsafe { populate_write(from, to - from) };
    // Refused only for want of a mapping, and then they stay asked for.
    let _ = sys::no_huge_pages(from, to - from);
    // SAFETY: as above.
    unsafe { populate_write(addr, from - addr) };
    // SAFETY: as above.
    unsafe { populate_write(to, end - to) };
}

fn assert_whole_pages(addr: usize, len: usize) {
    assert!((addr | len).is_multiple_of(PAGE_LEN), "{addr:#x}+{len:#x} is not made of whole pages");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_pages(count: usize, test: impl FnOnce(usize)) {
        let base = sys::map_private(count * PAGE_LEN).unwrap();
        test(base);
        // SAFETY: nothing refers to the mapping any more.
        unsafe { sys::unmap(base, count * PAGE_LEN) };
    }

    #[test]
    fn only_touched_pages_are_present() {
        with_pages(1000, |base| {
            for page in [1, 2, 5, 900] {
                // SAFETY: a mapping of our own.
                unsafe { ((base + page * PAGE_LEN) as *mut u8).write_volatile(1) };
            }
            // SAFETY: as above. A page that is only read is no page.
            let _ = unsafe { ((base + 7 * PAGE_LEN) as *const u8).read_volatile() };
            let mut runs = Vec::new();
            present_runs(base, 1000 * PAGE_LEN, &mut |run| {
                runs.push(((run.addr - base) / PAGE_LEN, run.count))
            });
            assert_eq!(runs, [(1, 2), (5, 1), (900, 1)]);
        });
    }

    #[test]
    fn more_runs_than_one_answer_holds_all_arrive() {
        with_pages(2000, |base| {
            for page in (0..2000).step_by(2) {
                // SAFETY: a mapping of our own.
                unsafe { ((base + page * PAGE_LEN) as *mut u8).write_volatile(1) };
            }
            let mut runs = 0;
            present_runs(base, 2000 * PAGE_LEN, &mut |run| {
                assert_eq!(run.count, 1);
                runs += 1;
            });
            assert_eq!(runs, 1000);
        });
    }

    #[test]
    fn discarded_pages_are_gone_and_zero_and_populated_ones_are_there() {
        with_pages(16, |base| {
            // SAFETY: a mapping of our own, here and below.
            unsafe { populate_write(base, 16 * PAGE_LEN) };
            assert_eq!(present_count(base, 16 * PAGE_LEN), 16);
            // SAFETY: as above.
            unsafe { (base as *mut u8).add(PAGE_LEN - 1).write_volatile(9) };
            // SAFETY: as above.
            assert!(!unsafe { is_zero_page(base as *const u8) });
            // SAFETY: as above.
            unsafe { discard(base, 8 * PAGE_LEN) };
            assert_eq!(present_count(base, 16 * PAGE_LEN), 8);
            // SAFETY: as above.
            assert!(unsafe { is_zero_page(base as *const u8) });
        });
    }

    #[test]
    fn what_was_populated_by_huge_pages_is_there_and_goes_page_by_page() {
        let count = 4 * HUGE_PAGE_LEN / PAGE_LEN;
        with_pages(count, |base| {
            let (from, len) = (base + PAGE_LEN, (count - 2) * PAGE_LEN);
            // SAFETY: a mapping of our own, here and below.
            unsafe { populate_huge(from, len) };
            assert_eq!(present_count(base, count * PAGE_LEN), count - 2);
            let inside = base.next_multiple_of(HUGE_PAGE_LEN) + 7 * PAGE_LEN;
            // SAFETY: as above.
            unsafe { ((inside + PAGE_LEN) as *mut u8).write_volatile(9) };
            // SAFETY: as above.
            unsafe { discard(inside, PAGE_LEN) };
            assert_eq!(present_count(base, count * PAGE_LEN), count - 3);
            // SAFETY: as above.
            assert_eq!(unsafe { ((inside + PAGE_LEN) as *const u8).read_volatile() }, 9);
            // SAFETY: as above.
            unsafe { discard(from, len) };
            // The next to have these addresses gets what it touches.
            // SAFETY: as above.
            unsafe { (inside as *mut u8).write_volatile(1) };
            assert_eq!(present_count(base, count * PAGE_LEN), 1);
        });
    }

    #[test]
    fn touching_makes_a_page_and_changes_nothing() {
        with_pages(2, |base| {
            // SAFETY: a mapping of our own, here and below.
            unsafe { sys::touch(base) };
            assert_eq!(present_count(base, 2 * PAGE_LEN), 1);
            // SAFETY: as above.
            unsafe { (base as *mut u8).write_volatile(9) };
            // SAFETY: as above.
            unsafe { sys::touch(base) };
            // SAFETY: as above.
            assert_eq!(unsafe { (base as *const u8).read_volatile() }, 9);
        });
    }

    #[test]
    fn any_single_byte_makes_a_page_not_zero() {
        with_pages(1, |base| {
            for at in 0..PAGE_LEN {
                let byte = (base + at) as *mut u8;
                // SAFETY: a mapping of our own.
                unsafe { byte.write_volatile(0x80) };
                // SAFETY: as above.
                assert!(!unsafe { is_zero_page(base as *const u8) }, "byte {at}");
                // SAFETY: as above.
                unsafe { byte.write_volatile(0) };
            }
        });
    }
}
