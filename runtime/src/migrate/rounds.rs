//! What goes in each round, and in the last shipment: copying and sending it.
//!
//! ```text
//! dirty ∩ live ──> decided in proto ──> copied ──> looked through ──> a section of the stream
//! dirty − live ──> leftover: looked at again when the heap says more
//! sent  − live ──> dead: cleared at the target by the last section
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::transfer::{HotPage, PageFrame, PageSet, Rounds, Run, Section, SectionKind, Step};
use migrt_proto::wire::{PageRun, ShipSlot, StreamHead};
use migrt_proto::{Micros, SlotRef, TaskId};

use super::audit::Suspects;
use super::copying::Copying;
use super::have::Offer;
use super::head::{self, Split};
use super::known::Known;
use super::remains::{Base, Parts, addr_of, number_of};
use super::{Manifest, image, serve, slots_of};
use crate::cluster::Cluster;
use crate::net::{BulkFeed, Part};
use crate::task::adopted;
use crate::task::body::MobileBody;
use crate::task::header::{Header, Layout};

/// Pages of a section: 4 MiB, so that one is copied while another is sent, and its head stays far
/// below the limit of the wire however scattered they are.
const SECTION_PAGES: u64 = 1024;

/// Pages that one section announces: its lists stay far below the limit of the wire.
const ANNOUNCED_PAGES: u64 = 16 << 10;

/// What is alive of a task, as seen in a brief stop.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Its slots, the task slot first.
    pub(super) slots: Vec<SlotId>,
    /// Of these, the ones with a header: its own and those of adopted arenas. What lies above the guard
    /// in them goes with the frozen task only.
    pub(super) headed: Vec<SlotId>,
    /// Live pages of its heaps.
    pub(super) live: PageSet,
}

impl Checkpoint {
    /// Of a task that the caller holds (and its list of arenas: rule 1 of `task/adopted.rs`).
    pub(crate) fn of(header: &Header) -> Checkpoint {
        let mut live = PageSet::new();
        let mut headed = Vec::new();
        for arena in header.arenas() {
            headed.push(adopted::slot_of(arena));
            arena.arena().for_each_live_run(&mut |addr, len| {
                live.insert(Run::new(number_of(addr), (len / PAGE_LEN) as u64));
            });
        }
        headed.sort_unstable();
        Checkpoint { slots: slots_of(header), headed, live }
    }

    /// The slots alone.
    pub(super) fn of_slots(header: &Header) -> Checkpoint {
        let mut headed: Vec<SlotId> = header.arenas().map(adopted::slot_of).collect();
        headed.sort_unstable();
        Checkpoint { slots: slots_of(header), headed, live: PageSet::new() }
    }

    /// The part of a slot in which its pages go in rounds: address and length.
    pub(super) fn watched_part(&self, slot: SlotId) -> (usize, usize) {
        let is_headed = self.headed.binary_search(&slot).is_ok();
        let end = if is_headed { Layout { slot }.guard() } else { slot.base() + slot.len() };
        (slot.base(), end - slot.base())
    }

    /// Pages of its heaps.
    pub(crate) fn page_count(&self) -> u64 {
        self.live.len()
    }
}

/// The mover's, and after it the last shipment's.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) rounds: Rounds,
    /// What the target has of the task from before.
    pub(super) offer: Option<Arc<Offer>>,
    /// What is known of the task's pages when the rounds begin.
    pub(super) known: Option<Arc<Known>>,
    /// The first scan is done.
    has_begun: bool,
    pub(super) base: Base,
    pub(super) feed: Option<BulkFeed>,
    /// The stream was broken off by this node, whose core knows why, or will in a moment.
    pub(super) is_called_off: Arc<AtomicBool>,
    /// Pages that the target knows to follow the task: it has nothing there any more.
    announced: PageSet,
    /// Written pages that the heap did not list as alive when they were last looked at.
    leftover: PageSet,
    sent: PageSet,
    /// What the last try to copy the rest has copied.
    copied: PageSet,
    pub(super) suspects: Suspects,
    /// Sections sent so far.
    sections: u32,
    /// The last look at the frozen task, and what it left to be sent.
    pub(super) last: Option<(Checkpoint, PageSet)>,
}

/// What rounds have sent of a task that pages follow now.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Pages that are dead now: the target clears them.
    pub(super) dead: PageSet,
    /// Pages whose copies lie in the base; those that follow are of an earlier round there.
    pub(super) known: PageSet,
    /// Those that follow and were announced.
    pub(super) announced: PageSet,
}

impl Work {
    pub(super) fn new(
        rounds: Rounds,
        offer: Option<Arc<Offer>>,
        known: Option<Arc<Known>>,
    ) -> Work {
        Work {
            rounds,
            offer,
            known,
            has_begun: false,
            base: Base::default(),
            feed: None,
            is_called_off: Arc::default(),
            announced: PageSet::new(),
            leftover: PageSet::new(),
            sent: PageSet::new(),
            copied: PageSet::new(),
            suspects: Suspects::default(),
            sections: 0,
            last: None,
        }
    }

    /// What was written since the last call; at the first all that the target does not have.
    fn take_dirty(&mut self, copying: &Copying) -> Result<PageSet, String> {
        let dirty = copying.watch.take_dirty()?;
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(dirty);
        }
        // It may have been watched before.
        let mut pages = copying.watch.present();
        pages.add_all(&dirty);
        if let Some(known) = &self.known {
            known.void(&dirty);
        }
        if let Some(offer) = &self.offer {
            offer.compare(&pages, self.known.as_deref());
            pages.remove_all(&offer.same());
        }
        Ok(pages)
    }

    /// What goes in the next round, if any does.
    pub(super) fn look(&mut self, copying: &Copying, live: &PageSet) -> Result<Step, String> {
        let dirty = self.take_dirty(copying)?;
        Ok(self.next(live, dirty))
    }

    fn next(&mut self, live: &PageSet, dirty: PageSet) -> Step {
        self.rounds.dead(&self.sent.difference(live));
        self.leftover.add_all(&dirty);
        let usable = self.leftover.intersection(live);
        self.leftover.remove_all(&usable);
        self.rounds.next(&usable)
    }

    /// Tells the target, while the task runs still, which pages will follow it: it lets go what it has of
    /// them, which takes the kernel long if they are many.
    pub(super) fn announce(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        slots: &[SlotId],
    ) -> Result<(), String> {
        let mut left = self.rounds.outstanding().clone();
        self.announced = left.clone();
        while !left.is_empty() {
            let pages = left.take_first(ANNOUNCED_PAGES);
            let kind = SectionKind::Round { n: self.rounds.record().rounds.len() as u32 };
            let section = Section {
                task,
                epoch: copying.epoch,
                kind,
                slots: by_slot(slots, &PageSet::new()),
                zero: by_slot(slots, &pages),
                page_len: PAGE_LEN as u32,
                extra: Vec::new(),
            };
            self.push(cluster, (task, copying), section, Parts::default())?;
            self.sections += 1;
        }
        if copying.wait_installed(self.sections) {
            Ok(())
        } else {
            Err("it was called off".to_owned())
        }
    }

    /// Of a frozen task that pages follow: how they divide, and what the target has of them.
    pub(super) fn last_split(
        &mut self,
        copying: &Copying,
        header: &Header,
        hot: &[HotPage],
    ) -> Result<(Split, Sent), String> {
        let (stop, rest) = match self.last.take() {
            Some(last) => last,
            None => {
                let stop = Checkpoint::of(header);
                let rest = self.last_look(copying, &stop)?;
                (stop, rest)
            }
        };
        let mut hot = head::pages_of_hot(&stop.slots, hot);
        // Written since the last round: it is at work there.
        hot.truncate(head::HOT_MAX / 2);
        hot.extend(rest.difference(&self.announced).pages().take(head::HOT_MAX));
        let (head, missing) = head::divide(header, &stop.slots, &rest, &hot);
        let dead = self.sent.union(&self.announced).difference(&stop.live);
        dead.pages().for_each(|page| self.base.remove(page));
        let known = self.sent.difference(&dead);
        let announced = self.announced.intersection(&missing);
        let live_pages = stop.page_count();
        Ok((
            Split { slots: stop.slots, head, missing, live_pages },
            Sent { dead, known, announced },
        ))
    }

    /// Of a frozen task: live pages of the heap that the target does not have as they are.
    pub(super) fn last_look(
        &mut self,
        copying: &Copying,
        stop: &Checkpoint,
    ) -> Result<PageSet, String> {
        let dirty = self.take_dirty(copying)?;
        // The decision is made; this only takes note.
        let _ = self.next(&stop.live, dirty);
        let mut rest = self.rounds.outstanding().union(&self.leftover);
        for &slot in stop.slots.iter().filter(|&&slot| !copying.watch.has(slot)) {
            rest.insert(Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64));
        }
        Ok(rest.intersection(&stop.live))
    }

    /// Copies the rest of a frozen task; gives the head of its section and its bytes.
    pub(super) fn copy_rest(
        &mut self,
        (copying, task): (&Copying, TaskId),
        header: &Header,
        stop: &Checkpoint,
        mut rest: PageSet,
        parts: &mut Parts,
    ) -> Result<(Section, usize), String> {
        let mut blank = PageSet::new();
        for page in rest.pages() {
            // SAFETY: a page of the frozen task.
            if unsafe { page::is_zero_page(addr_of(page) as *const u8) } {
                blank.insert(Run::one(page));
            }
        }
        rest.remove_all(&blank);
        if let Some(offer) = &self.offer {
            offer.sends(&blank, &rest);
            offer.end(&stop.live);
        }
        // Of what was sent, all that is dead now, or has become zero.
        let mut zero = self.sent.difference(&stop.live);
        zero.add_all(&blank.intersection(&self.sent));
        zero.pages().for_each(|page| self.base.remove(page));
        // Frees that were carried out since the last try may have emptied whole slots.
        self.copied.difference(&stop.live).pages().for_each(|page| self.base.remove(page));
        let (from, to) = image::always_shipped(header);
        rest.insert(Run::new(number_of(from), ((to - from) / PAGE_LEN) as u64));
        for arena in header.adopted() {
            rest.insert(Run::one(number_of(adopted::prefix_page(arena))));
        }
        self.copied = rest.clone();
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

    /// Copies and sends one round; returns when the target has installed it: what is queued here
    /// would hold up the last pages. The next section is copied while one is on its way.
    pub(super) fn send(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        slots: &[SlotId],
        pages: &PageSet,
        body: &MobileBody,
    ) -> Result<(), String> {
        let since = Instant::now();
        let mut left = pages.clone();
        let mut byte_count = 0;
        while !left.is_empty() {
            let section = left.take_first(SECTION_PAGES);
            let sent = self.send_section(cluster, (task, copying), slots, &section, body)?;
            byte_count += sent.len() * PAGE_LEN as u64;
            cluster.metrics.shipped(sent.len() as usize, sent.len() as usize * PAGE_LEN);
            self.sent.add_all(&sent);
        }
        if !copying.wait_installed(self.sections) {
            return Err("it was called off".to_owned());
        }
        let took = Micros(since.elapsed().as_micros().max(1) as u64);
        self.rounds.sent(byte_count, took);
        cluster.note_rate(copying.target, self.rounds.link());
        Ok(())
    }

    fn send_section(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        slots: &[SlotId],
        pages: &PageSet,
        body: &MobileBody,
    ) -> Result<PageSet, String> {
        let mut send = PageSet::new();
        for page in pages.pages() {
            // SAFETY: a page of a slot of the task, mapped; it may be written at this moment.
            let is_zero = unsafe { page::is_zero_page(addr_of(page) as *const u8) };
            // One that was sent before goes again, zero or not.
            if !is_zero || self.sent.contains(page) {
                send.insert(Run::one(page));
            }
        }
        if let Some(offer) = &self.offer {
            offer.sends(pages, &send);
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
        self.push(cluster, (task, copying), section, parts)?;
        self.sections += 1;
        Ok(send)
    }

    /// Sends a section; the first one opens the stream. (There may be no round: a task that has
    /// become small since its move was planned is frozen at once.)
    pub(super) fn push(
        &mut self,
        cluster: &'static Cluster,
        (task, copying): (TaskId, &Copying),
        section: Section,
        mut parts: Parts,
    ) -> Result<(), String> {
        let feed = match &self.feed {
            Some(feed) => {
                parts.list.insert(0, head_of(section));
                feed
            }
            None => {
                let mut header = Vec::new();
                StreamHead::Pages(PageFrame::Section(section)).encode(&mut header);
                let (epoch, to) = (copying.epoch, copying.target);
                let is_called_off = self.is_called_off.clone();
                let feed = cluster.open_bulk(copying.target, header, move |result| {
                    if let Err(why) = result
                        && !is_called_off.load(Ordering::Relaxed)
                    {
                        serve::stream_broke(cluster, (task, epoch, to), 0, why);
                    }
                });
                self.feed.insert(feed.ok_or("this node is alone")?)
            }
        };
        drop(feed.push(parts.list));
        Ok(())
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
