//! Who gets a frame.

use super::{Core, step};
use crate::{
    action::{Action, Cx},
    id::{Asker, NodeId, Place, TaskId},
    time::Micros,
    wire::{Answer, Ask, Frame, Outcome, Refusal},
};

impl Core {
    /// A frame from another node: at once, or when this node is admitted and has its first lease (rule 4 of `member`).
    pub(super) fn accept(&mut self, now: Micros, from: NodeId, frame: Frame) {
        match frame {
            Frame::Heartbeat { sent } => {
                if let Some(bytes) = self.courier.send_loose(from, &Frame::HeartbeatAck { sent }) {
                    self.actions.push_back(Action::Send { to: from, bytes });
                }
            }
            Frame::HeartbeatAck { sent } if from == NodeId::STARTING => self.members.renew(sent),
            Frame::Welcome { .. } | Frame::Shutdown { .. } => self.frame(now, from, frame),
            _ if !self.members.is_serving() => self.early.push((from, frame)),
            _ => self.frame(now, from, frame),
        }
        if self.members.is_serving() {
            for (from, frame) in core::mem::take(&mut self.early) {
                self.frame(now, from, frame);
                self.pump(now);
            }
        }
    }

    /// A frame from another node or from this one.
    pub(super) fn frame(&mut self, now: Micros, from: NodeId, frame: Frame) {
        // None: it died while the frame waited.
        let Some(place) = self.members.place(from) else { return };
        let is_coordinator = from == NodeId::STARTING;
        match frame {
            Frame::Acked | Frame::Heartbeat { .. } | Frame::HeartbeatAck { .. } => {}
            Frame::Welcome { generation, members, dead, slots } if is_coordinator => {
                self.members.generation = Some(generation);
                for (place, generation) in dead {
                    self.members.remember_dead(place, generation);
                    self.fail_waits(place.node);
                }
                self.send_unsent();
                self.actions.push_back(Action::SlotsGranted { slots });
                for member in members {
                    self.frame(now, from, Frame::Joined { member });
                }
            }
            Frame::Joined { member } if is_coordinator => {
                if self.members.join(now, &member) {
                    self.actions
                        .push_back(Action::MemberUp { place: member.place, addr: member.addr });
                    self.send_unsent();
                }
            }
            Frame::SlotGrant { slots } if is_coordinator => {
                self.actions.push_back(Action::SlotsGranted { slots })
            }
            Frame::Dead { place } if is_coordinator => self.node_dead(now, place),
            Frame::Welcome { .. }
            | Frame::Joined { .. }
            | Frame::SlotGrant { .. }
            | Frame::Dead { .. } => {}
            Frame::DeadSeen { place } => {
                let known = self.members.is_dead(place);
                let settled = self.deaths.seen(place, from, known);
                self.settle(now, settled);
            }
            Frame::Goodbye => self.declare_dead(now, place),
            Frame::Shutdown { text } => self.actions.push_back(Action::Exit { text }),
            Frame::Custom { kind, bytes } => {
                self.actions.push_back(Action::Custom { from, kind, bytes })
            }
            frame => self.task_frame(now, place, frame),
        }
    }

    fn task_frame(&mut self, now: Micros, from: Place, frame: Frame) {
        match frame {
            Frame::Spawn { task, entry, args } => {
                self.handoff.adopt(task, crate::Epoch::FIRST);
                self.actions.push_back(Action::StartCall { task, entry, args });
            }
            Frame::Refuse { task, epoch, reason } => {
                step!(self, now, handoff.on_refuse(from, task, epoch, reason))
            }
            Frame::Retract { task, epoch } => {
                step!(self, now, handoff.on_retract(from, task, epoch))
            }
            Frame::Copying { task, epoch } => {
                step!(self, now, handoff.on_copying(from, task, epoch))
            }
            Frame::Whole { task, epoch } => step!(self, now, handoff.on_whole(from, task, epoch)),
            Frame::Ack { task, epoch } => step!(self, now, handoff.on_ack(from, task, epoch)),
            Frame::Abort { task, epoch } => step!(self, now, handoff.on_abort(from, task, epoch)),
            Frame::InDoubtAnswer { task, epoch, verdict } => {
                step!(self, now, handoff.on_verdict(task, epoch, verdict));
            }
            Frame::StopTask { task } => self.stop_here(now, task),
            Frame::JoinAnswer { task, token, outcome } => {
                // An answer may be meant for this node's former process, which used the same token.
                if self.joins.get(&token) == Some(&task) {
                    self.joins.remove(&token);
                    self.actions.push_back(Action::JoinAnswered { task, token, outcome });
                }
            }
            Frame::Answer { task, asker, answer }
                if self.is_home(task) && asker.node != self.members.me.node =>
            {
                step!(self, now, home.answer(task, asker, answer));
            }
            Frame::Answer { task, asker, answer } => self.answered(task, asker, answer),
            Frame::Ask { task, asker, ask } if self.is_home(task) => {
                if let Some(at) = step!(self, now, home.ask(task, asker, ask)) {
                    self.put(now, at, task, asker, ask);
                }
            }
            Frame::Ask { task, asker, ask } => self.asked(now, task, asker, ask),
            frame => self.home_frame(now, from, frame),
        }
    }

    /// Frames to the home. One that names a task of another home, or of this node's former process, is nobody's.
    fn home_frame(&mut self, now: Micros, from: Place, frame: Frame) {
        match frame {
            Frame::Located { task, at, epoch } if self.members.is_home(task) => {
                step!(self, now, home.located(&self.deaths, task, at, epoch));
            }
            Frame::Ended { task, epoch, outcome } if self.members.is_home(task) => {
                step!(self, now, home.ended(task, epoch, outcome));
            }
            Frame::SpawnRefused { task, reason } if self.members.is_home(task) => {
                step!(self, now, home.not_started(task, reason));
            }
            Frame::InDoubt { task, epoch, target } if self.members.is_home(task) => {
                step!(self, now, home.in_doubt(&self.deaths, from.node, task, epoch, target));
            }
            Frame::JoinAsk { task, token } if self.members.is_home(task) => {
                step!(self, now, home.join(task, Asker { node: from.node, token }));
            }
            Frame::JoinTaken { task } | Frame::Detach { task } if self.members.is_home(task) => {
                step!(self, now, home.detach(task));
            }
            Frame::Cancel { task } if self.members.is_home(task) => {
                step!(self, now, home.cancel(task))
            }
            Frame::NotHere { task, asker, ask } if self.members.is_home(task) => {
                if let Some(at) = step!(self, now, home.not_here(from, task, asker, ask)) {
                    self.put(now, at, task, asker, ask);
                }
            }
            Frame::JoinAsk { task, token } => {
                let outcome = Some(Outcome::Lost { node: task.home(), missing_pages: 0 });
                self.out.frame(from.node, Frame::JoinAnswer { task, token, outcome });
            }
            _ => {}
        }
    }

    fn is_home(&self, task: TaskId) -> bool {
        self.members.is_home(task)
    }

    /// The home puts a question to the task's place.
    fn put(&mut self, now: Micros, at: Place, task: TaskId, asker: Asker, ask: Ask) {
        if at == self.members.me {
            self.asked(now, task, asker, ask);
        } else {
            self.out.frame(at.node, Frame::Ask { task, asker, ask });
        }
    }

    /// The place is asked.
    fn asked(&mut self, now: Micros, task: TaskId, asker: Asker, ask: Ask) {
        self.adopt_own(task);
        if !self.handoff.is_resident(task) {
            return self.out.frame(task.home(), Frame::NotHere { task, asker, ask });
        }
        match ask {
            Ask::Info => self.actions.push_back(Action::InfoWanted { task, asker }),
            Ask::Move { target, strategy } => {
                let ordered = step!(self, now, handoff.order(task, target, strategy, Some(asker)));
                if let Err(why) = ordered {
                    self.out.frame(
                        task.home(),
                        Frame::Answer { task, asker, answer: Answer::Move(Err(why)) },
                    );
                }
            }
        }
    }

    /// An answer to this node's own question, either straight from its own home or passed on by another.
    fn answered(&mut self, task: TaskId, asker: Asker, answer: Answer) {
        let is_ours = self.asks.get(&asker.token).is_some_and(|(asked, _)| *asked == task);
        if asker.node != self.members.me.node || !is_ours {
            return;
        }
        self.asks.remove(&asker.token);
        if self.is_home(task) {
            self.home.forget_ask(task, asker);
        }
        self.actions.push_back(Action::Answered { task, token: asker.token, answer });
    }

    fn stop_here(&mut self, now: Micros, task: TaskId) {
        self.adopt_own(task);
        step!(self, now, handoff.stop(task, None));
    }

    /// A task that was spawned here and never left is known to the home alone, until somebody wants something of it.
    pub(super) fn adopt_own(&mut self, task: TaskId) {
        if self.is_home(task)
            && !self.handoff.tasks.contains_key(&task)
            && let Some((place, epoch)) = self.home.place(task)
            && place == self.members.me
            && epoch == crate::Epoch::FIRST
        {
            self.handoff.adopt(task, epoch);
        }
    }

    /// Whoever this node asked about tasks of `dead` will not be answered by it.
    pub(super) fn fail_waits(&mut self, dead: NodeId) {
        let is_over = |members: &crate::member::Members, task: TaskId| {
            task.home() == dead && members.is_home_dead(task)
        };
        let joins: Vec<_> = self
            .joins
            .iter()
            .filter(|(_, task)| is_over(&self.members, **task))
            .map(|(k, v)| (*k, *v))
            .collect();
        for (token, task) in joins {
            self.joins.remove(&token);
            self.actions.push_back(Action::JoinAnswered {
                task,
                token,
                outcome: Some(Outcome::Lost { node: dead, missing_pages: 0 }),
            });
        }
        let asks: Vec<_> = self
            .asks
            .iter()
            .filter(|(_, (task, _))| is_over(&self.members, *task))
            .map(|(k, v)| (*k, *v))
            .collect();
        for (token, (task, ask)) in asks {
            self.asks.remove(&token);
            let answer = Answer::refused(ask, Refusal::HomeDied { node: dead });
            self.actions.push_back(Action::Answered { task, token, answer });
        }
    }
}
