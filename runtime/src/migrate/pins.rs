//! What keeps a task on its node, in words.

use std::sync::atomic::Ordering;

use crate::task::body::MobileBody;

/// One line for each kind of pin; empty if the task may move.
pub(crate) fn of(body: &MobileBody) -> Vec<String> {
    // A child that ends at this moment is waited for (rule 2 of `task/adopted.rs`).
    let _kin = body.kin();
    let mut pins = Vec::new();
    let mut add = |count: u32, one: &str| {
        if count > 0 {
            pins.push(format!("{count} {one}"));
        }
    };
    add(body.children.load(Ordering::SeqCst), "local task(s) that it started and that still run");
    if let Some(header) = body.header() {
        add(header.pins.load(Ordering::SeqCst), "guard(s) of pin_here");
        let fds = header.arenas().map(|arena| arena.fd_pins.load(Ordering::SeqCst)).sum();
        add(fds, "open file(s) or socket(s)");
        let threads = header.arenas().map(|arena| arena.thread_pins.load(Ordering::SeqCst)).sum();
        add(threads, "OS thread(s) that it started");
    }
    pins
}
