//! Trying again what is refused for a moment only: a task meets what another has left behind, which is looked
//! at and mostly goes.

use std::time::{Duration, Instant};

use super::sleep::sleep;

/// The first pause is short; then they grow: as long as pages come and are refused, their packets lead to what
/// is in the way.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// See the module. Plain words: it may lie in a task's frame while that moves.
#[derive(Debug)]
pub(super) struct Again {
    since: Instant,
    patience: Duration,
    pause: Duration,
}

impl Again {
    /// Begins now, and does not try again after `patience`.
    pub(super) fn for_at_most(patience: Duration) -> Again {
        Again { since: Instant::now(), patience, pause: PAUSE }
    }

    /// Waits for the next try; `false`: that was the last one.
    pub(super) fn waits(&mut self) -> bool {
        if self.since.elapsed() >= self.patience {
            return false;
        }
        sleep(self.pause);
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        true
    }
}
