//! Pre-copy at the source: rounds of pages while the task runs, then the rest of them frozen.
//!
//! ```text
//! mover thread   ( stop briefly: what is alive?   scan: what was written?   copy   send )*   freeze
//! task           runs …………… | ………………………………………………………………………………………………………………………………… | stands still
//! ```
//!
//! How many rounds, and what goes in each, `migrt_proto::transfer` decides. The brief stop is needed
//! because only the task itself, or whoever holds it frozen, may read its heap's records; it takes as
//! long as walking those, and the pages are scanned and copied while the task runs again.
//!
//! A page that is copied while the task writes it may come out torn: it is dirty then, and goes again
//! (rule 1 of `migrt_iso::track`). Nobody reads it before the commit (rule 2 of the hand-off).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::transfer::{
    Limits, PageFrame, PageSet, Rounds, RoundsRecord, Run, Section, SectionKind, Step,
};
use migrt_proto::wire::{PageRun, ShipSlot, StreamHead};
use migrt_proto::{Epoch, Micros, NodeId, SlotRef, TaskId};

use super::audit::Suspects;
use super::remains::{Base, Parts, addr_of, number_of};
use super::watch::Watch;
use super::{Manifest, image, slots_of};
use crate::census;
use crate::cluster::Cluster;
use crate::exec::door;
use crate::fail;
use crate::net::{BulkFeed, Part};
use crate::task::header::Header;
use crate::task::record::TaskRef;

/// Sections have at most so many runs of pages: their heads stay far below the limit of the wire.
const SECTION_RUNS_MAX: u64 = 16 << 10;

/// What is alive of a task, as seen in a brief stop.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Its slots, the task slot first.
    slots: Vec<SlotId>,
    /// Live pages of its heap.
    live: PageSet,
}

impl Checkpoint {
    /// Of a task that the caller holds.
    pub(crate) fn of(header: &Header) -> Checkpoint {
        let mut live = PageSet::new();
        header.prefix.arena().for_each_live_run(&mut |addr, len| {
            live.insert(Run::new(number_of(addr), (len / PAGE_LEN) as u64));
        });
        Checkpoint { slots: slots_of(header), live }
    }

    /// Pages of its heap.
    pub(crate) fn page_count(&self) -> u64 {
        self.live.len()
    }
}

/// The rounds of one try of a move.
#[derive(Debug)]
pub(crate) struct Copying {
    pub(crate) target: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) watch: Watch,
    state: Mutex<State>,
    news: Condvar,
    /// The mover's, and after it the last shipment's.
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    stop: Option<Checkpoint>,
    /// The rounds are over and the task is to be frozen.
    is_last: bool,
    /// Nothing is to be done any more: called off, ended, or shipped.
    over: bool,
}

#[derive(Debug)]
struct Work {
    rounds: Rounds,
    base: Base,
    feed: Option<BulkFeed>,
    /// Written pages that the heap did not list as alive when they were last looked at.
    leftover: PageSet,
    sent: PageSet,
    suspects: Suspects,
}

/// What a task's rounds came to, for the record of its move.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) rounds: RoundsRecord,
    pub(crate) byte_count: u64,
}

impl Copying {
    /// Begins the rounds of a task that goes on running; `first` is what is alive now.
    pub(crate) fn start(
        cluster: &'static Cluster,
        task: &TaskRef,
        to: (NodeId, Epoch),
        limits: Limits,
        first: Checkpoint,
    ) -> Option<Arc<Copying>> {
        let copying = Arc::new(Copying {
            target: to.0,
            epoch: to.1,
            watch: Watch::default(),
            state: Mutex::default(),
            news: Condvar::new(),
            work: Mutex::new(Work {
                rounds: Rounds::new(limits, cluster.link_rate(to.0)),
                base: Base::default(),
                feed: None,
                leftover: PageSet::new(),
                sent: PageSet::new(),
                suspects: Suspects::default(),
            }),
        });
        let (task, mover) = (task.clone(), copying.clone());
        std::thread::Builder::new()
            .name("migrt-mover".to_owned())
            .spawn(move || census::clearing(|| mover.run(cluster, &task, first)))
            .ok()?;
        Some(copying)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task, which the caller holds, was stopped for a look at what is alive; it goes on.
    pub(crate) fn take_look(&self, header: &Header) -> bool {
        let mut state = self.state();
        if !std::mem::take(&mut state.wanted) {
            return false;
        }
        state.stop = Some(Checkpoint::of(header));
        self.news.notify_all();
        true
    }

    /// Whether the rounds are over and the task is to be frozen now.
    pub(crate) fn is_last(&self) -> bool {
        self.state().is_last
    }

    /// Nothing more is to be done: the mover's thread ends, nothing is watched any more.
    pub(crate) fn end(&self) {
        self.state().over = true;
        self.news.notify_all();
    }

    /// The task ends, and its slots with it: as [`Copying::end`], and done when it returns.
    pub(crate) fn close(&self) {
        self.end();
        self.watch.close();
    }

    fn run(&self, cluster: &'static Cluster, task: &TaskRef, first: Checkpoint) {
        let id = task.mobile().expect("only mobile tasks move").id;
        if let Err(why) = self.make_rounds(cluster, task, first) {
            if !self.state().over {
                cluster.tell(|core, now| core.ship_failed(now, id, self.epoch, &why));
            }
        } else {
            self.freeze(task);
            let mut state = self.state();
            while !state.over {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.watch.close();
        // Dropped here, which breaks the stream off if it was not finished.
        let feed = self.work().feed.take();
        drop(feed);
    }

    /// Rounds until there is little enough left.
    fn make_rounds(
        &self,
        cluster: &'static Cluster,
        task: &TaskRef,
        first: Checkpoint,
    ) -> Result<(), String> {
        let body = task.mobile().expect("only mobile tasks move");
        let id = body.id;
        if !cluster.tell(|core, now| core.copying(now, id, self.epoch)) {
            self.state().over = true;
            return Err("it was called off".to_owned());
        }
        fail::point("source.copying");
        let mut work = self.work();
        let mut stop = first;
        loop {
            self.watch.sync(&stop.slots)?;
            let dirty = self.watch.take_dirty()?;
            let step = work.next(&stop.live, dirty);
            match step {
                Step::Send(pages) => {
                    work.send(cluster, (id, self), &stop.slots, &pages, body)?;
                    fail::point("source.round");
                }
                Step::Freeze { why, outstanding, expected_pause } => {
                    tracing::debug!(task = %id, ?why, outstanding, ?expected_pause, "rounds end");
                    return Ok(());
                }
            }
            drop(work);
            stop = self.look(task).ok_or("it was called off")?;
            work = self.work();
        }
    }

    /// Has the task stopped for a moment.
    fn look(&self, task: &TaskRef) -> Option<Checkpoint> {
        self.state().wanted = true;
        self.ask(task);
        let mut state = self.state();
        loop {
            if state.over {
                return None;
            }
            if let Some(stop) = state.stop.take() {
                return Some(stop);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn freeze(&self, task: &TaskRef) {
        self.state().is_last = true;
        self.ask(task);
    }

    fn ask(&self, task: &TaskRef) {
        let body = task.mobile().expect("only mobile tasks move");
        body.ask_move(self.target.0);
        if task.state.freeze_waiting() {
            super::depart(task.clone());
        } else {
            door::wake(task.clone());
        }
    }

    /// What the rounds came to.
    pub(crate) fn outcome(&self) -> Outcome {
        let record = self.work().rounds.record();
        let byte_count = record.rounds.iter().map(|round| round.byte_count).sum();
        Outcome { rounds: record, byte_count }
    }

    /// Whether words of a frozen task's heap may lead out of it: seen in the rounds, or in pages
    /// written since.
    ///
    /// # Errors
    /// What was written cannot be told.
    pub(crate) fn has_suspects(&self, header: &Header) -> Result<bool, String> {
        let mut work = self.work();
        let stop = Checkpoint::of(header);
        let rest = work.last_look(self, &stop)?;
        for run in rest.runs() {
            let (addr, len) = (addr_of(run.first), run.count as usize * PAGE_LEN);
            work.suspects.look(&stop.slots, addr, addr, len);
        }
        Ok(work.suspects.any_alive(header))
    }

    /// Copies what is left of a frozen task and sends it; the whole copy is its base from now on.
    /// Gives the bytes sent too.
    ///
    /// # Errors
    /// There is no slot for the copy, or what was written cannot be told.
    pub(crate) fn ship_rest(
        &self,
        task: TaskId,
        header: &Header,
        manifest: &Manifest,
    ) -> Result<(Base, usize), String> {
        let mut work = self.work();
        let (mut parts, mut section, mut byte_count);
        loop {
            parts = Parts::default();
            (section, byte_count) = work.copy_rest(self, task, header, &mut parts)?;
            // Others may free blocks of a frozen task. Such a free is carried out here or kept for
            // its return, but never goes along: it would be carried out twice.
            if work.base.word(header.prefix.arena().remote_list_addr()) == Some(0) {
                break;
            }
            header.drain_frees();
        }
        section.extra = postcard::to_stdvec(manifest).expect("plain data encodes");
        let feed = work.feed.take().expect("rounds have opened the stream");
        let mut all = vec![head_of(section)];
        all.append(&mut parts.0);
        drop(feed.push(all));
        feed.finish();
        Ok((std::mem::take(&mut work.base), byte_count))
    }
}

impl Work {
    fn next(&mut self, live: &PageSet, dirty: PageSet) -> Step {
        self.rounds.dead(&self.sent.difference(live));
        self.leftover.add_all(&dirty);
        let usable = self.leftover.intersection(live);
        self.leftover.remove_all(&usable);
        self.rounds.next(&usable)
    }

    /// Of a frozen task: live pages of the heap that the target does not have as they are.
    fn last_look(&mut self, copying: &Copying, stop: &Checkpoint) -> Result<PageSet, String> {
        let dirty = copying.watch.take_dirty()?;
        // The decision is made; this only takes note.
        let _ = self.next(&stop.live, dirty);
        let mut rest = self.rounds.outstanding().union(&self.leftover);
        for &slot in stop.slots.iter().filter(|&&slot| !copying.watch.has(slot)) {
            rest.insert(Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64));
        }
        Ok(rest.intersection(&stop.live))
    }

    /// Copies the rest of a frozen task; gives the head of its section and its bytes.
    fn copy_rest(
        &mut self,
        copying: &Copying,
        task: TaskId,
        header: &Header,
        parts: &mut Parts,
    ) -> Result<(Section, usize), String> {
        let stop = Checkpoint::of(header);
        let mut rest = self.last_look(copying, &stop)?;
        let mut blank = PageSet::new();
        for page in rest.pages() {
            // SAFETY: a page of the frozen task.
            if unsafe { page::is_zero_page(addr_of(page) as *const u8) } {
                blank.insert(Run::one(page));
            }
        }
        rest.remove_all(&blank);
        // Of what was sent, all that is dead now, or has become zero.
        let mut zero = self.sent.difference(&stop.live);
        zero.add_all(&blank.intersection(&self.sent));
        zero.pages().for_each(|page| self.base.remove(page));
        let (from, to) = image::always_shipped(header);
        rest.insert(Run::new(number_of(from), ((to - from) / PAGE_LEN) as u64));
        let byte_count = rest.len() as usize * PAGE_LEN;
        let list = by_slot(&stop.slots, &rest);
        self.copy(&list, byte_count, parts)?;
        let section = Section {
            task,
            epoch: copying.epoch,
            kind: SectionKind::Rest,
            slots: list,
            zero: by_slot(&stop.slots, &zero),
            page_len: PAGE_LEN as u32,
            extra: Vec::new(),
        };
        Ok((section, byte_count))
    }

    /// Copies pages in the order in which they are listed and sent.
    fn copy(&mut self, list: &[ShipSlot], len: usize, parts: &mut Parts) -> Result<(), String> {
        let mut left = len;
        for item in list {
            let base = SlotId::from_raw(item.slot.0).expect("a slot of this node").base();
            for run in &item.runs {
                let first = number_of(base + run.first as usize * PAGE_LEN);
                let run = Run::new(first, u64::from(run.count));
                let added = self.base.add(run, left, parts);
                added.ok_or("this node has no slot left to copy the task's pages to")?;
                left -= run.count as usize * PAGE_LEN;
            }
        }
        Ok(())
    }

    /// Copies and sends one round; returns when it was written.
    fn send(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        slots: &[SlotId],
        pages: &PageSet,
        body: &crate::task::body::MobileBody,
    ) -> Result<(), String> {
        let mut left = pages.clone();
        while !left.is_empty() {
            let chunk = take_runs(&mut left, SECTION_RUNS_MAX);
            let since = Instant::now();
            let (sent, byte_count) =
                self.send_section(cluster, (task, copying), slots, &chunk, body)?;
            self.sent.add_all(&sent);
            let took = Micros(since.elapsed().as_micros().max(1) as u64);
            self.rounds.sent(byte_count, took);
            cluster.metrics.shipped(sent.len() as usize, byte_count as usize);
        }
        cluster.note_rate(copying.target, self.rounds.link());
        Ok(())
    }

    fn send_section(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        slots: &[SlotId],
        pages: &PageSet,
        body: &crate::task::body::MobileBody,
    ) -> Result<(PageSet, u64), String> {
        let mut send = PageSet::new();
        for page in pages.pages() {
            // SAFETY: a page of a slot of the task, mapped; it may be written at this moment.
            let is_zero = unsafe { page::is_zero_page(addr_of(page) as *const u8) };
            // One that was sent before goes again, zero or not.
            if !is_zero || self.sent.contains(page) {
                send.insert(Run::one(page));
            }
        }
        let mut parts = Parts::default();
        let len = send.len() as usize * PAGE_LEN;
        let list = by_slot(slots, &send);
        self.copy(&list, len, &mut parts)?;
        for page in send.pages() {
            let copy = self.base.page(addr_of(page)).expect("just copied");
            self.suspects.look(slots, addr_of(page), copy, PAGE_LEN);
        }
        let extra = match &self.feed {
            Some(_) => Vec::new(),
            None => {
                let entry = body.header().ok_or("it has ended")?.entry.id.0;
                let manifest = Manifest { entry, ..Manifest::default() };
                postcard::to_stdvec(&manifest).expect("plain data encodes")
            }
        };
        let section = Section {
            task,
            epoch: copying.epoch,
            kind: SectionKind::Round { n: self.rounds.record().rounds.len() as u32 },
            slots: list,
            zero: Vec::new(),
            page_len: PAGE_LEN as u32,
            extra,
        };
        let feed = match &self.feed {
            Some(feed) => {
                parts.0.insert(0, head_of(section));
                feed
            }
            None => {
                let mut header = Vec::new();
                StreamHead::Pages(PageFrame::Section(section)).encode(&mut header);
                let epoch = copying.epoch;
                let feed = cluster.open_bulk(copying.target, header, move |result| {
                    if let Err(why) = result {
                        cluster.tell(|core, now| core.ship_failed(now, task, epoch, &why));
                    }
                });
                self.feed.insert(feed.ok_or("this node is alone")?)
            }
        };
        let written = feed.push(parts.0);
        // Looks up now and then: the rounds may be called off while the link stands still.
        loop {
            match written.recv_timeout(Duration::from_millis(50)) {
                Ok(()) => return Ok((send, len as u64)),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !copying.state().over => {}
                Err(_) => return Err("the stream broke".to_owned()),
            }
        }
    }
}

/// A section's head as it stands between pages: its length, then the frame.
pub(super) fn head_of(section: Section) -> Part {
    head_of_frame(&PageFrame::Section(section))
}

/// A frame behind its length.
pub(super) fn head_of_frame(page_frame: &PageFrame) -> Part {
    let mut frame = vec![0; 4];
    page_frame.encode(&mut frame);
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    Part::Owned(frame)
}

/// Takes the first so many runs out.
fn take_runs(pages: &mut PageSet, count: u64) -> PageSet {
    let taken: u64 = pages.runs().take(count as usize).map(|run| run.count).sum();
    pages.take_first(taken)
}

/// Pages by the slot they lie in; every slot of the task is named.
pub(super) fn by_slot(slots: &[SlotId], pages: &PageSet) -> Vec<ShipSlot> {
    let of = |slot: &SlotId| {
        let base = number_of(slot.base());
        let within = pages.within(Run::new(base, (slot.len() / PAGE_LEN) as u64));
        let run =
            |run: Run| PageRun { first: (run.first.0 - base.0) as u32, count: run.count as u32 };
        ShipSlot { slot: SlotRef(slot.raw()), runs: within.runs().map(run).collect() }
    };
    slots.iter().map(of).collect()
}
