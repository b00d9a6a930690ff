//! The state word of a task and the workers' idle protocol, compiled against the model checker: the
//! very files of the runtime, with a `sync` module that re-exports loom.
#![allow(dead_code, reason = "each model uses some of the transitions")]

mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
}

#[path = "../../../runtime/src/exec/idle.rs"]
mod idle;
#[path = "../../../runtime/src/task/state.rs"]
mod state;

pub mod models;
