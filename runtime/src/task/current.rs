//! Who runs here, and the one way to wait.
//!
//! Code of the runtime that a task calls runs on the task's stack. What it may do there:
//!
//! * on a *mobile* task nothing that touches node memory; it goes to the worker's stack and the
//!   worker's thread-locals for that ([`on_worker`]), and brings back plain values only;
//! * on a *local* task anything: it runs on its worker's thread-locals.
//!
//! Every wait is a loop of "look, register, suspend" ([`wait_until`]): a task may be woken at any
//! time for no reason that it knows, such as its arrival on another node.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::coro::Suspend;
use super::header::Header;
use super::join::{ThreadWaiter, Waker};
use super::{scrub, tls};
use crate::exec::worker::Worker;

/// The mobile task that runs here, found by its thread pointer: its identity as a thread.
#[inline]
pub(crate) fn mobile() -> Option<&'static Header> {
    let tp = tls::thread_pointer() as usize;
    if !migrt_iso::in_region(tp) {
        return None;
    }
    // SAFETY: a thread pointer in the region is a task's, and its header lies at this offset for
    // as long as the task runs (it is the caller).
    Some(unsafe { &*((tp + tls::TCB_SPACE) as *const Header) })
}

/// Calls `f` where node memory may be touched: with the worker that runs the current task, or
/// with `None` on a thread that is no worker.
///
/// For a mobile task `f` runs on the worker's stack with the worker's thread-locals.
#[inline]
pub(crate) fn on_worker<R>(f: impl FnOnce(Option<&Worker>) -> R) -> R {
    match mobile() {
        Some(header) => header.on_worker(|worker| f(Some(worker))),
        None => f(Worker::current()),
    }
}

/// Whether the caller is a task that can be suspended now. While a thread unwinds it is not: the
/// count of panics is partly a static (facts S3).
fn can_suspend() -> bool {
    !std::thread::panicking()
        && (mobile().is_some() || Worker::current().is_some_and(|w| w.task().is_some()))
}

/// Gives the worker back. Returns when the task is resumed, maybe on another node.
///
/// # Panics
/// If the caller is no task.
pub(crate) fn suspend(why: Suspend) {
    match mobile() {
        Some(header) => header.suspend(why),
        None => {
            let worker = Worker::current().expect("only a task can be suspended");
            let yielder =
                worker.task().expect("only a task can be suspended").local().yielder.get();
            // SAFETY: set at the task's first step; it lives on the task's stack, where we are.
            let yielder = unsafe { &*yielder };
            super::control::around_suspension(|| yielder.suspend(why));
        }
    }
}

/// Waits until `poll` gives something. `poll` runs on the worker's side; when it gives nothing it
/// has registered (a clone of) the waker with whatever will change.
pub(crate) fn wait_until<T>(poll: impl FnMut(&Waker) -> Option<T>) -> T {
    wait(poll, || suspend(Suspend::Park))
}

/// As [`wait_until`], and a task that is cancelled meanwhile goes on waiting. It must not take long.
pub(crate) fn wait_through<T>(poll: impl FnMut(&Waker) -> Option<T>) -> T {
    wait(poll, || match mobile() {
        Some(header) => header.suspend_through(Suspend::Park),
        None => suspend(Suspend::Park),
    })
}

#[inline(always)]
fn wait<T>(mut poll: impl FnMut(&Waker) -> Option<T>, suspend: impl Fn()) -> T {
    if can_suspend() {
        loop {
            // Written only when there is something: of a `None` that is passed back, the bytes
            // behind it are what the worker's stack held before, and they would be seen on ours.
            let mut found = None;
            on_worker(|worker| {
                if let Some(value) = poll(&worker.expect("a task runs on a worker").waker()) {
                    found = Some(value);
                }
            });
            match found {
                Some(value) => return value,
                None => {
                    scrub::below::<{ scrub::SHALLOW }>();
                    suspend();
                }
            }
        }
    }
    on_worker(|_| {
        let waiter = ThreadWaiter::new();
        let waker = Waker::thread(waiter.clone());
        loop {
            match poll(&waker) {
                Some(value) => return value,
                None => waiter.wait(),
            }
        }
    })
}

/// Lets other tasks run, then goes on. Outside a task it yields the OS thread.
///
/// A mobile task may find itself on another node afterwards.
#[inline(always)]
pub fn yield_now() {
    scrub::below::<{ scrub::SHALLOW }>();
    do_yield();
}

#[inline(never)]
fn do_yield() {
    if can_suspend() {
        suspend(Suspend::Yield);
    } else {
        std::thread::yield_now();
    }
}

/// [`to_callers_heap`] of a value that is not needed any more; no copy is made for a local task.
pub(crate) fn into_callers_heap<T: Clone>(value: T) -> T {
    match Worker::current().and_then(Worker::task).and_then(super::record::Record::mobile) {
        Some(_) => to_callers_heap(&value),
        None => value,
    }
}

/// The value for the one who asked, to be [decoded](decode) on its own side. What is made of parts on the worker's
/// stack brings bytes of that along wherever it has padding, and in the task's heap these would be addresses of
/// this node.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let bytes = postcard::to_stdvec(value).expect("plain values encode");
    to_callers_heap(&bytes)
}

/// The value, in the heap of whoever calls this.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("just encoded")
}

/// A copy in the heap of the one who asked: called on the worker's side, while the task waits. Of values without
/// padding on the heap; others are [encoded](encode).
pub(crate) fn to_callers_heap<T: Clone>(value: &T) -> T {
    let worker = Worker::current();
    match worker.and_then(Worker::task).and_then(super::record::Record::mobile) {
        Some(body) => {
            let header = body.header().expect("a task that waits has started");
            // SAFETY: the task waits in `on_worker`, so its thread block and heap are idle.
            unsafe { tls::with_thread_pointer(header.tp(), || value.clone()) }
        }
        None => value.clone(),
    }
}
