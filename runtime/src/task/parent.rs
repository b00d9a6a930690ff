//! What ties a child to the mobile task that started it: while the child lives, its parent stays
//! put, since it may wait for the child and both use each other's memory.

use std::sync::atomic::{AtomicBool, Ordering};

use super::body::MobileBody;
use super::record::TaskRef;

/// Keeps a mobile task where it is for as long as it lives, or until it is released.
#[derive(Debug)]
pub(crate) struct ParentPin {
    task: TaskRef,
    released: AtomicBool,
}

impl ParentPin {
    pub(crate) fn new(task: TaskRef) -> ParentPin {
        let pin = ParentPin { task, released: AtomicBool::new(false) };
        pin.body().children.fetch_add(1, Ordering::SeqCst);
        pin
    }

    pub(crate) fn task(&self) -> &TaskRef {
        &self.task
    }

    pub(crate) fn body(&self) -> &MobileBody {
        self.task.mobile().expect("a mobile task")
    }

    /// The task may move again. Under its lock (rule 2 of `adopted`) if it has a header.
    pub(crate) fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.body().children.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for ParentPin {
    fn drop(&mut self) {
        self.release();
    }
}
