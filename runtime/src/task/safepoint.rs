//! Safepoints: one load and one branch where a running task can be asked for something.
//!
//! The word lies in the thread-locals, so a mobile task has one of its own at an address that
//! never changes, and polling needs no pointer at hand. Who wants something of a running task
//! writes to the task's copy, found by its distance from the thread pointer.

use std::sync::atomic::{AtomicU32, Ordering};

use super::coro::Suspend;
use super::header::Header;
use super::{current, scrub, tls};

thread_local! {
    static ASKED: AtomicU32 = const { AtomicU32::new(0) };
}

/// A place where a running mobile task can be moved, cancelled or counted.
///
/// Put one into a long loop that has no other: `#[migratable]` does so in the loops of the function
/// itself. Costs one load and one branch when nothing is asked. The task may go on on another node.
#[inline]
pub fn safepoint() {
    // Relaxed: a request that is seen late is seen at the next safepoint.
    if ASKED.with(|asked| asked.load(Ordering::Relaxed)) != 0 {
        scrub::below::<{ scrub::SHALLOW }>();
        answer();
    }
}

#[cold]
#[inline(never)]
fn answer() {
    let Some(header) = current::mobile() else { return };
    ASKED.with(|asked| asked.store(0, Ordering::Relaxed));
    if !std::thread::panicking() {
        header.suspend(Suspend::Move);
    }
}

/// How far the word lies from the thread pointer: the same in every thread of a static program.
fn distance() -> isize {
    ASKED.with(|asked| std::ptr::from_ref(asked) as isize) - tls::thread_pointer() as isize
}

/// Asks the task to come to its next safepoint.
pub(crate) fn ask(header: &Header) {
    word(header).store(1, Ordering::Relaxed);
}

/// Nothing is asked any more: the task has arrived somewhere.
pub(crate) fn clear(header: &Header) {
    word(header).store(0, Ordering::Relaxed);
}

fn word(header: &Header) -> &AtomicU32 {
    // SAFETY: the word lies in the task's TLS block, at the distance every thread has it, and
    // lives as long as the header.
    unsafe { &*header.tp().offset(distance()).cast::<AtomicU32>() }
}
