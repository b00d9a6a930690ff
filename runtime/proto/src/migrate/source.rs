//! The source's part of the hand-off. Rule numbers are those of `handoff`.

use super::handoff::{Handoff, Resident, State, answer};
use crate::{
    action::{Action, Cx, Fault},
    id::{Asker, Epoch, NodeId, Place, TaskId},
    wire::{Frame, Refusal, Verdict},
};

impl Handoff {
    /// Someone wants the task at `target`. If this is refused, nothing has happened and nobody was answered.
    pub(crate) fn order(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        target: NodeId,
        asker: Option<Asker>,
    ) -> Result<(), Refusal> {
        let is_home_dead = cx.members.is_home_dead(task);
        let resident = self.resident(task).ok_or(Refusal::UnknownTask)?;
        if !matches!(resident.state, State::Running) {
            return Err(Refusal::Busy);
        }
        if is_home_dead {
            return Err(Refusal::HomeDied { node: task.home() });
        }
        let place = cx.members.place(target).ok_or(Refusal::NotAMember { node: target })?;
        if place == cx.members.me {
            answer(cx, task, asker, Ok(target));
            return Ok(());
        }
        resident.state = State::Ordered { target: place };
        resident.asker = asker;
        cx.out.act(Action::Freeze { task, target });
        Ok(())
    }

    /// The driver has frozen the task (rule 2).
    pub(crate) fn frozen(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        let Some(resident) = self.resident(task) else { return };
        let State::Ordered { target } = resident.state else {
            if matches!(resident.state, State::Running) {
                // The move failed while the driver was freezing; its first `ResumeHere` may have come too early.
                let why = Refusal::Other { why: "the move was given up before the freeze".into() };
                cx.out.act(Action::ResumeHere { task, epoch: resident.epoch, why });
            }
            return;
        };
        let epoch = resident.tried.next();
        resident.tried = epoch;
        let give_up = cx.now + cx.ready_limit;
        resident.state = State::Shipped { target, epoch, give_up };
        self.give_ups.insert((give_up, task));
        if cx.members.place(target.node) == Some(target) {
            cx.out.act(Action::Ship { task, epoch, to: target.node });
        } else {
            self.fail_move(cx, task, Refusal::TargetDied { node: target.node });
        }
    }

    /// The driver could not freeze the task: it never stopped.
    pub(crate) fn freeze_failed(&mut self, cx: &mut Cx<'_>, task: TaskId, why: Refusal) {
        let Some(resident) = self.resident(task) else { return };
        if matches!(resident.state, State::Ordered { .. }) {
            resident.state = State::Running;
            let asker = resident.asker.take();
            answer(cx, task, asker, Err(why));
        }
    }

    /// The transfer of that try broke, or (`Refuse`) the target does not want it.
    pub(crate) fn try_failed(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, why: Refusal) {
        let tried = self.resident(task).map(|resident| &resident.state);
        if matches!(tried, Some(State::Shipped { epoch: tried, .. }) if *tried == epoch) {
            self.fail_move(cx, task, why);
        }
    }

    /// Rule 4. Nothing happens if the commit was sent, or no move is under way.
    pub(crate) fn fail_move(&mut self, cx: &mut Cx<'_>, task: TaskId, why: Refusal) {
        let Some(resident) = self.resident(task) else { return };
        match resident.state {
            State::Shipped { target, epoch, .. } => {
                if cx.members.place(target.node) == Some(target) {
                    cx.out.frame(target.node, Frame::Abort { task, epoch });
                }
                let epoch = resident.epoch;
                resident.go_on(cx, task, epoch, why);
            }
            State::Ordered { .. } => {
                // Not frozen yet, so there is nothing to undo; a `frozen` that comes now must be undone.
                resident.state = State::Running;
                let (asker, epoch) = (resident.asker.take(), resident.epoch);
                answer(cx, task, asker, Err(why.clone()));
                cx.out.act(Action::ResumeHere { task, epoch, why });
            }
            State::Running | State::Committed { .. } | State::InDoubt { .. } => {}
        }
    }

    /// The target has installed everything: the commit point.
    pub(crate) fn on_ready(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let resident = self.resident(task);
        match resident.map(|resident| &mut resident.state) {
            Some(state @ State::Shipped { .. }) if matches!(*state, State::Shipped { target, epoch: tried, .. } if target == from && tried == epoch) =>
            {
                *state = State::Committed { target: from, epoch };
                cx.out.frame(from.node, Frame::Commit { task, epoch });
            }
            Some(State::Committed { epoch: tried, .. }) if *tried == epoch => {}
            // A try that was given up, or is long over (then nobody is left to mind).
            _ => cx.out.frame(from.node, Frame::Abort { task, epoch }),
        }
    }

    /// The target runs it (rule 9).
    pub(crate) fn on_ack(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let state = self.resident(task).map(|resident| &resident.state);
        if matches!(state, Some(State::Committed { target, epoch: tried }) if *target == from && *tried == epoch)
        {
            cx.out.frame(task.home(), Frame::Located { task, at: from, epoch });
            self.release(cx, task, epoch, from.node, Ok(from.node));
        }
    }

    /// Rule 10: the task comes back in `epoch`. Whether there is no reason against it.
    pub(crate) fn came_back(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch) -> bool {
        let Some(resident) = self.resident(task) else { return true };
        match resident.state {
            State::Committed { target, epoch: tried } | State::InDoubt { target, epoch: tried }
                if epoch > tried =>
            {
                // Rule 9 holds for this proof too: the target may have died with its own word to the home.
                cx.out.frame(task.home(), Frame::Located { task, at: target, epoch: tried });
                self.release(cx, task, tried, target.node, Ok(target.node));
                true
            }
            _ => false,
        }
    }

    /// Rules 4 and 6, if the move under way was to the dead.
    pub(crate) fn target_dead(&mut self, cx: &mut Cx<'_>, task: TaskId, dead: Place) {
        let Some(resident) = self.resident(task) else { return };
        match resident.state {
            State::Ordered { target } | State::Shipped { target, .. } if target == dead => {
                self.fail_move(cx, task, Refusal::TargetDied { node: dead.node });
            }
            State::Committed { target, epoch } if target == dead => {
                if cx.fault == Fault::ResumeInDoubt {
                    return resident.go_on(
                        cx,
                        task,
                        epoch.next(),
                        Refusal::TargetDied { node: dead.node },
                    );
                }
                resident.state = State::InDoubt { target, epoch };
                if !cx.members.is_home_dead(task) {
                    cx.out.frame(task.home(), Frame::InDoubt { task, epoch, target });
                }
            }
            _ => {}
        }
    }

    /// The home has decided (rule 6).
    pub(crate) fn on_verdict(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        epoch: Epoch,
        verdict: Verdict,
    ) {
        let Some(resident) = self.resident(task) else { return };
        let State::InDoubt { target, epoch: tried } = resident.state else { return };
        if tried != epoch {
            return;
        }
        let why = Refusal::TargetDied { node: target.node };
        match verdict {
            Verdict::GoOn { epoch } => resident.go_on(cx, task, epoch, why),
            Verdict::Taken => self.release(cx, task, epoch, target.node, Err(why)),
        }
    }

    /// Links are no evidence of anything; only the simulator's broken variant thinks so (rule 5).
    pub(crate) fn link_down(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        if cx.fault != Fault::ResumeAfterCommit {
            return;
        }
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            let Some(resident) = self.resident(task) else { continue };
            if let State::Committed { target, epoch } = resident.state
                && target.node == node
            {
                resident.go_on(cx, task, epoch.next(), Refusal::Timeout);
            }
        }
    }

    fn release(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        epoch: Epoch,
        to: NodeId,
        result: Result<NodeId, Refusal>,
    ) {
        let asker = self.resident(task).and_then(|resident| resident.asker.take());
        answer(cx, task, asker, result);
        self.tasks.remove(&task);
        cx.out.act(Action::ReleaseSource { task, epoch, to });
    }
}

impl Resident {
    /// The frozen task runs on here in `epoch`.
    fn go_on(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, why: Refusal) {
        self.state = State::Running;
        self.epoch = epoch;
        self.tried = self.tried.max(epoch);
        let asker = self.asker.take();
        answer(cx, task, asker, Err(why.clone()));
        if cx.fault != Fault::ForgetResume {
            cx.out.act(Action::ResumeHere { task, epoch, why });
        }
        if self.cancel {
            cx.out.act(Action::CancelTask { task, why: None });
        }
    }
}
