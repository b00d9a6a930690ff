//! What can go wrong, in the words of the person who must act on it.
//!
//! Every text says what failed, on which node and task, why, what happens to the task, and what to
//! do next where something can be done.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use migrt_proto::{NodeId, TaskId};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something failed that the runtime reports to its user. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    text: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Config,
    Start,
    Cluster,
    Move,
    Join,
    Other,
}

impl Error {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error(Arc::new(Inner { kind, text: text.into(), source: None }))
    }

    pub(crate) fn with_source(
        kind: Kind,
        text: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error(Arc::new(Inner { kind, text: text.into(), source: Some(source.into()) }))
    }

    /// An error of the program's own, to be passed through `main`.
    pub fn other(text: impl Into<String>) -> Error {
        Error::new(Kind::Other, text)
    }

    /// A move did not happen; the task goes on where it was.
    #[must_use]
    pub fn is_move(&self) -> bool {
        self.0.kind == Kind::Move
    }

    /// A setting (`MIGRT_*`, builder option, identity file) cannot be used.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.text)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::with_source(Kind::Other, error.to_string(), error)
    }
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Error {
        Error::with_source(Kind::Join, error.to_string(), error)
    }
}

/// Why a task was not spawned. Nothing of it has run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// This node has no slot left for the task's stack and heap, or has promised all that are left.
    OutOfSlots {
        /// Bytes of the slot that was asked for.
        slot_len: usize,
    },
    /// The arguments could not be encoded.
    Encoding {
        /// What serde said.
        reason: String,
    },
    /// The task cannot be started from here: the node is no member, the arguments are too long for
    /// the way there, or the program cannot have mobile tasks.
    Refused {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::OutOfSlots { slot_len } => write!(
                f,
                "the task was not spawned: this node has no free slot of {} KiB left for its stack \
                 and heap; let tasks end before spawning more, or start more nodes",
                slot_len >> 10
            ),
            SpawnError::Encoding { reason } => {
                write!(f, "the task was not spawned: its arguments cannot be sent: {reason}")
            }
            SpawnError::Refused { reason } => write!(f, "the task was not spawned: {reason}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for Error {
    fn from(error: SpawnError) -> Error {
        Error::with_source(Kind::Other, error.to_string(), error)
    }
}

/// Why `join` has no value to give.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The task panicked; its panic's text.
    Panicked {
        /// The text of the panic.
        message: String,
    },
    /// The node that ran the task died, and the task with it.
    Lost {
        /// The node that died.
        node: NodeId,
        /// Pages that had not come from there yet, if the task itself ran elsewhere and lived on them;
        /// 0 if it ran on that node.
        missing_pages: u64,
    },
    /// The task was cancelled: its home died, or the program is ending.
    Cancelled,
    /// The task never began: its node refused it.
    NotStarted {
        /// Why.
        reason: String,
    },
    /// There was no slot left for the task's stack and heap when it should have started.
    OutOfSlots {
        /// Bytes of the slot that was asked for.
        slot_len: usize,
    },
    /// The arguments or the result could not be encoded or decoded.
    Encoding {
        /// What serde said.
        reason: String,
    },
    /// The task has returned, and a [`Parcel`](crate::Parcel) in its result cannot be had: the node that had it
    /// died, say.
    Parcel {
        /// Why not.
        reason: String,
    },
    /// The task is not known: its result was taken already, or its handle is of another program.
    Unknown {
        /// The task that was asked for.
        task: TaskId,
    },
}

impl JoinError {
    pub(crate) fn from_panic(panic: &(dyn Any + Send)) -> JoinError {
        JoinError::Panicked { message: panic_text(panic) }
    }

    pub(crate) fn no_slot(slot_len: usize) -> JoinError {
        JoinError::OutOfSlots { slot_len }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked { message } => write!(f, "the task panicked: {message}"),
            JoinError::Lost { node, missing_pages: missing @ 1.. } => write!(
                f,
                "the task is lost: {missing} of its pages had not come from node {node} yet, which \
                 died or was cut off; spawn it again if it may run twice"
            ),
            JoinError::Lost { node, .. } => write!(
                f,
                "the task is lost: it ran on node {node}, which died or was cut off; \
                 spawn it again if it may run twice"
            ),
            JoinError::Cancelled => {
                write!(f, "the task was cancelled: its home node died or the program is ending")
            }
            JoinError::NotStarted { reason } => write!(f, "the task never began: {reason}"),
            JoinError::OutOfSlots { slot_len } => write!(
                f,
                "the task never started: this node has no free slot of {} KiB left for its stack \
                 and heap; let tasks end before spawning more, or start more nodes",
                slot_len >> 10
            ),
            JoinError::Encoding { reason } => write!(
                f,
                "the task's arguments or result cannot be sent: {reason}; the task did not run to \
                 its end"
            ),
            JoinError::Parcel { reason } => {
                write!(f, "the task has returned, but {reason}")
            }
            JoinError::Unknown { task } => {
                write!(f, "task {task} is not known to its home: its result was taken already")
            }
        }
    }
}

impl std::error::Error for JoinError {}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic with a value that is not text".to_owned()
    }
}
