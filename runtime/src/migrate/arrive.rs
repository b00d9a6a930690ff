//! A task that arrives: its slots are adopted, its pages installed, and at the commit it is thawed.
//!
//! ```text
//! bulk stream opens   adopt slots, guard the stack        (conflict: refuse, the task stays away)
//! chunks              install pages; in rounds, sections of them, each over those before
//! stream ends         all there, and fits over remains    Ack
//! thaw                set the clock, the epoch            resume
//! abort, death        discard: slots are not ours
//! ```
//!
//! Post-copy: behind the head, whose last byte is the commit, chunks follow on the same stream (`lacking`).

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use migrt_iso::SlotId;
use migrt_proto::transfer::{PageFrame, Section, SectionKind};
use migrt_proto::wire::{Refusal, ShipSlot};
use migrt_proto::{EntryId, Epoch, NodeId, SlotRef, TaskId};

use super::copy::Copy;
use super::follow::{Chunks, Frames};
use super::installer::{self, Installer};
use super::lacking::Lacking;
use super::pages::pages_of;
use super::{Manifest, check, known};
use crate::cluster::Cluster;
use crate::exec::door;
use crate::net::BulkSink;
use crate::task::adopted;
use crate::task::body::{Call, MobileBody};
use crate::task::header::{Header, Layout, TASK_CLASS};
use crate::task::record::{Body, TaskRef};
use crate::task::tls::TlsLayout;

/// A copy that is being installed.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(super) task: TaskId,
    pub(super) from: NodeId,
    /// What came with its last pages, and when these began to come.
    last: OnceLock<(Manifest, Instant)>,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) enum State {
    Here(Box<Copy>),
    Gone,
}

impl Arrival {
    /// The copy is not wanted: its slots are another node's, and stay so.
    pub(crate) fn discard(&self) {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        if let State::Here(copy) = state {
            copy.undo();
        }
    }

    /// Pages of a chunk, for a task that does not run before it is whole.
    fn take_chunk(&self, lacking: &Lacking, section: &Section, pages: &[u8]) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        let State::Here(copy) = &mut *state else { return Ok(()) };
        lacking.note(section)?;
        let is_ours = |item: &ShipSlot| copy.slots.iter().any(|slot| slot.raw() == item.slot.0);
        if !section.slots.iter().chain(&section.zero).all(is_ours) {
            return Err("a chunk names pages of another task".to_owned());
        }
        let task_slot = copy.slots.first().map(|slot| SlotRef(slot.raw()));
        installer::clear(task_slot, &section.zero, copy.merge.as_mut())?;
        let mut installer = Installer::new(task_slot, &section.slots)?;
        installer.write(pages, copy.merge.as_mut());
        Ok(())
    }

    /// All pages have come: do they fit over what the task left here?
    pub(super) fn fit(&self) -> Result<(), Refusal> {
        let mut state = self.state.lock().unwrap();
        let State::Here(copy) = &mut *state else { return Ok(()) };
        if let Some(merge) = &mut copy.merge {
            merge.finish().map_err(|why| Refusal::Other { why })?;
        }
        check::arrived(copy, &self.last.get().expect("all has come").0);
        Ok(())
    }

    /// It cannot be: the source hears why.
    pub(super) fn fail(&self, cluster: &'static Cluster, epoch: Epoch, why: Refusal) {
        let task = self.task;
        cluster.forget_arrival(task, epoch);
        self.discard();
        cluster.tell(|core, now| core.install_failed(now, task, epoch, why));
    }

    /// The task is this node's, in `epoch`.
    pub(crate) fn thaw(&self, epoch: Epoch) -> TaskRef {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        let State::Here(copy) = state else { unreachable!("thawed a discarded copy") };
        let (manifest, since) = self.last.get().expect("thawed before all has come");
        let header = match copy.slots.first() {
            Some(&slot) => {
                // SAFETY: the pages of this slot were installed whole, a header among them, and
                // nobody else knows them (I1, I3).
                let header = unsafe { &*Layout { slot }.header() };
                assert_eq!(header.id, self.task, "I4: another task's header has arrived");
                header.moves.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                adopted::set_travelled(header);
                manifest.clock.go_on(header, since.elapsed());
                // SAFETY: the block came whole with the task, which does not run.
                unsafe { TlsLayout::get().arrive(header.tp()) };
                header as *const Header as *mut Header
            }
            None => std::ptr::null_mut(),
        };
        let shipped = manifest.clock.elapsed(since.elapsed());
        let pause_us = manifest.stood_us + shipped.as_micros() as u32;
        let shipped = shipped.max(since.elapsed());
        let cluster = crate::cluster::cluster();
        let ends = (self.task, self.from, cluster.me());
        let mut report = manifest.report.clone();
        report.lost(copy.lost_count);
        if copy.lacking.as_ref().is_some_and(|lacking| lacking.is_eager()) {
            report.waits_for_all();
        }
        let record = report.finish(ends, pause_us.into(), shipped);
        tracing::info!(
            task = %record.task, from = %record.from, to = %record.to, method = ?record.method,
            why = record.why, rounds = record.rounds, live_pages = record.live_pages,
            sent_pages = record.sent_pages, rest_pages = record.rest_pages,
            pause_us, total_us = record.total_us, in_time = record.met_max_pause(), "moved"
        );
        cluster.metrics.arrived(&record);
        let call = copy.promise.map(|promise| Call {
            entry: EntryId(manifest.entry),
            args: manifest.args.clone().unwrap_or_default(),
            _promise: promise,
        });
        let body = MobileBody::new(self.task, epoch.0, call, header);
        if let Some(merge) = copy.merge {
            merge.drop_later();
        }
        body.set_arrival(record);
        let record = TaskRef::new(None, Body::Mobile(body));
        if let (Some(lacking), Some(body)) = (copy.lacking, record.mobile()) {
            lacking.thawed(&record, body);
        }
        known::arrived(&record, manifest, self.from);
        record
    }
}

/// The sink of one arriving task.
pub(crate) struct Arrive {
    cluster: &'static Cluster,
    arrival: Arc<Arrival>,
    epoch: Epoch,
    /// `Err`: it was refused, and what still comes is thrown away.
    incoming: Result<Incoming, String>,
}

/// What is expected next.
struct Incoming {
    installer: Installer,
    /// No section follows.
    is_last: bool,
    /// Of the next section's head, as far as it has come.
    head: Frames,
    /// Sections of rounds that were installed.
    sections: u32,
    /// Post-copy: this was the head, and chunks follow.
    lazy: Option<Lazy>,
}

/// What follows a head.
struct Lazy {
    lacking: Arc<Lacking>,
    chunks: Chunks,
    /// The core knows that the head is here, or all of it if eager.
    is_ready: bool,
    /// All pages were called for.
    has_called: bool,
}

impl Arrive {
    /// A stream begins with this section.
    pub(crate) fn open(cluster: &'static Cluster, from: NodeId, section: Section) -> Arrive {
        let (task, epoch) = (section.task, section.epoch);
        let name = manifest_of(&section).ok().and_then(|manifest| manifest.remains).unwrap_or(task);
        let mut copy = Copy::of(name);
        let last = OnceLock::new();
        let incoming = check_entry(&section, &mut copy)
            .and_then(|()| begin(cluster, &mut copy, &section, (task, epoch), &last))
            .and_then(|incoming| match section.kind {
                SectionKind::Head => {
                    begin_lazy(cluster, (&section, from), &mut copy, &last, incoming)
                }
                _ => Ok(incoming),
            });
        let meets_remains = copy.meets_remains();
        if incoming.is_err() {
            std::mem::take(&mut copy).undo();
        }
        let arrival =
            Arc::new(Arrival { task, from, last, state: Mutex::new(State::Here(Box::new(copy))) });
        let mut arrive = Arrive { cluster, arrival, epoch, incoming };
        let can_follow = arrive.can_follow();
        match &arrive.incoming {
            Ok(_) => cluster.expect_arrival(task, epoch, arrive.arrival.clone()),
            Err(why) => {
                let why = match meets_remains {
                    true => Refusal::InTheWay { what: why.clone() },
                    false => Refusal::Other { why: why.clone() },
                };
                arrive.incoming = Err(String::new());
                cluster.tell(|core, now| core.install_failed(now, task, epoch, why));
            }
        }
        if arrive.incoming.as_ref().is_ok_and(|incoming| incoming.sections > 0) {
            arrive.tell_installed(can_follow);
        }
        arrive
    }

    /// Installs bytes, and takes the heads between them; tells the source of rounds that are all there.
    /// Gives what is left behind a head of post-copy.
    fn install<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], String> {
        // Refused already: the source hears why. (Breaking the stream would tell it only that.)
        let Ok(incoming) = self.incoming.as_mut() else { return Ok(&[]) };
        if incoming.lazy.is_some() && incoming.installer.is_complete() {
            return Ok(bytes);
        }
        // Held while pages are written: a discard waits, and then nothing is written any more.
        let mut state = self.arrival.state.lock().unwrap();
        let State::Here(copy) = &mut *state else { return Ok(&[]) };
        let sections_before = incoming.sections;
        while !bytes.is_empty() {
            if !incoming.installer.is_complete() {
                let taken = incoming.installer.write(bytes, copy.merge.as_mut());
                bytes = &bytes[taken..];
                if incoming.installer.is_complete() && !incoming.is_last {
                    incoming.sections += 1;
                }
            } else if incoming.lazy.is_some() {
                break;
            } else if incoming.is_last {
                return Err("more bytes than the last section announced".to_owned());
            } else if let Some(frame) = incoming.head.take(&mut bytes)? {
                let PageFrame::Section(section) = frame else {
                    return Err("no section where one is to be".to_owned());
                };
                let of = (self.arrival.task, self.epoch);
                let last = &self.arrival.last;
                let mut next = begin(self.cluster, copy, &section, of, last)?;
                if section.kind == SectionKind::Head {
                    let whence = (&section, self.arrival.from);
                    next = begin_lazy(self.cluster, whence, copy, last, next)?;
                }
                // One without pages is there at once.
                next.sections += incoming.sections;
                *incoming = next;
            }
        }
        let (has_round, can_follow) = (incoming.sections > sections_before, copy.can_follow());
        drop(state);
        if has_round {
            self.tell_installed(can_follow);
        }
        Ok(bytes)
    }

    fn can_follow(&self) -> bool {
        match &*self.arrival.state.lock().unwrap() {
            State::Here(copy) => copy.can_follow(),
            State::Gone => false,
        }
    }

    /// Tells the source how many sections of rounds are installed, and whether what they leave may
    /// follow.
    fn tell_installed(&self, can_follow: bool) {
        let Ok(incoming) = &self.incoming else { return };
        let of = (self.arrival.task, self.epoch);
        self.cluster.tell_round(self.arrival.from, of, incoming.sections, can_follow);
    }

    /// Post-copy, behind the head: chunks.
    fn follow(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (task, epoch, cluster) = (self.arrival.task, self.epoch, self.cluster);
        let Ok(incoming) = self.incoming.as_mut() else { return Ok(()) };
        let Incoming { installer, lazy: Some(lazy), .. } = incoming else { return Ok(()) };
        if !installer.is_complete() {
            return Ok(());
        }
        if !lazy.is_ready && !lazy.lacking.is_eager() {
            let state = self.arrival.state.lock().unwrap();
            if matches!(*state, State::Gone) {
                return Ok(());
            }
            if let State::Here(copy) = &*state {
                check::arrived(copy, &self.arrival.last.get().expect("a head is the last").0);
            }
            lazy.lacking.register();
            drop(state);
            lazy.lacking.call_lost();
            if !lazy.lacking.is_eager() {
                lazy.is_ready = true;
                crate::fail::point("target.installed");
                cluster.tell(|core, now| core.installed(now, task, epoch, true));
                lazy.lacking.installed();
            }
        }
        let Lazy { lacking, chunks, is_ready, has_called } = lazy;
        if lacking.is_eager() && !std::mem::replace(has_called, true) {
            lacking.call();
            lacking.call_lost();
        }
        if !lacking.is_eager() {
            return chunks.take(bytes, &mut |section, pages| lacking.arrived(section, pages));
        }
        let arrival = &self.arrival;
        chunks.take(bytes, &mut |section, pages| arrival.take_chunk(lacking, section, pages))?;
        if !*is_ready && lacking.is_whole() {
            *is_ready = true;
            crate::fail::point("target.installed");
            if let Err(why) = self.arrival.fit() {
                self.fail(why);
                return Ok(());
            }
            cluster.tell(|core, now| {
                core.installed(now, task, epoch, true);
                core.whole(now, task, epoch);
            });
        }
        Ok(())
    }

    /// Post-copy: the core knows of the arrival.
    fn is_ready(&self) -> bool {
        let lazy = self.incoming.as_ref().ok().and_then(|incoming| incoming.lazy.as_ref());
        lazy.is_some_and(|lazy| lazy.is_ready)
    }

    /// The stream cannot go on: the source hears why, unless it knows already.
    fn fail(&mut self, why: Refusal) {
        self.incoming = Err(String::new());
        self.arrival.fail(self.cluster, self.epoch, why);
    }
}

/// Checks what the first section says of the task.
fn check_entry(section: &Section, copy: &mut Copy) -> Result<(), String> {
    let manifest = manifest_of(section)?;
    if crate::entry::lookup(EntryId(manifest.entry)).is_none() {
        return Err(format!("this node has no entry {:#018x}", manifest.entry));
    }
    if section.slots.is_empty() == manifest.args.is_none() {
        return Err("a started task comes with slots, another with a call".to_owned());
    }
    if manifest.args.is_some() {
        let promise = door::promise_slot(TASK_CLASS);
        copy.promise = Some(promise.ok_or("this node has no free slot left for the task")?);
    }
    Ok(())
}

fn manifest_of(section: &Section) -> Result<Manifest, String> {
    postcard::from_bytes(&section.extra).map_err(|e| format!("the manifest cannot be read: {e}"))
}

/// A section begins: its slots are taken, what it says is zero is cleared.
fn begin(
    cluster: &'static Cluster,
    copy: &mut Copy,
    section: &Section,
    of: (TaskId, Epoch),
    last: &OnceLock<(Manifest, Instant)>,
) -> Result<Incoming, String> {
    let since = Instant::now();
    if (section.task, section.epoch) != of {
        return Err("a section of another task".to_owned());
    }
    if section.page_len as usize != migrt_iso::PAGE_LEN {
        return Err(format!("pages of {} bytes, not {}", section.page_len, migrt_iso::PAGE_LEN));
    }
    copy.take(section)?;
    let task_slot = copy.slots.first().map(|slot| SlotRef(slot.raw()));
    let is_last = match section.kind {
        SectionKind::Round { .. } => {
            crate::fail::point("target.round");
            copy.announce(cluster, section)?;
            false
        }
        SectionKind::Rest | SectionKind::Head => true,
        _ => return Err("a section of another kind of move".to_owned()),
    };
    if is_last {
        let is_ours = |item: &ShipSlot| copy.slots.iter().any(|slot| slot.raw() == item.slot.0);
        if !section.zero.iter().all(is_ours) {
            return Err("a section clears pages of another task".to_owned());
        }
        installer::clear(task_slot, &section.zero, copy.merge.as_mut())?;
        copy.drop_others(section);
        let manifest = manifest_of(section)?;
        // Checks that they lie where pages of the task can lie.
        drop(Installer::new(task_slot, &manifest.same)?);
        let is_ours = |item: &ShipSlot| copy.slots.iter().any(|slot| slot.raw() == item.slot.0);
        if !manifest.same.iter().all(is_ours) {
            return Err("a section takes pages of another task for kept".to_owned());
        }
        let same = pages_of(&manifest.same).ok_or("kept pages that are none")?;
        copy.keep(same, manifest.same_hash);
        let _ = last.set((manifest, since));
    }
    let installer = Installer::new(task_slot, &section.slots)?;
    let sections = u32::from(!is_last && installer.is_complete());
    Ok(Incoming { installer, is_last, head: Frames::default(), sections, lazy: None })
}

/// A head begins: what follows it.
fn begin_lazy(
    cluster: &'static Cluster,
    (section, from): (&Section, NodeId),
    copy: &mut Copy,
    last: &OnceLock<(Manifest, Instant)>,
    mut incoming: Incoming,
) -> Result<Incoming, String> {
    let manifest = &last.get().expect("a head is the last section").0;
    let mut missing = copy.missing(section, &manifest.missing)?;
    if missing.len() != manifest.missing_count {
        // One that neither side sends would be waited for without end.
        let (here, there) = (missing.len(), manifest.missing_count);
        return Err(format!("{here} pages are missing here, and {there} by its source's count"));
    }
    // Rule 3 of `transfer::delta`.
    let lost = std::mem::take(&mut copy.lost);
    missing.add_all(&lost);
    let of = (section.task, section.epoch, from);
    // Records of its heaps may be among what is lost, and threads read these that cannot wait.
    let is_eager = !copy.can_follow() || !lost.is_empty();
    // In the order of the source, which profiles count in.
    let slots = section.slots.iter().filter_map(|item| SlotId::from_raw(item.slot.0)).collect();
    let entry = EntryId(manifest.entry);
    let lacking = Lacking::new(cluster, of, (entry, slots), (missing, lost), is_eager);
    copy.lacking = Some(lacking.clone());
    incoming.lazy =
        Some(Lazy { lacking, chunks: Chunks::default(), is_ready: false, has_called: false });
    Ok(incoming)
}

impl BulkSink for Arrive {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        let done = self.install(bytes).and_then(|rest| self.follow(rest));
        if let Err(why) = done {
            if self.is_ready() {
                // The task may run already.
                return Err(why);
            }
            self.fail(Refusal::ShipFailed { why });
        }
        Ok(())
    }

    fn end(mut self: Box<Self>, complete: bool) {
        if self.is_ready() {
            // Post-copy: whether more has to come is between the two ends (`lacking`).
            return;
        }
        let failed = match &self.incoming {
            Err(_) => return,
            Ok(Incoming { lazy: None, is_last: true, installer, .. })
                if complete && installer.is_complete() =>
            {
                return self.arrival.streamed(self.cluster, self.epoch);
            }
            Ok(_) => Some(Refusal::ShipFailed { why: "the stream ended too early".to_owned() }),
        };
        if let Some(why) = failed {
            self.fail(why);
        }
    }
}

/// Takes and throws away a shipment that is not wanted.
pub(crate) struct Discard;

impl BulkSink for Discard {
    fn chunk(&mut self, _: &[u8]) -> Result<(), String> {
        Err("this shipment is not taken".to_owned())
    }
    fn end(self: Box<Self>, _: bool) {}
}
