//! A slot that a spawned task will find at its first step.

use migrt_iso::{SlotClass, pool};

/// Kept by a task from its spawning to its first step; see `migrt_iso::pool`.
#[derive(Debug)]
pub(crate) struct SlotPromise(SlotClass);

impl SlotPromise {
    /// `None`: this node's slots of the class are in use, or promised to others.
    #[inline]
    pub(crate) fn new(class: SlotClass) -> Option<SlotPromise> {
        pool::global().promise(class).then(|| SlotPromise(class))
    }
}

impl Drop for SlotPromise {
    fn drop(&mut self) {
        pool::global().redeem(self.0);
    }
}
