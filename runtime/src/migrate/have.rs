//! What has the target kept of a task? Asked when a move to a node is ordered at which the task has been.
//!
//! ```text
//! source   order                    Want ──►  target
//!          the task runs on         ◄── Have  each kept page with its hash
//!          freeze: pages with these hashes are *same*, and not sent; the manifest lists them
//!          frozen                   ◄── Ask   same pages that are not kept any more
//!                                   Found ──►
//! ```
//!
//! What counts as the same, and what the answer is worth, `migrt_proto::transfer::Delta` says. A task
//! that is frozen before the answer has come goes on and is asked again. No answer, because the link is
//! lost, is one without pages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrt_iso::{PAGE_LEN, page};
use migrt_proto::transfer::{
    ASK_RUN_PAGES_MAX, Delta, KeptPages, Page, PageAsk, PageFrame, PageHash, PageHave, PageSet,
    PageWant, Run, Section, SectionKind,
};
use migrt_proto::wire::{ShipSlot, StreamHead};
use migrt_proto::{Epoch, NodeId, TaskId};

use super::arrive::Arrival;
use super::audit::Suspects;
use super::follow::{Chunks, Frames, Swallow};
use super::known::Known;
use super::remains::{Base, addr_of, shelf};
use super::rounds::{Checkpoint, by_slot, head_of, head_of_frame};
use super::{gate, hash, mobile, remains, slots_of};
use crate::census;
use crate::cluster::{Cluster, cluster};
use crate::fail;
use crate::net::{BulkFeed, BulkSink};
use crate::task::header::Header;
use crate::task::record::TaskRef;
use crate::task::state::Phase;

/// Requests of one frame.
const ASKS: usize = 4096;
/// Pages of one section of found ones.
const SECTION_PAGES: u64 = 1024;
/// A target that says it keeps more is not believed: 64 GiB.
const PAGES_MAX: usize = 1 << 24;

/// Offers that are awaited.
static OPEN: Mutex<Vec<Arc<Offer>>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<Arc<Offer>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source's side of one try.
#[derive(Debug)]
pub(crate) struct Offer {
    task: TaskId,
    target: NodeId,
    epoch: Epoch,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    coming: Vec<(Page, PageHash)>,
    is_settled: bool,
    delta: Delta,
    /// Live pages of the frozen task's heaps.
    live: PageSet,
    /// Was frozen before the answer had come.
    waiting: Option<TaskRef>,
}

/// Asks the target of a move that has just been ordered, if there may be something and it is worth it.
pub(super) fn ask(cluster: &'static Cluster, task: &TaskRef, target: NodeId, epoch: Epoch) {
    let body = mobile(task);
    let Some(mut journey) = body.any_journey() else { return };
    journey.offer = None;
    let length = journey.arrival.as_ref().map_or(0, |arrival| arrival.live_pages) * PAGE_LEN as u64;
    let config = &crate::node::node().config;
    if !journey.visited.contains(&target) || length < config.keep_from as u64 || config.keep == 0 {
        return;
    }
    let state = Mutex::default();
    let offer = Arc::new(Offer { task: body.id, target, epoch, state });
    journey.offer = Some(offer.clone());
    drop(journey);
    open().push(offer.clone());
    let mut start = Vec::new();
    StreamHead::Pages(PageFrame::Want(PageWant { task: body.id, epoch })).encode(&mut start);
    let asking = offer.clone();
    let done = move |result: Result<(), String>| {
        if result.is_err() {
            // Not at once: the caller may hold what this needs.
            cluster.soon(move || asking.settle());
        }
    };
    match cluster.open_urgent(target, start, done) {
        Some(feed) => feed.finish(),
        None => offer.settle(),
    }
}

/// Whether the frozen task is to go on until the answer has come; then it is asked to leave again.
pub(super) fn is_awaited(task: &TaskRef) -> bool {
    let Some(offer) = mobile(task).any_journey().and_then(|journey| journey.offer.clone()) else {
        return false;
    };
    let mut state = offer.state();
    if !state.is_settled {
        state.waiting = Some(task.clone());
    }
    !state.is_settled
}

/// The link to `node` is lost.
pub(crate) fn link_lost(node: NodeId) {
    let lost: Vec<Arc<Offer>> =
        open().iter().filter(|offer| offer.target == node).cloned().collect();
    lost.into_iter().for_each(|offer| offer.settle());
}

impl Offer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is awaited.
    fn settle(&self) {
        let mut state = self.state();
        if state.is_settled {
            return;
        }
        state.is_settled = true;
        let coming = std::mem::take(&mut state.coming);
        state.delta = Delta::new(KeptPages::new(coming));
        let waiting = state.waiting.take();
        drop(state);
        open().retain(|other| !std::ptr::eq(&raw const **other, self));
        if let Some(task) = waiting {
            gate::ask(self.target, task);
        }
    }

    /// The try is over.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_settled = true;
        let waiting = state.waiting.take();
        drop(state);
        open().retain(|other| !std::ptr::eq(&raw const **other, self));
        drop(waiting);
    }

    /// Compares pages of a task that is frozen, or whose writes from before this call on are tracked.
    pub(super) fn compare(&self, pages: &PageSet, known: Option<&Known>) {
        let mut state = self.state();
        let pages = present(pages);
        let known = known.map(Known::read);
        let mut known = known.as_ref().map(|known| known.cursor());
        state.delta.compare(&pages, |page| {
            let known = known.as_mut().and_then(|known| known.get(page));
            known.or_else(|| Some(hash::of(page)))
        });
    }

    /// The task was frozen and is in the caller's hands: which of its pages the target has.
    pub(super) fn freeze(&self, header: &Header, known: Option<&Known>) {
        let live = Checkpoint::of(header).live;
        if let Some(known) = known {
            known.settle();
        }
        self.compare(&live, known);
        self.state().live = live;
    }

    /// Whether words of the frozen task's heap may lead out of it. Pages that the target has were looked
    /// through when they left there, and nothing was written to them since.
    pub(super) fn has_suspects(&self, header: &Header) -> bool {
        let state = self.state();
        if state.delta.same().is_empty() {
            return true;
        }
        let slots = slots_of(header);
        let mut suspects = Suspects::default();
        for run in present(&state.live.difference(state.delta.same())).runs() {
            let addr = addr_of(run.first);
            suspects.look(&slots, addr, addr, run.count as usize * PAGE_LEN);
        }
        suspects.any_alive(header)
    }

    /// The pages that the target has.
    pub(super) fn same(&self) -> PageSet {
        self.state().delta.same().clone()
    }

    /// The same, with their hashes.
    pub(super) fn same_hashes(&self) -> Vec<(Page, PageHash)> {
        self.state().delta.same_hashes().collect()
    }

    /// Of these pages nothing is known any more, and `sent` are sent.
    pub(super) fn sends(&self, pages: &PageSet, sent: &PageSet) {
        let mut state = self.state();
        state.delta.void(pages);
        state.delta.sends(sent);
    }

    /// The rounds are over: of what is the same only live pages are, and those that were not discarded
    /// (rule 3 of `migrt_iso::track`).
    pub(super) fn end(&self, live: &PageSet) {
        let mut state = self.state();
        let still = present(&state.delta.same().intersection(live));
        let gone = state.delta.same().difference(&still);
        state.delta.void(&gone);
    }
}

/// Those that hold memory.
fn present(pages: &PageSet) -> PageSet {
    let mut present = PageSet::new();
    for run in pages.runs() {
        page::present_runs(addr_of(run.first), run.count as usize * PAGE_LEN, &mut |found| {
            present.insert(Run::new(remains::number_of(found.addr), found.count as u64));
        });
    }
    present
}

/// Target: somebody is about to send the task here.
pub(crate) fn wanted(from: NodeId, want: PageWant) -> Box<dyn BulkSink> {
    let PageWant { task, epoch } = want;
    let answer = move |kept: Option<Arc<KeptPages>>| {
        tell(from, PageHave::frames(task, epoch, &kept.unwrap_or_default()));
        if fail::forgets("target.told") {
            remains::forget(task);
        }
    };
    match remains::have_at_once(task) {
        Some(kept) => answer(kept),
        None => {
            let spawned = crate::thread::start("migrt-keeper", move || {
                census::clearing(|| answer(remains::have(task)));
                census::clear_stack();
            });
            if spawned.is_err() {
                answer(None);
            }
        }
    }
    Box::new(Swallow)
}

fn tell(to: NodeId, frames: Vec<PageHave>) {
    let frames = frames.into_iter().map(PageFrame::Have).collect();
    drop(send(cluster(), to, frames).map(BulkFeed::finish));
}

/// Sends frames on a stream of their own.
fn send(cluster: &Cluster, to: NodeId, frames: Vec<PageFrame>) -> Option<BulkFeed> {
    let mut frames = frames.into_iter();
    let mut start = Vec::new();
    StreamHead::Pages(frames.next()?).encode(&mut start);
    let feed = cluster.open_urgent(to, start, |_| ())?;
    for frame in frames {
        drop(feed.push(vec![head_of_frame(&frame)]));
    }
    Some(feed)
}

/// Source: the answer comes.
struct Answer {
    offer: Arc<Offer>,
    frames: Frames,
}

/// Opens it; `first` has opened the stream.
pub(crate) fn answer(from: NodeId, first: PageHave) -> Result<Box<dyn BulkSink>, String> {
    let is_it = |offer: &&Arc<Offer>| {
        (offer.task, offer.epoch, offer.target) == (first.task, first.epoch, from)
    };
    let offer = open().iter().find(is_it).cloned();
    let Some(offer) = offer else { return Ok(Box::new(Swallow)) };
    let answer = Answer { offer, frames: Frames::default() };
    answer.take(&first)?;
    Ok(Box::new(answer))
}

impl Answer {
    fn take(&self, have: &PageHave) -> Result<(), String> {
        let mut state = self.offer.state();
        state.coming.extend(have.pages());
        if state.coming.len() > PAGES_MAX {
            return Err("more kept pages than a task can have".to_owned());
        }
        drop(state);
        if have.is_last {
            self.offer.settle();
        }
        Ok(())
    }
}

impl BulkSink for Answer {
    fn chunk(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(frame) = self.frames.take(&mut bytes)? {
            let PageFrame::Have(have) = frame else {
                return Err("something else in an answer".to_owned());
            };
            self.take(&have)?;
        }
        Ok(())
    }

    fn end(self: Box<Self>, _: bool) {
        self.offer.settle();
    }
}

/// Target: asks for pages that it was to have.
pub(super) fn ask_for(
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
    drop(send(cluster, source, asks.chunks(ASKS).map(frame).collect()).map(BulkFeed::finish));
}

/// Source: the target asks for pages of a frozen task that it was to have.
pub(super) fn find(from: NodeId, ask: PageAsk) {
    let Some(task) = cluster().resident(ask.task) else { return };
    let offer = task.mobile().and_then(|body| body.any_journey()?.offer.clone());
    let Some(offer) = offer.filter(|o| (o.target, o.epoch) == (from, ask.epoch)) else { return };
    let finding = move || {
        let found = census::clearing(|| send_found(&task, &offer, &ask));
        if let Err(why) = found {
            cluster().tell(|core, now| core.ship_failed(now, ask.task, ask.epoch, &why));
        }
        census::clear_stack();
    };
    // If there is no thread to be had the target is given up in time.
    drop(crate::thread::start("migrt-finder", finding));
}

fn send_found(task: &TaskRef, offer: &Offer, ask: &PageAsk) -> Result<(), String> {
    let body = mobile(task);
    // Held while pages are copied: the task is not let go meanwhile.
    let _shipped = body.shipped();
    let Some(header) = body.header().filter(|_| task.state.phase() == Phase::Frozen) else {
        return Ok(());
    };
    let slots = slots_of(header);
    let state = offer.state();
    let mut left: PageSet = ask.asks.iter().copied().collect();
    left = left.intersection(state.delta.same());
    let mut feed: Option<BulkFeed> = None;
    while !left.is_empty() {
        let pages = left.take_first(SECTION_PAGES);
        let mut list: Vec<ShipSlot> = by_slot(&slots, &pages);
        list.retain(|item| !item.runs.is_empty());
        let (base, parts) = Base::copy(&list).ok_or("no slot is left to copy pages to")?;
        for page in pages.pages() {
            let copy = base.page(addr_of(page)).ok_or("a page was not copied")?;
            if state.delta.kept(page) != Some(hash::at(copy)) {
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
    match arrival.filter(|arrival| arrival.source() == from) {
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
