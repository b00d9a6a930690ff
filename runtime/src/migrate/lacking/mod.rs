//! Post-copy at the target: a task that runs while pages of it are still on their way.
//!
//! ```text
//! head is there   ranges with missing pages are registered         Ack
//! thaw            the task runs; it is tied to this node
//! chunk           missing pages are installed, who waits is woken  ack
//! fault           the page is asked for, ahead of the push         ask
//! last page       ranges end                                       Whole; the task may go
//! ```
//!
//! A registered range may hold pages that are merely untouched: they are zeros, and made at the first
//! touch. Everything here runs on the net thread or on a worker's own stack, and touches no page of
//! the task while it holds a lock.
//!
//! Who waits for a page: the task itself is suspended in the handler of its fault (`fault`); any other
//! thread sleeps where it is, until pages come (`sleepers`).

mod end;
mod state;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrt_iso::missing::{Mark, Missing as Kernel};
use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{
    ChunkId, Fault, Missing, PROFILE_PAGES_MAX, PageAck, PageAsk, PageFrame, PageSet, Run, Section,
    SectionKind, Waiter, Way,
};
use migrt_proto::wire::StreamHead;
use migrt_proto::{EntryId, Epoch, NodeId, TaskId};

use self::state::Stage;
pub(super) use self::state::State;
pub(super) use self::table::find;
pub(crate) use self::table::{fault, forget, link_back, link_lost, task_of};
use super::fault::Verdict;
use super::pages::{pages_of, ranges, span_of};
use super::remains::{addr_of, number_of};
use super::rounds::head_of_frame;
use super::sleepers;
use crate::cluster::Cluster;
use crate::fail;
use crate::task::body::{Doom, MobileBody};
use crate::task::join::Waker;
use crate::task::libc_buffers;
use crate::task::record::TaskRef;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lacking {
    cluster: &'static Cluster,
    pub(crate) task: TaskId,
    epoch: Epoch,
    source: NodeId,
    entry: EntryId,
    slots: Vec<SlotId>,
    /// The task comes over its own remains, or missing pages cannot be served here: it runs when all
    /// its pages are here. To its source that is a target that asks for nothing and takes its time.
    is_eager: AtomicBool,
    state: Mutex<State>,
}

impl Lacking {
    /// A task that arrives without `missing`; of these its source takes `lost` for kept here, so they come
    /// only if they are asked for.
    pub(super) fn new(
        cluster: &'static Cluster,
        (task, epoch, source): (TaskId, Epoch, NodeId),
        (entry, slots): (EntryId, Vec<SlotId>),
        (missing, lost): (PageSet, PageSet),
        is_eager: bool,
    ) -> Arc<Lacking> {
        let state = State {
            missing: Missing::new(missing),
            lost,
            first: Vec::new(),
            ranges: Vec::new(),
            waiters: BTreeMap::new(),
            waiter_count: 0,
            hurry: None,
            requests: None,
            record: None,
            holder: None,
            doom: None,
            stage: Stage::Coming,
            refused_since: None,
            is_settling: false,
        };
        let is_eager = AtomicBool::new(is_eager);
        Arc::new(Lacking {
            cluster,
            task,
            epoch,
            source,
            entry,
            slots,
            is_eager,
            state: Mutex::new(state),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task does not run before it is whole.
    pub(super) fn is_eager(&self) -> bool {
        self.is_eager.load(Ordering::Relaxed)
    }

    /// The head is in place: from now on touching a missing page is a fault. Where that cannot be (all
    /// ranges that there may be are in use) the task waits for all its pages.
    pub(super) fn register(self: &Arc<Lacking>) {
        if let Err(why) = self.try_register() {
            tracing::debug!(task = %self.task, why, "it waits for all its pages");
            self.is_eager.store(true, Ordering::Relaxed);
        }
    }

    fn try_register(self: &Arc<Lacking>) -> Result<(), String> {
        let kernel = Kernel::global().ok_or("missing pages cannot be served here")?;
        let mut state = self.state();
        for &slot in &self.slots {
            let whole = Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64);
            for range in ranges(&state.missing.pages().within(whole)) {
                let (addr, len) = span_of(range);
                if let Err(error) = kernel.register(addr, len, false) {
                    libc_buffers::ranges_added(state.ranges.len());
                    state.unregister_all();
                    return Err(error.to_string());
                }
                state.ranges.push(range);
            }
        }
        libc_buffers::ranges_added(state.ranges.len());
        drop(state);
        self.enter_table();
        Ok(())
    }

    /// The core knows that the head is here.
    pub(super) fn installed(&self) {
        let mut state = self.state();
        if state.stage == Stage::Coming {
            state.stage = Stage::Installed;
        }
        drop(state);
        self.settle();
    }

    /// The task is about to run.
    pub(super) fn thawed(self: &Arc<Lacking>, record: &TaskRef, body: &MobileBody) {
        let mut state = self.state();
        // Also if all is here by now but the core has not heard of it.
        let is_over = state.stage == Stage::Over || (self.is_eager() && state.missing.is_whole());
        if !is_over {
            state.record = Some(record.clone());
            body.set_lacking(Some(self.clone()));
            if let Some(doom) = state.doom.clone() {
                body.set_doom(doom);
            }
        }
    }

    /// A chunk has come.
    ///
    /// # Errors
    /// It names pages that are none, or cannot be installed: the stream is to be broken off.
    pub(super) fn arrived(&self, section: &Section, bytes: &[u8]) -> Result<(), String> {
        let (chunk, way) = match section.kind {
            SectionKind::Push { chunk } => (chunk, Way::Push),
            SectionKind::Demand { chunk } => (chunk, Way::Demand),
            _ => return Err("a section of another kind of move".to_owned()),
        };
        if chunk == ChunkId(u64::MAX) {
            let text = String::from_utf8_lossy(&section.extra).into_owned();
            self.doom(|_| Doom::LeadsOut(text));
            return Ok(());
        }
        const BAD: &str = "a chunk names pages that are none";
        let zero = pages_of(&section.zero).ok_or(BAD)?;
        let kernel = Kernel::global().ok_or(BAD)?;
        let mut state = self.state();
        if state.stage == Stage::Over {
            return Ok(());
        }
        let mut wake = Vec::new();
        let mut rest = bytes;
        let mut done = match fail::refuses("target.arrived") {
            true => Err("MIGRT_FAIL has it so".to_owned()),
            false => Ok(()),
        };
        for item in &section.slots {
            let pages = pages_of(std::slice::from_ref(item)).ok_or(BAD)?;
            for run in pages.runs() {
                let (these, after) = rest.split_at(run.count as usize * PAGE_LEN);
                rest = after;
                if done.is_ok() {
                    done = state.install(run, way, &mut wake, |part| {
                        let from = (part.first.0 - run.first.0) as usize * PAGE_LEN;
                        let these = &these[from..from + part.count as usize * PAGE_LEN];
                        kernel.install(addr_of(part.first), these, Mark::Dirty, &mut |_, _| ())
                    });
                }
            }
        }
        for run in zero.runs() {
            if done.is_err() {
                break;
            }
            done = state.install(run, way, &mut wake, |part| {
                let len = part.count as usize * PAGE_LEN;
                kernel.install_zero(addr_of(part.first), len, &mut |_, _| ())
            });
        }
        // If not all could be installed, whoever waited for what could not asks again.
        let wakers = state.take_wakers(&wake);
        fail::point("target.arrived");
        if done.is_ok() {
            let ack = PageAck { task: self.task, epoch: self.epoch, chunks: vec![chunk] };
            self.request(&mut state, PageFrame::Ack(ack));
        }
        let is_over = state.is_refused_for_good(done.is_ok());
        drop(state);
        sleepers::wake();
        wakers.into_iter().for_each(Waker::wake);
        if let Err(why) = &done
            && is_over
        {
            self.doom(|_| Doom::NotInstalled(why.clone()));
        }
        self.settle();
        done
    }

    /// As [`arrived`](Self::arrived), for an arrival that waits for all its pages before it runs: the
    /// chunk's pages are the caller's to put where they belong.
    pub(super) fn note(&self, section: &Section) -> Result<(), String> {
        let (SectionKind::Push { chunk } | SectionKind::Demand { chunk }) = section.kind else {
            return Err("a section of another kind of move".to_owned());
        };
        if chunk == ChunkId(u64::MAX) {
            return Err(String::from_utf8_lossy(&section.extra).into_owned());
        }
        let mut state = self.state();
        for list in [&section.slots, &section.zero] {
            let pages = pages_of(list).ok_or("a chunk names pages that are none")?;
            let runs: Vec<Run> = pages.runs().collect();
            let _ = state.missing.arrived(&runs, Way::Push);
        }
        let ack = PageAck { task: self.task, epoch: self.epoch, chunks: vec![chunk] };
        self.request(&mut state, PageFrame::Ack(ack));
        Ok(())
    }

    /// Calls for all pages, of an arrival that waits for them.
    pub(super) fn call(&self) {
        let ack = PageAck { task: self.task, epoch: self.epoch, chunks: Vec::new() };
        self.request(&mut self.state(), PageFrame::Ack(ack));
    }

    /// Whether every page is there.
    pub(super) fn is_whole(&self) -> bool {
        self.state().missing.is_whole()
    }

    fn fault(&self, addr: usize, waker: Option<Waker>) -> Verdict {
        let page = number_of(addr);
        let mut state = self.state();
        if state.stage == Stage::Over {
            return Verdict::GoOn;
        }
        let waiter = Waiter(match waker {
            None => 0,
            Some(_) => {
                state.waiter_count += 1;
                state.waiter_count
            }
        });
        match state.missing.fault(page, waiter) {
            Fault::Present => {
                // It has just come, or never was the task's to miss: then it is zeros.
                let kernel = Kernel::global().expect("a range is registered");
                let page_addr = addr_of(page);
                let made = kernel.install_zero(page_addr, PAGE_LEN, &mut |_, _| ());
                let count = made.expect("a page of zeros can be made");
                return if count == 0 { Verdict::GoOn } else { Verdict::Made };
            }
            Fault::SourceLost => return Verdict::Never,
            Fault::Ask(run) => {
                fail::point("target.faulted");
                if state.first.len() < PROFILE_PAGES_MAX {
                    state.first.push(page);
                }
                self.ask(&mut state, vec![run]);
            }
            Fault::AlreadyAsked | Fault::LinkDown => {}
        }
        if let Some(waker) = waker {
            state.waiters.insert(waiter.0, waker);
            if state.hurry.is_none() {
                state.hurry = self.cluster.hurry();
            }
        }
        Verdict::Wait
    }

    pub(super) fn ask(&self, state: &mut State, asks: Vec<Run>) {
        if !asks.is_empty() {
            let ask = PageAsk { task: self.task, epoch: self.epoch, asks };
            self.request(state, PageFrame::Ask(ask));
        }
    }

    /// Sends a frame to the source. Not by way of the core: whoever waits here may be the thread that
    /// carries out its orders.
    fn request(&self, state: &mut State, frame: PageFrame) {
        if let Some(feed) = &state.requests {
            drop(feed.push(vec![head_of_frame(&frame)]));
            return;
        }
        let mut start = Vec::new();
        StreamHead::Pages(frame).encode(&mut start);
        state.requests = self.cluster.open_urgent(self.source, start, |_| ());
    }
}
