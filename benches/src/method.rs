//! Names of strategies on the command line.

use std::time::Duration;

use clap::ValueEnum;
use migrt::Strategy;

/// More than any task here needs, so that what ends the rounds is seen.
const ROUNDS_MAX: u32 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Auto,
    StopCopy,
    /// Pages that are written in several rounds are held back.
    PreCopy,
    /// All written pages go in each round.
    PreCopyAll,
    PostCopy,
}

impl Method {
    pub const ALL: [Method; 5] =
        [Method::StopCopy, Method::PreCopy, Method::PreCopyAll, Method::PostCopy, Method::Auto];

    pub fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::StopCopy => "stop-copy",
            Method::PreCopy => "pre-copy",
            Method::PreCopyAll => "pre-copy-all",
            Method::PostCopy => "post-copy",
        }
    }

    /// What the runtime is told.
    pub fn strategy(self, max_pause: Duration) -> Strategy {
        let pre_copy =
            |hold_back| Strategy::PreCopy { max_pause, max_rounds: ROUNDS_MAX, hold_back };
        match self {
            Method::Auto => Strategy::Auto { max_pause },
            Method::StopCopy => Strategy::StopCopy,
            Method::PreCopy => pre_copy(true),
            Method::PreCopyAll => pre_copy(false),
            Method::PostCopy => Strategy::PostCopy,
        }
    }
}
