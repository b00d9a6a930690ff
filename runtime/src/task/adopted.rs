//! Adopted arenas: heaps that a mobile task owns beside its own, each in a slot of its own.
//!
//! Two threads must not allocate in one arena at a time, so a closure that a mobile task spawns runs on
//! an arena of its own ([`child`](super::child)). What it leaves alive there, its result above all, is
//! the parent's from its end on: the arena changes owner, no byte is copied.
//!
//! ```text
//! Header (owner) ── adopted ──► HeaderPrefix ── next ──► HeaderPrefix ── next ──► null
//!                               in the top page of a slot that looks like this:
//! slot base                                                                      slot end
//! | heap: first extent | guard, dead stack, dead thread-locals (not shipped) |  page of the prefix |
//! ```
//!
//! The list is plain words in slots that travel with the owner, so it is whole wherever the task is.
//! Nobody allocates in an adopted arena any more; its blocks are freed from afar, and [`sweep`]
//! carries such frees out and gives up the arenas in which nothing lives.
//!
//! Rule 1: the list is touched under the lock of the owner's record ([`MobileBody::kin`]), by whoever
//! holds the task frozen without running children, or with the world stopped.
//! Rule 2: a child hands its arena over, gives up its pin and says that it has ended in one step under
//! that lock; who asks for the pins takes it too. So a parent that sees its child's end may leave.

use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

use migrt_iso::{PAGE_LEN, SlotId, page, pool};

use super::fd_table::forget_fds_of;
use super::header::{Header, Layout};
use super::prefix::HeaderPrefix;
use super::tls::TCB_SPACE;

/// With fewer adopted arenas nobody looks for dead ones before the next move.
const SWEEP_MIN: u32 = 8;

/// So many dead arenas stay with their owner, for its next children. Values that were moved or dropped
/// leave their bytes in frames, and an audit takes such an address into a slot that is somebody else's
/// by now for one into that. Each costs a page when the owner moves.
const SPARES: u32 = 4;
/// So far down the list a spare is looked for.
const REUSE_DEPTH: usize = 8;

/// The slot of an arena that can be adopted.
pub(crate) fn slot_of(arena: &HeaderPrefix) -> SlotId {
    SlotId::of_addr(ptr::from_ref(arena) as usize).expect("headers lie in the region")
}

/// The page of the prefix: it lives as long as the arena.
pub(crate) fn prefix_page(arena: &HeaderPrefix) -> usize {
    ptr::from_ref(arena) as usize & !(PAGE_LEN - 1)
}

impl Header {
    /// Whether there are any: a hint, but exact for a task without running children.
    pub(super) fn has_adopted(&self) -> bool {
        !self.adopted.get().is_null()
    }

    /// The adopted arenas; see rule 1.
    pub(crate) fn adopted(&self) -> impl Iterator<Item = &HeaderPrefix> {
        // SAFETY: the list leads from prefix to prefix in slots that the task owns (I3), and nobody
        // changes it meanwhile (rule 1).
        let at = |at: *const HeaderPrefix| unsafe { at.as_ref() };
        std::iter::successors(at(self.adopted.get()), move |last| at(last.next_adopted.get()))
    }
}

impl Header {
    /// The task's own arena and the adopted ones; see rule 1.
    pub(crate) fn arenas(&self) -> impl Iterator<Item = &HeaderPrefix> {
        std::iter::once(&self.prefix).chain(self.adopted())
    }
}

/// Calls `seen` with address and length of each live run of pages of adopted arenas, the pages of their
/// prefixes among them.
pub(crate) fn live_runs(owner: &Header, seen: &mut dyn FnMut(usize, usize)) {
    for arena in owner.adopted() {
        arena.arena().for_each_live_run(seen);
        seen(prefix_page(arena), PAGE_LEN);
    }
}

/// The slots of adopted arenas.
pub(crate) fn slots(owner: &Header, seen: &mut dyn FnMut(SlotId)) {
    for arena in owner.adopted() {
        seen(slot_of(arena));
        arena.arena().for_each_extent(seen);
    }
}

/// The arena is `owner`'s from now on (rule 1). Its task has ended.
pub(super) fn adopt(owner: &Header, arena: &HeaderPrefix) {
    arena.next_adopted.set(owner.adopted.get());
    // Linked when it is whole: a census may stop this thread anywhere and walk the list.
    compiler_fence(Ordering::SeqCst);
    owner.adopted.set(arena);
    owner.adopted_count.set(owner.adopted_count.get() + 1);
}

/// [`sweep`], if there are twice as many arenas as were left by the last one (rule 1).
pub(super) fn sweep_if_due(owner: &Header) {
    if owner.adopted_count.get() >= owner.sweep_at.get().max(SWEEP_MIN) {
        sweep(owner);
    }
}

/// Carries out frees from afar and gives up most of the arenas in which nothing is alive (rule 1). On
/// an OS thread's block.
pub(crate) fn sweep(owner: &Header) {
    sweep_but(SPARES, owner);
}

/// [`sweep`] for an owner that has ended: nothing dead stays.
pub(super) fn sweep_all(owner: &Header) {
    sweep_but(0, owner);
}

fn sweep_but(spares: u32, owner: &Header) {
    let mut link = &owner.adopted;
    let (mut count, mut spare_count) = (0, 0);
    // SAFETY: as in `Header::adopted`.
    while let Some(arena) = unsafe { link.get().as_ref() } {
        drain(arena);
        if is_in_use(arena) {
            trim(arena);
        } else if spare_count < spares {
            spare_count += 1;
            empty(arena);
        } else {
            link.set(arena.next_adopted.get());
            compiler_fence(Ordering::SeqCst);
            give_up(arena);
            continue;
        }
        count += 1;
        link = &arena.next_adopted;
    }
    owner.adopted_count.set(count);
    owner.sweep_at.set(count * 2);
}

/// Takes a dead arena off the list: its slot, for a new child, and whether it has travelled (rule 1).
/// It is as its last child has left it, the guard aside, which may be missing if it has travelled.
pub(super) fn reuse(owner: &Header) -> Option<(SlotId, bool)> {
    let mut link = &owner.adopted;
    for _ in 0..REUSE_DEPTH {
        // SAFETY: as in `Header::adopted`.
        let arena = unsafe { link.get().as_ref() }?;
        drain(arena);
        if !is_in_use(arena) {
            empty(arena);
            link.set(arena.next_adopted.get());
            owner.adopted_count.set(owner.adopted_count.get() - 1);
            return Some((slot_of(arena), arena.has_travelled()));
        }
        link = &arena.next_adopted;
    }
    None
}

/// Takes an arena off the owner's list (rule 1); `false`: it is not on it.
pub(super) fn unlink(owner: &Header, arena: &HeaderPrefix) -> bool {
    let mut link = &owner.adopted;
    // SAFETY: as in `Header::adopted`.
    while let Some(found) = unsafe { link.get().as_ref() } {
        if ptr::eq(found, arena) {
            link.set(arena.next_adopted.get());
            owner.adopted_count.set(owner.adopted_count.get() - 1);
            return true;
        }
        link = &found.next_adopted;
    }
    false
}

/// What was alive in the arena, which is on the owner's list, is mostly dead now (rule 1): its memory
/// goes back, its slot stays for a while, as that of a child does.
pub(super) fn shrink(owner: &Header, arena: &HeaderPrefix) {
    drain(arena);
    if !is_in_use(arena) {
        empty(arena);
    }
    sweep_if_due(owner);
}

/// Carries out frees from afar in an arena that is on no list, the caller's alone; if nothing in it is
/// alive any more it is given up.
pub(super) fn give_up_if_dead(arena: &HeaderPrefix) -> bool {
    drain(arena);
    let is_dead = !is_in_use(arena);
    if is_dead {
        give_up(arena);
    }
    is_dead
}

/// Gives all that a dead arena has back but its own slot.
fn empty(arena: &HeaderPrefix) {
    // SAFETY: nothing in it is alive.
    unsafe { arena.arena().destroy(&mut |slot| give_slot(arena, slot)) };
}

/// Carries out the frees of the arena's blocks by others.
pub(super) fn drain(arena: &HeaderPrefix) {
    if arena.arena().has_remote_frees() {
        // SAFETY: nobody allocates in an adopted arena, and one at a time drains it (rule 1).
        unsafe { arena.arena().drain_remote(&mut |slot| give_slot(arena, slot)) };
    }
}

/// Whether anything of the arena's task is left: a block, an open descriptor, an OS thread.
pub(super) fn is_in_use(arena: &HeaderPrefix) -> bool {
    !arena.arena().is_empty()
        || arena.fd_pins.load(Ordering::Acquire) > 0
        || arena.thread_pins.load(Ordering::Acquire) > 0
}

/// Takes the memory of the dead part away, once.
fn trim(arena: &HeaderPrefix) {
    if arena.trimmed.replace(true) {
        return;
    }
    let low = Layout { slot: slot_of(arena) }.stack_low();
    // SAFETY: between the guard and the page of the prefix: stack and thread-locals of a task that has
    // ended, in a slot of this node (I3).
    unsafe { page::discard(low, prefix_page(arena) - low) };
}

/// Nothing of the arena is alive: its slots go back. It is on no list.
pub(super) fn give_up(arena: &HeaderPrefix) {
    empty(arena);
    let slot = slot_of(arena);
    if arena.has_travelled() {
        arena.take_back(slot);
    } else {
        // Emptied: unlike the memory of a task on its own, a child's is full of addresses in its
        // parent's slots, and its next tenant may not fill all that it takes.
        // SAFETY: nothing in the slot, which is this node's (I3), is alive; the guard stays.
        unsafe { page::discard(slot.base(), slot.len()) };
        pool::global().give_furnished(slot, 0);
    }
}

/// A heap slot goes back, empty too. Other nodes may keep the pages of one that has travelled (`retire`).
fn give_slot(arena: &HeaderPrefix, slot: SlotId) {
    if arena.has_travelled() { arena.take_back(slot) } else { pool::global().give_clean(slot) }
}

/// All that the owner has comes from another node, or may be sent to one while it runs (rule 1).
pub(crate) fn set_travelled(owner: &Header) {
    owner.arenas().for_each(|arena| arena.set_travelled(owner.id));
}

/// The owner ends: descriptors that are still open are nobody's any more.
pub(super) fn forget_fds(owner: &Header) {
    owner.adopted().for_each(|arena| {
        forget_fds_of(ptr::from_ref(arena).cast_mut().cast::<u8>().wrapping_sub(TCB_SPACE));
    });
}
