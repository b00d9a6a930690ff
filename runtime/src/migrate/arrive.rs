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

use migrt_iso::pool::{self, Conflict};
use migrt_iso::SlotId;
use migrt_proto::wire::{Refusal, ShipHeader};
use migrt_proto::{Epoch, TaskId};

use super::image::Installer;
use super::{Manifest, call_of};
use crate::cluster::Cluster;
use crate::net::BulkSink;
use crate::task::header::{Header, Layout};
use crate::task::mobile::{self, MobileBody};
use crate::task::record::{Body, TaskRef};
use crate::task::tls::TlsLayout;

/// How long an arriving task waits for the release of its own old copy.
const RELEASE_PATIENCE: Duration = Duration::from_millis(100);

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
    /// Slots that were adopted, the task slot first.
    Here(Vec<SlotId>),
    Gone,
}

impl Arrival {
    /// The copy is not wanted: its slots are another node's, and stay so.
    pub(crate) fn discard(&self) {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        if let State::Here(slots) = state {
            for slot in slots {
                pool::global().release(slot);
            }
        }
    }

    /// The commit has come: the task is this node's, in `epoch`.
    pub(crate) fn thaw(&self, epoch: Epoch) -> TaskRef {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Gone);
        let State::Here(slots) = state else { unreachable!("thawed a discarded copy") };
        let header = match slots.first() {
            Some(&slot) => {
                // SAFETY: the pages of this slot were installed whole, a header among them, and
                // nobody else knows them (I1, I3).
                let header = unsafe { &*Layout { slot }.header() };
                assert_eq!(header.id, self.task, "I4: another task's header has arrived");
                header.moves.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                crate::task::set_clock(header, self.manifest.clock_ns);
                // SAFETY: the block came whole with the task, which does not run.
                unsafe { TlsLayout::get().arrive(header.tp()) };
                header as *const Header as *mut Header
            }
            None => std::ptr::null_mut(),
        };
        let pause_us = self.manifest.stood_us + self.since.elapsed().as_micros() as u32;
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
        let mut adopted = Vec::new();
        let opened = adopt(&ship, &mut adopted);
        let (manifest, installer) = match opened {
            Ok((manifest, installer)) => (manifest, Ok(installer)),
            Err(why) => {
                for slot in adopted.drain(..) {
                    pool::global().release(slot);
                }
                (Manifest { entry: 0, args: None, stood_us: 0, clock_ns: 0 }, Err(why))
            }
        };
        let state = Mutex::new(State::Here(adopted));
        let arrival = Arc::new(Arrival { task, manifest, since, state });
        if installer.is_ok() {
            cluster.expect_arrival(task, epoch, arrival.clone());
        }
        Arrive { cluster, arrival, epoch, installer }
    }

    fn install(&mut self, bytes: &[u8]) -> Result<(), String> {
        let installer = self.installer.as_mut().map_err(|why| why.clone())?;
        // Held while pages are written: a discard waits, and then nothing is written any more.
        let state = self.arrival.state.lock().unwrap();
        match &*state {
            State::Here(_) => installer.write(bytes),
            State::Gone => Err("the move was called off".to_owned()),
        }
    }
}

/// Takes the slots of an arriving task and prepares them.
fn adopt(ship: &ShipHeader, adopted: &mut Vec<SlotId>) -> Result<(Manifest, Installer), String> {
    let manifest: Manifest =
        postcard::from_bytes(&ship.extra).map_err(|e| format!("the manifest cannot be read: {e}"))?;
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
        take_over(slot)?;
        adopted.push(slot);
    }
    if let Some(&slot) = adopted.first()
        && !mobile::install_guard(slot)
    {
        return Err(format!("the guard of {slot} cannot be installed"));
    }
    Ok((manifest, Installer::new(&ship.slots)?))
}

/// Adopts a slot. A task that comes back at once may find its old copy still here, its release
/// ordered but not carried out yet by the thread that works on it: that is waited for.
fn take_over(slot: SlotId) -> Result<(), String> {
    let patience = Instant::now() + RELEASE_PATIENCE;
    loop {
        match pool::global().adopt(slot) {
            Ok(()) => return Ok(()),
            Err(Conflict::InUse(_)) if Instant::now() < patience => std::thread::yield_now(),
            Err(conflict) => return Err(conflict.to_string()),
        }
    }
}

impl BulkSink for Arrive {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.install(bytes)
    }

    fn end(self: Box<Self>, complete: bool) {
        let (task, epoch) = (self.arrival.task, self.epoch);
        let failed = match &self.installer {
            Err(why) => Some(Refusal::Other { why: why.clone() }),
            Ok(installer) if complete && installer.is_complete() => None,
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
