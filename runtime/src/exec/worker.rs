//! A worker: the OS thread that runs tasks, and what it keeps warm for them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::time::Duration;

use migrt_iso::SlotClass;

use super::queue::Exec;
use crate::task::coro::Suspend;
use crate::task::join::Waker;
use crate::task::mobile;
use crate::task::record::{Body, Record, TaskRef};
use crate::task::stack::{Stack, StackCache};
use crate::task::state::Park;

/// A task is taken from the shared queues first every so often, so that none of them starves.
const FAIRNESS: u32 = 61;
/// The clock is looked at every so many tasks.
const CLOCK: u32 = 32;
/// Records kept for reuse per worker.
const RECORDS: usize = 8192;
/// Buffers of arguments kept for reuse per worker, and how long they may be.
const BUFFERS: usize = 1024;
const BUFFER_LEN_MAX: usize = 256;

thread_local! {
    // Read on worker threads and threads outside the runtime only: a mobile task has its own
    // thread-locals, in which this is null (facts T8).
    static WORKER: Cell<*const Worker> = const { Cell::new(ptr::null()) };
}

/// See the module. Lives on its thread's stack.
#[derive(Debug)]
pub(crate) struct Worker {
    exec: &'static Exec,
    index: usize,
    deque: crossbeam_deque::Worker<TaskRef>,
    locals: RefCell<VecDeque<TaskRef>>,
    current: Cell<*const Record>,
    stacks: StackCache,
    records: RefCell<Vec<NonNull<Record>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    tick: Cell<u32>,
    seed: Cell<u32>,
    pub(crate) mobile: mobile::WorkerPart,
}

impl Worker {
    pub(crate) fn new(
        exec: &'static Exec,
        index: usize,
        deque: crossbeam_deque::Worker<TaskRef>,
    ) -> Worker {
        Worker {
            exec,
            index,
            deque,
            locals: RefCell::new(VecDeque::with_capacity(256)),
            current: Cell::new(ptr::null()),
            stacks: StackCache::new(&exec.shared[index].warm_stacks),
            records: RefCell::new(Vec::with_capacity(RECORDS)),
            buffers: RefCell::new(Vec::with_capacity(BUFFERS)),
            tick: Cell::new(0),
            seed: Cell::new(0x9e37_79b9 ^ (index as u32 + 1)),
            mobile: mobile::WorkerPart::new(&exec.shared[index].warm_slots),
        }
    }

    /// The worker this thread is, if it is one. Not for use on a mobile task's thread-locals.
    #[inline]
    pub(crate) fn current() -> Option<&'static Worker> {
        let worker = WORKER.with(Cell::get);
        // SAFETY: set in `run` for as long as the worker lives on this thread's stack.
        unsafe { worker.as_ref() }
    }

    /// Where the ticker sees what this worker runs.
    #[inline]
    pub(crate) fn running(&self) -> &super::ticker::Running {
        &self.exec.shared[self.index].running
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The task this worker runs now.
    pub(crate) fn task(&self) -> Option<&Record> {
        // SAFETY: set around each run, and the run holds a reference.
        unsafe { self.current.get().as_ref() }
    }

    /// Wakes the task this worker runs now.
    ///
    /// # Panics
    /// If it runs none.
    pub(crate) fn waker(&self) -> Waker {
        let record = self.current.get();
        assert!(!record.is_null(), "no task runs here");
        // SAFETY: the run holds a reference; the clone below counts one more.
        let task = std::mem::ManuallyDrop::new(unsafe { TaskRef::from_raw(record) });
        Waker::task(TaskRef::clone(&task))
    }

    /// A started local task of this worker.
    #[inline]
    pub(crate) fn push_local(&self, task: TaskRef) {
        self.locals.borrow_mut().push_back(task);
    }

    /// A task that others may steal.
    #[inline]
    pub(crate) fn push_shared(&self, task: TaskRef) {
        self.deque.push(task);
        self.exec.wake_one();
    }

    pub(crate) fn take_record(&self) -> Option<NonNull<Record>> {
        self.records.borrow_mut().pop()
    }

    pub(crate) fn keep_record(&self, record: NonNull<Record>) -> bool {
        let mut records = self.records.borrow_mut();
        let keep = records.len() < RECORDS;
        if keep {
            records.push(record);
        }
        keep
    }

    /// An empty buffer for the arguments of a call, so that to spawn one allocates nothing once warm.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps the buffer for the next call; all of it cleared, also what was never used, since a census reads whatever lies
    /// in a live block.
    pub(crate) fn keep_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS && (1..=BUFFER_LEN_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            buffer.resize(buffer.capacity(), 0);
            buffer.clear();
            buffers.push(buffer);
        }
    }

    pub(crate) fn take_stack(&self, class: SlotClass) -> Option<Stack> {
        self.stacks.take(class)
    }

    pub(crate) fn keep_stack(&self, stack: Stack) {
        self.stacks.keep(stack);
    }

    /// Runs tasks until the executor stops.
    pub(crate) fn run(&self) {
        WORKER.with(|w| w.set(self));
        loop {
            match self.next() {
                Some(task) => self.run_task(task),
                None => {
                    if let Some(task) = self.search() {
                        self.run_task(task);
                    } else if self.exec.stop.load(Ordering::Acquire) {
                        break;
                    } else {
                        self.sleep();
                    }
                }
            }
        }
        // What is left never runs again: the program is over.
        self.locals.borrow_mut().clear();
        while self.deque.pop().is_some() {}
        self.stacks.clear();
        WORKER.with(|w| w.set(ptr::null()));
    }

    /// A spare: runs tasks out of their faults when no worker does.
    ///
    /// A task may fault while it holds a lock (a static's, or that of standard output); then others wait
    /// for the lock, workers and all, and would wait for ever: the task that could release it waits for a
    /// worker. A task that a spare has taken may come to wait for the lock too; so there are as many spares
    /// as it takes.
    pub(crate) fn run_as_spare(&self) {
        /// Looks up so often without being asked: the program may be over.
        const PATIENCE: Duration = Duration::from_millis(500);
        WORKER.with(|w| w.set(self));
        while !self.exec.stop.load(Ordering::Acquire) {
            crate::census::clear_stack();
            self.exec.shared[self.index].parker.park(Some(PATIENCE));
            while let Some(task) = self.exec.woken.pop() {
                self.run_task(task);
            }
            // What these have woken or left is everybody's.
            while let Some(task) = self.deque.pop() {
                self.exec.inject(task);
            }
            self.stacks.clear();
            self.mobile.clear_slots();
        }
        WORKER.with(|w| w.set(ptr::null()));
    }

    fn next(&self) -> Option<TaskRef> {
        let tick = self.tick.get().wrapping_add(1);
        self.tick.set(tick);
        if tick.is_multiple_of(CLOCK) {
            self.exec.timers.fire();
            self.share_slots();
            if self.exec.stop.load(Ordering::Relaxed) {
                return None;
            }
        }
        let inbox = &self.exec.shared[self.index].inbox;
        if !inbox.is_empty() {
            while let Some(task) = inbox.pop() {
                self.push_local(task);
            }
        }
        if !self.exec.woken.is_empty()
            && let Some(task) = self.exec.woken.pop()
        {
            return Some(task);
        }
        if tick.is_multiple_of(FAIRNESS)
            && let crossbeam_deque::Steal::Success(task) = self.exec.injector.steal()
        {
            return Some(task);
        }
        if tick & 1 == 0 {
            self.locals.borrow_mut().pop_front().or_else(|| self.deque.pop())
        } else {
            self.deque.pop().or_else(|| self.locals.borrow_mut().pop_front())
        }
    }

    /// Looks at the injector and the others' queues.
    fn search(&self) -> Option<TaskRef> {
        if !self.mobile.searching.get() && !self.exec.idle.start_search() {
            return None;
        }
        self.mobile.searching.set(false);
        let found = self.exec.steal(self.index, self.random() as usize, &self.deque);
        let last = self.exec.idle.stop_search();
        if found.is_some() && last {
            // Others may find more where this came from.
            self.exec.wake_one();
        }
        found
    }

    /// When free slots are few, those that this worker keeps warm are the node's.
    pub(super) fn share_slots(&self) {
        if migrt_iso::pool::global().is_scarce(migrt_iso::SlotClass::TASK) {
            self.stacks.clear();
            self.mobile.clear_slots();
        }
    }

    fn sleep(&self) {
        let exec = self.exec;
        exec.timers.fire();
        self.share_slots();
        exec.idle.announce_sleep(self.index);
        // The second look (see `idle`).
        if exec.has_work_for(self.index)
            || !self.locals.borrow().is_empty()
            || exec.stop.load(Ordering::SeqCst)
        {
            if !exec.idle.cancel_sleep(self.index) {
                // Somebody counted us as searching already.
                self.mobile.searching.set(true);
            }
            return;
        }
        // What this worker ran has left addresses where it is going to sleep.
        crate::census::clear_stack();
        let timeout = exec.timers.until_next();
        exec.shared[self.index].parker.park(timeout);
        if !exec.idle.cancel_sleep(self.index) {
            self.mobile.searching.set(true);
        }
        exec.timers.fire();
    }

    #[inline(never)]
    fn run_task(&self, task: TaskRef) {
        if self.mobile.searching.replace(false) && self.exec.idle.stop_search() {
            self.exec.wake_one();
        }
        self.current.set(task.as_ptr());
        match task.body() {
            Body::Local(_) => self.run_local(task),
            Body::Mobile(_) => mobile::run(self, task),
            Body::Vacant => unreachable!("a vacant record was queued"),
        }
        self.current.set(ptr::null());
    }

    fn run_local(&self, task: TaskRef) {
        task.state.begin_run();
        let local = task.local();
        // Acquire: the first step may have been run elsewhere, never the later ones.
        if !local.started() && local.start(task.as_ptr(), self).is_err() {
            self.end_local(task);
            return;
        }
        // SAFETY: only the worker that runs the task touches `coro`; RUNNING says that is us.
        let coro = unsafe { &mut *local.coro.get() }.as_mut().expect("started");
        match coro.resume() {
            None => self.end_local(task),
            Some(Suspend::Park | Suspend::Fault) => match task.state.park() {
                // Whoever wakes it needs a reference: timers, joiners and queues hold their own.
                Park::Asleep => {}
                Park::Push => self.push_local(task),
            },
            Some(Suspend::Yield | Suspend::Move) => {
                task.state.requeue();
                self.push_local(task);
            }
        }
    }

    fn end_local(&self, task: TaskRef) {
        task.local().end(self);
        task.state.finish();
        task.join.finish();
    }

    fn random(&self) -> u32 {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.seed.set(x);
        x
    }
}
