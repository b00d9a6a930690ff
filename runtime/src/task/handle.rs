//! The handle of a mobile task: plain data that works from any node.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use migrt_proto::wire::{self, Answer, Ask, MoveRecord, Outcome, Refusal};
use migrt_proto::{EntryId, NodeId, TaskId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use migrt_proto::wire::TaskState;

use super::again::Again;
use super::here::PATIENCE;
use super::scrub;
use crate::cluster::ask;
use crate::entry::{self, Output};
use crate::error::{Error, JoinError, Kind, Result};
use crate::strategy::Strategy;

/// What is known of a task: [`JoinHandle::info`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskInfo {
    /// What it is doing.
    pub state: TaskState,
    /// Where it is.
    pub node: NodeId,
    /// How often it has moved.
    pub moves: u32,
    /// CPU time charged to it.
    pub cpu: Duration,
    /// What keeps it on its node, one line each; empty if it may move.
    pub pins: Vec<String>,
    /// Its last move, if it came to where it is by one.
    pub last_move: Option<MoveRecord>,
}

/// The handle of a mobile task.
///
/// It is plain data: it can be an argument or a result of another task, and works from any node,
/// also after both have moved. Dropping it lets the task run on; its result is thrown away then.
/// A handle that was encoded (sent) gives up its claim to the copy.
pub struct JoinHandle<R> {
    task: TaskId,
    entry: EntryId,
    /// It was joined, or sent elsewhere: dropping it changes nothing.
    spent: Cell<bool>,
    _result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for JoinHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.task).finish()
    }
}

impl<R> JoinHandle<R> {
    pub(crate) fn new(task: TaskId, entry: EntryId) -> JoinHandle<R> {
        JoinHandle { task, entry, spent: Cell::new(false), _result: PhantomData }
    }

    /// The task's id, the same on all nodes.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task
    }

    /// Whether the task has ended. Asks its home if that is another node.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.info().is_ok_and(|info| info.state == TaskState::Ended)
    }

    /// Moves the task to `target` and waits until it is there.
    ///
    /// A running task moves at its next suspension or safepoint; one that has not started is sent
    /// as a call.
    ///
    /// # Errors
    /// The task goes on where it was, and the error says why: it is pinned, has ended, the target is
    /// no live node or has no room.
    #[inline(always)]
    pub fn migrate(&self, target: NodeId) -> Result<()> {
        scrub::below::<{ scrub::DEEP }>();
        self.ask_move(target, wire::Strategy::Usual)
    }

    /// As [`migrate`](Self::migrate), by this strategy instead of the task's or the program's.
    ///
    /// # Errors
    /// As for [`migrate`](Self::migrate).
    #[inline(always)]
    pub fn migrate_by(&self, target: NodeId, strategy: Strategy) -> Result<()> {
        scrub::below::<{ scrub::DEEP }>();
        self.ask_move(target, strategy.to_wire())
    }

    #[inline(never)]
    fn ask_move(&self, target: NodeId, strategy: wire::Strategy) -> Result<()> {
        let mut again = Again::for_at_most(PATIENCE);
        let answer = loop {
            let answer = ask::ask(self.task, Ask::Move { target, strategy });
            if !matches!(answer, Answer::Move(Err(Refusal::InTheWay { .. }))) || !again.waits() {
                break answer;
            }
        };
        match answer {
            Answer::Move(Ok(_)) => Ok(()),
            Answer::Move(Err(why)) => {
                let goes_on = match why {
                    Refusal::Ended | Refusal::UnknownTask | Refusal::HomeDied { .. } => "",
                    _ => "; it goes on where it is",
                };
                let text =
                    format!("task {} was not moved to node {target}: {why}{goes_on}", self.task);
                Err(Error::new(Kind::Move, text))
            }
            Answer::Info(_) => unreachable!("a move was asked for"),
        }
    }

    /// Where the task is, how often it has moved, its CPU time, what pins it.
    ///
    /// # Errors
    /// The task or its home is not known (any more).
    #[inline(always)]
    pub fn info(&self) -> Result<TaskInfo> {
        scrub::below::<{ scrub::DEEP }>();
        self.ask_info()
    }

    #[inline(never)]
    fn ask_info(&self) -> Result<TaskInfo> {
        match ask::ask(self.task, Ask::Info) {
            Answer::Info(Ok(info)) => Ok(TaskInfo {
                state: info.state,
                node: info.node,
                moves: info.moves,
                cpu: Duration::from_micros(info.cpu_us),
                pins: info.pins,
                last_move: info.last_move.map(|record| *record),
            }),
            Answer::Info(Err(why)) => Err(Error::new(
                Kind::Other,
                format!("nothing is known of task {}: {why}", self.task),
            )),
            Answer::Move(_) => unreachable!("a description was asked for"),
        }
    }

    /// Asks that the task end: it unwinds at its next suspension or safepoint, and `join` gives
    /// [`JoinError::Cancelled`].
    pub fn cancel(&self) {
        ask::cancel(self.task);
    }
}

impl<R: Output> JoinHandle<R> {
    /// Waits for the task's end, wherever it is, and gives its result.
    ///
    /// # Errors
    /// See [`JoinError`].
    #[inline(always)]
    pub fn join(self) -> Result<R, JoinError> {
        scrub::below::<{ scrub::DEEP }>();
        self.wait()
    }

    #[inline(never)]
    fn wait(self) -> Result<R, JoinError> {
        self.spent.set(true);
        let (outcome, is_kept) = ask::join(self.task);
        let _taken = is_kept.then_some(Taken(self.task));
        match outcome {
            Some(Outcome::Returned(bytes)) => {
                let name = entry::lookup(self.entry).map_or("", |entry| entry.name);
                R::__decode(name, &bytes).map_err(|error| {
                    let reason = error.to_string();
                    match error.is_of_parcel() {
                        true => JoinError::Parcel { reason },
                        false => JoinError::Encoding { reason },
                    }
                })
            }
            Some(Outcome::Panicked { message }) => Err(JoinError::Panicked { message }),
            Some(Outcome::Cancelled) => Err(JoinError::Cancelled),
            Some(Outcome::Lost { node, missing_pages }) => {
                Err(JoinError::Lost { node, missing_pages })
            }
            Some(Outcome::NotStarted { reason: Refusal::OutOfSlots { slot_len } }) => {
                Err(JoinError::no_slot(slot_len as usize))
            }
            Some(Outcome::NotStarted { reason }) => {
                Err(JoinError::NotStarted { reason: reason.to_string() })
            }
            None => Err(JoinError::Unknown { task: self.task }),
        }
    }
}

/// Tells the home, in the end, that the outcome was made use of, or will not be.
struct Taken(TaskId);

impl Drop for Taken {
    fn drop(&mut self) {
        ask::taken(self.0);
    }
}

impl<R> Drop for JoinHandle<R> {
    fn drop(&mut self) {
        if !self.spent.get() {
            ask::detach(self.task);
        }
    }
}

impl<R> Serialize for JoinHandle<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.spent.set(true);
        (self.task, self.entry).serialize(serializer)
    }
}

impl<'de, R> Deserialize<'de> for JoinHandle<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JoinHandle<R>, D::Error> {
        let (task, entry) = <(TaskId, EntryId)>::deserialize(deserializer)?;
        Ok(JoinHandle::new(task, entry))
    }
}
