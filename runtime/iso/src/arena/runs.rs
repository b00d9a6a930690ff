//! The pages of a normal extent: found, taken, given back, joined.
//!
//! Two bytes a page say what it is. The length of a free run stands at both of its ends, so runs join
//! with their neighbours in constant time; all free pages in between say 0. Long runs are found next
//! fit, single pages first fit: small things gather at the low end. The search is linear in the
//! number of runs of the extent; a bound on the longest free run spares most searches that would fail.

use super::extent::{Extent, HEADER_LEN};
use crate::page::PAGE_LEN;

/// What a page of a normal extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Free; the length of the run at its first and last page, else 0.
    Free(usize),
    /// Page `at` of a span of `len` pages.
    Span { at: usize, len: usize },
    /// First page of a run of so many.
    Run(usize),
    /// Page number so many of a run.
    RunRest(usize),
    /// Page map, and minis behind it if it is the extent's first page.
    Meta,
}

const KIND: u16 = 3 << 14;
const FREE: u16 = 0;
const SPAN: u16 = 1 << 14;
const RUN: u16 = 2 << 14;
const RUN_REST: u16 = 3 << 14;
const META: u16 = SPAN | 0x3fff;

impl Page {
    #[inline]
    fn unpack(entry: u16) -> Page {
        let value = (entry & !KIND) as usize;
        match entry & KIND {
            FREE => Page::Free(value),
            SPAN if entry == META => Page::Meta,
            SPAN => Page::Span { at: value & 15, len: value >> 4 },
            RUN => Page::Run(value),
            _ => Page::RunRest(value),
        }
    }

    fn pack(self) -> u16 {
        match self {
            Page::Free(len) => FREE | len as u16,
            Page::Span { at, len } => SPAN | (len << 4 | at) as u16,
            Page::Run(len) => RUN | len as u16,
            Page::RunRest(at) => RUN_REST | at as u16,
            Page::Meta => META,
        }
    }
}

impl Extent {
    #[inline]
    fn entry(&self, page: usize) -> *mut u16 {
        debug_assert!(page < self.page_count as usize);
        (self.base() + HEADER_LEN + 2 * page) as *mut u16
    }

    #[inline]
    pub(super) fn page(&self, page: usize) -> Page {
        // SAFETY: inside the page map, which the extent's owner alone touches.
        Page::unpack(unsafe { self.entry(page).read() })
    }

    fn set(&self, page: usize, what: Page) {
        // SAFETY: as in `page`.
        unsafe { self.entry(page).write(what.pack()) };
    }

    /// Writes the page map of a new extent.
    pub(super) fn init_runs(&self) {
        let (count, meta) = (self.page_count as usize, self.meta_page_count as usize);
        (0..meta).for_each(|page| self.set(page, Page::Meta));
        self.set_free(meta, count - meta);
        self.mark_free(meta, count - meta);
    }

    /// Takes `count` pages whose first is aligned to `align` bytes: its number, and how many of the
    /// pages, from the first on, may hold old bytes.
    pub(super) fn take_run(&self, count: usize, align: usize) -> Option<(usize, usize)> {
        let align = (align / PAGE_LEN).max(1);
        if count > self.free_run_bound.get() as usize {
            return None;
        }
        let start = if count == 1 { self.lowest_free.get() } else { self.rover.get() } as usize;
        let low = self.lowest_free.get() as usize;
        let mut longest = 0;
        let found = self
            .search(start.max(low), self.page_count as usize, count, align, &mut longest)
            .or_else(|| self.search(low, start.max(low), count, align, &mut longest));
        let Some((run, run_len, first)) = found else {
            self.free_run_bound.set(longest as u32);
            return None;
        };
        self.mark_free(run, first - run);
        self.mark_free(first + count, run + run_len - first - count);
        if run == self.lowest_free.get() as usize && first == run {
            self.lowest_free.set((run + count) as u32);
        }
        self.rover.set((first + count) as u32);
        let fresh = self.fresh_page.get() as usize;
        self.fresh_page.set(fresh.max(first + count) as u32);
        Some((first, fresh.saturating_sub(first).min(count)))
    }

    /// First fit among the runs that start in `from..to`, where `from` is the start of one: the run's
    /// first page, its length, first page to take. The length of the longest run seen goes to `longest`.
    fn search(
        &self,
        from: usize,
        to: usize,
        count: usize,
        align: usize,
        longest: &mut usize,
    ) -> Option<(usize, usize, usize)> {
        let mut at = from;
        while at < to {
            let step = match self.page(at) {
                Page::Free(len) => {
                    let first = at.next_multiple_of(align);
                    if first + count <= at + len {
                        return Some((at, len, first));
                    }
                    *longest = len.max(*longest);
                    len
                }
                Page::Span { len, .. } | Page::Run(len) => len,
                Page::RunRest(_) | Page::Meta => 0,
            };
            debug_assert!(step > 0, "a search met the middle of a run at page {at}");
            at += step.max(1);
        }
        None
    }

    /// Writes down the run that starts at `first`: a span or a page run of `count` pages.
    pub(super) fn mark_taken(&self, first: usize, count: usize, is_span: bool) {
        if is_span {
            (0..count).for_each(|at| self.set(first + at, Page::Span { at, len: count }));
        } else {
            self.set(first, Page::Run(count));
            self.set_rest(first, 1, count);
        }
    }

    /// Pages `from..to` of the page run that starts at `first`.
    fn set_rest(&self, first: usize, from: usize, to: usize) {
        // Bare words, so that the loop vectorises: long runs have thousands of pages.
        let map = self.entry(first);
        for at in from..to {
            // SAFETY: inside the page map, which the extent's owner alone touches.
            unsafe { map.add(at).write(RUN_REST | at as u16) };
        }
    }

    /// Marks the pages free, as inner ones.
    fn set_free(&self, first: usize, count: usize) {
        // SAFETY: as in `set_rest`; zero is `Page::Free(0)`.
        unsafe { self.entry(first).write_bytes(0, count) };
    }

    /// Writes down a free run without looking at its neighbours; inner pages are marked already.
    fn mark_free(&self, first: usize, count: usize) {
        if count == 0 {
            return;
        }
        self.set(first, Page::Free(count));
        self.set(first + count - 1, Page::Free(count));
        self.free_run_bound.set(self.free_run_bound.get().max(count as u32));
    }

    /// Pages become free and join the free runs beside them.
    pub(super) fn give_run(&self, first: usize, count: usize) {
        let (mut low, mut high) = (first, first + count);
        self.set_free(first, count);
        if let Page::Free(len) = self.page(low - 1) {
            self.set(low - 1, Page::Free(0));
            low -= len;
        }
        if high < self.page_count as usize
            && let Page::Free(len) = self.page(high)
        {
            self.set(high, Page::Free(0));
            high += len;
        }
        self.lowest_free.set(self.lowest_free.get().min(low as u32));
        // The rover stays at the start of a run.
        if (low..high).contains(&(self.rover.get() as usize)) {
            self.rover.set(low as u32);
        }
        self.mark_free(low, high - low);
    }

    /// Makes the run at `first` longer or shorter in place; whether it could.
    pub(super) fn resize_run(&self, first: usize, old: usize, new: usize) -> bool {
        if new <= old {
            self.set(first, Page::Run(new));
            if new < old {
                self.give_run(first + new, old - new);
            }
            return true;
        }
        let (end, more) = (first + old, new - old);
        if end >= self.page_count as usize {
            return false;
        }
        let Page::Free(len) = self.page(end) else {
            return false;
        };
        if len < more {
            return false;
        }
        self.set(end + len - 1, Page::Free(0));
        self.set(first, Page::Run(new));
        self.set_rest(first, old, new);
        self.mark_free(end + more, len - more);
        if self.lowest_free.get() as usize == end {
            self.lowest_free.set((end + more) as u32);
        }
        if self.rover.get() as usize == end {
            self.rover.set((end + more) as u32);
        }
        self.fresh_page.set(self.fresh_page.get().max((first + new) as u32));
        true
    }

    /// Calls `seen` with first page, number of pages and kind of each run, free ones included.
    pub(super) fn for_each_run(&self, seen: &mut dyn FnMut(usize, usize, Page)) {
        let mut at = 0;
        while at < self.page_count as usize {
            let what = self.page(at);
            let count = match what {
                Page::Meta => self.meta_page_count as usize,
                Page::Free(len) | Page::Run(len) | Page::Span { len, .. } => len,
                Page::RunRest(_) => 0,
            };
            assert!(
                count > 0,
                "the page map of the heap at {:#x} is damaged at page {at}",
                self.base()
            );
            seen(at, count, what);
            at += count;
        }
    }
}
