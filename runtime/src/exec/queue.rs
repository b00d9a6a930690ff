//! Where runnable tasks wait.
//!
//! ```text
//! woken      tasks whose fault is over                              anybody
//! injector   shared; what comes from outside the workers           anybody
//! deque      one per worker: un-started tasks and mobile tasks      owner, thieves
//! inbox      one per worker: started local tasks woken elsewhere    anybody in, owner out
//! locals     one per worker: started local tasks, no atomics        owner
//! ```

use crossbeam_deque::{Injector, Steal, Stealer};
use crossbeam_queue::SegQueue;

use super::idle::Idle;
use super::park::Parker;
use super::ticker::Running;
use super::timer::Timers;
use crate::task::record::TaskRef;

/// A worker's parts that others may touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stealer: Stealer<TaskRef>,
    pub(crate) inbox: SegQueue<TaskRef>,
    pub(crate) parker: Parker,
    pub(crate) running: Running,
}

/// The executor of the node.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) injector: Injector<TaskRef>,
    /// Tasks that stood in a fault and whose page has come: first of all, as one may hold a lock for
    /// which all workers wait. What lies here for long the spare runs.
    pub(crate) woken: SegQueue<TaskRef>,
    /// One for each worker, and the spare's.
    pub(crate) shared: Vec<Shared>,
    pub(crate) idle: Idle,
    pub(crate) timers: Timers,
    pub(crate) stop: std::sync::atomic::AtomicBool,
}

impl Exec {
    /// A task that any worker may run, from a thread that is none.
    pub(crate) fn inject(&self, task: TaskRef) {
        self.injector.push(task);
        self.wake_one();
    }

    /// A task that stood in a fault.
    pub(crate) fn go_on(&self, task: TaskRef) {
        self.woken.push(task);
        self.wake_one();
    }

    /// Has the spare run what is woken and nobody has run.
    pub(crate) fn wake_spare(&self) {
        if let Some(spare) = self.shared.last() {
            spare.parker.unpark();
        }
    }

    /// Something that anybody may take was pushed.
    #[inline]
    pub(crate) fn wake_one(&self) {
        if let Some(index) = self.idle.worker_to_wake() {
            self.shared[index].parker.unpark();
        }
    }

    /// Every sleeping worker looks at its affairs once.
    pub(crate) fn wake_all(&self) {
        for (index, shared) in self.shared.iter().enumerate() {
            if self.idle.wake_worker(index) {
                shared.parker.unpark();
            }
        }
    }

    /// A started local task, for its worker.
    pub(crate) fn send_to(&self, worker: usize, task: TaskRef) {
        self.shared[worker].inbox.push(task);
        if self.idle.wake_worker(worker) {
            self.shared[worker].parker.unpark();
        }
    }

    /// Takes a task from another worker or the injector; a batch of the rest goes to `into`.
    pub(crate) fn steal(
        &self,
        thief: usize,
        first_victim: usize,
        into: &crossbeam_deque::Worker<TaskRef>,
    ) -> Option<TaskRef> {
        if let Some(task) = self.woken.pop() {
            return Some(task);
        }
        loop {
            let mut retry = false;
            match self.injector.steal_batch_and_pop(into) {
                Steal::Success(task) => return Some(task),
                Steal::Retry => retry = true,
                Steal::Empty => {}
            }
            let count = self.shared.len();
            for step in 0..count {
                let victim = (first_victim + step) % count;
                if victim == thief {
                    continue;
                }
                match self.shared[victim].stealer.steal_batch_and_pop(into) {
                    Steal::Success(task) => return Some(task),
                    Steal::Retry => retry = true,
                    Steal::Empty => {}
                }
            }
            if !retry {
                return None;
            }
        }
    }

    /// Whether worker `index` would find something if it looked.
    pub(crate) fn has_work_for(&self, index: usize) -> bool {
        !self.injector.is_empty()
            || !self.woken.is_empty()
            || !self.shared[index].inbox.is_empty()
            || self.shared.iter().any(|s| !s.stealer.is_empty())
    }
}
