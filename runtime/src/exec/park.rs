//! Blocking one worker thread until it is unparked: a futex word, no spurious returns lost.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;

const EMPTY: u32 = 0;
const TOKEN: u32 = 1;
const PARKED: u32 = 2;

/// A token that one thread waits for and any thread hands over.
#[derive(Debug, Default)]
pub(crate) struct Parker(AtomicU32);

impl Parker {
    /// Blocks until there is a token (and takes it) or `timeout` has passed.
    pub(crate) fn park(&self, timeout: Option<Duration>) {
        // Acquire pairs with the release in `unpark`.
        if self.0.compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire).is_err() {
            self.0.store(EMPTY, Ordering::Release);
            return;
        }
        let timespec = timeout.map(|t| futex::Timespec {
            tv_sec: t.as_secs().min(1 << 30) as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        // An interrupted or timed-out wait ends the park: the worker looks around and comes back.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, PARKED, timespec.as_ref());
        self.0.swap(EMPTY, Ordering::AcqRel);
    }

    /// Hands over the token; wakes the thread if it sleeps.
    pub(crate) fn unpark(&self) {
        if self.0.swap(TOKEN, Ordering::AcqRel) == PARKED {
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
        }
    }
}
