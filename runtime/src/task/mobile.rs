//! A mobile task on a worker: its first step, each run, its end.
//!
//! What touches the node happens here, on the worker's stack; the task's own side is
//! [`mobile_main`]. A run lends the task this worker's identity for its time:
//!
//! ```text
//! begin_run   bind (worker, record, dtv)   FS base = task   switch in
//!                      … the task runs …
//! switch out  FS base = worker   drain what it freed of the node   Yield | Park | Move | end
//! ```

use std::any::Any;
use std::arch::naked_asm;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use migrt_iso::{SlotId, guard, pool};
use migrt_proto::{Epoch, TaskId};

use super::body::MobileBody;
use super::coro::{Coro, Suspend};
use super::header::{FIRST_EXTENT_LEN, Header, Layout, Outcome, TASK_CLASS};
use super::parcel::{self, Label};
use super::prefix::{HeaderPrefix, NodeFrees};
use super::record::TaskRef;
use super::stack::GUARD_LEN;
use super::state::Park;
use super::tls::TlsLayout;
use super::warm::Warm;
use super::{adopted, child, dtors, fd_table, retire, scrub, tls, unusual};
use crate::clock::Charge;
use crate::entry::{self, Entry};
use crate::error::JoinError;
use crate::exec::worker::Worker;

/// Warm task slots kept per worker.
const SLOTS_KEPT: usize = 1200;

/// A worker's parts that serve mobile tasks.
#[derive(Debug)]
pub(crate) struct WorkerPart {
    /// This worker is counted as searching.
    pub(crate) searching: Cell<bool>,
    slots: Warm<SlotId>,
    charge: Charge,
    node_frees: Box<NodeFrees>,
}

impl WorkerPart {
    pub(crate) fn new(warm_count: &'static AtomicU32) -> WorkerPart {
        WorkerPart {
            searching: Cell::new(false),
            slots: Warm::new(SLOTS_KEPT, warm_count),
            charge: Charge::default(),
            node_frees: Box::new(NodeFrees::new()),
        }
    }

    pub(super) fn take_slot(&self) -> Option<SlotId> {
        self.slots.take().or_else(take_slot)
    }

    /// Where tasks that run here leave node blocks that they free.
    pub(super) fn node_frees(&self) -> *const NodeFrees {
        &*self.node_frees
    }

    /// Slots are few: gives the node those that are kept.
    pub(crate) fn clear_slots(&self) {
        self.slots.clear(|slot| pool::global().give_clean(slot));
    }

    /// A slot whose task has ended, its guard in place.
    pub(crate) fn keep_slot(&self, slot: SlotId) {
        let fits = slot.class() == TASK_CLASS && !pool::global().is_scarce(TASK_CLASS);
        let left = if fits { self.slots.keep(slot) } else { Err(slot) };
        if let Err(slot) = left {
            pool::global().give_clean(slot);
        }
    }
}

/// A slot of the node's with a guard in place.
pub(super) fn take_slot() -> Option<SlotId> {
    let taken = pool::global().take_furnished(TASK_CLASS)?;
    if !taken.furnished && !install_guard(taken.slot) {
        pool::global().give_clean(taken.slot);
        return None;
    }
    Some(taken.slot)
}

/// Puts the guard below the stack of the task that will live, or has arrived, in `slot`.
pub(crate) fn install_guard(slot: SlotId) -> bool {
    // SAFETY: the slot is ours (I3) and nothing lies between its first extent and its stack.
    unsafe { guard::install(Layout { slot }.guard(), GUARD_LEN) }.is_ok()
}

impl Drop for WorkerPart {
    fn drop(&mut self) {
        self.clear_slots();
    }
}

/// Runs `task` once on `worker`.
pub(crate) fn run(worker: &Worker, task: TaskRef) {
    let body = task.mobile().expect("a mobile task");
    task.state.begin_run();
    if body.is_tied() && !unusual::may_run(worker, &task, body) {
        return;
    }
    if body.move_asked().is_some() && !body.is_cancelled() && body.may_leave() {
        task.state.freeze_running();
        crate::migrate::depart(task);
        return;
    }
    let header = match body.header() {
        Some(header) => header,
        None => match start(worker, &task, body) {
            Ok(header) => header,
            Err(error) => {
                task.state.finish();
                crate::cluster::home::ended(body, Err(error));
                return;
            }
        },
    };
    if header.is_parcel() && !body.is_cancelled() {
        return parcel::rest(worker, task);
    }
    bind(header, worker, &task, body);
    crate::fence::check();
    worker.running().begin(header);
    let since = worker.mobile.charge.begin();
    // SAFETY: RUNNING says that only this worker touches the coroutine; the thread pointer is the
    // task's own block, in the slot it owns (I3).
    let why = unsafe {
        tls::with_thread_pointer(header.tp(), || {
            (*header.coro.get()).as_mut().expect("a started task has a coroutine").resume()
        })
    };
    worker.running().end();
    header.cpu_ns.fetch_add(worker.mobile.charge.end(since), Ordering::Relaxed);
    worker.mobile.node_frees.drain();
    let Some(why) = why else {
        end(worker, task);
        return;
    };
    if body.is_tied() && unusual::is_over(&task, body) {
        return;
    }
    if why == Suspend::Fault {
        // Neither moved nor cancelled where it stands.
        match task.state.park() {
            Park::Asleep => {}
            Park::Push => crate::exec::door::push(task),
        }
        return;
    }
    let why = if crate::migrate::chaos::is_on() {
        crate::migrate::chaos::suspended(body, why)
    } else {
        why
    };
    if body.move_asked().is_some() && !body.is_cancelled() && body.may_leave() {
        task.state.freeze_running();
        crate::migrate::depart(task);
        return;
    }
    match why {
        Suspend::Park | Suspend::Fault => match task.state.park() {
            Park::Asleep => {}
            Park::Push => worker.push_shared(task),
        },
        Suspend::Yield | Suspend::Move => {
            task.state.requeue();
            worker.push_shared(task);
        }
    }
}

/// Lends the task this worker's identity.
fn bind(header: &Header, worker: &Worker, task: &TaskRef, body: &MobileBody) {
    let tp = tls::thread_pointer();
    header.prefix.set_worker(tp, &*worker.mobile.node_frees);
    header.worker.set(worker);
    header.record.set(task.as_ptr());
    header.cancel.set(body.is_cancelled());
    // SAFETY: `tp` is this thread's, and the task does not run.
    unsafe { TlsLayout::get().lend(header.tp(), tp) };
}

/// The first step: a slot, a header, a TLS block, a heap with the arguments, a stack.
fn start<'a>(
    worker: &Worker,
    task: &'a TaskRef,
    body: &'a MobileBody,
) -> Result<&'a Header, JoinError> {
    let mut call = body.take_call().expect("a task without a header has its call");
    let entry = entry::lookup(entry::EntryId(call.entry.0)).ok_or_else(|| JoinError::Encoding {
        reason: format!("this program has no entry {:#018x}", call.entry.0),
    })?;
    // The pool has the last word on space: nothing was started that must be undone.
    let Some(slot) = worker.mobile.take_slot() else {
        return Err(JoinError::no_slot(TASK_CLASS.slot_len()));
    };
    let header = prepare(slot, body.id, entry);
    header.prefix.set_worker(tls::thread_pointer(), &*worker.mobile.node_frees);
    // A copy of its own: no word of the task's stack may ever lead to node memory.
    // SAFETY: the task does not run yet: its thread block and heap are idle.
    header.args.set(unsafe { tls::with_thread_pointer(header.tp(), || call.args.clone()) });
    worker.keep_buffer(std::mem::take(&mut call.args));
    body.set_header(header);
    let _ = task;
    Ok(header)
}

/// Makes an empty task in `slot`: header, arena, TLS block, coroutine.
pub(super) fn prepare(slot: SlotId, id: TaskId, entry: &'static Entry) -> &'static Header {
    let layout = Layout { slot };
    let at = layout.header();
    // SAFETY: the slot is ours alone (I3) and long enough; all fields are written before any use.
    let header = unsafe {
        at.write(Header {
            prefix: HeaderPrefix::new(),
            id,
            entry,
            slot,
            pins: AtomicU32::new(0),
            coro: UnsafeCell::new(None),
            yielder: Cell::new(ptr::null()),
            root_sp: Cell::new(0),
            worker: Cell::new(ptr::null()),
            record: Cell::new(ptr::null()),
            args: Cell::new(Vec::new()),
            outcome: UnsafeCell::new(None),
            cancel: Cell::new(false),
            chaos: Cell::new(false),
            strategy: Cell::new(None),
            moves: AtomicU32::new(0),
            cpu_ns: AtomicU64::new(0),
            adopted: Cell::new(ptr::null()),
            adopted_count: Cell::new(0),
            sweep_at: Cell::new(0),
            closure: Cell::new(None),
            meeting: Cell::new(None),
            parcel: Label::default(),
        });
        &*at
    };
    // SAFETY: the arena's place and the first extent are this slot's.
    unsafe { header.prefix.init_arena(slot.base(), FIRST_EXTENT_LEN) };
    furnish(header);
    header
}

/// Makes a task of an arena that has none: its blocks stay as they are.
pub(super) fn refurnish(header: &'static Header, id: TaskId, entry: &'static Entry) {
    let at = ptr::from_ref(header).cast_mut();
    // SAFETY: no task uses the header, which is the caller's alone: nobody reads these fields now.
    unsafe {
        (&raw mut (*at).id).write(id);
        (&raw mut (*at).entry).write(entry);
    }
    header.cancel.set(false);
    header.root_sp.set(0);
    header.prefix.trimmed.set(false);
    furnish(header);
}

/// Thread block and coroutine of a task that has not begun.
fn furnish(header: &'static Header) {
    let at = ptr::from_ref(header).cast_mut();
    let (layout, slot) = (header.layout(), header.slot);
    let stack = layout.stack();
    // SAFETY: the block's place is this slot's, and this thread's own block is whole.
    unsafe {
        TlsLayout::get().init_block(layout.tp(), thread_id(slot), layout.stack_low()..stack.base)
    };
    // SAFETY: the stack is this slot's and nothing lies on it.
    let coro = unsafe {
        Coro::new(stack, move |yielder| {
            let header = &*at;
            header.yielder.set(yielder);
            trampoline(header);
        })
    };
    // SAFETY: the task does not run yet.
    unsafe { *header.coro.get() = Some(coro) };
}

/// A thread id for libc: unique in the cluster, as slots are, and above the kernel's own.
fn thread_id(slot: SlotId) -> u32 {
    0x4000_0000 + (u32::from(slot.class().number()) << 24) + slot.index()
}

/// Clears the registers that a callee saves, so that no word of the worker's is pushed onto the
/// task's stack below this frame (which no unwinder passes: it has no unwind table), notes the stack pointer and goes to [`mobile_main`].
#[unsafe(naked)]
unsafe extern "C" fn trampoline(header: *const Header) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "xor ebx, ebx",
        "xor ebp, ebp",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "mov rsi, rsp",
        "call {main}",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        main = sym mobile_main,
    )
}

/// The task's own side: runs the entry, then the destructors of its thread-locals.
extern "C" fn mobile_main(header: *const Header, root_sp: usize) {
    // SAFETY: the task's own header, which outlives its stack.
    let header = unsafe { &*header };
    header.root_sp.set(root_sp);
    // The handle of this "thread" lies in the task's heap from here on.
    let _ = std::thread::current();
    let outcome = {
        match catch_unwind(AssertUnwindSafe(|| (header.entry.run)(take_arguments))) {
            Ok(Ok(bytes)) => Outcome::Returned(bytes),
            Ok(Err(error)) => Outcome::Panicked(error.to_string()),
            Err(panic) => outcome_of_panic(&*panic),
        }
    };
    dtors::run_destructors();
    super::control::reset();
    // SAFETY: only the task itself writes its outcome, once.
    unsafe { *header.outcome.get() = Some(outcome) };
}

/// Shows the running task its encoded arguments and drops them (see `entry::TakeArguments`).
fn take_arguments(visit: &mut dyn FnMut(&[u8])) {
    let header = super::current::mobile().expect("called by an entry, on its task");
    visit(&header.args.take());
}

/// What a cancelled task unwinds with.
struct Cancelled;

/// Unwinds the running task to its root.
pub(crate) fn unwind_cancelled() -> ! {
    resume_unwind(Box::new(Cancelled))
}

fn outcome_of_panic(panic: &(dyn Any + Send)) -> Outcome {
    if panic.is::<Cancelled>() {
        Outcome::Cancelled
    } else {
        Outcome::Panicked(crate::error::panic_text(panic))
    }
}

/// The task has returned: its outcome goes home, its memory back to the node, unless something of
/// it lives on (in a static): then it stays as remains.
pub(super) fn end(worker: &Worker, task: TaskRef) {
    let body = task.mobile().expect("a mobile task");
    let header = body.header().expect("a running task has a header");
    if header.is_child() {
        return child::end(&task);
    }
    if body.is_lacking() {
        return unusual::wait_for_pages(worker, task);
    }
    // SAFETY: the task has returned; only this worker has it, and takes its outcome once.
    let outcome = match unsafe { (*header.outcome.get()).take() } {
        Some(outcome) => outcome,
        None => unreachable!("a task returned without an outcome"),
    };
    let result = match &outcome {
        Outcome::Returned(bytes) => Ok(bytes.clone()),
        Outcome::Panicked(message) => Err(JoinError::Panicked { message: message.clone() }),
        Outcome::Cancelled => Err(JoinError::Cancelled),
    };
    crate::migrate::end_rounds(body);
    // The outcome lies in the task's heap: freed by the task's identity, at once.
    // SAFETY: the task does not run, so its thread block and heap are idle.
    unsafe { tls::with_thread_pointer(header.tp(), || drop(outcome)) };
    fd_table::forget_fds_of(header.tp());
    // Until the header is forgotten: a child that ends meanwhile must find it whole or not at all.
    let kin = body.kin();
    adopted::forget_fds(header);
    header.drain_frees();
    adopted::sweep_all(header);
    let is_parcel = header.is_parcel();
    let lives_on = adopted::is_in_use(&header.prefix) || header.adopted().next().is_some();
    if lives_on {
        // Before the header is forgotten: a census must see the heap as the task's or as remains.
        crate::migrate::remains::keep_ended(header);
        body.clear_header();
        drop(kin);
    } else {
        body.clear_header();
        drop(kin);
        let slot = header.slot;
        // SAFETY: the task has returned; nothing on its stack is needed any more.
        unsafe { scrub::dead_stack(header.layout().stack_low(), header.root_sp.get()) };
        // SAFETY: the task has returned, nothing of its heap is alive.
        unsafe { header.prefix.destroy_arena() };
        if is_parcel {
            // Perhaps it has travelled in the belly of another task. Whoever builds the next one may not
            // be on this worker, so the slot is not kept here.
            adopted::give_up_slot(&header.prefix, slot);
        } else if body.epoch.load(Ordering::Relaxed) > Epoch::FIRST.0 {
            retire::give_up(body.id, slot);
        } else {
            worker.mobile.keep_slot(slot);
        }
    }
    task.state.finish();
    crate::cluster::home::ended(body, result);
    if is_parcel {
        parcel::news(body.id);
    }
}
