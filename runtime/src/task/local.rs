//! A local task: a closure that runs on the node's heap and its worker's thread-locals. (What a
//! *mobile* task spawns is built differently: `child.rs`.)
//!
//! The payload of its record is, one after the other:
//!
//! ```text
//! spawn          first step                        return          join
//! closure ──────> moved to its own stack ────────> result ───────> taken out
//! (inline up to 64 bytes, boxed above)             (inline or boxed)
//! ```
//!
//! Any worker may take it before its first step; from then on only the worker that ran that step
//! resumes it, since its stack may hold addresses of that worker's thread-locals (facts T1).

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::mem::{MaybeUninit, align_of, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use super::coro::{Coro, TaskYielder};
use super::promise::SlotPromise;
use super::record::{Body, Record, TaskRef};
use super::stack::Stack;
use crate::error::JoinError;
use crate::exec::worker::Worker;

const PAYLOAD_WORDS: usize = 8;
type Payload = [MaybeUninit<u64>; PAYLOAD_WORDS];

/// Not started yet: any worker may take it.
pub(crate) const NO_WORKER: u32 = u32::MAX;

/// What the payload holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Closure,
    Nothing,
    Outcome,
}

/// How to treat the payload of a closure of one type.
struct Vtable {
    /// Moves the closure out, runs it, writes the outcome.
    run: unsafe fn(*const Record),
    drop_closure: unsafe fn(*mut u8),
    drop_outcome: unsafe fn(*mut u8),
}

/// See the module.
pub(crate) struct LocalBody {
    vtable: &'static Vtable,
    payload: UnsafeCell<Payload>,
    holds: Cell<Holds>,
    /// The worker that ran its first step, or [`NO_WORKER`].
    pub(crate) worker: AtomicU32,
    pub(crate) coro: UnsafeCell<Option<Coro>>,
    pub(crate) stack: Cell<Option<Stack>>,
    pub(crate) yielder: Cell<*const TaskYielder>,
    /// The size class its stack comes from.
    pub(crate) stack_class: migrt_iso::SlotClass,
    /// Of a stack, until it has one.
    promise: Cell<Option<SlotPromise>>,
}

impl fmt::Debug for LocalBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBody").field("holds", &self.holds).finish_non_exhaustive()
    }
}

/// How a local task's value is stored: in the payload, or boxed and the box there.
struct Cellar<T>(std::marker::PhantomData<T>);

impl<T> Cellar<T> {
    const INLINE: bool =
        size_of::<T>() <= size_of::<Payload>() && align_of::<T>() <= align_of::<u64>();

    /// # Safety
    /// `at` is a payload that holds nothing.
    unsafe fn put(at: *mut u8, value: T) {
        if Self::INLINE {
            // SAFETY: it fits, by INLINE; the payload is writable by the contract.
            unsafe { at.cast::<T>().write(value) }
        } else {
            // SAFETY: a pointer fits.
            unsafe { at.cast::<Box<T>>().write(Box::new(value)) }
        }
    }

    /// # Safety
    /// `at` is a payload that holds a `T` put there, which is not used again.
    unsafe fn take(at: *mut u8) -> T {
        if Self::INLINE {
            // SAFETY: by the contract.
            unsafe { at.cast::<T>().read() }
        } else {
            // SAFETY: by the contract.
            *unsafe { at.cast::<Box<T>>().read() }
        }
    }

    unsafe fn drop(at: *mut u8) {
        // SAFETY: by the contract of `take`.
        drop(unsafe { Self::take(at) })
    }
}

type Outcome<T> = Result<T, JoinError>;

unsafe fn run<F, T>(record: *const Record)
where
    F: FnOnce() -> T,
{
    // SAFETY: the worker that runs the task holds a reference to its record until it ends.
    let body = unsafe { &*record }.local();
    debug_assert_eq!(body.holds.get(), Holds::Closure);
    body.holds.set(Holds::Nothing);
    let payload = body.payload.get().cast::<u8>();
    // SAFETY: it held the closure, of this type by the vtable.
    let closure = unsafe { Cellar::<F>::take(payload) };
    let outcome = match catch_unwind(AssertUnwindSafe(closure)) {
        Ok(value) => Ok(value),
        Err(panic) => Err(JoinError::from_panic(&*panic)),
    };
    super::control::reset();
    // SAFETY: the payload holds nothing.
    unsafe { Cellar::<Outcome<T>>::put(payload, outcome) };
    body.holds.set(Holds::Outcome);
}

impl LocalBody {
    pub(crate) fn new<F, T>(
        closure: F,
        stack_class: migrt_iso::SlotClass,
        promise: Option<SlotPromise>,
    ) -> LocalBody
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        struct Typed<F, T>(std::marker::PhantomData<(F, T)>);
        impl<F: FnOnce() -> T, T> Typed<F, T> {
            const VTABLE: Vtable = Vtable {
                run: run::<F, T>,
                drop_closure: Cellar::<F>::drop,
                drop_outcome: Cellar::<Outcome<T>>::drop,
            };
        }
        let body = LocalBody {
            vtable: &Typed::<F, T>::VTABLE,
            payload: UnsafeCell::new([MaybeUninit::uninit(); PAYLOAD_WORDS]),
            holds: Cell::new(Holds::Closure),
            worker: AtomicU32::new(NO_WORKER),
            coro: UnsafeCell::new(None),
            stack: Cell::new(None),
            yielder: Cell::new(std::ptr::null()),
            stack_class,
            promise: Cell::new(promise),
        };
        // SAFETY: a new payload holds nothing.
        unsafe { Cellar::<F>::put(body.payload.get().cast(), closure) };
        body
    }

    /// Binds a stack and puts the task's body onto it: its first step.
    pub(crate) fn start(&self, record: *const Record, worker: &Worker) -> Result<(), JoinError> {
        let stack = worker
            .take_stack(self.stack_class)
            .ok_or_else(|| JoinError::no_slot(self.stack_class.slot_len()))?;
        drop(self.promise.take());
        // Relaxed: wakers read it after the park of this first run, which releases it.
        self.worker.store(worker.index() as u32, Ordering::Relaxed);
        let bounds = stack.bounds();
        stack.set_tenant(record);
        self.stack.set(Some(stack));
        let body = move |yielder: &TaskYielder| {
            // SAFETY: as in `run`.
            let local = unsafe { &*record }.local();
            local.yielder.set(yielder);
            // SAFETY: the vtable is the closure's.
            unsafe { (local.vtable.run)(record) };
        };
        // SAFETY: the stack was taken for this task alone and is kept until it has returned.
        let coro = unsafe { Coro::new(bounds, body) };
        // SAFETY: only the worker that runs the task touches `coro`.
        unsafe { *self.coro.get() = Some(coro) };
        Ok(())
    }

    /// The task could not run at all: that is its outcome. `T` is unknown here, but an `Err` of
    /// `Result<T, JoinError>` cannot be written without it, so the error is kept beside.
    pub(crate) fn started(&self) -> bool {
        self.worker.load(Ordering::Relaxed) != NO_WORKER
    }

    /// The task has returned: its stack goes back.
    pub(crate) fn end(&self, worker: &Worker) {
        // SAFETY: only the worker that runs the task touches `coro`; it has returned.
        unsafe { *self.coro.get() = None };
        if let Some(stack) = self.stack.take() {
            stack.set_tenant(std::ptr::null());
            worker.keep_stack(stack);
        }
    }

    /// Takes the outcome out.
    ///
    /// # Safety
    /// `T` is the task's result type and the task has ended (its join word says so).
    pub(crate) unsafe fn take_outcome<T>(&self) -> Outcome<T> {
        match self.holds.replace(Holds::Nothing) {
            // SAFETY: by the contract and the mark.
            Holds::Outcome => unsafe { Cellar::<Outcome<T>>::take(self.payload.get().cast()) },
            Holds::Closure => {
                // SAFETY: by the mark.
                unsafe { (self.vtable.drop_closure)(self.payload.get().cast()) };
                Err(JoinError::no_slot(self.stack_class.slot_len()))
            }
            Holds::Nothing => unreachable!("I2: the outcome of a local task was taken twice"),
        }
    }
}

impl Drop for LocalBody {
    fn drop(&mut self) {
        let payload = self.payload.get().cast::<u8>();
        match self.holds.get() {
            // SAFETY: by the mark.
            Holds::Closure => unsafe { (self.vtable.drop_closure)(payload) },
            // SAFETY: by the mark.
            Holds::Outcome => unsafe { (self.vtable.drop_outcome)(payload) },
            Holds::Nothing => {}
        }
    }
}

/// A new local task; the caller queues it.
pub(crate) fn new_task<F, T>(
    worker: Option<&Worker>,
    closure: F,
    stack_class: migrt_iso::SlotClass,
    promise: Option<SlotPromise>,
) -> TaskRef
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    TaskRef::new(worker, Body::Local(LocalBody::new(closure, stack_class, promise)))
}
