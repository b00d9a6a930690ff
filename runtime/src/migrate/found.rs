//! Pages that the target has told of and does not have any more, when the task is there without them:
//! rule 3 of `migrt_proto::transfer::delta`.
//!
//! ```text
//! target   all that was sent is in place     Ask ──►  source: the task is frozen
//!          installs them, and is ready     ◄── Found
//! ```
//!
//! With post-copy they are among the pages that follow (`lacking`, `serve`), and nothing of this is needed.

use std::sync::Arc;

use migrt_iso::PAGE_LEN;
use migrt_proto::transfer::{
    ASK_RUN_PAGES_MAX, PageAsk, PageFrame, PageSet, Run, Section, SectionKind,
};
use migrt_proto::wire::{ShipSlot, StreamHead};
use migrt_proto::{Epoch, NodeId, SlotRef, TaskId};

use super::arrive::{Arrival, State};
use super::follow::{Chunks, Swallow};
use super::have::{Offer, send};
use super::installer::Installer;
use super::lacking::Lacking;
use super::lacking::State as Awaited;
use super::pages::pages_of;
use super::remains::{Base, addr_of};
use super::rounds::{by_slot, head_of};
use super::{hash, mobile, slots_of};
use crate::cluster::{Cluster, cluster};
use crate::net::{BulkFeed, BulkSink};
use crate::task::record::TaskRef;
use crate::task::state::Phase;

/// Requests of one frame.
const ASKS: usize = 4096;
/// Pages of one section of found ones.
const SECTION_PAGES: u64 = 1024;

impl Arrival {
    /// The stream of its pages has ended well. What it did not bring because it was to be here, and is
    /// not, is asked for.
    pub(super) fn streamed(&self, cluster: &'static Cluster, epoch: Epoch) {
        let mut state = self.state.lock().unwrap();
        let State::Here(copy) = &mut *state else { return };
        copy.is_streamed = true;
        let lost = copy.lost.clone();
        drop(state);
        if lost.is_empty() {
            return self.complete(cluster, epoch);
        }
        tracing::debug!(task = %self.task, pages = lost.len(), "kept pages are gone");
        ask_for(cluster, self.from, (self.task, epoch), &lost);
    }

    /// Pages that were lost have come after all.
    pub(super) fn found(
        &self,
        cluster: &'static Cluster,
        section: &Section,
        pages: &[u8],
    ) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        let State::Here(copy) = &mut *state else { return Ok(()) };
        let named = pages_of(&section.slots).ok_or("found pages that are none")?;
        if !named.difference(&copy.lost).is_empty() {
            return Err("pages that nobody has asked for".to_owned());
        }
        let task_slot = copy.slots.first().map(|slot| SlotRef(slot.raw()));
        Installer::new(task_slot, &section.slots)?.write(pages, copy.merge.as_mut());
        copy.lost.remove_all(&named);
        let is_complete = copy.is_streamed && copy.lost.is_empty();
        drop(state);
        if is_complete {
            self.complete(cluster, section.epoch);
        }
        Ok(())
    }

    /// Everything is here.
    fn complete(&self, cluster: &'static Cluster, epoch: Epoch) {
        crate::fail::point("target.installed");
        let task = self.task;
        match self.fit() {
            Ok(()) => cluster.tell(|core, now| core.installed(now, task, epoch, false)),
            Err(why) => self.fail(cluster, epoch, why),
        }
    }
}

impl Lacking {
    /// Asks for pages that were to be here.
    pub(super) fn call_lost(&self) {
        self.ask_lost(&mut self.state());
    }

    pub(super) fn ask_lost(&self, state: &mut Awaited) {
        let mut left = state.lost.intersection(state.missing.pages());
        while !left.is_empty() {
            let asks: Vec<Run> = left.take_first(ASK_RUN_PAGES_MAX).runs().collect();
            self.ask(state, asks);
        }
    }

    /// The pages that are not there.
    pub(super) fn missing_pages(&self) -> PageSet {
        self.state().missing.pages().clone()
    }
}

/// Target: asks for pages that it was to have.
fn ask_for(
    cluster: &'static Cluster,
    source: NodeId,
    (task, epoch): (TaskId, Epoch),
    pages: &PageSet,
) {
    let mut left = pages.clone();
    let mut asks = Vec::new();
    while !left.is_empty() {
        asks.extend(left.take_first(ASK_RUN_PAGES_MAX).runs());
    }
    let frame = |asks: &[Run]| PageFrame::Ask(PageAsk { task, epoch, asks: asks.to_vec() });
    if let Some(feed) = send(cluster, source, asks.chunks(ASKS).map(frame).collect()) {
        feed.finish();
    }
}

/// Source: the target asks for pages of a frozen task that it was to have.
pub(super) fn find(from: NodeId, ask: PageAsk) {
    let Some(task) = cluster().resident(ask.task) else { return };
    let offer = task.mobile().and_then(|body| body.any_journey()?.offer.clone());
    let Some(offer) = offer.filter(|o| (o.target, o.epoch) == (from, ask.epoch)) else { return };
    let finding = move || {
        let found = send_found(&task, &offer, &ask);
        if let Err(why) = found {
            cluster().tell(|core, now| core.ship_failed(now, ask.task, ask.epoch, &why));
        }
    };
    // If there is no thread to be had the target is given up in time.
    drop(crate::thread::start_clearing("migrt-finder", finding));
}

fn send_found(task: &TaskRef, offer: &Offer, ask: &PageAsk) -> Result<(), String> {
    let body = mobile(task);
    // Held while pages are copied: the task is not let go meanwhile.
    let _shipped = body.shipped();
    let Some(header) = body.header().filter(|_| task.state.phase() == Phase::Frozen) else {
        return Ok(());
    };
    let slots = slots_of(header);
    let mut left: PageSet = ask.asks.iter().copied().collect();
    left = left.intersection(&offer.same());
    let mut feed: Option<BulkFeed> = None;
    while !left.is_empty() {
        let pages = left.take_first(SECTION_PAGES);
        let mut list: Vec<ShipSlot> = by_slot(&slots, &pages);
        list.retain(|item| !item.runs.is_empty());
        let (base, parts) = Base::copy(&list).ok_or("no slot is left to copy pages to")?;
        for page in pages.pages() {
            let copy = base.page(addr_of(page)).ok_or("a page was not copied")?;
            if offer.kept(page) != Some(hash::at(copy)) {
                return Err("this node has changed a page of it, through a static".to_owned());
            }
        }
        cluster().metrics.shipped(pages.len() as usize, pages.len() as usize * PAGE_LEN);
        let section = Section {
            task: body.id,
            epoch: offer.epoch,
            kind: SectionKind::Found,
            slots: list,
            zero: Vec::new(),
            page_len: PAGE_LEN as u32,
            extra: Vec::new(),
        };
        match &feed {
            Some(feed) => {
                let mut parts = parts;
                parts.insert(0, head_of(section));
                drop(feed.push(parts));
            }
            None => {
                let mut start = Vec::new();
                StreamHead::Pages(PageFrame::Section(section)).encode(&mut start);
                let opened = cluster().open_bulk(offer.target, start, |_| ());
                let opened = opened.ok_or("this node is alone")?;
                drop(opened.push(parts));
                feed = Some(opened);
            }
        }
    }
    feed.into_iter().for_each(BulkFeed::finish);
    Ok(())
}

/// Target: pages that it asked for.
struct Found {
    arrival: Arc<Arrival>,
    chunks: Chunks,
}

/// Opens it. Pages that nobody waits for any more are swallowed.
pub(crate) fn found(from: NodeId, section: Section) -> Result<Box<dyn BulkSink>, String> {
    let arrival = cluster().arrival(section.task, section.epoch);
    match arrival.filter(|arrival| arrival.from == from) {
        Some(arrival) => Ok(Box::new(Found { arrival, chunks: Chunks::begin(section)? })),
        None => Ok(Box::new(Swallow)),
    }
}

impl BulkSink for Found {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        let arrival = &self.arrival;
        self.chunks.take(bytes, &mut |section, pages| arrival.found(cluster(), section, pages))
    }
    fn end(self: Box<Self>, _: bool) {}
}
