//! The walk that a task takes through the nodes while it works.
//!
//! A specimen calls [`step`] wherever it can be suspended. What a step does was settled when the
//! task began ([`begin`]): nothing, a yield, or a move to the next node. The plan is a thread-local
//! of the task, so it walks along, and using it after each step is itself a test of that.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use migrt::NodeId;
use serde::{Deserialize, Serialize};

/// What the steps of a task do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Nothing: for the result to compare with.
    Still,
    /// Give the worker back.
    Yield,
    /// Give the worker back after it was kept busy for a while, or sleep, until another one has taken the task.
    Shuffle,
    /// From step `first` on, `hops` steps move to the next node round; all others yield.
    Hops { first: u32, hops: u32 },
    /// As `Hops`, but each of these steps moves on once more at once: if pages follow the task, some are missing yet.
    Chase { first: u32, hops: u32 },
    /// From step `first` on, `moves` steps go on when others have moved the task, or have not for a while.
    Ordered { first: u32, moves: u32 },
}

/// What a walk came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Walked {
    /// Calls of [`step`].
    pub steps: u32,
    /// Steps after which the task was on another node.
    pub hops: u32,
    /// Steps after which it was on another OS thread of the same node.
    pub threads: u32,
    /// Why moves did not happen.
    pub refused: Vec<String>,
}

thread_local! {
    static PLAN: Cell<Plan> = const { Cell::new(Plan::Still) };
    static WALKED: RefCell<Walked> = RefCell::new(Walked::default());
}

/// Settles what the steps of this task do.
pub fn begin(plan: Plan) {
    PLAN.set(plan);
    WALKED.take();
}

/// What the task's steps came to since [`begin`].
#[must_use]
pub fn end() -> Walked {
    PLAN.set(Plan::Still);
    WALKED.take()
}

/// A place where a specimen can be suspended, and where its plan may move it.
pub fn step() {
    let plan = PLAN.get();
    if plan == Plan::Still {
        return;
    }
    let at = WALKED.with_borrow_mut(|walked| {
        walked.steps += 1;
        walked.steps - 1
    });
    let before = (migrt::here(), os_thread());
    match plan {
        Plan::Hops { first, hops } if (first..first + hops).contains(&at) => move_on(),
        Plan::Chase { first, hops } if (first..first + hops).contains(&at) => {
            let here = migrt::here();
            move_on();
            // One more hop than the nodes below show.
            WALKED.with_borrow_mut(|walked| walked.hops += u32::from(migrt::here() != here));
            move_on();
        }
        Plan::Ordered { first, moves } if (first..first + moves).contains(&at) => {
            await_order();
        }
        Plan::Shuffle => shuffle(at),
        _ => migrt::yield_now(),
    }
    let after = (migrt::here(), os_thread());
    WALKED.with_borrow_mut(|walked| {
        walked.hops += u32::from(before.0 != after.0);
        walked.threads += u32::from(before.0 == after.0 && before.1 != after.1);
    });
}

/// Who takes a task is the scheduler's choice, and the kernel's: asked for often enough it is another worker.
fn shuffle(at: u32) {
    const TRIES: u32 = 100;
    let before = os_thread();
    for turn in at..at + TRIES {
        if turn.is_multiple_of(2) {
            migrt::sleep(Duration::from_micros(5));
        } else {
            (0..2000).for_each(|n| _ = std::hint::black_box(n));
            migrt::yield_now();
        }
        if os_thread() != before {
            return;
        }
    }
}

fn move_on() {
    if let Err(error) = migrt::migrate_to(next_node()) {
        WALKED.with_borrow_mut(|walked| walked.refused.push(error.to_string()));
    }
}

/// A task that cannot leave just now is not waited for without end.
fn await_order() {
    let moves = migrt::moves();
    for _ in 0..100 {
        if migrt::moves() != moves {
            return;
        }
        migrt::sleep(Duration::from_micros(100));
    }
}

/// The live node after this one.
#[must_use]
pub fn next_node() -> NodeId {
    let (here, nodes) = (migrt::here(), migrt::nodes());
    let at = nodes.iter().position(|&node| node == here).unwrap_or(0);
    nodes[(at + 1) % nodes.len()]
}

/// The kernel's number of the OS thread that lends itself to the caller now.
#[must_use]
pub fn os_thread() -> i64 {
    // SAFETY: the call has no arguments and no conditions.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

#[migrt::migratable]
fn walk_all_pairs() -> Result<(), String> {
    let nodes = migrt::nodes();
    for &from in &nodes {
        for &to in &nodes {
            for target in [from, to] {
                let mut tries = 0;
                while let Err(error) = migrt::migrate_to(target) {
                    tries += 1;
                    if tries > 1000 {
                        return Err(error.to_string());
                    }
                    migrt::sleep(Duration::from_millis(5));
                }
            }
        }
    }
    Ok(())
}

/// Waits until each node reaches each other one.
///
/// # Panics
/// If that takes more than five seconds.
pub fn settle() {
    let walked = migrt::spawn(walk_all_pairs()).join();
    walked.expect("the walk ends").expect("every node reaches every other");
}

/// Stirs `value` into the checksum `sum`.
#[must_use]
pub fn mix(sum: u64, value: u64) -> u64 {
    (sum.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Stirs bytes into the checksum `sum`.
#[must_use]
pub fn mix_bytes(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, &byte| mix(sum, u64::from(byte)))
}

/// A small seeded generator of test data.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// Equal seeds give equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}
