//! Threads that sleep until pages come: those that touch a page that is not here and are no task.

use std::sync::atomic::{AtomicU32, Ordering};

/// Changes whenever pages have come, for threads that sleep.
static ARRIVALS: AtomicU32 = AtomicU32::new(0);

/// The number to sleep on, before a look at the page.
pub(crate) fn arrivals() -> u32 {
    ARRIVALS.load(Ordering::SeqCst)
}

/// Sleeps until pages come, or for a while.
pub(crate) fn sleep(seen: u32) {
    let patience = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    // SAFETY: a static word and a time; wakes at the latest after that.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            ARRIVALS.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            seen,
            &raw const patience,
        );
    }
}

/// Pages have come.
pub(super) fn wake() {
    ARRIVALS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: a static word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            ARRIVALS.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        );
    }
}
