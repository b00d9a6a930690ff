//! Moving a task, in the order of its life:
//!
//! ```text
//! spawn  run  decide  suspend  freeze  ship  thaw  resume
//! stop-copy                     suspend  freeze  ship       thaw  resume
//! pre-copy   ( ship a round )*  suspend  freeze  ship rest  thaw  resume
//! post-copy                     suspend  freeze  ship head  thaw  resume  ( fault | push )*
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
mod copy;
pub(crate) mod copying;
#[expect(unsafe_code, reason = "handles signals, and waits for pages")]
pub(crate) mod fault;
pub(crate) mod follow;
#[expect(unsafe_code, reason = "reads the stacks of frozen tasks")]
mod head;
#[expect(unsafe_code, reason = "reads the pages of frozen tasks")]
pub(crate) mod image;
#[expect(unsafe_code, reason = "writes the pages of arriving tasks")]
mod installer;
pub(crate) mod lacking;
mod pages;
pub(crate) mod pins;
mod plan;
pub(crate) mod record;
#[expect(unsafe_code, reason = "compares and merges pages that the node still uses")]
pub(crate) mod remains;
#[expect(unsafe_code, reason = "reads pages of tasks that run")]
mod rounds;
#[expect(unsafe_code, reason = "reads the pages of frozen tasks")]
pub(crate) mod serve;
#[expect(unsafe_code, reason = "sleeps until pages come")]
mod sleepers;
pub(crate) mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::wire::{Refusal, ShipHeader, ShipSlot, Strategy, StreamHead};
use migrt_proto::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

use self::copying::Copying;
use self::plan::Plan;
use self::record::Report;
use self::remains::Base;
use self::rounds::Checkpoint;
use crate::census;
use crate::cluster::{Cluster, cluster};
use crate::config::Audit;
use crate::exec::door;
use crate::fail;
use crate::net::Part;
use crate::task::adopted;
use crate::task::body::{MobileBody, Order};
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
    /// What the move came to so far; for the record.
    pub(crate) report: Report,
    /// Post-copy: live pages that follow.
    pub(crate) missing: Vec<ShipSlot>,
}

/// The core orders a task to be moved: gets it out of the workers' hands.
pub(crate) fn order(task: TaskRef, target: NodeId, epoch: Epoch, strategy: Strategy) {
    fail::point("source.ordered");
    let body = mobile(&task);
    let since = Instant::now();
    body.journey().order = Some(Order { epoch, strategy, since });
    body.ask_move(target.0);
    if !body.may_leave() {
        // Pages of it are on their way here, all of them: it goes when they have come (`untied`).
    } else if task.state.freeze_waiting() {
        depart(task);
    } else {
        // A running task is asked at its safepoints; one about to sleep must look once more.
        door::wake(task);
    }
}

/// Nothing ties the task to this node any more: what waited for that goes on.
fn untied(task: &TaskRef) {
    let body = mobile(task);
    if let Some(target) = body.move_asked() {
        body.ask_move(target);
        if task.state.freeze_waiting() {
            return depart(task.clone());
        }
    }
    door::wake(task.clone());
}

/// The task is frozen and in the caller's hands: may it leave?
pub(crate) fn depart(task: TaskRef) {
    census::clearing(|| leave(task));
}

fn leave(task: TaskRef) {
    let body = mobile(&task);
    let cluster = cluster();
    if !body.may_leave() {
        // It was frozen where it stands in a fault.
        return stay(task);
    }
    let Some(target) = body.take_move() else {
        // Called off meanwhile.
        return stay(task);
    };
    let since = Instant::now();
    let copying = body.journey().copying.clone();
    if let Some(copying) = &copying
        && !copying.is_last()
    {
        // A look at what is alive, between two rounds.
        if let Some(header) = body.header() {
            // Children may run: the list of arenas is theirs too.
            let _kin = body.kin();
            header.drain_frees();
            adopted::set_travelled(header);
            copying.take_look(header);
        }
        return stay(task);
    }
    body.frozen_at(since);
    let is_lazy = head::is_to_follow(body);
    body.journey().is_lazy = is_lazy;
    let mut checked = check(body, NodeId(target));
    if checked.is_ok() {
        // What it points to takes as long to see as its heap is long: with rounds that is done while
        // it runs.
        if copying.is_none() && begin_rounds(cluster, &task, NodeId(target)) {
            return stay(task);
        }
        checked = check_words(body, copying.as_deref());
    }
    match checked {
        Ok(()) => {
            fail::point("source.frozen");
            if body.journey().is_lazy {
                cluster.tell(|core, now| core.frozen_lazily(now, body.id));
            } else {
                cluster.tell(|core, now| core.frozen(now, body.id));
            }
        }
        Err(why) => {
            cluster.metrics.refused();
            tracing::debug!(task = %body.id, target, %why, "a move is refused");
            body.set_refusal(why.to_string());
            end_rounds(body);
            // The core first: the task may order its next move as soon as it goes on.
            cluster.tell(|core, now| core.freeze_failed(now, body.id, why));
            stay(task);
        }
    }
}

/// Whether the frozen task's pages are to be sent in rounds while it runs on: then it is to go on.
fn begin_rounds(cluster: &'static Cluster, task: &TaskRef, target: NodeId) -> bool {
    let body = mobile(task);
    let (Some(header), Some(Order { epoch, strategy, .. })) = (body.header(), body.journey().order)
    else {
        return false;
    };
    if strategy == Strategy::StopCopy {
        return false;
    }
    let first = Checkpoint::of(header);
    let plan = plan::plan(strategy, first.page_count(), cluster.link_rate(target));
    let Plan { limits: Some(limits), why, .. } = plan else { return false };
    // From now on slots that it gives up are not used again at once.
    adopted::set_travelled(header);
    Copying::start(cluster, task, (target, epoch), limits, why, first)
}

/// No more rounds of a task that goes on here, or ends.
pub(crate) fn end_rounds(body: &MobileBody) {
    let copying = body.journey().copying.take();
    if let Some(copying) = copying {
        copying.close();
    }
}

/// Whether a frozen task may leave this node, but for what it points to.
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
    Ok(())
}

/// Whether no word of a frozen task leads to what stays here.
fn check_words(body: &MobileBody, copying: Option<&Copying>) -> Result<(), Refusal> {
    let Some(header) = body.header() else { return Ok(()) };
    let audit = crate::node::node().config.audit;
    let slots = slots_of(header);
    // Pages that went in rounds were looked through as they were copied.
    let is_lazy = body.journey().is_lazy;
    let is_clean = match copying {
        // Long heaps are looked through as they follow.
        None if is_lazy && serve::is_long(header) => !audit::roots_lead_out(header, &slots),
        Some(copying) => {
            let other = |why| Refusal::ShipFailed { why };
            !copying.has_suspects(header).map_err(other)? && !audit::roots_lead_out(header, &slots)
        }
        None => false,
    };
    if audit != Audit::Off
        && !is_clean
        && let Some(hit) = audit::scan(header, &slots)
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
    let body = mobile(task);
    let goes_whole = body.journey().copying.is_none() && !body.journey().is_lazy;
    let is_long = |h: &Header| live_pages(h) * PAGE_LEN > LONG_IMAGE;
    if goes_whole && body.header().is_some_and(is_long) {
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
    let mut shipped = body.shipped();
    if task.state.phase() != Phase::Frozen {
        return;
    }
    let copying = body.journey().copying.clone();
    if let (Some(copying), Some(header)) = (copying, body.header()) {
        let failed = match ship_rest(&copying, header, body) {
            Ok((base, byte_count)) => {
                *shipped = Some(Arc::new(base));
                cluster.metrics.shipped(byte_count / PAGE_LEN, byte_count);
                None
            }
            Err(why) => Some(why),
        };
        drop(shipped);
        // The mover's thread ends, and with it the watching.
        copying.end();
        fail::point("source.shipped");
        if let Some(why) = failed {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
        return;
    }
    if body.journey().is_lazy
        && let Some(header) = body.header()
    {
        let done = serve::ship(cluster, (task, header), (epoch, to));
        drop(shipped);
        fail::point("source.shipped");
        if let Err(why) = done {
            cluster.tell(|core, now| core.ship_failed(now, id, epoch, &why));
        }
        return;
    }
    let Some(load) = load(body) else {
        drop(shipped);
        let why = "this node has no slot left to copy the task's pages to";
        return cluster.tell(|core, now| core.ship_failed(now, id, epoch, why));
    };
    let Load { manifest, slots, base, parts } = load;
    let byte_count = base.byte_count();
    *shipped = Some(Arc::new(base));
    drop(shipped);
    let ship = ShipHeader {
        task: id,
        epoch,
        slots,
        page_len: PAGE_LEN as u32,
        extra: postcard::to_stdvec(&manifest).expect("plain data encodes"),
    };
    let mut header = Vec::new();
    StreamHead::Ship(ship).encode(&mut header);
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
    base: Base,
    parts: Vec<Part>,
}

/// The rest of a task whose rounds are over.
fn ship_rest(
    copying: &Copying,
    header: &Header,
    body: &MobileBody,
) -> Result<(Base, usize), String> {
    prepare(header);
    copying.ship_rest(body, header, || manifest(body))
}

/// Pages of a task's heaps that hold live blocks or records.
fn live_pages(header: &Header) -> usize {
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
        return Some(Load { manifest, slots, base: Base::default(), parts });
    };
    prepare(header);
    loop {
        let image = image::of(header);
        let (base, parts) = Base::copy(&image.slots)?;

        // Others may free blocks of a frozen task. Such a free is carried out here or kept for its
        // return, but never goes along: it would be carried out twice.
        if header.arenas().all(|a| base.word(a.arena().remote_list_addr()) == Some(0)) {
            let mut manifest = manifest(body);
            let strategy = body.journey().order.map(|order| order.strategy);
            manifest.report.stop_copy(strategy, (base.byte_count() / PAGE_LEN) as u64);
            return Some(Load { manifest, slots: image.slots, base, parts });
        }
        body.drain_frees(header);
    }
}

/// Written when everything else is ready: what it says of times holds from then on.
fn manifest(body: &MobileBody) -> Manifest {
    let journey = body.journey();
    Manifest {
        entry: body.header().map_or(0, |header| header.entry.id.0),
        args: None,
        stood_us: journey.stood_us(),
        clock: Reading::take(body.header()),
        report: Report::begin(&journey),
        missing: Vec::new(),
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
    end_rounds(body);
    let serving = body.journey().serving.take();
    drop(serving.map(|serving| serving.close()));
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
        let serving = body.journey().serving.take();
        let base = match serving {
            Some(serving) => Arc::new(serving.close()),
            None => body.shipped().take().expect("it was shipped before it was another node's"),
        };
        let copying = body.journey().copying.take();
        if let Some(copying) = copying {
            copying.end_later();
        }
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
