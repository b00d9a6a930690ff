//! `spawn`: one verb for closures (local tasks) and calls of `#[migratable]` functions (mobile
//! tasks), and the handle that fits.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use migrt_iso::SlotClass;
use migrt_proto::NodeId;
use migrt_proto::wire::Refusal;

use super::child::{self, Packet};
use super::current::{self, on_worker, wait_until};
use super::handle::JoinHandle;
use super::header::TASK_CLASS;
use super::record::TaskRef;
use super::stack::DEFAULT_CLASS;
use super::{local, scrub};
use crate::cluster::cluster;
use crate::entry::Call;
use crate::error::JoinError;
use crate::exec::door;

/// What [`spawn`] can start. Implemented for closures and for the calls that `#[migratable]`
/// functions return; not meant to be implemented by hand.
pub trait Spawn {
    /// The handle to join the task with.
    type Handle;
    /// Starts it.
    fn spawn(self) -> Self::Handle;
}

/// Starts a task: a closure as a local task, a call of a `#[migratable]` function as a mobile one.
///
/// A *local* task runs on this node from its first step to its end. A *mobile* task may be taken by any
/// worker and moved to any node while it runs. A local task that a mobile task starts allocates in memory
/// that becomes the mobile task's when it ends; until then the mobile task is not moved.
///
/// # Panics
/// If the runtime does not run, or the arguments of a call will not encode.
///
/// # Examples
/// ```
/// #[migrt::main]
/// fn main() -> migrt::Result<()> {
///     let answer = migrt::spawn(|| 6 * 7);
///     assert_eq!(answer.join()?, 42);
///     Ok(())
/// }
/// ```
pub fn spawn<S: Spawn>(task: S) -> S::Handle {
    task.spawn()
}

impl<F, T> Spawn for F
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Handle = LocalHandle<T>;
    fn spawn(self) -> LocalHandle<T> {
        spawn_local(self, DEFAULT_CLASS)
    }
}

/// Starts a local task on a stack of the given class.
pub(crate) fn spawn_local<F, T>(closure: F, class: SlotClass) -> LocalHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if current::mobile().is_some() {
        let started = child::spawn(closure);
        return LocalHandle { inner: started.map_or(Inner::OutOfSlots, Inner::Child) };
    }
    let task = on_worker(|worker| {
        let task = local::new_task(worker, closure, class);
        door::push(task.clone());
        task
    });
    LocalHandle { inner: Inner::Local(task, PhantomData) }
}

/// Starts a call on the node `target`, as a mobile task whose home is this node. The call travels,
/// no stack. If the node cannot start it, `join` says so.
///
/// # Panics
/// If the runtime does not run.
pub fn spawn_on<C: Call>(target: NodeId, call: C) -> JoinHandle<C::Output> {
    start(Some(target), call)
}

/// Starts a call here: what the code of `#[migratable]` does for [`spawn`].
#[doc(hidden)]
pub fn spawn_call<C: Call>(call: C) -> JoinHandle<C::Output> {
    start(None, call)
}

fn start<C: Call>(target: Option<NodeId>, call: C) -> JoinHandle<C::Output> {
    // In the caller's heap: `Serialize` is the user's code.
    let mut args = Vec::new();
    let encoded = call.encode(&mut args).map_err(|e| e.to_string());
    drop(call);
    let from_mobile = current::mobile().is_some();
    let task = on_worker(|worker| {
        let cluster = cluster();
        let entry = C::ENTRY.id;
        if let Err(why) = encoded.as_ref() {
            return cluster.stillborn(Refusal::Other { why: why.clone() });
        }
        // On the worker's side a copy of a task's bytes is a node's.
        let args = if from_mobile { args.clone() } else { std::mem::take(&mut args) };
        match target {
            Some(node) if node != cluster.me() => cluster.spawn_at(node, entry, args),
            _ => cluster.spawn_here(worker, entry, args),
        }
    });
    JoinHandle::new(task, C::ENTRY.id)
}

/// The handle of a local task. Dropping it lets the task run on by itself.
///
/// A mobile task stays where it is while a closure that it spawned runs. Once the closure has ended the
/// task may move, its handles and what they are yet to give included.
pub struct LocalHandle<T> {
    inner: Inner<T>,
}

enum Inner<T> {
    /// Spawned by anybody else than a mobile task.
    Local(TaskRef, PhantomData<fn() -> T>),
    /// Spawned by a mobile task: an address in a slot of that task's.
    Child(Arc<Packet<T>>),
    /// There was no slot for it.
    OutOfSlots,
    /// It was joined or dropped.
    Spent,
}

impl<T> fmt::Debug for LocalHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> LocalHandle<T> {
    /// Waits for the task's end and gives its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with the panic's text; [`JoinError::OutOfSlots`] when there was no
    /// stack for it.
    #[inline(always)]
    pub fn join(self) -> Result<T, JoinError> {
        scrub::below::<{ scrub::DEEP }>();
        self.wait()
    }

    #[inline(never)]
    fn wait(mut self) -> Result<T, JoinError> {
        match mem::replace(&mut self.inner, Inner::Spent) {
            Inner::Local(task, _) => {
                if !task.join.is_ended() {
                    wait_until(|waker| task.join.set_waiter(waker).then_some(()));
                }
                on_worker(|_| {
                    // SAFETY: the handle's type is the task's; it has ended and is joined once.
                    let outcome = unsafe { task.local().take_outcome::<T>() };
                    drop(task);
                    outcome
                })
            }
            Inner::Child(packet) => child::join(packet),
            Inner::OutOfSlots => Err(JoinError::no_slot(TASK_CLASS.slot_len())),
            Inner::Spent => unreachable!("a handle is joined once"),
        }
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.inner {
            Inner::Local(task, _) => task.join.is_ended(),
            Inner::Child(packet) => packet.is_ended(),
            Inner::OutOfSlots | Inner::Spent => true,
        }
    }
}

impl<T> Drop for LocalHandle<T> {
    fn drop(&mut self) {
        match mem::replace(&mut self.inner, Inner::Spent) {
            Inner::Local(task, _) => on_worker(|_| drop(task)),
            Inner::Child(packet) => packet.abandon(),
            Inner::OutOfSlots | Inner::Spent => {}
        }
    }
}
