//! Writing the pages of an arriving task to where they belong.

use migrt_iso::page::HUGE_PAGE_LEN;
use migrt_iso::{PAGE_LEN, REGION_BASE, SlotId, page};
use migrt_proto::SlotRef;
use migrt_proto::wire::ShipSlot;

use super::remains::Merge;
use crate::task::header::Layout;

/// Runs of so many pages are made present before they are written, so many at a time: one call costs
/// less than a fault for each.
const POPULATE_MIN: usize = 4 * PAGE_LEN;
const POPULATE_MAX: usize = 64 * PAGE_LEN;

/// Where the pages of one section go: a cursor over its runs.
#[derive(Debug)]
pub(crate) struct Installer {
    /// Where each run begins, from the region's base, and the bytes that are left of it, in order. (Not addresses: this
    /// lives as long as a stream, and would reach what other tasks have left.)
    runs: Vec<(usize, usize)>,
    at: usize,
    /// Up to here the run that is being written was made present.
    present_to: usize,
}

impl Installer {
    /// Checks that each run lies within its slot; the slots themselves are the caller's already.
    pub(crate) fn new(task_slot: Option<SlotRef>, slots: &[ShipSlot]) -> Result<Installer, String> {
        let runs = addresses(task_slot, slots)?;
        let runs = runs.into_iter().map(|(addr, len)| (addr - REGION_BASE, len)).collect();
        Ok(Installer { runs, at: 0, present_to: 0 })
    }

    /// Writes the next bytes to where they belong, or merges them with what the task has left here; how
    /// many were taken.
    pub(crate) fn write(&mut self, bytes: &[u8], merge: Option<&mut Merge>) -> usize {
        let mut rest = bytes;
        let mut merge = merge;
        while let Some((offset, left)) = self.runs.get_mut(self.at)
            && !rest.is_empty()
        {
            let addr = REGION_BASE + *offset;
            let len = rest.len().min(*left);
            match &mut merge {
                Some(merge) => merge.add(addr, &rest[..len]),
                None => {
                    let is_ready = (*offset..=self.present_to).contains(&(*offset + len));
                    if !is_ready && *left >= POPULATE_MIN {
                        self.present_to = populate(addr, len, *left) - REGION_BASE;
                    }
                    install(addr, &rest[..len]);
                }
            }
            *offset += len;
            *left -= len;
            if *left == 0 {
                self.at += 1;
            }
            rest = &rest[len..];
        }
        bytes.len() - rest.len()
    }

    /// Whether all announced bytes have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.at == self.runs.len()
    }
}

/// Pages that came in an earlier section are zero now.
pub(crate) fn clear(
    task_slot: Option<SlotRef>,
    zero: &[ShipSlot],
    merge: Option<&mut Merge>,
) -> Result<(), String> {
    let runs = addresses(task_slot, zero)?;
    match merge {
        Some(merge) => {
            for (addr, len) in runs {
                (addr..addr + len).step_by(PAGE_LEN).for_each(|page| merge.clear(page));
            }
        }
        None => {
            for (addr, len) in runs {
                // SAFETY: pages of the arriving task's slots, which are this node's (I3).
                unsafe { page::discard(addr, len) };
            }
        }
    }
    Ok(())
}

/// Addresses and lengths of the runs, each within its slot and off the guard.
fn addresses(
    task_slot: Option<SlotRef>,
    slots: &[ShipSlot],
) -> Result<Vec<(usize, usize)>, String> {
    let mut runs = Vec::new();
    for ship in slots {
        let slot = SlotId::from_raw(ship.slot.0)
            .ok_or_else(|| format!("{:#x} is no slot", ship.slot.0))?;
        for run in &ship.runs {
            let (first, count) = (run.first, run.count);
            let from = first as usize * PAGE_LEN;
            let len = count as usize * PAGE_LEN;
            if from + len > slot.len() {
                return Err(format!("pages {first}+{count} lie outside of {slot}"));
            }
            let addr = slot.base() + from;
            let guard = Layout { slot }.guard();
            let hits_guard = Some(ship.slot) == task_slot
                && addr < guard + crate::task::stack::GUARD_LEN
                && guard < addr + len;
            if hits_guard {
                return Err(format!("pages {first}+{count} of {slot} lie on its guard"));
            }
            runs.push((addr, len));
        }
    }
    Ok(runs)
}

/// Makes the pages of the next `len` bytes present, and some of the `left` that follow in the run; up
/// to where.
///
/// A run of two megabytes is dense: there huge pages cost a fifth of small ones. Elsewhere they would
/// make pages present that the task never touches.
fn populate(addr: usize, len: usize, left: usize) -> usize {
    let from = addr & !(PAGE_LEN - 1);
    let end = (addr + left).next_multiple_of(PAGE_LEN);
    let whole = from.next_multiple_of(HUGE_PAGE_LEN);
    let few = (addr + left.min(len.max(POPULATE_MAX))).next_multiple_of(PAGE_LEN);
    let to = match whole + HUGE_PAGE_LEN <= end {
        true if from == whole => from + HUGE_PAGE_LEN,
        true => few.min(whole),
        false => few,
    };
    // SAFETY: the pages are within a slot that is this node's (I3, checked in `addresses`).
    unsafe { page::populate_huge(from, to - from) };
    to
}

/// Writes bytes to pages that are this node's and nobody else's yet.
fn install(addr: usize, bytes: &[u8]) {
    // SAFETY: the pages are within a slot that is this node's (I3, checked in `addresses`); the task does not run and nobody else knows these pages.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), addr as *mut u8, bytes.len()) };
}
