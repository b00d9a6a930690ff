//! Moving a task: who has it, and when does that change.
//!
//! stop-copy, in the verbs of the driver: `suspend freeze ship thaw resume`. This crate knows of a task only that it
//! is somewhere; the pages go past it. See `handoff` for the states and the rules.

pub(crate) mod handoff;
mod source;
mod target;

use crate::time::Micros;

/// A target that has not become ready this long after the order to ship is given up (rule 4). Installing may be slow.
pub const READY_LIMIT: Micros = Micros::from_millis(10_000);
