//! Slots of tasks that had been elsewhere and have ended here: they rest before their next use.
//!
//! The nodes that such a task visited keep its pages as remains until their collectors have looked
//! (`migrate::remains`), and accept no other task in those slots before. A slot that were used again
//! at once would have its next tenant refused there.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrt_iso::{SlotId, pool};

/// A little longer than a collector takes to come round.
const REST: Duration = Duration::from_millis(2_500);

static RESTING: Mutex<VecDeque<(Instant, SlotId)>> = Mutex::new(VecDeque::new());

/// A slot that nobody uses any more.
pub(crate) fn rest(slot: SlotId) {
    // SAFETY: the slot is ours and its task has ended; only its memory goes, the guard stays.
    unsafe { migrt_iso::page::discard(slot.base(), slot.len()) };
    let mut resting = RESTING.lock().unwrap_or_else(PoisonError::into_inner);
    resting.push_back((Instant::now(), slot));
}

/// Whether nobody uses the slot for now.
pub(crate) fn is_resting(slot: SlotId) -> bool {
    RESTING.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|entry| entry.1 == slot)
}

/// Gives back what has rested; called every few milliseconds.
pub(crate) fn wake() {
    let mut resting = RESTING.lock().unwrap_or_else(PoisonError::into_inner);
    while resting.front().is_some_and(|(since, _)| since.elapsed() > REST) {
        let (_, slot) = resting.pop_front().expect("seen above");
        pool::global().give_clean(slot);
    }
}
