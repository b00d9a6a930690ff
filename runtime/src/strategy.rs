//! How a task is moved: what the caller asks for.

use std::time::Duration;

use migrt_proto::{Micros, wire};

/// Which of a task's pages travel before it stands still, and which while it does.
///
/// The default is [`Strategy::Auto`] with a pause of 3 ms; `MIGRT_STRATEGY` changes it for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The task stands still while all of its pages travel. Least work; the pause grows with its size.
    StopCopy,
    /// Pages travel in rounds while the task runs, each time those written since; it stands still for
    /// the rest (Clark et al., Live Migration of Virtual Machines, NSDI 2005).
    PreCopy {
        /// Rounds end when what is left fits into this pause, at the rate that was measured.
        max_pause: Duration,
        /// Rounds end after so many.
        max_rounds: u32,
        /// Pages written in several rounds are left for the rest: they would be sent in vain.
        hold_back: bool,
    },
    /// The task stands still only while its stack and what its heap needs first travel; it goes on, and
    /// the other pages follow, those first that it touches (Hines and Gopalan, Post-Copy Based Live
    /// Virtual Machine Migration, VEE 2009). Shortest pause, whatever the task writes; if this node is
    /// lost before the last page has left, so is the task.
    PostCopy,
    /// The runtime picks, by size, by how fast the task writes, and by the link.
    Auto {
        /// How long the task may stand still.
        max_pause: Duration,
    },
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy::Auto { max_pause: Duration::from_millis(3) }
    }
}

/// The program's.
pub(crate) fn default() -> Strategy {
    crate::node::node().config.strategy
}

/// Of a task that moves itself and stands still in any case until it is there.
pub(crate) fn of_oneself() -> Strategy {
    match default() {
        Strategy::Auto { .. } => Strategy::StopCopy,
        other => other,
    }
}

impl Strategy {
    /// As it is written in `MIGRT_STRATEGY`.
    pub(crate) fn parse(text: &str) -> Option<Strategy> {
        match text {
            "auto" => Some(Strategy::default()),
            "stop-copy" => Some(Strategy::StopCopy),
            "post-copy" => Some(Strategy::PostCopy),
            "pre-copy" => Some(Strategy::PreCopy {
                max_pause: Duration::ZERO,
                max_rounds: 8,
                hold_back: true,
            }),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> wire::Strategy {
        let micros = |time: Duration| Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        match self {
            Strategy::StopCopy => wire::Strategy::StopCopy,
            Strategy::PostCopy => wire::Strategy::PostCopy,
            Strategy::PreCopy { max_pause, max_rounds, hold_back } => {
                wire::Strategy::PreCopy { max_pause: micros(max_pause), max_rounds, hold_back }
            }
            Strategy::Auto { max_pause } => wire::Strategy::Auto { max_pause: micros(max_pause) },
        }
        .bounded()
    }
}
