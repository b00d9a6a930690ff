//! System calls by hand: they leave errno alone, call no hook of libc's names, and allocate nothing,
//! so they serve inside `malloc`, in signal handlers, and while all other threads are stopped.

use std::arch::asm;

/// One system call; a negative answer is an error's number.
///
/// # Safety
///
/// - the call with these arguments must be sound for the process
#[inline(always)]
pub(super) unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
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

/// Maps `len` bytes of zeros, readable and writable, without accounting.
pub(super) fn map(len: usize) -> Option<usize> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize;
    // SAFETY: a fresh mapping that replaces nothing.
    let at = unsafe { syscall(libc::SYS_mmap, [0, len, protection, flags, usize::MAX, 0]) };
    (at > 0).then_some(at as usize)
}

/// Unmaps what [`map`] has mapped and nobody uses.
pub(super) fn unmap(at: usize, len: usize) {
    // SAFETY: the caller owns the mapping; a failure leaves it, which is harmless.
    unsafe { syscall(libc::SYS_munmap, [at, len, 0, 0, 0, 0]) };
}
