//! The driver's side: what it asks for on behalf of tasks, and what it reports of them.

use super::{Core, step};
use crate::{
    action::{Action, Cx},
    id::{Asker, EntryId, Epoch, NodeId, TaskId, Token},
    time::Micros,
    wire::{Answer, Ask, Frame, Outcome, Refusal, ShipHeader, Strategy, TaskInfo},
};

/// What a home knows about the end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryJoin {
    /// It ended so; the outcome was taken.
    Done(Outcome),
    /// It has not ended.
    Pending,
    /// Its home is here, and keeps nothing under that name (any more).
    Unknown,
    /// Its home is another node.
    Elsewhere,
}

impl Core {
    // Spawning and ending.

    /// Names a task that begins on this node. `None` before this node is admitted.
    pub fn spawn_here(&mut self) -> Option<TaskId> {
        Some(self.home.spawn(self.members.generation?, self.members.me))
    }

    /// Sends a call to `node`, to begin there as the task that is returned. If it cannot, the task ends as
    /// [`Outcome::NotStarted`]. For this node itself the action is `StartCall`.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`], before anything has happened.
    pub fn spawn_at(
        &mut self,
        now: Micros,
        node: NodeId,
        entry: EntryId,
        args: Vec<u8>,
    ) -> Result<TaskId, Refusal> {
        let place = self.members.place(node).ok_or(Refusal::NotAMember { node })?;
        let generation =
            self.members.generation.ok_or(Refusal::NotAMember { node: self.members.me.node })?;
        let task = self.home.spawn(generation, place);
        self.out.frame(node, Frame::Spawn { task, entry, args });
        self.pump(now);
        Ok(task)
    }

    /// The answer to `StartCall` if the call cannot be started here.
    pub fn spawn_refused(&mut self, now: Micros, task: TaskId, reason: Refusal) {
        self.adopt_own(task);
        if step!(self, now, handoff.ended(task)).is_some() {
            self.out.frame(task.home(), Frame::SpawnRefused { task, reason });
        }
        self.pump(now);
    }

    /// A mobile task has ended on this node; its memory may go.
    ///
    /// # Panics
    /// If the task is frozen here, or is not here at all: then it ran in two places (I1).
    pub fn ended(&mut self, now: Micros, task: TaskId, outcome: Outcome) {
        let is_home = self.members.is_home(task);
        if is_home && !self.handoff.tasks.contains_key(&task) {
            // It never left and nobody asked: the short way.
            assert!(
                self.home.place(task).is_some_and(|(at, _)| at == self.members.me),
                "I1: {task} ended here, unknown"
            );
            step!(self, now, home.ended(task, Epoch::FIRST, outcome));
        } else {
            let epoch = step!(self, now, handoff.ended(task));
            let epoch = epoch.unwrap_or_else(|| panic!("I1: {task} ended here, unknown"));
            if is_home {
                step!(self, now, home.ended(task, epoch, outcome));
            } else if !self.members.is_home_dead(task) {
                self.out.frame(task.home(), Frame::Ended { task, epoch, outcome });
            } else if let Outcome::Returned(bytes) = outcome {
                self.actions.push_back(Action::NotTaken { bytes });
            }
        }
        self.pump(now);
    }

    /// The answer to `SourceLost`, which was about the task itself or a parcel that it holds: the task was ended, since
    /// `missing` pages are gone with `node`.
    ///
    /// # Panics
    /// If the task is not here, or lacks pages of another node.
    pub fn lost(&mut self, now: Micros, task: TaskId, node: NodeId, missing: u64) {
        let source = self.handoff.lacking(task);
        assert!(source.is_none_or(|s| s.node == node), "I4: {task} lacks pages of {source:?}");
        self.ended(now, task, Outcome::Lost { node, missing_pages: missing });
    }

    // Parcels.

    /// Names a parcel that this node packs: a task that waits here, does not run, and ends when it is taken (`ended`) or
    /// cancelled. `None` before this node is admitted.
    pub fn spawn_parcel(&mut self) -> Option<TaskId> {
        Some(self.home.spawn_parcel(self.members.generation?, self.members.me))
    }

    /// A parcel of this home is named in the arguments of `carrier`, a task of this home: it is cancelled when that has
    /// ended, unless it was taken before.
    pub fn tie_to_task(&mut self, now: Micros, parcel: TaskId, carrier: TaskId) {
        step!(self, now, home.tie_to_task(parcel, carrier));
        self.pump(now);
    }

    /// A parcel of this home is named in a result that `node` will keep: it is cancelled when that node has died.
    pub fn tie_to_node(&mut self, now: Micros, parcel: TaskId, node: NodeId) {
        step!(self, now, home.tie_to_node(parcel, node));
        self.pump(now);
    }

    // Handles.

    /// Takes the outcome if the home is here and the task has ended.
    pub fn try_join(&mut self, task: TaskId) -> TryJoin {
        if !self.members.is_home(task) {
            TryJoin::Elsewhere
        } else if let Some(outcome) = self.home.take(task) {
            TryJoin::Done(outcome)
        } else if self.home.is_known(task) {
            TryJoin::Pending
        } else {
            TryJoin::Unknown
        }
    }

    /// Asks for the task's end: `JoinAnswered`, once, under `token`. The outcome is kept until `join_taken`.
    /// A token must not be in use.
    pub fn join(&mut self, now: Micros, task: TaskId, token: Token) {
        self.joins.insert(token, task);
        if self.members.is_home_dead(task) {
            self.joins.remove(&token);
            let outcome = Some(Outcome::Lost { node: task.home(), missing_pages: 0 });
            self.actions.push_back(Action::JoinAnswered { task, token, outcome });
        } else {
            self.out.frame(task.home(), Frame::JoinAsk { task, token });
            self.pump(now);
        }
    }

    /// The outcome was delivered.
    pub fn join_taken(&mut self, now: Micros, task: TaskId) {
        self.tell_home(now, task, Frame::JoinTaken { task });
    }

    /// The handle was dropped: the outcome is for nobody.
    pub fn detach(&mut self, now: Micros, task: TaskId) {
        self.tell_home(now, task, Frame::Detach { task });
    }

    /// The task shall end, wherever it is.
    pub fn cancel(&mut self, now: Micros, task: TaskId) {
        self.tell_home(now, task, Frame::Cancel { task });
    }

    /// Asks the task's place, wherever that is: `Answered`, once, under `token`. A token must not be in use.
    pub fn ask(&mut self, now: Micros, task: TaskId, token: Token, ask: Ask) {
        if self.members.is_home_dead(task) {
            let answer = Answer::refused(ask, Refusal::HomeDied { node: task.home() });
            self.actions.push_back(Action::Answered { task, token, answer });
            return;
        }
        self.asks.insert(token, (task, ask));
        let asker = Asker { node: self.members.me.node, token };
        self.tell_home(now, task, Frame::Ask { task, asker, ask });
    }

    /// The answer to `InfoWanted`. Leave it out if the task has ended meanwhile.
    pub fn info(&mut self, now: Micros, task: TaskId, asker: Asker, info: TaskInfo) {
        self.tell_home(now, task, Frame::Answer { task, asker, answer: Answer::Info(Ok(info)) });
    }

    fn tell_home(&mut self, now: Micros, task: TaskId, frame: Frame) {
        if !self.members.is_home_dead(task) {
            self.out.frame(task.home(), frame);
            self.pump(now);
        }
    }

    // The source of a move.

    /// Orders a task of this node to `target` without anybody waiting for an answer (a policy, or the task itself).
    /// `Freeze` follows, unless it is there already.
    ///
    /// # Errors
    /// Why not; nothing has happened then.
    pub fn order(
        &mut self,
        now: Micros,
        task: TaskId,
        target: NodeId,
        strategy: Strategy,
    ) -> Result<(), Refusal> {
        self.adopt_own(task);
        let result = step!(self, now, handoff.order(task, target, strategy, None));
        self.pump(now);
        result
    }

    /// Before the first byte of rounds is sent under `epoch`; again does no harm. `false`: that try is over, send
    /// nothing. The task runs on, may end, and may be called off (`CallOff`) until `frozen`.
    ///
    /// # Panics
    /// With debug assertions, if the task itself lacks pages; else its move fails.
    #[must_use]
    pub fn copying(&mut self, now: Micros, task: TaskId, epoch: Epoch) -> bool {
        let is_on = step!(self, now, handoff.copying(task, epoch));
        self.pump(now);
        is_on
    }

    /// The answer to `Freeze`: the task is suspended and frozen, and stays so until `ResumeHere` or `ReleaseSource`.
    /// From now on the target has the time of [`TRY_LIMIT`](crate::migrate::TRY_LIMIT).
    ///
    /// # Panics
    /// With debug assertions, if the task lacks pages; else its move fails.
    pub fn frozen(&mut self, now: Micros, task: TaskId) {
        step!(self, now, handoff.frozen(task, false));
        self.pump(now);
    }

    /// Like [`Core::frozen`], but `Ship` will send the head only: after the commit there comes `Serve`, and
    /// `ReleaseSource` when the target is whole.
    ///
    /// # Panics
    /// As [`Core::frozen`], and with debug assertions if rounds were sent.
    pub fn frozen_lazily(&mut self, now: Micros, task: TaskId) {
        step!(self, now, handoff.frozen(task, true));
        self.pump(now);
    }

    /// The answer to `Freeze` if the task cannot be moved now. It runs on, and the driver ends its rounds.
    pub fn freeze_failed(&mut self, now: Micros, task: TaskId, why: Refusal) {
        step!(self, now, handoff.freeze_failed(task, why));
        self.pump(now);
    }

    /// Before the last byte of the shipment ordered by `Ship` (of its head, if it is lazy) is given to the wire: that byte
    /// is the commit. `false`: that try is over, break the stream off before its end. Once for each `Ship`.
    #[must_use]
    pub fn commit(&mut self, task: TaskId, epoch: Epoch) -> bool {
        self.handoff.commit(task, epoch)
    }

    /// The rounds, or the shipment ordered by `Ship`, broke, or may not have arrived. May be said at any time. After the
    /// commit the target is asked what became of it.
    pub fn ship_failed(&mut self, now: Micros, task: TaskId, epoch: Epoch, why: &str) {
        step!(
            self,
            now,
            handoff.try_failed(task, epoch, Refusal::ShipFailed { why: why.to_owned() })
        );
        self.pump(now);
    }

    /// The shipment ordered by `Ship` cannot be, as its pages have shown. As [`ship_failed`](Self::ship_failed).
    pub fn ship_refused(&mut self, now: Micros, task: TaskId, epoch: Epoch, why: Refusal) {
        step!(self, now, handoff.try_failed(task, epoch, why));
        self.pump(now);
    }

    // The target of a move.

    /// A shipment from the live node `from` begins to arrive. `Ok`: install it, then `installed` or `install_failed`,
    /// unless `DropCopy` comes first.
    ///
    /// # Errors
    /// Throw the stream away and do nothing else; the source has been told.
    pub fn ship_arriving(
        &mut self,
        now: Micros,
        from: NodeId,
        header: &ShipHeader,
    ) -> Result<(), Refusal> {
        self.arriving(now, from, header.task, header.epoch, false)
    }

    /// Rounds of a try begin to arrive from the live node `from`; what follows on that stream up to the last page is one
    /// shipment. `Ok`: as [`Core::ship_arriving`] (which is not called as well), however long the rounds take.
    ///
    /// # Errors
    /// As [`Core::ship_arriving`].
    pub fn rounds_arriving(
        &mut self,
        now: Micros,
        from: NodeId,
        task: TaskId,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        self.arriving(now, from, task, epoch, true)
    }

    /// As [`Core::ship_arriving`], of the head of a task whose other pages follow it.
    ///
    /// # Errors
    /// As [`Core::ship_arriving`].
    pub fn head_arriving(
        &mut self,
        now: Micros,
        from: NodeId,
        task: TaskId,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        self.arriving(now, from, task, epoch, false)
    }

    fn arriving(
        &mut self,
        now: Micros,
        from: NodeId,
        task: TaskId,
        epoch: Epoch,
        is_rounds: bool,
    ) -> Result<(), Refusal> {
        let source = self.members.place(from).filter(|place| *place != self.members.me);
        let source = source.ok_or(Refusal::NotAMember { node: from })?;
        let result = step!(self, now, handoff.ship_arriving(source, task, epoch, is_rounds));
        self.pump(now);
        result
    }

    /// The whole shipment has come and every page of it is in place; `lazy`: it was a head. `Thaw` follows, unless the try is
    /// over.
    pub fn installed(&mut self, now: Micros, task: TaskId, epoch: Epoch, lazy: bool) {
        step!(self, now, handoff.installed(task, epoch, lazy));
        self.pump(now);
    }

    /// The shipment broke off or cannot be installed, and nothing of it is left here.
    pub fn install_failed(&mut self, now: Micros, task: TaskId, epoch: Epoch, why: Refusal) {
        step!(self, now, handoff.install_failed(task, epoch, why));
        self.pump(now);
    }

    /// The last page of a task that came lazily in `epoch` is here (none may have been missing): its source may forget
    /// it, and the task may move on. Not before `installed`.
    pub fn whole(&mut self, now: Micros, task: TaskId, epoch: Epoch) {
        step!(self, now, handoff.whole(task, epoch));
        self.pump(now);
    }

    // Looking on.

    /// Who has pages that a task of this node lacks. Such a task must neither be frozen nor copied.
    pub fn lacking(&self, task: TaskId) -> Option<NodeId> {
        self.handoff.lacking(task).map(|source| source.node)
    }

    /// Tasks that this node serves pages of. A node that leaves in good order waits until there are none.
    pub fn serving_count(&self) -> usize {
        self.handoff.serving_count()
    }

    /// Whether this node keeps `task` frozen, in whatever state of a move. For the simulator.
    #[doc(hidden)]
    pub fn is_frozen(&self, task: TaskId) -> bool {
        self.handoff.is_frozen(task)
    }
}
