//! Slots full of copies of pages: where bases keep their bytes.
//!
//! ```text
//! taken ──> filled ──> nobody refers to it any more ──> warm for a while ──> the pool's, empty
//!                                                        '──> taken again, its pages present
//! ```
//!
//! The first touch of memory costs more than filling it, so long slots are not given back at once. What
//! is left in a warm one is read by nobody: it is as good as a slot of copies that somebody keeps.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use migrt_iso::{PAGE_LEN, SlotClass, SlotId, page, pool};

/// Bytes of one slot of copies.
const SLOT_LEN: usize = 16 << 20;
/// What may be kept warm.
const WARM_LEN_MAX: usize = 256 << 20;
/// For so long.
const WARM_FOR: Duration = Duration::from_secs(2);

/// A slot full of copies.
#[derive(Debug)]
pub(super) struct CopySlot {
    pub(super) id: SlotId,
    /// Bytes from its start that were written.
    pub(super) used: AtomicUsize,
    /// Bytes from its start that are present. One thread fills a slot.
    present: AtomicUsize,
}

/// A slot for `left` bytes, or as many as one slot is to have.
pub(super) fn take_slot(left: usize) -> Option<Arc<CopySlot>> {
    let class = SlotClass::for_len(left.min(SLOT_LEN)).expect("a short slot");
    let (id, present) = match take_warm(class) {
        Some(warm) => (warm.id, warm.present),
        None => {
            let id = pool::global().take(class)?;
            slots().insert(id);
            (id, 0)
        }
    };
    let used = AtomicUsize::new(0);
    Some(Arc::new(CopySlot { id, used, present: AtomicUsize::new(present) }))
}

impl CopySlot {
    /// Has the slot present up to `end`, and some megabytes beyond, but not beyond `fill_to`: so they are
    /// filled while the caches have them.
    pub(super) fn make_present(&self, end: usize, fill_to: usize) {
        const STEP: usize = 2 * page::HUGE_PAGE_LEN;
        // Relaxed, here and below: only the thread that fills the slot uses it.
        let from = self.id.base() + self.present.load(Ordering::Relaxed);
        if from >= end.min(fill_to) {
            return;
        }
        let to = end.max(from + STEP).min(fill_to);
        // SAFETY: part of a slot of ours, behind the copies in it.
        unsafe { page::populate_huge(from, to - from) };
        self.present.store(to - self.id.base(), Ordering::Relaxed);
    }
}

impl Drop for CopySlot {
    /// A slot goes back to the pool without what was in it: as heap of another task it would lie in
    /// bytes that this task never writes, and the audit would find another task's addresses there.
    fn drop(&mut self) {
        let (id, used) = (self.id, *self.used.get_mut());
        if id.class() <= pool::WARM_CLASS_MAX {
            // SAFETY: a slot of ours that nothing refers to any more (I3).
            unsafe { std::ptr::write_bytes(id.base() as *mut u8, 0, used) };
            return give(id);
        }
        let present = used.next_multiple_of(PAGE_LEN).max(*self.present.get_mut());
        if !keep_warm(Warm { id, present, since: Instant::now() }) {
            give(id);
        }
    }
}

fn give(id: SlotId) {
    slots().remove(&id);
    pool::global().give(id);
}

/// Slots with copies: nothing of a task ever leads there.
static SLOTS: Mutex<BTreeSet<SlotId>> = Mutex::new(BTreeSet::new());

fn slots() -> MutexGuard<'static, BTreeSet<SlotId>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the slot holds copies of pages, and nothing else.
pub(crate) fn is_copies(slot: SlotId) -> bool {
    slots().contains(&slot)
}

/// A slot that was given up a moment ago. Pages are present up to `present`, but for gaps that nobody
/// has filled.
struct Warm {
    id: SlotId,
    present: usize,
    since: Instant,
}

/// The last given up is last.
static WARM: Mutex<Vec<Warm>> = Mutex::new(Vec::new());
/// A thread sees to it that they do not stay.
static COOLING: AtomicBool = AtomicBool::new(false);

fn warm() -> MutexGuard<'static, Vec<Warm>> {
    WARM.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_warm(class: SlotClass) -> Option<Warm> {
    let mut warm = warm();
    let at = warm.iter().rposition(|slot| slot.id.class() == class)?;
    Some(warm.remove(at))
}

/// Keeps a slot for the next copies; `false`: there are enough, or nobody to give it up later.
fn keep_warm(slot: Warm) -> bool {
    let mut all = warm();
    let len: usize = all.iter().map(|slot| slot.id.len()).sum();
    if len + slot.id.len() > WARM_LEN_MAX || pool::global().is_scarce(slot.id.class()) {
        return false;
    }
    // SeqCst: set before the slot is seen, and cleared under the lock when there are none.
    if !COOLING.swap(true, Ordering::SeqCst)
        && crate::thread::start_clearing("migrt-cooler", cool).is_err()
    {
        COOLING.store(false, Ordering::SeqCst);
        return false;
    }
    all.push(slot);
    true
}

/// Gives up what was not taken again, until there is nothing more.
fn cool() {
    loop {
        std::thread::sleep(WARM_FOR / 4);
        let mut all = warm();
        let cold: Vec<Warm> = all.extract_if(.., |slot| slot.since.elapsed() > WARM_FOR).collect();
        let is_over = all.is_empty();
        if is_over {
            COOLING.store(false, Ordering::SeqCst);
        }
        drop(all);
        cold.into_iter().for_each(|slot| give(slot.id));
        if is_over {
            return;
        }
    }
}
