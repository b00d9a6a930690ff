//! Moving a task, in the order of its life:
//!
//! ```text
//! spawn  run  decide  suspend  freeze  ship  thaw  resume
//! stop-copy           suspend  freeze  ship  thaw  resume
//! ```
//!
//! Who decides each step is `migrt_proto::migrate`; here the steps are done. [`freeze`] gets the
//! task out of the workers' hands and [`depart`] checks that it may leave, [`ship`] copies its
//! [`image`] and sends it; at the target [`arrive`] installs it and thaws it; it resumes through
//! `exec::door` like any other task. If anything fails before the commit, [`resume_here`].

#[expect(unsafe_code, reason = "installs arriving pages and wakes what they hold")]
pub(crate) mod arrive;
#[expect(unsafe_code, reason = "reads every word of a frozen task")]
pub(crate) mod audit;
pub(crate) mod chaos;
#[expect(unsafe_code, reason = "reads the pages of frozen tasks and writes those of arriving ones")]
pub(crate) mod image;
pub(crate) mod pins;
#[expect(unsafe_code, reason = "compares and merges pages that the node still uses")]
pub(crate) mod remains;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::wire::{Refusal, ShipHeader, ShipSlot};
use migrt_proto::{EntryId, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::census;
use crate::cluster::{Cluster, cluster};
use crate::config::Audit;
use crate::exec::door;
use crate::fail;
use crate::task::adopted;
use crate::task::body::{Call, Journey, MobileBody};
use crate::task::header::Header;
use crate::task::record::TaskRef;
use crate::task::state::Phase;
use crate::task::time::Reading;

/// The arguments of a call that moves before it has started are at most so long; the header of a
/// shipment has twice the room.
const CALL_LEN_MAX: usize = 512 << 10;

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
}

/// The core orders a task to be moved: gets it out of the workers' hands.
pub(crate) fn freeze(task: TaskRef, target: NodeId) {
    fail::point("source.ordered");
    let body = mobile(&task);
    body.ask_move(target.0);
    if task.state.freeze_waiting() {
        depart(task);
    } else {
        // A running task is asked at its safepoints; one about to sleep must look once more.
        door::wake(task);
    }
}

/// The task is frozen and in the caller's hands: may it leave?
pub(crate) fn depart(task: TaskRef) {
    census::clearing(|| leave(task));
}

fn leave(task: TaskRef) {
    let body = mobile(&task);
    let cluster = cluster();
    let Some(target) = body.take_move() else {
        // Called off meanwhile.
        return stay(task);
    };
    body.frozen_at(Instant::now());
    match check(body, NodeId(target)) {
        Ok(()) => {
            fail::point("source.frozen");
            cluster.tell(|core, now| core.frozen(now, body.id));
        }
        Err(why) => {
            cluster.metrics.refused();
            tracing::debug!(task = %body.id, target, %why, "a move is refused");
            body.set_refusal(why.to_string());
            // The core first: the task may order its next move as soon as it goes on.
            cluster.tell(|core, now| core.freeze_failed(now, body.id, why));
            stay(task);
        }
    }
}

/// Whether a frozen task may leave this node.
fn check(body: &MobileBody, target: NodeId) -> Result<(), Refusal> {
    if target == cluster().me() {
        return Err(Refusal::Other { why: "it is there already".to_owned() });
    }
    let pins = pins::of(body);
    if !pins.is_empty() {
        return Err(Refusal::Pinned { what: pins.join(", ") });
    }
    let Some(header) = body.header() else { return check_call(body) };
    body.drain_frees(header);
    let sp = image::saved_sp(header);
    let layout = header.layout();
    if !(layout.stack_low()..layout.tls_start()).contains(&sp) {
        return Err(Refusal::Pinned {
            what:
                "it is suspended on another stack than its own (a nested coroutine, or a library \
                   that switches stacks)"
                    .to_owned(),
        });
    }
    let audit = crate::node::node().config.audit;
    if audit != Audit::Off
        && let Some(hit) = audit::scan(header, &slots_of(header))
    {
        if audit == Audit::Strict {
            return Err(Refusal::Pinned { what: hit.to_string() });
        }
        eprintln!("migrt: audit: task {} ({}): {hit}", body.id, header.entry.name);
    }
    Ok(())
}

/// Whether a call that has not started may leave: its arguments travel in the header.
fn check_call(body: &MobileBody) -> Result<(), Refusal> {
    let Some(call) = body.take_call() else { return Ok(()) };
    let len = call.args.len();
    body.put_call(call);
    if len > CALL_LEN_MAX {
        let why = format!(
            "it has not started, and its arguments take {len} bytes; a call of more than \
             {CALL_LEN_MAX} moves when it has"
        );
        return Err(Refusal::Other { why });
    }
    Ok(())
}

/// A frozen task goes on where it is.
fn stay(task: TaskRef) {
    task.state.thaw();
    door::push(task);
}

/// Images from this length on are copied by a thread of their own: a node that copies for long must
/// go on answering heartbeats.
const LONG_IMAGE: usize = 1 << 20;

/// Sends a frozen task to `to`.
pub(crate) fn ship(cluster: &'static Cluster, task: &TaskRef, epoch: Epoch, to: NodeId) {
    let is_long = mobile(task).header().is_some_and(|header| {
        header.arenas().map(|arena| arena.arena().live_bytes()).sum::<usize>() > LONG_IMAGE
    });
    if is_long {
        let task = task.clone();
        let spawned =
            std::thread::Builder::new().name("migrt-shipper".to_owned()).spawn(move || {
                census::clearing(|| ship_now(cluster, &task, epoch, to));
                // libc keeps the stacks of threads that have ended, and a census reads them.
                census::clear_stack();
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
    let mut journey = body.journey();
    if task.state.phase() != Phase::Frozen {
        return;
    }
    let Some(load) = load(body, &journey) else {
        drop(journey);
        let why = "this node has no slot left to copy the task's pages to";
        return cluster.tell(|core, now| core.ship_failed(now, id, epoch, why));
    };
    let Load { manifest, slots, base } = load;
    let byte_count = base.byte_count();
    let parts = base.parts();
    journey.shipped = Some(base);
    drop(journey);
    let ship = ShipHeader {
        task: id,
        epoch,
        slots,
        page_len: PAGE_LEN as u32,
        extra: postcard::to_stdvec(&manifest).expect("plain data encodes"),
    };
    let mut header = Vec::new();
    ship.encode(&mut header);
    cluster.metrics.shipped(byte_count / PAGE_LEN, byte_count + header.len());
    cluster.send_bulk(to, header, parts, move |result| {
        if let Err(why) = result {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
    });
    fail::point("source.shipped");
}

/// What is sent of a task.
struct Load {
    manifest: Manifest,
    slots: Vec<ShipSlot>,
    base: Arc<remains::Base>,
}

/// Copies a frozen task's pages, or its call. `None`: there is no slot for the copy.
fn load(body: &MobileBody, journey: &Journey) -> Option<Load> {
    let mut manifest = Manifest {
        entry: 0,
        args: None,
        stood_us: journey.stood_us(),
        clock: Reading::take(body.header()),
    };
    let Some(header) = body.header() else {
        let call = body.take_call().expect("a task without a header has its call");
        manifest.entry = call.entry.0;
        manifest.args = Some(call.args.clone());
        body.put_call(call);
        return Some(Load { manifest, slots: Vec::new(), base: Arc::new(remains::Base::empty()) });
    };
    manifest.entry = header.entry.id.0;
    prepare(header);
    loop {
        let image = image::of(header);
        let base = remains::Base::copy(&image.slots)?;
        // Others may free blocks of a frozen task. Such a free is carried out here or kept for its
        // return, but never goes along: it would be carried out twice.
        if header.arenas().all(|a| base.word(a.arena().remote_list_addr()) == Some(0)) {
            return Some(Load { manifest, slots: image.slots, base: Arc::new(base) });
        }
        body.drain_frees(header);
    }
}

/// Takes the words of this node out of a header that is about to be shipped.
fn prepare(header: &Header) {
    header.worker.set(std::ptr::null());
    header.record.set(std::ptr::null());
    header.prefix.clear_worker();
    crate::task::safepoint::clear(header);
}

/// The move did not happen (I11): the task goes on here, in `epoch`.
pub(crate) fn resume_here(cluster: &Cluster, task: TaskRef, epoch: Epoch, why: &Refusal) {
    let body = mobile(&task);
    tracing::debug!(task = %body.id, %why, "a move failed; the task goes on here");
    body.set_refusal(why.to_string());
    body.epoch.store(epoch.0, Ordering::Relaxed);
    cluster.metrics.refused();
    body.take_move();
    if task.state.phase() == Phase::Frozen {
        stay(task);
    } else {
        // It was not frozen yet; if it waits for this move, it must hear of its end.
        door::wake(task);
    }
}

/// The task is another node's: lets the frozen copy go without running anything of it.
pub(crate) fn release(cluster: &Cluster, task: &TaskRef, to: NodeId) {
    census::clearing(|| let_go(cluster, task, to));
}

fn let_go(cluster: &Cluster, task: &TaskRef, to: NodeId) {
    let body = mobile(task);
    fail::point("source.acked");
    cluster.metrics.left();
    tracing::debug!(task = %body.id, to = to.0, "left");
    if let Some(header) = body.header() {
        let base =
            body.journey().shipped.take().expect("it was shipped before it was another node's");
        remains::keep_departed(header, base);
    }
    body.clear_header();
    task.state.release();
}

/// The slots of a task, its task slot first, those of adopted arenas last.
pub(crate) fn slots_of(header: &Header) -> Vec<SlotId> {
    let mut slots = vec![header.slot];
    header.prefix.arena().for_each_extent(&mut |slot| slots.push(slot));
    adopted::slots(header, &mut |slot| slots.push(slot));
    slots
}

fn mobile(task: &TaskRef) -> &MobileBody {
    task.mobile().expect("only mobile tasks move")
}

/// The call in a manifest.
fn call_of(manifest: &Manifest) -> Option<Call> {
    let args = manifest.args.clone()?;
    Some(Call { entry: EntryId(manifest.entry), args })
}
