//! Tracking by protection: watched pages are read-only, and the fault of the first write opens them.
//!
//! For kernels without `WP_ASYNC` and sandboxes without userfaultfd, so it uses `mprotect` alone. The
//! price beside the fault is mappings: each open piece among closed ones splits the range, and a
//! process has 65,530. Ranges are therefore cut into *blocks* of 1, 2, 4, … pages, at most
//! [`BLOCKS_MAX`] per range, which open and are told as a whole (those of their pages that hold
//! memory). Where mappings run out even so, a range opens in full and is dirty in full.
//!
//! The race: a thread faults, and before its handler runs the block is opened by another one, or the
//! watch ends. Such an access is tried again by the rules of [`fault`](crate::fault).
//!
//! All state lies behind one spin lock, since the handler may run anywhere. Nothing that holds it
//! touches watched memory, allocates, or can be left by a panic.
//!
//! Not for guards made by `mprotect`: a block that opens would open them. Watch ranges without any.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use crate::error::KernelError;
use crate::fault::Late;
use crate::page::{self, PAGE_LEN, PageRun};
use crate::sys;

/// Most blocks of one range.
const BLOCKS_MAX: usize = 4096;
/// Most ranges watched at a time.
const WATCHES_MAX: usize = 1024;

const WORDS: usize = BLOCKS_MAX / 64;

#[derive(Debug)]
pub(super) struct Protect {
    locked: AtomicBool,
    state: UnsafeCell<&'static mut State>,
}

// SAFETY: `state` is touched under `locked` only.
unsafe impl Sync for Protect {}
// SAFETY: as above; there is nothing of a thread in it.
unsafe impl Send for Protect {}

#[derive(Debug)]
struct State {
    /// The first `watch_count` are in use.
    watches: [Watch; WATCHES_MAX],
    watch_count: usize,
}

#[derive(Debug)]
struct Watch {
    addr: usize,
    len: usize,
    block_len: usize,
    /// A bit for each open block: written, or not armed yet.
    open: [u64; WORDS],
}

/// To be asked by the handler of SIGSEGV first: whether the fault was the first write to a watched
/// page (`is_write`: bit 1 of the fault's error code). Then the handler returns and the instruction
/// runs again. May be called in any signal handler; costs a load where nothing is tracked by faults.
#[must_use]
pub fn on_fault(addr: usize, is_write: bool) -> bool {
    match PROTECT.get() {
        Some(Ok(protect)) if is_write => protect.with(|state| state.on_fault(addr)),
        _ => false,
    }
}

/// To be told before the protection of a range is lifted for another reason: its pages count as
/// written from here on.
pub(crate) fn before_permit(addr: usize, len: usize) {
    if let Some(Ok(protect)) = PROTECT.get() {
        protect.open(addr, len);
    }
}

static LATE: Late = Late::new();
static PROTECT: OnceLock<Result<Protect, i32>> = OnceLock::new();

impl Protect {
    pub(super) fn global() -> Result<&'static Protect, i32> {
        let made = PROTECT.get_or_init(|| {
            let state = sys::map_private(size_of::<State>().next_multiple_of(PAGE_LEN))?;
            // SAFETY: fresh, long enough, page-aligned, never unmapped, and known to nobody else.
            // Zeros are a state without watches.
            let state = unsafe { &mut *(state as *mut State) };
            Ok(Protect { locked: AtomicBool::new(false), state: UnsafeCell::new(state) })
        });
        made.as_ref().map_err(|errno| *errno)
    }

    /// Runs `step` alone.
    fn with<R>(&self, step: impl FnOnce(&mut State) -> R) -> R {
        // Acquire pairs with the store below: what the last holder did is seen.
        while self.locked.swap(true, Ordering::Acquire) {
            // The holder may be inside `mprotect`, or not running.
            sys::yield_now();
        }
        // SAFETY: the lock makes this the only reference, and `step` cannot get here again: it
        // causes no fault that is asked about.
        let result = step(unsafe { &mut *self.state.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    pub(super) fn watch(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        self.with(|state| {
            let refused = |errno| KernelError::new("watch", addr, len, errno);
            match state.find(addr) {
                Some(watch) if (watch.addr, watch.len) == (addr, len) => return watch.open_all(),
                Some(_) => return Err(refused(sys::EEXIST)),
                None => {}
            }
            let free = state.watches.get_mut(state.watch_count);
            let watch = free.ok_or(refused(sys::ENOMEM))?;
            let blocks = (len / PAGE_LEN).div_ceil(BLOCKS_MAX).next_power_of_two();
            watch.addr = addr;
            watch.len = len;
            watch.block_len = blocks * PAGE_LEN;
            watch.open = [u64::MAX; WORDS];
            state.watch_count += 1;
            Ok(())
        })
    }

    pub(super) fn arm(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        self.with(|state| {
            let not_watched = KernelError::new("arm", addr, len, sys::EPERM);
            let watch = state.find(addr).ok_or(not_watched)?;
            watch.close(0..watch.len.div_ceil(watch.block_len))
        })
    }

    pub(super) fn unwatch(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        self.with(|state| {
            let watches = &mut state.watches[..state.watch_count];
            let Some(at) = watches.iter().position(|watch| watch.addr == addr) else {
                return Ok(());
            };
            assert_eq!(watches[at].len, len, "a watch ends as it began");
            watches[at].open_all()?;
            state.watch_count -= 1;
            state.watches.swap(at, state.watch_count);
            LATE.ended(addr, len);
            Ok(())
        })
    }

    /// Tells the pages of open blocks, and closes the blocks that lie in the range as a whole.
    pub(super) fn scan(
        &self,
        addr: usize,
        len: usize,
        rearm: bool,
        dirty: &mut dyn FnMut(PageRun),
    ) -> Result<(), KernelError> {
        let (mut at, end) = (addr, addr + len);
        while at < end {
            // One run of blocks at a time, told without the lock.
            let run = self.with(|state| {
                let not_watched = KernelError::new("scan", at, end - at, sys::EPERM);
                let watch = state.find(at).ok_or(not_watched)?;
                let Some(run) = watch.next_open(at, end) else {
                    at = (watch.addr + watch.len).min(end);
                    return Ok(at..at);
                };
                if rearm {
                    watch.close(watch.whole_blocks(&run))?;
                }
                at = run.end;
                Ok(run)
            })?;
            page::present_runs(run.start, run.end - run.start, dirty);
        }
        Ok(())
    }

    /// Opens all blocks that a byte of the range lies in.
    pub(super) fn open(&self, addr: usize, len: usize) {
        self.with(|state| {
            for watch in &mut state.watches[..state.watch_count] {
                let (start, end) = (addr.max(watch.addr), (addr + len).min(watch.addr + watch.len));
                if start < end {
                    for block in watch.block_of(start)..=watch.block_of(end - 1) {
                        watch.open(block);
                    }
                }
            }
        });
    }
}

impl State {
    fn find(&mut self, addr: usize) -> Option<&mut Watch> {
        let watches = &mut self.watches[..self.watch_count];
        watches.iter_mut().find(|watch| addr.wrapping_sub(watch.addr) < watch.len)
    }

    fn on_fault(&mut self, addr: usize) -> bool {
        let Some(watch) = self.find(addr) else { return LATE.is_late(addr) };
        let block = watch.block_of(addr);
        // Else opened by somebody meanwhile, or no fault of ours.
        if watch.is_open(block) { LATE.try_again(addr) } else { watch.open(block) }
    }
}

impl Watch {
    fn block_of(&self, addr: usize) -> usize {
        (addr - self.addr) / self.block_len
    }

    /// The bytes of some blocks; the last one of a range may be short.
    fn bytes_of(&self, blocks: Range<usize>) -> Range<usize> {
        let end = (blocks.end * self.block_len).min(self.len);
        self.addr + blocks.start * self.block_len..self.addr + end
    }

    fn is_open(&self, block: usize) -> bool {
        self.open[block / 64] >> (block % 64) & 1 != 0
    }

    /// The first run of open blocks in `at..end`, cut to it.
    fn next_open(&self, at: usize, end: usize) -> Option<Range<usize>> {
        let end = end.min(self.addr + self.len);
        let last = self.block_of(end - 1);
        let first = (self.block_of(at)..=last).find(|block| self.is_open(*block))?;
        let past = (first..=last).find(|block| !self.is_open(*block)).unwrap_or(last + 1);
        let bytes = self.bytes_of(first..past);
        Some(bytes.start.max(at)..bytes.end.min(end))
    }

    /// Those blocks of which no byte lies outside.
    fn whole_blocks(&self, bytes: &Range<usize>) -> Range<usize> {
        let first = (bytes.start - self.addr).div_ceil(self.block_len);
        let end = bytes.end - self.addr;
        let past =
            if end == self.len { end.div_ceil(self.block_len) } else { end / self.block_len };
        first..past.max(first)
    }

    /// Makes the blocks read-only. Where mappings run out all of the range opens: too much is told
    /// then, which is never wrong.
    fn close(&mut self, blocks: Range<usize>) -> Result<(), KernelError> {
        let bytes = self.bytes_of(blocks.clone());
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: reading stays possible, and writers are let in by `on_fault`.
        match unsafe { sys::forbid_write(bytes.start, bytes.len()) } {
            Ok(()) => {
                // A write that faults before this waits for the lock, and sets its bit again.
                blocks.for_each(|block| self.open[block / 64] &= !(1 << (block % 64)));
                Ok(())
            }
            // It may have closed a part, so all has to open.
            Err(sys::ENOMEM) => self.open_all(),
            Err(errno) => Err(KernelError::new("mprotect", bytes.start, bytes.len(), errno)),
        }
    }

    /// Opens one block, or all if the process has no more mappings.
    fn open(&mut self, block: usize) -> bool {
        let bytes = self.bytes_of(block..block + 1);
        // SAFETY: the range holds no protection but ours (module rule).
        if unsafe { sys::permit(bytes.start, bytes.len()) }.is_err() {
            return self.open_all().is_ok();
        }
        self.open[block / 64] |= 1 << (block % 64);
        true
    }

    fn open_all(&mut self) -> Result<(), KernelError> {
        // SAFETY: the range holds no protection but ours (module rule).
        unsafe { sys::permit(self.addr, self.len) }
            .map_err(|errno| KernelError::new("mprotect", self.addr, self.len, errno))?;
        self.open = [u64::MAX; WORDS];
        Ok(())
    }
}
