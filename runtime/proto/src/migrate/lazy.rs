//! What goes on after the commit of a lazy move: the target runs the task, the source still has pages of it.
//!
//! ```text
//! source   Committed --Ack--> Serving ---------------- Whole ------> gone
//! target   Arriving  -------> Running, lacking <-- pages (not seen here) --> whole
//! ```
//!
//! Rule numbers are those of `handoff`. The pages, who asks for them and in which order they come, are the driver's.

use super::handoff::{Handoff, Presence, Serving, State, answer};
use crate::{
    action::{Action, Cx},
    id::{Epoch, Place, TaskId},
    wire::{Frame, Refusal},
};

impl Handoff {
    /// Source, rule 12. Whoever asked for the move is answered: the task is there.
    pub(super) fn serve(&mut self, cx: &mut Cx<'_>, task: TaskId, target: Place, epoch: Epoch) {
        let asker = self.resident(task).and_then(|resident| resident.asker.take());
        answer(cx, task, asker.map(|asker| *asker), Ok(target.node));
        self.tasks.insert(task, Presence::Serving(Serving { target, epoch }));
        cx.out.act(Action::Serve { task, epoch, to: target.node });
    }

    /// Source: nobody needs the pages any more. Nothing happens if none are served.
    pub(super) fn stop_serving(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        if let Some(&Presence::Serving(Serving { target, epoch })) = self.tasks.get(&task) {
            self.tasks.remove(&task);
            cx.out.act(Action::ReleaseSource { task, epoch, to: target.node });
        }
    }

    /// Source: the target has everything.
    pub(crate) fn on_whole(&mut self, cx: &mut Cx<'_>, from: Place, task: TaskId, epoch: Epoch) {
        if let Some(Presence::Serving(serving)) = self.tasks.get(&task)
            && serving.target == from
            && serving.epoch == epoch
        {
            self.stop_serving(cx, task);
        }
    }

    /// Target: the driver has the last page.
    pub(crate) fn whole(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch) {
        if self.resident(task).is_some_and(|resident| resident.epoch == epoch) {
            self.needs_no_more(cx, task);
        }
    }

    /// Target: `Whole`, if anything was missing.
    pub(super) fn needs_no_more(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        let Some(resident) = self.resident(task) else { return };
        let epoch = resident.epoch;
        if let Some(source) = resident.lacking.take()
            && cx.members.place(source.node) == Some(source)
        {
            cx.out.frame(source.node, Frame::Whole { task, epoch });
        }
    }

    /// Target: who has the pages that the task lacks.
    pub(crate) fn lacking(&self, task: TaskId) -> Option<Place> {
        match self.tasks.get(&task) {
            Some(Presence::Resident(resident)) => resident.lacking,
            _ => None,
        }
    }

    /// Tasks that pages are served of.
    pub(crate) fn serving_count(&self) -> usize {
        self.tasks.values().filter(|presence| matches!(presence, Presence::Serving(_))).count()
    }

    /// Target, rule 14: `dead` has died, perhaps with pages of the task. It can go nowhere any more.
    pub(super) fn source_lost(&mut self, cx: &mut Cx<'_>, task: TaskId, dead: Place) {
        if self.lacking(task) != Some(dead) {
            return;
        }
        self.fail_move(cx, task, Refusal::SourceDied { node: dead.node });
        if let Some(resident) = self.resident(task) {
            debug_assert!(matches!(resident.state, State::Running), "rule 13");
            let epoch = resident.epoch;
            cx.out.act(Action::SourceLost { task, epoch, source: dead.node });
        }
    }
}
