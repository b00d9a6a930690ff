//! Sending a frozen task: what is left after rounds, its head, all of it, or its call.

use std::sync::Arc;

use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::wire::{ShipHeader, ShipSlot, StreamHead};
use migrt_proto::{Epoch, NodeId, TaskId};
use serde::{Deserialize, Serialize};

use super::check::{self, Check};
use super::copying::Copying;
use super::have::Offer;
use super::record::Report;
use super::remains::{Base, Thin, number_of};
use super::rounds::by_slot;
use super::{hash, image, long, mobile, ship_head, slots_of};
use crate::census;
use crate::cluster::Cluster;
use crate::fail;
use crate::net::{BULK_HEADER_LEN_MAX, Part};
use crate::task::body::MobileBody;
use crate::task::header::Header;
use crate::task::record::TaskRef;
use crate::task::state::Phase;
use crate::task::time::Reading;

/// What travels beside the pages.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The task's entry: the target checks that it has it.
    pub(crate) entry: u64,
    /// The encoded arguments of a task that has not started; it has no pages.
    pub(crate) args: Option<Vec<u8>>,
    /// How long the task had stood still when this was written.
    pub(crate) stood_us: u32,
    /// Its clock when this was written.
    pub(crate) clock: Reading,
    /// What the move came to so far; for the record.
    pub(crate) report: Report,
    /// Post-copy: live pages that follow, but for those that rounds have announced.
    pub(crate) missing: Vec<ShipSlot>,
    /// Under which name remains of it are kept, if not under its own.
    pub(crate) remains: Option<TaskId>,
    /// How many pages follow in all.
    pub(crate) missing_count: u64,
    /// Live pages that do not come, since the target has kept them.
    pub(crate) same: Vec<ShipSlot>,
    /// One hash of all their hashes.
    pub(crate) same_hash: u128,
    /// The target was asked what it keeps.
    pub(crate) has_asked: bool,
    /// Moves in a row for which that brought little or nothing, before this one.
    pub(crate) futile: u32,
    /// Nodes that the task has been at.
    pub(crate) visited: Vec<NodeId>,
    /// Test mode: what the pages hash to.
    pub(crate) check: Option<Check>,
}

impl Manifest {
    /// The target is to keep what it has of the task: gives what of it, for the base.
    pub(super) fn keeps(&mut self, offer: &Offer, slots: &[SlotId]) -> Thin {
        let (told, same) = offer.told();
        self.report.same(same.len());
        self.same_hash = hash::fold(told.among(&same));
        self.same = by_slot(slots, &same);
        self.same.retain(|item| !item.runs.is_empty());
        Thin::new(told, same)
    }
}

/// Images from this length on are copied by a thread of their own: a node that copies for long must
/// go on answering heartbeats.
const LONG_IMAGE: usize = 1 << 20;

pub(super) const NO_SLOT: &str = "this node has no slot left to copy the task's pages to";

/// Whether a frozen task that goes whole is copied, looked through and sent piece by piece (`long`).
pub(super) fn is_long(header: &Header) -> bool {
    live_pages(header) * PAGE_LEN > LONG_IMAGE && header.adopted().next().is_none()
}

/// Sends a frozen task to `to`.
pub(crate) fn ship(cluster: &'static Cluster, task: &TaskRef, epoch: Epoch, to: NodeId) {
    let body = mobile(task);
    let goes_whole = body.journey().copying.is_none() && !body.journey().is_lazy;
    let is_long = |h: &Header| live_pages(h) * PAGE_LEN > LONG_IMAGE;
    if goes_whole && body.header().is_some_and(is_long) {
        let task = task.clone();
        let spawned = crate::thread::start_clearing("migrt-shipper", move || {
            ship_now(cluster, &task, epoch, to);
        });
        if spawned.is_ok() {
            return;
        }
    }
    census::clearing(|| ship_now(cluster, task, epoch, to));
}

fn ship_now(cluster: &'static Cluster, task: &TaskRef, epoch: Epoch, to: NodeId) {
    let body = mobile(task);
    let id = body.id;
    // Held until the copy is made: a move that is called off meanwhile waits for it.
    let mut shipped = body.shipped();
    if task.state.phase() != Phase::Frozen {
        return;
    }
    let (copying, is_lazy) = {
        let journey = body.journey();
        (journey.copying.clone(), journey.is_lazy)
    };
    if is_lazy && let Some(header) = body.header() {
        let done = ship_head::ship(cluster, (task, header), (epoch, to), copying.as_deref());
        drop(shipped);
        fail::point("source.shipped");
        if let Err(why) = done {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
        return;
    }
    if let (Some(copying), Some(header)) = (copying, body.header()) {
        let failed = match ship_rest(cluster, &copying, header, body) {
            Ok((base, byte_count)) => {
                copying.hurry(cluster);
                *shipped = Some(Arc::new(base));
                cluster.metrics.shipped(byte_count / PAGE_LEN, byte_count);
                None
            }
            Err(why) => Some(why),
        };
        drop(shipped);
        fail::point("source.shipped");
        if let Some(why) = failed {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
        return;
    }
    if body.journey().goes_in_pieces
        && let Some(header) = body.header()
    {
        let done = long::ship(cluster, (task, header), (epoch, to), &mut shipped);
        drop(shipped);
        fail::point("source.shipped");
        if let Err(why) = done {
            cluster.tell(|core, now| core.ship_refused(now, id, epoch, why));
        }
        return;
    }
    let Some(load) = load(body) else {
        drop(shipped);
        return cluster.tell(|core, now| core.ship_failed(now, id, epoch, NO_SLOT));
    };
    let Load { manifest, slots, mut base, same, parts } = load;
    let byte_count = base.byte_count();
    let ship = ShipHeader {
        task: id,
        epoch,
        slots,
        page_len: PAGE_LEN as u32,
        extra: postcard::to_stdvec(&manifest).expect("plain data encodes"),
    };
    let header = match head_of(ship) {
        Ok(header) => header,
        Err(why) => {
            drop(shipped);
            return cluster.tell(|core, now| core.ship_failed(now, id, epoch, why));
        }
    };
    if let Err(why) = commit(cluster, (id, epoch), to) {
        drop(shipped);
        return cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
    }
    cluster.metrics.shipped(byte_count / PAGE_LEN, byte_count + header.len());
    cluster.send_bulk(to, header, parts, move |result| {
        if let Err(why) = result {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
    });
    // While it is on its way. Whoever lets the task go waits for the lock.
    base.note_same(same);
    *shipped = Some(Arc::new(base));
    drop(shipped);
    fail::point("source.shipped");
}

/// To commit without a link would leave the task frozen until there is one again.
pub(super) fn has_link(cluster: &Cluster, to: NodeId) -> Result<(), String> {
    match cluster.is_linked(to) {
        true => Ok(()),
        false => Err(format!("there is no link to {to}")),
    }
}

/// Asks the core whether the last byte of a shipment may go to the wire: it is the commit.
///
/// # Errors
/// The try is over, or there is no link: the stream is to be broken off.
pub(super) fn commit(
    cluster: &Cluster,
    (task, epoch): (TaskId, Epoch),
    to: NodeId,
) -> Result<(), String> {
    has_link(cluster, to)?;
    if !cluster.tell_only(|core| core.commit(task, epoch)) {
        return Err("it was called off".to_owned());
    }
    fail::point("source.committed");
    Ok(())
}

/// A shipment's head as it opens the stream.
pub(super) fn head_of(ship: ShipHeader) -> Result<Vec<u8>, &'static str> {
    let mut head = Vec::new();
    StreamHead::Ship(ship).encode(&mut head);
    match head.len() <= BULK_HEADER_LEN_MAX {
        true => Ok(head),
        false => Err("its pages lie too scattered to be listed"),
    }
}

/// What is sent of a task.
struct Load {
    manifest: Manifest,
    slots: Vec<ShipSlot>,
    base: Base,
    /// Pages that the target has; the base does not yet list them.
    same: Thin,
    parts: Vec<Part>,
}

/// The rest of a task whose rounds are over.
fn ship_rest(
    cluster: &'static Cluster,
    copying: &Copying,
    header: &Header,
    body: &MobileBody,
) -> Result<(Base, usize), String> {
    prepare(header);
    copying.ship_rest(cluster, body, header, || manifest(body))
}

/// Pages of a task's heaps that hold live blocks or records.
pub(super) fn live_pages(header: &Header) -> usize {
    let mut count = 0;
    let runs = &mut |_, len| count += len / PAGE_LEN;
    header.arenas().for_each(|arena| arena.arena().for_each_live_run(runs));
    count
}

/// Copies a frozen task's pages, or its call. `None`: there is no slot for the copy.
fn load(body: &MobileBody) -> Option<Load> {
    let Some(header) = body.header() else {
        let mut manifest = manifest(body);
        let call = body.take_call().expect("a task without a header has its call");
        manifest.entry = call.entry.0;
        manifest.args = Some(call.args.clone());
        body.put_call(call);
        let (slots, parts) = (Vec::new(), Vec::new());
        return Some(Load { manifest, slots, base: Base::default(), same: Thin::default(), parts });
    };
    prepare(header);
    let offer = body.journey().offer.clone();
    loop {
        let same = offer.as_ref().map(|offer| offer.same()).unwrap_or_default();
        let image = image::of(header, &same);
        let (base, parts) = Base::copy(&image.slots)?;

        // Others may free blocks of a frozen task. Such a free is carried out here or kept for its
        // return, but never goes along: it would be carried out twice.
        // (A page that the target has, it has without one.)
        let is_bare =
            |list| base.word(list).map_or(same.contains(number_of(list)), |head| head == 0);
        if header.arenas().all(|a| is_bare(a.arena().remote_list_addr())) {
            let mut manifest = manifest(body);
            manifest.report.stop_copy((base.byte_count() / PAGE_LEN) as u64);
            let keeps = |offer: &Arc<Offer>| manifest.keeps(offer, &slots_of(header));
            let same = offer.as_ref().map(keeps).unwrap_or_default();
            check::take(&mut manifest, header);
            return Some(Load { manifest, slots: image.slots, base, same, parts });
        }
        body.drain_frees(header);
        super::compare(body);
    }
}

/// Written when everything else is ready: what it says of times holds from then on.
pub(super) fn manifest(body: &MobileBody) -> Manifest {
    let journey = body.journey();
    Manifest {
        entry: body.header().map_or(0, |header| header.entry.id.0),
        args: None,
        stood_us: journey.stood_us(),
        clock: Reading::take(body.header()),
        report: Report::begin(&journey),
        remains: body.header().map(Header::remains_id).filter(|&id| id != body.id),
        has_asked: journey.offer.is_some(),
        futile: journey.futile,
        visited: journey.visited.clone(),
        ..Manifest::default()
    }
}

/// Takes the words of this node out of a header that is about to be shipped.
pub(super) fn prepare(header: &Header) {
    header.worker.set(std::ptr::null());
    header.record.set(std::ptr::null());
    header.prefix.clear_worker();
    crate::task::safepoint::clear(header);
}
