//! Stacks of local tasks: a slot with a guard at its low end, kept warm per worker.
//!
//! ```text
//! slot base                                                   slot end
//! | guard |  ............ untouched ............ | warm pages |
//!          <──────────────────── grows down ────────────────── base
//! ```
//!
//! The top word names the record of the task that is on the stack, so that a scan of the node's
//! memory ([`registry`]) knows which part of it is alive.
//!
//! A stack that was used keeps its pages and its guard on the worker's list: binding a warm one
//! costs no system call and no page fault (facts M1). What the list cannot hold goes back to the
//! pool, emptied.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrt_iso::{PAGE_LEN, SlotClass, SlotId, guard, pool};

use super::coro::StackBounds;
use super::record::Record;
use super::warm::Warm;

/// Bytes below a stack that fault.
pub(crate) const GUARD_LEN: usize = 4 * PAGE_LEN;
/// Stacks of the default class kept per worker.
const KEPT: usize = 2048;

/// The class of a stack when nothing else is asked for: 1 MiB of address space.
pub(crate) const DEFAULT_CLASS: SlotClass = SlotClass::TASK;

/// Bytes at the top of the slot that are not stack: the tenant.
const TOP_LEN: usize = 64;

/// All stacks of this process, in use or warm.
static REGISTRY: Mutex<BTreeSet<SlotId>> = Mutex::new(BTreeSet::new());

/// The stacks of this process; nobody makes or drops one while the guard lives.
pub(crate) fn registry() -> MutexGuard<'static, BTreeSet<SlotId>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stack pointer of the task on the stack in `slot`: 0 if it runs, `None` if there is no task.
pub(crate) fn tenant_sp(slot: SlotId) -> Option<usize> {
    // SAFETY: a stack of the registry; the word holds a record that outlives its stay, or null.
    let record = unsafe { (*tenant(slot)).load(Ordering::Acquire).as_ref() }?;
    // SAFETY: the caller has stopped the world; the word read there is plain.
    let coro = unsafe { &*record.local().coro.get() };
    Some(coro.as_ref().map_or(0, |coro| coro.saved_sp()))
}

/// Whether a task is on the stack in `slot`, which is in the registry.
pub(crate) fn has_tenant(slot: SlotId) -> bool {
    // SAFETY: the top of a stack of the registry is mapped; only the word is looked at.
    !unsafe { (*tenant(slot)).load(Ordering::Acquire) }.is_null()
}

/// One past the highest stack byte of the stack in `slot`.
pub(crate) fn base_of(slot: SlotId) -> usize {
    slot.base() + slot.len() - TOP_LEN
}

fn tenant(slot: SlotId) -> *const AtomicPtr<Record> {
    base_of(slot) as *const AtomicPtr<Record>
}

/// A slot that serves as a stack, guard installed.
#[derive(Debug)]
pub(crate) struct Stack {
    slot: SlotId,
}

impl Stack {
    fn new(class: SlotClass) -> Option<Stack> {
        let slot = pool::global().take(class)?;
        // Registered as long as it has its guard: who looks into slots must know of those.
        let mut registry = registry();
        // SAFETY: the slot was just taken: it is ours (I3) and nothing lies in it.
        if unsafe { guard::install(slot.base(), GUARD_LEN) }.is_err() {
            pool::global().give_clean(slot);
            return None;
        }
        registry.insert(slot);
        Some(Stack { slot })
    }

    pub(crate) fn bounds(&self) -> StackBounds {
        StackBounds::new(self.slot.base(), base_of(self.slot))
    }
}

impl Stack {
    /// `record`'s task is on this stack from now on; null: none is.
    pub(crate) fn set_tenant(&self, record: *const Record) {
        // SAFETY: the top of a slot that this value owns.
        unsafe { (*tenant(self.slot)).store(record.cast_mut(), Ordering::Release) };
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut registry = registry();
        pool::global().give_clean(self.slot);
        registry.remove(&self.slot);
    }
}

/// A worker's warm stacks.
#[derive(Debug)]
pub(crate) struct StackCache(Warm<Stack>);

impl StackCache {
    pub(crate) fn new(count: &'static AtomicU32) -> StackCache {
        StackCache(Warm::new(KEPT, count))
    }

    #[inline]
    pub(crate) fn take(&self, class: SlotClass) -> Option<Stack> {
        if class == DEFAULT_CLASS
            && let Some(stack) = self.0.take()
        {
            return Some(stack);
        }
        Stack::new(class)
    }

    #[inline]
    pub(crate) fn keep(&self, stack: Stack) {
        if stack.slot.class() == DEFAULT_CLASS && !pool::global().is_scarce(DEFAULT_CLASS) {
            drop(self.0.keep(stack));
        }
    }

    pub(crate) fn clear(&self) {
        self.0.clear(drop);
    }
}
