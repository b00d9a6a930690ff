//! Who waits for a task's end, in one word; and how anybody waits: [`Waker`].
//!
//! ```text
//! 0 ── set_waiter ──> waker ── finish (wakes it) ──> ENDED
//! └──────────────────────────── finish ────────────> ENDED
//! ```
//!
//! There is one joiner per handle, so one word suffices. A joiner that is woken for another reason
//! finds its waker still registered and sleeps again.
//!
//! A *mobile* task's record has such a word for a joiner on its own node, who need not ask the home
//! then (`cluster/ask.rs`). The word says `ENDED` there when the task has ended *or left*: in both
//! cases the joiner looks again, and finds the outcome or takes the long way.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::record::TaskRef;

const NOBODY: usize = 0;
const ENDED: usize = 1;
const THREAD_TAG: usize = 2;

/// An OS thread outside the runtime that waits.
#[derive(Debug)]
pub(crate) struct ThreadWaiter {
    thread: std::thread::Thread,
    woken: AtomicBool,
}

impl ThreadWaiter {
    pub(crate) fn new() -> Arc<ThreadWaiter> {
        Arc::new(ThreadWaiter { thread: std::thread::current(), woken: AtomicBool::new(false) })
    }

    /// Sleeps until woken once.
    pub(crate) fn wait(&self) {
        // SeqCst pairs with the store in `Waker::wake`.
        while !self.woken.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// Wakes whoever waits: a task or an OS thread. One word.
#[derive(Debug)]
pub(crate) struct Waker(usize);

impl Waker {
    pub(crate) fn task(task: TaskRef) -> Waker {
        Waker(task.into_raw() as usize)
    }

    pub(crate) fn thread(waiter: Arc<ThreadWaiter>) -> Waker {
        Waker(Arc::into_raw(waiter) as usize | THREAD_TAG)
    }

    /// Whether it is a task that has left this node: nobody is here to be woken.
    pub(crate) fn is_gone(&self) -> bool {
        if self.0 & THREAD_TAG != 0 {
            return false;
        }
        // SAFETY: the word holds a count; the temporary does not give it up.
        let task = ManuallyDrop::new(unsafe { TaskRef::from_raw(self.0 as *const _) });
        task.state.phase() == super::state::Phase::Gone
    }

    /// Whether both wake the same.
    pub(crate) fn is_same(&self, other: &Waker) -> bool {
        self.0 == other.0
    }

    /// Wakes it, now or as soon as it sleeps.
    pub(crate) fn wake(self) {
        let word = ManuallyDrop::new(self).0;
        if word & THREAD_TAG == 0 {
            // SAFETY: the word came from `TaskRef::into_raw` and is used up here.
            crate::exec::door::wake(unsafe { TaskRef::from_raw(word as *const _) });
        } else {
            // SAFETY: the word came from `Arc::into_raw` and is used up here.
            let waiter = unsafe { Arc::from_raw((word & !THREAD_TAG) as *const ThreadWaiter) };
            waiter.woken.store(true, Ordering::SeqCst);
            waiter.thread.unpark();
        }
    }
}

impl Clone for Waker {
    fn clone(&self) -> Waker {
        if self.0 & THREAD_TAG == 0 {
            // SAFETY: the word holds a count; the temporary does not give it up.
            let task = ManuallyDrop::new(unsafe { TaskRef::from_raw(self.0 as *const _) });
            Waker::task(TaskRef::clone(&task))
        } else {
            let raw = (self.0 & !THREAD_TAG) as *const ThreadWaiter;
            // SAFETY: the word holds a count of this Arc.
            unsafe { Arc::increment_strong_count(raw) };
            Waker(self.0)
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if self.0 & THREAD_TAG == 0 {
            // SAFETY: the word holds a count, given up here.
            drop(unsafe { TaskRef::from_raw(self.0 as *const _) });
        } else {
            // SAFETY: as above.
            drop(unsafe { Arc::from_raw((self.0 & !THREAD_TAG) as *const ThreadWaiter) });
        }
    }
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joining {
    /// The waker is registered and will be woken.
    Registered,
    /// The word tells nobody any more: look again where outcomes are kept.
    Over,
    /// Somebody else is registered.
    Occupied,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct JoinWord(AtomicUsize);

impl JoinWord {
    pub(crate) fn new() -> JoinWord {
        JoinWord(AtomicUsize::new(NOBODY))
    }

    /// For a recycled record.
    pub(crate) fn reset(&self) {
        self.clear();
    }

    /// Whether the task has ended; what it wrote before is visible then.
    pub(crate) fn is_ended(&self) -> bool {
        // Acquire pairs with the swap in `finish`.
        self.0.load(Ordering::Acquire) == ENDED
    }

    /// `true`: it has ended. `false`: the waker is registered, unless one was already.
    pub(crate) fn set_waiter(&self, waker: &Waker) -> bool {
        match self.0.load(Ordering::Acquire) {
            ENDED => return true,
            NOBODY => {}
            _ => return false,
        }
        let word = ManuallyDrop::new(waker.clone()).0;
        // AcqRel: the waker is published; on failure `finish`'s writes are acquired.
        match self.0.compare_exchange(NOBODY, word, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => false,
            Err(_) => {
                drop(Waker(word));
                true
            }
        }
    }

    /// Registers the joiner of a mobile task. There may be several; one has a place here.
    pub(crate) fn set_joiner(&self, waker: &Waker) -> Joining {
        match self.0.load(Ordering::Acquire) {
            ENDED => return Joining::Over,
            NOBODY => {}
            word if word == waker.0 => return Joining::Registered,
            _ => return Joining::Occupied,
        }
        let word = ManuallyDrop::new(waker.clone()).0;
        // As in `set_waiter`.
        match self.0.compare_exchange(NOBODY, word, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Joining::Registered,
            Err(now) => {
                drop(Waker(word));
                if now == ENDED { Joining::Over } else { Joining::Occupied }
            }
        }
    }

    /// The task has ended (or left this node): wakes the joiner, if there is one.
    pub(crate) fn finish(&self) {
        if let Some(waker) = self.close() {
            waker.wake();
        }
    }

    /// The task has ended: whoever is to be woken, by the caller.
    #[must_use]
    pub(crate) fn close(&self) -> Option<Waker> {
        match self.0.swap(ENDED, Ordering::AcqRel) {
            NOBODY => None,
            ENDED => unreachable!("I2: a task ended twice"),
            word => Some(Waker(word)),
        }
    }

    fn clear(&self) {
        match self.0.swap(NOBODY, Ordering::AcqRel) {
            NOBODY | ENDED => {}
            word => drop(Waker(word)),
        }
    }
}
