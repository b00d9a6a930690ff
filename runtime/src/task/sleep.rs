//! Waiting for a time.

use std::time::{Duration, Instant};

use super::current::wait_until;
use super::scrub;
use crate::exec::door;

/// Suspends the task for at least `duration`; other tasks run meanwhile. A mobile task may be moved
/// while it sleeps, and wakes where it is then. Outside a task it blocks the OS thread.
#[inline(always)]
pub fn sleep(duration: Duration) {
    scrub::below::<{ scrub::DEEP }>();
    sleep_for(duration);
}

#[inline(never)]
fn sleep_for(duration: Duration) {
    if std::thread::panicking() {
        // It blocks its worker (facts S3), which may be the only one that looks at the timers.
        return std::thread::sleep(duration);
    }
    // On the task's own clock, which does not jump when it moves (`task/libc_pins.rs`).
    let deadline = Instant::now() + duration;
    let mut left = Some(duration);
    while let Some(rest) = left {
        let mut registered = false;
        wait_until(|waker| {
            if registered {
                // Woken, by the timer or not: look at the task's clock.
                return Some(());
            }
            registered = true;
            // The node's clock and the task's differ, durations do not.
            let exec = door::exec();
            if exec.timers.add(Instant::now() + rest, waker.clone()) {
                exec.wake_one();
            }
            None
        });
        left = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero());
    }
}
