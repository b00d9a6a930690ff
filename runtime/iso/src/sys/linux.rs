//! The memory calls of Linux on x86-64.

use core::arch::asm;

use linux_raw_sys::errno;
use linux_raw_sys::general as k;

use super::Errno;

pub(crate) const EINVAL: Errno = errno::EINVAL as Errno;
pub(crate) const EEXIST: Errno = errno::EEXIST as Errno;
pub(crate) const EAGAIN: Errno = errno::EAGAIN as Errno;
pub(crate) const EINTR: Errno = errno::EINTR as Errno;
pub(crate) const ENOENT: Errno = errno::ENOENT as Errno;
pub(crate) const ENOMEM: Errno = errno::ENOMEM as Errno;
pub(crate) const ENOSYS: Errno = errno::ENOSYS as Errno;
pub(crate) const EBUSY: Errno = errno::EBUSY as Errno;
pub(crate) const ENOSPC: Errno = errno::ENOSPC as Errno;
pub(crate) const EPERM: Errno = errno::EPERM as Errno;

/// One system call; a negative answer is an error's number.
///
/// # Safety
///
/// - the call with these arguments must be sound for the process
#[inline(always)]
pub unsafe fn raw_syscall(number: i64, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86-64 call convention of Linux: number in rax, six arguments, rcx and r11 lost.
    // What the call does is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// One system call; an error's number apart.
///
/// # Safety
///
/// - the call with these arguments must be sound for the process
#[inline]
pub(super) unsafe fn syscall(number: u32, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let result = unsafe { raw_syscall(i64::from(number), args) };
    if (-4095..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

/// Reserves exactly `addr..addr + len`, readable and writable, without accounting; fails with
/// `EEXIST` if anything lies there.
pub(crate) fn reserve(addr: usize, len: usize) -> Result<(), Errno> {
    let flags = k::MAP_PRIVATE | k::MAP_ANONYMOUS | k::MAP_NORESERVE | k::MAP_FIXED_NOREPLACE;
    let got = map(addr, len, flags)?;
    if got == addr {
        return Ok(());
    }
    // A kernel before 4.17 takes the address as a hint only.
    // SAFETY: the mapping was made a moment ago and nobody knows of it.
    unsafe { unmap(got, len) };
    Err(EEXIST)
}

/// Maps `len` bytes of zeros somewhere; memory comes at first touch.
pub(crate) fn map_private(len: usize) -> Result<usize, Errno> {
    map(0, len, k::MAP_PRIVATE | k::MAP_ANONYMOUS | k::MAP_NORESERVE)
}

fn map(addr: usize, len: usize, flags: u32) -> Result<usize, Errno> {
    let prot = k::PROT_READ | k::PROT_WRITE;
    // SAFETY: a fresh private mapping that replaces nothing (no MAP_FIXED).
    unsafe { syscall(k::__NR_mmap, [addr, len, prot as usize, flags as usize, usize::MAX, 0]) }
}

/// # Safety
///
/// - nothing refers to the range any more
pub(crate) unsafe fn unmap(addr: usize, len: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { syscall(k::__NR_munmap, [addr, len, 0, 0, 0, 0]) };
}

/// # Safety
///
/// - the advice must be sound for whoever uses the range
unsafe fn advise(addr: usize, len: usize, advice: u32) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(k::__NR_madvise, [addr, len, advice as usize, 0, 0, 0]) }.map(drop)
}

/// Drops the pages of the range; they read as zeros again. Guards stay.
///
/// # Safety
///
/// - the bytes of the range are dead, nobody touches it meanwhile
pub(crate) unsafe fn discard(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { advise(addr, len, k::MADV_DONTNEED) }
}

/// Makes every touch of the range a SIGSEGV and drops its pages, without splitting the mapping.
///
/// # Safety
///
/// - the bytes of the range are dead
pub(crate) unsafe fn guard_install(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { advise(addr, len, k::MADV_GUARD_INSTALL) }
}

/// Takes guards away; ordinary pages in the range stay as they are.
pub(crate) fn guard_remove(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: only makes more of the address space readable.
    unsafe { advise(addr, len, k::MADV_GUARD_REMOVE) }
}

/// Makes all pages of the range present and writable at once.
pub(crate) fn populate_write(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: contents do not change.
    unsafe { advise(addr, len, k::MADV_POPULATE_WRITE) }
}

/// Has whole huge pages come where they fit.
pub(crate) fn huge_pages(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: contents do not change.
    unsafe { advise(addr, len, k::MADV_HUGEPAGE) }
}

/// Keeps huge pages out of the range.
pub(crate) fn no_huge_pages(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: contents do not change.
    unsafe { advise(addr, len, k::MADV_NOHUGEPAGE) }
}

/// Makes every touch of the range a SIGSEGV by protection.
///
/// # Safety
///
/// - nobody relies on access to the range
pub(crate) unsafe fn forbid(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(k::__NR_mprotect, [addr, len, k::PROT_NONE as usize, 0, 0, 0]) }.map(drop)
}

/// Makes every write to the range a SIGSEGV.
///
/// # Safety
///
/// - whoever writes to the range is let in by the handler of that signal
pub(crate) unsafe fn forbid_write(addr: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(k::__NR_mprotect, [addr, len, k::PROT_READ as usize, 0, 0, 0]) }.map(drop)
}

/// Makes the range readable and writable again.
///
/// # Safety
///
/// - nobody relies on the protection of the range
pub(crate) unsafe fn permit(addr: usize, len: usize) -> Result<(), Errno> {
    let prot = (k::PROT_READ | k::PROT_WRITE) as usize;
    // SAFETY: the caller's promise.
    unsafe { syscall(k::__NR_mprotect, [addr, len, prot, 0, 0, 0]) }.map(drop)
}

/// Writes to a byte what it holds, whoever else writes to it. By hand, since the compiler makes a
/// plain load of adding zero, and a load makes no page.
///
/// # Safety
///
/// - the byte is mapped and writable
pub(crate) unsafe fn touch(addr: usize) {
    // SAFETY: an atomic write of the byte's own value, by the caller's promise.
    unsafe { asm!("lock or byte ptr [{}], 0", in(reg) addr, options(nostack)) };
}

/// Lets other threads run.
pub(crate) fn yield_now() {
    // SAFETY: takes nothing and changes nothing.
    let _ = unsafe { syscall(k::__NR_sched_yield, [0; 6]) };
}

/// Says on standard error what is wrong with `addr`, then ends the process. Allocates nothing: it is
/// called from inside `free`.
#[cold]
#[inline(never)]
pub(crate) fn abort_with(what: &str, addr: usize) -> ! {
    let mut line = [0u8; 256];
    let mut len = 0;
    let mut push = |bytes: &[u8]| {
        let take = bytes.len().min(line.len() - len);
        line[len..len + take].copy_from_slice(&bytes[..take]);
        len += take;
    };
    push(b"migrt: ");
    push(what.as_bytes());
    push(b" (address 0x");
    let digits = (usize::BITS - addr.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        push(&[b"0123456789abcdef"[(addr >> (digit * 4)) & 15]]);
    }
    push(b"): memory may be wrong, the process stops here\n");
    // SAFETY: writes a buffer of our own to a descriptor.
    let _ = unsafe { syscall(k::__NR_write, [2, line.as_ptr() as usize, len, 0, 0, 0]) };
    std::process::abort()
}

/// The kernel's error number in words.
pub(crate) fn describe(errno: Errno) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
