//! Which pages were written: the ground that pre-copy stands on.
//!
//! ```text
//!            watch (armed)     the task writes     take_dirty          the task writes
//! page 0     . clean           . clean             . clean             . clean
//! page 1     . clean           X dirty             . told, armed       . clean
//! page 2     . clean           X dirty             . told, armed       X dirty
//! page 3       not there       X dirty (new)       . told, armed       . clean
//! ```
//!
//! Two ways, the first one that works:
//!
//! * *async*: userfaultfd notes the first write to each page by itself (`WP_ASYNC`, Linux 6.7), the
//!   page map tells and arms in one step. Costs 1 to 2 us per first write. System calls may write
//!   to watched memory as ever.
//! * *sync* ([`protect`]): pages are made read-only and the handler of SIGSEGV, which has to ask
//!   [`on_fault`], notes and opens them. Costs 10 to 15 us per first write and works wherever
//!   `mprotect` does. A *system call* that writes to a watched page fails with EFAULT unless
//!   [`Tracker::prepare_write`] was called for its buffer.
//!
//! The rules, which hold for both (each has a test):
//!
//! 1. No write is lost: one that happens before `take_dirty` tells the page is seen by who reads the
//!    page afterwards, one that happens later makes it dirty again.
//! 2. A page that was not there at `watch` is dirty once it is written. Only reading it is nothing.
//! 3. A page that is *discarded* while watched is not told, since it holds nothing, and is dirty again
//!    when it is written anew. **So whoever has shipped it has to see for himself that it is gone**:
//!    pages shipped before and not in [`page::present_runs`](crate::page::present_runs) at the freeze
//!    are zero now.
//! 4. Guards are never told. They may be installed and removed under watch, except that those made
//!    by `mprotect` may not lie under a `sync` watch.
//! 5. [`page::populate_write`](crate::page::populate_write) counts as a write to each page of its range.
//! 6. Pages that come from another node are dirty or clean as who installs them says.
//!
//! Absent: rounds, the writable working set, and when to stop, which `proto` decides; the environment.

mod protect;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use linux_raw_sys::general as k;

use crate::error::KernelError;
use crate::page::{PAGE_LEN, PageRun};
use crate::sys::{self, Errno, Purpose, Userfault};

pub(crate) use protect::before_permit;
pub use protect::on_fault;

/// Which way of tracking is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrackMode {
    /// The best that works.
    #[default]
    Auto,
    /// By userfaultfd and the page map, or not at all.
    Async,
    /// By protection, even where `Async` works.
    Sync,
    /// Not at all.
    Off,
}

/// What there is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrackSupport {
    /// Writes are noted by the kernel.
    Async,
    /// Only by protection; why not better.
    Sync(&'static str),
    /// Not at all; why not.
    None(&'static str),
}

/// Tracks writes to pages. See the module for what is told and what is not.
#[derive(Debug)]
pub struct Tracker {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Async(&'static Userfault),
    Sync(&'static protect::Protect),
}

/// Tries out which way of tracking works here, on a mapping made for it.
#[must_use]
pub fn probe() -> TrackSupport {
    static SUPPORT: OnceLock<TrackSupport> = OnceLock::new();
    *SUPPORT.get_or_init(|| match why_not_async() {
        None => TrackSupport::Async,
        Some(reason) if protect::Protect::global().is_ok() => TrackSupport::Sync(reason),
        Some(reason) => TrackSupport::None(reason),
    })
}

impl Tracker {
    /// The tracker of this process; `None` if there is none here or it was switched off. Made at the
    /// first call, by the mode that [`Tracker::choose`] was given, else the best one.
    #[must_use]
    pub fn global() -> Option<&'static Tracker> {
        Tracker::choose(TrackMode::Auto)
    }

    /// As [`Tracker::global`]. The first call of either decides which way it is for good.
    #[must_use]
    pub fn choose(mode: TrackMode) -> Option<&'static Tracker> {
        static TRACKER: OnceLock<Option<Tracker>> = OnceLock::new();
        TRACKER.get_or_init(|| Tracker::new(mode)).as_ref()
    }

    fn new(mode: TrackMode) -> Option<Tracker> {
        let way = match (mode, probe()) {
            (TrackMode::Auto | TrackMode::Async, TrackSupport::Async) => {
                Way::Async(sys::userfault().ok()?)
            }
            (TrackMode::Auto, TrackSupport::Sync(_)) | (TrackMode::Sync, _) => {
                Way::Sync(protect::Protect::global().ok()?)
            }
            _ => return None,
        };
        Some(Tracker { way })
    }

    /// Whether system calls that write to watched memory work unprepared: the kernel itself notes
    /// the writes. Otherwise see [`Tracker::prepare_write`], and do not watch a stack, which signals
    /// and system calls without number write to.
    #[must_use]
    pub fn is_async(&self) -> bool {
        matches!(self.way, Way::Async(_))
    }

    /// Begins to watch the range, all of whose pages are clean now: whoever wants their present
    /// contents copies them after this. A range that is watched already becomes clean again; one
    /// that overlaps another must not be given.
    ///
    /// # Errors
    ///
    /// The kernel's, for example too little memory for its tables; nothing is watched then. `EBUSY`:
    /// another userfaultfd has the range.
    ///
    /// # Panics
    ///
    /// As all methods here, if the range is not made of whole pages.
    pub fn watch(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        self.watch_dirty(addr, len)?;
        let armed = match &self.way {
            // A scan arms present pages alone, five times quicker than UFFDIO_WRITEPROTECT and
            // without page tables for those that were never touched: they need no mark (rule 2).
            Way::Async(_) => self.take_dirty(addr, len, &mut |_| {}),
            Way::Sync(protect) => protect.arm(addr, len),
        };
        if armed.is_err() {
            self.unwatch(addr, len)?;
        }
        armed
    }

    /// Begins to watch the range, all of whose pages are dirty: the first [`Tracker::take_dirty`]
    /// tells all that are there, and so is the first round. Costs a microsecond.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::watch`].
    pub fn watch_dirty(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        assert_whole_pages(addr, len);
        match &self.way {
            Way::Async(userfault) => userfault
                .register(addr, len, Purpose::Track)
                .map_err(|errno| KernelError::new("UFFDIO_REGISTER", addr, len, errno)),
            Way::Sync(protect) => protect.watch(addr, len),
        }
    }

    /// Calls `dirty` for each run of dirty pages of the range, in rising order, and makes them clean.
    /// Runs are told after they were armed, so their bytes may be read at once (rule 1). `sync`
    /// tells pages by blocks, see [`protect`].
    ///
    /// # Errors
    ///
    /// The kernel's, for example `EPERM` where the range is not watched; runs told before it count.
    pub fn take_dirty(
        &self,
        addr: usize,
        len: usize,
        dirty: &mut dyn FnMut(PageRun),
    ) -> Result<(), KernelError> {
        self.scan(addr, len, true, dirty)
    }

    /// As [`Tracker::take_dirty`], but the pages stay dirty.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::take_dirty`].
    pub fn peek_dirty(
        &self,
        addr: usize,
        len: usize,
        dirty: &mut dyn FnMut(PageRun),
    ) -> Result<(), KernelError> {
        self.scan(addr, len, false, dirty)
    }

    fn scan(
        &self,
        addr: usize,
        len: usize,
        rearm: bool,
        dirty: &mut dyn FnMut(PageRun),
    ) -> Result<(), KernelError> {
        assert_whole_pages(addr, len);
        match &self.way {
            Way::Async(_) => sys::written_runs(addr..addr + len, rearm, &mut |run| {
                dirty(PageRun { addr: run.start, count: (run.end - run.start) / PAGE_LEN });
            })
            .map_err(|errno| KernelError::new("PAGEMAP_SCAN", addr, len, errno)),
            Way::Sync(protect) => protect.scan(addr, len, rearm, dirty),
        }
    }

    /// Announces that the kernel may write to these bytes in a system call: their pages become dirty
    /// where that has to be known beforehand (`sync`), nothing happens where not. Bytes outside of
    /// any watched range are ignored.
    ///
    /// The promise holds until the next [`Tracker::take_dirty`]: a call that began before it and
    /// writes after it fails. The runtime's wrappers therefore keep takers out meanwhile, or retry
    /// on EFAULT.
    pub fn prepare_write(&self, addr: usize, len: usize) {
        if let Way::Sync(protect) = &self.way {
            protect.open(addr, len);
        }
    }

    /// Ends watching a range, given as it was to `watch`. Contents do not change.
    ///
    /// # Errors
    ///
    /// The kernel's. A range that is not watched is none.
    pub fn unwatch(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        assert_whole_pages(addr, len);
        match &self.way {
            Way::Async(userfault) => userfault
                .unregister(addr, len)
                .map_err(|errno| KernelError::new("UFFDIO_UNREGISTER", addr, len, errno)),
            Way::Sync(protect) => protect.unwatch(addr, len),
        }
    }
}

/// Why pages cannot be tracked by the kernel itself; tried out in full.
fn why_not_async() -> Option<&'static str> {
    let userfault = match sys::userfault() {
        Ok(userfault) => userfault,
        Err(sys::ENOSYS) => return Some("this kernel has no userfaultfd"),
        Err(_) => return Some("userfaultfd is denied to this process"),
    };
    if !userfault.has(k::UFFD_FEATURE_WP_ASYNC) {
        return Some("this kernel's userfaultfd lacks WP_ASYNC (Linux 6.7)");
    }
    match try_async(userfault) {
        Ok(true) => None,
        Ok(false) => Some("PAGEMAP_SCAN mistakes written pages"),
        Err(_) => Some("PAGEMAP_SCAN does not work here (Linux 6.7, and a readable /proc)"),
    }
}

fn try_async(userfault: &'static Userfault) -> Result<bool, Errno> {
    let (base, len) = (sys::map_private(2 * PAGE_LEN)?, 2 * PAGE_LEN);
    let tracker = Tracker { way: Way::Async(userfault) };
    let attempt = || {
        // SAFETY: a mapping of our own, here and below.
        unsafe { (base as *mut u8).write_volatile(1) };
        tracker.watch(base, len)?;
        let mut dirty = [0; 2];
        tracker.take_dirty(base, len, &mut |run| dirty[0] += run.count)?;
        // SAFETY: as above.
        unsafe { (base as *mut u8).write_volatile(2) };
        tracker.take_dirty(base, len, &mut |run| dirty[1] += run.count)?;
        Ok(dirty == [0, 1])
    };
    let answer = attempt().map_err(|error: KernelError| error.errno);
    // SAFETY: nothing refers to the mapping any more.
    unsafe { sys::unmap(base, len) };
    answer
}

fn assert_whole_pages(addr: usize, len: usize) {
    assert!((addr | len).is_multiple_of(PAGE_LEN), "{addr:#x}+{len:#x} is not made of whole pages");
}
