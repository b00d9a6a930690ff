//! Post-copy at the source: the pages that stayed behind follow the task.
//!
//! ```text
//! push stream     [ head ] [ chunk ] [ chunk ] …          few chunks without an answer
//! demand stream               [ page ] …                  ahead of all chunks
//! from the target    acks, asks                           a stream of the target's
//! ```
//!
//! What goes when, `migrt_proto::transfer::Push` decides. Pushing begins with the commit, so that nothing
//! is in the way of that; or before, if the target calls for all pages first. Each page is copied as it is sent, and the
//! copy is the base of the task's remains (`remains`). Chunks are pushed by a thread of the task's own
//! if there are many; demands are answered by the net thread itself.
//!
//! Pages are looked through before they are sent (design 4). If a word may lead out of the task the
//! whole frozen copy is scanned, as it is at the freeze of other moves; a hit is told to the target,
//! which ends the task, and nothing more is sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::transfer::SectionKind;
use migrt_proto::transfer::{Chunk, ChunkId, PageFrame, PageSet, Push, PushLimits, Run, Section};
use migrt_proto::wire::{ShipSlot, StreamHead};
use migrt_proto::{Epoch, NodeId, TaskId};

use super::audit::{self, Suspects};
use super::gate;
use super::pages::runs_of;
use super::remains::{Base, Parts, addr_of};
use super::rounds::{by_slot, head_of};
use crate::cluster::Cluster;
use crate::config::Audit;
use crate::fail;
use crate::net::{BULK_HEADER_LEN_MAX, BulkFeed};
use crate::task::header::Header;
use crate::task::record::TaskRef;

/// Chunks without an answer on one link, whatever the number of tasks that left by it: a page that is
/// asked for waits for what is on the wire already.
const CREDIT: u32 = 4;
pub(super) const LIMITS: PushLimits =
    PushLimits { chunk_pages: 16, credit: CREDIT, readahead_pages: 32 };
/// From so many pages on a thread pushes them.
const MANY: u64 = 512;

static TABLE: Mutex<BTreeMap<(TaskId, Epoch), Arc<Serving>>> = Mutex::new(BTreeMap::new());
/// How many of them have something to push.
static SERVED: AtomicU32 = AtomicU32::new(0);

fn table() -> MutexGuard<'static, BTreeMap<(TaskId, Epoch), Arc<Serving>>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pages of one task that has left, or is leaving.
#[derive(Debug)]
pub(crate) struct Serving {
    cluster: &'static Cluster,
    task: TaskId,
    epoch: Epoch,
    to: NodeId,
    slots: Vec<SlotId>,
    state: Mutex<State>,
    news: Condvar,
    /// Requests that wait for the lock: the push lets them have it.
    wanted: AtomicU32,
}

#[derive(Debug)]
struct State {
    push: Push,
    base: Base,
    /// Pages that follow and whose copies in the base are of an earlier round still.
    old: PageSet,
    /// Holds the frozen copy; gone when the copy is let go.
    record: Option<TaskRef>,
    pusher: Option<BulkFeed>,
    answers: Option<BulkFeed>,
    /// Counts the breaks of the link.
    generation: u64,
    audit: Checked,
    /// A thread is to push, and does.
    is_threaded: bool,
    has_thread: bool,
    /// The task runs at the target, or waits there for all its pages: nothing holds the push up.
    has_begun: bool,
}

/// A task that leaves.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) record: TaskRef,
    pub(super) epoch: Epoch,
    pub(super) to: NodeId,
    /// The task slot first.
    pub(super) slots: Vec<SlotId>,
}

/// What follows it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) push: Push,
    /// Of its pages, the ones whose copies in the base are of an earlier round.
    pub(super) old: PageSet,
    pub(super) base: Base,
    pub(super) audit: Checked,
}

/// What is known of words that lead out of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Each page is looked through.
    Pages,
    /// The whole task was: no page needs a look.
    All,
    /// One does: nothing more is sent.
    LeadsOut,
}

/// Copies pages in the order in which they are listed and sent. `None`: there is no slot for a copy.
fn copy(base: &mut Base, list: &[ShipSlot], parts: &mut Parts) -> Option<()> {
    for run in list.iter().flat_map(runs_of) {
        base.add_once(run, run.count as usize * PAGE_LEN, parts)?;
    }
    Some(())
}

/// Whose pages are served under this name to `to`.
pub(crate) fn find(task: TaskId, epoch: Epoch, to: NodeId) -> Option<Arc<Serving>> {
    table().get(&(task, epoch)).filter(|serving| serving.to == to).cloned()
}

/// A stream broke; the rounds' are of generation 0. Not now: the caller may hold what this needs.
pub(super) fn stream_broke(
    cluster: &'static Cluster,
    (task, epoch, to): (TaskId, Epoch, NodeId),
    generation: u64,
    why: String,
) {
    cluster.soon(move || {
        // Counts only before the commit.
        cluster.tell(|core, now| core.ship_failed(now, task, epoch, &why));
        if let Some(serving) = find(task, epoch, to) {
            serving.broken(generation);
        }
    });
}

/// The link to `node` is lost.
pub(crate) fn link_lost(node: NodeId) {
    for serving in to_node(node) {
        serving.state().break_off();
    }
}

/// The link to `node` is back.
pub(crate) fn link_back(node: NodeId) {
    for serving in to_node(node) {
        serving.state().push.link_back();
        serving.pump_here();
    }
}

fn to_node(node: NodeId) -> Vec<Arc<Serving>> {
    table().values().filter(|serving| serving.to == node).cloned().collect()
}

impl Serving {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target has these chunks.
    pub(crate) fn acked(self: &Arc<Serving>, chunks: &[ChunkId]) {
        let mut state = self.state();
        // An answer without chunks calls for the first.
        state.has_begun = true;
        chunks.iter().for_each(|&chunk| state.push.acked(chunk));
        drop(state);
        self.pump_here();
    }

    /// The task runs at the target.
    pub(crate) fn begin(self: &Arc<Serving>) {
        gate::left(self.task);
        let record = self.state().record.clone();
        let body = record.as_ref().and_then(|record| record.mobile());
        if let Some(copying) = body.and_then(|body| body.journey().copying.clone()) {
            copying.calm();
        }
        self.acked(&[]);
    }

    /// The target asks for pages.
    pub(crate) fn demanded(self: &Arc<Serving>, runs: &[Run]) {
        fail::point("source.demanded");
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state();
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        for &run in runs {
            if let Some(chunk) = state.push.demanded(run).chunk {
                self.send(&mut state, chunk, true);
            }
        }
        drop(state);
        self.pump_here();
    }

    /// Nothing more is sent; the base of what was.
    pub(crate) fn close(&self) -> Base {
        if table().remove(&(self.task, self.epoch)).is_some() {
            SERVED.fetch_sub(1, Ordering::Relaxed);
        }
        let mut state = self.state();
        let record = state.record.take();
        let feeds = (state.pusher.take(), state.answers.take());
        let counts = state.push.counts();
        let base = std::mem::take(&mut state.base);
        drop(state);
        self.news.notify_all();
        tracing::debug!(task = %self.task, ?counts, "served");
        drop(feeds);
        drop(record);
        base
    }

    /// Pushes what may be pushed now, or has the thread do it.
    fn pump_here(self: &Arc<Serving>) {
        let mut state = self.state();
        if state.is_threaded && state.has_begun && !state.has_thread {
            let pusher = self.clone();
            let spawned = crate::thread::start_clearing("migrt-pusher", move || pusher.run());
            (state.has_thread, state.is_threaded) = (true, spawned.is_ok());
        }
        if state.is_threaded {
            drop(state);
            return self.news.notify_all();
        }
        while let Some(chunk) = state.next_chunk() {
            self.send(&mut state, chunk, false);
        }
        state.finish_if_done();
    }

    /// The pushing thread.
    fn run(&self) {
        let mut state = self.state();
        while state.record.is_some() && !state.push.is_done() {
            match state.next_chunk() {
                Some(chunk) => {
                    self.send(&mut state, chunk, false);
                    drop(state);
                    // A demand goes first: who has just had a lock gets it again before one who is woken for it.
                    while self.wanted.load(Ordering::SeqCst) > 0 {
                        std::thread::yield_now();
                    }
                    state = self.state();
                }
                None => {
                    state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        state.is_threaded = false;
        state.finish_if_done();
    }

    /// Copies and sends a chunk.
    fn send(&self, state: &mut State, chunk: Chunk, by_demand: bool) {
        let Some(record) = state.record.clone() else { return };
        let header = record.mobile().and_then(|body| body.header()).expect("a frozen task");
        if state.audit == Checked::LeadsOut {
            return;
        }
        let (mut pages, mut zero) = (chunk.pages, PageSet::new());
        let old = state.old.intersection(&pages);
        state.old.remove_all(&old);
        for page in pages.pages() {
            let is_new = old.contains(page) || state.base.page(addr_of(page)).is_none();
            // SAFETY: a page of the frozen task, whose slots are kept as long as the record is.
            if is_new && unsafe { page::is_zero_page(addr_of(page) as *const u8) } {
                zero.insert(Run::one(page));
                state.base.remove(page);
            }
        }
        // Over the copies of earlier rounds: these have been installed, so the wire reads them no more.
        for run in old.difference(&zero).runs() {
            let len = run.count as usize * PAGE_LEN;
            let _ = state.base.add(run, len, &mut Parts::lent());
        }
        pages.remove_all(&zero);
        let kind = match by_demand {
            true => SectionKind::Demand { chunk: chunk.id },
            false => SectionKind::Push { chunk: chunk.id },
        };
        let section = self.section(kind, &pages, &zero);
        let mut parts = Parts::lent();
        copy(&mut state.base, &section.slots, &mut parts).expect("slots were taken beforehand");
        if let Some(hit) = state.check(header, &self.slots, &pages) {
            return self.tell_hit(state, hit);
        }
        self.cluster.metrics.shipped(pages.len() as usize, pages.len() as usize * PAGE_LEN);
        self.write(state, section, parts, by_demand);
        if !by_demand {
            fail::point("source.pushed");
        }
    }

    fn section(&self, kind: SectionKind, pages: &PageSet, zero: &PageSet) -> Section {
        let list = |pages: &PageSet| {
            let mut list = by_slot(&self.slots, pages);
            list.retain(|item| !item.runs.is_empty());
            list
        };
        Section {
            task: self.task,
            epoch: self.epoch,
            kind,
            slots: list(pages),
            zero: list(zero),
            page_len: PAGE_LEN as u32,
            extra: Vec::new(),
        }
    }

    /// The task has taken something of this node along: the target ends it.
    fn tell_hit(&self, state: &mut State, hit: String) {
        state.audit = Checked::LeadsOut;
        let kind = SectionKind::Push { chunk: ChunkId(u64::MAX) };
        let none = PageSet::new();
        let section = Section { extra: hit.into_bytes(), ..self.section(kind, &none, &none) };
        self.write(state, section, Parts::lent(), true);
    }

    /// Sends a section on its stream, which is opened if need be.
    fn write(&self, state: &mut State, section: Section, mut parts: Parts, by_demand: bool) {
        let feed = if by_demand { &state.answers } else { &state.pusher };
        if let Some(feed) = feed {
            parts.list.insert(0, head_of(section));
            return drop(feed.push(parts.list));
        }
        let mut start = Vec::new();
        StreamHead::Pages(PageFrame::Section(section)).encode(&mut start);
        let feed = self.open(state, start, by_demand);
        if let Some(feed) = &feed
            && !parts.list.is_empty()
        {
            drop(feed.push(parts.list));
        }
        if by_demand {
            state.answers = feed;
        } else {
            state.pusher = feed;
        }
    }

    /// Sends the head, on the stream of the rounds if there were any; the push waits for the commit.
    pub(super) fn begin_stream(
        cluster: &'static Cluster,
        task: Leaving,
        served: Served,
        (section, mut parts): (Section, Parts),
        stream: Option<BulkFeed>,
    ) -> Result<(), String> {
        let Served { push, old, base, audit } = served;
        let is_threaded = push.missing_count() >= MANY;
        let body = task.record.mobile().expect("only mobile tasks move");
        let state = State {
            push,
            base,
            old,
            record: Some(task.record.clone()),
            pusher: stream,
            answers: None,
            generation: 0,
            audit,
            is_threaded,
            has_thread: false,
            has_begun: false,
        };
        let serving = Arc::new(Serving {
            cluster,
            task: body.id,
            epoch: task.epoch,
            to: task.to,
            slots: task.slots,
            state: Mutex::new(state),
            news: Condvar::new(),
            wanted: AtomicU32::new(0),
        });
        body.journey().serving = Some(serving.clone());
        table().insert((body.id, task.epoch), serving.clone());
        SERVED.fetch_add(1, Ordering::Relaxed);
        let mut state = serving.state();
        if let Some(feed) = &state.pusher {
            parts.list.insert(0, head_of(section));
            drop(feed.push(parts.list));
        } else {
            let mut start = Vec::new();
            StreamHead::Pages(PageFrame::Section(section)).encode(&mut start);
            // The limit of what the manifest may take is a little lower.
            let is_short = start.len() <= BULK_HEADER_LEN_MAX - (16 << 10);
            let feed = if is_short { serving.open(&state, start, false) } else { None };
            let Some(feed) = feed else {
                drop(state);
                drop(serving.close());
                return Err(match is_short {
                    true => "this node is alone".to_owned(),
                    false => "its pages lie too scattered to be listed".to_owned(),
                });
            };
            drop(feed.push(parts.list));
            state.pusher = Some(feed);
        }
        Ok(())
    }

    fn open(&self, state: &State, start: Vec<u8>, by_demand: bool) -> Option<BulkFeed> {
        let (cluster, generation) = (self.cluster, state.generation);
        let (task, epoch, to) = (self.task, self.epoch, self.to);
        let done = move |result| {
            let Err(why): Result<(), String> = result else { return };
            stream_broke(cluster, (task, epoch, to), generation, why);
        };
        match by_demand {
            true => self.cluster.open_urgent(self.to, start, done),
            false => self.cluster.open_bulk(self.to, start, done),
        }
    }

    /// A stream broke; the link may hold.
    fn broken(self: &Arc<Serving>, generation: u64) {
        let mut state = self.state();
        if state.generation != generation || state.record.is_none() {
            return;
        }
        state.break_off();
        if self.cluster.is_linked(self.to) {
            state.push.link_back();
            drop(state);
            self.pump_here();
        }
    }
}

impl State {
    fn next_chunk(&mut self) -> Option<Chunk> {
        let share = (CREDIT / SERVED.load(Ordering::Relaxed).max(1)).max(1);
        let may_send = self.has_begun
            && self.record.is_some()
            && self.audit != Checked::LeadsOut
            && self.push.in_flight() < share;
        if may_send { self.push.next_chunk() } else { None }
    }

    fn finish_if_done(&mut self) {
        if self.push.is_done() {
            self.pusher.take().into_iter().for_each(BulkFeed::finish);
            self.answers.take().into_iter().for_each(BulkFeed::finish);
        }
    }

    fn break_off(&mut self) {
        self.generation += 1;
        self.push.link_lost();
        self.pusher = None;
        self.answers = None;
    }

    /// Whether pages that are about to be sent hold a word that leads out of the task: what it is.
    fn check(&mut self, header: &Header, slots: &[SlotId], pages: &PageSet) -> Option<String> {
        if self.audit != Checked::Pages {
            return None;
        }
        let mut suspects = Suspects::default();
        for page in pages.pages() {
            let copy = self.base.page(addr_of(page)).expect("just copied");
            suspects.look(slots, addr_of(page), copy, PAGE_LEN);
        }
        if !suspects.any_alive(header) {
            return None;
        }
        self.audit = Checked::All;
        let hit = audit::scan(header, slots)?;
        if crate::node::node().config.audit == Audit::Strict {
            return Some(hit.to_string());
        }
        eprintln!("migrt: audit: task {} ({}): {hit}", header.id, header.entry.name);
        None
    }
}
