//! Lists of missing pages: as the wire has them, and as the kernel is told of them.

use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::transfer::{PageSet, Run};
use migrt_proto::wire::ShipSlot;

use super::remains::{addr_of, number_of};

/// Ranges registered for one slot: each costs the kernel a mapping, and the pause 10 us.
const RANGES_MAX: usize = 4;
/// Missing pages that are no farther apart share a range. What lies between is there, or is zeros and costs a
/// fault without the wire if it is touched.
const GAP_LEN: usize = 64 * PAGE_LEN;

/// Pages that are no farther apart are asked after together: to walk over what lies between costs less than
/// another system call.
const ASK_GAP: u64 = 256;

/// Those of the pages that hold memory.
pub(super) fn present(pages: &PageSet) -> PageSet {
    let mut present = PageSet::new();
    let mut is_exact = true;
    let mut runs = pages.runs().peekable();
    while let Some(mut run) = runs.next() {
        while let Some(next) = runs.next_if(|next| next.first.0 - run.end().0 <= ASK_GAP) {
            run.count = next.end().0 - run.first.0;
            is_exact = false;
        }
        let (addr, len) = span_of(run);
        page::present_runs(addr, len, &mut |found| {
            present.insert(Run::new(number_of(found.addr), found.count as u64));
        });
    }
    match is_exact {
        true => present,
        false => present.intersection(pages),
    }
}

/// All pages of a slot.
pub(super) fn run_of(slot: SlotId) -> Run {
    Run::new(number_of(slot.base()), (slot.len() / PAGE_LEN) as u64)
}

/// The pages of these lists.
pub(super) fn pages_of(list: &[ShipSlot]) -> Option<PageSet> {
    let mut pages = PageSet::new();
    for item in list {
        let slot = SlotId::from_raw(item.slot.0)?;
        for run in &item.runs {
            let (from, len) = (run.first as usize * PAGE_LEN, run.count as usize * PAGE_LEN);
            if from + len > slot.len() {
                return None;
            }
            pages.insert(Run::new(number_of(slot.base() + from), u64::from(run.count)));
        }
    }
    Some(pages)
}

/// The pages of one slot of a list.
pub(super) fn runs_of(item: &ShipSlot) -> impl Iterator<Item = Run> {
    let start = SlotId::from_raw(item.slot.0).expect("a slot of this node").base();
    item.runs.iter().map(move |run| {
        Run::new(number_of(start + run.first as usize * PAGE_LEN), u64::from(run.count))
    })
}

/// The ranges to register for these pages of one slot: not too many of them. (Numbers of pages: a list of addresses
/// would reach what other tasks have left there, for as long as it lies in somebody's memory.)
pub(super) fn ranges(pages: &PageSet) -> Vec<Run> {
    let mut gap = (GAP_LEN / PAGE_LEN) as u64;
    loop {
        let mut ranges: Vec<Run> = Vec::new();
        for run in pages.runs() {
            match ranges.last_mut() {
                Some(last) if run.first.0 - (last.first.0 + last.count) <= gap => {
                    last.count = run.first.0 + run.count - last.first.0;
                }
                _ => ranges.push(run),
            }
        }
        if ranges.len() <= RANGES_MAX {
            return ranges;
        }
        gap *= 4;
    }
}

/// Address and length of a run.
pub(super) fn span_of(run: Run) -> (usize, usize) {
    (addr_of(run.first), run.count as usize * PAGE_LEN)
}
