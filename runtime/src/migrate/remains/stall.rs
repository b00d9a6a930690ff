//! Looks at remains that cannot be taken: told of when that goes on, since all memory of departed tasks stays
//! meanwhile.

use std::fmt;
use std::time::{Duration, Instant};

use crate::census;
use crate::cluster::cluster;

/// For so long nothing is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a look could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blind {
    /// There is no memory for its tables.
    Memory,
    /// The world did not stop.
    Stop,
    /// Some memory could not be read, or was more than the tables have room for.
    Parts,
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blind::Memory => f.write_str("there is no memory left for the tables of the look"),
            Blind::Stop => f.write_str(&census::why_given_up()),
            Blind::Parts => f.write_str("a thread's stack, or the list of mappings, is not known"),
        }
    }
}

/// Since when no look was taken.
#[derive(Debug)]
pub(super) struct Stall {
    since: Option<Instant>,
    is_told: bool,
}

impl Stall {
    pub(super) fn new() -> Stall {
        Stall { since: None, is_told: false }
    }

    /// Tells of it, once, if no look could be taken for long. What the look has left.
    pub(super) fn note(&mut self, look: Result<usize, Blind>) -> Option<usize> {
        match look {
            Ok(left) => {
                self.since = None;
                Some(left)
            }
            Err(why) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                if !self.is_told && since.elapsed() > PATIENCE {
                    self.is_told = true;
                    eprintln!(
                        "migrt: node {}: what tasks have left here could not be looked through for {} s, and its \
                         memory stays: {why}",
                        cluster().me(),
                        PATIENCE.as_secs()
                    );
                }
                None
            }
        }
    }
}
