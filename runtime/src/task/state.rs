//! The state word of a task: who may touch it now.
//!
//! ```text
//!             begin_run              finish
//!   QUEUED ------------> RUNNING -------------> DONE
//!     ^  ^    requeue      |  |
//!     |  +-----------------+  | park
//!     |        wake           v
//!     +------------------- WAITING
//!                             |  freeze                release
//!   RUNNING ---- freeze ----> FROZEN ------------------------> GONE
//!                               | thaw (a failed move, an arrival)
//!                               +-----> QUEUED
//! ```
//!
//! Rule 1: whoever moves the word *into* `QUEUED` pushes the task onto exactly one queue.
//! Rule 2: only the worker that popped a task from a queue leaves `QUEUED`.
//! Rule 3: `NOTIFIED` is set by [`State::wake`] in every phase; a task that parks with the bit set
//! does not sleep. A waker writes its condition first and then sets the bit; a task registers
//! itself, then parks, then checks its condition again: both sides use read-modify-writes on this
//! word, so one of them sees the other (checked in `tests/loom`).
//! Rule 4: `FROZEN` belongs to the mover alone. A wake is remembered and the task is run on thaw.
//! The failure edge of every phase but `DONE` and `GONE` leads back to `QUEUED`.

use crate::sync::{AtomicU32, Ordering};

const QUEUED: u32 = 0;
const RUNNING: u32 = 1;
const WAITING: u32 = 2;
const FROZEN: u32 = 3;
const DONE: u32 = 4;
const GONE: u32 = 5;
const PHASE: u32 = 0xff;
/// Somebody woke the task since it last began to run.
const NOTIFIED: u32 = 0x100;

/// Where a task stands; a reading that may be old when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// On a queue, or about to be pushed onto one.
    Queued,
    /// A worker runs it.
    Running,
    /// It sleeps until somebody wakes it.
    Waiting,
    /// A mover has it.
    Frozen,
    /// It has ended; its outcome is stored.
    Done,
    /// It lives on another node now.
    Gone,
}

/// What the caller of [`State::wake`] must do now.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The caller took the task into `QUEUED`: push it (rule 1).
    Push,
    /// Somebody else sees to it.
    Nothing,
}

/// What the caller of [`State::park`] must do now.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Park {
    /// The task sleeps; do not touch it again.
    Asleep,
    /// It was woken meanwhile and is `QUEUED`: push it (rule 1).
    Push,
}

/// The packed word. All transitions are named methods.
#[derive(Debug)]
pub(crate) struct State(AtomicU32);

impl State {
    /// A task that was just spawned: `QUEUED`, to be pushed by its maker.
    pub(crate) fn new() -> State {
        State(AtomicU32::new(QUEUED))
    }

    /// Back to the word of [`State::new`], for a recycled record nobody else refers to.
    pub(crate) fn reset(&self) {
        // Relaxed: the record is published to others by the push that follows.
        self.0.store(QUEUED, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        // Acquire pairs with the releasing transition that wrote the phase.
        match self.0.load(Ordering::Acquire) & PHASE {
            QUEUED => Phase::Queued,
            RUNNING => Phase::Running,
            WAITING => Phase::Waiting,
            FROZEN => Phase::Frozen,
            DONE => Phase::Done,
            GONE => Phase::Gone,
            other => unreachable!("state word {other:#x}"),
        }
    }

    /// `QUEUED → RUNNING`, by the worker that popped the task. Clears `NOTIFIED`.
    pub(crate) fn begin_run(&self) {
        // AcqRel: acquires what the waker wrote before its read-modify-write (rule 3).
        let before = self.0.swap(RUNNING, Ordering::AcqRel);
        assert_eq!(before & PHASE, QUEUED, "rule 2: popped a task that was not queued");
    }

    /// `RUNNING → QUEUED`; the caller pushes.
    pub(crate) fn requeue(&self) {
        debug_assert_eq!(self.phase(), Phase::Running);
        // Release pairs with the next begin_run. A concurrent wake may be lost: the task runs.
        self.0.store(QUEUED, Ordering::Release);
    }

    /// `RUNNING → WAITING`, or `QUEUED` if it was woken since it began to run.
    pub(crate) fn park(&self) -> Park {
        match self.0.compare_exchange(RUNNING, WAITING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Park::Asleep,
            Err(_) => {
                self.requeue();
                Park::Push
            }
        }
    }

    /// Makes a waiting task runnable, and a running one run once more.
    pub(crate) fn wake(&self) -> Wake {
        // AcqRel: releases the caller's condition to the task's next begin_run (rule 3).
        let before = self.0.fetch_or(NOTIFIED, Ordering::AcqRel);
        if before != WAITING {
            return Wake::Nothing;
        }
        match self.0.compare_exchange(
            WAITING | NOTIFIED,
            QUEUED,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => Wake::Push,
            // A mover froze it in between (rule 4) and runs it on thaw.
            Err(_) => Wake::Nothing,
        }
    }

    /// `RUNNING → FROZEN`, by the worker that just suspended the task.
    pub(crate) fn freeze_running(&self) {
        debug_assert_eq!(self.phase(), Phase::Running);
        // Release: the mover may be another thread. A wake seen before is kept by the thaw.
        self.0.store(FROZEN, Ordering::Release);
    }

    /// `WAITING → FROZEN`, by a mover; `false` if the task was not asleep.
    #[must_use]
    pub(crate) fn freeze_waiting(&self) -> bool {
        let mut now = self.0.load(Ordering::Acquire);
        while now & PHASE == WAITING {
            match self.0.compare_exchange(now, FROZEN, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// `FROZEN → QUEUED`; the caller pushes. Whatever woke it meanwhile is served: it runs.
    pub(crate) fn thaw(&self) {
        let before = self.0.swap(QUEUED, Ordering::AcqRel);
        assert_eq!(before & PHASE, FROZEN, "rule 4: thawed a task that was not frozen");
    }

    /// `FROZEN → GONE`: the task is another node's.
    pub(crate) fn release(&self) {
        let before = self.0.swap(GONE, Ordering::AcqRel);
        assert_eq!(before & PHASE, FROZEN, "rule 4: released a task that was not frozen");
    }

    /// `RUNNING → DONE`.
    pub(crate) fn finish(&self) {
        let before = self.0.swap(DONE, Ordering::AcqRel);
        assert_eq!(before & PHASE, RUNNING, "I2: a task ended that was not running");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_while_running_keeps_the_task_from_sleeping() {
        let state = State::new();
        state.begin_run();
        assert_eq!(state.wake(), Wake::Nothing);
        assert_eq!(state.park(), Park::Push);
        state.begin_run();
        assert_eq!(state.park(), Park::Asleep);
        assert_eq!(state.wake(), Wake::Push);
        assert_eq!(state.wake(), Wake::Nothing);
        assert_eq!(state.phase(), Phase::Queued);
    }

    #[test]
    fn a_frozen_task_is_the_movers_alone() {
        let state = State::new();
        assert!(!state.freeze_waiting());
        state.begin_run();
        assert_eq!(state.park(), Park::Asleep);
        assert!(state.freeze_waiting());
        assert_eq!(state.wake(), Wake::Nothing);
        state.thaw();
        assert_eq!(state.phase(), Phase::Queued);
    }
}
