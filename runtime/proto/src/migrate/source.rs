//! The source's part of the hand-off. Rule numbers are those of `handoff`.

use super::handoff::{Handoff, Presence, Resident, State, answer};
use crate::{
    action::{Action, Cx, Fault},
    id::{Asker, Epoch, NodeId, Place, TaskId},
    wire::{Frame, Refusal, Strategy, Verdict},
};

impl Handoff {
    /// Someone wants the task at `target`. If this is refused, nothing has happened and nobody was answered.
    pub(crate) fn order(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        target: NodeId,
        strategy: Strategy,
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
        if resident.tried >= Epoch::LAST_TRY {
            return Err(Refusal::Other { why: "the task has used up its epochs".into() });
        }
        let epoch = resident.tried.next();
        resident.tried = epoch;
        resident.state = State::Ordered { target: place, epoch, copying: false };
        resident.asker = asker.map(Box::new);
        let strategy = strategy.bounded();
        cx.out.act(Action::Freeze { task, target, epoch, strategy });
        Ok(())
    }

    /// The driver wants to send the first byte of rounds (rule 11). Whether it may: the try may be over.
    pub(crate) fn copying(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch) -> bool {
        let Some(resident) = self.resident(task) else { return false };
        let lacks = resident.lacking.is_some();
        match &mut resident.state {
            State::Ordered { epoch: tried, copying, .. } if *tried == epoch => {
                debug_assert!(!lacks, "I4 (rule 13): rounds of {task}, which lacks pages itself");
                if lacks {
                    self.fail_move(cx, task, lacks_pages());
                    return false;
                }
                *copying = true;
                true
            }
            _ => false,
        }
    }

    /// The target has got the first of the rounds (rule 11).
    pub(crate) fn on_copying(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let state = self.resident(task).map(|resident| &resident.state);
        let is_on = match state {
            Some(
                State::Ordered { target, epoch: tried, .. }
                | State::Shipped { target, epoch: tried, .. }
                | State::Committed { target, epoch: tried, .. },
            ) => *target == from && *tried == epoch,
            _ => false,
        };
        if !is_on {
            cx.out.frame(from.node, Frame::Abort { task, epoch });
        }
    }

    /// The driver has frozen the task (rule 2); `lazy`: and will ship the head of it only.
    pub(crate) fn frozen(&mut self, cx: &mut Cx<'_>, task: TaskId, lazy: bool) {
        let Some(resident) = self.resident(task) else { return };
        let State::Ordered { target, epoch, .. } = resident.state else {
            if matches!(resident.state, State::Running) {
                // The move failed while the driver was freezing.
                let why = Refusal::Other { why: "the move was given up before the freeze".into() };
                cx.out.act(Action::ResumeHere { task, epoch: resident.epoch, why });
            }
            return;
        };
        debug_assert!(
            resident.lacking.is_none(),
            "I4 (rule 13): {task} was frozen while it lacked pages"
        );
        if resident.lacking.is_some() {
            return self.fail_move(cx, task, lacks_pages());
        }
        let give_up = cx.now + cx.try_limit;
        resident.state = State::Shipped { target, epoch, give_up, lazy };
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
        resident.call_off(cx, task, why);
    }

    /// The transfer of that try broke.
    pub(crate) fn try_failed(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, why: Refusal) {
        let tried = self.resident(task).map(|resident| &resident.state);
        match tried {
            Some(State::Ordered { epoch: tried, .. } | State::Shipped { epoch: tried, .. })
                if *tried == epoch =>
            {
                self.fail_move(cx, task, why);
            }
            Some(State::Committed { .. }) => self.doubt(cx, task, epoch, why),
            _ => {}
        }
    }

    /// Rule 16: asks what became of a try that was committed.
    pub(crate) fn doubt(&mut self, cx: &mut Cx<'_>, task: TaskId, of: Epoch, why: Refusal) {
        let state = self.resident(task).map(|resident| &mut resident.state);
        if let Some(State::Committed { target, epoch, doubt: doubt @ None, .. }) = state
            && *epoch == of
        {
            *doubt = Some(Box::new(why));
            cx.out.frame(target.node, Frame::Retract { task, epoch: of });
        }
    }

    /// The target keeps nothing of that try (rules 4 and 5).
    pub(crate) fn on_refuse(
        &mut self,
        cx: &mut Cx<'_>,
        from: Place,
        task: TaskId,
        epoch: Epoch,
        why: Refusal,
    ) {
        let Some(resident) = self.resident(task) else { return };
        match &mut resident.state {
            State::Committed { target, epoch: tried, doubt, .. }
                if *target == from && *tried == epoch =>
            {
                let why = doubt.take().map_or(why, |first| *first);
                let epoch = resident.epoch;
                resident.go_on(cx, task, epoch, why);
            }
            State::Ordered { target, epoch: tried, .. }
            | State::Shipped { target, epoch: tried, .. }
                if *target == from && *tried == epoch =>
            {
                self.fail_move(cx, task, why);
            }
            _ => {}
        }
    }

    /// Rule 4. Nothing happens after the commit, or if no move is under way.
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
                let epoch = resident.epoch;
                resident.call_off(cx, task, why.clone());
                cx.out.act(Action::CallOff { task, epoch, why });
            }
            State::Running | State::Committed { .. } | State::InDoubt { .. } => {}
        }
    }

    /// The driver is about to give the last byte to the wire: the commit point. Whether it may.
    pub(crate) fn commit(&mut self, task: TaskId, epoch: Epoch) -> bool {
        let Some(resident) = self.resident(task) else { return false };
        match resident.state {
            State::Shipped { target, epoch: tried, give_up, lazy } if tried == epoch => {
                resident.state = State::Committed { target, epoch, give_up, lazy, doubt: None };
                true
            }
            _ => false,
        }
    }

    /// The target runs it (rules 9 and 12).
    pub(crate) fn on_ack(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let state = self.resident(task).map(|resident| &resident.state);
        let Some(&State::Committed { target, epoch: tried, lazy, .. }) = state else { return };
        if target != from || tried != epoch {
            return;
        }
        cx.out.frame(task.home(), Frame::Located { task, at: from, epoch });
        if lazy && cx.fault != Fault::ReleaseWhileServing {
            self.serve(cx, task, from, epoch);
        } else {
            self.release(cx, task, epoch, from.node, Ok(from.node));
        }
    }

    /// Rules 10 and 13: the task comes back in `epoch`. Whether there is no reason against it.
    pub(crate) fn came_back(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch) -> bool {
        if let Some(Presence::Serving(serving)) = self.tasks.get(&task) {
            let is_newer = epoch > serving.epoch;
            if is_newer {
                self.stop_serving(cx, task);
            }
            return is_newer;
        }
        let Some(resident) = self.resident(task) else { return true };
        match resident.state {
            State::Committed { target, epoch: tried, .. }
            | State::InDoubt { target, epoch: tried }
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
            State::Ordered { target, .. } | State::Shipped { target, .. } if target == dead => {
                self.fail_move(cx, task, Refusal::TargetDied { node: dead.node });
            }
            State::Committed { target, epoch, .. } if target == dead => {
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

    /// No stream of that link comes any more (rule 16). Else links are no evidence of anything; only the simulator's
    /// broken variant thinks so (rule 5).
    pub(crate) fn link_down(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        self.retracted.retain(|_, (source, _)| source.node != node);
        if cx.fault != Fault::ResumeAfterCommit {
            return;
        }
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            let Some(resident) = self.resident(task) else { continue };
            if let State::Committed { target, epoch, .. } = resident.state
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
        answer(cx, task, asker.map(|asker| *asker), result);
        self.tasks.remove(&task);
        cx.out.act(Action::ReleaseSource { task, epoch, to });
    }
}

impl Resident {
    /// Ends a try whose task is not frozen; nothing happens if there is none. Rule 11: the target must not keep what it
    /// has of it.
    pub(crate) fn call_off(&mut self, cx: &mut Cx<'_>, task: TaskId, why: Refusal) {
        let State::Ordered { target, epoch, copying } = self.state else { return };
        if copying && cx.members.place(target.node) == Some(target) {
            cx.out.frame(target.node, Frame::Abort { task, epoch });
        }
        self.state = State::Running;
        answer(cx, task, self.asker.take().map(|asker| *asker), Err(why));
    }

    /// The frozen task runs on here in `epoch`.
    fn go_on(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, why: Refusal) {
        self.state = State::Running;
        self.epoch = epoch;
        self.tried = self.tried.max(epoch);
        let asker = self.asker.take();
        answer(cx, task, asker.map(|asker| *asker), Err(why.clone()));
        if cx.fault != Fault::ForgetResume {
            cx.out.act(Action::ResumeHere { task, epoch, why });
        }
        if self.cancel {
            cx.out.act(Action::CancelTask { task, why: None });
        }
    }
}

fn lacks_pages() -> Refusal {
    Refusal::Other { why: "pages of the task are still on their way here".into() }
}
