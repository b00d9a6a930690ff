//! System calls by hand, and mappings of the node's own, for code that may stand inside `malloc`, in a
//! signal handler, or while all other threads are stopped: they leave `errno` and thread-locals alone,
//! pass no hook of libc's names, and allocate nothing.

use crate::sys;

pub use crate::sys::raw_syscall as syscall;

/// Maps `len` bytes of zeros, readable and writable, without accounting, outside of the region.
/// `None`: no memory.
#[must_use]
pub fn map(len: usize) -> Option<usize> {
    sys::map_private(len).ok()
}

/// Unmaps what [`map`] has mapped; a failure leaves it, which is harmless.
///
/// # Safety
///
/// - nothing refers to the range any more
pub unsafe fn unmap(addr: usize, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { sys::unmap(addr, len) };
}
