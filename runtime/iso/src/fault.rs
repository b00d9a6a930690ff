//! Faults that come late: a thread touches a page, and before its signal handler runs, whatever made
//! the page fault is over. The access is fine by then and has to be tried again; but a touch of a
//! guard or of nothing at the same place must not be tried for ever.
//!
//! [`Late`] remembers the ranges that ended last and grants each address a number of tries in a row.
//! All of it is atomics, so signal handlers may ask; two threads that disturb each other's counts cost
//! a few tries more.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

/// How many ranges are remembered.
const ENDED_MAX: usize = 64;
/// How often in a row one address is tried again.
pub(crate) const TRIES_MAX: u32 = 1000;

/// An address that is kept for longer than what lies there. Its bits are inverted: it must not look like
/// a reference to whoever searches this process for those.
#[derive(Debug)]
pub(crate) struct Hidden(AtomicUsize);

impl Hidden {
    pub(crate) const fn new(addr: usize) -> Hidden {
        Hidden(AtomicUsize::new(!addr))
    }

    pub(crate) fn load(&self) -> usize {
        !self.0.load(SeqCst)
    }

    pub(crate) fn store(&self, addr: usize) {
        self.0.store(!addr, SeqCst);
    }

    pub(crate) fn swap(&self, addr: usize) -> usize {
        !self.0.swap(!addr, SeqCst)
    }

    /// Whether it was `from`, and is `to` now.
    pub(crate) fn replace(&self, from: usize, to: usize) -> bool {
        self.0.compare_exchange(!from, !to, SeqCst, SeqCst).is_ok()
    }
}

/// Ranges in which faults have ended, and tries.
#[derive(Debug)]
pub(crate) struct Late {
    /// Start and end of each; a ring.
    ended: [(Hidden, Hidden); ENDED_MAX],
    next: AtomicUsize,
    addr: Hidden,
    tries: AtomicU32,
}

impl Late {
    pub(crate) const fn new() -> Late {
        Late {
            ended: [const { (Hidden::new(0), Hidden::new(0)) }; ENDED_MAX],
            next: AtomicUsize::new(0),
            addr: Hidden::new(0),
            tries: AtomicU32::new(0),
        }
    }

    /// To be told before the range stops to be known otherwise.
    pub(crate) fn ended(&self, addr: usize, len: usize) {
        let (start, end) = &self.ended[self.next.fetch_add(1, SeqCst) % ENDED_MAX];
        // Empty while it changes: a reader finds the old range, the new one, or none.
        end.store(0);
        start.store(addr);
        end.store(addr + len);
    }

    /// Whether a fault at `addr` may come from a range that has ended; counts as a try.
    pub(crate) fn is_late(&self, addr: usize) -> bool {
        let holds = |(start, end): &(Hidden, Hidden)| start.load() <= addr && addr < end.load();
        self.ended.iter().any(holds) && self.try_again(addr)
    }

    /// Counts a try at `addr`; false when it has had enough in a row.
    pub(crate) fn try_again(&self, addr: usize) -> bool {
        // Relaxed: a count that only has to end some time.
        if self.addr.swap(addr) != addr {
            self.tries.store(0, Relaxed);
        }
        self.tries.fetch_add(1, Relaxed) < TRIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_faults_are_tried_again_but_not_for_ever() {
        let late = Late::new();
        late.ended(4096, 4096);
        assert!(!late.is_late(4095) && !late.is_late(8192));
        assert_eq!((0..5000).filter(|_| late.is_late(5000)).count(), TRIES_MAX as usize);
        assert!(late.is_late(5001) && late.is_late(5000), "another address begins anew");
        (0..ENDED_MAX).for_each(|_| late.ended(65536, 4096));
        assert!(!late.is_late(5000), "forgotten");
    }
}
