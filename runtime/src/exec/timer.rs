//! Deadlines of tasks that sleep: one heap per node, looked at by workers between tasks.
//!
//! A worker that has work compares one atomic with the clock every few tasks; a worker that is
//! about to sleep sleeps until the earliest deadline at most. An entry is never removed early: a
//! task that was woken for another reason gets one spurious wake, which every wait expects.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::task::join::Waker;

const NONE: u64 = u64::MAX;

struct Entry {
    at_ns: u64,
    seq: u64,
    waker: Waker,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at_ns, self.seq) == (other.at_ns, other.seq)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at_ns, self.seq).cmp(&(other.at_ns, other.seq))
    }
}

/// See the module. Times are nanoseconds since the runtime started, on the node's clock.
pub(crate) struct Timers {
    start: Instant,
    earliest_ns: AtomicU64,
    heap: Mutex<(BinaryHeap<Reverse<Entry>>, u64)>,
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("earliest_ns", &self.earliest_ns).finish_non_exhaustive()
    }
}

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers {
            start: Instant::now(),
            earliest_ns: AtomicU64::new(NONE),
            heap: Mutex::new((BinaryHeap::new(), 0)),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Wakes `waker` at `deadline`. `true`: it is the earliest now, so a worker that sleeps must
    /// be woken to sleep for less.
    #[must_use]
    pub(crate) fn add(&self, deadline: Instant, waker: Waker) -> bool {
        let at_ns = deadline.saturating_duration_since(self.start).as_nanos() as u64;
        let mut heap = self.heap.lock().unwrap();
        let (entries, seq) = &mut *heap;
        *seq += 1;
        entries.push(Reverse(Entry { at_ns, seq: *seq, waker }));
        let earliest = entries.peek().map_or(NONE, |e| e.0.at_ns);
        // Release pairs with the acquire in `fire`; the mutex orders the heap itself.
        self.earliest_ns.swap(earliest, Ordering::AcqRel) > earliest
    }

    /// Wakes all whose deadline has passed; how many.
    pub(crate) fn fire(&self) -> usize {
        let earliest = self.earliest_ns.load(Ordering::Acquire);
        if earliest == NONE || self.now_ns() < earliest {
            return 0;
        }
        let now = self.now_ns();
        let mut due = Vec::new();
        {
            let mut heap = self.heap.lock().unwrap();
            let entries = &mut heap.0;
            while entries.peek().is_some_and(|e| e.0.at_ns <= now) {
                due.push(entries.pop().expect("peeked").0.waker);
            }
            let earliest = entries.peek().map_or(NONE, |e| e.0.at_ns);
            self.earliest_ns.store(earliest, Ordering::Release);
        }
        let count = due.len();
        due.into_iter().for_each(Waker::wake);
        count
    }

    /// How long a worker may sleep.
    pub(crate) fn until_next(&self) -> Option<Duration> {
        match self.earliest_ns.load(Ordering::Acquire) {
            NONE => None,
            at => Some(Duration::from_nanos(at.saturating_sub(self.now_ns()))),
        }
    }

    /// Forgets all entries (shutdown).
    pub(crate) fn clear(&self) {
        let taken = std::mem::take(&mut self.heap.lock().unwrap().0);
        self.earliest_ns.store(NONE, Ordering::Release);
        drop(taken);
    }
}
