//! What keeps a task on its node, in words.

use std::sync::atomic::Ordering;

use crate::task::body::MobileBody;

/// One line for each kind of pin; empty if the task may move.
pub(crate) fn of(body: &MobileBody) -> Vec<String> {
    let mut pins = Vec::new();
    let mut add = |count: u32, one: &str| {
        if count > 0 {
            pins.push(format!("{count} {one}"));
        }
    };
    add(body.children.load(Ordering::SeqCst), "local task(s) that it started and that still run");
    if let Some(header) = body.header() {
        add(header.pins.load(Ordering::SeqCst), "guard(s) of pin_here");
        add(header.prefix.fd_pins.load(Ordering::SeqCst), "open file(s) or socket(s)");
        add(header.prefix.thread_pins.load(Ordering::SeqCst), "OS thread(s) that it started");
    }
    pins
}
