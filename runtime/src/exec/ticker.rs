//! The ticker: a thread that looks every few milliseconds whether a worker has been in one mobile
//! task since the last look, and asks that task to come to its next safepoint.
//!
//! A worker that runs a task cannot serve its timers, its inbox, or the started local tasks that only
//! it may run (`main` may be one). A task that computes for long and passes safepoints gives way this
//! way; one that passes none is not interrupted.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use super::queue::Exec;
use crate::task::header::Header;
use crate::task::safepoint;

/// Time between two looks: a task runs for at least as long when others wait.
const PERIOD: Duration = Duration::from_millis(4);

/// What a worker runs, for the ticker to see.
#[derive(Debug, Default)]
pub(crate) struct Running {
    header: AtomicPtr<Header>,
    /// Counts the runs, so that two of one task are told apart.
    run: AtomicU32,
}

impl Running {
    /// The worker switches to a mobile task.
    #[inline]
    pub(crate) fn begin(&self, header: &Header) {
        // Only this worker writes; Relaxed: whoever sees an old value asks in vain.
        self.run.store(self.run.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.header.store(std::ptr::from_ref(header).cast_mut(), Ordering::Relaxed);
    }

    /// The worker is back.
    #[inline]
    pub(crate) fn end(&self) {
        self.header.store(std::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Asks the task that runs now, if there is one, to come to a safepoint.
    ///
    /// It may have ended or left at this moment. Then a word of a slot's thread-locals is set that
    /// the next task there finds set (one needless suspension), or that an arriving task brings along
    /// anew: slots stay mapped, so the store itself is harmless.
    ///
    /// Out of line: its caller sleeps, and keeps no task's address in a register meanwhile.
    #[inline(never)]
    pub(crate) fn ask(&self) {
        let header = self.header.load(Ordering::Relaxed);
        if !header.is_null() {
            // SAFETY: header addresses stay mapped; only an atomic word found by address is set.
            safepoint::ask(unsafe { &*header });
        }
    }
}

/// Periods after which spares run tasks whose faults are over.
const SPARES_AFTER: u32 = 1;
/// Those that there are have taken none of them: they wait themselves, for what such a task holds.
const MORE_AFTER: u32 = 3;

/// Runs until the executor stops.
pub(crate) fn run(exec: &'static Exec) {
    let mut seen = vec![0; exec.shared.len()];
    let worker_count = exec.active.load(Ordering::Acquire);
    let mut waited = 0;
    while !exec.stop.load(Ordering::Acquire) {
        std::thread::sleep(PERIOD);
        exec.timers.fire();
        crate::task::retire::wake();
        crate::task::parcel::sweep();
        crate::migrate::fault::tick();
        waited = if exec.woken.is_empty() { 0 } else { waited + 1 };
        if waited > SPARES_AFTER {
            exec.wake_spares(worker_count);
        }
        if waited > MORE_AFTER && exec.start_spare() {
            waited = SPARES_AFTER;
        }
        for (shared, seen) in exec.shared.iter().zip(&mut seen) {
            let run = shared.running.run.load(Ordering::Relaxed);
            if std::mem::replace(seen, run) == run {
                shared.running.ask();
            }
        }
    }
}
