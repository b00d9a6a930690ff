//! Which workers sleep, which search, and when a sleeper must be woken.
//!
//! The race: worker A finds no work and goes to sleep while thread B pushes work and looks for
//! sleepers. If B sees nobody asleep and A does not see the work, it is lost until the next push.
//!
//! The protocol: one packed word counts sleeping and searching workers.
//! B pushes, then reads the word by a read-modify-write; if nobody searches and somebody sleeps it
//! wakes one, who starts as *searching* (counted by B, so a second push does not wake another).
//! A announces its sleep in the word, then looks at all queues *once more*, and only then blocks;
//! a last searcher that stops searching also looks once more before it blocks.
//! Both sides use `SeqCst` read-modify-writes on one word between their two steps, so either B sees
//! A's announcement or A's second look sees B's work (checked in `tests/loom`).

use crate::sync::{AtomicUsize, Mutex, Ordering};

const SEARCHING_ONE: usize = 1;
const SLEEPING_ONE: usize = 1 << 16;
const COUNT: usize = 0xffff;

/// The packed word and the list of sleepers, most recent last.
#[derive(Debug)]
pub(crate) struct Idle {
    counts: AtomicUsize,
    sleepers: Mutex<Vec<usize>>,
    workers: usize,
}

impl Idle {
    pub(crate) fn new(workers: usize) -> Idle {
        Idle {
            counts: AtomicUsize::new(0),
            sleepers: Mutex::new(Vec::with_capacity(workers)),
            workers,
        }
    }

    /// A worker wants to search the others' queues; `false` when half of them already do.
    pub(crate) fn start_search(&self) -> bool {
        let searching = self.counts.load(Ordering::SeqCst) & COUNT;
        if 2 * searching >= self.workers.max(2) {
            return false;
        }
        self.counts.fetch_add(SEARCHING_ONE, Ordering::SeqCst);
        true
    }

    /// A searching worker has found work or gives up. `true`: it was the last searcher, and must
    /// wake another (if it found work) or look once more (if it gives up).
    pub(crate) fn stop_search(&self) -> bool {
        let before = self.counts.fetch_sub(SEARCHING_ONE, Ordering::SeqCst);
        debug_assert!(before & COUNT > 0);
        before & COUNT == 1
    }

    /// Worker `index` announces that it will block. It must look at all queues after this, and
    /// call [`Idle::cancel_sleep`] if it finds something.
    pub(crate) fn announce_sleep(&self, index: usize) {
        let mut sleepers = self.sleepers.lock().unwrap();
        sleepers.push(index);
        self.counts.fetch_add(SLEEPING_ONE, Ordering::SeqCst);
    }

    /// Takes back an announcement. `false`: somebody took this worker off the list meanwhile and
    /// has unparked it (or is about to), counted as searching.
    #[must_use]
    pub(crate) fn cancel_sleep(&self, index: usize) -> bool {
        let mut sleepers = self.sleepers.lock().unwrap();
        match sleepers.iter().position(|&s| s == index) {
            Some(at) => {
                sleepers.remove(at);
                self.counts.fetch_sub(SLEEPING_ONE, Ordering::SeqCst);
                true
            }
            None => false,
        }
    }

    /// Work that anybody may take was pushed: the worker to unpark, if one is needed. It is
    /// counted as searching from here on.
    #[must_use]
    pub(crate) fn worker_to_wake(&self) -> Option<usize> {
        // A read-modify-write, not a load: see the protocol above.
        let counts = self.counts.fetch_add(0, Ordering::SeqCst);
        if counts & COUNT != 0 || counts < SLEEPING_ONE {
            return None;
        }
        let mut sleepers = self.sleepers.lock().unwrap();
        if self.counts.load(Ordering::SeqCst) & COUNT != 0 {
            return None;
        }
        let index = sleepers.pop()?;
        self.counts.fetch_add(SEARCHING_ONE, Ordering::SeqCst);
        self.counts.fetch_sub(SLEEPING_ONE, Ordering::SeqCst);
        Some(index)
    }

    /// Work for worker `index` alone was pushed to its inbox: `true` if it slept and must be
    /// unparked. It is counted as searching from here on.
    #[must_use]
    pub(crate) fn wake_worker(&self, index: usize) -> bool {
        let counts = self.counts.fetch_add(0, Ordering::SeqCst);
        if counts < SLEEPING_ONE {
            return false;
        }
        let mut sleepers = self.sleepers.lock().unwrap();
        match sleepers.iter().position(|&s| s == index) {
            Some(at) => {
                sleepers.remove(at);
                self.counts.fetch_add(SEARCHING_ONE, Ordering::SeqCst);
                self.counts.fetch_sub(SLEEPING_ONE, Ordering::SeqCst);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_push_wakes_one_sleeper_and_a_second_push_none() {
        let idle = Idle::new(4);
        idle.announce_sleep(0);
        idle.announce_sleep(1);
        assert_eq!(idle.worker_to_wake(), Some(1));
        assert_eq!(idle.worker_to_wake(), None, "worker 1 searches");
        assert!(idle.stop_search());
        assert_eq!(idle.worker_to_wake(), Some(0));
    }

    #[test]
    fn a_push_to_an_inbox_wakes_its_owner_only() {
        let idle = Idle::new(2);
        assert!(!idle.wake_worker(0));
        idle.announce_sleep(0);
        assert!(!idle.wake_worker(1));
        assert!(idle.wake_worker(0));
        assert!(!idle.cancel_sleep(0));
    }
}
