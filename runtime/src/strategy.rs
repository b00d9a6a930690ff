//! How a task is moved: what the caller asks for.

use std::time::Duration;

use migrt_proto::{Micros, wire};

/// Which of a task's pages travel before it stands still, and which while it does.
///
/// What counts, first of all, is what a move is asked for with ([`JoinHandle::migrate_by`](crate::JoinHandle::migrate_by)); then what the
/// task has chosen for itself ([`set_strategy`](crate::set_strategy)); then the program's
/// ([`Builder::strategy`](crate::Builder::strategy), over which the variable `MIGRT_STRATEGY` goes). The default is
/// [`Strategy::Auto`] with a pause of 3 ms.
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
    /// The runtime picks, by size, by how fast the task writes, and by the link: rounds as in pre-copy, as long as
    /// they get anywhere; what they leave follows the task as in post-copy if it would take too long and the target
    /// can serve missing pages; a short task is stopped and copied. The move's record says what was picked, why,
    /// and whether the limit was kept to.
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

impl Strategy {
    /// As it is written in `MIGRT_STRATEGY`.
    pub(crate) fn parse(text: &str) -> Option<Strategy> {
        if let Some(pause) = text.strip_prefix("auto:") {
            return Some(Strategy::Auto { max_pause: parse_pause(pause)? });
        }
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

/// A number of `us` or `ms`.
fn parse_pause(text: &str) -> Option<Duration> {
    let number = |digits: &str| digits.parse().ok();
    match (text.strip_suffix("us"), text.strip_suffix("ms")) {
        (Some(us), _) => number(us).map(Duration::from_micros),
        (_, Some(ms)) => number(ms).map(Duration::from_millis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_variable_says_is_understood_or_refused() {
        let auto = |max_pause| Some(Strategy::Auto { max_pause });
        assert_eq!(Strategy::parse("auto"), Some(Strategy::default()));
        assert_eq!(Strategy::parse("auto:500us"), auto(Duration::from_micros(500)));
        assert_eq!(Strategy::parse("auto:2ms"), auto(Duration::from_millis(2)));
        assert_eq!(Strategy::parse("post-copy"), Some(Strategy::PostCopy));
        for wrong in ["", "auto:", "auto:2", "auto:-1ms", "auto:2s", "post-copy:1ms", "AUTO"] {
            assert_eq!(Strategy::parse(wrong), None, "{wrong}");
        }
    }
}
