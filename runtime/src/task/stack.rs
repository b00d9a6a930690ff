//! Stacks of local tasks: a slot with a guard at its low end, kept warm per worker.
//!
//! ```text
//! slot base                                                   slot end
//! | guard |  ............ untouched ............ | warm pages |
//!          <──────────────────── grows down ────────────────── base
//! ```
//!
//! A stack that was used keeps its pages and its guard on the worker's list: binding a warm one
//! costs no system call and no page fault (facts M1). What the list cannot hold goes back to the
//! pool, emptied.

use std::cell::RefCell;

use migrt_iso::{PAGE_LEN, SlotClass, SlotId, guard, pool};

use super::coro::StackBounds;

/// Bytes below a stack that fault.
pub(crate) const GUARD_LEN: usize = 4 * PAGE_LEN;
/// Stacks of the default class kept per worker.
const KEPT: usize = 2048;

/// The class of a stack when nothing else is asked for: 1 MiB of address space.
pub(crate) const DEFAULT_CLASS: SlotClass = SlotClass::TASK;

/// A slot that serves as a stack, guard installed.
#[derive(Debug)]
pub(crate) struct Stack {
    slot: SlotId,
}

impl Stack {
    fn new(class: SlotClass) -> Option<Stack> {
        let slot = pool::global().take(class)?;
        // SAFETY: the slot was just taken: it is ours (I3) and nothing lies in it.
        if unsafe { guard::install(slot.base(), GUARD_LEN) }.is_err() {
            pool::global().give_clean(slot);
            return None;
        }
        Some(Stack { slot })
    }

    pub(crate) fn bounds(&self) -> StackBounds {
        StackBounds::new(self.slot.base(), self.slot.base() + self.slot.len())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        pool::global().give_clean(self.slot);
    }
}

/// A worker's warm stacks.
#[derive(Debug)]
pub(crate) struct StackCache(RefCell<Vec<Stack>>);

impl StackCache {
    pub(crate) fn new() -> StackCache {
        StackCache(RefCell::new(Vec::with_capacity(KEPT)))
    }

    #[inline]
    pub(crate) fn take(&self, class: SlotClass) -> Option<Stack> {
        if class == DEFAULT_CLASS {
            if let Some(stack) = self.0.borrow_mut().pop() {
                return Some(stack);
            }
        }
        Stack::new(class)
    }

    #[inline]
    pub(crate) fn keep(&self, stack: Stack) {
        let mut kept = self.0.borrow_mut();
        if stack.slot.class() == DEFAULT_CLASS && kept.len() < KEPT {
            kept.push(stack);
        }
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
