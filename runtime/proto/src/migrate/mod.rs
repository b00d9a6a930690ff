//! Moving a task: who has it, and when does that change.
//!
//! In the verbs of the driver, and with what it tells this crate on the way:
//!
//! ```text
//! stop-copy                             suspend freeze ship  (frozen)        thaw resume
//! pre-copy   (copying) (ship a round)*  suspend freeze ship  (frozen)        thaw resume
//! post-copy                             suspend freeze ship  (frozen_lazily) thaw resume (fault | push)* (whole)
//! ```
//!
//! This crate knows of a task only that it is somewhere; the pages go past it. See `handoff` for the states and the
//! rules; `source` and `target` are the two ends of a move, `lazy` is what goes on after the commit of a lazy one.

pub(crate) mod handoff;
mod lazy;
mod source;
mod target;

use crate::time::Micros;

/// A try whose target says nothing for so long after the freeze is given up (rule 4) or, once it is committed, asked
/// for (rule 16). Installing may be slow.
pub const TRY_LIMIT: Micros = Micros::from_millis(10_000);
