//! Moves: random running tasks to random nodes, all the time.
//!
//! A few local tasks take turns, so that a move that takes its time holds up only itself. A task
//! that is being moved is taken out of the list meanwhile. What is refused is counted and goes on
//! where it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migrt::{JoinHandle, LocalHandle, NodeId, TaskState};

use crate::records::Random;

/// Moves under way at most.
const MOVES_AT_ONCE: u64 = 8;
/// Tasks looked at for one move: some have not begun, others end while they are asked to move.
const TRIES: usize = 4;

/// A running task of any result type, as far as it can be moved.
trait Movable: Send {
    /// Where it runs; `None` if it does not: not yet, or no more.
    fn runs_on(&self) -> Option<NodeId>;
    fn has_ended(&self) -> bool;
    fn migrate(&self, target: NodeId) -> migrt::Result<()>;
}

impl<R> Movable for JoinHandle<R> {
    fn runs_on(&self) -> Option<NodeId> {
        let info = self.info().ok()?;
        (info.state == TaskState::Running || info.state == TaskState::Suspended)
            .then_some(info.node)
    }

    fn has_ended(&self) -> bool {
        self.info().map_or(true, |info| info.state == TaskState::Ended)
    }

    fn migrate(&self, target: NodeId) -> migrt::Result<()> {
        // At a stop: a bucket is short, and sorted before rounds of its pages are over.
        self.migrate_by(target, migrt::Strategy::StopCopy)
    }
}

/// A task that may be moved until it has ended.
struct Candidate {
    task: Box<dyn Movable>,
    ended: Arc<AtomicBool>,
}

/// What became of the moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Asked for, of tasks that were running.
    pub asked: u64,
    /// Of these, done.
    pub done: u64,
    /// Not done because the task had ended meanwhile.
    pub late: u64,
    /// Not done for another reason.
    pub refused: u64,
}

/// The list of running tasks and those who move them.
pub struct Mover {
    shared: Arc<Shared>,
    movers: Vec<LocalHandle<()>>,
}

struct Shared {
    candidates: Mutex<Vec<Candidate>>,
    stop: AtomicBool,
    /// When the next move is due.
    next: Mutex<Instant>,
    left: AtomicU64,
    asked: AtomicU64,
    done: AtomicU64,
    late: AtomicU64,
    first_refusal: Mutex<Option<String>>,
    refused: AtomicU64,
}

/// Takes its task off the list when dropped.
#[derive(Debug)]
pub struct Entered(Arc<AtomicBool>);

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mover").field("moves", &self.moves()).finish_non_exhaustive()
    }
}

impl Mover {
    /// Begins to move; at most `limit` times.
    pub fn start(every: Duration, limit: u64, seed: u64) -> Mover {
        let shared = Arc::new(Shared {
            candidates: Mutex::default(),
            stop: AtomicBool::new(false),
            next: Mutex::new(Instant::now()),
            left: AtomicU64::new(limit),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            late: AtomicU64::new(0),
            first_refusal: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let movers = (0..MOVES_AT_ONCE).map(|mover| {
            let shared = shared.clone();
            let random = Random::new(seed.wrapping_mul(MOVES_AT_ONCE).wrapping_add(mover));
            migrt::spawn(move || shared.run(every, random))
        });
        let movers = if limit > 0 { movers.collect() } else { Vec::new() };
        Mover { shared, movers }
    }

    /// Where running tasks are entered.
    pub fn list(&self) -> List {
        List(self.shared.clone())
    }

    /// Ends the moving and gives its figures.
    pub fn stop(mut self) -> (Moves, Option<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for mover in std::mem::take(&mut self.movers) {
            // A mover that panicked has said so.
            let _ = mover.join();
        }
        let refusal = self.shared.first_refusal.lock().unwrap().take();
        (self.moves(), refusal)
    }

    fn moves(&self) -> Moves {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moves {
            asked: count(&self.shared.asked),
            done: count(&self.shared.done),
            late: count(&self.shared.late),
            refused: count(&self.shared.refused),
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Where running tasks are entered for moving.
#[derive(Clone)]
pub struct List(Arc<Shared>);

impl List {
    /// Lets a task be moved until the guard is dropped. `task` is a second handle of it.
    pub fn enter<R: 'static>(&self, task: JoinHandle<R>) -> Entered {
        let ended = Arc::new(AtomicBool::new(false));
        let candidate = Candidate { task: Box::new(task), ended: ended.clone() };
        self.0.candidates.lock().unwrap().push(candidate);
        Entered(ended)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self, every: Duration, mut random: Random) {
        while !self.stop.load(Ordering::Relaxed) {
            migrt::sleep(self.next_turn(every).saturating_duration_since(Instant::now()));
            for _ in 0..TRIES {
                let Some(candidate) = self.take(&mut random) else { break };
                let moved = self.move_one(&candidate, &mut random);
                self.candidates.lock().unwrap().push(candidate);
                if moved {
                    break;
                }
            }
        }
    }

    /// Movers take turns. What was missed because all were busy is made up for, within limits.
    fn next_turn(&self, every: Duration) -> Instant {
        let mut next = self.next.lock().unwrap();
        let backlog = every * MOVES_AT_ONCE as u32;
        let turn = (*next).max(Instant::now().checked_sub(backlog).unwrap_or(*next));
        *next = turn + every;
        turn
    }

    fn take(&self, random: &mut Random) -> Option<Candidate> {
        let mut candidates = self.candidates.lock().unwrap();
        candidates.retain(|candidate| !candidate.ended.load(Ordering::Relaxed));
        if candidates.is_empty() {
            return None;
        }
        let index = random.below(candidates.len() as u64) as usize;
        Some(candidates.swap_remove(index))
    }

    /// Whether it was moved, or may not be any more.
    fn move_one(&self, candidate: &Candidate, random: &mut Random) -> bool {
        let Some(source) = candidate.task.runs_on() else { return false };
        let others: Vec<_> = migrt::nodes().into_iter().filter(|&node| node != source).collect();
        let one_less = |left: u64| left.checked_sub(1);
        if others.is_empty()
            || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
        {
            return true;
        }
        let target = others[random.below(others.len() as u64) as usize];
        self.asked.fetch_add(1, Ordering::Relaxed);
        let counter = match candidate.task.migrate(target) {
            Ok(()) => &self.done,
            Err(_) if candidate.task.has_ended() => &self.late,
            Err(why) => {
                self.first_refusal.lock().unwrap().get_or_insert_with(|| why.to_string());
                &self.refused
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        std::ptr::eq(counter, &self.done)
    }
}
