//! The hand-off: one node's table of the tasks that are here, on their way out, or on their way in.
//!
//! ```text
//! source   Running --order--> Ordered --frozen--> Shipped --commit--> Committed --Ack--> gone
//!             ^               | copying |            |                 |    |   |
//!             |               +---------+            |           Refuse|    |   +--Ack, lazy--> Serving --> gone
//!             | ended, freeze failed,   | refuse,    |                 |    target dead         Whole, target dead,
//!             | cancelled, refuse,      | timeout,   |                 |    v                   came back
//!             | ship failed, death      | death      |                 | InDoubt --Taken--> gone
//!             +-------------------------+------------+-----------------+----+ GoOn
//!
//! target   (none) --Ship--> Arriving --installed/Ack--> Running
//!             ^      rounds  |               lazy \--> Running, lacking --> Running
//!             |              | failed/Refuse,             whole/Whole
//!             |              | Abort, Retract/Refuse,     source dead/SourceLost --> lost
//!             |              | source dead
//!             +--------------+
//! ```
//!
//! Rules
//! 1. Epochs order residences. Every try of a move takes a new epoch at its order, higher than all before, and no other
//!    try ever takes that one, not even if nothing of the try has left this node. So `(task, epoch)` names one try
//!    for ever, and a late or doubled frame, or word of the driver, about another try fits nowhere. The stream of a
//!    try arrives at most once, in whole or up to where it broke.
//! 2. The source freezes before it ships what counts, and changes nothing of a frozen task. Rounds are sent while the
//!    task runs; what they got wrong is shipped again after the freeze, and nobody reads it before the commit.
//! 3. The last byte of the shipment is the commit: the driver asks (`commit`) before it gives that byte to the wire,
//!    and breaks the stream off if it may not. (Of a lazy move: the last byte of the head.) A target that has
//!    installed everything has the commit. It tells source (`Ack`) and home (`Located`) before the task runs.
//! 4. Before `commit` every failure leaves the task at the source, in its old epoch (I11).
//! 5. After it the source keeps the copy frozen until the target says what became of it, whatever becomes of links and
//!    however long that takes: `Ack`, or `Refuse`, which says that nothing of the try is kept and nothing will be.
//!    Then the task goes on at the source, in its old epoch (I11).
//! 6. If the target is declared dead (so: fenced) without either, the home decides: `Taken`, or `GoOn` in an epoch
//!    far above the try, past all that the dead may have used unheard. If the home is dead as well, nobody waits for
//!    the task: the copy goes. No page of the copy has been given up by then, whatever the strategy.
//! 7. The home decides, and reports a task lost, only when all who live have dealt with the death (see `death`).
//! 8. A target whose source dies before it has installed everything drops its copy.
//! 9. A source that gets an `Ack` tells the home too, before it forgets. Whoever says "not here" is thus never
//!    ahead of the home.
//! 10. A task that comes back in a higher epoch than the one committed proves that the commit was obeyed: an `Ack`.
//!
//! Pre-copy
//!
//! 11. The driver asks (`copying`) before the first byte of rounds leaves. Whatever ends the try from then on sends
//!     `Abort`. A stream may be slower than that frame, so the target tells of each beginning (`Copying`), and a source
//!     that is not in that try says `Abort` (again). So no half copy outlives its try. Rounds may take any time: the
//!     limit of a try counts from the freeze.
//!
//! Post-copy
//!
//! 12. After the `Ack` of a lazy commit the source is `Serving`: it keeps the frozen copy, and the addresses that it
//!     lies at (I3), until `Whole` or the target's death. The task is not here: who asks hears so.
//! 13. Who lacks pages of a task sends none on: it neither freezes it nor begins rounds. So whatever stream a task
//!     arrives by, all of it comes with that stream, and a source that still serves an older epoch takes the arrival
//!     for the `Whole` that this proves, and lets the old copy go before anything of the new one is installed.
//! 14. If the source dies first, the target is told (`SourceLost`) and ends the task as lost, with the number of pages
//!     that were missing, unless the last of them has come after all. A task that ends while it lacks pages needs none,
//!     nor does a copy that was dropped with its home (rule 8): also `Whole`.
//! 15. Rounds may end in a lazy freeze: what they have sent and was not written since is there, the rest follows. The
//!     target lets go what it has of the pages that follow before the task runs: nobody reads an old version.
//!
//! A commit that may not have arrived
//!
//! 16. A source that has committed and hears that the stream broke, or nothing for too long, asks (`Retract`). The answer
//!     is `Refuse`, always: if the commit was obeyed, the `Ack` was sent before it, frames between two living nodes keep
//!     their order, and the source is past that try when it comes. A target that is asked about a try that it has
//!     seen nothing of remembers it: a stream overtaken by the frame is thrown away when it comes. It forgets when the
//!     task comes in a later try, and when the link breaks or the source dies, and so does the stream.

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
    /// Tries, and whose, that were retracted before anything of them came (rule 16).
    pub(crate) retracted: BTreeMap<TaskId, (Place, Epoch)>,
}

#[derive(Debug)]
pub(crate) enum Presence {
    Resident(Resident),
    Serving(Serving),
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
    /// Who waits for the answer to the move under way. Boxed: of very many tasks few move at a time.
    pub(crate) asker: Option<Box<Asker>>,
    /// Who has those of its pages that are not here (rules 12 to 14).
    pub(crate) lacking: Option<Place>,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    Running,
    /// The driver works towards the freeze. `copying`: the target may have something of it (rule 11).
    Ordered {
        target: Place,
        epoch: Epoch,
        copying: bool,
    },
    /// `lazy`: the pages that are not in the head stay here (rule 12).
    Shipped {
        target: Place,
        epoch: Epoch,
        give_up: Micros,
        lazy: bool,
    },
    /// `doubt`: why the target was asked what became of the try (rule 16).
    Committed {
        target: Place,
        epoch: Epoch,
        give_up: Micros,
        lazy: bool,
        doubt: Option<Box<Refusal>>,
    },
    InDoubt {
        target: Place,
        epoch: Epoch,
    },
}

/// The copy of a task that runs at `target` since `epoch`, and lacks pages there (rule 12).
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) target: Place,
    pub(crate) epoch: Epoch,
}

#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) source: Place,
    pub(crate) epoch: Epoch,
}

impl Handoff {
    /// A task begins here, or is heard of by this table for the first time.
    pub(crate) fn adopt(&mut self, task: TaskId, epoch: Epoch) {
        self.settle_in(task, epoch, None);
    }

    /// A task runs here from now on. `lacking`: who has the rest of it.
    pub(crate) fn settle_in(&mut self, task: TaskId, epoch: Epoch, lacking: Option<Place>) {
        let resident = Resident {
            epoch,
            tried: epoch,
            cancel: false,
            asker: None,
            lacking,
            state: State::Running,
        };
        let old = self.tasks.insert(task, Presence::Resident(resident));
        assert!(old.is_none(), "I1: {task} is here twice");
    }

    pub(crate) fn is_resident(&self, task: TaskId) -> bool {
        matches!(self.tasks.get(&task), Some(Presence::Resident(_)))
    }

    /// Whether the task is here and does not run (rules 2 and 5).
    pub(crate) fn is_frozen(&self, task: TaskId) -> bool {
        let Some(Presence::Resident(resident)) = self.tasks.get(&task) else { return false };
        !matches!(resident.state, State::Running | State::Ordered { .. })
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
        let epoch = resident.epoch;
        resident.call_off(cx, task, Refusal::Ended);
        self.needs_no_more(cx, task);
        self.tasks.remove(&task);
        Some(epoch)
    }

    /// The task shall stop. Whether it is here (or will be told at its next place).
    pub(crate) fn stop(&mut self, cx: &mut Cx<'_>, task: TaskId, why: Option<Refusal>) -> bool {
        if let Some(State::Ordered { .. }) = self.resident(task).map(|resident| &resident.state) {
            // To copy a task that is about to end is a waste.
            self.fail_move(cx, task, Refusal::Cancelled);
        }
        let Some(resident) = self.resident(task) else { return false };
        resident.cancel = true;
        if matches!(resident.state, State::Running | State::Ordered { .. }) {
            cx.out.act(Action::CancelTask { task, why });
        }
        true
    }

    /// `dead` has died; rules 4, 6 and 8, and the tasks whose home it was.
    pub(crate) fn node_dead(&mut self, cx: &mut Cx<'_>, dead: Place) {
        self.retracted.retain(|_, (source, _)| *source != dead);
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            match self.tasks.get(&task) {
                Some(Presence::Arriving(arriving)) if arriving.source == dead => {
                    self.drop_copy(cx, task)
                }
                Some(Presence::Arriving(_)) if cx.members.is_home_dead(task) => {
                    self.refuse_copy(cx, task, Refusal::HomeDied { node: task.home() });
                }
                Some(Presence::Serving(serving)) if serving.target == dead => {
                    self.stop_serving(cx, task);
                }
                Some(Presence::Resident(_)) => {
                    self.target_dead(cx, task, dead);
                    self.source_lost(cx, task, dead);
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
            // The target cancels it, or refuses it and then it is cancelled here; or its death makes it
            // doubtful, and then the line above ends it.
            State::Committed { .. } => resident.cancel = true,
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
            match state {
                Some(State::Shipped { give_up, .. }) if *give_up == at => {
                    self.fail_move(cx, task, Refusal::Timeout);
                }
                Some(&State::Committed { give_up, epoch, .. }) if give_up == at => {
                    self.doubt(cx, task, epoch, Refusal::Timeout);
                }
                _ => {}
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
