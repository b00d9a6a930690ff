//! The hand-off: one node's table of the tasks that are here, on their way out, or on their way in.
//!
//! ```text
//! source   Running --order--> Ordered --frozen--> Shipped --Ready/commit--> Committed --Ack--> gone
//!             ^  freeze failed |   refuse, abort,    |       target dead |
//!             +----------------+   timeout, death    |                   v     Taken
//!             +--------------------------------------+                InDoubt ---------> gone
//!             +------------------------------------------ GoOn ---------+
//!
//! target   (none) --Ship--> Arriving --installed/Ready--> Arriving --Commit/Ack--> Running
//!             ^   failed, Abort, source dead |   Abort, source dead |
//!             +------------------------------+----------------------+
//! ```
//!
//! Rules
//! 1. Epochs order residences. Every try of a move takes a new epoch, higher than all before, so `(task, epoch)` names
//!    one try for ever and a late or doubled frame of another try fits nowhere.
//! 2. The source freezes before it ships and changes nothing of a frozen task.
//! 3. The target thaws only on `Commit`, and tells source (`Ack`) and home (`Located`) before the task runs.
//! 4. Before `Commit` is sent every failure leaves the task at the source, in its old epoch (I11).
//! 5. After it the source keeps the copy frozen until `Ack`, whatever becomes of links and however long that takes.
//! 6. If the target is declared dead (so: fenced) without an `Ack`, the home decides: `Taken`, or `GoOn` in an epoch
//!    above the try. If the home is dead as well, nobody waits for the task: the copy goes.
//! 7. The home decides, and reports a task lost, only when all who live have dealt with the death (see `death`).
//! 8. A target whose source dies without `Commit` drops its copy. Once `Ready` it drops it for nothing else but an
//!    `Abort` or the death of the home; so a `Commit` for a copy that is not there was obeyed before: it gets an `Ack`.
//! 9. A source that gets an `Ack` tells the home too, before it forgets. Whoever says "not here" is thus never
//!    ahead of the home.
//! 10. A task that comes back in a higher epoch than the one committed proves that the commit was obeyed: an `Ack`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    action::{Action, Cx},
    id::{Asker, Epoch, Place, TaskId},
    time::Micros,
    wire::{Answer, Frame, Refusal},
};

/// The table. Ordered, so that equal inputs give equal outputs.
#[derive(Debug, Default)]
pub(crate) struct Handoff {
    pub(crate) tasks: BTreeMap<TaskId, Presence>,
    /// When tries are given up. Those that are over stay until their time.
    pub(crate) give_ups: BTreeSet<(Micros, TaskId)>,
}

#[derive(Debug)]
pub(crate) enum Presence {
    Resident(Resident),
    Arriving(Arriving),
}

/// A task that is here, or was and is not yet known to be elsewhere.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) epoch: Epoch,
    /// Highest epoch that any try has used (rule 1).
    pub(crate) tried: Epoch,
    /// It shall stop; told to the driver when it runs here again.
    pub(crate) cancel: bool,
    /// Who waits for the answer to the move under way.
    pub(crate) asker: Option<Asker>,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    Running,
    Ordered { target: Place },
    Shipped { target: Place, epoch: Epoch, give_up: Micros },
    Committed { target: Place, epoch: Epoch },
    InDoubt { target: Place, epoch: Epoch },
}

#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) source: Place,
    pub(crate) epoch: Epoch,
    pub(crate) ready: bool,
}

impl Handoff {
    /// A task begins here, or is heard of by this table for the first time.
    pub(crate) fn adopt(&mut self, task: TaskId, epoch: Epoch) {
        let resident =
            Resident { epoch, tried: epoch, cancel: false, asker: None, state: State::Running };
        let old = self.tasks.insert(task, Presence::Resident(resident));
        assert!(old.is_none(), "I1: {task} is here twice");
    }

    pub(crate) fn is_resident(&self, task: TaskId) -> bool {
        matches!(self.tasks.get(&task), Some(Presence::Resident(_)))
    }

    pub(crate) fn resident(&mut self, task: TaskId) -> Option<&mut Resident> {
        match self.tasks.get_mut(&task) {
            Some(Presence::Resident(resident)) => Some(resident),
            _ => None,
        }
    }

    /// The task's entry has returned, panicked or been cancelled. Its epoch, if it was here.
    ///
    /// # Panics
    /// If the task is frozen: then it cannot have ended, and two of it run (I1).
    pub(crate) fn ended(&mut self, cx: &mut Cx<'_>, task: TaskId) -> Option<Epoch> {
        let resident = self.resident(task)?;
        assert!(
            matches!(resident.state, State::Running | State::Ordered { .. }),
            "I1: {task} ended while it was frozen"
        );
        let (epoch, asker) = (resident.epoch, resident.asker.take());
        answer(cx, task, asker, Err(Refusal::Ended));
        self.tasks.remove(&task);
        Some(epoch)
    }

    /// The task shall stop. Whether it is here (or will be told at its next place).
    pub(crate) fn stop(&mut self, cx: &mut Cx<'_>, task: TaskId, why: Option<Refusal>) -> bool {
        let Some(resident) = self.resident(task) else { return false };
        resident.cancel = true;
        if matches!(resident.state, State::Running | State::Ordered { .. }) {
            cx.out.act(Action::CancelTask { task, why });
        }
        true
    }

    /// `dead` has died; rules 4, 6 and 8, and the tasks whose home it was.
    pub(crate) fn node_dead(&mut self, cx: &mut Cx<'_>, dead: Place) {
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            match self.tasks.get(&task) {
                Some(Presence::Arriving(arriving)) if arriving.source == dead => {
                    self.drop_copy(cx, task)
                }
                Some(Presence::Arriving(_)) if cx.members.is_home_dead(task) => {
                    self.refuse_copy(cx, task, Refusal::HomeDied { node: task.home() });
                }
                Some(Presence::Resident(_)) => {
                    self.target_dead(cx, task, dead);
                    if cx.members.is_home_dead(task) {
                        self.orphan(cx, task);
                    }
                }
                _ => {}
            }
        }
    }

    /// Nobody will ask for this task any more: it ends.
    fn orphan(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        let why = Refusal::HomeDied { node: task.home() };
        self.fail_move(cx, task, why.clone());
        let Some(resident) = self.resident(task) else { return };
        match resident.state {
            State::InDoubt { target, epoch } => {
                self.tasks.remove(&task);
                cx.out.act(Action::ReleaseSource { task, epoch, to: target.node });
            }
            // The target cancels it, or its death makes it doubtful, and then the line above ends it.
            State::Committed { .. } => {}
            _ => {
                self.stop(cx, task, Some(why));
            }
        }
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) {
        while let Some((at, task)) = self.give_ups.pop_first() {
            if at > cx.now {
                self.give_ups.insert((at, task));
                return;
            }
            let state = self.resident(task).map(|resident| &resident.state);
            if matches!(state, Some(State::Shipped { give_up, .. }) if *give_up == at) {
                self.fail_move(cx, task, Refusal::Timeout);
            }
        }
    }

    /// May be early: tries that are over are noticed then.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        self.give_ups.first().map(|(at, _)| *at)
    }
}

/// Answers the one who asked for a move, by way of the home.
pub(crate) fn answer(
    cx: &mut Cx<'_>,
    task: TaskId,
    asker: Option<Asker>,
    result: Result<crate::id::NodeId, Refusal>,
) {
    if let Some(asker) = asker {
        cx.out.frame(task.home(), Frame::Answer { task, asker, answer: Answer::Move(result) });
    }
}
