//! userfaultfd: one descriptor, its features, and the calls on it.
//!
//! One descriptor serves tracking and missing pages alike, since the kernel lets a mapping be
//! registered with one only, and a task may be moved on while its pages still arrive. Its faults are
//! signals (`UFFD_FEATURE_SIGBUS`), so nobody reads from it; `USER_MODE_ONLY` loses nothing then: a
//! system call that meets a missing page gets EFAULT from a signalling descriptor in any case.

use std::sync::OnceLock;

use linux_raw_sys::general as k;

use super::linux::syscall;
use super::{EAGAIN, Errno};

/// `_IOWR(0xaa, …)` with the sizes of their structs.
const UFFDIO_API: usize = 0xc018_aa3f;
const UFFDIO_REGISTER: usize = 0xc020_aa00;
const UFFDIO_UNREGISTER: usize = 0x8010_aa01;
const UFFDIO_WAKE: usize = 0x8010_aa02;
const UFFDIO_COPY: usize = 0xc028_aa03;
const UFFDIO_ZEROPAGE: usize = 0xc020_aa04;
const UFFDIO_MOVE: usize = 0xc028_aa05;

/// A descriptor of userfaultfd, open for the life of its value.
#[derive(Debug)]
pub(crate) struct Userfault {
    fd: usize,
    features: u64,
}

/// What a range is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Writes are noted.
    Track,
    /// Touching a page that is not there is a signal; writes may be noted as well.
    Missing {
        /// Whether writes are noted too.
        track: bool,
    },
}

/// The descriptor of this process, opened at the first call; the refusal's number if denied.
pub(crate) fn userfault() -> Result<&'static Userfault, Errno> {
    static SHARED: OnceLock<Result<Userfault, Errno>> = OnceLock::new();
    let wanted = k::UFFD_FEATURE_SIGBUS
        | k::UFFD_FEATURE_PAGEFAULT_FLAG_WP
        | k::UFFD_FEATURE_WP_UNPOPULATED
        | k::UFFD_FEATURE_WP_ASYNC
        | k::UFFD_FEATURE_MOVE;
    let opened = SHARED.get_or_init(|| Userfault::open(u64::from(wanted)));
    opened.as_ref().map_err(|errno| *errno)
}

impl Userfault {
    /// Opens a descriptor with all features of `wanted` that this kernel has.
    pub(crate) fn open(wanted: u64) -> Result<Userfault, Errno> {
        // The handshake is once per descriptor, and a descriptor asked for more than there is cannot
        // be used: the first one is asked for nothing and names all that there is.
        let has = Self::with_features(0)?.features;
        Self::with_features(has & wanted)
    }

    fn with_features(features: u64) -> Result<Userfault, Errno> {
        let flags = (k::O_CLOEXEC | k::UFFD_USER_MODE_ONLY) as usize;
        // SAFETY: makes a descriptor and touches no memory.
        let fd = unsafe { syscall(k::__NR_userfaultfd, [flags, 0, 0, 0, 0, 0]) }?;
        let mut own = Userfault { fd, features };
        let mut api = k::uffdio_api { api: u64::from(k::UFFD_API), features, ioctls: 0 };
        // SAFETY: `api` is the struct that this call reads and writes.
        unsafe { own.call(UFFDIO_API, &mut api) }?;
        own.features = api.features;
        Ok(own)
    }

    /// Whether the kernel would give this process a descriptor that serves the faults of system calls
    /// too, by the call or by the device.
    pub(crate) fn may_serve_kernel() -> bool {
        let flags = k::O_CLOEXEC as usize;
        // SAFETY: makes a descriptor and touches no memory.
        let by_call = unsafe { syscall(k::__NR_userfaultfd, [flags, 0, 0, 0, 0, 0]) };
        let opened = by_call.or_else(|_| {
            let args = [k::AT_FDCWD as isize as usize, c"/dev/userfaultfd".as_ptr() as usize];
            let flags = (k::O_RDWR | k::O_CLOEXEC) as usize;
            // SAFETY: the path is a C string of static life.
            unsafe { syscall(k::__NR_openat, [args[0], args[1], flags, 0, 0, 0]) }
        });
        // Closes what was opened.
        opened.map(|fd| Userfault { fd, features: 0 }).is_ok()
    }

    /// Whether the descriptor has all these features.
    pub(crate) fn has(&self, features: u32) -> bool {
        self.features & u64::from(features) == u64::from(features)
    }

    /// Registers a range; one that is registered here already gains the new purpose.
    pub(crate) fn register(&self, addr: usize, len: usize, purpose: Purpose) -> Result<(), Errno> {
        let mode = match purpose {
            Purpose::Track => k::UFFDIO_REGISTER_MODE_WP,
            Purpose::Missing { track: false } => k::UFFDIO_REGISTER_MODE_MISSING,
            Purpose::Missing { track: true } => {
                k::UFFDIO_REGISTER_MODE_MISSING | k::UFFDIO_REGISTER_MODE_WP
            }
        };
        let mut arg =
            k::uffdio_register { range: range(addr, len), mode: u64::from(mode), ioctls: 0 };
        // SAFETY: `arg` is the struct of this call. Contents do not change; whether touching a page
        // of the range may become a signal is between the callers and their fault handler.
        unsafe { self.call(UFFDIO_REGISTER, &mut arg) }
    }

    /// Ends all purposes of a range. Pages of it that are missing read as zeros from here on.
    pub(crate) fn unregister(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the struct of this call; contents do not change.
        unsafe { self.call(UFFDIO_UNREGISTER, &mut range(addr, len)) }
    }

    /// Wakes threads that the kernel holds at faults in the range.
    pub(crate) fn wake(&self, addr: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: the struct of this call; contents do not change.
        unsafe { self.call(UFFDIO_WAKE, &mut range(addr, len)) }
    }

    /// Fills missing pages from `from`; answers how many bytes were done before the first failure,
    /// and that failure. `clean`: the tracker does not count them as written.
    ///
    /// # Safety
    ///
    /// - the bytes at `from` are readable, and `to` holds no guard: the kernel removes guards it meets
    pub(crate) unsafe fn copy(
        &self,
        to: usize,
        from: usize,
        len: usize,
        clean: bool,
    ) -> (usize, Result<(), Errno>) {
        let mode = if clean { u64::from(k::UFFDIO_COPY_MODE_WP) } else { 0 };
        let mut arg =
            k::uffdio_copy { dst: to as u64, src: from as u64, len: len as u64, mode, copy: 0 };
        // SAFETY: the struct of this call; it writes missing pages only, by the caller's promise.
        let done = unsafe { self.call(UFFDIO_COPY, &mut arg) };
        partial(done, arg.copy, len)
    }

    /// Makes missing pages zero; answers as [`Userfault::copy`] does.
    ///
    /// # Safety
    ///
    /// - the range holds no guard
    pub(crate) unsafe fn zero(&self, addr: usize, len: usize) -> (usize, Result<(), Errno>) {
        let mut arg = k::uffdio_zeropage { range: range(addr, len), mode: 0, zeropage: 0 };
        // SAFETY: the struct of this call; it fills missing pages only, by the caller's promise.
        let done = unsafe { self.call(UFFDIO_ZEROPAGE, &mut arg) };
        partial(done, arg.zeropage, len)
    }

    /// Moves pages from `from` to the missing pages at `to`; answers as [`Userfault::copy`] does.
    ///
    /// # Safety
    ///
    /// - nobody uses the pages at `from` any more, and `to` holds no guard
    pub(crate) unsafe fn move_pages(
        &self,
        to: usize,
        from: usize,
        len: usize,
    ) -> (usize, Result<(), Errno>) {
        let mut arg = k::uffdio_move {
            dst: to as u64,
            src: from as u64,
            len: len as u64,
            // Holes are refused: allowed, they would leave their pages missing without a word.
            mode: 0,
            move_: 0,
        };
        // SAFETY: the struct of this call; the source is given up by the caller's promise.
        let done = unsafe { self.call(UFFDIO_MOVE, &mut arg) };
        partial(done, arg.move_, len)
    }

    /// # Safety
    ///
    /// - `arg` is the struct of `request`, and what it asks for is sound
    unsafe fn call<T>(&self, request: usize, arg: &mut T) -> Result<(), Errno> {
        let args = [self.fd, request, arg as *mut T as usize, 0, 0, 0];
        // SAFETY: the caller's promise.
        unsafe { syscall(k::__NR_ioctl, args) }.map(drop)
    }
}

impl Drop for Userfault {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours; closing it ends all its registrations.
        let _ = unsafe { syscall(k::__NR_close, [self.fd, 0, 0, 0, 0, 0]) };
    }
}

fn range(addr: usize, len: usize) -> k::uffdio_range {
    k::uffdio_range { start: addr as u64, len: len as u64 }
}

/// The kernel writes the bytes done, or the error's negated number if none was, and answers EAGAIN
/// when it stopped in the middle (a page that is there already, or a mapping that changes meanwhile):
/// then the next attempt tells the reason.
fn partial(done: Result<(), Errno>, count: i64, len: usize) -> (usize, Result<(), Errno>) {
    match done {
        Ok(()) => (len, Ok(())),
        Err(EAGAIN) if count > 0 => (count as usize, Err(EAGAIN)),
        Err(errno) => (0, Err(errno)),
    }
}
