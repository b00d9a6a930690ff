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
#[expect(unsafe_code, reason = "reads the pages of tasks that have just arrived")]
mod check;
mod copy;
pub(crate) mod copying;
#[expect(unsafe_code, reason = "handles signals, and waits for pages")]
pub(crate) mod fault;
pub(crate) mod follow;
pub(crate) mod found;
mod gate;
#[expect(unsafe_code, reason = "reads pages in place")]
mod hash;
pub(crate) mod have;
#[expect(unsafe_code, reason = "reads the stacks of frozen tasks")]
mod head;
#[expect(unsafe_code, reason = "reads the pages of frozen tasks")]
pub(crate) mod image;
#[expect(unsafe_code, reason = "writes the pages of arriving tasks")]
mod installer;
pub(crate) mod known;
pub(crate) mod lacking;
mod later;
mod long;
#[expect(unsafe_code, reason = "drops pages of slots that change hands")]
mod over;
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
pub(crate) mod ship;
mod ship_head;
#[expect(unsafe_code, reason = "sleeps until pages come")]
mod sleepers;
pub(crate) mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use migrt_iso::SlotId;
use migrt_proto::wire::{Refusal, Strategy};
use migrt_proto::{Epoch, NodeId};

use self::copying::Copying;
pub(crate) use self::head::HOT_MAX;
use self::plan::{Known, Plan, Way};
pub(crate) use self::ship::{Manifest, ship};
use crate::census;
use crate::cluster::{Cluster, cluster};
use crate::config::Audit;
use crate::exec::door;
use crate::fail;
use crate::task::adopted;
use crate::task::body::{MobileBody, Order};
use crate::task::header::Header;
use crate::task::parcel::{self, State};
use crate::task::record::TaskRef;
use crate::task::wish;

/// The arguments of a call that moves before it has started are at most so long; the header of a
/// shipment has twice the room.
const CALL_LEN_MAX: usize = 512 << 10;

/// The core orders a task to be moved: gets it out of the workers' hands.
pub(crate) fn order(task: TaskRef, target: NodeId, epoch: Epoch, strategy: Strategy) {
    fail::point("source.ordered");
    let body = mobile(&task);
    let since = Instant::now();
    body.journey().order = Some(Order { to: target, epoch, strategy, since });
    have::ask(cluster(), &task, target, epoch);
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
pub(crate) fn untied(task: &TaskRef) {
    let body = mobile(task);
    if let Some(target) = body.move_asked() {
        body.ask_move(target);
        if task.state.freeze_waiting() {
            return depart(task.clone());
        }
    }
    if body.header().is_some_and(Header::is_parcel) {
        // It has nothing to run for, and is not to seem on the move to who is about to take it.
        return parcel::news(body.id);
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
    if copying.is_none() && have::is_awaited(&task) {
        return stay(task);
    }
    body.frozen_at(since);
    let mut checked = check(body, NodeId(target));
    if checked.is_ok() {
        // What it points to takes as long to see as its heap is long: with rounds that is done while
        // it runs.
        if copying.is_none() && begin_rounds(cluster, &task, NodeId(target)) {
            return stay(task);
        }
        if !gate::enter(&task, NodeId(target), copying.is_some()) {
            return stay(task);
        }
        if copying.is_none() {
            compare(body);
        }
        checked = check_words(body, copying.as_deref());
        // The core's frames will lie where the scan's have.
        census::clear_stack();
        if let Some(copying) = &copying {
            body.journey().is_lazy = copying.is_lazy();
        }
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
            body.set_refusal(why.clone());
            body.journey().order = None;
            end_offer(body);
            gate::left(body.id);
            // The core first: the stream of the rounds is about to break, and that is not the reason;
            // and the task may order its next move as soon as it goes on.
            cluster.tell(|core, now| core.freeze_failed(now, body.id, why));
            stop_rounds(body);
            stay(task);
        }
    }
}

/// Decides how the frozen task moves. Whether its pages are to be sent in rounds while it runs on: then
/// it is to go on.
fn begin_rounds(cluster: &'static Cluster, task: &TaskRef, target: NodeId) -> bool {
    let body = mobile(task);
    let mut journey = body.journey();
    let (Some(header), Some(order)) = (body.header(), &mut journey.order) else {
        return false;
    };
    order.strategy = wish::of(Some(header), order.strategy);
    let Order { epoch, strategy, .. } = *order;
    let known = Known::of(cluster, target, journey.arrival.as_deref());
    // Others may ask after the task while its heap is walked.
    drop(journey);
    let Plan { way, why } = plan::plan(strategy, header, &known);
    let mut journey = body.journey();
    (journey.is_lazy, journey.why) = (matches!(way, Way::Follow), why);
    drop(journey);
    let Way::Rounds { limits, auto, first } = way else { return false };
    // From now on slots that it gives up are not used again at once.
    adopted::set_travelled(header);
    Copying::start(cluster, task, (target, epoch), (limits, auto), first)
}

/// Finds out which of the frozen task's pages need not be sent.
fn compare(body: &MobileBody) {
    let Some(header) = body.header() else { return };
    let journey = body.journey();
    let (offer, known) = (journey.offer.clone(), journey.known.clone());
    drop(journey);
    if let Some(offer) = offer {
        offer.freeze(header, known.as_deref());
    }
}

/// What the target has kept is nothing to a task that stays.
fn end_offer(body: &MobileBody) {
    let offer = body.any_journey().and_then(|mut journey| journey.offer.take());
    if let Some(offer) = offer {
        offer.close();
    }
}

/// The task ends: no more rounds, and nothing of it is watched any more.
pub(crate) fn end_rounds(body: &MobileBody) {
    stop_rounds(body);
    end_offer(body);
    let known = body.any_journey().and_then(|mut journey| journey.known.take());
    if let Some(known) = known {
        known.close();
    }
}

/// No more rounds of a task that goes on here, or ends.
fn stop_rounds(body: &MobileBody) {
    let copying = body.any_journey().and_then(|mut journey| journey.copying.take());
    if let Some(copying) = copying {
        copying.close();
    }
}

/// Whether a frozen task may leave this node, but for what it points to.
fn check(body: &MobileBody, target: NodeId) -> Result<(), Refusal> {
    if target == cluster().me() {
        return Err(Refusal::Other { why: "it is there already".to_owned() });
    }
    // At once, not behind those that wait for the link to come back.
    ship::has_link(cluster(), target).map_err(|why| Refusal::ShipFailed { why })?;
    let pins = pins::of(body);
    if !pins.is_empty() {
        return Err(Refusal::Pinned { what: pins.join(", ") });
    }
    let Some(header) = body.header() else { return check_call(body) };
    if header.is_parcel()
        && header.prefix.travelled_with().is_some_and(|t| cluster().is_unsettled(t))
    {
        // The slots may not leave before (I3).
        return Err(Refusal::Busy);
    }
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
    let slots = slots_of(header);
    // Pages that went in rounds were looked through as they were copied.
    let is_lazy = body.journey().is_lazy;
    let offer = body.journey().offer.clone();
    // What the target has is not sent, and what is left is not long, or is not sent at all.
    let has_same = offer.as_ref().is_some_and(|offer| !offer.same().is_empty());
    let goes_in_pieces = copying.is_none() && !is_lazy && !has_same && ship::is_long(header);
    body.journey().goes_in_pieces = goes_in_pieces;
    if header.is_parcel() {
        return check_parcel(header);
    }
    let is_clean = match copying {
        // So are those that go in pieces.
        None if goes_in_pieces => !audit::roots_lead_out(header, &slots),
        // Long heaps are looked through as they follow.
        None if is_lazy && ship_head::is_long(header) => !audit::roots_lead_out(header, &slots),
        Some(copying) => {
            let other = |why| Refusal::ShipFailed { why };
            !copying.has_suspects(header).map_err(other)? && !audit::roots_lead_out(header, &slots)
        }
        None => match offer {
            Some(offer) => !offer.has_suspects(header) && !audit::roots_lead_out(header, &slots),
            None => false,
        },
    };
    if is_clean { Ok(()) } else { scan_words(body, header) }
}

/// The same, by looking at all of them.
fn scan_words(body: &MobileBody, header: &Header) -> Result<(), Refusal> {
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

/// The same of a parcel, which has no stack that leads anywhere.
fn check_parcel(header: &Header) -> Result<(), Refusal> {
    let audit = crate::node::node().config.audit;
    let Some(head) = header.parcel.keep() else { return Ok(()) };
    if audit != Audit::Off
        && head.state() != State::Clean
        && let Some(hit) = audit::scan_parcel(header)
    {
        if audit == Audit::Strict {
            return Err(Refusal::Pinned { what: hit.in_parcel() });
        }
        eprintln!("migrt: audit: a parcel: {}", hit.in_parcel());
    }
    head.set_clean();
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

/// The move will not happen, and the core was not told that the task is frozen. (It may be: then it is
/// still in the hands of whoever is about to tell.)
pub(crate) fn call_off(cluster: &Cluster, task: &TaskRef, epoch: Epoch, why: &Refusal) {
    give_up(cluster, mobile(task), epoch, why);
    // If it waits for this move, it must hear of its end.
    door::wake(task.clone());
}

/// The move did not happen (I11): the frozen task goes on here, in `epoch`.
pub(crate) fn resume_here(cluster: &Cluster, task: TaskRef, epoch: Epoch, why: &Refusal) {
    give_up(cluster, mobile(&task), epoch, why);
    stay(task);
}

fn give_up(cluster: &Cluster, body: &MobileBody, epoch: Epoch, why: &Refusal) {
    tracing::debug!(task = %body.id, %why, "a move failed; the task goes on here");
    body.set_refusal(why.clone());
    body.epoch.store(epoch.0, Ordering::Relaxed);
    cluster.metrics.refused();
    body.journey().order = None;
    end_offer(body);
    gate::left(body.id);
    stop_rounds(body);
    let serving = body.journey().serving.take();
    drop(serving.map(|serving| serving.close()));
    body.take_move();
}

/// The task is another node's: lets the frozen copy go without running anything of it.
pub(crate) fn release(cluster: &Cluster, task: &TaskRef, to: NodeId) {
    census::clearing(|| let_go(cluster, task, to));
}

fn let_go(cluster: &Cluster, task: &TaskRef, to: NodeId) {
    let body = mobile(task);
    fail::point("source.acked");
    gate::left(body.id);
    cluster.metrics.left();
    tracing::debug!(task = %body.id, to = to.0, "left");
    if let Some(header) = body.header() {
        let serving = body.journey().serving.take();
        let base = match serving {
            Some(serving) => Arc::new(serving.close()),
            None => body.shipped().take().expect("it was shipped before it was another node's"),
        };
        let mut journey = body.journey();
        let (copying, known) = (journey.copying.take(), journey.known.take());
        drop(journey);
        if let Some(copying) = copying {
            copying.end_later();
        }
        if let Some(known) = known {
            known.close_later();
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

/// Whether this node can serve faults on missing pages.
pub(crate) fn can_fault() -> bool {
    plan::can_fault()
}

fn mobile(task: &TaskRef) -> &MobileBody {
    task.mobile().expect("only mobile tasks move")
}
