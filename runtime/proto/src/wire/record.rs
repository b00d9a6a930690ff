//! What a move came to.

use serde::{Deserialize, Serialize};

use super::limits::text;
use crate::id::{NodeId, TaskId};

/// How a task's pages travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Method {
    /// The task had not started: its call was sent.
    #[default]
    Call,
    /// All while it stood still.
    StopCopy,
    /// In rounds while it ran, the rest while it stood still.
    PreCopy,
    /// Most of them after it went on at the target.
    PostCopy,
}

/// One move that happened. Times are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// The task.
    pub task: TaskId,
    /// Where it was.
    pub from: NodeId,
    /// Where it went.
    pub to: NodeId,
    /// How.
    pub method: Method,
    /// Why so: what was asked for, or what the runtime picked and for which reason.
    #[serde(with = "text")]
    pub why: String,
    /// Rounds that sent pages while it ran.
    pub rounds: u32,
    /// Pages that were alive at the freeze.
    pub live_pages: u64,
    /// Pages sent, in all rounds and after.
    pub sent_pages: u64,
    /// Of these, while it stood still.
    pub rest_pages: u64,
    /// Live pages that were not sent, because the target had them from before.
    pub same_pages: u64,
    /// Pages of the writable working set, held back in the last round.
    pub held_back_pages: u64,
    /// From its suspension until it could go on; what the wire took on the way to the first byte of the
    /// last pages is not in it.
    pub pause_us: u64,
    /// From the order until it could go on.
    pub total_us: u64,
    /// The pause that was to be kept to, if there was one.
    pub max_pause_us: Option<u64>,
    /// Pages that it waited for after it went on.
    pub faults: u64,
    /// Different pages that it wrote per second, as rounds have measured it; half of the last value where none did.
    pub dirty_pages_per_s: Option<u64>,
    /// Pages that it wrote again and again, likewise.
    pub working_set_pages: Option<u64>,
}

impl MoveRecord {
    /// Whether the pause was within its limit; true if there was none.
    #[must_use]
    pub fn met_max_pause(&self) -> bool {
        self.max_pause_us.is_none_or(|limit| self.pause_us <= limit)
    }
}
