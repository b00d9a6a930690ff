//! A child: the task of a closure that a *mobile* task spawns.
//!
//! It is a local task to its user, who sees a [`LocalHandle`](super::spawn::LocalHandle), and it never
//! leaves its node. Inside it is built as a mobile task is, with a slot, thread-locals and a heap of
//! its own (`header.rs` has the picture), but no home knows of it. So what it allocates can become its
//! parent's without a copy:
//!
//! ```text
//! spawn     slot taken, closure and packet put into the child's heap, parent pinned
//! run       by any worker
//! end       the outcome lies in the packet; the arena is adopted by the parent. If that has ended it
//!           stays as remains, unless nothing in it is alive
//! join      takes the value out of the packet: no byte of it is copied
//! ```
//!
//! The packet lies in the child's heap, so a handle is an address in a slot that the parent owns: it
//! travels with the parent. While the child lives its parent stays put, and so do all whom the parent
//! is a child of: a child's child has the same parent as the child, the mobile task itself.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use migrt_iso::{PAGE_LEN, SlotId, page};

use super::body::MobileBody;
use super::current::{self, on_worker, wait_through, wait_until};
use super::header::{FIRST_EXTENT_LEN, Header, TASK_CLASS};
use super::join::JoinWord;
use super::parent::ParentPin;
use super::record::{Body, TaskRef};
use super::{adopted, fd_table, mobile, parcel, retire, tls};
use crate::entry::{Entry, EntryError, TakeArguments};
use crate::error::JoinError;
use crate::exec::door;
use crate::exec::worker::Worker;

/// What children have in the place of an entry.
static CLOSURE: Entry = Entry::new("a closure", file!(), line!(), run_closure);

/// The closure of a child that has not begun, in its own heap.
pub(super) type Closure = Box<dyn FnOnce()>;

/// Where parent and child meet: the child's end and its outcome.
pub(crate) struct Packet<T> {
    join: JoinWord,
    side: AtomicU8,
    outcome: UnsafeCell<Option<Result<T, JoinError>>>,
}

/// The child has put its outcome there.
const DONE: u8 = 1;
/// The handle was dropped.
const ABANDONED: u8 = 2;

// SAFETY: made for results that are Send only; `outcome` belongs to the child until `join` says that
// it has ended, then to the one handle; `side` settles who drops one that nobody takes.
unsafe impl<T> Send for Packet<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Packet<T> {}

/// A packet whose type is not known.
pub(super) trait Meeting {
    fn join(&self) -> &JoinWord;
}

impl<T> Meeting for Packet<T> {
    fn join(&self) -> &JoinWord {
        &self.join
    }
}

impl<T> Packet<T> {
    fn new() -> Packet<T> {
        Packet { join: JoinWord::new(), side: AtomicU8::new(0), outcome: UnsafeCell::new(None) }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.join.is_ended()
    }

    /// On the child, as the last step of its closure.
    fn put(&self, outcome: Result<T, JoinError>) {
        // SAFETY: the handle looks at it only after this task has ended, or has been dropped.
        unsafe { *self.outcome.get() = Some(outcome) };
        // AcqRel: the outcome is published; pairs with the swap in `abandon`.
        if self.side.swap(DONE, Ordering::AcqRel) == ABANDONED {
            drop(self.take());
        }
    }

    /// Takes the outcome: the handle, after the child's end, or whoever was last at `side`.
    pub(super) fn take(&self) -> Option<Result<T, JoinError>> {
        // SAFETY: one of the two at a time, as said at `Send`.
        unsafe { (*self.outcome.get()).take() }
    }

    /// The handle is dropped: an outcome that lies there is dropped by its dropper.
    pub(super) fn abandon(&self) {
        if self.side.swap(ABANDONED, Ordering::AcqRel) == DONE {
            drop(self.take());
        }
    }
}

/// Which arena a child is to have.
#[derive(Clone, Copy)]
pub(super) enum Ground {
    /// A new one.
    New,
    /// A new one without anything that its slot held before: it becomes a parcel.
    Empty,
    /// One with live blocks in it, that is on no list.
    Parcel(&'static Header),
}

/// Starts a child of the running mobile task, or of the one that the caller is a child of. `None`:
/// there is no slot left, and the closure was dropped.
pub(super) fn spawn<F, T>(closure: F) -> Option<Arc<Packet<T>>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    spawn_on(Ground::New, closure)
}

/// As [`spawn`], for any caller: a child that has no mobile task for a parent leaves its arena to the node
/// (`parcel`).
pub(super) fn spawn_on<F, T>(ground: Ground, closure: F) -> Option<Arc<Packet<T>>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let mut closure = Some(closure);
    on_worker(|worker| {
        let parent = worker.and_then(parent_of);
        let header = reserve(worker, parent.as_ref(), ground)?;
        // SAFETY: the child does not run yet: its thread block and heap are idle.
        let packet = unsafe {
            tls::with_thread_pointer(header.tp(), || {
                let packet = Arc::new(Packet::new());
                let (closure, to) = (closure.take().expect("taken once"), packet.clone());
                header.closure.set(Some(Box::new(move || run(closure, &to))));
                let meeting: Arc<dyn Meeting> = packet.clone();
                header.meeting.set(Some(meeting));
                packet
            })
        };
        let body = MobileBody::of_child(header, parent.map(ParentPin::new));
        door::push(TaskRef::new(worker, Body::Mobile(body)));
        Some(packet)
    })
}

/// As [`join`], and goes on waiting when the caller is cancelled: the child uses what the caller has lent it.
pub(super) fn join_through<T>(packet: Arc<Packet<T>>) -> Result<T, JoinError> {
    if !packet.is_ended() {
        wait_through(|waker| packet.join.set_waiter(waker).then_some(()));
    }
    packet.take().expect("the outcome of a child is taken once")
}

/// Waits for the child's end and takes its outcome.
pub(super) fn join<T>(packet: Arc<Packet<T>>) -> Result<T, JoinError> {
    /// Says that nobody waits any more, also when a cancelled task unwinds.
    struct Handle<T>(Arc<Packet<T>>);
    impl<T> Drop for Handle<T> {
        fn drop(&mut self) {
            self.0.abandon();
        }
    }
    let handle = Handle(packet);
    if !handle.0.is_ended() {
        wait_until(|waker| handle.0.join.set_waiter(waker).then_some(()));
    }
    let outcome = handle.0.take().expect("the outcome of a child is taken once");
    drop(handle);
    sweep();
    outcome
}

/// Gives up arenas that the running mobile task has adopted and that are dead by now, if they are many.
fn sweep() {
    let Some(header) = current::mobile().filter(|header| header.has_adopted()) else { return };
    header.on_worker(|worker| {
        if let Some(body) = worker.task().and_then(|record| record.mobile()) {
            let _kin = body.kin();
            adopted::sweep_if_due(header);
        }
    });
}

/// The mobile task that a child spawned on `worker` now belongs to; `None` if a local task runs there, or
/// nothing.
pub(super) fn parent_of(worker: &Worker) -> Option<TaskRef> {
    let record = worker.task()?;
    match record.mobile()?.parent() {
        Some(pin) => Some(pin.task().clone()),
        None if record.mobile()?.header()?.is_child() => None,
        None => {
            // SAFETY: the run holds a reference to the record; the clone counts one more.
            let task = ManuallyDrop::new(unsafe { TaskRef::from_raw(record) });
            Some(TaskRef::clone(&task))
        }
    }
}

/// A slot with an empty task in it.
fn reserve(
    worker: Option<&Worker>,
    parent: Option<&TaskRef>,
    ground: Ground,
) -> Option<&'static Header> {
    let caller = worker
        .and_then(|w| w.task())
        .and_then(|record| record.mobile())
        .and_then(MobileBody::header);
    let owner = parent.map(|parent| parent.mobile().expect("a mobile task"));
    let id = owner.map_or_else(parcel::builder_id, |owner| owner.id);
    let header = match ground {
        Ground::Parcel(header) => {
            if header.prefix.has_travelled() && !mobile::install_guard(header.slot) {
                return None;
            }
            mobile::refurnish(header, id, &CLOSURE);
            header
        }
        Ground::New | Ground::Empty => {
            let (slot, travelled) = take_slot(worker, owner)?;
            if travelled && !mobile::install_guard(slot) {
                retire::park(id, slot);
                return None;
            }
            if matches!(ground, Ground::Empty) {
                // SAFETY: nothing lives in the slot, which was taken for the child (I3).
                unsafe { page::discard(slot.base(), FIRST_EXTENT_LEN) };
            }
            let header = mobile::prepare(slot, id, &CLOSURE);
            if travelled {
                header.prefix.set_travelled(id);
            }
            header
        }
    };
    header.prefix.wants_empty.set(!matches!(ground, Ground::New));
    let node_frees = worker.map_or(ptr::null(), |worker| worker.mobile.node_frees());
    header.prefix.set_worker(tls::thread_pointer(), node_frees);
    if let Some(caller) = caller {
        // An `Instant` that is handed over means the same to both.
        let offset = caller.prefix.clock_offset_ns.load(Ordering::Relaxed);
        header.prefix.clock_offset_ns.store(offset, Ordering::Relaxed);
    }
    // Before anything is put there that a census should see.
    registry::insert(header.slot);
    Some(header)
}

/// A slot for a child, and whether it has travelled.
fn take_slot(worker: Option<&Worker>, owner: Option<&MobileBody>) -> Option<(SlotId, bool)> {
    if let Some(owner) = owner {
        // What is being copied keeps its arenas: one that left and came back would be another, with the
        // same slot.
        let is_copied = owner.any_journey().is_some_and(|journey| journey.copying.is_some());
        let _kin = owner.kin();
        let spare = owner.header().filter(|_| !is_copied).and_then(adopted::reuse);
        if spare.is_some() {
            return spare;
        }
    }
    // As any task's: slots that were promised to others are not taken.
    let _promise = door::promise_slot(TASK_CLASS)?;
    let slot = match worker {
        Some(worker) => worker.mobile.take_slot()?,
        None => mobile::take_slot()?,
    };
    Some((slot, false))
}

/// The closure's whole life, on the child.
fn run<F: FnOnce() -> T, T>(closure: F, packet: &Packet<T>) {
    packet.put(match catch_unwind(AssertUnwindSafe(closure)) {
        Ok(value) => Ok(value),
        Err(panic) => Err(JoinError::from_panic(&*panic)),
    });
}

/// The entry of all children.
fn run_closure(_: TakeArguments) -> Result<Vec<u8>, EntryError> {
    let header = current::mobile().expect("called by an entry, on its task");
    let closure = header.closure.take().expect("a child begins once");
    closure();
    Ok(Vec::new())
}

impl Header {
    /// Whether it is that of a child.
    pub(crate) fn is_child(&self) -> bool {
        ptr::eq(self.entry, &CLOSURE)
    }
}

/// The child has returned: its arena goes to its parent, whoever waits is told.
pub(super) fn end(task: &TaskRef) {
    let body = task.mobile().expect("a child is built as a mobile task");
    let header = body.header().expect("a running task has a header");
    let meeting = header.meeting.take().expect("taken here only");
    header.prefix.wants_empty.set(false);
    header.drain_frees();
    let Some(pin) = body.parent() else {
        // SAFETY: headers stay mapped, and this one is the arena's for as long as that is in use.
        let header: &'static Header = unsafe { &*ptr::from_ref(header) };
        return end_alone(task, header, meeting);
    };
    let owner = pin.body();
    let kin = owner.kin();
    body.clear_header();
    let waker;
    if Arc::strong_count(&meeting) == 1 {
        // Nobody has a handle any more; one that waited may have been cancelled.
        waker = meeting.join().close();
        // SAFETY: the child has returned, so its thread block and heap are idle.
        unsafe { tls::with_thread_pointer(header.tp(), || drop(meeting)) };
        settle(header, owner.header());
        pin.release();
    } else {
        settle(header, owner.header());
        // Before the end is seen: rule 2 of `adopted`.
        pin.release();
        waker = meeting.join().close();
        // Counts in memory that is the parent's now, so before the parent may leave. Perhaps the last
        // one: then the packet is freed from afar.
        drop(meeting);
    }
    drop(kin);
    task.state.finish();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// As [`end`], of a child that no mobile task has started: its arena is the node's.
fn end_alone(task: &TaskRef, header: &'static Header, meeting: Arc<dyn Meeting>) {
    let body = task.mobile().expect("a child is built as a mobile task");
    body.clear_header();
    let waker = if Arc::strong_count(&meeting) == 1 {
        let waker = meeting.join().close();
        // SAFETY: as in `end`.
        unsafe { tls::with_thread_pointer(header.tp(), || drop(meeting)) };
        leave_to_node(header);
        waker
    } else {
        leave_to_node(header);
        let waker = meeting.join().close();
        drop(meeting);
        waker
    };
    task.state.finish();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn leave_to_node(header: &'static Header) {
    strip(header);
    // Read before the header may be gone: an arena in which nothing lives is given up at once.
    let slot = header.slot;
    parcel::leave_to_node(header);
    registry::remove(slot);
}

/// Finds the child's arena its next owner.
fn settle(header: &Header, owner: Option<&Header>) {
    let arena = &header.prefix;
    let slot = header.slot;
    if let Some(owner) = owner {
        let cpu = header.cpu_ns.load(Ordering::Relaxed);
        owner.cpu_ns.fetch_add(cpu, Ordering::Relaxed);
    }
    strip(header);
    match owner {
        Some(owner) => {
            header.parcel.set_holder(owner.id);
            adopted::adopt(owner, arena);
            registry::remove(slot);
            adopted::sweep_if_due(owner);
        }
        None if !adopted::is_in_use(arena) => {
            registry::remove(slot);
            adopted::give_up(arena);
        }
        None => {
            fd_table::forget_fds_of(header.tp());
            crate::migrate::remains::keep_ended(header);
            registry::remove(slot);
        }
    }
}

/// Takes out of the page of the header what meant something to the child alone, so that only the
/// arena travels: words of this node, the thread block, the coroutine.
pub(super) fn strip(header: &Header) {
    header.worker.set(ptr::null());
    header.record.set(ptr::null());
    header.yielder.set(ptr::null());
    header.prefix.clear_worker();
    // SAFETY: the child has returned; nobody touches its coroutine any more.
    unsafe { *header.coro.get() = None };
    let page = adopted::prefix_page(&header.prefix);
    let len = ptr::from_ref(header) as usize - page;
    // SAFETY: below the header in the same page: the thread block of a task that has ended, in a slot
    // of this node (I3).
    unsafe { (page as *mut u8).write_bytes(0, len) };
}

const _: () = assert!(tls::TCB_SPACE + super::header::HEADER_SPACE < PAGE_LEN);

/// The slots of all children that live on this node: a census reads them as it reads mobile tasks.
pub(crate) mod registry {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use migrt_iso::SlotId;

    static CHILDREN: Mutex<BTreeSet<SlotId>> = Mutex::new(BTreeSet::new());

    /// No child begins or ends while the guard lives.
    pub(crate) fn lock() -> MutexGuard<'static, BTreeSet<SlotId>> {
        CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::task) fn insert(slot: SlotId) {
        lock().insert(slot);
    }

    pub(in crate::task) fn remove(slot: SlotId) {
        lock().remove(&slot);
    }
}
