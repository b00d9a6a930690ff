//! What ties a local task to the mobile task that started it: while the child lives, its parent stays
//! put, since the child allocates on this node and its handle belongs to it.

use std::sync::atomic::Ordering;

use super::record::TaskRef;

/// Keeps a mobile task where it is for as long as it lives: a local task that it started.
#[derive(Debug)]
pub(crate) struct ParentPin(TaskRef);

impl ParentPin {
    pub(crate) fn new(task: TaskRef) -> ParentPin {
        let body = task.mobile().expect("a mobile task");
        body.children.fetch_add(1, Ordering::SeqCst);
        ParentPin(task)
    }
}

impl Drop for ParentPin {
    fn drop(&mut self) {
        self.0.mobile().expect("a mobile task").children.fetch_sub(1, Ordering::SeqCst);
    }
}
