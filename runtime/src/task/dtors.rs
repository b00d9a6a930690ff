//! Destructors of thread-locals, for tasks and for OS threads alike.
//!
//! Rust and C++ register them with `__cxa_thread_atexit_impl`. glibc's keeps its list in node memory
//! with mangled pointers, which cannot move; this one takes its place in the static program. The list
//! hangs off a thread-local and its nodes come from `malloc`, so a task's list lies in the task's own
//! slots and travels with it.
//!
//! ```text
//!   LIST (in the block of the thread or task) ──► node ──► node ──► null      newest first
//! ```
//!
//! Who runs it: for a task, its last step, by [`run_destructors`]; for an OS thread, libc, which
//! calls `__call_tls_dtors` (a weak name that is ours too) when a thread ends and in `exit`.
//! In a program that is not static this module does nothing, and libc does its own work.

#[cfg(target_feature = "crt-static")]
pub use ours::run_destructors;

/// Runs the destructors of the calling task's thread-locals: nothing to do in such a program.
#[cfg(not(target_feature = "crt-static"))]
pub fn run_destructors() {}

#[cfg(target_feature = "crt-static")]
mod ours {
    use std::cell::Cell;
    use std::ffi::{c_int, c_void};
    use std::ptr;

    type Destructor = unsafe extern "C" fn(*mut c_void);

    struct Node {
        run: Destructor,
        object: *mut c_void,
        next: *mut Node,
    }

    thread_local! {
        // Without a destructor of its own, so that reaching it registers nothing.
        static LIST: Cell<*mut Node> = const { Cell::new(ptr::null_mut()) };
    }

    /// Runs the destructors registered by the calling task (or OS thread), the newest first, with
    /// those that they register meanwhile, and then those of its `pthread` keys.
    ///
    /// A task calls this as its last step, on its own stack and block.
    pub fn run_destructors() {
        run_list();
        // SAFETY: works on the calling thread's own block, which is whole. Keys come after the list,
        // as at the end of a libc thread.
        unsafe { __nptl_deallocate_tsd() };
    }

    #[cfg(test)]
    pub(super) fn is_empty() -> bool {
        LIST.get().is_null()
    }

    fn run_list() {
        loop {
            let node = LIST.get();
            if node.is_null() {
                return;
            }
            // SAFETY: nodes on the list are ours until they are popped, here.
            let Node { run, object, next } = unsafe { node.read() };
            LIST.set(next);
            // Before the call: a destructor may move the task, and must find the list whole.
            // SAFETY: made by `malloc` below and popped, so nobody else has it.
            unsafe { libc::free(node.cast()) };
            // SAFETY: registered with this argument, and called once.
            unsafe { run(object) };
        }
    }

    unsafe extern "C" {
        fn __nptl_deallocate_tsd();
    }

    /// The C++ ABI's registration of a thread-local's destructor. Never fails: aborts, as libc's.
    #[unsafe(no_mangle)]
    extern "C" fn __cxa_thread_atexit_impl(
        run: Destructor,
        object: *mut c_void,
        _dso: *mut c_void,
    ) -> c_int {
        // SAFETY: `malloc` may be called anywhere.
        let node: *mut Node = unsafe { libc::malloc(size_of::<Node>()) }.cast();
        if node.is_null() {
            // SAFETY: always.
            unsafe { libc::abort() };
        }
        // SAFETY: fresh memory of that size, aligned to 16.
        unsafe { node.write(Node { run, object, next: LIST.get() }) };
        LIST.set(node);
        0
    }

    /// Called by libc when an OS thread ends, and by `exit` on the thread that calls it.
    #[unsafe(no_mangle)]
    extern "C" fn __call_tls_dtors() {
        run_list();
        crate::task::libc_threads::ended();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU32, Ordering};

    static DROPPED: AtomicU32 = AtomicU32::new(0);

    struct Noisy(#[expect(dead_code, reason = "memory for its destructor to free")] String);
    impl Drop for Noisy {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }

    thread_local! {
        static NOISY: RefCell<Vec<Noisy>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn an_os_thread_runs_its_destructors_once() {
        DROPPED.store(0, Ordering::SeqCst);
        std::thread::spawn(|| NOISY.with_borrow_mut(|list| list.push(Noisy("one".to_owned()))))
            .join()
            .unwrap();
        assert_eq!(DROPPED.load(Ordering::SeqCst), 1);
    }

    #[test]
    #[cfg(target_feature = "crt-static")]
    fn the_registration_is_ours() {
        std::thread::spawn(|| {
            NOISY.with_borrow(Vec::len);
            assert!(!super::ours::is_empty(), "libc's own registration was called");
        })
        .join()
        .unwrap();
    }
}
