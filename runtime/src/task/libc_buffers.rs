//! libc's calls that have the kernel read or write a buffer, so that the buffer is here.
//!
//! A system call that meets a page which is still on its way gets EFAULT (`migrt_iso::missing`, rule
//! 1). So these definitions, which take precedence in a static program, touch the buffer's pages
//! before: each is fetched like any page that a task touches. As long as no task of this node lacks
//! pages that costs one load.
//!
//! Not seen: raw system calls (`syscall`, crates on rustix), `sendmsg` and its like, and libc's own
//! inner uses (`fread`, `fwrite` of more than the stream's buffer).

#![cfg(target_feature = "crt-static")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{iovec, off64_t, size_t, ssize_t};
use migrt_iso::{PAGE_LEN, in_region};

unsafe extern "C" {
    fn __libc_read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t;
    fn __libc_write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t;
    fn __libc_pread64(fd: c_int, buf: *mut c_void, len: size_t, at: off64_t) -> ssize_t;
    fn __libc_pwrite64(fd: c_int, buf: *const c_void, len: size_t, at: off64_t) -> ssize_t;
    fn __readv(fd: c_int, list: *const iovec, count: c_int) -> ssize_t;
    fn __writev(fd: c_int, list: *const iovec, count: c_int) -> ssize_t;
    fn __libc_send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    fn __libc_recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    fn __libc_sendto(
        fd: c_int,
        buf: *const c_void,
        len: size_t,
        flags: c_int,
        to: *const c_void,
        to_len: c_uint,
    ) -> ssize_t;
    fn __libc_recvfrom(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        flags: c_int,
        from: *mut c_void,
        from_len: *mut c_uint,
    ) -> ssize_t;
}

/// Ranges of this node in which pages may be missing.
static RANGES: AtomicUsize = AtomicUsize::new(0);

/// So many more ranges have missing pages.
pub(crate) fn ranges_added(count: usize) {
    RANGES.fetch_add(count, Ordering::SeqCst);
}

/// So many fewer have.
pub(crate) fn ranges_ended(count: usize) {
    RANGES.fetch_sub(count, Ordering::SeqCst);
}

/// Has the pages of a buffer brought here.
#[inline]
fn fetch(buf: *const c_void, len: size_t) {
    // Relaxed: the calling task's own ranges were added before it ran.
    if RANGES.load(Ordering::Relaxed) != 0 && in_region(buf as usize) {
        touch(buf as usize, len);
    }
}

#[cold]
#[inline(never)]
fn touch(addr: usize, len: usize) {
    let mut at = addr;
    while at < addr + len {
        // SAFETY: a byte of the caller's buffer.
        let _ = unsafe { (at as *const u8).read_volatile() };
        at = (at & !(PAGE_LEN - 1)) + PAGE_LEN;
    }
}

/// # Safety
///
/// `list` holds `count` buffers.
unsafe fn fetch_list(list: *const iovec, count: c_int) {
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let item = unsafe { list.add(at).read() };
        fetch(item.iov_base, item.iov_len);
    }
}

/// Defines C functions with a buffer, which is fetched before the call.
macro_rules! with_buffer {
    ($($name:ident($($arg:ident: $type:ty),*) = $call:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(fd: c_int, $($arg: $type),*) -> ssize_t {
            with_buffer!(@fetch $($arg)*);
            let call = $call;
            // SAFETY: the same call with the caller's arguments.
            unsafe { call(fd, $($arg),*) }
        }
    )*};
    (@fetch $buf:ident $len:ident $($rest:ident)*) => { fetch($buf.cast(), $len) };
}

with_buffer! {
    read(buf: *mut c_void, len: size_t) = __libc_read;
    write(buf: *const c_void, len: size_t) = __libc_write;
    pread(buf: *mut c_void, len: size_t, at: off64_t) = __libc_pread64;
    pread64(buf: *mut c_void, len: size_t, at: off64_t) = __libc_pread64;
    pwrite(buf: *const c_void, len: size_t, at: off64_t) = __libc_pwrite64;
    pwrite64(buf: *const c_void, len: size_t, at: off64_t) = __libc_pwrite64;
    send(buf: *const c_void, len: size_t, flags: c_int) = __libc_send;
    recv(buf: *mut c_void, len: size_t, flags: c_int) = __libc_recv;
    sendto(buf: *const c_void, len: size_t, flags: c_int, to: *const c_void, to_len: c_uint) = __libc_sendto;
    recvfrom(buf: *mut c_void, len: size_t, flags: c_int, from: *mut c_void, from_len: *mut c_uint) = __libc_recvfrom;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn readv(fd: c_int, list: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's arguments.
    unsafe { fetch_list(list, count) };
    // SAFETY: as above.
    unsafe { __readv(fd, list, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, list: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's arguments.
    unsafe { fetch_list(list, count) };
    // SAFETY: as above.
    unsafe { __writev(fd, list, count) }
}
