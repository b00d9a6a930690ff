//! Keeping a task on its node for a while.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use super::current;

/// While it lives, the task that made it stays on its node. Made by [`pin_here`].
#[derive(Debug)]
#[must_use = "the task may move again as soon as the guard is dropped"]
pub struct PinGuard {
    /// Not to be sent to another task, which would unpin the wrong one.
    _here: PhantomData<*mut ()>,
}

/// Keeps the calling task on this node until the guard is dropped: for code that holds something
/// of the node. Moves that are asked for meanwhile are refused, and say why.
///
/// A local task never moves, so for it the guard does nothing.
pub fn pin_here() -> PinGuard {
    if let Some(header) = current::mobile() {
        header.pins.fetch_add(1, Ordering::SeqCst);
    }
    PinGuard { _here: PhantomData }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        if let Some(header) = current::mobile() {
            header.pins.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
