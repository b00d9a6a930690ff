//! Promises: slots that a task will take at its first step, counted when it is spawned.
//!
//! So running out is noticed by whoever spawns, and a task that waits for a worker holds no slot. A
//! promise is a number, not a slot: what else takes slots meanwhile (heaps that grow, copies of pages)
//! may still have the last one, and then the first step finds none.
//!
//! With plenty of free slots a promise is one addition and two loads. When they are scarce it is
//! exact, under the pool's lock.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{CLASS_COUNT, SlotClass, SlotPool};

/// Per class what the quick way looks at. Relaxed throughout: numbers that guard no memory.
#[derive(Debug)]
pub(super) struct Counts {
    promised: [AtomicU32; CLASS_COUNT],
    free: [AtomicU32; CLASS_COUNT],
    owned: [AtomicU32; CLASS_COUNT],
}

impl Counts {
    pub(super) const fn new() -> Counts {
        Counts {
            promised: [const { AtomicU32::new(0) }; CLASS_COUNT],
            free: [const { AtomicU32::new(0) }; CLASS_COUNT],
            owned: [const { AtomicU32::new(0) }; CLASS_COUNT],
        }
    }

    /// The pool of the class has changed.
    pub(super) fn update(&self, class: SlotClass, free: u32, owned: u32) {
        let at = class.number() as usize;
        self.free[at].store(free, Ordering::Relaxed);
        self.owned[at].store(owned, Ordering::Relaxed);
    }

    /// Free slots are plenty above so many: a quarter of those owned is never handed out, in groups of
    /// up to 64.
    fn reserve(&self, at: usize) -> u32 {
        let owned = self.owned[at].load(Ordering::Relaxed);
        owned / 4 + owned / 16 + 64
    }
}

impl SlotPool {
    /// Promises a slot of `class` to a task that is about to be spawned; [`redeem`](Self::redeem)
    /// ends the promise. `false`, and nothing was promised: all free slots are spoken for.
    #[must_use]
    pub fn promise(&self, class: SlotClass) -> bool {
        let at = class.number() as usize;
        let promised = self.counts.promised[at].fetch_add(1, Ordering::Relaxed) + 1;
        if promised + self.counts.reserve(at) <= self.counts.free[at].load(Ordering::Relaxed) {
            return true;
        }
        self.promise_scarce(class)
    }

    #[cold]
    fn promise_scarce(&self, class: SlotClass) -> bool {
        let promised = &self.counts.promised[class.number() as usize];
        promised.fetch_sub(1, Ordering::Relaxed);
        let pool = self.lock(class);
        let usable = pool.usable_count();
        // Under the lock: of two who ask for the last one, one gets it.
        if promised.load(Ordering::Relaxed) < usable {
            promised.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// The task has its slot, or will never need it.
    pub fn redeem(&self, class: SlotClass) {
        self.counts.promised[class.number() as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether free slots of `class` are so few that caches should give theirs back.
    #[must_use]
    pub fn is_scarce(&self, class: SlotClass) -> bool {
        let at = class.number() as usize;
        let promised = self.counts.promised[at].load(Ordering::Relaxed);
        promised + self.counts.reserve(at) > self.counts.free[at].load(Ordering::Relaxed)
    }
}
