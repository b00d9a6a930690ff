//! What a task that runs without some of its pages waits for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use migrt_iso::KernelError;
use migrt_iso::missing::Missing as Kernel;
use migrt_proto::transfer::{Missing, Page, PageSet, Run, Waiter, Way};

use crate::migrate::pages::span_of;
use crate::net::{BulkFeed, Hurry};
use crate::task::body::Doom;
use crate::task::join::Waker;
use crate::task::libc_buffers;
use crate::task::record::TaskRef;

/// A page that cannot be installed is sent again. After so long the task is given up.
const INSTALL_PATIENCE: Duration = Duration::from_secs(5);

/// Of one such task; under the lock of its `Lacking`.
#[derive(Debug)]
pub(in crate::migrate) struct State {
    pub(in crate::migrate) missing: Missing,
    /// Of these, pages that the source takes for kept here.
    pub(in crate::migrate) lost: PageSet,
    /// Pages that were waited for, in the order in which they were touched; some are left out.
    pub(in crate::migrate) first: Vec<Page>,
    /// What is registered.
    pub(in crate::migrate) ranges: Vec<Run>,
    pub(in crate::migrate) waiters: BTreeMap<u64, Waker>,
    pub(in crate::migrate) waiter_count: u64,
    /// As long as anybody waits: the answer is due.
    pub(in crate::migrate) hurry: Option<Hurry>,
    pub(in crate::migrate) requests: Option<BulkFeed>,
    /// The task, once it runs.
    pub(in crate::migrate) record: Option<TaskRef>,
    /// It is a parcel that was lent to this task.
    pub(in crate::migrate) holder: Option<TaskRef>,
    /// It is not to run on.
    pub(in crate::migrate) doom: Option<Doom>,
    pub(in crate::migrate) stage: Stage,
    /// Since when no page could be installed that came.
    pub(in crate::migrate) refused_since: Option<Instant>,
    /// All is here, and the core is being told.
    pub(in crate::migrate) is_settling: bool,
}

/// How far the arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate) enum Stage {
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
    pub(in crate::migrate) fn install(
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

    /// A chunk was installed, or not; whether that has gone on for too long.
    pub(in crate::migrate) fn is_refused_for_good(&mut self, was_installed: bool) -> bool {
        if was_installed {
            self.refused_since = None;
            return false;
        }
        self.refused_since.get_or_insert_with(Instant::now).elapsed() > INSTALL_PATIENCE
    }

    pub(in crate::migrate) fn take_wakers(&mut self, waiters: &[Waiter]) -> Vec<Waker> {
        let woken = waiters.iter().filter_map(|waiter| self.waiters.remove(&waiter.0)).collect();
        if self.waiters.is_empty() {
            self.hurry = None;
        }
        woken
    }

    pub(in crate::migrate) fn unregister_all(&mut self) {
        for range in std::mem::take(&mut self.ranges) {
            let (addr, len) = span_of(range);
            let kernel = Kernel::global().expect("a range is registered");
            let ended = kernel.unregister(addr, len);
            // A page that stays missing would be waited for without end.
            assert!(ended.is_ok(), "a range cannot be unregistered: {ended:?}");
            libc_buffers::ranges_ended(1);
        }
    }
}
