//! The checkers, one per invariant. They see every process from outside, as no node can.

use std::collections::BTreeMap;

use migrt_proto::{
    Epoch, NodeId, Place, TaskId,
    wire::{Outcome, SlotGrant},
};

use crate::process::Process;

/// A broken rule: which, when, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, as in `docs/invariants.md`.
    pub rule: &'static str,
    /// What was seen, with the time.
    pub text: String,
}

/// What the world remembers in order to judge.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    ran: BTreeMap<TaskId, BTreeMap<Epoch, Place>>,
    pub(crate) reported: BTreeMap<TaskId, Outcome>,
    granted: Vec<SlotGrant>,
    pub(crate) dead: Vec<Place>,
    /// Tasks that ended for want of pages: who had had them, and how many.
    pub(crate) pages_lost: BTreeMap<TaskId, (NodeId, u64)>,
    /// The process that spawned each task.
    pub(crate) homes: BTreeMap<TaskId, Place>,
    pub(crate) found: Option<Violation>,
}

impl Checker {
    pub(crate) fn fail(&mut self, now: u64, rule: &'static str, text: String) {
        self.found.get_or_insert(Violation { rule, text: format!("at {now} us: {text}") });
    }

    /// I1 and I2, when `task` has become runnable at, or runs at, `place` in `epoch`.
    pub(crate) fn runs(
        &mut self,
        now: u64,
        processes: &[Option<Process>],
        place: Place,
        task: TaskId,
        epoch: Epoch,
    ) {
        let epochs = self.ran.entry(task).or_default();
        let first = *epochs.entry(epoch).or_insert(place);
        let newest = *epochs.keys().next_back().expect("just inserted");
        if first != place {
            return self.fail(
                now,
                "I1",
                format!("{task} runs at {place} in {epoch}, as it did at {first}"),
            );
        }
        if newest > epoch {
            return self.fail(
                now,
                "I1",
                format!("{task} runs at {place} in {epoch} after {newest}"),
            );
        }
        if let Some(outcome) = self.reported.get(&task) {
            let text = format!("{task} runs at {place} after it was reported as {outcome:?}");
            return self.fail(now, "I2", text);
        }
        for other in processes.iter().flatten().filter(|process| process.place() != place) {
            if other.may_run(now) && other.tasks.get(&task).is_some_and(|local| local.is_runnable())
            {
                return self.fail(
                    now,
                    "I1",
                    format!("{task} runs at {place} and at {}", other.place()),
                );
            }
        }
    }

    /// I3 for the slot of a task that begins or goes on at `place`.
    pub(crate) fn slot_used(
        &mut self,
        now: u64,
        processes: &[Option<Process>],
        place: Place,
        task: TaskId,
        slot: u32,
    ) {
        for process in processes.iter().flatten().filter(|process| process.may_run(now)) {
            if process.place() == place
                && let Some((other, _)) = process.serving.iter().find(|(_, s)| s.1.slot == slot)
            {
                let text =
                    format!("{task} uses slot {slot} at {place}, which serves {other} there");
                self.fail(now, "I3", text);
            }
            for (other, local) in &process.tasks {
                if *other != task && local.slot == slot && local.is_runnable() {
                    let text = format!(
                        "slot {slot} is used by {task} at {place} and by {other} at {}",
                        process.place()
                    );
                    self.fail(now, "I3", text);
                }
            }
        }
    }

    /// I3 and I11, after every step of the process at `place`: no page lies over one that is served, and a task stands
    /// still for as long as the core knows why, no longer.
    pub(crate) fn steady(&mut self, now: u64, processes: &[Option<Process>], place: Place) {
        let here = processes[usize::from(place.node.0)].as_ref();
        let Some(process) = here.filter(|process| process.place() == place) else { return };
        for (task, local) in &process.tasks {
            if local.frozen != process.core.is_frozen(*task) {
                let text =
                    format!("{task} is frozen at {place}, or runs, against the core: {local:?}");
                self.fail(now, "I11", text);
            }
        }
        for (task, (epoch, copy)) in &process.serving {
            let written = process.arriving.values().filter(|arrival| arrival.is_written);
            let mut all = process.tasks.values().chain(written.map(|arrival| &arrival.local));
            if let Some(other) = all.find(|other| other.slot == copy.slot) {
                let text = format!("{place} serves {task} of {epoch}, over it lies {other:?}");
                self.fail(now, "I3", text);
            }
        }
    }

    /// I3 for dealt slots.
    pub(crate) fn granted(&mut self, now: u64, place: Place, grants: &[SlotGrant]) {
        for new in grants {
            let overlaps = |old: &&SlotGrant| {
                old.class == new.class
                    && old.first < new.first + new.count
                    && new.first < old.first + old.count
            };
            if let Some(old) = self.granted.iter().find(overlaps) {
                let text = format!("{place} was dealt {new:?} after {old:?}");
                return self.fail(now, "I3", text);
            }
            self.granted.push(*new);
        }
    }

    /// I2, when an outcome is delivered to somebody.
    pub(crate) fn outcome(
        &mut self,
        now: u64,
        processes: &[Option<Process>],
        task: TaskId,
        outcome: &Outcome,
    ) {
        if matches!(outcome, Outcome::Lost { node, missing_pages: 0 } if *node == task.home()) {
            // The word of a waiter whose home died: no end, but that nobody will know it. Orphans are cancelled, perhaps
            // a moment later.
            let home = self.homes[&task];
            if processes
                .iter()
                .flatten()
                .any(|process| process.place() == home && process.may_run(now))
            {
                self.fail(
                    now,
                    "I2",
                    format!("{task} was reported lost with its home, which lives"),
                );
            }
            return;
        }
        match self.reported.get(&task) {
            Some(first) if first != outcome => {
                let text = format!("{task} ended as {first:?} and as {outcome:?}");
                return self.fail(now, "I2", text);
            }
            Some(_) => return,
            None => {}
        }
        if let Outcome::Lost { node, missing_pages: pages @ 1.. } = outcome
            && self.pages_lost.get(&task) != Some(&(*node, *pages))
        {
            let text =
                format!("{task} was lost for {:?}, not {outcome:?}", self.pages_lost.get(&task));
            return self.fail(now, "I2", text);
        }
        if let Outcome::Lost { node, .. } = outcome
            && !self.dead.iter().any(|place| place.node == *node)
            && processes
                .iter()
                .flatten()
                .any(|process| process.place().node == *node && process.may_run(now))
        {
            return self.fail(
                now,
                "I2",
                format!("{task} was reported lost at {node}, which never died"),
            );
        }
        self.reported.insert(task, outcome.clone());
        for process in processes.iter().flatten() {
            if process.may_run(now)
                && process.tasks.get(&task).is_some_and(|local| local.is_runnable())
            {
                let text =
                    format!("{task} was reported as {outcome:?} and runs at {}", process.place());
                self.fail(now, "I2", text);
            }
        }
    }

    /// I10 and I11, long after the last fault. A task that is here still was left frozen, or forgotten.
    pub(crate) fn rest(&mut self, now: u64, process: &Process) {
        for (task, local) in &process.tasks {
            let rule = if local.frozen { "I11" } else { "I10" };
            let text = format!("{task} is left over at {}: {local:?}", process.place());
            self.fail(now, rule, text);
        }
        if !process.waits.is_empty() {
            self.fail(
                now,
                "I10",
                format!("nobody answers {}: {:?}", process.place(), process.waits),
            );
        }
        let backlog = process.core.backlog();
        if backlog != (0, 0, 0) || !process.arriving.is_empty() || !process.serving.is_empty() {
            let text = format!(
                "{} still remembers {backlog:?}, arriving {:?}, serving {:?}",
                process.place(),
                process.arriving,
                process.serving
            );
            self.fail(now, "I10", text);
        }
    }
}
