//! A task that arrives: its slots are adopted, its pages installed, and at the commit it is thawed.
//!
//! ```text
//! bulk stream opens   adopt slots, guard the stack        (conflict: refuse, the task stays away)
//! chunks              install pages
//! stream ends         make its record, FROZEN             Ready
//! commit              set the clock, the epoch; thaw      Ack, resume
//! abort, death        discard: slots are not ours
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migrt_iso::SlotId;
use migrt_iso::pool::{self, Conflict};
use migrt_proto::wire::{Refusal, ShipHeader};
use migrt_proto::{Epoch, TaskId};

use super::image::Installer;
use super::remains::{self, Kept, Merge};
use super::{Manifest, call_of};
use crate::cluster::Cluster;
use crate::net::BulkSink;
use crate::task::adopted;
use crate::task::body::MobileBody;
use crate::task::header::{Header, Layout};
use crate::task::mobile;
use crate::task::record::{Body, TaskRef};
use crate::task::tls::TlsLayout;

/// How long an arriving task waits for the release of its own old copy.
const RELEASE_PATIENCE: Duration = Duration::from_millis(50);

/// A copy that is being installed, or waits for its commit.
#[derive(Debug)]
pub(crate) struct Arrival {
    task: TaskId,
    manifest: Manifest,
    since: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Here(Copy),
    Gone,
}

/// What has been taken for the copy so far.
#[derive(Debug, Default)]
struct Copy {
    /// Slots that were adopted, the task slot first.
    slots: Vec<SlotId>,
    /// What the task left here when it was here before.
    kept: Option<Kept>,
    /// The same, once all pages have come and fit over it.
    merge: Option<Merge>,
}

impl Copy {
    /// The slots are another node's, and stay so; remains stay remains.
    fn undo(self) {
        let kept = self.kept.or(self.merge.map(Merge::into_kept));
        for slot in self.slots {
            if kept.as_ref().is_none_or(|kept| !kept.slots.contains(&slot)) {
                pool::global().release(slot);
            }
        }
        if let Some(kept) = kept {
            remains::put_back(kept);
        }
    }
}

impl Arrival {
    /// The copy is not wanted: its slots are another node's, and stay so.
    pub(crate) fn discard(&self) {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        if let State::Here(copy) = state {
            copy.undo();
        }
    }

    /// The commit has come: the task is this node's, in `epoch`.
    pub(crate) fn thaw(&self, epoch: Epoch) -> TaskRef {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        let State::Here(copy) = state else { unreachable!("thawed a discarded copy") };
        if let Some(merge) = copy.merge {
            merge.apply();
        }
        let header = match copy.slots.first() {
            Some(&slot) => {
                // SAFETY: the pages of this slot were installed whole, a header among them, and
                // nobody else knows them (I1, I3).
                let header = unsafe { &*Layout { slot }.header() };
                assert_eq!(header.id, self.task, "I4: another task's header has arrived");
                adopted::arrived(header);
                header.moves.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.manifest.clock.go_on(header, self.since.elapsed());
                // SAFETY: the block came whole with the task, which does not run.
                unsafe { TlsLayout::get().arrive(header.tp()) };
                header as *const Header as *mut Header
            }
            None => std::ptr::null_mut(),
        };
        let shipped = self.manifest.clock.elapsed(self.since.elapsed());
        let pause_us = self.manifest.stood_us + shipped.as_micros() as u32;
        crate::cluster::cluster().metrics.arrived(pause_us);
        tracing::debug!(task = %self.task, pause_us, "arrived");
        let body = MobileBody::new(self.task, epoch.0, call_of(&self.manifest), header);
        TaskRef::new(None, Body::Mobile(body))
    }
}

/// The sink of one arriving task.
pub(crate) struct Arrive {
    cluster: &'static Cluster,
    arrival: Arc<Arrival>,
    epoch: Epoch,
    installer: Result<Installer, String>,
}

impl Arrive {
    pub(crate) fn open(cluster: &'static Cluster, ship: ShipHeader) -> Arrive {
        let since = Instant::now();
        let (task, epoch) = (ship.task, ship.epoch);
        let mut copy = Copy { kept: remains::take(task), ..Copy::default() };
        let opened = adopt(&ship, &mut copy);
        let (manifest, installer) = match opened {
            Ok((manifest, installer)) => (manifest, Ok(installer)),
            Err(why) => {
                std::mem::take(&mut copy).undo();
                (Manifest::default(), Err(why))
            }
        };
        let state = Mutex::new(State::Here(copy));
        let arrival = Arc::new(Arrival { task, manifest, since, state });
        match &installer {
            Ok(_) => cluster.expect_arrival(task, epoch, arrival.clone()),
            Err(why) => {
                let why = Refusal::Other { why: why.clone() };
                cluster.tell(|core, now| core.install_failed(now, task, epoch, why));
            }
        }
        Arrive { cluster, arrival, epoch, installer }
    }

    /// All pages have come: do they fit over what the task left here?
    fn fit(&mut self) -> Result<(), Refusal> {
        let staging = self.installer.as_mut().ok().and_then(|installer| installer.staging.take());
        let mut state = self.arrival.state.lock().unwrap();
        let (State::Here(copy), Some(staging)) = (&mut *state, staging) else { return Ok(()) };
        let kept = copy.kept.take().expect("pages are staged over remains only");
        match Merge::check(kept, staging) {
            Ok(merge) => {
                copy.merge = Some(merge);
                Ok(())
            }
            Err((kept, why)) => {
                copy.kept = Some(kept);
                Err(Refusal::Other { why })
            }
        }
    }

    fn install(&mut self, bytes: &[u8]) -> Result<(), String> {
        // Refused already: the source hears why, and what still comes is thrown away. (Breaking the
        // stream would tell it only that.)
        let Ok(installer) = self.installer.as_mut() else { return Ok(()) };
        // Held while pages are written: a discard waits, and then nothing is written any more.
        let state = self.arrival.state.lock().unwrap();
        match &*state {
            State::Here(_) => installer.write(bytes),
            State::Gone => Ok(()),
        }
    }
}

/// Takes the slots of an arriving task and prepares them.
fn adopt(ship: &ShipHeader, copy: &mut Copy) -> Result<(Manifest, Installer), String> {
    let manifest: Manifest = postcard::from_bytes(&ship.extra)
        .map_err(|e| format!("the manifest cannot be read: {e}"))?;
    if crate::entry::lookup(migrt_proto::EntryId(manifest.entry)).is_none() {
        return Err(format!("this node has no entry {:#018x}", manifest.entry));
    }
    if ship.page_len as usize != migrt_iso::PAGE_LEN {
        return Err(format!("pages of {} bytes, not {}", ship.page_len, migrt_iso::PAGE_LEN));
    }
    if ship.slots.is_empty() == manifest.args.is_none() {
        return Err("a started task comes with slots, another with a call".to_owned());
    }
    for (at, item) in ship.slots.iter().enumerate() {
        let slot = SlotId::from_raw(item.slot.0)
            .ok_or_else(|| format!("{:#x} is no slot", item.slot.0))?;
        if at == 0 && slot.class() < crate::task::header::TASK_CLASS {
            return Err(format!("{slot} is too short for a task slot"));
        }
        take_over(slot, ship.task, &mut copy.kept)?;
        copy.slots.push(slot);
    }
    // Heap slots that the task has given up since it left: nothing of it lives in them.
    if let Some(kept) = &mut copy.kept {
        for slot in kept.slots.extract_if(.., |slot| !copy.slots.contains(slot)) {
            pool::global().unkeep(slot);
        }
    }
    if let Some(&slot) = copy.slots.first()
        && !mobile::install_guard(slot)
    {
        return Err(format!("the guard of {slot} cannot be installed"));
    }
    Ok((manifest, Installer::new(&ship.slots, copy.kept.is_some())?))
}

/// Adopts a slot. A task that comes back at once may find its old copy still here, its release
/// ordered but not carried out yet by the thread that works on it: that is waited for. Another
/// task's remains are looked at again: mostly nothing reaches them any more.
fn take_over(slot: SlotId, task: TaskId, kept: &mut Option<Kept>) -> Result<(), String> {
    let patience = Instant::now() + RELEASE_PATIENCE;
    let mut collected = false;
    loop {
        let adopted = match kept {
            Some(kept) if kept.slots.contains(&slot) => pool::global().adopt_over_remains(slot),
            _ => pool::global().adopt(slot),
        };
        match adopted {
            Ok(()) => return Ok(()),
            Err(Conflict::InUse(_)) if Instant::now() < patience => std::thread::yield_now(),
            Err(Conflict::Remains(_)) if kept.is_none() && Instant::now() < patience => {
                // Its own, kept just now, or another's.
                *kept = remains::take(task);
                if kept.is_none() && !std::mem::replace(&mut collected, true) {
                    remains::collect_if_due();
                }
            }
            Err(Conflict::Remains(_)) if !std::mem::replace(&mut collected, true) => {
                remains::collect_if_due();
            }
            Err(conflict) => return Err(conflict.to_string()),
        }
    }
}

impl BulkSink for Arrive {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.install(bytes)
    }

    fn end(mut self: Box<Self>, complete: bool) {
        let (task, epoch) = (self.arrival.task, self.epoch);
        let failed = match &self.installer {
            Err(_) => return,
            Ok(installer) if complete && installer.is_complete() => self.fit().err(),
            Ok(_) => Some(Refusal::ShipFailed { why: "the stream ended too early".to_owned() }),
        };
        crate::fail::point("target.installed");
        match failed {
            None => self.cluster.tell(|core, now| core.installed(now, task, epoch)),
            Some(why) => {
                self.cluster.forget_arrival(task, epoch);
                self.arrival.discard();
                self.cluster.tell(|core, now| core.install_failed(now, task, epoch, why));
            }
        }
        crate::fail::point("target.ready");
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
