//! What the core wants done, and the queue in which it wants it.

use std::collections::VecDeque;

use crate::{
    id::{Asker, EntryId, Epoch, NodeId, Place, TaskId, Token},
    member::Members,
    time::Micros,
    wire::{Answer, Frame, Outcome, Refusal, SlotGrant, Strategy},
};

/// Something for the driver to do. Actions are to be carried out in the order in which they are given out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send these bytes as one control message. If the link to `to` has just gone, drop them: they are sent again
    /// after the next `peer_up`.
    Send { to: NodeId, bytes: Vec<u8> },
    /// A member that may be dialled.
    MemberUp { place: Place, addr: String },
    /// A process is dead for ever: forget its links, refuse its hello.
    NodeDead { place: Place },
    /// These slots are this node's (I3).
    SlotsGranted { slots: Vec<SlotGrant> },
    /// The lease has ended, or this node was declared dead: stop all mobile tasks *now* and exit with the message.
    Fence { why: String },
    /// The program is over.
    Exit { text: String },
    /// A message of the runtime's own.
    Custom { from: NodeId, kind: u16, bytes: Vec<u8> },

    /// Start a call as a task of this node; if that cannot be, `spawn_refused`.
    StartCall { task: TaskId, entry: EntryId, args: Vec<u8> },
    /// End the task at its next suspension; it then `ended`. `why` is set if nobody will hear of the outcome.
    CancelTask { task: TaskId, why: Option<Refusal> },

    /// Source: bring the task to `target`, under `epoch`. Perhaps rounds first (`copying`, then ship them while it
    /// runs; not before it is whole); then suspend and freeze it, and `frozen` or `frozen_lazily`, or `freeze_failed`.
    /// Nothing, if it has just ended. `strategy` is the wish, within its limits.
    Freeze { task: TaskId, target: NodeId, epoch: Epoch, strategy: Strategy },
    /// Source: send the frozen task (what the rounds have not brought; the head, if lazy) to `to`, under `epoch`;
    /// `commit` before the last byte. `ship_failed` if that breaks. The task stays frozen.
    Ship { task: TaskId, epoch: Epoch, to: NodeId },
    /// Source: the move failed before `frozen`; the task runs on here in `epoch`. Its rounds end here and now. It may
    /// be in the middle of a freeze: then that is carried on to its end, and `frozen` is answered with `ResumeHere`.
    CallOff { task: TaskId, epoch: Epoch, why: Refusal },
    /// Source: the move failed after `frozen`; the frozen task runs on here in `epoch` (I11).
    ResumeHere { task: TaskId, epoch: Epoch, why: Refusal },
    /// Source of a lazy move: the task runs at `to`, which lacks pages. Keep the frozen copy, let nothing else use the
    /// addresses it lies at (I3), push the pages and answer requests for them, until `ReleaseSource`. Links may
    /// break and come back meanwhile.
    Serve { task: TaskId, epoch: Epoch, to: NodeId },
    /// Source: the task is somebody else's, or nobody's, now. Let the frozen copy go, without running anything of it.
    ReleaseSource { task: TaskId, epoch: Epoch, to: NodeId },
    /// Target: throw away what has been, or is being, installed of this shipment.
    DropCopy { task: TaskId, epoch: Epoch },
    /// Target: the installed task is ours; make it runnable. The frames that say so were given out before.
    Thaw { task: TaskId, epoch: Epoch },
    /// Target: `source` is dead, and pages of the task were still to come from it. If they cannot all be here, end the
    /// task and say `lost`; else `whole`.
    SourceLost { task: TaskId, epoch: Epoch, source: NodeId },
    /// Target: the home knows that the task came here in `epoch` (or is dead). Until now slots that the task freed in
    /// that epoch, at its end or before, may not leave this node: a source in doubt might yet go on with its copy,
    /// which lies in them (I3). Said once for each `Thaw`, after it, perhaps after the task has left or ended.
    Settled { task: TaskId, epoch: Epoch },

    /// A task asked for by `join` ended so. `None`: no such outcome is kept (taken before, or never was).
    /// After delivering it, `join_taken`.
    JoinAnswered { task: TaskId, token: Token, outcome: Option<Outcome> },
    /// The result of a task of this home that nobody took, or that was taken and is not needed any more: parcels that
    /// it names, and that were not taken, shall end (`cancel`).
    NotTaken { bytes: Vec<u8> },
    /// The answer to `ask`.
    Answered { task: TaskId, token: Token, answer: Answer },
    /// Somebody asks about a task that is here: `info(task, asker, ..)`.
    InfoWanted { task: TaskId, asker: Asker },
}

/// Rules that the simulator can switch off, to see that its checkers notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// The source goes on at once when the target of a committed try has died (breaks rule 6).
    ResumeInDoubt,
    /// The source takes a broken link for a failed move, commit or not (breaks rule 5).
    ResumeAfterCommit,
    /// The target takes a shipment that it was asked for before it came (breaks rule 16).
    ForgetRetract,
    /// The home reports tasks lost, and answers doubts, without hearing the others (breaks rule 7).
    LoseAtOnce,
    /// A node whose lease has ended goes on.
    NeverFence,
    /// A failed move leaves the task frozen (breaks rule 4).
    ForgetResume,
    /// The source of a lazy move lets its pages go at the `Ack` (breaks rule 12).
    ReleaseWhileServing,
    /// The target keeps what it has of a called-off try (breaks rule 11).
    KeepCopyOnAbort,
    /// The home does not end parcels with what carries them (breaks rule 7 of the home).
    ForgetTies,
    /// A target takes the pages that rounds have brought for those of the freeze (breaks rule 15). The driver's.
    KeepOldPages,
}

/// One step's outlet: frames and actions in the order in which they were decided.
#[derive(Debug, Default)]
pub(crate) struct Out(pub(crate) VecDeque<Item>);

#[derive(Debug)]
pub(crate) enum Item {
    Frame(NodeId, Frame),
    Act(Action),
}

impl Out {
    pub(crate) fn frame(&mut self, to: NodeId, frame: Frame) {
        self.0.push_back(Item::Frame(to, frame));
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.0.push_back(Item::Act(action));
    }
}

/// What every step may look at: the time, who is alive, and where to put the results.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) now: Micros,
    pub(crate) members: &'a Members,
    pub(crate) out: &'a mut Out,
    /// How long a target may take from the freeze on.
    pub(crate) try_limit: Micros,
    pub(crate) fault: Fault,
}
