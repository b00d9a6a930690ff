//! The atomics and locks that the protocols with a model are written against.
//!
//! `tests/loom` compiles `task/state.rs` and `exec/idle.rs` a second time with a `sync` module of
//! its own that re-exports the model checker, so the code that is checked is the code that runs.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
