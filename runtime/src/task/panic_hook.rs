//! Panic hooks run on the node's heap: what they allocate stays with the process.

use super::current;

/// Wraps the hook that is set now. A backtrace keeps half a megabyte of symbols for the process
/// (facts S2), so a task that panics lets the hook allocate node memory.
pub(crate) fn install() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match current::mobile() {
        Some(header) => header.prefix.on_node_heap(|| hook(info)),
        None => hook(info),
    }));
}
