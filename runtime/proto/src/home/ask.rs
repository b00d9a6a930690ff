//! Questions to a task, by way of its home (rule 4 of `home`).
//!
//! A question is kept here until its answer comes back, so that it is answered whatever happens to the places: the
//! task ends, its place dies, it moves on while the question travels.

use super::{Home, Pending};
use crate::{
    action::Cx,
    id::{Asker, Place, TaskId},
    wire::{Answer, Ask, Frame, Outcome, Refusal, TaskInfo, TaskState},
};

impl Home {
    /// A question arrives. The place to put it to, if there is one; else it was answered.
    pub(crate) fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        task: TaskId,
        asker: Asker,
        ask: Ask,
    ) -> Option<Place> {
        let Some(entry) = self.table.get_mut(task.sequence()) else {
            answered(cx, task, asker, ask, Refusal::UnknownTask);
            return None;
        };
        if let Some(outcome) = entry.outcome.as_deref() {
            let node = if let Outcome::Lost { node, .. } = outcome { *node } else { entry.node };
            let answer = match ask {
                Ask::Move { .. } => Answer::Move(Err(Refusal::Ended)),
                Ask::Info => {
                    let info = TaskInfo {
                        state: TaskState::Ended,
                        node,
                        moves: 0,
                        cpu_us: 0,
                        pins: Vec::new(),
                        last_move: None,
                    };
                    Answer::Info(Ok(info))
                }
            };
            cx.out.frame(asker.node, Frame::Answer { task, asker, answer });
            return None;
        }
        let at = entry.at();
        let asks = &mut entry.more().asks;
        if asks.iter().all(|pending| pending.asker != asker) {
            asks.push(Pending { asker, ask, sent_to: at });
        }
        Some(at)
    }

    /// The answer comes back; it is passed on unless the home has answered in the place's stead.
    pub(crate) fn answer(&mut self, cx: &mut Cx<'_>, task: TaskId, asker: Asker, answer: Answer) {
        if self.take_pending(task, asker).is_some() {
            cx.out.frame(asker.node, Frame::Answer { task, asker, answer });
        }
    }

    /// The task was not at `from`. The newer place to put the question to, if one is known; else it was answered.
    pub(crate) fn not_here(
        &mut self,
        cx: &mut Cx<'_>,
        from: Place,
        task: TaskId,
        asker: Asker,
        ask: Ask,
    ) -> Option<Place> {
        let at = self.table.get(task.sequence())?.at();
        let pending = self.take_pending(task, asker)?;
        if at == from {
            answered(cx, task, asker, ask, Refusal::UnknownTask);
            return None;
        }
        let more = self.table.get_mut(task.sequence())?.more();
        more.asks.push(Pending { sent_to: at, ..pending });
        Some(at)
    }

    /// Questions that were put to a dead place the task had left (or was leaving) are put again, or answered.
    pub(super) fn place_died(&mut self, cx: &mut Cx<'_>, task: TaskId, dead: Place) {
        let Some(entry) = self.table.get_mut(task.sequence()) else { return };
        let at = entry.at();
        let Some(more) = entry.more.as_deref_mut() else { return };
        for index in (0..more.asks.len()).rev() {
            let Pending { asker, ask, sent_to } = more.asks[index];
            if sent_to != dead {
                continue;
            }
            match ask {
                Ask::Info => {
                    more.asks[index].sent_to = at;
                    cx.out.frame(at.node, Frame::Ask { task, asker, ask });
                }
                Ask::Move { target, .. } => {
                    more.asks.swap_remove(index);
                    let there = if target == at.node {
                        Ok(target)
                    } else {
                        Err(Refusal::SourceDied { node: dead.node })
                    };
                    cx.out.frame(
                        asker.node,
                        Frame::Answer { task, asker, answer: Answer::Move(there) },
                    );
                }
            }
        }
    }

    /// The asker, on this node, has its answer.
    pub(crate) fn forget_ask(&mut self, task: TaskId, asker: Asker) {
        self.take_pending(task, asker);
    }

    fn take_pending(&mut self, task: TaskId, asker: Asker) -> Option<Pending> {
        let asks = &mut self.table.get_mut(task.sequence())?.more.as_deref_mut()?.asks;
        let index = asks.iter().position(|pending| pending.asker == asker)?;
        Some(asks.swap_remove(index))
    }
}

/// Tells an asker "no, because".
pub(super) fn answered(cx: &mut Cx<'_>, task: TaskId, asker: Asker, ask: Ask, why: Refusal) {
    cx.out.frame(asker.node, Frame::Answer { task, asker, answer: Answer::refused(ask, why) });
}
