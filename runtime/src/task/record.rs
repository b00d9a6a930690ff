//! The record of a task on this node: what queues, timers and handles refer to.
//!
//! A record lives in node memory and is recycled through a free list of the worker that drops the
//! last reference, so spawning calls no allocator once warm. A *local* task's record holds its
//! closure and later its result; a *mobile* task's points to the header in its slot, and exists on
//! each node the task visits.
//!
//! ```text
//! TaskRef ──> Record { state, refs, join, body: Local { payload, coro, stack } }
//!                                    └── or  Mobile { id, header ──> task slot }
//! ```

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::body::MobileBody;
use super::join::JoinWord;
use super::local::LocalBody;
use super::state::State;
use crate::exec::worker::Worker;

/// Which kind of task, and its parts.
#[derive(Debug)]
pub(crate) enum Body {
    /// The record is on a free list.
    Vacant,
    Local(LocalBody),
    Mobile(MobileBody),
}

/// See the module. `repr(C)` and aligned so that pointers to it have free low bits. Not to a cache
/// line: the allocator gives so aligned a block of three lines the room of four, and of parked tasks
/// there are many.
#[repr(C, align(16))]
pub(crate) struct Record {
    pub(crate) state: State,
    refs: AtomicU32,
    pub(crate) join: JoinWord,
    body: UnsafeCell<Body>,
}

const _: () = assert!(size_of::<Record>() <= 160, "a block of the allocator more for each task");

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("state", &self.state).finish_non_exhaustive()
    }
}

// SAFETY: `state`, `refs` and `join` are atomics; `body` is only touched as its accessors say.
unsafe impl Send for Record {}
// SAFETY: as above.
unsafe impl Sync for Record {}

impl Record {
    /// The body, for parts that are themselves atomics or do not change after spawn.
    #[inline]
    pub(crate) fn body(&self) -> &Body {
        // SAFETY: the variant is written only while nobody else refers to the record; parts that
        // change later are cells that their owner (the worker that runs the task) touches alone.
        unsafe { &*self.body.get() }
    }

    #[inline]
    pub(crate) fn local(&self) -> &LocalBody {
        match self.body() {
            Body::Local(local) => local,
            other => unreachable!("a local task's record holds {other:?}"),
        }
    }

    #[inline]
    pub(crate) fn mobile(&self) -> Option<&MobileBody> {
        match self.body() {
            Body::Mobile(mobile) => Some(mobile),
            _ => None,
        }
    }
}

/// A counted reference to a record.
pub(crate) struct TaskRef(NonNull<Record>);

// SAFETY: a record is Sync and its count is atomic.
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskRef({:?})", self.0)
    }
}

impl TaskRef {
    /// A record for a new task, from the worker's free list if there is one.
    pub(crate) fn new(worker: Option<&Worker>, body: Body) -> TaskRef {
        if let Some(record) = worker.and_then(Worker::take_record) {
            // SAFETY: a record on a free list is referred to by nobody else.
            let fresh = unsafe { record.as_ref() };
            fresh.state.reset();
            fresh.join.reset();
            // Relaxed: published by the push that follows.
            fresh.refs.store(1, Ordering::Relaxed);
            // SAFETY: as above; the old body is Vacant and needs no drop.
            unsafe { fresh.body.get().write(body) };
            return TaskRef(record);
        }
        // Zeros, padding included: what the allocator's block held before, or this stack, would look
        // like references to tasks' memory for as long as the record is recycled.
        let record = Box::leak(Box::<Record>::new_zeroed()).as_mut_ptr();
        // SAFETY: room for a record that nobody has yet; fields are written one by one so that no
        // padding is copied.
        unsafe {
            (&raw mut (*record).state).write(State::new());
            (&raw mut (*record).refs).write(AtomicU32::new(1));
            (&raw mut (*record).join).write(JoinWord::new());
            (&raw mut (*record).body).write(UnsafeCell::new(body));
            TaskRef(NonNull::new_unchecked(record))
        }
    }

    /// The reference as a word, count included; [`TaskRef::from_raw`] takes it back.
    #[inline]
    pub(crate) fn into_raw(self) -> *const Record {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// # Safety
    /// `raw` came from [`TaskRef::into_raw`] and its count is handed over here.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *const Record) -> TaskRef {
        // SAFETY: never null by the contract.
        TaskRef(unsafe { NonNull::new_unchecked(raw.cast_mut()) })
    }

    pub(crate) fn as_ptr(&self) -> *const Record {
        self.0.as_ptr()
    }
}

impl std::ops::Deref for TaskRef {
    type Target = Record;
    #[inline]
    fn deref(&self) -> &Record {
        // SAFETY: counted, so alive.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for TaskRef {
    #[inline]
    fn clone(&self) -> TaskRef {
        // Relaxed: a new reference comes from an existing one.
        let before = self.refs.fetch_add(1, Ordering::Relaxed);
        assert!(before < u32::MAX / 2, "reference count of a task overflows");
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    #[inline]
    fn drop(&mut self) {
        // Release: what this holder did happens before the recycling.
        if self.refs.fetch_sub(1, Ordering::Release) == 1 {
            // Acquire pairs with the releases of the other holders.
            fence(Ordering::Acquire);
            recycle(self.0);
        }
    }
}

/// Empties a record nobody refers to and keeps it for the next task.
fn recycle(record: NonNull<Record>) {
    // SAFETY: the count is zero: this is the only pointer.
    let body = unsafe { record.as_ref().body.get() };
    // SAFETY: as above.
    unsafe { std::ptr::drop_in_place(body) };
    // What it was of stays a live block of the node, and a census would take what is left in it for
    // references to the task's memory.
    // SAFETY: as above; dropped just now.
    unsafe { body.write_bytes(0, 1) };
    // SAFETY: as above.
    unsafe { body.write(Body::Vacant) };
    if let Some(worker) = Worker::current()
        && worker.keep_record(record)
    {
        return;
    }
    // SAFETY: it came from `Box::leak` in `TaskRef::new`.
    drop(unsafe { Box::from_raw(record.as_ptr()) });
}
