//! How far a task came, by the machine's clock: written by the task on whatever node it is on, read
//! from all nodes when it has ended.
//!
//! ```text
//! node 0   [ time, pages done, busy, moves ] …            … static words of the node, so that
//! node 1                     [ … ] …                        writing them writes no page of the task
//! ```

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use migrt::NodeId;
use serde::{Deserialize, Serialize};

/// Entries of one node.
const CAPACITY: usize = 1 << 16;
/// Entries that go in one answer.
const CHUNK: usize = 4096;
const WORDS: usize = 5;

static ENTRIES: [AtomicU64; CAPACITY * WORDS] = [const { AtomicU64::new(0) }; CAPACITY * WORDS];
static LEN: AtomicUsize = AtomicUsize::new(0);

/// The state of a task at one time. Times are nanoseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: u64,
    /// Pages read and written so far.
    pub done: u64,
    /// Time spent reading and writing them.
    pub busy: u64,
    pub moves: u64,
    /// Of the first entry after a move: how long the task itself saw nothing happen.
    pub gap: u64,
}

/// Notes an entry on this node; false if there is no room.
pub fn note(entry: Entry) -> bool {
    let at = LEN.fetch_add(1, Ordering::Relaxed);
    if at >= CAPACITY {
        return false;
    }
    let words = [entry.at, entry.done, entry.busy, entry.moves, entry.gap];
    for (word, value) in ENTRIES[at * WORDS..].iter().zip(words) {
        word.store(value, Ordering::Relaxed);
    }
    true
}

/// A part of this node's log. The writer has ended, and its end was waited for.
#[migrt::migratable]
fn read_log(from: usize) -> Vec<Entry> {
    let len = LEN.load(Ordering::Relaxed).min(CAPACITY);
    let word = |at: usize, n: usize| ENTRIES[at * WORDS + n].load(Ordering::Relaxed);
    (from..len.min(from + CHUNK))
        .map(|at| Entry {
            at: word(at, 0),
            done: word(at, 1),
            busy: word(at, 2),
            moves: word(at, 3),
            gap: word(at, 4),
        })
        .collect()
}

#[migrt::migratable]
fn clear_log() {
    LEN.store(0, Ordering::Relaxed);
}

/// Empties the logs of all nodes.
pub fn clear() -> Result<(), migrt::JoinError> {
    migrt::nodes().into_iter().try_for_each(|node| migrt::spawn_on(node, clear_log()).join())
}

/// What a task did over time.
#[derive(Clone, Debug)]
pub struct Progress(Vec<Entry>);

impl Progress {
    /// From the logs of all nodes.
    pub fn read() -> Result<Progress, migrt::JoinError> {
        let mut all = Vec::new();
        for node in migrt::nodes() {
            all.extend(of_node(node)?);
        }
        all.sort_by_key(|entry: &Entry| entry.at);
        Ok(Progress(all))
    }

    /// Pages done and time spent on them at a time, on the straight line between two entries.
    pub fn at(&self, time: u64) -> (f64, f64) {
        let next = self.0.partition_point(|entry| entry.at <= time);
        let (Some(a), Some(b)) = (self.0.get(next.wrapping_sub(1)), self.0.get(next)) else {
            let end = if next == 0 { self.0.first() } else { self.0.last() };
            return end.map_or((0.0, 0.0), |entry| (entry.done as f64, entry.busy as f64));
        };
        let share = (time - a.at) as f64 / (b.at - a.at) as f64;
        let between = |a: u64, b: u64| a as f64 + (b as f64 - a as f64) * share;
        (between(a.done, b.done), between(a.busy, b.busy))
    }

    /// Pages per second between two times, and nanoseconds spent on each.
    pub fn pace(&self, from: u64, to: u64) -> (f64, f64) {
        let ((done_a, busy_a), (done_b, busy_b)) = (self.at(from), self.at(to));
        let done = done_b - done_a;
        (done * 1e9 / (to - from) as f64, (busy_b - busy_a) / done)
    }

    /// The longest time between two entries that follow each other, the later one in this span.
    pub fn longest_stall(&self, from: u64, to: u64) -> u64 {
        let pairs = self.0.windows(2).filter(|pair| (from..=to).contains(&pair[1].at));
        pairs.map(|pair| pair[1].at - pair[0].at).max().unwrap_or(0)
    }

    /// The first entry after a move.
    pub fn arrival(&self, moves: u64) -> Option<Entry> {
        self.0.iter().find(|entry| entry.moves == moves).copied()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

fn of_node(node: NodeId) -> Result<Vec<Entry>, migrt::JoinError> {
    let mut all = Vec::new();
    loop {
        let part = migrt::spawn_on(node, read_log(all.len())).join()?;
        if part.is_empty() {
            return Ok(all);
        }
        all.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_that_of_the_line_between_entries() {
        let entry = |at, done, busy| Entry { at, done, busy, ..Entry::default() };
        let progress = Progress(vec![entry(0, 0, 0), entry(1_000, 10, 500), entry(3_000, 10, 500)]);
        assert_eq!(progress.at(500), (5.0, 250.0));
        assert_eq!(progress.at(9_999), (10.0, 500.0));
        let (per_s, each) = progress.pace(0, 2_000);
        assert_eq!((per_s, each), (10.0 * 1e9 / 2_000.0, 50.0));
        assert_eq!(progress.longest_stall(2_000, 3_000), 2_000);
        assert_eq!(progress.longest_stall(0, 2_999), 1_000);
    }
}
