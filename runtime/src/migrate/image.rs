//! The image of a frozen task: which of its pages are alive; and the reverse, writing them.
//!
//! ```text
//! task slot   | heap: live runs | guard | dead stack | live stack | TLS | header |
//!                ^ shipped                              ^ shipped from the page of SP on
//! heap slot   | metadata and live runs shipped, free runs and untouched pages not |
//! ```
//!
//! Pages that were never touched or hold only zeros are left out: memory is zero where nothing
//! arrives. The bytes of SP's page below SP are dead and zeroed first.

use migrt_iso::{PAGE_LEN, SlotId, page};
use migrt_proto::SlotRef;
use migrt_proto::wire::{PageRun, ShipSlot};

use super::remains::Staging;
use crate::task::adopted;
use crate::task::header::{Header, Layout};
use crate::task::prefix::HeaderPrefix;

/// Runs shorter than this are read rather than asked after: a system call costs more.
const ASK_PAGES: usize = 24;

/// The live pages of a frozen task, slot by slot, in rising order.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) slots: Vec<ShipSlot>,
}

/// Finds the live pages of a frozen task.
///
/// The header must have been prepared for the journey (no words of this node in it).
pub(crate) fn of(header: &Header) -> Image {
    let mut image = Image::default();
    let layout = header.layout();
    let slot = layout.slot;
    let slot_end = slot.base() + slot.len();
    let sp = saved_sp(header);
    let stack_from = sp & !(PAGE_LEN - 1);
    let mut runs = Vec::new();
    let mut extents = Vec::new();
    header.prefix.arena().for_each_live_run(&mut |addr, len| runs.push((addr, len)));
    header.prefix.arena().for_each_extent(&mut |extent| extents.push(extent));
    runs.sort_unstable();
    image.open(slot);
    for &(addr, len) in runs.iter().filter(|r| SlotId::of_addr(r.0) == Some(slot)) {
        image.add_live(addr, len);
    }
    // SAFETY: below the stack pointer of a suspended task, in its own slot.
    unsafe { std::ptr::write_bytes(stack_from as *mut u8, 0, sp - stack_from) };
    image.add_pages(stack_from, (slot_end - stack_from) / PAGE_LEN);
    for extent in extents {
        image.open(extent);
        for &(addr, len) in runs.iter().filter(|r| SlotId::of_addr(r.0) == Some(extent)) {
            image.add_live(addr, len);
        }
    }
    header.adopted().for_each(|arena| image.add_adopted(arena));
    image
}

/// Where the live stack of a suspended task begins.
pub(crate) fn saved_sp(header: &Header) -> usize {
    // SAFETY: the task is suspended and the caller holds it.
    unsafe { &*header.coro.get() }.as_ref().expect("a suspended task").saved_sp()
}

impl Image {
    /// The slots of an adopted arena: its live blocks and the page that it is found by.
    fn add_adopted(&mut self, arena: &HeaderPrefix) {
        let mut runs = Vec::new();
        let mut slots = vec![adopted::slot_of(arena)];
        arena.arena().for_each_live_run(&mut |addr, len| runs.push((addr, len)));
        arena.arena().for_each_extent(&mut |slot| slots.push(slot));
        runs.sort_unstable();
        for slot in slots {
            self.open(slot);
            for &(addr, len) in runs.iter().filter(|r| slot.contains(r.0)) {
                self.add_live(addr, len);
            }
            let prefix = adopted::prefix_page(arena);
            if slot.contains(prefix) {
                self.add_pages(prefix, 1);
            }
        }
    }

    fn open(&mut self, slot: SlotId) {
        self.slots.push(ShipSlot { slot: SlotRef(slot.raw()), runs: Vec::new() });
    }

    /// Pages that the heap says are alive: those that hold something.
    fn add_live(&mut self, addr: usize, len: usize) {
        if len / PAGE_LEN < ASK_PAGES {
            self.add_nonzero(addr, len / PAGE_LEN);
        } else {
            let mut present = Vec::new();
            page::present_runs(addr, len, &mut |run| present.push((run.addr, run.count)));
            for (addr, count) in present {
                self.add_nonzero(addr, count);
            }
        }
    }

    fn add_nonzero(&mut self, addr: usize, count: usize) {
        let mut from = addr;
        let end = addr + count * PAGE_LEN;
        while from < end {
            // SAFETY: the page is the task's, which is frozen and held by the caller.
            let zero = |at: usize| unsafe { page::is_zero_page(at as *const u8) };
            if zero(from) {
                from += PAGE_LEN;
                continue;
            }
            let mut to = from + PAGE_LEN;
            while to < end && !zero(to) {
                to += PAGE_LEN;
            }
            self.add_pages(from, (to - from) / PAGE_LEN);
            from = to;
        }
    }

    fn add_pages(&mut self, addr: usize, count: usize) {
        let slot = self.slots.last_mut().expect("a slot was opened");
        let base = SlotId::from_raw(slot.slot.0).expect("opened by us").base();
        let first = ((addr - base) / PAGE_LEN) as u32;
        match slot.runs.last_mut() {
            Some(run) if run.first + run.count == first => run.count += count as u32,
            _ => slot.runs.push(PageRun { first, count: count as u32 }),
        }
    }
}

/// Writes bytes to pages that are this node's and nobody else's yet.
fn install(addr: usize, bytes: &[u8]) {
    if bytes.len() >= 16 * PAGE_LEN {
        let from = addr & !(PAGE_LEN - 1);
        let len = (addr + bytes.len() - from).next_multiple_of(PAGE_LEN);
        // SAFETY: the pages are within a slot that is this node's (I3, checked in `new`).
        unsafe { page::populate_write(from, len) };
    }
    // SAFETY: as above; the task does not run and nobody else knows these pages.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), addr as *mut u8, bytes.len()) };
}

/// Where the pages of an arriving image go: a cursor over its runs.
#[derive(Debug)]
pub(crate) struct Installer {
    /// `(address, bytes left)` of each run, in order.
    runs: Vec<(usize, usize)>,
    at: usize,
    /// Set if the task has remains here: bytes are collected, to be merged.
    pub(crate) staging: Option<Staging>,
}

impl Installer {
    /// Checks that each run lies within its slot; the slots themselves are the caller's already.
    pub(crate) fn new(slots: &[ShipSlot], staged: bool) -> Result<Installer, String> {
        let mut runs = Vec::new();
        for ship in slots {
            let slot = SlotId::from_raw(ship.slot.0)
                .ok_or_else(|| format!("{:#x} is no slot", ship.slot.0))?;
            for run in &ship.runs {
                let from = run.first as usize * PAGE_LEN;
                let len = run.count as usize * PAGE_LEN;
                if from + len > slot.len() {
                    return Err(format!("pages {}+{} lie outside of {slot}", run.first, run.count));
                }
                let addr = slot.base() + from;
                let guard = Layout { slot }.guard();
                let hits_guard = ship.slot == slots[0].slot
                    && addr < guard + crate::task::stack::GUARD_LEN
                    && guard < addr + len;
                if hits_guard {
                    return Err(format!(
                        "pages {}+{} of {slot} lie on its guard",
                        run.first, run.count
                    ));
                }
                runs.push((addr, len));
            }
        }
        Ok(Installer { runs, at: 0, staging: staged.then(Staging::default) })
    }

    /// Writes the next bytes to where they belong.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let Some((addr, left)) = self.runs.get_mut(self.at) else {
                return Err("more bytes than the ship header announced".to_owned());
            };
            let len = bytes.len().min(*left);
            if let Some(staging) = &mut self.staging {
                staging.add(*addr, &bytes[..len]);
            } else {
                install(*addr, &bytes[..len]);
            }
            *addr += len;
            *left -= len;
            if *left == 0 {
                self.at += 1;
            }
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Whether all announced bytes have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.at == self.runs.len()
    }
}
