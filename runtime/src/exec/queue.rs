//! Where runnable tasks wait.
//!
//! ```text
//! woken      tasks whose fault is over                              anybody
//! injector   shared; what comes from outside the workers           anybody
//! deque      one per worker: un-started tasks and mobile tasks      owner, thieves
//! inbox      one per worker: started local tasks woken elsewhere    anybody in, owner out
//! locals     one per worker: started local tasks, no atomics        owner
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crossbeam_deque::{Injector, Steal, Stealer};
use crossbeam_queue::SegQueue;

use super::idle::Idle;
use super::park::Parker;
use super::ticker::Running;
use super::timer::Timers;
use super::worker::Worker;
use crate::task::record::TaskRef;

/// A worker's parts that others may touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stealer: Stealer<TaskRef>,
    pub(crate) inbox: SegQueue<TaskRef>,
    pub(crate) parker: Parker,
    pub(crate) running: Running,
    /// Of the worker's warm stacks of local tasks, and slots of mobile ones.
    pub(crate) warm_stacks: AtomicU32,
    pub(crate) warm_slots: AtomicU32,
}

/// The executor of the node.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) injector: Injector<TaskRef>,
    /// Tasks that stood in a fault and whose page has come: first of all, as one may hold a lock for
    /// which all workers wait. What lies here for long the spares run.
    pub(crate) woken: SegQueue<TaskRef>,
    /// One for each worker, and for each spare.
    pub(crate) shared: Vec<Shared>,
    /// Workers, and spares that were started: the first of `shared`.
    pub(crate) active: AtomicUsize,
    /// Of spares that were not started; the next one's is the last.
    pub(crate) spares: Mutex<Vec<crossbeam_deque::Worker<TaskRef>>>,
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

    fn active(&self) -> &[Shared] {
        &self.shared[..self.active.load(Ordering::Acquire)]
    }

    /// Slots that workers keep warm.
    pub(crate) fn warm_count(&self) -> u64 {
        let warm = |shared: &Shared| {
            let count = |of: &AtomicU32| u64::from(of.load(Ordering::Relaxed));
            count(&shared.warm_stacks) + count(&shared.warm_slots)
        };
        self.shared.iter().map(warm).sum()
    }

    /// Has the spares run what is woken and nobody has run.
    pub(crate) fn wake_spares(&self, worker_count: usize) {
        self.active()[worker_count..].iter().for_each(|spare| spare.parker.unpark());
    }

    /// Starts one more spare; `false` if there are as many as there may be, or no thread.
    pub(crate) fn start_spare(&'static self) -> bool {
        let mut spares = self.spares.lock().unwrap();
        let Some(deque) = spares.pop() else { return false };
        let index = self.active.load(Ordering::Acquire);
        let thread = crate::thread::start(format!("migrt-spare-{index}"), move || {
            Worker::new(self, index, deque).run_as_spare();
        });
        let Ok(thread) = thread else { return false };
        self.active.store(index + 1, Ordering::Release);
        crate::node::node().keep_thread(thread);
        true
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
        for (index, shared) in self.active().iter().enumerate() {
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
            let count = self.active.load(Ordering::Acquire);
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
            || self.active().iter().any(|s| !s.stealer.is_empty())
    }
}
