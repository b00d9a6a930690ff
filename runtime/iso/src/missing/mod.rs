//! Pages that are still on their way: the ground that post-copy's target stands on.
//!
//! ```text
//! register        | missing  | missing  | guard | missing | missing |    touching one is SIGBUS
//! install 0, 1    | there    | there    | guard | missing | missing |
//! touch 3         | there    | there    | guard | SIGBUS, waits, install, returns: goes on
//! unregister      | there    | there    | guard | there   | zero    |    what did not come is zero
//! ```
//!
//! A page comes whole: no thread ever sees a part of one. The faulting thread gets SIGBUS *on its own
//! stack*, so its handler may switch to other work and return when the page is there; the instruction
//! then runs again. The handler asks [`classify`] whose fault it is. The sharp edges, each with a test:
//!
//! 1. A *system call* that meets a missing page fails with EFAULT, for root too: it is not served.
//!    Wrappers touch their buffers first ([`crate::track`] has the like for writes).
//! 2. Where the page *under the stack pointer* is missing the kernel cannot push the signal's frame
//!    and sends SIGSEGV on the alternate stack instead, without an address. Its handler looks at the
//!    stack pointer in its context, has the pages from [`SIGNAL_FRAME_LEN`] below it to it made
//!    present, and returns.
//! 3. The kernel lets a page be installed on a *guard*, which is gone then. [`Missing::install`] looks
//!    and leaves guards out. Nobody may make guards in a range while pages are installed there.
//! 4. A page that is there already is left as it is and told: the push and a demand often cross.
//! 5. Late faults ([`MissingFault::Late`]): the page came, or the range ended, before the handler ran.
//!
//! Absent: whom to ask for a page, waiting for it, what else a worker does meanwhile.

mod ranges;
#[cfg(test)]
mod tests;

use core::ops::Range;
use std::sync::OnceLock;

use linux_raw_sys::general as k;

use crate::error::KernelError;
use crate::page::{PAGE_LEN, PageRun};
use crate::sys::{self, Errno, Purpose, Userfault};

pub use ranges::{MissingFault, classify};

/// How many bytes below the stack pointer have to be there for a signal to arrive on that stack: the
/// red zone, the frame (3,376 bytes with AVX-512, 11 KiB with AMX), and the handler's own needs.
pub const SIGNAL_FRAME_LEN: usize = 4 * PAGE_LEN;

/// What there is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingSupport {
    /// Missing pages can be served.
    Signals {
        /// Pages can be moved to their place (Linux 6.8); otherwise they are copied.
        moves: bool,
        /// The kernel would let this process serve the faults of system calls too (it is privileged, or
        /// `vm.unprivileged_userfaultfd` is 1). Signals never do, whatever this says (rule 1).
        kernel_faults: bool,
    },
    /// They cannot; why not.
    None(&'static str),
}

/// What the tracker thinks of an installed page, where its range is watched too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Not written yet. Only in ranges registered with `track`.
    Clean,
    /// Written.
    Dirty,
}

/// Why a page was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is there already.
    Present,
    /// It is a guard.
    Guard,
}

/// Is told which pages were left out.
pub type LeftOutSink<'a> = dyn FnMut(PageRun, LeftOut) + 'a;

/// Fills missing pages. One for the process.
#[derive(Debug)]
pub struct Missing {
    userfault: &'static Userfault,
}

/// Tries out whether missing pages can be served here.
#[must_use]
pub fn probe() -> MissingSupport {
    static SUPPORT: OnceLock<MissingSupport> = OnceLock::new();
    *SUPPORT.get_or_init(|| match sys::userfault() {
        Err(sys::ENOSYS) => MissingSupport::None("this kernel has no userfaultfd"),
        Err(_) => MissingSupport::None("userfaultfd is denied to this process"),
        Ok(userfault) if !userfault.has(k::UFFD_FEATURE_SIGBUS) => {
            MissingSupport::None("this kernel's userfaultfd lacks SIGBUS (Linux 4.14)")
        }
        Ok(userfault) => MissingSupport::Signals {
            moves: userfault.has(k::UFFD_FEATURE_MOVE),
            kernel_faults: Userfault::may_serve_kernel(),
        },
    })
}

/// Where the pages of an install come from.
#[derive(Clone, Copy)]
enum Source {
    Copy { addr: usize, mark: Mark },
    Move { addr: usize },
    Zeros,
}

impl Missing {
    /// The one of this process; `None` if [`probe`] says so.
    #[must_use]
    pub fn global() -> Option<&'static Missing> {
        static MISSING: OnceLock<Option<Missing>> = OnceLock::new();
        let made = MISSING.get_or_init(|| match probe() {
            MissingSupport::Signals { .. } => Some(Missing { userfault: sys::userfault().ok()? }),
            MissingSupport::None(_) => None,
        });
        made.as_ref()
    }

    /// Source here on touching a page of the range that is not there is a SIGBUS, until the range is
    /// unregistered. Pages that are there stay. `track`: the range can be [watched](crate::track) at
    /// the same time, by [`Tracker::watch`](crate::track::Tracker::watch) after this, and pages may be
    /// installed clean; needs [`TrackSupport::Async`](crate::track::TrackSupport::Async).
    ///
    /// # Errors
    ///
    /// The kernel's; or `ENOSPC`, with 4,096 ranges registered. Nothing has changed then.
    ///
    /// # Panics
    ///
    /// As all methods here, if the range is not made of whole pages.
    pub fn register(&self, addr: usize, len: usize, track: bool) -> Result<(), KernelError> {
        assert_whole_pages(addr, len);
        // Known before the first fault.
        if !ranges::add(addr, len) {
            return Err(KernelError::new("register", addr, len, sys::ENOSPC));
        }
        let done = self.userfault.register(addr, len, Purpose::Missing { track });
        if done.is_err() {
            ranges::remove(addr, len);
        }
        done.map_err(|errno| KernelError::new("UFFDIO_REGISTER", addr, len, errno))
    }

    /// Ends a range, given as it was to [`Missing::register`], and a watch of it. Its pages that are
    /// missing still are zero from here on: **whoever ends a range early ends the task**.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn unregister(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        assert_whole_pages(addr, len);
        self.userfault
            .unregister(addr, len)
            .map_err(|errno| KernelError::new("UFFDIO_UNREGISTER", addr, len, errno))?;
        ranges::remove(addr, len);
        Ok(())
    }

    /// Makes the bytes the contents of the missing pages from `to` on. Pages that are there and guards
    /// are told to `left_out`, in rising order, and stay as they are. The answer is how many pages were
    /// installed.
    ///
    /// # Errors
    ///
    /// The kernel's: `ENOENT` where the range is not registered. Pages before its address are done.
    pub fn install(
        &self,
        to: usize,
        bytes: &[u8],
        mark: Mark,
        left_out: &mut LeftOutSink<'_>,
    ) -> Result<usize, KernelError> {
        let source = Source::Copy { addr: bytes.as_ptr() as usize, mark };
        self.fill(to, bytes.len(), source, left_out)
    }

    /// As [`Missing::install`], with pages of zeros, which take no memory until they are written.
    ///
    /// # Errors
    ///
    /// As for [`Missing::install`].
    pub fn install_zero(
        &self,
        addr: usize,
        len: usize,
        left_out: &mut LeftOutSink<'_>,
    ) -> Result<usize, KernelError> {
        self.fill(addr, len, Source::Zeros, left_out)
    }

    /// As [`Missing::install`], by moving the pages themselves out of `staging`, up to ten times quicker
    /// than copying. Pages that cannot be moved are copied. They are [`Mark::Dirty`], since a move can
    /// not mark them. The staging memory holds zeros where pages were moved, and may be filled again.
    ///
    /// # Errors
    ///
    /// As for [`Missing::install`].
    ///
    /// # Panics
    ///
    /// If `staging` does not hold `len` bytes from `offset` on.
    pub fn move_from(
        &self,
        to: usize,
        staging: &mut Staging,
        offset: usize,
        len: usize,
        left_out: &mut LeftOutSink<'_>,
    ) -> Result<usize, KernelError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= staging.len));
        let addr = staging.addr + offset;
        assert_whole_pages(addr, len);
        let source = if self.userfault.has(k::UFFD_FEATURE_MOVE) {
            Source::Move { addr }
        } else {
            Source::Copy { addr, mark: Mark::Dirty }
        };
        self.fill(to, len, source, left_out)
    }

    /// Wakes threads that the kernel itself holds at missing pages of the range. With signals there are
    /// none, and every install wakes by itself; for a range that shall be looked at anew.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn wake(&self, addr: usize, len: usize) -> Result<(), KernelError> {
        self.userfault
            .wake(addr, len)
            .map_err(|errno| KernelError::new("UFFDIO_WAKE", addr, len, errno))
    }

    /// Fills what lies between the guards.
    fn fill(
        &self,
        to: usize,
        len: usize,
        source: Source,
        left_out: &mut LeftOutSink<'_>,
    ) -> Result<usize, KernelError> {
        assert_whole_pages(to, len);
        let (mut at, mut count) = (to, Ok(0));
        let fill =
            |range: Range<usize>, count: &mut Result<usize, _>, left_out: &mut LeftOutSink<'_>| {
                if let Ok(before) = *count {
                    let done =
                        self.fill_guardless(range.clone(), source.skip(range.start - to), left_out);
                    *count = done.map(|pages| before + pages);
                }
            };
        sys::guard_runs(to..to + len, &mut |guard| {
            fill(at..guard.start, &mut count, left_out);
            left_out(run(guard.start, guard.end), LeftOut::Guard);
            at = guard.end;
        });
        fill(at..to + len, &mut count, left_out);
        count
    }

    fn fill_guardless(
        &self,
        range: Range<usize>,
        mut source: Source,
        left_out: &mut LeftOutSink<'_>,
    ) -> Result<usize, KernelError> {
        let (mut at, end) = (range.start, range.end);
        let (mut installed, mut step_max) = (0, usize::MAX);
        while at < end {
            let step = (end - at).min(step_max);
            let (done, answer) = self.step(at, step, source);
            at += done;
            source = source.skip(done);
            installed += done / PAGE_LEN;
            match answer {
                Ok(()) => step_max = usize::MAX,
                // Stopped at a page: the next call says why. Or the mappings change: once more.
                Err(sys::EAGAIN) => {}
                Err(sys::EEXIST) => {
                    left_out(run(at, at + PAGE_LEN), LeftOut::Present);
                    at += PAGE_LEN;
                    source = source.skip(PAGE_LEN);
                }
                // The kernel wants all of a call within one mapping.
                Err(sys::ENOENT) if step > PAGE_LEN => {
                    step_max = (step / PAGE_LEN).div_ceil(2) * PAGE_LEN;
                }
                // What cannot be moved: pages shared with a child or not of the right kind; holes.
                Err(sys::EBUSY | sys::EINVAL | sys::ENOENT)
                    if matches!(source, Source::Move { .. }) =>
                {
                    let copied = self.fill_guardless(at..at + step, source.copied(), left_out)?;
                    installed += copied;
                    at += step;
                    source = source.skip(step);
                }
                Err(errno) => {
                    return Err(KernelError::new(source.call(), at, end - at, errno));
                }
            }
        }
        Ok(installed)
    }

    fn step(&self, to: usize, len: usize, source: Source) -> (usize, Result<(), Errno>) {
        match source {
            Source::Copy { addr, mark } => {
                // SAFETY: the source is a slice or staging memory that `fill`'s caller holds, and
                // `fill` has left the guards out (rule 3).
                unsafe { self.userfault.copy(to, addr, len, mark == Mark::Clean) }
            }
            Source::Move { addr } => {
                // SAFETY: staging memory that the caller of `move_from` holds alone; guards as above.
                unsafe { self.userfault.move_pages(to, addr, len) }
            }
            Source::Zeros => {
                // SAFETY: guards as above.
                unsafe { self.userfault.zero(to, len) }
            }
        }
    }
}

impl Source {
    fn skip(self, len: usize) -> Source {
        match self {
            Source::Copy { addr, mark } => Source::Copy { addr: addr + len, mark },
            Source::Move { addr } => Source::Move { addr: addr + len },
            Source::Zeros => Source::Zeros,
        }
    }

    fn copied(self) -> Source {
        match self {
            Source::Move { addr } => Source::Copy { addr, mark: Mark::Dirty },
            other => other,
        }
    }

    fn call(self) -> &'static str {
        match self {
            Source::Copy { .. } => "UFFDIO_COPY",
            Source::Move { .. } => "UFFDIO_MOVE",
            Source::Zeros => "UFFDIO_ZEROPAGE",
        }
    }
}

/// Memory that pages land in before they are moved to their place. Gone on drop.
#[derive(Debug)]
pub struct Staging {
    addr: usize,
    len: usize,
}

impl Staging {
    /// `len` bytes of zeros, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(len: usize) -> Result<Staging, KernelError> {
        let len = len.next_multiple_of(PAGE_LEN).max(PAGE_LEN);
        let addr =
            sys::map_private(len).map_err(|errno| KernelError::new("mmap", 0, len, errno))?;
        Ok(Staging { addr, len })
    }

    /// The memory.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a private mapping of ours, of this length, which nobody else knows.
        unsafe { core::slice::from_raw_parts_mut(self.addr as *mut u8, self.len) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more: `bytes` borrows.
        unsafe { sys::unmap(self.addr, self.len) };
    }
}

fn run(start: usize, end: usize) -> PageRun {
    PageRun { addr: start, count: (end - start) / PAGE_LEN }
}

fn assert_whole_pages(addr: usize, len: usize) {
    assert!((addr | len).is_multiple_of(PAGE_LEN), "{addr:#x}+{len:#x} is not made of whole pages");
}
