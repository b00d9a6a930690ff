//! The models. Each fails if the ordering it is about is weakened.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use crate::idle::Idle;
use crate::state::{Park, Phase, State, Wake};

/// A task that waits for a condition, and a thread that fulfils it and wakes the task: the task is
/// never left asleep with the condition fulfilled, and is queued exactly once per wake.
pub fn no_wake_is_lost() {
    loom::model(|| {
        let state = Arc::new(State::new());
        let ready = Arc::new(AtomicBool::new(false));
        let queued = Arc::new(AtomicUsize::new(1));
        let waker = {
            let (state, ready, queued) = (state.clone(), ready.clone(), queued.clone());
            thread::spawn(move || {
                ready.store(true, Ordering::Relaxed);
                if state.wake() == Wake::Push {
                    queued.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        // The worker: runs the task while it is queued; the task parks until it is ready.
        let mut done = false;
        let mut run = |queued: &AtomicUsize| {
            if queued.load(Ordering::Relaxed) == 0 {
                return;
            }
            queued.fetch_sub(1, Ordering::Relaxed);
            state.begin_run();
            if ready.load(Ordering::Relaxed) {
                state.finish();
                done = true;
            } else if state.park() == Park::Push {
                queued.fetch_add(1, Ordering::Relaxed);
            }
        };
        run(&queued);
        run(&queued);
        waker.join().unwrap();
        for _ in 0..2 {
            if state.phase() != Phase::Done {
                assert_eq!(queued.load(Ordering::Relaxed), 1, "asleep though ready: a lost wake");
            }
            run(&queued);
        }
        assert_eq!(state.phase(), Phase::Done);
        assert_eq!(queued.load(Ordering::Relaxed), 0, "queued twice");
    });
}

/// Two wakers of one sleeping task: one of them queues it.
pub fn one_of_two_wakers_queues_the_task() {
    loom::model(|| {
        let state = Arc::new(State::new());
        state.begin_run();
        assert_eq!(state.park(), Park::Asleep);
        let other = {
            let state = state.clone();
            thread::spawn(move || usize::from(state.wake() == Wake::Push))
        };
        let mine = usize::from(state.wake() == Wake::Push);
        assert_eq!(mine + other.join().unwrap(), 1);
        assert_eq!(state.phase(), Phase::Queued);
    });
}

/// A mover and a waker meet at a sleeping task: either the mover has it (and queues it on thaw), or
/// the waker has queued it and the mover sees that it was too late. Never both, never neither.
pub fn a_mover_and_a_waker_do_not_both_have_the_task() {
    loom::model(|| {
        let state = Arc::new(State::new());
        state.begin_run();
        assert_eq!(state.park(), Park::Asleep);
        let mover = {
            let state = state.clone();
            thread::spawn(move || {
                let frozen = state.freeze_waiting();
                if frozen {
                    state.thaw();
                }
                usize::from(frozen)
            })
        };
        let woken = usize::from(state.wake() == Wake::Push);
        let frozen = mover.join().unwrap();
        // Frozen first: thaw queues it; a later wake of a queued task does nothing.
        assert_eq!(woken + frozen, 1);
        assert_eq!(state.phase(), Phase::Queued);
    });
}

/// A worker goes to sleep while work is pushed: it sees the work, or the pusher sees the sleeper.
pub fn no_push_is_missed_by_a_worker_that_goes_to_sleep() {
    loom::model(|| {
        let idle = Arc::new(Idle::new(2));
        let work = Arc::new(AtomicUsize::new(0));
        let pusher = {
            let (idle, work) = (idle.clone(), work.clone());
            thread::spawn(move || {
                work.store(1, Ordering::SeqCst);
                idle.worker_to_wake().is_some()
            })
        };
        // The worker: announce, look once more, block.
        idle.announce_sleep(0);
        let sees_work = work.load(Ordering::SeqCst) == 1;
        let woken = pusher.join().unwrap();
        assert!(sees_work || woken, "asleep with work in the queue");
        if sees_work {
            // Either it takes itself off the list, or it was taken off and counted as searching.
            assert_eq!(idle.cancel_sleep(0), !woken);
        }
    });
}

/// The same for a worker's own inbox.
pub fn no_inbox_push_is_missed_either() {
    loom::model(|| {
        let idle = Arc::new(Idle::new(2));
        let inbox = Arc::new(AtomicUsize::new(0));
        let pusher = {
            let (idle, inbox) = (idle.clone(), inbox.clone());
            thread::spawn(move || {
                inbox.store(1, Ordering::SeqCst);
                idle.wake_worker(0)
            })
        };
        idle.announce_sleep(0);
        let sees_work = inbox.load(Ordering::SeqCst) == 1;
        let woken = pusher.join().unwrap();
        assert!(sees_work || woken);
        if sees_work {
            assert_eq!(idle.cancel_sleep(0), !woken);
        }
    });
}

/// The last searcher gives up while work is pushed: the pusher saw a searcher and woke nobody, so
/// the searcher must look once more.
pub fn the_last_searcher_looks_once_more() {
    loom::model(|| {
        let idle = Arc::new(Idle::new(2));
        let work = Arc::new(AtomicUsize::new(0));
        assert!(idle.start_search());
        let pusher = {
            let (idle, work) = (idle.clone(), work.clone());
            thread::spawn(move || {
                work.store(1, Ordering::SeqCst);
                idle.worker_to_wake().is_some()
            })
        };
        assert!(idle.stop_search());
        // What `Worker::sleep` does next.
        idle.announce_sleep(0);
        let sees_work = work.load(Ordering::SeqCst) == 1;
        let woken = pusher.join().unwrap();
        assert!(sees_work || woken);
    });
}
