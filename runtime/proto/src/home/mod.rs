//! The home: for each task spawned on this node, where it is and how it ended.
//!
//! 1. A task ends exactly once (I2): the first of a credible `Ended`, a settled death of its place, and a refused
//!    start. What comes later is ignored, and a place that still claims to run it is told to stop.
//! 2. A place is believed only if its epoch is not lower than the one known. Frames of the dead never get here.
//! 3. The outcome is kept until it is taken or the task was detached.
//! 4. Questions to the task go to its place and come back this way, so that the home can answer in a dead place's stead.
//! 5. A task located at a dead place is lost only when the death is settled (`death`); so are doubts decided.
//! 6. A result that nobody takes is given back to the driver, which has to let go of what it refers to.
//! 7. A *parcel* is a task that does not run: it waits for whoever has the message that names it. If that message is
//!    never read nobody will end it, so it is tied to what carries the message: to the task that has it among its
//!    arguments, or to the node that keeps it as a result. When that ends the parcel is cancelled; most are taken,
//!    and forgotten here, long before.
//!
//! The common case, a task that never leaves, is three look-ups in a dense table: spawned, ended, taken.

mod ask;
mod table;

use table::Table;

use crate::{
    action::{Action, Cx, Fault},
    death::Deaths,
    id::{Asker, Epoch, Generation, Incarnation, NodeId, Place, TaskId},
    wire::{Ask, BYTES_LEN_MAX, Frame, Outcome, Refusal, Verdict},
};

#[derive(Debug)]
pub(crate) struct Home {
    me: NodeId,
    table: Table<Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// Where the task is. No `Place`: that has bytes that nobody writes, and there are many entries for
    /// long; what lay there before may look like an address to whoever scans the node's memory.
    incarnation: Incarnation,
    node: NodeId,
    cancel: bool,
    detached: bool,
    epoch: Epoch,
    outcome: Option<Box<Outcome>>,
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Entry>() == 32, "no bytes between the fields");

/// Of a vacant place of the table.
impl Default for Entry {
    fn default() -> Entry {
        Entry {
            incarnation: Incarnation(0),
            node: NodeId(0),
            cancel: false,
            detached: false,
            epoch: Epoch(0),
            outcome: None,
            more: None,
        }
    }
}

impl Entry {
    fn at(&self) -> Place {
        Place { node: self.node, incarnation: self.incarnation }
    }

    fn located(&mut self, at: Place, epoch: Epoch) {
        (self.node, self.incarnation, self.epoch) = (at.node, at.incarnation, epoch);
    }
}

/// What most tasks never need.
#[derive(Debug, Default)]
struct More {
    joiners: Vec<Asker>,
    asks: Vec<Pending>,
    doubt: Option<Doubt>,
    /// Parcels that end with the task (rule 7).
    ties: Vec<TaskId>,
    /// It is a parcel in a result that this node keeps (rule 7).
    kept_by: Option<NodeId>,
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    ask: Ask,
    sent_to: Place,
}

#[derive(Debug)]
struct Doubt {
    source: NodeId,
    epoch: Epoch,
    target: Place,
}

impl Home {
    pub(crate) fn new(me: NodeId) -> Home {
        Home { me, table: Table::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn spawn(&mut self, generation: Generation, at: Place) -> TaskId {
        let entry = Entry {
            incarnation: at.incarnation,
            node: at.node,
            epoch: Epoch::FIRST,
            cancel: false,
            detached: false,
            outcome: None,
            more: None,
        };
        TaskId::new(self.me, generation, self.table.push(entry))
    }

    /// Where the task is, as far as is known; `None` if it has ended or is unknown.
    pub(crate) fn place(&self, task: TaskId) -> Option<(Place, Epoch)> {
        let entry = self.table.get(task.sequence())?;
        entry.outcome.is_none().then_some((entry.at(), entry.epoch))
    }

    /// The outcome if the task has ended; it stays.
    pub(crate) fn outcome(&self, task: TaskId) -> Option<&Outcome> {
        self.table.get(task.sequence())?.outcome.as_deref()
    }

    pub(crate) fn is_known(&self, task: TaskId) -> bool {
        self.table.get(task.sequence()).is_some()
    }

    /// Takes the outcome, and the entry with it.
    pub(crate) fn take(&mut self, task: TaskId) -> Option<Outcome> {
        self.outcome(task)?;
        self.table.remove(task.sequence())?.outcome.map(|outcome| *outcome)
    }

    /// Rule 2, and what waited for the task's new place.
    pub(crate) fn located(
        &mut self,
        cx: &mut Cx<'_>,
        deaths: &Deaths,
        task: TaskId,
        at: Place,
        epoch: Epoch,
    ) {
        let live = self.table.get_mut(task.sequence()).filter(|entry| entry.outcome.is_none());
        let Some(entry) = live else {
            // Rule 1. Not reached while the rules hold; if it is, the task must not go on unseen.
            return cx.out.frame(at.node, Frame::StopTask { task });
        };
        if epoch <= entry.epoch {
            return;
        }
        entry.located(at, epoch);
        if entry.cancel {
            cx.out.frame(at.node, Frame::StopTask { task });
        }
        if cx.members.is_dead(at) && !deaths.is_open(at) {
            self.end(cx, task, Outcome::Lost { node: at.node, missing_pages: 0 });
        }
    }

    /// The task ended at a live place, in `epoch`.
    pub(crate) fn ended(&mut self, cx: &mut Cx<'_>, task: TaskId, epoch: Epoch, outcome: Outcome) {
        if self.table.get(task.sequence()).is_some_and(|entry| entry.epoch <= epoch) {
            self.end(cx, task, outcome);
        } else {
            not_taken(cx, outcome);
        }
    }

    /// The task was never begun.
    pub(crate) fn not_started(&mut self, cx: &mut Cx<'_>, task: TaskId, reason: Refusal) {
        self.ended(cx, task, Epoch::FIRST, Outcome::NotStarted { reason });
    }

    /// Rules 1, 3, 6 and 7.
    fn end(&mut self, cx: &mut Cx<'_>, task: TaskId, outcome: Outcome) {
        let me = self.me;
        let Some(entry) = self.table.get_mut(task.sequence()) else {
            return not_taken(cx, outcome);
        };
        if entry.outcome.is_some() {
            return not_taken(cx, outcome);
        }
        let mut ties = Vec::new();
        if let Some(more) = entry.more.take() {
            ties = more.ties;
            for Asker { node, token } in more.joiners {
                cx.out.frame(
                    node,
                    Frame::JoinAnswer {
                        task,
                        token,
                        outcome: answer_for(me, node, Some(&outcome)),
                    },
                );
            }
            let why = match &outcome {
                Outcome::Lost { node, .. } => Refusal::SourceDied { node: *node },
                _ => Refusal::Ended,
            };
            for Pending { asker, ask, .. } in more.asks {
                ask::answered(cx, task, asker, ask, why.clone());
            }
            if let Some(Doubt { source, epoch, .. }) = more.doubt {
                cx.out.frame(source, Frame::InDoubtAnswer { task, epoch, verdict: Verdict::Taken });
            }
        }
        if entry.detached {
            self.table.remove(task.sequence());
            not_taken(cx, outcome);
        } else {
            entry.outcome = Some(Box::new(outcome));
        }
        for parcel in ties {
            self.cancel(cx, parcel);
        }
    }

    /// A parcel begins here. Nobody asks for its outcome.
    pub(crate) fn spawn_parcel(&mut self, generation: Generation, at: Place) -> TaskId {
        let parcel = self.spawn(generation, at);
        self.table.get_mut(parcel.sequence()).expect("pushed just now").detached = true;
        parcel
    }

    /// A parcel is among the arguments of `carrier`, a task of this home (rule 7).
    pub(crate) fn tie_to_task(&mut self, cx: &mut Cx<'_>, parcel: TaskId, carrier: TaskId) {
        match self.table.get_mut(carrier.sequence()).filter(|entry| entry.outcome.is_none()) {
            Some(_) if cx.fault == Fault::ForgetTies => {}
            Some(entry) => entry.more().ties.push(parcel),
            None => self.cancel(cx, parcel),
        }
    }

    /// A parcel is in a result that `node` will keep until it is taken (rule 7).
    pub(crate) fn tie_to_node(&mut self, cx: &mut Cx<'_>, parcel: TaskId, node: NodeId) {
        if node == self.me {
            return;
        }
        if cx.members.place(node).is_none() {
            return self.cancel(cx, parcel);
        }
        if let Some(entry) = self.table.get_mut(parcel.sequence()) {
            entry.more().kept_by = Some(node);
        }
    }

    pub(crate) fn join(&mut self, cx: &mut Cx<'_>, task: TaskId, asker: Asker) {
        let Asker { node, token } = asker;
        match self.table.get_mut(task.sequence()) {
            Some(entry) if entry.outcome.is_none() => {
                let joiners = &mut entry.more().joiners;
                if !joiners.contains(&asker) {
                    joiners.push(asker);
                }
            }
            entry => {
                let outcome = entry.and_then(|entry| entry.outcome.as_deref());
                let outcome = answer_for(self.me, node, outcome);
                cx.out.frame(node, Frame::JoinAnswer { task, token, outcome });
            }
        }
    }

    /// Nobody will ask for the outcome, or nobody will ask again (rule 6: whoever took it has taken what it refers to).
    pub(crate) fn detach(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        if let Some(outcome) = self.take(task) {
            not_taken(cx, outcome);
        } else if let Some(entry) = self.table.get_mut(task.sequence()) {
            entry.detached = true;
        }
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        if let Some(entry) = self.table.get_mut(task.sequence())
            && entry.outcome.is_none()
            && !entry.cancel
        {
            entry.cancel = true;
            cx.out.frame(entry.node, Frame::StopTask { task });
        }
    }

    /// A source wants to know whose its frozen task is.
    pub(crate) fn in_doubt(
        &mut self,
        cx: &mut Cx<'_>,
        deaths: &Deaths,
        source: NodeId,
        task: TaskId,
        epoch: Epoch,
        target: Place,
    ) {
        let live = self.table.get_mut(task.sequence()).filter(|entry| entry.outcome.is_none());
        let Some(entry) = live.filter(|entry| entry.epoch < epoch) else {
            return cx
                .out
                .frame(source, Frame::InDoubtAnswer { task, epoch, verdict: Verdict::Taken });
        };
        entry.more().doubt = Some(Doubt { source, epoch, target });
        let settled = cx.members.is_dead(target) && !deaths.is_open(target);
        if settled || cx.fault == Fault::LoseAtOnce {
            self.decide(cx, task);
        }
    }

    /// All who live have dealt with the death of `dead` (rule 5).
    pub(crate) fn settled(&mut self, cx: &mut Cx<'_>, dead: Place) {
        for sequence in self.table.sequences() {
            let Some(entry) = self.table.get(sequence) else { continue };
            let generation = cx.members.generation.expect("a node with tasks has been admitted");
            let task = TaskId::new(self.me, generation, sequence);
            if entry.outcome.is_some() {
                continue;
            }
            if entry.at() == dead {
                self.end(cx, task, Outcome::Lost { node: dead.node, missing_pages: 0 });
                continue;
            }
            let Some(more) = &entry.more else { continue };
            if more.kept_by == Some(dead.node) {
                self.cancel(cx, task);
                continue;
            }
            if more.doubt.as_ref().is_some_and(|doubt| doubt.target == dead) {
                self.decide(cx, task);
            }
            self.place_died(cx, task, dead);
        }
    }

    /// Answers the doubt about a task: the try was taken if a place of that epoch or a later one was ever heard of.
    fn decide(&mut self, cx: &mut Cx<'_>, task: TaskId) {
        let Some(entry) = self.table.get_mut(task.sequence()) else { return };
        let Some(Doubt { source, epoch, .. }) = entry.more().doubt.take() else { return };
        let verdict = match cx.members.place(source) {
            Some(place) if place == entry.at() && entry.epoch < epoch => {
                entry.located(place, epoch.after_doubt());
                Verdict::GoOn { epoch: entry.epoch }
            }
            _ => Verdict::Taken,
        };
        cx.out.frame(source, Frame::InDoubtAnswer { task, epoch, verdict });
    }
}

/// Rule 6.
fn not_taken(cx: &mut Cx<'_>, outcome: Outcome) {
    if let Outcome::Returned(bytes) = outcome
        && !bytes.is_empty()
    {
        cx.out.act(Action::NotTaken { bytes });
    }
}

impl Entry {
    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// An outcome as it is told to `node`: a result that no frame holds is an error there.
fn answer_for(me: NodeId, node: NodeId, outcome: Option<&Outcome>) -> Option<Outcome> {
    match outcome {
        Some(Outcome::Returned(bytes)) if node != me && bytes.len() > BYTES_LEN_MAX => {
            let message = format!(
                "its result has {} bytes, and at most {BYTES_LEN_MAX} can be joined from another node than \
                 its home; return less, or write it to a file",
                bytes.len()
            );
            Some(Outcome::Panicked { message })
        }
        other => other.cloned(),
    }
}
