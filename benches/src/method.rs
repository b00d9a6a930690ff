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

    /// # Errors
    /// This build of the runtime cannot.
    pub fn strategy(self, max_pause: Duration) -> Result<Strategy, String> {
        let pre_copy =
            |hold_back| Strategy::PreCopy { max_pause, max_rounds: ROUNDS_MAX, hold_back };
        match self {
            Method::Auto => Ok(Strategy::Auto { max_pause }),
            Method::StopCopy => Ok(Strategy::StopCopy),
            Method::PreCopy => Ok(pre_copy(true)),
            Method::PreCopyAll => Ok(pre_copy(false)),
            Method::PostCopy => {
                Err("post-copy: this build of migrt has no such strategy".to_owned())
            }
        }
    }
}
