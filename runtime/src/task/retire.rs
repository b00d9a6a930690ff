//! Slots that travelled tasks have given up here: they rest before their next use.
//!
//! The nodes that such a task visited keep its pages as remains until their collectors have looked
//! (`migrate::remains`), and accept no other task in those slots before. A slot that were used again
//! at once would have its next tenant refused there; and what a static there reaches stays for good, so
//! the pool hands such slots out again as late as it can. And as long as the task's arrival is not
//! settled, a source in doubt may yet go on with its own copy, which lies in them (I3).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrt_iso::{SlotId, pool};
use migrt_proto::TaskId;

use crate::cluster::cluster;

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

/// A slot that the travelled task has given up: its last one at its end, or one in the middle.
pub(crate) fn give_up(task: TaskId, slot: SlotId) {
    crate::migrate::lacking::forget(slot);
    cluster().unwatch(task, |seen| seen(slot));
    if !cluster().quarantine(task, slot) {
        rest(slot);
    }
}

/// Slots given up by running tasks, newest first, linked through their own first words.
static PARKED: AtomicUsize = AtomicUsize::new(0);

/// What the first bytes of a parked slot say.
#[derive(Clone, Copy)]
#[repr(C)]
struct Parked {
    next: usize,
    task: TaskId,
}

/// [`give_up`] from inside the task's allocator: takes no lock and no memory. The ticker does the rest.
pub(crate) fn park(task: TaskId, slot: SlotId) {
    let at = slot.base() as *mut Parked;
    // Relaxed: only the address is compared; the words it leads to are published below.
    let mut next = PARKED.load(Ordering::Relaxed);
    loop {
        // SAFETY: nobody uses the slot, it is this node's (I3), and its base is aligned for anything.
        unsafe { at.write(Parked { next, task }) };
        // Release: pairs with the swap in `wake`.
        match PARKED.compare_exchange_weak(next, at as usize, Ordering::Release, Ordering::Relaxed)
        {
            Ok(_) => return,
            Err(now) => next = now,
        }
    }
}

/// Gives back what has rested; called every few milliseconds.
pub(crate) fn wake() {
    // Acquire: pairs with `park`.
    let mut at = PARKED.swap(0, Ordering::Acquire);
    while let Some(slot) = SlotId::of_addr(at) {
        // SAFETY: a slot that was parked, and is this thread's now.
        let parked = unsafe { (at as *const Parked).read() };
        at = parked.next;
        give_up(parked.task, slot);
    }
    let mut resting = RESTING.lock().unwrap_or_else(PoisonError::into_inner);
    while resting.front().is_some_and(|(since, _)| since.elapsed() > REST) {
        let (_, slot) = resting.pop_front().expect("seen above");
        pool::global().give_last(slot);
    }
}
