//! The shelf: pages of departed tasks that nothing here reaches any more, kept where they lie for the
//! task's return, within a budget.
//!
//! ```text
//! collected  nothing reaches the remains: their base goes, the pages stay     [`put`]
//! soon       the pages are hashed                                             `later`
//! asked      the hashes are told                                              [`have`]
//! returns    pages in place are the task's again                              [`take`]
//! too much, or another task comes in one of the slots: dropped, the oldest first
//! ```
//!
//! Nothing reaches them, so nobody writes them and their hashes hold. What the node has written before
//! they were collected is part of what was hashed. No root leads here, so no census looks at them, and
//! a word of a task that leads here leads nowhere (`audit`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrt_iso::{PAGE_LEN, SlotId, page, pool};
use migrt_proto::TaskId;
use migrt_proto::transfer::{KeptPages, PageSet, Run, Shelf};

use super::{Kept, addr_of, number_of};
use crate::migrate::{hash, later};

/// Pages hashed while the shelf is locked: some 20 us.
const BATCH: usize = 64;

/// What is kept of one task.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) task: TaskId,
    /// Not in an order.
    pub(crate) slots: Vec<SlotId>,
    /// Those of its pages that hold something, once they are hashed.
    pub(crate) pages: Option<Arc<KeptPages>>,
}

#[derive(Debug)]
struct Entry {
    slots: Vec<SlotId>,
    pages: Option<Arc<KeptPages>>,
    /// No two entries have the same.
    serial: u64,
}

#[derive(Debug, Default)]
struct State {
    shelf: Shelf,
    entries: BTreeMap<TaskId, Entry>,
    owner: BTreeMap<SlotId, TaskId>,
    serial: u64,
}

/// Locked after the table of remains.
static STATE: Mutex<Option<State>> = Mutex::new(None);
static HASHED: Condvar = Condvar::new();

type Guard = MutexGuard<'static, Option<State>>;

/// Threads that want the lock: who has it again and again lets them.
static WAITING: AtomicUsize = AtomicUsize::new(0);

fn lock() -> Guard {
    // Relaxed: a hint.
    WAITING.fetch_add(1, Ordering::Relaxed);
    let guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    WAITING.fetch_sub(1, Ordering::Relaxed);
    guard
}

fn of(guard: &mut Guard) -> &mut State {
    guard.get_or_insert_with(|| State {
        shelf: Shelf::new(crate::node::node().config.keep as u64),
        ..State::default()
    })
}

/// Keeps collected remains, if they are worth it; gives them back if not.
pub(super) fn put(kept: Kept) -> Result<(), Kept> {
    let config = &crate::node::node().config;
    let byte_count = kept.base.as_ref().map_or(0, |base| base.held_bytes());
    if byte_count < config.keep_from || byte_count > config.keep {
        return Err(kept);
    }
    let mut guard = lock();
    let state = of(&mut guard);
    let serial = state.add(kept.task, kept.slots, None, byte_count);
    drop(guard);
    // Others may have gone for it.
    HASHED.notify_all();
    later::after(Duration::ZERO, move || hash_all(kept.task, serial));
    Ok(())
}

/// The task did not come back after all: what is still as it was.
pub(crate) fn put_back(shelved: Shelved) {
    for &slot in &shelved.slots {
        if pool::global().is_used(slot) {
            pool::global().keep(slot);
        }
    }
    let Shelved { task, slots, pages } = shelved;
    let byte_count = match &pages {
        Some(pages) => pages.len() as usize * PAGE_LEN,
        None => {
            slots.iter().map(|slot| page::present_count(slot.base(), slot.len()) * PAGE_LEN).sum()
        }
    };
    let is_hashed = pages.is_some();
    let serial = of(&mut lock()).add(task, slots, pages, byte_count);
    if !is_hashed {
        later::after(Duration::ZERO, move || hash_all(task, serial));
    }
}

/// Takes what is kept of `task`, for its return.
pub(crate) fn take(task: TaskId) -> Option<Shelved> {
    let mut guard = lock();
    let Entry { slots, pages, .. } = of(&mut guard).remove(task)?;
    HASHED.notify_all();
    Some(Shelved { task, slots, pages })
}

/// What is kept of `task`, if anything is: its pages, once they are hashed.
pub(super) fn have_at_once(task: TaskId) -> Option<Option<Arc<KeptPages>>> {
    let mut guard = lock();
    let state = of(&mut guard);
    let pages = state.entries.get(&task)?.pages.clone();
    state.shelf.touch(task);
    Some(pages)
}

/// What is kept of `task`; waits until it is hashed.
pub(super) fn have(task: TaskId) -> Option<Arc<KeptPages>> {
    let mut guard = lock();
    loop {
        let state = of(&mut guard);
        let entry = state.entries.get(&task)?;
        if let Some(pages) = &entry.pages {
            let pages = pages.clone();
            state.shelf.touch(task);
            return Some(pages);
        }
        guard = HASHED.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

/// `task` comes in this slot. Whether there was something of another on the shelf in it, which is gone now.
pub(crate) fn drop_slot_of_other(slot: SlotId, task: TaskId) -> bool {
    let mut guard = lock();
    let state = of(&mut guard);
    let Some(&other) = state.owner.get(&slot).filter(|&&owner| owner != task) else { return false };
    state.drop_task(other);
    HASHED.notify_all();
    true
}

/// Drops what is kept of `task`.
pub(super) fn forget(task: TaskId) {
    of(&mut lock()).drop_task(task);
    HASHED.notify_all();
}

/// Whether pages on the shelf lie in the slot.
pub(crate) fn has(slot: SlotId) -> bool {
    of(&mut lock()).owner.contains_key(&slot)
}

/// Bytes on the shelf.
pub(crate) fn byte_count() -> u64 {
    of(&mut lock()).shelf.held()
}

impl State {
    fn add(
        &mut self,
        task: TaskId,
        slots: Vec<SlotId>,
        pages: Option<Arc<KeptPages>>,
        byte_count: usize,
    ) -> u64 {
        self.serial += 1;
        let serial = self.serial;
        self.drop_task(task);
        self.owner.extend(slots.iter().map(|&slot| (slot, task)));
        self.entries.insert(task, Entry { slots, pages, serial });
        self.weigh(task, byte_count);
        serial
    }

    /// The task's pages hold so many bytes.
    fn weigh(&mut self, task: TaskId, byte_count: usize) {
        for old in self.shelf.put(task, byte_count as u64) {
            self.drop_task(old);
        }
    }

    fn remove(&mut self, task: TaskId) -> Option<Entry> {
        let entry = self.entries.remove(&task)?;
        self.shelf.take(task);
        entry.slots.iter().for_each(|slot| _ = self.owner.remove(slot));
        Some(entry)
    }

    /// Its memory goes.
    fn drop_task(&mut self, task: TaskId) {
        if let Some(entry) = self.remove(task) {
            entry.slots.into_iter().for_each(|slot| pool::global().unkeep(slot));
        }
    }
}

/// Hashes what was put on the shelf.
fn hash_all(task: TaskId, serial: u64) {
    let is_it = |state: &State| state.entries.get(&task).is_some_and(|e| e.serial == serial);
    let mut guard = lock();
    let state = of(&mut guard);
    if !is_it(state) {
        return;
    }
    let mut present = PageSet::new();
    for slot in &state.entries[&task].slots {
        page::present_runs(slot.base(), slot.len(), &mut |run| {
            present.insert(Run::new(number_of(run.addr), run.count as u64));
        });
    }
    let mut list = Vec::with_capacity(present.len() as usize);
    for (count, page) in present.pages().enumerate() {
        if count % BATCH == 0 {
            // Others may take the entry now; then the slots are somebody else's, with other guards.
            drop(guard);
            while WAITING.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
            guard = lock();
            if !is_it(of(&mut guard)) {
                return;
            }
        }
        // SAFETY: a page of a kept slot, which nothing reaches, and which is kept while the shelf is locked.
        if !unsafe { page::is_zero_page(addr_of(page) as *const u8) } {
            list.push((page, hash::of(page)));
        }
    }
    let byte_count = list.len() * PAGE_LEN;
    let state = of(&mut guard);
    if let Some(entry) = state.entries.get_mut(&task) {
        entry.pages = Some(Arc::new(KeptPages::new(list)));
        state.weigh(task, byte_count);
    }
    drop(guard);
    HASHED.notify_all();
}
