//! Who holds a parcel: the list of a mobile task's adopted arenas, or the one of the node here.
//!
//! Rule 1: an arena is on exactly one of these lists, a child's, or a resident's; while it changes between them it is
//! among the node's children, so that a census that stops the world finds it.
//! Rule 2: whoever takes it off a list has it alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrt_iso::SlotId;

use super::builder_id;
use crate::cluster::cluster;
use crate::task::body::MobileBody;
use crate::task::child;
use crate::task::current::on_worker;
use crate::task::header::{Header, Layout};
use crate::task::{adopted, record::TaskRef};

/// The arenas that no mobile task holds: those of parcels, and (`true`) those from which a value was taken out that
/// still lives.
static HELD: Mutex<BTreeMap<SlotId, bool>> = Mutex::new(BTreeMap::new());
/// How many of the latter there are.
static OPEN: AtomicUsize = AtomicUsize::new(0);

fn lock() -> MutexGuard<'static, BTreeMap<SlotId, bool>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slots of the arenas that the node holds. None comes or goes while the guard lives.
pub(crate) fn held() -> MutexGuard<'static, BTreeMap<SlotId, bool>> {
    lock()
}

/// The mobile task for which the caller acts: itself, or the one it is a child of.
pub(super) fn family(worker: Option<&crate::exec::worker::Worker>) -> Option<TaskRef> {
    worker.and_then(child::parent_of)
}

/// The arena, which is on no list, is held from now on: by `owner`, or by the node.
pub(super) fn list(owner: Option<&MobileBody>, header: &'static Header) {
    match owner.and_then(|owner| Some((owner, owner.header()?))) {
        Some((body, owner)) => {
            let _kin = body.kin();
            header.parcel.set_holder(owner.id);
            adopted::adopt(owner, &header.prefix);
        }
        None => {
            let is_open = header.parcel.keep().is_none();
            header.parcel.set_holder(builder_id());
            lock().insert(header.slot, is_open);
            OPEN.fetch_add(usize::from(is_open), Ordering::Relaxed);
        }
    }
}

/// Takes a parcel's arena off the list that it is on; `false`: it is held by somebody else than the caller.
pub(super) fn unlist(owner: Option<&MobileBody>, header: &Header) -> bool {
    let holder = header.parcel.holder();
    if holder == builder_id().to_raw() {
        return lock().remove(&header.slot).is_some();
    }
    let Some(body) = owner.filter(|owner| owner.id.to_raw() == holder) else { return false };
    let Some(owner) = body.header() else { return false };
    let _kin = body.kin();
    if !adopted::unlink(owner, &header.prefix) {
        return false;
    }
    // Perhaps pages of it are being copied for a move of its holder.
    cluster().unwatch(body.id, |seen| slots(header, seen));
    true
}

/// Calls `f` while nobody carries out frees from afar in arenas that `owner`, or the node, holds.
pub(super) fn still<R>(owner: Option<&MobileBody>, f: impl FnOnce() -> R) -> R {
    match owner {
        Some(body) => {
            let _kin = body.kin();
            f()
        }
        None => {
            let _held = lock();
            f()
        }
    }
}

/// The slots of an arena.
pub(super) fn slots(header: &Header, seen: &mut dyn FnMut(SlotId)) {
    seen(header.slot);
    header.prefix.arena().for_each_extent(seen);
}

/// There is no value in the parcel any more, which is the caller's: what else is dead goes.
pub(super) fn release(header: &'static Header) {
    header.parcel.take_keep();
    // Read before the header may be gone.
    let slot = header.slot;
    on_worker(|worker| {
        if header.parcel.holder() == builder_id().to_raw() {
            let mut held = lock();
            if adopted::give_up_if_dead(&header.prefix) {
                held.remove(&slot);
            } else if let Some(is_open) = held.get_mut(&slot) {
                *is_open = true;
                OPEN.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let family = family(worker);
        let body = family.as_ref().and_then(|task| task.mobile());
        if let Some(body) = body
            && let Some(owner) = body.header()
        {
            let _kin = body.kin();
            adopted::shrink(owner, &header.prefix);
        }
    });
}

/// Gives up what has died of the values that were taken out of their parcels; every few milliseconds.
pub(crate) fn sweep() {
    if OPEN.load(Ordering::Relaxed) == 0 {
        return;
    }
    lock().retain(|&slot, is_open| {
        if !*is_open {
            return true;
        }
        // SAFETY: an arena of the node's, its header whole.
        let header = unsafe { &*Layout { slot }.header() };
        let is_dead = adopted::give_up_if_dead(&header.prefix);
        OPEN.fetch_sub(usize::from(is_dead), Ordering::Relaxed);
        !is_dead
    });
}
