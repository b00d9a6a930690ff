//! The control frames: everything that two nodes say to each other besides the hello and the pages.
//!
//! Routing relies on one sentence: *a task's home always knows, or will be told, where the task is.* So whoever wants
//! something of a task asks the home; the home passes it on; a place that the task has left says [`Frame::NotHere`],
//! and by then the home has heard the newer place (frames between two processes arrive in order, see `courier`).

use core::fmt;

use serde::{Deserialize, Serialize};

use super::{
    MoveRecord, Strategy,
    limits::{self, WireError, bytes, list, text},
};
use crate::{
    id::{Asker, EntryId, Epoch, Generation, NodeId, Place, TaskId, Token},
    time::Micros,
};

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    // Links and membership.
    /// Nothing but the acknowledgement in its envelope.
    Acked,
    /// "I am here"; `sent` comes back in the answer and dates the lease.
    Heartbeat { sent: Micros },
    /// The starting node's answer.
    HeartbeatAck { sent: Micros },
    /// Admission, first frame from the starting node: who else is here, who is dead, and the first slots.
    Welcome {
        generation: Generation,
        #[serde(with = "list")]
        members: Vec<MemberInfo>,
        #[serde(with = "list")]
        dead: Vec<(Place, Generation)>,
        #[serde(with = "list")]
        slots: Vec<SlotGrant>,
    },
    /// A node was admitted.
    Joined { member: MemberInfo },
    /// More slots for the receiver.
    SlotGrant {
        #[serde(with = "list")]
        slots: Vec<SlotGrant>,
    },
    /// The starting node declares a process dead, after its lease has ended.
    Dead { place: Place },
    /// The sender has dealt with that death: it takes nothing more from the dead process, and whatever it took before
    /// has been told to the homes.
    DeadSeen { place: Place },
    /// The sender leaves in an orderly way and has stopped its tasks.
    Goodbye,
    /// The program ends; the receiver exits.
    Shutdown {
        #[serde(with = "text")]
        text: String,
    },

    // Spawning.
    /// Start `entry` with `args` as `task`, in its first epoch.
    Spawn {
        task: TaskId,
        entry: EntryId,
        #[serde(with = "bytes")]
        args: Vec<u8>,
    },
    /// The task was not started.
    SpawnRefused { task: TaskId, reason: Refusal },

    // The hand-off; `epoch` is the one that the target would run in. Source: Abort, Retract. Target: the others.
    /// Rounds of that try have begun to arrive. `Abort`, if the try is over.
    Copying { task: TaskId, epoch: Epoch },
    /// Nothing of that try is here, and nothing will be.
    Refuse { task: TaskId, epoch: Epoch, reason: Refusal },
    /// The task runs here.
    Ack { task: TaskId, epoch: Epoch },
    /// That try is over; it was not committed.
    Abort { task: TaskId, epoch: Epoch },
    /// That try was committed, and may not have arrived: let it go if it was not obeyed. `Refuse`, always.
    Retract { task: TaskId, epoch: Epoch },
    /// The target lacks no page of the task any more (or needs none: it ended). The source may forget it.
    Whole { task: TaskId, epoch: Epoch },
    /// Source to home: the try was committed, `target` is dead, and no answer came. Whose is the task?
    InDoubt { task: TaskId, epoch: Epoch, target: Place },
    /// The home's answer, about the same epoch.
    InDoubtAnswer { task: TaskId, epoch: Epoch, verdict: Verdict },

    // To and from the home.
    /// The task runs, or is about to, at `at` in `epoch`.
    Located { task: TaskId, at: Place, epoch: Epoch },
    /// The task ended at the sender.
    Ended { task: TaskId, epoch: Epoch, outcome: Outcome },
    /// Tell me when it ends.
    JoinAsk { task: TaskId, token: Token },
    /// It ended so; `None`: there is nothing under that name (any more).
    JoinAnswer { task: TaskId, token: Token, outcome: Option<Outcome> },
    /// The outcome was delivered; forget it.
    JoinTaken { task: TaskId },
    /// Nobody will ask for the outcome.
    Detach { task: TaskId },
    /// A question to wherever the task is; by way of the home.
    Ask { task: TaskId, asker: Asker, ask: Ask },
    /// The answer; by way of the home.
    Answer { task: TaskId, asker: Asker, answer: Answer },
    /// The task has left this place (or ended); the home has been told.
    NotHere { task: TaskId, asker: Asker, ask: Ask },
    /// To the home: the task shall end.
    Cancel { task: TaskId },
    /// From the home to the place: end the task.
    StopTask { task: TaskId },

    /// A message of the runtime's own, not looked at here.
    Custom {
        kind: u16,
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
}

impl Frame {
    /// Appends the encoded frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        limits::encode(self, out);
    }

    /// Decodes a frame that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] for anything that is not exactly one frame within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
        limits::decode(bytes, "frame")
    }

    /// The task whose home this frame is meant for, if it is one of those that a home gets.
    pub(crate) fn home_task(&self) -> Option<TaskId> {
        match self {
            Frame::SpawnRefused { task, .. }
            | Frame::InDoubt { task, .. }
            | Frame::Located { task, .. }
            | Frame::Ended { task, .. }
            | Frame::JoinAsk { task, .. }
            | Frame::JoinTaken { task }
            | Frame::Detach { task }
            | Frame::Ask { task, .. }
            | Frame::Answer { task, .. }
            | Frame::NotHere { task, .. }
            | Frame::Cancel { task } => Some(*task),
            _ => None,
        }
    }
}

/// A member as the starting node describes it to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The process.
    pub place: Place,
    /// Which admission of its node id this is.
    pub generation: Generation,
    /// Where it can be dialled.
    #[serde(with = "text")]
    pub addr: String,
}

/// Neighbouring slots of one size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotGrant {
    /// Size class: slots of 64 KiB << class.
    pub class: u8,
    /// Index of the first slot in the class's sub-range.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// How a task ended. A task ends exactly once (I2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its entry returned this encoded value.
    Returned(#[serde(with = "bytes")] Vec<u8>),
    /// It panicked.
    Panicked {
        #[serde(with = "text")]
        message: String,
    },
    /// It was told to stop.
    Cancelled,
    /// `node` died: the one that it was on (`missing_pages` is 0), or the one that still had so many of its pages.
    Lost { node: NodeId, missing_pages: u64 },
    /// It never began.
    NotStarted { reason: Refusal },
}

/// The home's word on a task in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The target had it. Let the copy go.
    Taken,
    /// The target never had it, and whatever it may say is refused from now on. Go on in this epoch.
    GoOn { epoch: Epoch },
}

/// A question to a task's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Move it there.
    Move { target: NodeId, strategy: Strategy },
    /// Describe it.
    Info,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is at the target now, or why not.
    Move(Result<NodeId, Refusal>),
    /// Its description, or why there is none.
    Info(Result<TaskInfo, Refusal>),
}

impl Answer {
    /// The answer "no, because" to `ask`.
    pub fn refused(ask: Ask, why: Refusal) -> Answer {
        match ask {
            Ask::Move { .. } => Answer::Move(Err(why)),
            Ask::Info => Answer::Info(Err(why)),
        }
    }
}

/// What a task is doing, for `info()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Not begun.
    Waiting,
    /// On a worker, or ready for one.
    Running,
    /// Suspended in a blocking call.
    Suspended,
    /// Frozen for a move.
    Moving,
    /// Over.
    Ended,
}

/// A task's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// What it is doing.
    pub state: TaskState,
    /// Where it is.
    pub node: NodeId,
    /// How often it has moved.
    pub moves: u32,
    /// CPU time charged to it, in microseconds.
    pub cpu_us: u64,
    /// What keeps it here, one line each.
    #[serde(with = "list")]
    pub pins: Vec<String>,
    /// Its last move, if it came here by one.
    pub last_move: Option<Box<MoveRecord>>,
}

/// Why a task was not moved, started or found. Whatever the reason of a refused move, the task still runs where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// Another move of the task is under way.
    Busy,
    /// No task of that name is known.
    UnknownTask,
    /// The task has ended.
    Ended,
    /// The task is being cancelled.
    Cancelled,
    /// The node is no live member.
    NotAMember { node: NodeId },
    /// The node died before the commit.
    TargetDied { node: NodeId },
    /// The node that the task was on died, with the task or with the word about the move.
    SourceDied { node: NodeId },
    /// The task's home is dead; the task is being cancelled.
    HomeDied { node: NodeId },
    /// The target did not become ready in time.
    Timeout,
    /// A newer residence of the task is known here.
    Stale,
    /// The task holds things that belong to its node.
    Pinned {
        #[serde(with = "text")]
        what: String,
    },
    /// The transfer broke.
    ShipFailed {
        #[serde(with = "text")]
        why: String,
    },
    /// No slot is left for the task.
    OutOfSlots { slot_len: u64 },
    /// What another task has left at the target lies where this one is to come, and is looked at: it may be gone in a
    /// moment.
    InTheWay {
        #[serde(with = "text")]
        what: String,
    },
    /// The driver refuses, in its words: a slot in use, an entry that is not there.
    Other {
        #[serde(with = "text")]
        why: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Busy => write!(out, "another move of this task is under way"),
            Refusal::UnknownTask => write!(out, "no such task is known"),
            Refusal::Ended => write!(out, "the task has ended"),
            Refusal::Cancelled => write!(out, "the task is being cancelled"),
            Refusal::NotAMember { node } => {
                write!(out, "{node} is not a live member of the cluster")
            }
            Refusal::TargetDied { node } => {
                write!(out, "target {node} died before the move was committed")
            }
            Refusal::SourceDied { node } => write!(out, "{node}, where the task was, died"),
            Refusal::HomeDied { node } => {
                write!(out, "the task's home {node} died; the task is being cancelled")
            }
            Refusal::Timeout => write!(out, "the target did not become ready in time"),
            Refusal::Stale => write!(out, "a newer residence of the task is known"),
            Refusal::Pinned { what } => write!(out, "the task is pinned: {what}"),
            Refusal::ShipFailed { why } => write!(out, "shipping failed: {why}"),
            Refusal::OutOfSlots { slot_len } => write!(
                out,
                "the node has no free slot of {} KiB left for its stack and heap; let tasks end \
                 before spawning more, or start more nodes",
                slot_len >> 10
            ),
            Refusal::InTheWay { what } => write!(out, "{what}, which something there still uses"),
            Refusal::Other { why } => write!(out, "{why}"),
        }
    }
}

impl core::error::Error for Refusal {}
