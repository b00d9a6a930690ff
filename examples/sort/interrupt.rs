//! Ctrl-C, SIGTERM and SIGHUP end the sort in order: a flag that the program looks at, so that
//! temporary files are removed on this way out too.
//!
//! The handler runs on whatever stack the signal finds, a task's perhaps, so it touches nothing but
//! the flag. A write beyond a file size limit (SIGXFSZ) becomes an ordinary error.

use std::sync::atomic::{AtomicI32, Ordering};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Catches the signals from now on.
pub fn catch() {
    let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        set(signal, handler);
    }
    set(libc::SIGXFSZ, libc::SIG_IGN);
}

/// The signal that asked for the end, if one did.
pub fn signal() -> Option<i32> {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}

/// # Errors
/// A signal has asked for the end; the text says which.
pub fn check() -> Result<(), String> {
    let name = match signal() {
        None => return Ok(()),
        Some(libc::SIGINT) => "Ctrl-C".to_owned(),
        Some(libc::SIGTERM) => "SIGTERM".to_owned(),
        Some(signal) => format!("signal {signal}"),
    };
    Err(format!("ended by {name}: temporary files are removed, the output is as it was"))
}

extern "C" fn note(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

fn set(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: an all-zero sigaction is a valid one: no flags, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler only stores to an atomic, which is allowed in any signal handler.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0, "these signals can be caught");
}
