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
use migrt_proto::transfer::{PageSet, Run};
use migrt_proto::wire::Strategy;

use super::remains::number_of;
use super::{image, slots_of};
use crate::task::body::MobileBody;
use crate::task::header::Header;

/// Pages of the heap that go with the task for being seen from its stack.
const SEEN_MAX: u64 = 64;
/// The pages of a frozen task, in two parts.
#[derive(Debug)]
pub(super) struct Split {
    /// Its slots, the task slot first.
    pub(super) slots: Vec<SlotId>,
    /// What goes with it.
    pub(super) head: PageSet,
    /// What follows; some of it may be zeros.
    pub(super) missing: PageSet,
}

/// Whether the pages of the frozen task are to follow it.
pub(super) fn is_to_follow(body: &MobileBody) -> bool {
    let order = body.journey().order;
    let is_wanted = order.is_some_and(|order| order.strategy == Strategy::PostCopy);
    // One that lacks pages itself does not get so far.
    is_wanted && body.header().is_some()
}

/// Divides the pages of a frozen task, but for those that the target has.
pub(super) fn split(header: &Header, same: &PageSet) -> Split {
    let slots = slots_of(header);
    let arena = header.prefix.arena();
    let run_of = |addr: usize, len: usize| Run::new(number_of(addr), (len / PAGE_LEN) as u64);
    let (mut live, mut head) = (PageSet::new(), PageSet::new());
    arena.for_each_live_run(&mut |addr, len| {
        if len > 0 {
            live.insert(run_of(addr, len));
        }
    });
    arena.for_each_record_run(&mut |addr, len| {
        head.insert(run_of(addr, len));
    });
    seen_from_stack(header, &slots, &live, &mut head);
    head.remove_all(same);
    let missing = live.difference(&head).difference(same);
    let (from, to) = image::always_shipped(header);
    head.insert(run_of(from, to - from));
    Split { slots, head, missing }
}

/// Adds the live pages that words on the stack and in the thread-locals lead to.
fn seen_from_stack(header: &Header, slots: &[SlotId], live: &PageSet, head: &mut PageSet) {
    let (from, to) = (image::saved_sp(header), header.slot.base() + header.slot.len());
    let mut left = SEEN_MAX;
    for at in (from.next_multiple_of(8)..to & !7).step_by(8) {
        // SAFETY: the frozen task's stack, thread-locals and header, which the caller holds.
        let word = unsafe { (at as *const usize).read() };
        if !migrt_iso::in_region(word) || !slots.iter().any(|slot| slot.contains(word)) {
            continue;
        }
        let page = number_of(word);
        if live.contains(page) {
            left -= head.insert(Run::one(page)).min(left);
            if left == 0 {
                return;
            }
        }
    }
}
