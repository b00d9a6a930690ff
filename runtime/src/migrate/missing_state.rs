//! What a task that runs without some of its pages waits for.

use std::collections::BTreeMap;

use migrt_iso::KernelError;
use migrt_iso::missing::Missing as Kernel;
use migrt_proto::transfer::{Missing, Page, PageSet, Run, Waiter, Way};

use crate::net::BulkFeed;
use crate::task::body::Doom;
use crate::task::join::Waker;
use crate::task::libc_buffers;
use crate::task::record::TaskRef;

/// Of one such task; under the lock of its `Lacking`.
#[derive(Debug)]
pub(super) struct State {
    pub(super) missing: Missing,
    /// Of these, pages that the source takes for kept here.
    pub(super) lost: PageSet,
    /// Pages that were waited for, in the order in which they were touched; some are left out.
    pub(super) first: Vec<Page>,
    /// What is registered: address and length.
    pub(super) ranges: Vec<(usize, usize)>,
    pub(super) waiters: BTreeMap<u64, Waker>,
    pub(super) waiter_count: u64,
    pub(super) requests: Option<BulkFeed>,
    /// The task, once it runs.
    pub(super) record: Option<TaskRef>,
    /// It is not to run on.
    pub(super) doom: Option<Doom>,
    pub(super) stage: Stage,
    /// All is here, and the core is being told.
    pub(super) is_settling: bool,
}

/// How far the arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The core has not heard of the head.
    Coming,
    /// It has.
    Installed,
    /// Nothing is awaited any more: whole, given up, or lost.
    Over,
}

impl State {
    /// Pages of `run` came: those that are missing are installed, and whoever waits for them is to be woken. What
    /// cannot be installed stays missing, whatever the kernel did with it.
    pub(super) fn install(
        &mut self,
        run: Run,
        way: Way,
        wake: &mut Vec<Waiter>,
        mut install: impl FnMut(Run) -> Result<usize, KernelError>,
    ) -> Result<(), String> {
        let arrived = self.missing.arrived(&[run], way);
        wake.extend(arrived.wake);
        let mut parts = arrived.install.runs();
        while let Some(part) = parts.next() {
            if let Err(error) = install(part) {
                let left: PageSet = std::iter::once(part).chain(parts).collect();
                self.missing.refused(&left, way);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    pub(super) fn take_wakers(&mut self, waiters: &[Waiter]) -> Vec<Waker> {
        waiters.iter().filter_map(|waiter| self.waiters.remove(&waiter.0)).collect()
    }

    pub(super) fn unregister_all(&mut self) {
        for (addr, len) in std::mem::take(&mut self.ranges) {
            let kernel = Kernel::global().expect("a range is registered");
            let ended = kernel.unregister(addr, len);
            // A page that stays missing would be waited for without end.
            assert!(ended.is_ok(), "a range cannot be unregistered: {ended:?}");
            libc_buffers::ranges_ended(1);
        }
    }
}
