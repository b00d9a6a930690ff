//! What lacks pages on this node, by slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrt_iso::SlotId;
use migrt_proto::{Epoch, NodeId, TaskId};

use super::Lacking;
use crate::migrate::fault::Verdict;
use crate::task::join::Waker;

static TABLE: Mutex<BTreeMap<SlotId, Arc<Lacking>>> = Mutex::new(BTreeMap::new());

fn table() -> MutexGuard<'static, BTreeMap<SlotId, Arc<Lacking>>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What lacks pages in the slot of `addr`.
fn at(addr: usize) -> Option<Arc<Lacking>> {
    table().get(&SlotId::of_addr(addr)?).cloned()
}

/// The arrival of this name from `source`.
pub(in crate::migrate) fn find(task: TaskId, epoch: Epoch, source: NodeId) -> Option<Arc<Lacking>> {
    let table = table();
    let is_it = |l: &&Arc<Lacking>| (l.task, l.epoch, l.source) == (task, epoch, source);
    table.values().find(is_it).cloned()
}

/// Somebody touched a page of a registered range. With a waker: it is woken when the page is there.
pub(crate) fn fault(addr: usize, waker: Option<Waker>) -> Verdict {
    match at(addr) {
        Some(lacking) => lacking.fault(addr, waker),
        // The range has ended meanwhile.
        None => Verdict::GoOn,
    }
}

/// The task of which pages are missing in the slot.
pub(crate) fn task_of(slot: SlotId) -> Option<TaskId> {
    table().get(&slot).map(|lacking| lacking.task)
}

/// The task has given the slot up: nothing of it is to come any more.
pub(crate) fn forget(slot: SlotId) {
    let found = table().remove(&slot);
    if let Some(lacking) = found {
        lacking.forget(slot);
    }
}

/// The link to `node` is lost.
pub(crate) fn link_lost(node: NodeId) {
    for lacking in from_node(node) {
        let mut state = lacking.state();
        state.missing.link_lost();
        let feed = state.requests.take();
        drop(state);
        drop(feed);
    }
}

/// The link to `node` is back.
pub(crate) fn link_back(node: NodeId) {
    for lacking in from_node(node) {
        let mut state = lacking.state();
        let asks = state.missing.link_back();
        lacking.ask(&mut state, asks);
        lacking.ask_lost(&mut state);
    }
}

fn from_node(node: NodeId) -> Vec<Arc<Lacking>> {
    let mut found: Vec<Arc<Lacking>> =
        table().values().filter(|lacking| lacking.source == node).cloned().collect();
    found.dedup_by_key(|lacking| lacking.task);
    found
}

impl Lacking {
    /// Its slots are found from now on.
    pub(super) fn enter_table(self: &Arc<Lacking>) {
        let mut table = table();
        for &slot in &self.slots {
            table.insert(slot, self.clone());
        }
    }

    pub(super) fn leave_table(&self) {
        let mut table = table();
        for slot in &self.slots {
            if table.get(slot).is_some_and(|found| std::ptr::eq(&**found, self)) {
                table.remove(slot);
            }
        }
    }
}
