//! Remains: the pages of a task that left, or ended, kept as long as this node still reaches them.
//!
//! A task may have put memory of its heap into a static (`LazyLock`, a `String` pushed into a
//! `static Mutex<Vec<_>>`). So nothing dangles when it goes: *keep first, collect later* (design 4).
//!
//! ```text
//! freezes  its pages are copied: the base, which is also what is shipped    [`Base::copy`]
//! leaves   slots kept, with the base                                        [`keep_departed`]
//! ends     if blocks of its heap live on: slots kept                       [`keep_ended`]
//! later    a scan of all other memory finds what nothing reaches           [`collect`]
//!          that is dropped, or stays for the task's return                 [`shelf`]
//! returns  bytes that only the task changed are written, those that only the node changed stay,
//!          counts that both changed add up, anything else refuses the move [`merge`]
//! ```
//!
//! Frees of kept blocks by the node go to the arena's list of remote frees, which lies in the kept
//! header: a word that only the node changes, so the merge keeps it and the task, come home, finds
//! the frees and carries them out.

mod base;
mod collect;
mod copies;
mod hashes;
mod merge;
pub(crate) mod shelf;
mod stall;
mod thin;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrt_iso::{SlotId, page, pool};
use migrt_proto::TaskId;
use migrt_proto::transfer::{KeptPages, Page, PageHash};

use crate::task::adopted;
use crate::task::header::Header;

pub(crate) use base::{Base, Parts, addr_of, number_of};
use collect::collect_if_due;
pub(crate) use collect::{look_soon, start_collector};
pub(crate) use copies::is_copies;
pub(crate) use merge::Merge;
pub(crate) use thin::Thin;

/// What one task has left here.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) task: TaskId,
    /// The task slot first.
    pub(crate) slots: Vec<SlotId>,
    /// The bytes as of departure; `None`: the task ended here, the slots are this node's.
    pub(crate) base: Option<Arc<Base>>,
    /// What these hash to, once somebody has asked.
    pub(crate) hashes: Option<Arc<KeptPages>>,
}

static TABLE: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Slots with remains that a task is coming home to: neither in the table nor a resident's, but what
/// lies in them is in use and may lead to other remains. Locked after the table.
static TRANSIT: Mutex<Vec<(TaskId, Vec<SlotId>)>> = Mutex::new(Vec::new());

fn transit() -> MutexGuard<'static, Vec<(TaskId, Vec<SlotId>)>> {
    TRANSIT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task that came home is a resident again.
pub(crate) fn came_home(task: TaskId) {
    transit().retain(|entry| entry.0 != task);
}

fn table() -> MutexGuard<'static, Vec<Kept>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task is another node's now; its pages stay, `base` being what they were when it was frozen.
pub(crate) fn keep_departed(header: &Header, base: Arc<Base>) {
    let (task, slots) = (header.remains_id(), super::slots_of(header));
    discard_dead(header, base.as_ref());
    for &slot in &slots {
        pool::global().keep(slot);
    }
    table().push(Kept { task, slots, base: Some(base), hashes: None });
    collect::ask();
}

/// Empties the pages of a departed task that are dead: stack below SP, free heap. The node may have
/// written to a page that was alive and zero when the image was made, so what was shipped does not
/// tell; the heap does.
fn discard_dead(header: &Header, base: &Base) {
    let slot = header.slot;
    let layout = header.layout();
    let mut alive = Vec::new();
    header.prefix.arena().for_each_live_run(&mut |addr, len| alive.push((addr, len)));
    alive.extend(base.stack_pages(layout.stack_low(), slot.base() + slot.len()));
    adopted::live_runs(header, &mut |addr, len| alive.push((addr, len)));
    for slot in super::slots_of(header) {
        let end = slot.base() + slot.len();
        let mut from = slot.base();
        let mut runs: Vec<_> = alive.iter().filter(|r| (from..end).contains(&r.0)).collect();
        runs.sort_unstable();
        for &&(addr, len) in &runs {
            empty(from, addr);
            from = addr + len;
        }
        empty(from, end);
    }
}

fn empty(from: usize, to: usize) {
    if to > from {
        // SAFETY: dead pages of a slot that is about to be kept.
        unsafe { page::discard(from, to - from) };
    }
}

/// The task has ended and blocks of its heap are still alive: something may reach them.
pub(crate) fn keep_ended(header: &Header) {
    let slots = super::slots_of(header);
    table().push(Kept { task: header.id, slots, base: None, hashes: None });
    collect::ask();
}

/// Takes what `task` has left here, for its return.
pub(crate) fn take(task: TaskId) -> Option<Kept> {
    let mut table = table();
    let at = table.iter().position(|kept| kept.task == task && kept.base.is_some())?;
    let kept = table.swap_remove(at);
    transit().push((task, kept.slots.clone()));
    Some(kept)
}

/// Whether it is another task that has left what lies in the slot.
pub(crate) fn are_of_other(slot: SlotId, task: TaskId) -> bool {
    table().iter().any(|kept| kept.task != task && kept.slots.contains(&slot))
}

/// The return did not happen: the remains stay remains.
pub(crate) fn put_back(kept: Kept) {
    for &slot in &kept.slots {
        if pool::global().is_used(slot) {
            pool::global().keep(slot);
        }
    }
    let task = kept.task;
    let mut table = table();
    table.push(kept);
    drop(table);
    came_home(task);
}

impl Kept {
    fn is_thin(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.is_thin())
    }

    /// Nothing reaches it: its memory goes, and its slots if they are this node's become free.
    fn drop_all(self) {
        for &slot in &self.slots {
            match &self.base {
                Some(_) => pool::global().unkeep(slot),
                None => pool::global().give_clean(slot),
            }
        }
    }
}

/// Whether there are remains of so many tasks, or holding so much memory, or such whose base is thin.
fn is_much(count: usize, byte_count: usize) -> bool {
    let held = held();
    held.0 > count || held.1 > byte_count || table().iter().any(Kept::is_thin)
}

/// Of how many tasks there are remains, and the bytes of their pages and the copies of these.
fn held() -> (usize, usize) {
    let table = table();
    let bytes = |kept: &Kept| 2 * kept.base.as_ref().map_or(0, |base| base.byte_count());
    (table.len(), table.iter().map(bytes).sum())
}

/// Hashed, or copied, while the table is locked.
const BATCH: usize = 512;
/// Remains of this length are collected first when somebody asks what is kept: then nothing need be merged.
const LONG: usize = 1 << 20;

/// As [`have`], if that takes no time.
pub(crate) fn have_at_once(task: TaskId) -> Option<Arc<KeptPages>> {
    // The table first: from there they go to the shelf, and never back.
    match look(task, |kept| kept.hashes.clone()) {
        Some(pages) => pages,
        None => shelf::have_at_once(task).unwrap_or_else(|| Some(Arc::default())),
    }
}

/// What is kept of a task that left, with its hashes; for whoever asks before it comes back. Takes a
/// while: not for a thread that others wait for.
pub(crate) fn have(task: TaskId) -> Option<Arc<KeptPages>> {
    let length = look(task, |kept| kept.base.as_ref().map_or(0, |base| base.held_bytes()));
    if length.is_some_and(|length| length >= LONG) {
        collect_if_due();
    }
    // Where there is nothing in the table, or nothing any more, it is on the shelf.
    hashes(task).or_else(|| shelf::have(task))
}

/// The hashes of what is in the table of a task.
fn hashes(task: TaskId) -> Option<Arc<KeptPages>> {
    let mut list: Vec<(Page, PageHash)> = Vec::new();
    loop {
        let next = list.last().map_or(Page(0), |entry| Page(entry.0.0 + 1));
        let part = look(task, |kept| Some(kept.base.as_ref()?.hashes(next, BATCH)))??;
        if part.is_empty() {
            break;
        }
        list.extend(part);
    }
    let pages = Arc::new(KeptPages::new(list));
    look(task, |kept| kept.hashes = Some(pages.clone()))?;
    Some(pages)
}

/// Drops what is kept of a task, or what is known of it: for tests.
pub(crate) fn forget(task: TaskId) {
    shelf::forget(task);
    look(task, |kept| kept.hashes = None);
}

/// The remains of a task that left, if they are in the table.
fn look<R>(task: TaskId, look: impl FnOnce(&mut Kept) -> R) -> Option<R> {
    let mut table = table();
    table.iter_mut().find(|kept| kept.task == task && kept.base.is_some()).map(look)
}

/// Copies what was not copied at the departure of tasks whose remains stay.
fn fill_bases() {
    loop {
        let mut table = table();
        let Some(kept) = table.iter_mut().find(|kept| kept.is_thin()) else { return };
        let base =
            kept.base.as_mut().and_then(Arc::get_mut).expect("a thin base, and no other owner");
        base.fill(BATCH);
    }
}
