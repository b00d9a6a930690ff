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
            // The same shipment again, or an older one: its own fate is told under its own epoch.
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
        let arriving = Arriving { source, epoch, ready: false, whole: false };
        self.tasks.insert(task, Presence::Arriving(arriving));
        if is_rounds {
            cx.out.frame(source.node, Frame::Copying { task, epoch });
        }
        Ok(())
    }

    /// The driver has installed that shipment.
    pub(crate) fn installed(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch) {
        if let Some(arriving) = self.arriving(task, epoch)
            && !arriving.ready
        {
            arriving.ready = true;
            let source = arriving.source;
            cx.out.frame(source.node, Frame::Ready { task, epoch });
            if cx.fault == Fault::ThawOnInstall {
                self.on_commit(cx, source, task, epoch, false);
            }
        }
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
            assert!(!arriving.ready, "rule 8: {task} was installed and then not");
            self.tasks.remove(&task);
            cx.out.frame(source.node, Frame::Refuse { task, epoch, reason: why });
        }
    }

    /// Rules 3 and 8.
    pub(crate) fn on_commit(
        &mut self,
        cx: &mut Cx<'_>,
        from: Place,
        task: TaskId,
        epoch: Epoch,
        lazy: bool,
    ) {
        cx.out.frame(from.node, Frame::Ack { task, epoch });
        let ready = |arriving: &&mut Arriving| arriving.ready && arriving.source == from;
        if let Some(arriving) = self.arriving(task, epoch).filter(ready) {
            let whole = arriving.whole;
            self.tasks.remove(&task);
            self.settle_in(task, epoch, lazy.then_some(from));
            cx.out.frame(task.home(), Frame::Located { task, at: cx.members.me, epoch });
            cx.out.act(Action::Thaw { task, epoch });
            if whole {
                self.needs_no_more(cx, task);
            }
        } else if lazy && self.lacking(task) != Some(from) {
            // The copy went with its home (rule 8): its pages are for nobody.
            cx.out.frame(from.node, Frame::Whole { task, epoch });
        }
    }

    /// The source has given this try up.
    pub(crate) fn on_abort(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        let Some(arriving) = self.arriving(task, epoch) else { return };
        let is_kept = cx.fault == Fault::KeepCopyOnAbort && !arriving.ready;
        if arriving.source == from && !is_kept {
            self.drop_copy(cx, task);
        }
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
