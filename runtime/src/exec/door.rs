//! The doors of the executor: how a task becomes runnable, wherever the caller stands.
//!
//! Callers are on a worker's own stack, on a local task, or on an OS thread outside the runtime;
//! a mobile task comes here only through [`crate::task::current::on_worker`].

use std::time::Duration;

use migrt_iso::SlotClass;

use super::queue::Exec;
use super::worker::Worker;
use crate::task::body::MobileBody;
use crate::task::promise::SlotPromise;
use crate::task::record::{Body, TaskRef};
use crate::task::state::Wake;

/// Makes a waiting task runnable (and a running one run once more).
pub(crate) fn wake(task: TaskRef) {
    if task.state.wake() == Wake::Push {
        push(task);
    }
}

/// Queues a task whose state word the caller just took into `QUEUED` (rule 1 of `task/state.rs`).
pub(crate) fn push(task: TaskRef) {
    let here = Worker::current();
    if let Body::Local(local) = task.body()
        && local.started()
    {
        let home = local.worker.load(std::sync::atomic::Ordering::Acquire) as usize;
        match here {
            Some(worker) if worker.index() == home => worker.push_local(task),
            _ => exec().send_to(home, task),
        }
        return;
    }
    if task.mobile().is_some_and(MobileBody::is_in_fault) {
        return exec().go_on(task);
    }
    match here {
        Some(worker) => worker.push_shared(task),
        None => exec().inject(task),
    }
}

/// A slot of `class` for a task that is about to be spawned, if there is one.
#[inline]
pub(crate) fn promise_slot(class: SlotClass) -> Option<SlotPromise> {
    SlotPromise::new(class).or_else(|| promise_when_shared(class))
}

/// Workers keep slots warm: before a task is refused for want of one, they are asked to give them up.
#[cold]
fn promise_when_shared(class: SlotClass) -> Option<SlotPromise> {
    const PATIENCE: Duration = Duration::from_micros(200);
    if let Some(worker) = Worker::current() {
        worker.share_slots();
    }
    exec().wake_all();
    (0..5).find_map(|_| {
        let promise = SlotPromise::new(class);
        if promise.is_none() {
            std::thread::sleep(PATIENCE);
        }
        promise
    })
}

/// The node's executor.
///
/// # Panics
/// If the runtime was not started in this process.
pub(crate) fn exec() -> &'static Exec {
    crate::node::node().exec()
}
