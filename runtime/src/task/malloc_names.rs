//! The sixteen names of libc's allocator, each a line or two over `router`.
//!
//! What they do is documented by C and POSIX; said here is only what differs. They have to be all
//! here: one that is left out and referenced links libc's `malloc.o`, which then clashes with the
//! rest. The first call comes before `main`, once thread-locals are set up.

#![cfg(target_feature = "crt-static")]

use std::ffi::{c_int, c_void};
use std::ptr;

use libmimalloc_sys as mi;

use super::prefix::on_worker;
use super::router::route::{self, ALIGN_MIN, set_errno};

const PAGE: usize = migrt_iso::PAGE_LEN;

#[unsafe(no_mangle)]
extern "C" fn malloc(len: usize) -> *mut c_void {
    route::alloc(len, ALIGN_MIN).cast()
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, len: usize) -> *mut c_void {
    match count.checked_mul(len) {
        Some(len) => route::alloc_zeroed(len).cast(),
        None => no_memory(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: C's promise is the one asked for.
    unsafe { route::free(block.cast()) };
}

/// A length of 0 frees, as in glibc.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(block: *mut c_void, len: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(len);
    }
    // SAFETY: C's promise is the one asked for.
    unsafe {
        if len == 0 {
            route::free(block.cast());
            return ptr::null_mut();
        }
        route::realloc(block.cast(), len).cast()
    }
}

/// An alignment that is no power of two is rounded up to one, as in glibc.
#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, len: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => route::alloc(len, align.max(ALIGN_MIN)).cast(),
        None => invalid(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, len: usize) -> *mut c_void {
    if align.is_power_of_two() { memalign(align, len) } else { invalid() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, len: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<usize>() {
        return libc::EINVAL;
    }
    // SAFETY: the caller's own errno, which this function must leave alone.
    let errno = unsafe { *libc::__errno_location() };
    let block = memalign(align, len);
    if block.is_null() {
        set_errno(errno);
        return libc::ENOMEM;
    }
    // SAFETY: C's promise.
    unsafe { place.write(block) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn valloc(len: usize) -> *mut c_void {
    memalign(PAGE, len)
}

#[unsafe(no_mangle)]
extern "C" fn pvalloc(len: usize) -> *mut c_void {
    match len.max(1).checked_next_multiple_of(PAGE) {
        Some(len) => memalign(PAGE, len),
        None => no_memory(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: C's promise.
    unsafe { route::usable_len(block.cast()) }
}

/// Gives free node memory back to the system. Says 1 ("some was"), which it cannot know.
#[unsafe(no_mangle)]
extern "C" fn malloc_trim(_keep: usize) -> c_int {
    // SAFETY: on the worker's block.
    on_worker(|| unsafe { mi::mi_collect(true) });
    1
}

/// glibc's tunables mean nothing here: says 0, "not set".
#[unsafe(no_mangle)]
extern "C" fn mallopt(_option: c_int, _value: c_int) -> c_int {
    0
}

/// This allocator keeps none of glibc's counts, so all of them are 0.
#[unsafe(no_mangle)]
extern "C" fn mallinfo() -> libc::mallinfo {
    // SAFETY: integers only.
    unsafe { std::mem::zeroed() }
}

/// As `mallinfo`.
#[unsafe(no_mangle)]
extern "C" fn mallinfo2() -> libc::mallinfo2 {
    // SAFETY: integers only.
    unsafe { std::mem::zeroed() }
}

/// Writes a document of the right form without any heaps in it.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_info(options: c_int, file: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    // SAFETY: C's promise: an open stream.
    match unsafe { libc::fputs(c"<malloc version=\"1\"></malloc>\n".as_ptr(), file) } {
        libc::EOF => -1,
        _ => 0,
    }
}

/// The node allocator's statistics, on stderr.
#[unsafe(no_mangle)]
extern "C" fn malloc_stats() {
    // SAFETY: on the worker's block; null is for stderr.
    on_worker(|| unsafe { mi::mi_stats_print(ptr::null_mut()) });
}

#[cold]
fn no_memory() -> *mut c_void {
    set_errno(libc::ENOMEM);
    ptr::null_mut()
}

#[cold]
fn invalid() -> *mut c_void {
    set_errno(libc::EINVAL);
    ptr::null_mut()
}
