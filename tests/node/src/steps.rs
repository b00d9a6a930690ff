//! The log in which every task notes every step, from whatever node: one line each, appended whole.
//!
//! What a process that was killed or stopped did cannot be asked of it afterwards; what it wrote
//! here can. A step that stands here twice was done twice.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Notes that task `task` makes `step` on `node`. The file is open only for this moment, so the task
/// can move afterwards.
///
/// # Panics
/// If the file cannot be written.
pub fn note(log: &str, task: u32, step: u32, node: u16) {
    let line = format!("{task} {step} {node} {}\n", std::process::id());
    let mut file = open(log);
    // One write of one line: O_APPEND keeps lines of several processes apart.
    file.write_all(line.as_bytes()).expect("the log can be written");
}

fn open(log: &str) -> File {
    OpenOptions::new().append(true).create(true).open(log).expect("the log can be opened")
}

/// What one task did: (step, node), in order of writing.
pub type Walk = Vec<(u32, u16)>;

/// Reads the log.
///
/// # Panics
/// If a line is not one of [`note`]'s.
#[must_use]
pub fn read(log: &Path) -> BTreeMap<u32, Walk> {
    let mut walks: BTreeMap<u32, Walk> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
        let numbers: Vec<u32> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let [task, step, node, _pid] = numbers[..] else { panic!("{line:?} is no step") };
        walks.entry(task).or_default().push((step, node as u16));
    }
    walks
}

/// A walk begins at step 0 and goes on by one step each time: none left out, none done twice (I1).
///
/// # Panics
/// If not.
pub fn check(task: u32, walk: &Walk) {
    let steps: Vec<u32> = walk.iter().map(|(step, _)| *step).collect();
    let wanted: Vec<u32> = (0..walk.len() as u32).collect();
    assert_eq!(steps, wanted, "task {task} did steps twice, or left some out: {walk:?}");
}

/// The nodes of a walk, each once per stay.
#[must_use]
pub fn stays(walk: &Walk) -> Vec<u16> {
    let mut nodes: Vec<u16> = walk.iter().map(|(_, node)| *node).collect();
    nodes.dedup();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_done_twice_is_seen() {
        check(1, &vec![(0, 1), (1, 1), (2, 2)]);
        assert_eq!(stays(&vec![(0, 1), (1, 1), (2, 2)]), [1, 2]);
        for wrong in [vec![(0, 1), (1, 2), (1, 1)], vec![(0, 1), (2, 1)], vec![(1, 1)]] {
            assert!(std::panic::catch_unwind(|| check(1, &wrong)).is_err(), "{wrong:?}");
        }
    }
}
