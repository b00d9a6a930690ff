//! The part of a mobile task's header that libc's entry points reach: heap, worker, pins, clock.
//!
//! ```text
//!   TP ──► struct pthread … │ TP + TCB_SPACE ──► HeaderPrefix { arena, worker_tp, node_frees, … } rest of Header
//! ```
//!
//! `malloc`, `open` or `clock_gettime` know nothing but the thread pointer. If that lies in the
//! region, a mobile task runs, and its header begins [`TCB_SPACE`] above it.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use migrt_iso::arena::Arena;
use migrt_iso::{SlotId, pool};
use migrt_proto::TaskId;

use super::tls::{TCB_SPACE, thread_pointer, with_thread_pointer};

/// The first fields of a mobile task's header.
#[derive(Debug)]
#[repr(C)]
pub struct HeaderPrefix {
    /// The task's heap. First, so that a block's owner and the header are one address.
    arena: UnsafeCell<MaybeUninit<Arena>>,
    /// The block of the OS thread that runs the task now.
    worker_tp: Cell<*mut u8>,
    /// Where the task leaves node blocks that it frees; may be null.
    node_frees: Cell<*const NodeFrees>,
    /// What is added to the monotonic clocks of this node for the task. Nanoseconds.
    pub clock_offset_ns: AtomicI64,
    /// Descriptors that the task has opened and nobody has closed. Not 0: it must not move.
    pub fd_pins: AtomicU32,
    /// OS threads that the task has started and that still run. Not 0: it must not move, nor may
    /// its slots be used again after its end. Load it with `Acquire`.
    pub thread_pins: AtomicU32,
    /// The task, once this arena has moved with it: its slots are not to be used again at once
    /// (`task::retire`).
    travelled: AtomicU64,
    /// What the task allocates now is the node's: it runs code whose memory is the process's.
    node_heap: Cell<bool>,
    /// The next in the list of arenas that a task has adopted, if this is one (`adopted`).
    pub(crate) next_adopted: Cell<*const HeaderPrefix>,
    /// What is dead in its slot was discarded.
    pub(crate) trimmed: Cell<bool>,
    /// The slots that it grows by are to be empty: it becomes a parcel, and is looked through.
    pub(crate) wants_empty: Cell<bool>,
}

impl HeaderPrefix {
    /// No heap yet, no worker, no pins.
    pub const fn new() -> HeaderPrefix {
        HeaderPrefix {
            arena: UnsafeCell::new(MaybeUninit::zeroed()),
            worker_tp: Cell::new(ptr::null_mut()),
            node_frees: Cell::new(ptr::null()),
            clock_offset_ns: AtomicI64::new(0),
            fd_pins: AtomicU32::new(0),
            thread_pins: AtomicU32::new(0),
            travelled: AtomicU64::new(0),
            node_heap: Cell::new(false),
            next_adopted: Cell::new(ptr::null()),
            trimmed: Cell::new(false),
            wants_empty: Cell::new(false),
        }
    }

    /// The header of the task whose block is at `tp`.
    pub fn of(tp: *mut u8) -> *mut HeaderPrefix {
        tp.wrapping_add(TCB_SPACE).cast()
    }

    /// The header of the running mobile task, or null: on an OS thread and in a local task.
    #[inline(always)]
    pub fn current() -> *mut HeaderPrefix {
        let tp = thread_pointer();
        if migrt_iso::in_region(tp as usize) { HeaderPrefix::of(tp) } else { ptr::null_mut() }
    }

    /// Makes the task's heap, with `base..base + len` as its first extent.
    ///
    /// # Safety
    ///
    /// * The prefix is where it will stay: at its task's header.
    /// * `base` is the base of a slot of this node (I3), and `len` bytes from there are unused.
    pub unsafe fn init_arena(&self, base: usize, len: usize) {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { Arena::init(self.arena.get().cast(), base, len) };
    }

    /// The task's heap. Only after [`init_arena`](Self::init_arena).
    #[inline(always)]
    pub fn arena(&self) -> &Arena {
        // SAFETY: made by `init_arena`, before anybody has the header. An arena is all cells.
        unsafe { (*self.arena.get()).assume_init_ref() }
    }

    /// Gives the heap's extra slots back to the node's pool.
    ///
    /// # Safety
    ///
    /// The task has ended, none of its `thread_pins` is left, and nobody uses its memory.
    pub unsafe fn destroy_arena(&self) {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.arena().destroy(&mut |slot| self.take_back(slot)) };
    }

    /// The arena has arrived here with `task` from another node, or is about to be sent while that runs.
    pub(crate) fn set_travelled(&self, task: TaskId) {
        // Relaxed: whoever sets it holds the task.
        self.travelled.store(task.to_raw(), Ordering::Relaxed);
    }

    /// The task that the arena has moved with, or was about to, if it ever did.
    pub(crate) fn travelled_with(&self) -> Option<TaskId> {
        // Relaxed: as in `set_travelled`.
        TaskId::from_raw(self.travelled.load(Ordering::Relaxed))
    }

    /// Whether another node may have the arena's slots, or keep pages of them.
    pub(super) fn has_travelled(&self) -> bool {
        // Relaxed: as in `set_travelled`.
        self.travelled.load(Ordering::Relaxed) != 0
    }

    /// Takes a slot that the task's heap does not need any more. Any thread that holds the task, but
    /// not on a task's thread block.
    pub(crate) fn take_back(&self, slot: SlotId) {
        match TaskId::from_raw(self.travelled.load(Ordering::Relaxed)) {
            None => pool::global().give(slot),
            Some(task) => super::retire::park(task, slot),
        }
    }

    /// Whether the task allocates node memory at this moment.
    #[inline(always)]
    pub(crate) fn is_on_node_heap(&self) -> bool {
        self.node_heap.get()
    }

    /// Has the running task allocate node memory while `f` runs, which must not suspend it: code
    /// that keeps what it allocates for the process, such as a panic hook with its table of symbols.
    pub(crate) fn on_node_heap<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.node_heap.replace(true);
        let result = f();
        self.node_heap.set(before);
        result
    }

    /// Names the OS thread that is about to run the task: its block, and its list of node blocks.
    /// Before each resume.
    #[inline]
    pub fn set_worker(&self, worker_tp: *mut u8, node_frees: *const NodeFrees) {
        self.worker_tp.set(worker_tp);
        self.node_frees.set(node_frees);
    }

    /// Forgets the OS thread: before the task is shipped, as it means nothing elsewhere.
    pub fn clear_worker(&self) {
        self.set_worker(ptr::null_mut(), ptr::null());
    }

    /// The block of the OS thread that runs the task now.
    #[inline]
    pub fn worker_tp(&self) -> *mut u8 {
        self.worker_tp.get()
    }

    #[cfg(target_feature = "crt-static")]
    pub(crate) fn node_frees(&self) -> *const NodeFrees {
        self.node_frees.get()
    }
}

impl Default for HeaderPrefix {
    fn default() -> Self {
        HeaderPrefix::new()
    }
}

/// Runs `f` as the worker below the running mobile task: on its thread block, with the node's heap.
/// On an OS thread, just runs it.
///
/// `f` must not suspend the task, nor unwind (that aborts).
pub fn on_worker<R>(f: impl FnOnce() -> R) -> R {
    let header = HeaderPrefix::current();
    if header.is_null() {
        return f();
    }
    // SAFETY: the header of the running task; its worker waits in `resume` and uses no block, so
    // this OS thread may use it (I1).
    unsafe { with_thread_pointer((*header).worker_tp(), f) }
}

/// Node blocks that mobile tasks of one worker have freed, until the worker frees them for real: the
/// node's allocator wants to be called on the worker's own thread block.
///
/// A stack through the blocks' first words. Any thread may push; the worker takes all.
#[derive(Debug, Default)]
pub struct NodeFrees {
    newest: AtomicPtr<u8>,
}

impl NodeFrees {
    /// Nothing freed yet.
    pub const fn new() -> Self {
        NodeFrees { newest: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Whether there is nothing to free. One load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: a hint; the blocks are taken by the swap in `take`.
        self.newest.load(Ordering::Relaxed).is_null()
    }

    /// Takes a block for the worker to free.
    ///
    /// # Safety
    ///
    /// `block` was allocated by the node's allocator (so it has room for a word), and nobody uses it.
    #[cfg(target_feature = "crt-static")]
    pub(crate) unsafe fn push(&self, block: *mut u8) {
        // Relaxed: only the address is compared; the word it leads to is published below.
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: the block is ours, and holds at least a word, aligned.
            unsafe { block.cast::<*mut u8>().write(newest) };
            // Release: pairs with the swap in `take`, which reads the link.
            match self.newest.compare_exchange_weak(
                newest,
                block,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => newest = now,
            }
        }
    }

    /// Takes the whole list.
    pub(crate) fn take(&self) -> *mut u8 {
        // Acquire: pairs with `push`.
        self.newest.swap(ptr::null_mut(), Ordering::Acquire)
    }
}
