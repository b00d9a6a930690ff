//! `spawn`: one verb for closures (local tasks) and calls of `#[migratable]` functions (mobile
//! tasks), and the handle that fits.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use migrt_iso::SlotClass;
use migrt_proto::wire::Refusal;
use migrt_proto::{EntryId, NodeId, TaskId};

use super::child::{self, Packet};
use super::current::{self, on_worker, wait_until};
use super::handle::JoinHandle;
use super::header::TASK_CLASS;
use super::record::TaskRef;
use super::stack::DEFAULT_CLASS;
use super::{local, parcel, scrub};
use crate::cluster::{cluster, home};
use crate::entry::Call;
use crate::error::{JoinError, SpawnError};
use crate::exec::door;
use crate::exec::worker::Worker;

/// What [`spawn`] can start. Implemented for closures and for the calls that `#[migratable]`
/// functions return; not meant to be implemented by hand.
pub trait Spawn {
    /// The handle to join the task with.
    type Handle;
    /// Starts it; if that fails, the handle says so when it is joined.
    fn spawn(self) -> Self::Handle;
    /// Starts it, or says why not.
    ///
    /// # Errors
    /// [`SpawnError`].
    fn try_spawn(self) -> Result<Self::Handle, SpawnError>;
}

/// Starts a task: a closure as a local task, a call of a `#[migratable]` function as a mobile one.
///
/// A *local* task runs on this node from its first step to its end. A *mobile* task may be taken by any
/// worker and moved to any node while it runs. A local task that a mobile task starts allocates in memory
/// that becomes the mobile task's when it ends; until then the mobile task is not moved.
///
/// A task that cannot be started (no slot is left, its arguments will not encode) has ended at once,
/// and its handle's `join` says why; [`try_spawn`] says so at once.
///
/// # Panics
/// If the runtime does not run.
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

/// As [`spawn`], for programs that can do something about a task that is not started: wait until
/// others have ended, say, when no slot is left.
///
/// # Errors
/// [`SpawnError::OutOfSlots`] if every slot of this node is in use or promised to a task that waits
/// for a worker; [`SpawnError::Encoding`] if the arguments of a call will not encode.
///
/// # Panics
/// If the runtime does not run.
///
/// # Examples
/// ```
/// #[migrt::main]
/// fn main() -> migrt::Result<()> {
///     let answer = migrt::try_spawn(|| 6 * 7)?;
///     assert_eq!(answer.join()?, 42);
///     Ok(())
/// }
/// ```
pub fn try_spawn<S: Spawn>(task: S) -> Result<S::Handle, SpawnError> {
    task.try_spawn()
}

impl<F, T> Spawn for F
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Handle = LocalHandle<T>;
    fn spawn(self) -> LocalHandle<T> {
        spawn_local(self, DEFAULT_CLASS).0
    }
    fn try_spawn(self) -> Result<LocalHandle<T>, SpawnError> {
        let (handle, is_spawned) = spawn_local(self, DEFAULT_CLASS);
        if is_spawned { Ok(handle) } else { Err(no_slot(handle.slot_len())) }
    }
}

fn no_slot(slot_len: usize) -> SpawnError {
    SpawnError::OutOfSlots { slot_len }
}

/// Starts a local task on a stack of the given class. `false`: it has ended for want of a slot.
pub(crate) fn spawn_local<F, T>(closure: F, class: SlotClass) -> (LocalHandle<T>, bool)
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if current::mobile().is_some() {
        let started = child::spawn(closure);
        let is_spawned = started.is_some();
        return (
            LocalHandle { inner: started.map_or(Inner::OutOfSlots, Inner::Child) },
            is_spawned,
        );
    }
    let (task, is_spawned) = on_worker(|worker| {
        let promise = door::promise_slot(class);
        let is_spawned = promise.is_some();
        let task = local::new_task(worker, closure, class, promise);
        if is_spawned {
            door::push(task.clone());
        } else {
            task.join.finish();
        }
        (task, is_spawned)
    });
    (LocalHandle { inner: Inner::Local(task, PhantomData) }, is_spawned)
}

/// Starts a call on the node `target`, as a mobile task whose home is this node. The call travels,
/// no stack. If the node cannot start it, `join` says so.
///
/// # Panics
/// If the runtime does not run.
pub fn spawn_on<C: Call>(target: NodeId, call: C) -> JoinHandle<C::Output> {
    or_stillborn(start(Some(target), call))
}

/// Starts a call here: what the code of `#[migratable]` does for [`spawn`].
#[doc(hidden)]
pub fn spawn_call<C: Call>(call: C) -> JoinHandle<C::Output> {
    or_stillborn(start(None, call))
}

/// Starts a call here: what the code of `#[migratable]` does for [`try_spawn`].
///
/// # Errors
/// [`SpawnError`].
#[doc(hidden)]
pub fn try_spawn_call<C: Call>(call: C) -> Result<JoinHandle<C::Output>, SpawnError> {
    start(None, call)
}

/// A task that was not spawned: the handle of one that has ended for this reason.
fn or_stillborn<R>(started: Result<JoinHandle<R>, SpawnError>) -> JoinHandle<R> {
    started.unwrap_or_else(|why| {
        let entry = EntryId(0);
        let task = on_worker(|_| {
            cluster().stillborn(match &why {
                SpawnError::OutOfSlots { slot_len } => {
                    Refusal::OutOfSlots { slot_len: *slot_len as u64 }
                }
                SpawnError::Encoding { reason } | SpawnError::Refused { reason } => {
                    Refusal::Other { why: reason.clone() }
                }
            })
        });
        JoinHandle::new(task, entry)
    })
}

fn start<C: Call>(target: Option<NodeId>, call: C) -> Result<JoinHandle<C::Output>, SpawnError> {
    // In the caller's heap: `Serialize` is the user's code. What is not a mobile task's is a node's.
    let mut args = match current::mobile() {
        Some(_) => Vec::new(),
        None => on_worker(|worker| worker.map_or_else(Vec::new, Worker::take_buffer)),
    };
    let encoded = call.encode(&mut args).map_err(|e| e.to_string());
    drop(call);
    encoded.map_err(|reason| SpawnError::Encoding { reason })?;
    let task = start_encoded(target, C::ENTRY.id, args, !C::PASSES_ON)?;
    Ok(JoinHandle::new(task, C::ENTRY.id))
}

/// Never inlined: what the node says lies in frames below those of the caller.
#[inline(never)]
fn start_encoded(
    target: Option<NodeId>,
    entry: EntryId,
    mut args: Vec<u8>,
    ties: bool,
) -> Result<TaskId, SpawnError> {
    let from_mobile = current::mobile().is_some();
    let parcels = parcel::named_in(&args);
    let spawned = on_worker(|worker| {
        let cluster = cluster();
        // On the worker's side a copy of a task's bytes is a node's.
        let args = match from_mobile {
            true => {
                let mut copy = worker.map_or_else(Vec::new, Worker::take_buffer);
                copy.extend_from_slice(&args);
                copy
            }
            false => std::mem::take(&mut args),
        };
        let spawned = match target {
            Some(node) if node != cluster.me() => cluster.spawn_at(node, entry, args),
            // A message may be wanted on any node.
            _ if !ties => home::check_len("the message", args.len())
                .and_then(|()| cluster.spawn_here(worker, entry, args)),
            _ => cluster.spawn_here(worker, entry, args),
        };
        if ties || spawned.is_err() {
            parcel::tie_arguments(&parcels, spawned.as_ref().ok().copied());
        }
        spawned
    });
    spawned.map_err(|why| match why {
        Refusal::OutOfSlots { slot_len } => no_slot(slot_len as usize),
        // The text is the node's: what is made of it here is the caller's.
        why => SpawnError::Refused { reason: why.to_string() },
    })
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
    /// Length of the slot that its task takes.
    fn slot_len(&self) -> usize {
        match &self.inner {
            Inner::Local(..) | Inner::Spent => DEFAULT_CLASS.slot_len(),
            Inner::Child(_) | Inner::OutOfSlots => TASK_CLASS.slot_len(),
        }
    }

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
