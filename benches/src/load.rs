//! A task that reads and writes its heap at given rates while others move it.
//!
//! Each page says which page it is and how often it was written, and all of its words follow from
//! that; the task keeps the sum of all counts. So a page that is torn, old, lost or another's shows:
//! at every read, and when all are checked.
//!
//! A rate is kept without catching up: what a pause or a slow access took is lost, and shows in the
//! task's progress (`log`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::machine_ns;
use crate::log::{self, Entry};
use crate::pattern::{Pattern, Walk};
use crate::random::next;
use crate::size::Rate;

pub const PAGE_LEN: usize = 4096;
const PAGE_WORDS: usize = PAGE_LEN / 8;
/// Pages between two looks at the clock, of a task that goes as fast as it can.
const BATCH: u64 = 16;
/// What one batch of a slower task is to take with its rest.
const STEP_NS: u64 = 500_000;
/// How often progress is noted.
const NOTE_NS: u64 = 500_000;
const POLL: Duration = Duration::from_millis(1);
/// A task that has not answered after this has ended, or hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub pages: usize,
    /// Bytes per second, as in [`Rate`].
    pub read: u64,
    pub write: u64,
    pub pattern: Pattern,
    pub seed: u64,
    /// When the run began, by the machine's clock.
    pub since: u64,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub read: u64,
    pub written: u64,
    /// How often all pages were checked.
    pub checks: u64,
}

/// What it can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Rest,
    GoOn,
    /// Checks all pages.
    Check,
    /// Writes so many pages, spread over all.
    Write(u32),
    End,
}

/// The wish, 0 when it is done. A node's own, so it is asked on the node that the task is on.
static WISH: AtomicU64 = AtomicU64::new(0);

/// Asks the task on this node, and waits until it has done it.
#[migrt::migratable]
pub fn ask(wish: Wish) -> Result<(), String> {
    let (kind, count) = match wish {
        Wish::Rest => (1, 0),
        Wish::GoOn => (2, 0),
        Wish::Check => (3, 0),
        Wish::Write(count) => (4, count),
        Wish::End => (5, 0),
    };
    WISH.store(kind | u64::from(count) << 8, Ordering::SeqCst);
    let since = machine_ns();
    while WISH.load(Ordering::SeqCst) != 0 {
        if machine_ns() - since > PATIENCE.as_nanos() as u64 {
            return Err(format!("the task does not answer: {wish:?}"));
        }
        migrt::sleep(POLL);
    }
    Ok(())
}

#[repr(C, align(4096))]
struct Page([u64; PAGE_WORDS]);

impl Page {
    /// Of each word but the first: no two pages have the same, and none is short or repeats.
    fn start(number: usize, writes: u64) -> u64 {
        next(&mut ((number as u64) << 40 ^ writes))
    }

    fn write(&mut self, number: usize, writes: u64) {
        let mut word = Page::start(number, writes);
        for place in &mut self.0 {
            *place = word;
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
        self.0[0] = writes;
    }

    /// How often it was written.
    fn check(&self, number: usize) -> Result<u64, String> {
        let writes = self.0[0];
        let mut word = Page::start(number, writes);
        let mut differing = 0;
        for place in &self.0[1..] {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            differing |= place ^ word;
        }
        if differing == 0 {
            Ok(writes)
        } else {
            Err(format!("page {number} is not as its write {writes} left it"))
        }
    }
}

/// Reading, or writing.
struct Stream {
    walk: Walk,
    batch: u64,
    /// From batch to batch; 0: as fast as it goes, `None`: never.
    step: Option<u64>,
    due: u64,
}

impl Stream {
    fn new(rate: u64, load: &Load, seed: u64) -> Stream {
        let per_s = rate / PAGE_LEN as u64;
        let (batch, step) = match Rate(rate) {
            Rate::NONE => (0, None),
            Rate::MAX => (BATCH, Some(0)),
            _ => {
                let batch = (per_s * STEP_NS / 1_000_000_000).max(1);
                let step = u128::from(batch) * PAGE_LEN as u128 * 1_000_000_000 / u128::from(rate);
                (batch, Some(step as u64))
            }
        };
        let walk = Walk::new(load.pattern, load.pages, load.seed ^ seed);
        Stream { walk, batch, step, due: machine_ns() }
    }

    fn is_due(&self, now: u64) -> bool {
        self.step.is_some() && self.due <= now
    }

    /// A batch was begun; being late by less than a step is made good, more is lost.
    fn begun(&mut self, now: u64) {
        let step = self.step.unwrap_or(0);
        self.due = if self.due + step < now { now + step } else { self.due + step };
    }
}

#[migrt::migratable]
pub fn work(load: Load) -> Result<Done, String> {
    Worker::new(load).run()
}

struct Worker {
    load: Load,
    heap: Vec<Page>,
    streams: [Stream; 2],
    writes: u64,
    done: Done,
    busy: u64,
    noted: u64,
    is_resting: bool,
}

impl Worker {
    fn new(load: Load) -> Worker {
        let mut heap = Vec::with_capacity(load.pages);
        for number in 0..load.pages {
            let mut page = Page([0; PAGE_WORDS]);
            page.write(number, 1);
            heap.push(page);
        }
        let streams = [Stream::new(load.read, &load, 1), Stream::new(load.write, &load, 2)];
        let writes = load.pages as u64;
        let done = Done::default();
        Worker { load, heap, streams, writes, done, busy: 0, noted: 0, is_resting: false }
    }

    fn run(&mut self) -> Result<Done, String> {
        let mut moves = migrt::moves();
        self.note(moves, 0)?;
        loop {
            if WISH.load(Ordering::Relaxed) != 0 && self.grant()? {
                return Ok(self.done);
            }
            let mut wake = machine_ns() + POLL.as_nanos() as u64;
            if !self.is_resting {
                for which in 0..2 {
                    let begin = machine_ns();
                    if self.streams[which].is_due(begin) {
                        self.streams[which].begun(begin);
                        self.batch(which)?;
                        self.busy += machine_ns() - begin;
                    }
                    if self.streams[which].step.is_some() {
                        wake = wake.min(self.streams[which].due);
                    }
                }
            }
            // Here it may be moved.
            let before = machine_ns();
            match wake.checked_sub(before) {
                Some(early) if early > 0 => migrt::sleep(Duration::from_nanos(early)),
                _ => migrt::yield_now(),
            }
            let now = machine_ns();
            if migrt::moves() != moves {
                moves = migrt::moves();
                self.note(moves, now - before.max(wake.min(now)))?;
            } else if now - self.noted >= NOTE_NS {
                self.note(moves, 0)?;
            }
        }
    }

    fn note(&mut self, moves: u32, gap: u64) -> Result<(), String> {
        self.noted = machine_ns();
        let entry = Entry {
            at: self.noted - self.load.since,
            done: self.done.read + self.done.written,
            busy: self.busy,
            moves: moves.into(),
            gap,
        };
        if log::note(entry) { Ok(()) } else { Err("the log is full: make fewer hops".to_owned()) }
    }

    fn batch(&mut self, which: usize) -> Result<(), String> {
        for _ in 0..self.streams[which].batch {
            let number = self.streams[which].walk.next_page();
            if which == 0 {
                self.heap[number].check(number)?;
                self.done.read += 1;
            } else {
                self.write(number);
                self.done.written += 1;
            }
        }
        Ok(())
    }

    fn write(&mut self, number: usize) {
        let page = &mut self.heap[number];
        page.write(number, page.0[0] + 1);
        self.writes += 1;
    }

    /// Does what was asked for; whether it is to end.
    fn grant(&mut self) -> Result<bool, String> {
        let wish = WISH.load(Ordering::SeqCst);
        match wish & 0xff {
            1 => self.is_resting = true,
            2 => self.is_resting = false,
            4 => {
                let count = (wish >> 8) as usize;
                let step = (self.heap.len() / count.max(1)).max(1);
                (0..self.heap.len()).step_by(step).take(count).for_each(|page| self.write(page));
            }
            _ => {
                let counts = self.heap.iter().enumerate().map(|(n, page)| page.check(n));
                let found = counts.sum::<Result<u64, String>>()?;
                if found != self.writes {
                    return Err(format!("{found} writes are in the heap of {}", self.writes));
                }
                self.done.checks += 1;
            }
        }
        WISH.store(0, Ordering::SeqCst);
        Ok(wish & 0xff == 5)
    }
}
