//! The lease: until when this node may run mobile tasks without hearing from node 0 again.
//!
//! A node that was paused or cut off for longer is taken for dead by the others, who report its
//! tasks lost; so it must have stopped them by then. It stops by ending the process. The lease is
//! looked at before each run of a mobile task, and at once when a stopped process is continued.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;

/// No lease is needed: this node is alone, or is node 0.
const NEVER: u64 = u64::MAX;

/// The time stamp at which the lease ends.
static UNTIL: AtomicU64 = AtomicU64::new(NEVER);

/// The lease ends in `left`; `None`: it does not.
pub(crate) fn set_lease(left: Option<Duration>) {
    let until = match left {
        None => NEVER,
        Some(left) => clock::ticks() + clock::ns_to_ticks(left.as_nanos() as u64),
    };
    UNTIL.store(until, Ordering::Relaxed);
}

/// Stops this process if its lease has ended.
#[inline]
pub(crate) fn check() {
    let until = UNTIL.load(Ordering::Relaxed);
    if until != NEVER && clock::ticks() > until {
        stop("its lease ended: it was paused, or cut off from node 0, for more than a second");
    }
}

/// Ends the process at once: no task of it runs any more.
#[cold]
pub(crate) fn stop(why: &str) -> ! {
    let node = crate::cluster::cluster().me();
    let text = format!(
        "migrt: node {node} stops: {why}; the others report the tasks that ran here as lost\n"
    );
    end(&text)
}

fn end(text: &str) -> ! {
    // SAFETY: writes our own bytes.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(EXIT_CODE) }
}

/// Exit code of a node that was fenced.
const EXIT_CODE: i32 = 3;

/// Has the lease looked at when the process is continued after a stop.
pub(crate) fn watch_continue() {
    extern "C" fn on_continue(_: i32) {
        let until = UNTIL.load(Ordering::Relaxed);
        if until != NEVER && clock::ticks() > until {
            end("migrt: this node stops: it was stopped for longer than its lease; \
                 the others report the tasks that ran here as lost\n");
        }
    }
    let handler: extern "C" fn(i32) = on_continue;
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler makes two system calls and touches one atomic.
    unsafe { libc::sigaction(libc::SIGCONT, &action, std::ptr::null_mut()) };
}
