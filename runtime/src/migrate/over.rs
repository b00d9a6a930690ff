//! A task comes back over pages that were kept for it: nothing here reaches them, so nothing is merged.
//!
//! ```text
//! kept and same      stays where it is
//! sent, or cleared   written over
//! kept, neither      dropped when all is named: the task has freed it, or it is zero, or follows
//! ```
//!
//! Which is which, `migrt_proto::transfer::Return` decides. A task can be back before its pages are hashed
//! again after they were found unreached; then those that it takes for kept are hashed when they are named.

use std::sync::Arc;

use migrt_iso::{SlotId, page, pool};
use migrt_proto::TaskId;
use migrt_proto::transfer::{KeptPages, PageSet, Return, Settled};

use super::hash;
use super::pages::{present, run_of};
use super::remains::addr_of;
use super::remains::shelf::Shelved;

/// See the module.
#[derive(Debug)]
pub(super) struct Over {
    task: TaskId,
    /// Slots in which something is kept.
    slots: Vec<SlotId>,
    pages: Return,
    is_hashed: bool,
}

impl Over {
    pub(super) fn new(shelved: Shelved) -> Over {
        let is_hashed = shelved.pages.is_some();
        let pages = Arc::unwrap_or_clone(shelved.pages.unwrap_or_default());
        Over { task: shelved.task, slots: shelved.slots, pages: Return::new(pages), is_hashed }
    }

    pub(super) fn has(&self, slot: SlotId) -> bool {
        self.slots.contains(&slot)
    }

    /// These pages come, or are cleared.
    pub(super) fn writes(&mut self, pages: &PageSet) {
        self.pages.writes(pages);
    }

    /// The task has other slots now.
    pub(super) fn drop_slots(&mut self, is_named: impl Fn(&SlotId) -> bool) {
        // Those that were taken over in an earlier section were given up already.
        for slot in self.slots.extract_if(.., |slot| !is_named(slot)) {
            if pool::global().is_kept(slot) {
                pool::global().unkeep(slot);
            }
        }
    }

    /// All that comes is named, and `same` is to be here: drops everything else. Gives what is not here.
    pub(super) fn settle(&mut self, same: &PageSet, told: u128, slots: &[SlotId]) -> PageSet {
        let is_as_told = |kept: &KeptPages| hash::fold(kept.among(same)) == told;
        let was_hashed = std::mem::replace(&mut self.is_hashed, true);
        if !was_hashed {
            self.pages.keeps(self.hash_those_of(same));
        }
        let kept = self.pages.kept();
        let Settled { lost, alive } = self.pages.settle(same, is_as_told);
        for &slot in slots.iter().filter(|slot| self.slots.contains(slot)) {
            // What is not among the hashed ones holds zeros, if anything.
            let held = match was_hashed {
                true => kept.within(run_of(slot)),
                false => present(&PageSet::from_iter([run_of(slot)])),
            };
            let dead = held.difference(&alive.within(run_of(slot)));
            dead.runs().for_each(|run| discard(addr_of(run.first), addr_of(run.end())));
        }
        lost
    }

    /// Hashes pages that the task takes for kept, as far as they lie in slots in which something is.
    fn hash_those_of(&self, same: &PageSet) -> KeptPages {
        let mut slots = self.slots.clone();
        slots.sort_unstable_by_key(|slot| slot.base());
        let here = slots
            .iter()
            .flat_map(|&slot| present(&same.within(run_of(slot))).pages().collect::<Vec<_>>());
        KeptPages::new(here.map(|page| (page, hash::of(page))).collect())
    }

    /// The move was called off: what is still as it was.
    pub(super) fn undo(self) -> Shelved {
        let (pages, void) = self.pages.undo();
        let pages = self.is_hashed.then(|| Arc::new(pages));
        for &slot in &self.slots {
            let these = void.within(run_of(slot));
            these.runs().for_each(|run| discard(addr_of(run.first), addr_of(run.end())));
        }
        Shelved { task: self.task, slots: self.slots, pages }
    }
}

fn discard(from: usize, to: usize) {
    if to > from {
        // SAFETY: pages of slots that the arriving task has taken over, or is giving back (I3): it does
        // not run, and nothing else reaches them.
        unsafe { page::discard(from, to - from) };
    }
}
