//! libc's calls that open and close descriptors, so that those of a mobile task pin it.
//!
//! std's `File` and sockets and the sockets and streams of C libraries belong to a node. They come
//! through these names, which are weak in libc (or alone in their object), so the definitions here
//! take precedence in a static program. Each does the call and tells `fd_table`.
//!
//! Not seen: raw system calls (crates on rustix, `syscall`), descriptors that arrive in a message
//! (`SCM_RIGHTS`), and libc's own inner uses, which close what they open (`getaddrinfo`).

#![cfg(target_feature = "crt-static")]

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

use super::fd_table::{note_close, note_close_range, note_open};

unsafe extern "C" {
    fn __open64(path: *const c_char, flags: c_int, ...) -> c_int;
    fn __openat64(dir: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    fn __close(fd: c_int) -> c_int;
    fn __dup(fd: c_int) -> c_int;
    fn __dup2(from: c_int, to: c_int) -> c_int;
    fn __dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    fn __libc_fcntl64(fd: c_int, command: c_int, ...) -> c_int;
    fn __pipe(ends: *mut [c_int; 2]) -> c_int;
    fn __pipe2(ends: *mut [c_int; 2], flags: c_int) -> c_int;
    fn __socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn __socketpair(domain: c_int, kind: c_int, protocol: c_int, ends: *mut [c_int; 2]) -> c_int;
    fn __libc_accept(fd: c_int, address: *mut c_void, len: *mut c_void) -> c_int;
    fn _IO_new_fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE;
    fn _IO_new_fclose(file: *mut libc::FILE) -> c_int;
    fn __opendir(path: *const c_char) -> *mut libc::DIR;
    fn __closedir(dir: *mut libc::DIR) -> c_int;
    fn __close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn __closefrom(first: c_int);
}

/// Defines C functions that return a new descriptor.
macro_rules! opening {
    ($($name:ident($($arg:ident: $type:ty),*) = $call:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            // SAFETY: the same call with the caller's arguments. Where C has optional arguments, the
            // registers that would hold them are read and handed on.
            note_open(unsafe { $call })
        }
    )*};
}

opening! {
    open(path: *const c_char, flags: c_int, mode: c_uint) = __open64(path, flags, mode);
    open64(path: *const c_char, flags: c_int, mode: c_uint) = __open64(path, flags, mode);
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) = __openat64(dir, path, flags, mode);
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) = __openat64(dir, path, flags, mode);
    creat(path: *const c_char, mode: c_uint) = __open64(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, mode);
    creat64(path: *const c_char, mode: c_uint) = __open64(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, mode);
    socket(domain: c_int, kind: c_int, protocol: c_int) = __socket(domain, kind, protocol);
    accept(fd: c_int, address: *mut c_void, len: *mut c_void) = __libc_accept(fd, address, len);
    accept4(fd: c_int, address: *mut c_void, len: *mut c_void, flags: c_int) = kernel(libc::SYS_accept4, [fd.into(), address as c_long, len as c_long, flags.into()]);
    dup(fd: c_int) = __dup(fd);
    epoll_create(len: c_int) = kernel(libc::SYS_epoll_create, [len.into(), 0, 0, 0]);
    epoll_create1(flags: c_int) = kernel(libc::SYS_epoll_create1, [flags.into(), 0, 0, 0]);
    eventfd(start: c_uint, flags: c_int) = kernel(libc::SYS_eventfd2, [start.into(), flags.into(), 0, 0]);
    memfd_create(name: *const c_char, flags: c_uint) = kernel(libc::SYS_memfd_create, [name as c_long, flags.into(), 0, 0]);
    timerfd_create(clock: c_int, flags: c_int) = kernel(libc::SYS_timerfd_create, [clock.into(), flags.into(), 0, 0]);
    inotify_init() = kernel(libc::SYS_inotify_init1, [0; 4]);
    inotify_init1(flags: c_int) = kernel(libc::SYS_inotify_init1, [flags.into(), 0, 0, 0]);
    pidfd_open(pid: c_int, flags: c_uint) = kernel(libc::SYS_pidfd_open, [pid.into(), flags.into(), 0, 0]);
}

/// A system call that libc has no second name for. Sets errno.
///
/// # Safety
///
/// As for the call.
unsafe fn kernel(number: c_long, args: [c_long; 4]) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) as c_int }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn signalfd(fd: c_int, mask: *const c_void, flags: c_int) -> c_int {
    const KERNEL_MASK_LEN: c_long = 8;
    // SAFETY: the caller's arguments.
    let made = unsafe {
        kernel(libc::SYS_signalfd4, [fd.into(), mask as c_long, KERNEL_MASK_LEN, flags.into()])
    };
    // With a descriptor given, it is changed, and no new one made.
    if fd == -1 { note_open(made) } else { made }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl(fd: c_int, command: c_int, arg: c_long) -> c_int {
    // SAFETY: the caller's arguments; a missing third is handed on as it is.
    let result = unsafe { __libc_fcntl64(fd, command, arg) };
    let duplicates = matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
    if duplicates { note_open(result) } else { result }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, arg: c_long) -> c_int {
    // SAFETY: the same function.
    unsafe { fcntl(fd, command, arg) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    let made = unsafe { __dup2(from, to) };
    // What `to` was before is closed by it; `note_open` puts the new owner in the old one's place.
    if from == to { made } else { note_open(made) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    note_open(unsafe { __dup3(from, to, flags) })
}

/// Counts both ends if the call went well.
///
/// # Safety
///
/// After 0, `ends` holds two descriptors.
unsafe fn both(code: c_int, ends: *const [c_int; 2]) -> c_int {
    if code == 0 {
        // SAFETY: the caller's promise.
        for fd in unsafe { *ends } {
            note_open(fd);
        }
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pipe(ends: *mut [c_int; 2]) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { both(__pipe(ends), ends) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pipe2(ends: *mut [c_int; 2], flags: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { both(__pipe2(ends, flags), ends) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn socketpair(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    ends: *mut [c_int; 2],
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { both(__socketpair(domain, kind, protocol, ends), ends) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    note_close(fd);
    // SAFETY: the caller's argument.
    unsafe { __close(fd) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // CLOSE_RANGE_CLOEXEC only marks them.
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 {
        note_close_range(first, last);
    }
    // SAFETY: the caller's arguments.
    unsafe { __close_range(first, last, flags) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn closefrom(first: c_int) {
    note_close_range(first.max(0) as c_uint, c_uint::MAX);
    // SAFETY: the caller's argument.
    unsafe { __closefrom(first) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: the caller's arguments; libc's stream has a descriptor.
    unsafe {
        let file = _IO_new_fopen(path, mode);
        if !file.is_null() {
            note_open(libc::fileno(file));
        }
        file
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fopen64(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: the same function.
    unsafe { fopen(path, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fclose(file: *mut libc::FILE) -> c_int {
    // SAFETY: the caller's open stream. A stream on memory has no descriptor: -1, and errno kept.
    unsafe {
        let errno = *libc::__errno_location();
        note_close(libc::fileno(file));
        *libc::__errno_location() = errno;
        _IO_new_fclose(file)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn opendir(path: *const c_char) -> *mut libc::DIR {
    // SAFETY: the caller's argument.
    unsafe {
        let dir = __opendir(path);
        if !dir.is_null() {
            note_open(libc::dirfd(dir));
        }
        dir
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn closedir(dir: *mut libc::DIR) -> c_int {
    // SAFETY: the caller's open directory; null is refused by libc.
    unsafe {
        if !dir.is_null() {
            note_close(libc::dirfd(dir));
        }
        __closedir(dir)
    }
}
