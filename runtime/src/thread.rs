//! Threads of the runtime.
//!
//! None may end by a panic: others wait for what it held, or for what it was to do next. The process
//! ends instead, with a message, and the other nodes report what ran there as lost. (A panic of a
//! task's own code ends at the task's foot and never comes here.)

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crate::census;

/// Starts a thread that runs `run`, with a name of at most 15 bytes, as the kernel shows it.
///
/// # Errors
/// The system has no thread left.
pub(crate) fn start<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let name = name.into();
    let shown = name.clone();
    Builder::new().name(name).spawn(move || {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            // The hook has printed the message.
            eprintln!(
                "migrt: thread {shown} panicked, which is an error of migrt itself; this node \
                 stops, and what ran here is lost"
            );
            std::process::abort()
        })
    })
}

/// As [`start`], for a thread that handles tasks' addresses: it clears the node blocks that it frees, and at its
/// end its stack. libc keeps the stacks of threads that have ended for others, and a census reads them.
///
/// # Errors
/// The system has no thread left.
pub(crate) fn start_clearing(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // In a box: what `run` holds would lie in frames of std too, above those that are cleared.
    let run: Box<dyn FnOnce() + Send> = Box::new(run);
    start(name, move || {
        census::clear_always();
        run();
        census::clear_whole_stack();
    })
}
