//! Post-copy at the freeze: what goes with the task, and what follows it.
//!
//! ```text
//! task slot   | heap: records | heap: live … | guard | dead stack | live stack | TLS | header |
//!               head            missing                            head
//! heap slot   | records | live, seen from the stack | live … | free |
//!               head      head                        missing
//! ```
//!
//! The live stack goes whole: it is short (a task slot has less than 800 KiB of it), and a page under
//! the stack pointer must not be missing (facts M3). So do the records that lead from a block to its
//! heap, since threads read them that cannot wait. The blocks that words on the stack lead to are what
//! the task touches first.

use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{HotPage, Page, PageSet, Run};

use super::remains::{addr_of, number_of};
use super::{image, slots_of};
use crate::task::adopted;
use crate::task::header::Header;

/// Pages of the heap that go with the task for being seen from its stack.
const SEEN_MAX: u64 = 64;
/// And for being touched first in earlier moves of its entry, or written just before.
pub(crate) const HOT_MAX: usize = 32;

/// The pages of a frozen task, in two parts.
#[derive(Debug)]
pub(super) struct Split {
    /// Its slots, the task slot first.
    pub(super) slots: Vec<SlotId>,
    /// What goes with it.
    pub(super) head: PageSet,
    /// What follows; some of it may be zeros.
    pub(super) missing: PageSet,
    /// Live pages of its heaps.
    pub(super) live_pages: u64,
}

/// Divides the pages of a frozen task, but for those that the target has.
pub(super) fn split(header: &Header, same: &PageSet, hot: &[HotPage]) -> Split {
    let slots = slots_of(header);
    let mut live = PageSet::new();
    for arena in header.arenas() {
        arena.arena().for_each_live_run(&mut |addr, len| {
            live.insert(run_of(addr, len));
        });
    }
    let open = live.difference(same);
    let (head, missing) = divide(header, &slots, &open, &pages_of_hot(&slots, hot));
    Split { slots, head, missing, live_pages: live.len() }
}

/// Which of these pages go with the task, and which follow it: what of its heaps the target does not have.
/// The live stack, and what lies above it, is always among the first.
pub(super) fn divide(
    header: &Header,
    slots: &[SlotId],
    open: &PageSet,
    hot: &[Page],
) -> (PageSet, PageSet) {
    let mut head = PageSet::new();
    for arena in header.arenas() {
        arena.arena().for_each_record_run(&mut |addr, len| {
            head.add_all(&open.within(run_of(addr, len)));
        });
    }
    seen_from_stack(header, slots, open, &mut head);
    for &page in hot.iter().filter(|&&page| open.contains(page)).take(HOT_MAX) {
        head.insert(Run::one(page));
    }
    let missing = open.difference(&head);
    let (from, to) = image::always_shipped(header);
    head.insert(run_of(from, to - from));
    for arena in header.adopted() {
        head.insert(Run::one(number_of(adopted::prefix_page(arena))));
    }
    (head, missing)
}

fn run_of(addr: usize, len: usize) -> Run {
    Run::new(number_of(addr), (len / PAGE_LEN) as u64)
}

/// Pages of a profile, in the slots of this task.
pub(super) fn pages_of_hot(slots: &[SlotId], hot: &[HotPage]) -> Vec<Page> {
    let page = |hot: &HotPage| {
        let slot = slots.get(usize::from(hot.slot))?;
        let offset = hot.page as usize * PAGE_LEN;
        (offset < slot.len()).then(|| number_of(slot.base() + offset))
    };
    hot.iter().filter_map(page).collect()
}

/// A page of this task as a profile has it.
pub(super) fn hot_page(slots: &[SlotId], page: Page) -> Option<HotPage> {
    let addr = addr_of(page);
    let slot = slots.iter().position(|slot| slot.contains(addr))?;
    let page = ((addr - slots[slot].base()) / PAGE_LEN) as u32;
    Some(HotPage { slot: slot.try_into().ok()?, page })
}

/// Adds the open pages that words on the stack and in the thread-locals lead to.
fn seen_from_stack(header: &Header, slots: &[SlotId], open: &PageSet, head: &mut PageSet) {
    let (from, to) = (image::saved_sp(header), header.slot.base() + header.slot.len());
    let mut left = SEEN_MAX;
    for at in (from.next_multiple_of(8)..to & !7).step_by(8) {
        // SAFETY: the frozen task's stack, thread-locals and header, which the caller holds.
        let word = unsafe { (at as *const usize).read() };
        if !migrt_iso::in_region(word) || !slots.iter().any(|slot| slot.contains(word)) {
            continue;
        }
        let page = number_of(word);
        if open.contains(page) {
            left -= head.insert(Run::one(page)).min(left);
            if left == 0 {
                return;
            }
        }
    }
}
