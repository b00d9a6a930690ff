//! The pool: which slots this node owns, and which of those are free (I3).
//!
//! ```text
//!             grant                take               release
//!   foreign ---------> free -----------------> used -----------> foreign
//!                       ^  (clean, warm,        | |  keep
//!                       |   furnished)          | '------------> kept --- unkeep ----> foreign
//!                       '------- give ----------'                 |
//!   foreign --------- adopt ------------------> used <------------' adopt_over_remains
//! ```
//!
//! A kept slot that is granted meanwhile (its task ended elsewhere and the slot was dealt to us) is
//! `kept, owned`: `unkeep` makes it free. Every other arrow is a broken rule of the caller and
//! panics with the slot's name.
//!
//! All bookkeeping is one word per slot in a mapping that is touched only where slots are used, so
//! nothing here allocates: a task's own allocation may end here. A granted range is not written
//! down slot by slot but kept as a range that shrinks from its low end.

mod class;
mod promise;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::page::{self, PAGE_LEN};
use crate::region::CLASS_COUNT;
use crate::slot::{SlotClass, SlotId};
use crate::{guard, sys};
use class::{ClassPool, Locked};
use table::{State, Table};

/// Slots of this class and below may be handed out with old contents (*warm*); slots of the classes
/// above always read as zeros when taken.
pub const WARM_CLASS_MAX: SlotClass = SlotClass::TASK;

/// Bytes of memory that free slots may keep together; a slot given beyond that is emptied.
pub const WARM_LEN_MAX: usize = 64 << 20;

/// The slots of this node. One per process in a program ([`global`]); tests make their own.
#[derive(Debug)]
pub struct SlotPool {
    classes: [Mutex<ClassPool>; CLASS_COUNT],
    table: OnceLock<Table>,
    warm_len: AtomicUsize,
    counts: promise::Counts,
}

/// The pool of this process.
#[must_use]
pub fn global() -> &'static SlotPool {
    static POOL: SlotPool = SlotPool::new();
    &POOL
}

/// A slot taken for a task, perhaps with what its last tenant left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenSlot {
    /// The slot.
    pub slot: SlotId,
    /// Whether the guards that its last tenant installed are still there. If not, it has none.
    pub furnished: bool,
}

/// Why a slot cannot be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflict {
    /// Something on this node uses the slot.
    InUse(SlotId),
    /// This node owns the slot and it is free: the sender cannot own it too.
    Owned(SlotId),
    /// The slot holds the remains of a task that left.
    Remains(SlotId),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::InUse(slot) => write!(f, "{slot} is in use on this node"),
            Conflict::Owned(slot) => write!(f, "{slot} belongs to this node and is free"),
            Conflict::Remains(slot) => {
                write!(f, "{slot} holds remains of a task that left this node")
            }
        }
    }
}

impl std::error::Error for Conflict {}

impl SlotPool {
    /// A pool that owns nothing.
    #[must_use]
    pub const fn new() -> SlotPool {
        SlotPool {
            classes: [const { Mutex::new(ClassPool::EMPTY) }; CLASS_COUNT],
            table: OnceLock::new(),
            warm_len: AtomicUsize::new(0),
            counts: promise::Counts::new(),
        }
    }

    /// This node receives `count` slots of `class` from `first_index` on. Their memory is empty.
    ///
    /// # Panics
    ///
    /// If the class has fewer slots, or the node owns one of them already.
    pub fn grant(&self, class: SlotClass, first_index: u32, count: u32) {
        let end = first_index.checked_add(count).filter(|&end| end <= class.slot_count());
        let end =
            end.unwrap_or_else(|| panic!("{class:?} has no slots {first_index}+{count} to grant"));
        self.lock(class).grant(first_index, end);
    }

    /// Takes a free slot, one with warm memory if there is one. It has no guards; its contents are
    /// whatever was there, zeros above [`WARM_CLASS_MAX`]. `None` if this node has none left.
    pub fn take(&self, class: SlotClass) -> Option<SlotId> {
        let mut pool = self.lock(class);
        if let Some(slot) = pool.take(&[State::Warm, State::Clean]) {
            return Some(slot);
        }
        let slot = pool.take(&[State::Furnished])?;
        drop(pool);
        empty(slot);
        Some(slot)
    }

    /// Takes a free slot for a task: one given by [`give_furnished`](Self::give_furnished) if there
    /// is one.
    pub fn take_furnished(&self, class: SlotClass) -> Option<TakenSlot> {
        let mut pool = self.lock(class);
        if let Some(slot) = pool.take(&[State::Furnished]) {
            return Some(TakenSlot { slot, furnished: true });
        }
        let slot = pool.take(&[State::Warm, State::Clean])?;
        Some(TakenSlot { slot, furnished: false })
    }

    /// A used slot becomes free. Contents stay if they fit into [`WARM_LEN_MAX`]; there must be no
    /// guards in it.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn give(&self, slot: SlotId) {
        self.give_as(slot, slot.len(), State::Warm);
    }

    /// A used slot becomes free and keeps its guards for the next task of the same layout, if its
    /// `touched_len` bytes of memory (an estimate) fit into [`WARM_LEN_MAX`]; else it is emptied.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn give_furnished(&self, slot: SlotId, touched_len: usize) {
        self.give_as(slot, touched_len.min(slot.len()), State::Furnished);
    }

    fn give_as(&self, slot: SlotId, touched_len: usize, state: State) {
        if slot.class() > WARM_CLASS_MAX || !self.reserve_warm(touched_len) {
            return self.give_clean(slot);
        }
        self.lock(slot.class()).give(slot, state, touched_len.div_ceil(PAGE_LEN));
    }

    /// A used slot becomes free, its guards and its memory go away first.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn give_clean(&self, slot: SlotId) {
        self.lock(slot.class()).expect(slot, State::Used, "give");
        empty(slot);
        self.lock(slot.class()).give(slot, State::Clean, 0);
    }

    /// As [`give_clean`](Self::give_clean), for a slot in which another node may still keep remains: it is
    /// taken again as late as can be.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn give_last(&self, slot: SlotId) {
        self.lock(slot.class()).expect(slot, State::Used, "give");
        empty(slot);
        self.lock(slot.class()).give_last(slot);
    }

    /// A slot arrives with a task: used here from now on. Its memory is empty.
    ///
    /// # Errors
    ///
    /// [`Conflict`] if this node owns it or keeps remains in it; nothing changes then.
    pub fn adopt(&self, slot: SlotId) -> Result<(), Conflict> {
        let mut pool = self.lock(slot.class());
        match pool.state(slot) {
            State::Foreign => {
                pool.set(slot, State::Used);
                pool.owned_count += 1;
                Ok(())
            }
            State::Used => Err(Conflict::InUse(slot)),
            State::Kept | State::KeptOwned => Err(Conflict::Remains(slot)),
            State::Unset | State::Clean | State::Warm | State::Furnished => {
                Err(Conflict::Owned(slot))
            }
        }
    }

    /// A slot comes back with the task whose remains it holds. Memory is as it was kept: pages that
    /// do not arrive with the task must be discarded by the caller.
    ///
    /// # Errors
    ///
    /// [`Conflict`] if the slot is in use or free here; nothing changes then. A slot without remains
    /// is adopted as by [`adopt`](Self::adopt).
    pub fn adopt_over_remains(&self, slot: SlotId) -> Result<(), Conflict> {
        let mut pool = self.lock(slot.class());
        if pool.state(slot) == State::Kept {
            pool.set(slot, State::Used);
            pool.owned_count += 1;
            return Ok(());
        }
        drop(pool);
        self.adopt(slot)
    }

    /// A used slot leaves with its task, or leaves this node for another; its memory and its guards
    /// go away.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn release(&self, slot: SlotId) {
        self.lock(slot.class()).expect(slot, State::Used, "release");
        empty(slot);
        let mut pool = self.lock(slot.class());
        pool.expect(slot, State::Used, "release");
        pool.set(slot, State::Foreign);
        pool.owned_count -= 1;
    }

    /// A used slot leaves with its task and its memory stays as remains.
    ///
    /// # Panics
    ///
    /// If the slot is not in use on this node.
    pub fn keep(&self, slot: SlotId) {
        let mut pool = self.lock(slot.class());
        pool.expect(slot, State::Used, "keep");
        pool.set(slot, State::Kept);
        pool.owned_count -= 1;
    }

    /// The remains in the slot are not needed any more: memory and guards go away.
    ///
    /// # Panics
    ///
    /// If the slot holds no remains.
    pub fn unkeep(&self, slot: SlotId) {
        let kept = |pool: &Locked<'_>| match pool.state(slot) {
            state @ (State::Kept | State::KeptOwned) => state,
            state => panic!("I3: unkeep of {slot}, which is {state:?}"),
        };
        kept(&self.lock(slot.class()));
        empty(slot);
        let mut pool = self.lock(slot.class());
        match kept(&pool) {
            State::KeptOwned => pool.push(slot, State::Clean, 0),
            _ => pool.set(slot, State::Foreign),
        }
    }

    /// Number of free slots of `class`.
    #[must_use]
    pub fn free_count(&self, class: SlotClass) -> u32 {
        self.lock(class).free_count
    }

    /// Number of slots of `class` that this node owns, free and used.
    #[must_use]
    pub fn owned_count(&self, class: SlotClass) -> u32 {
        self.lock(class).owned_count
    }

    /// Whether the slot is in use on this node.
    #[must_use]
    pub fn is_used(&self, slot: SlotId) -> bool {
        self.lock(slot.class()).state(slot) == State::Used
    }

    /// Whether the slot holds remains of a task that left.
    #[must_use]
    pub fn is_kept(&self, slot: SlotId) -> bool {
        matches!(self.lock(slot.class()).state(slot), State::Kept | State::KeptOwned)
    }

    /// Bytes of memory that free slots are assumed to keep.
    #[must_use]
    pub fn warm_len(&self) -> usize {
        self.warm_len.load(Ordering::Relaxed)
    }

    /// Counts `len` bytes as warm if they fit. Relaxed: a number on its own, it guards no memory.
    fn reserve_warm(&self, len: usize) -> bool {
        let len = len.next_multiple_of(PAGE_LEN);
        let fits = |warm: usize| Some(warm + len).filter(|&sum| sum <= WARM_LEN_MAX);
        self.warm_len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn lock(&self, class: SlotClass) -> Locked<'_> {
        let mutex = &self.classes[class.number() as usize];
        let table = self.table.get_or_init(Table::new);
        // A panic under the lock is a broken rule of one caller; each change is a single step.
        let pool = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { pool, table, class, warm_len: &self.warm_len, counts: &self.counts }
    }
}

impl Default for SlotPool {
    fn default() -> SlotPool {
        SlotPool::new()
    }
}

/// Takes memory and guards of a slot away.
fn empty(slot: SlotId) {
    // SAFETY: I3: the slot is used or kept on this node and its last user hands it in.
    let removed = unsafe { guard::remove(slot.base(), slot.len()) };
    assert!(removed.is_ok(), "removing the guards of {slot} failed: error {removed:?}");
    // SAFETY: as above.
    unsafe { page::discard(slot.base(), slot.len()) };
}

#[cfg(test)]
mod tests;
