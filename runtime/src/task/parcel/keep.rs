//! The block that a parcel's value lies in, and the label in the header of its arena.
//!
//! ```text
//! arena:  Keep<T> { Head { type, how to drop it, what may have come in }, value } ── pointers ──► other blocks
//! header: Label { ──► Keep, who holds it, under which name its remains are kept }
//! ```

use std::any::{TypeId, type_name};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use migrt_proto::TaskId;
use migrt_proto::wire::Strategy;

/// What may have come into the value since it was looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    /// Nothing.
    Clean,
    /// It was lent out: something through a cell in it.
    Seen,
    /// It was lent out to be changed.
    Changed,
}

/// What is known of the value without its type.
#[repr(C)]
pub(crate) struct Head {
    type_id: TypeId,
    type_name: &'static str,
    drop: unsafe fn(*mut Head),
    state: Cell<State>,
}

/// See the module.
#[repr(C)]
pub(super) struct Keep<T> {
    head: Head,
    value: T,
}

impl Head {
    pub(super) fn is_of<T: 'static>(&self) -> bool {
        self.type_id == TypeId::of::<T>()
    }

    pub(super) fn type_name(&self) -> &'static str {
        self.type_name
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    pub(super) fn worsen(&self, state: State) {
        if self.state.get() < state {
            self.state.set(state);
        }
    }

    pub(crate) fn set_clean(&self) {
        self.state.set(State::Clean);
    }

    /// Drops the value and frees the block.
    ///
    /// # Safety
    /// - `at` came from [`seal`], and its value was neither taken out nor dropped
    /// - nobody uses it any more
    pub(super) unsafe fn drop_value(at: *mut Head) {
        // SAFETY: the block is alive.
        let drop = unsafe { (*at).drop };
        // SAFETY: the function is that of the value's type.
        unsafe { drop(at) };
    }
}

impl<T> Keep<T> {
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn value(&self) -> &T {
        &self.value
    }

    pub(super) fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    pub(super) fn open(self) -> T {
        self.value
    }
}

/// Puts a value into a block of the caller's heap.
pub(super) fn seal<T: 'static>(value: T) -> *mut Head {
    unsafe fn drop_keep<T>(at: *mut Head) {
        // SAFETY: a block of this type, by the contract of `drop_value`.
        drop(unsafe { Box::from_raw(at.cast::<Keep<T>>()) });
    }
    let head = Head {
        type_id: TypeId::of::<T>(),
        type_name: type_name::<T>(),
        drop: drop_keep::<T>,
        state: Cell::new(State::Clean),
    };
    Box::into_raw(Box::new(Keep { head, value })).cast()
}

/// What the header of an arena says of the parcel in it.
#[derive(Debug, Default)]
pub(crate) struct Label {
    keep: Cell<usize>,
    /// A mobile task, the node (`builder_id`), or nobody: it is on its way.
    holder: AtomicU64,
    lineage: Cell<u64>,
    /// Its pages follow it to another node.
    is_lazy: Cell<bool>,
}

impl Label {
    /// The block with the value.
    pub(crate) fn keep(&self) -> Option<&Head> {
        // SAFETY: set for as long as the block lives.
        unsafe { (self.keep.get() as *const Head).as_ref() }
    }

    pub(super) fn take_keep(&self) -> Option<*mut Head> {
        let keep = self.keep.replace(0) as *mut Head;
        (!keep.is_null()).then_some(keep)
    }

    pub(super) fn set_keep(&self, keep: *mut Head) {
        self.keep.set(keep as usize);
    }

    /// Relaxed: whoever changes it hands the handle on by way of something that orders.
    pub(super) fn holder(&self) -> u64 {
        self.holder.load(Ordering::Relaxed)
    }

    pub(crate) fn set_holder(&self, holder: TaskId) {
        self.holder.store(holder.to_raw(), Ordering::Relaxed);
    }

    pub(super) fn set_on_its_way(&self) {
        self.holder.store(u64::MAX, Ordering::Relaxed);
    }

    pub(super) fn set_lazy(&self) {
        self.is_lazy.set(true);
    }

    /// How it moves to another node.
    pub(super) fn strategy(&self) -> Strategy {
        if self.is_lazy.get() { Strategy::PostCopy } else { Strategy::StopCopy }
    }

    pub(super) fn lineage(&self) -> Option<TaskId> {
        TaskId::from_raw(self.lineage.get())
    }

    /// Its first name is that of its remains for good.
    pub(super) fn set_lineage(&self, first: TaskId) {
        if self.lineage.get() == 0 {
            self.lineage.set(first.to_raw());
        }
    }
}
