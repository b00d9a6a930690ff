//! What the kernel offers for memory: fault handling, write tracking, guards.
//!
//! Each is tried on a small mapping made for it and taken away again. Tracking and missing pages are
//! tried out by `iso`, which uses them. Absent: what the runtime makes of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use migrt_iso::missing::{self, MissingSupport};
use migrt_iso::track::{self, TrackSupport};

/// How far this process may handle page faults itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserFaults {
    /// All faults, those of system calls too.
    All,
    /// All faults, by way of `/dev/userfaultfd`.
    AllByDevice,
    /// The program's own faults only; a system call on a missing page fails.
    OwnOnly,
    /// None: the kernel's error number.
    Denied(i32),
}

/// How written pages are found while a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteTracking {
    /// The kernel notes them: a microsecond or two per first write.
    ByKernel,
    /// Each first write is a signal, some ten microseconds, and a system call that writes to a watched
    /// page fails unless prepared; why not better.
    ByFault(&'static str),
    /// Not at all; why not.
    None(&'static str),
}

/// What the kernel offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kernel {
    /// Its release, such as `6.18.44`.
    pub release: String,
    /// userfaultfd.
    pub user_faults: UserFaults,
    /// `vm.unprivileged_userfaultfd`.
    pub unprivileged_userfaultfd: Option<u64>,
    /// Feature bits that userfaultfd names; 0 if it is denied.
    pub userfault_features: u64,
    /// `PAGEMAP_SCAN` works.
    pub pagemap_scan: bool,
    /// How written pages are found, tried out by what moves use.
    pub write_tracking: WriteTracking,
    /// Why missing pages cannot be fetched when they are touched, if so.
    pub no_missing_pages: Option<&'static str>,
    /// `MADV_GUARD_INSTALL` works: guards cost no mapping.
    pub guard_install: bool,
    /// Bytes of stack that a signal needs at least.
    pub signal_stack_len: usize,
    /// The setting of transparent huge pages, such as `madvise`.
    pub huge_pages: Option<String>,
}

const FEATURE_MOVE: u64 = 1 << 16;

impl Kernel {
    /// Tries everything out.
    #[must_use]
    pub fn probe() -> Kernel {
        let (user_faults, userfault_features) = probe_userfaultfd();
        // SAFETY: reads the vector that the kernel gave to this process.
        let signal_stack_len = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        Kernel {
            release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            user_faults,
            unprivileged_userfaultfd: read("/proc/sys/vm/unprivileged_userfaultfd")
                .and_then(|text| text.parse().ok()),
            userfault_features,
            pagemap_scan: probe_pagemap_scan().is_ok(),
            write_tracking: match track::probe() {
                TrackSupport::Async => WriteTracking::ByKernel,
                TrackSupport::Sync(reason) => WriteTracking::ByFault(reason),
                TrackSupport::None(reason) => WriteTracking::None(reason),
                _ => WriteTracking::None("unknown"),
            },
            no_missing_pages: match missing::probe() {
                MissingSupport::Signals { .. } => None,
                MissingSupport::None(reason) => Some(reason),
                _ => Some("unknown"),
            },
            guard_install: probe_guard().unwrap_or(false),
            signal_stack_len,
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
        }
    }

    /// Pages can be moved to their place rather than copied.
    #[must_use]
    pub fn moves_pages(&self) -> bool {
        self.userfault_features & FEATURE_MOVE != 0
    }
}

/// A text file of the kernel, trimmed.
pub(super) fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn probe_userfaultfd() -> (UserFaults, u64) {
    const USER_MODE_ONLY: i32 = 1;
    let call = |flags: i32| {
        // SAFETY: makes a descriptor, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
        owned(fd as i32)
    };
    if let Ok(fd) = call(0) {
        return (UserFaults::All, userfault_features(&fd));
    }
    if let Ok(fd) = device_userfaultfd() {
        return (UserFaults::AllByDevice, userfault_features(&fd));
    }
    match call(USER_MODE_ONLY) {
        Ok(fd) => (UserFaults::OwnOnly, userfault_features(&fd)),
        Err(error) => (UserFaults::Denied(error.raw_os_error().unwrap_or(0)), 0),
    }
}

/// The device asks file permissions instead of the sysctl.
fn device_userfaultfd() -> io::Result<OwnedFd> {
    /// `_IO(0xaa, 0)`.
    const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
    let device = File::open("/dev/userfaultfd")?;
    // SAFETY: takes flags by value and makes a descriptor.
    owned(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC) })
}

/// The handshake: asked for no feature, the kernel names all it has.
fn userfault_features(fd: &OwnedFd) -> u64 {
    /// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
    const UFFDIO_API: u64 = 0xc018_aa3f;
    // api, features, ioctls.
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: the kernel reads and writes the three words of `api`.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) };
    if done == 0 { api[1] } else { 0 }
}

/// Scans one present page and wants to be told of it.
fn probe_pagemap_scan() -> io::Result<()> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`; the struct has twelve words.
    const PAGEMAP_SCAN: u64 = 0xc060_6610;
    const PRESENT: u64 = 1 << 3;
    let pagemap = File::open("/proc/self/pagemap")?;
    let page = Pages::new(1)?;
    // SAFETY: a page of our own.
    unsafe { page.at.cast::<u8>().write_volatile(1) };
    let start = page.at as u64;
    // start, end, categories.
    let mut found = [0_u64; 3];
    // size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, any-of, return.
    let vec = found.as_mut_ptr() as u64;
    let mut arg = [96, 0, start, start + Pages::LEN as u64, 0, vec, 1, 0, 0, PRESENT, 0, PRESENT];
    // SAFETY: `arg` has the size it says, and `found` has room for the one range.
    let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, arg.as_mut_ptr()) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    let told = count == 1 && found[..2] == [start, start + Pages::LEN as u64];
    if told { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Makes a guard and lets the kernel touch it for us: `write` from a guard is EFAULT, from a page
/// beside it it is not.
fn probe_guard() -> io::Result<bool> {
    const MADV_GUARD_INSTALL: i32 = 102;
    let pages = Pages::new(2)?;
    // SAFETY: the first of two pages of our own, which hold nothing.
    if unsafe { libc::madvise(pages.at, Pages::LEN, MADV_GUARD_INSTALL) } != 0 {
        return Ok(false);
    }
    let (_reader, writer) = io::pipe()?;
    let write = |offset: usize| {
        // SAFETY: one byte of our own mapping; the kernel checks the address itself.
        unsafe { libc::write(writer.as_raw_fd(), pages.at.byte_add(offset), 1) }
    };
    Ok(write(0) < 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
        && write(Pages::LEN) == 1)
}

/// A private mapping, gone on drop.
struct Pages {
    at: *mut libc::c_void,
    count: usize,
}

impl Pages {
    const LEN: usize = 4096;

    fn new(count: usize) -> io::Result<Pages> {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping where the kernel likes.
        let at = unsafe { libc::mmap(ptr::null_mut(), count * Pages::LEN, access, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { at, count })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.at, self.count * Pages::LEN) };
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_fits_together() {
        let kernel = Kernel::probe();
        assert!(kernel.release.starts_with(|c: char| c.is_ascii_digit()), "{kernel:?}");
        let denied = matches!(kernel.user_faults, UserFaults::Denied(_));
        assert_eq!(denied, kernel.userfault_features == 0, "{kernel:?}");
        let by_kernel = kernel.write_tracking == WriteTracking::ByKernel;
        assert!(kernel.pagemap_scan || !by_kernel, "{kernel:?}");
        assert!(!denied || (kernel.no_missing_pages.is_some() && !by_kernel), "{kernel:?}");
        assert!(kernel.signal_stack_len >= 2048 || kernel.signal_stack_len == 0, "{kernel:?}");
    }
}
