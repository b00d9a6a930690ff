//! The target's part of the hand-off. Rule numbers are those of `handoff`.

use super::handoff::{Arriving, Handoff, Presence};
use crate::{
    action::{Action, Cx, Fault},
    id::{Epoch, Place, TaskId},
    wire::{Frame, Refusal},
};

impl Handoff {
    /// A shipment, or the first of the rounds before one, begins to arrive. If this is refused the stream is to be
    /// thrown away (and nothing else); the source is told here.
    pub(crate) fn ship_arriving(
        &mut self,
        cx: &mut Cx<'_>,
        source: Place,
        task: TaskId,
        epoch: Epoch,
        is_rounds: bool,
    ) -> Result<(), Refusal> {
        if let Some(Presence::Arriving(old)) = self.tasks.get(&task)
            && old.epoch >= epoch
        {
            // An older shipment: its own fate is told under its own epoch.
            return Err(Refusal::Stale);
        }
        if let Some(&(_, retracted)) = self.retracted.get(&task)
            && retracted >= epoch
            && cx.fault != Fault::ForgetRetract
        {
            // The source has been told, and no stream comes twice (rule 16).
            if retracted == epoch {
                self.retracted.remove(&task);
            }
            return Err(Refusal::Stale);
        }
        let refused = if !cx.members.is_serving() {
            Some(Refusal::NotAMember { node: cx.members.me.node })
        } else if cx.members.is_home_dead(task) {
            Some(Refusal::HomeDied { node: task.home() })
        } else if !cx.members.is_home_known(task) {
            Some(Refusal::NotAMember { node: task.home() })
        } else if !self.came_back(cx, task, epoch) {
            Some(Refusal::Stale)
        } else {
            None
        };
        if let Some(why) = refused {
            cx.out.frame(source.node, Frame::Refuse { task, epoch, reason: why.clone() });
            return Err(why);
        }
        self.drop_copy(cx, task);
        self.retracted.remove(&task);
        let arriving = Arriving { source, epoch };
        self.tasks.insert(task, Presence::Arriving(arriving));
        if is_rounds {
            cx.out.frame(source.node, Frame::Copying { task, epoch });
        }
        Ok(())
    }

    /// The driver has installed that shipment, and so has the commit (rule 3). `lazy`: it was a head.
    pub(crate) fn installed(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, lazy: bool) {
        let Some(arriving) = self.arriving(task, epoch) else { return };
        let source = arriving.source;
        cx.out.frame(source.node, Frame::Ack { task, epoch });
        self.tasks.remove(&task);
        self.settle_in(task, epoch, lazy.then_some(source));
        cx.out.frame(task.home(), Frame::Located { task, at: cx.members.me, epoch });
        cx.out.act(Action::Thaw { task, epoch });
    }

    /// The driver could not install that shipment and keeps nothing of it.
    pub(crate) fn install_failed(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        epoch: Epoch,
        why: Refusal,
    ) {
        if let Some(arriving) = self.arriving(task, epoch) {
            let source = arriving.source;
            self.tasks.remove(&task);
            cx.out.frame(source.node, Frame::Refuse { task, epoch, reason: why });
        }
    }

    /// The source has given this try up, before it committed it.
    pub(crate) fn on_abort(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let Some(arriving) = self.arriving(task, epoch) else { return };
        if arriving.source == from && cx.fault != Fault::KeepCopyOnAbort {
            self.drop_copy(cx, task);
        }
    }

    /// The source has committed this try, and asks for it back (rule 16).
    pub(crate) fn on_retract(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        if self.arriving(task, epoch).is_some() {
            self.drop_copy(cx, task);
        } else if self.epoch_here(task).is_none_or(|here| here < epoch)
            && self.retracted.get(&task).is_none_or(|(_, other)| *other < epoch)
        {
            self.retracted.insert(task, (from, epoch));
        }
        cx.out.frame(from.node, Frame::Refuse { task, epoch, reason: Refusal::Stale });
    }

    /// In which epoch the task is, or was last, known here.
    fn epoch_here(&self, task: TaskId) -> Option<Epoch> {
        self.tasks.get(&task).map(|presence| match presence {
            Presence::Resident(resident) => resident.epoch,
            Presence::Serving(serving) => serving.epoch,
            Presence::Arriving(arriving) => arriving.epoch,
        })
    }

    /// Drops what is arriving of `task`, if anything is.
    pub(crate) fn drop_copy(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        if let Some(Presence::Arriving(Arriving { epoch, .. })) = self.tasks.get(&task) {
            cx.out.act(Action::DropCopy { task, epoch: *epoch });
            self.tasks.remove(&task);
        }
    }

    /// Drops what is arriving and says so.
    pub(crate) fn refuse_copy(&mut self, cx: &mut Cx<'_>, task: TaskId, reason: Refusal) {
        if let Some(Presence::Arriving(Arriving { source, epoch, .. })) = self.tasks.get(&task) {
            cx.out.frame(source.node, Frame::Refuse { task, epoch: *epoch, reason });
            self.drop_copy(cx, task);
        }
    }

    fn arriving(&mut self, task: TaskId, epoch: Epoch) -> Option<&mut Arriving> {
        match self.tasks.get_mut(&task) {
            Some(Presence::Arriving(arriving)) if arriving.epoch == epoch => Some(arriving),
            _ => None,
        }
    }
}
