//! `pthread_create`, so that an OS thread that a mobile task starts pins the task while it runs.
//!
//! Such a thread uses the task's heap: its closure, its handle and its result lie there. So the count
//! goes down last, after the thread's destructors (`dtors` calls [`ended`]); and a task that has ended
//! keeps its slots until its `thread_pins` are 0, which whoever recycles slots has to see to.
//!
//! libc makes the thread on the worker's block: what it allocates for it (the vector of dynamic
//! modules) is kept with the cached stack after the thread, and must be node memory.

#![cfg(target_feature = "crt-static")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use super::prefix::{HeaderPrefix, on_worker};

type Routine = extern "C" fn(*mut c_void) -> *mut c_void;

struct Start {
    routine: Routine,
    arg: *mut c_void,
    owner: *mut HeaderPrefix,
}

thread_local! {
    /// The task that started this OS thread.
    static OWNER: Cell<*mut HeaderPrefix> = const { Cell::new(ptr::null_mut()) };
}

unsafe extern "C" {
    fn __pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        routine: Routine,
        arg: *mut c_void,
    ) -> c_int;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    routine: Routine,
    arg: *mut c_void,
) -> c_int {
    let owner = HeaderPrefix::current();
    if owner.is_null() {
        // SAFETY: the caller's arguments.
        return unsafe { __pthread_create(thread, attributes, routine, arg) };
    }
    // SAFETY: the running task's header.
    let pins = unsafe { &(*owner).thread_pins };
    // Before the thread exists, as it may end before the call returns.
    pins.fetch_add(1, Ordering::Relaxed);
    let code = on_worker(|| {
        // SAFETY: node memory, freed by the thread or below.
        let start: *mut Start = unsafe { libc::malloc(size_of::<Start>()) }.cast();
        if start.is_null() {
            return libc::EAGAIN;
        }
        // SAFETY: fresh memory of that size; then the caller's arguments.
        unsafe {
            start.write(Start { routine, arg, owner });
            let code = __pthread_create(thread, attributes, run, start.cast());
            if code != 0 {
                libc::free(start.cast());
            }
            code
        }
    });
    if code != 0 {
        pins.fetch_sub(1, Ordering::Relaxed);
    }
    code
}

extern "C" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: written by `pthread_create` above for this thread alone.
    let Start { routine, arg, owner } = unsafe { start.cast::<Start>().read() };
    // SAFETY: as above, and read.
    unsafe { libc::free(start) };
    OWNER.set(owner);
    routine(arg)
}

/// Says that the calling OS thread has run its destructors and ends.
pub(super) fn ended() {
    let owner = OWNER.replace(ptr::null_mut());
    if !owner.is_null() {
        // Release: all that the thread did with the task's heap is done before the pin goes; pairs
        // with the Acquire load of whoever moves the task or recycles its slots.
        // SAFETY: a pinned task is still there.
        unsafe { (*owner).thread_pins.fetch_sub(1, Ordering::Release) };
    }
}
