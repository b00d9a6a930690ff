//! Answers a task's question for its own stack: `pthread_getattr_np`, in place of libc's.
//!
//! Parsers and other deep recursions ask for the bounds of their stack, and refuse or switch stacks
//! when the answer is some other stack's. libc reads them from the thread's block, which for a task
//! is right, but then asks the kernel for the CPU set of the block's thread id, which no thread has:
//! the call fails. So a task is answered here, with the CPU set of the OS thread below it left out.

#![cfg(target_feature = "crt-static")]

use std::ffi::{c_int, c_void};

use super::tls::{get, offset, thread_pointer};

/// As POSIX systems have it. For a task: the bounds of its stack, joinable, no guard.
///
/// # Safety
///
/// As for libc's: `thread` is a live thread, `attributes` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_getattr_np(
    thread: *mut u8,
    attributes: *mut libc::pthread_attr_t,
) -> c_int {
    if thread != thread_pointer() || !migrt_iso::in_region(thread as usize) {
        // SAFETY: the caller's promise.
        return unsafe { __pthread_getattr_np(thread, attributes) };
    }
    // SAFETY: the caller's own block, made by `init_block`; `attributes` by the caller's promise.
    unsafe {
        let low: *mut c_void = get(thread, offset::STACK_BLOCK);
        let len: usize = get(thread, offset::STACK_BLOCK_LEN);
        match libc::pthread_attr_init(attributes) {
            0 => libc::pthread_attr_setstack(attributes, low, len),
            code => code,
        }
    }
}

unsafe extern "C" {
    fn __pthread_getattr_np(thread: *mut u8, attributes: *mut libc::pthread_attr_t) -> c_int;
}
