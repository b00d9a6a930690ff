//! How many tasks stand still at a time on their way to one node.
//!
//! Tasks that are frozen for one link share it, and each stands still for as long as all of them take.
//! So only a few are at a time; the others wait for their turn, and run meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrt_iso::PAGE_LEN;
use migrt_proto::{NodeId, TaskId};

use super::chaos;
use super::ship::live_pages;
use crate::exec::door;
use crate::task::record::TaskRef;

/// Tasks that are frozen for one target, if none of them is long.
const COUNT_MAX: usize = 4;
/// And what they bring together. One task alone may bring more.
const BYTE_COUNT_MAX: usize = 1 << 20;

/// What a task brings whose pages follow it, more or less.
const HEAD_LEN: usize = 64 * PAGE_LEN;

static GATES: Mutex<BTreeMap<NodeId, Gate>> = Mutex::new(BTreeMap::new());

fn gates() -> MutexGuard<'static, BTreeMap<NodeId, Gate>> {
    GATES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to one node.
#[derive(Debug, Default)]
struct Gate {
    /// Those that are frozen, and what each brings.
    frozen: BTreeMap<TaskId, usize>,
    waiting: VecDeque<TaskRef>,
}

impl Gate {
    fn has_room(&self, byte_count: usize) -> bool {
        let sum: usize = self.frozen.values().sum();
        self.frozen.is_empty()
            || self.frozen.len() < COUNT_MAX && sum + byte_count <= BYTE_COUNT_MAX
    }
}

/// Whether the task, which the caller has frozen, may stay so for `to` now. If not it is asked again when
/// it may. Most of a task in rounds is there already, and it goes at once; so do all in chaos mode, which
/// is to move a task where it stands.
pub(super) fn enter(task: &TaskRef, to: NodeId, in_rounds: bool) -> bool {
    let body = task.mobile().expect("only mobile tasks move");
    let byte_count = match body.header() {
        _ if body.journey().is_lazy => HEAD_LEN,
        Some(header) if !in_rounds => live_pages(header) * PAGE_LEN,
        _ => 0,
    };
    let mut gates = gates();
    let gate = gates.entry(to).or_default();
    if in_rounds || chaos::is_on() || gate.has_room(byte_count) {
        gate.frozen.insert(body.id, byte_count);
        return true;
    }
    if !gate.waiting.iter().any(|other| other.as_ptr() == task.as_ptr()) {
        gate.waiting.push_back(task.clone());
    }
    false
}

/// The task does not stand still on its way any more: it is there, or goes on here. The next is asked.
pub(super) fn left(id: TaskId) {
    let mut next = Vec::new();
    for (&to, gate) in gates().iter_mut() {
        if gate.frozen.remove(&id).is_some() {
            // How much each brings shows when it is frozen: those that find no room wait again.
            let room = COUNT_MAX.saturating_sub(gate.frozen.len()).min(gate.waiting.len());
            next.extend(gate.waiting.drain(..room).map(|task| (to, task)));
        }
    }
    for (to, task) in next {
        ask(to, task);
    }
}

/// Asks a task that had to wait to leave, if it is still to.
pub(super) fn ask(to: NodeId, task: TaskRef) {
    let body = task.mobile().expect("only mobile tasks move");
    let order = body.any_journey().and_then(|journey| journey.order);
    if order.is_none_or(|order| order.to != to) {
        return;
    }
    body.ask_move(to.0);
    if task.state.freeze_waiting() {
        super::depart(task);
    } else {
        door::wake(task);
    }
}

#[cfg(test)]
mod tests {
    use migrt_proto::Generation;

    use super::*;

    #[test]
    fn short_tasks_go_a_few_at_a_time_and_a_long_one_alone() {
        let mut gate = Gate::default();
        assert!(gate.has_room(64 << 20), "one task may be as long as it is");
        for number in 1..=COUNT_MAX as u64 {
            assert!(gate.has_room(64 << 10));
            let task = TaskId::new(NodeId(0), Generation(0), number);
            gate.frozen.insert(task, 64 << 10);
        }
        assert!(!gate.has_room(0), "enough of them");
        gate.frozen.pop_last();
        assert!(gate.has_room(64 << 10));
        assert!(!gate.has_room(BYTE_COUNT_MAX), "together they would be too long");
    }
}
