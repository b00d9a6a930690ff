//! Runs of a mobile task that are not as usual: it lacks pages, has lost them, or has returned without
//! them.
//!
//! ```text
//! returned, lacking   waits for its pages as a task that is parked; then ends. What lives on of its
//!                     heap must be whole, and only the heap's records, pages too, can tell.
//! doomed              ends where it is, and nothing of it is run: no destructor, no frame is unwound.
//!                     Its slots stay as remains until nothing reaches them.
//! ```

use super::body::MobileBody;
use super::fd_table;
use super::mobile::end;
use super::record::TaskRef;
use super::state::Park;
use crate::cluster::home;
use crate::exec::worker::Worker;

/// Whether the task, which the worker has begun to run, is to be resumed; else all is done.
pub(super) fn may_run(worker: &Worker, task: &TaskRef, body: &MobileBody) -> bool {
    if body.has_returned() {
        if body.doom().is_some() {
            // Its source is lost: what is missing is zeros, which its records take for pages without
            // blocks. Its result is what it was.
            body.close_lacking();
        }
        end(worker, task.clone());
        return false;
    }
    !is_over(task, body)
}

/// Whether the task, suspended just now or about to be resumed, has been ended.
pub(super) fn is_over(task: &TaskRef, body: &MobileBody) -> bool {
    let Some(doom) = body.doom() else { return false };
    body.close_lacking();
    crate::migrate::end_rounds(body);
    if let Some(header) = body.header() {
        fd_table::forget_fds_of(header.tp());
        crate::migrate::remains::keep_ended(header);
    }
    body.clear_header();
    task.state.finish();
    home::doomed(body, doom);
    true
}

/// The task has returned, and pages of it are on their way.
pub(super) fn wait_for_pages(worker: &Worker, task: TaskRef) {
    let body = task.mobile().expect("a mobile task");
    body.set_returned();
    match task.state.park() {
        Park::Asleep => {}
        // Whole by now, or woken for something that it does not wait for any more.
        Park::Push => worker.push_shared(task),
    }
}
