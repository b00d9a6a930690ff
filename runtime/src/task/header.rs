//! The header of a mobile task, at the top of its slot; and the picture of that slot.
//!
//! ```text
//! slot base                                                                        slot end
//! | heap: first extent | guard |      stack      | PT_TLS image | TP: pthread | Header |
//! 0                    256 KiB  +16 KiB    <──── ^ stack base   ^ -image_len  ^ TCB_SPACE
//! ```
//!
//! Everything a task owns is found from here: its arena (first field, where the malloc router
//! expects it), its suspended registers, its counters. Words that point to the node it is on
//! (`worker`, `record`, the router's) are set anew at each resume and cleared before it is shipped.

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use migrt_iso::{SlotClass, SlotId};
use migrt_proto::TaskId;
use migrt_proto::wire::Strategy;

use super::child::{Closure, Meeting};
use super::coro::{Coro, StackBounds, Suspend, TaskYielder};
use super::parcel::Label;
use super::prefix::HeaderPrefix;
use super::record::Record;
use super::stack::GUARD_LEN;
use super::tls;
use crate::entry::Entry;
use crate::exec::worker::Worker;

/// Length of a task's first heap extent.
pub(crate) const FIRST_EXTENT_LEN: usize = 256 << 10;
/// Bytes kept for the header at the top of a slot.
pub(crate) const HEADER_SPACE: usize = 1024;
/// The class of a task slot when nothing else is asked for.
pub(crate) const TASK_CLASS: SlotClass = SlotClass::TASK;

/// How a task ended, in its own heap.
#[derive(Debug)]
pub(crate) enum Outcome {
    Returned(Vec<u8>),
    Panicked(String),
    Cancelled,
}

/// See the module.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) prefix: HeaderPrefix,
    pub(crate) id: TaskId,
    /// Its address is the same on all nodes (design 2).
    pub(crate) entry: &'static Entry,
    pub(crate) slot: SlotId,
    /// Pins by `pin_here`.
    pub(crate) pins: AtomicU32,
    pub(crate) coro: UnsafeCell<Option<Coro>>,
    pub(crate) yielder: Cell<*const TaskYielder>,
    /// Stack pointer below the runtime's own first frames.
    pub(crate) root_sp: Cell<usize>,
    pub(crate) worker: Cell<*const Worker>,
    pub(crate) record: Cell<*const Record>,
    /// The encoded arguments, in the task's heap, until the first step has decoded them.
    pub(crate) args: Cell<Vec<u8>>,
    pub(crate) outcome: UnsafeCell<Option<Outcome>>,
    pub(crate) cancel: Cell<bool>,
    /// Chaos mode moved it at the park of this wait already.
    pub(crate) chaos: Cell<bool>,
    /// What it wants to be moved by.
    pub(crate) strategy: Cell<Option<Strategy>>,
    pub(crate) moves: AtomicU32,
    /// CPU time used, in TSC ticks of the nodes it was on, as nanoseconds.
    pub(crate) cpu_ns: AtomicU64,
    /// The list of adopted arenas, its length, and at which length it is looked through (`adopted`).
    pub(super) adopted: Cell<*const HeaderPrefix>,
    pub(super) adopted_count: Cell<u32>,
    pub(super) sweep_at: Cell<u32>,
    /// What a child is to run, and where it meets whoever joins it (`child`).
    pub(super) closure: Cell<Option<Closure>>,
    pub(super) meeting: Cell<Option<Arc<dyn Meeting>>>,
    /// What there is to know of the parcel whose arena this is, if it is one.
    pub(crate) parcel: Label,
}

const _: () = assert!(size_of::<Header>() <= HEADER_SPACE);

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("id", &self.id)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// Addresses in a task slot, computed from its id alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) slot: SlotId,
}

impl Layout {
    pub(crate) fn header(self) -> *mut Header {
        (self.slot.base() + self.slot.len() - HEADER_SPACE) as *mut Header
    }

    pub(crate) fn tp(self) -> *mut u8 {
        (self.header() as usize - tls::TCB_SPACE) as *mut u8
    }

    pub(crate) fn tls_start(self) -> usize {
        (self.tp() as usize - tls::TlsLayout::get().image_len()) & !63
    }

    pub(crate) fn guard(self) -> usize {
        self.slot.base() + FIRST_EXTENT_LEN
    }

    pub(crate) fn stack(self) -> StackBounds {
        StackBounds::new(self.guard(), self.tls_start())
    }

    /// The part of the stack that holds live bytes while the task is suspended.
    pub(crate) fn stack_low(self) -> usize {
        self.guard() + GUARD_LEN
    }
}

impl Header {
    pub(crate) fn layout(&self) -> Layout {
        Layout { slot: self.slot }
    }

    pub(crate) fn tp(&self) -> *mut u8 {
        self.layout().tp()
    }

    /// Calls `f` on the worker's stack with the worker's thread-locals; for the running task.
    ///
    /// Never inlined: what comes back is copied whole from the worker's stack, padding and unused
    /// variants too, and that copy may not lie in the frame of a caller that is then suspended.
    #[inline(never)]
    pub(crate) fn on_worker<R>(&self, f: impl FnOnce(&Worker) -> R) -> R {
        // SAFETY: set at the first step; it lies on the task's stack, which runs now.
        let yielder = unsafe { &*self.yielder.get() };
        let job = ForWorker(|| {
            // SAFETY: `worker_tp` and `worker` are those of the thread that runs this task now.
            unsafe { tls::with_thread_pointer(self.prefix.worker_tp(), || f(&*self.worker.get())) }
        });
        yielder.on_parent_stack(move || job.run())
    }

    /// Carries out the frees of this task's blocks by others; for whoever holds the task.
    pub(crate) fn drain_frees(&self) {
        let arena = self.prefix.arena();
        if arena.has_remote_frees() {
            // SAFETY: the caller holds the task, so its heap is idle; slots go back to the node.
            unsafe { arena.drain_remote(&mut |slot| self.prefix.take_back(slot)) };
        }
    }

    /// Suspends the running task from the handler of a fault: nobody unwinds it there.
    pub(crate) fn suspend_in_fault(&self, why: Suspend) {
        // SAFETY: as in `on_worker`.
        let yielder = unsafe { &*self.yielder.get() };
        // The kernel has given the handler the default control words.
        yielder.suspend(why);
    }

    /// Suspends the running task, which goes on when it is cancelled.
    #[inline(never)]
    pub(crate) fn suspend_through(&self, why: Suspend) {
        // SAFETY: as in `on_worker`.
        let yielder = unsafe { &*self.yielder.get() };
        super::control::around_suspension(|| yielder.suspend(why));
    }

    /// Suspends the running task. Must not be called while it unwinds.
    #[inline(always)]
    pub(crate) fn suspend(&self, why: Suspend) {
        self.suspend_through(why);
        if self.cancel.get() {
            super::mobile::unwind_cancelled();
        }
    }
}

/// A closure for the worker's stack. corosensei asks for `Send` since thread-locals differ there;
/// here that is the purpose.
struct ForWorker<F>(F);

// SAFETY: the closure runs on this very OS thread while its task waits for it.
unsafe impl<F> Send for ForWorker<F> {}

impl<R, F: FnOnce() -> R> ForWorker<F> {
    fn run(self) -> R {
        (self.0)()
    }
}
