//! libc's calls that change what the whole process shares: its environment, its shared libraries.
//!
//! `environ` belongs to the node and outlives every task. So a mobile task changes it as its worker:
//! on the worker's thread block, with the node's heap. What `putenv` is given it would keep; from a
//! task it keeps a copy. `dlopen` is refused in a mobile task: a static program's would bring a
//! second libc along, with thread-locals of its own on the worker's block (facts H3).
//!
//! All names but `putenv` are weak in libc; `putenv` is alone in its object, so none of these is
//! defined twice. Not seen: code that assigns to `environ` itself, `dlmopen`, and what libc loads
//! for its own use (iconv's modules, name services).

#![cfg(target_feature = "crt-static")]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use super::prefix::{HeaderPrefix, on_worker};

/// What `dlerror` says after a refused `dlopen`.
const NO_LIBRARIES: &CStr = c"dlopen was called in a mobile migrt task: a shared library would bring \
    a second libc, and stay on this node when the task moves; load it before the runtime starts, or \
    link it into the program";

unsafe extern "C" {
    fn __setenv(name: *const c_char, value: *const c_char, replace: c_int) -> c_int;
    fn __unsetenv(name: *const c_char) -> c_int;
    fn __clearenv() -> c_int;
    fn __add_to_environ(
        name: *const c_char,
        value: *const c_char,
        combined: *const c_char,
        replace: c_int,
    ) -> c_int;
    fn ___dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
    fn __dlerror() -> *mut c_char;
}

thread_local! {
    /// The last `dlopen` of this thread was refused and `dlerror` has not said so yet.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` as the worker, and gives the caller the errno that it leaves.
fn as_worker(f: impl FnOnce() -> c_int) -> c_int {
    let (code, errno) = on_worker(|| {
        let code = f();
        // SAFETY: the variable of the thread block that is in use here.
        (code, unsafe { *libc::__errno_location() })
    });
    if code != 0 {
        // SAFETY: the caller's own variable.
        unsafe { *libc::__errno_location() = errno };
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn setenv(name: *const c_char, value: *const c_char, replace: c_int) -> c_int {
    // SAFETY: the caller's arguments. libc keeps copies of both.
    as_worker(|| unsafe { __setenv(name, value, replace) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unsetenv(name: *const c_char) -> c_int {
    // SAFETY: the caller's argument.
    as_worker(|| unsafe { __unsetenv(name) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clearenv() -> c_int {
    // SAFETY: no arguments.
    as_worker(|| unsafe { __clearenv() })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn putenv(text: *mut c_char) -> c_int {
    let in_task = !HeaderPrefix::current().is_null();
    // SAFETY: the caller's C string, which outlives this call; from an OS thread it becomes part of
    // the environment, as the caller knows. The copies are node memory.
    as_worker(|| unsafe {
        let len = CStr::from_ptr(text).to_bytes().iter().position(|&byte| byte == b'=');
        let Some(len) = len else { return __unsetenv(text) };
        let name = libc::strndup(text, len);
        if name.is_null() {
            return -1;
        }
        let code = if in_task {
            __setenv(name, text.wrapping_add(len + 1), 1)
        } else {
            __add_to_environ(name, ptr::null(), text, 1)
        };
        libc::free(name.cast());
        code
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dlopen(path: *const c_char, mode: c_int) -> *mut c_void {
    if !HeaderPrefix::current().is_null() {
        REFUSED.set(true);
        return ptr::null_mut();
    }
    REFUSED.set(false);
    // SAFETY: the caller's arguments.
    unsafe { ___dlopen(path, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dlerror() -> *mut c_char {
    if REFUSED.replace(false) {
        return NO_LIBRARIES.as_ptr().cast_mut();
    }
    // SAFETY: no arguments.
    unsafe { __dlerror() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(name: &CStr) -> Option<String> {
        // SAFETY: C strings; nobody else in this test changes these names.
        unsafe {
            let value = libc::getenv(name.as_ptr());
            (!value.is_null()).then(|| CStr::from_ptr(value).to_str().unwrap().to_owned())
        }
    }

    #[test]
    fn on_an_os_thread_the_names_do_what_libc_does() {
        const CHILD: &str = "MIGRT_TEST_CHANGE_ENVIRONMENT";
        if std::env::var_os(CHILD).is_none() {
            // In a process of its own: other tests read the environment meanwhile.
            let path = concat!(module_path!(), "::on_an_os_thread_the_names_do_what_libc_does");
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([path.split_once("::").unwrap().1, "--exact"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(child.status.success(), "{child:?}");
            return;
        }
        let name = c"MIGRT_TEST_NAME";
        let mut kept = *b"MIGRT_TEST_NAME=kept\0";
        // SAFETY: C strings; `kept` lies here until it is unset; no other thread uses the environment.
        unsafe {
            assert_eq!(setenv(name.as_ptr(), c"one".as_ptr(), 1), 0);
            assert_eq!(setenv(name.as_ptr(), c"two".as_ptr(), 0), 0);
            assert_eq!(value_of(name).as_deref(), Some("one"));
            assert_eq!(putenv(kept.as_mut_ptr().cast()), 0);
            kept[kept.len() - 2] = b'!';
            std::hint::black_box(&kept);
            assert_eq!(value_of(name).as_deref(), Some("kep!"), "putenv keeps the caller's text");
            assert_eq!(putenv(name.as_ptr().cast_mut()), 0, "without a value it removes");
            assert_eq!(value_of(name), None);
            assert_eq!(setenv(c"A=B".as_ptr(), c"".as_ptr(), 1), -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(setenv(name.as_ptr(), c"three".as_ptr(), 1), 0);
            assert_eq!(unsetenv(name.as_ptr()), 0);
            assert_eq!(value_of(name), None);
            assert_eq!(clearenv(), 0);
            assert_eq!(value_of(c"MIGRT_TEST_CHANGE_ENVIRONMENT"), None);
        }
    }
}
