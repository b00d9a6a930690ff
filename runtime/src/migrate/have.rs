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

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrt_iso::PAGE_LEN;
use migrt_proto::transfer::{
    Delta, KeptPages, Page, PageFrame, PageHash, PageHave, PageSet, PageWant,
};
use migrt_proto::wire::StreamHead;
use migrt_proto::{Epoch, NodeId, TaskId};

use super::audit::Suspects;
use super::follow::{Frames, Swallow};
use super::known::Known;
use super::pages::present;
use super::remains::addr_of;
use super::rounds::{Checkpoint, head_of_frame};
use super::{gate, hash, mobile, remains, slots_of};
use crate::cluster::{Cluster, cluster};
use crate::fail;
use crate::net::{BulkFeed, BulkSink};
use crate::task::header::Header;
use crate::task::record::TaskRef;

/// A target that says it keeps more is not believed: 64 GiB.
const PAGES_MAX: usize = 1 << 24;

/// Same pages that lie more scattered than this are sent after all: the manifest has to list them.
const RUNS_MAX: usize = 16_384;
/// After so many moves that were not worth asking only each eighth is.
const FUTILE_MAX: u32 = 2;
const SELDOM: u32 = 8;

/// Offers that are awaited.
static OPEN: Mutex<Vec<Arc<Offer>>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<Arc<Offer>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source's side of one try.
#[derive(Debug)]
pub(crate) struct Offer {
    task: TaskId,
    pub(super) target: NodeId,
    pub(super) epoch: Epoch,
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
    let is_seldom = journey.futile >= FUTILE_MAX
        && body.header().is_some_and(|h| !h.moves.load(Ordering::Relaxed).is_multiple_of(SELDOM));
    if is_seldom
        || !journey.visited.contains(&target)
        || length < config.keep_from as u64
        || config.keep == 0
    {
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
        if !state.delta.keeps_any() {
            return;
        }
        let pages = present(pages);
        let known = known.map(Known::read);
        let mut known = known.as_ref().map(|known| known.cursor());
        state.delta.compare(&pages, |page| {
            let known = known.as_mut().and_then(|known| known.get(page));
            known.or_else(|| Some(hash::of(page)))
        });
        if state.delta.same().runs().count() > RUNS_MAX {
            let all = state.delta.same().clone();
            state.delta.void(&all);
        }
    }

    /// The task was frozen and is in the caller's hands: which of its pages the target has.
    pub(super) fn freeze(&self, header: &Header, known: Option<&Known>) {
        if !self.state().delta.keeps_any() {
            return;
        }
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

    /// What the target has said of a page.
    pub(super) fn kept(&self, page: Page) -> Option<PageHash> {
        self.state().delta.kept(page)
    }

    /// The pages that the target has.
    pub(super) fn same(&self) -> PageSet {
        self.state().delta.same().clone()
    }

    /// What the target has told, and which of it holds.
    pub(super) fn told(&self) -> (Arc<KeptPages>, PageSet) {
        let delta = &self.state().delta;
        (delta.told(), delta.same().clone())
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

/// Target: somebody is about to send the task here.
pub(crate) fn wanted(from: NodeId, want: PageWant) -> Box<dyn BulkSink> {
    let PageWant { task, epoch } = want;
    let answer = move |kept: Option<Arc<KeptPages>>| {
        if fail::forgets("target.told") {
            remains::forget(task);
        }
        tell(from, PageHave::frames(task, epoch, &kept.unwrap_or_default()));
    };
    match remains::have_at_once(task) {
        Some(kept) => answer(Some(kept)),
        None => {
            let spawned = crate::thread::start_clearing("migrt-keeper", move || {
                answer(remains::have(task));
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
    if let Some(feed) = send(cluster(), to, frames) {
        feed.finish();
    }
}

/// Sends frames on a stream of their own.
pub(super) fn send(cluster: &Cluster, to: NodeId, frames: Vec<PageFrame>) -> Option<BulkFeed> {
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
