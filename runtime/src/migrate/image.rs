//! The image of a frozen task: which of its pages are alive.
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
use migrt_proto::transfer::{PageSet, Run};
use migrt_proto::wire::{PageRun, ShipSlot};

use super::pages::present;
use super::remains::{addr_of, number_of};
use crate::task::adopted;
use crate::task::header::Header;
use crate::task::prefix::HeaderPrefix;

/// Runs shorter than this are read rather than asked after: a system call costs more.
const ASK_PAGES: usize = 24;

/// The live pages of a frozen task, slot by slot, in rising order.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) slots: Vec<ShipSlot>,
    but: PageSet,
}

/// Finds the live pages of a frozen task.
///
/// The pages of `but` are left out.
///
/// The header must have been prepared for the journey (no words of this node in it).
pub(crate) fn of(header: &Header, but: &PageSet) -> Image {
    let mut image = Image { but: but.clone(), ..Image::default() };
    let layout = header.layout();
    let slot = layout.slot;
    let slot_end = slot.base() + slot.len();
    let (stack_from, _) = always_shipped(header);
    let mut runs = Vec::new();
    let mut extents = Vec::new();
    header.prefix.arena().for_each_live_run(&mut |addr, len| runs.push((addr, len)));
    header.prefix.arena().for_each_extent(&mut |extent| extents.push(extent));
    runs.sort_unstable();
    image.open(slot);
    for &(addr, len) in runs.iter().filter(|r| SlotId::of_addr(r.0) == Some(slot)) {
        image.add_live(addr, len);
    }
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

/// What a frozen task is never shipped without: the page of SP, whose dead bytes are zero now, up to
/// the end of the slot: stack, thread-locals, header.
pub(crate) fn always_shipped(header: &Header) -> (usize, usize) {
    let slot = header.slot;
    let sp = saved_sp(header);
    let from = sp & !(PAGE_LEN - 1);
    // SAFETY: below the stack pointer of a suspended task, in its own slot.
    unsafe { std::ptr::write_bytes(from as *mut u8, 0, sp - from) };
    (from, slot.base() + slot.len())
}

/// Where the live stack of a suspended task begins.
pub(crate) fn saved_sp(header: &Header) -> usize {
    // SAFETY: the task is suspended and the caller holds it.
    unsafe { &*header.coro.get() }.as_ref().expect("a suspended task").saved_sp()
}

impl Image {
    /// How many pages it has.
    pub(crate) fn page_count(&self) -> usize {
        self.slots.iter().flat_map(|slot| &slot.runs).map(|run| run.count as usize).sum()
    }

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
        let run = Run::new(number_of(addr), (len / PAGE_LEN) as u64);
        let but = self.but.within(run);
        let is_short = len / PAGE_LEN < ASK_PAGES;
        if is_short && but.is_empty() {
            return self.add_nonzero(addr, len / PAGE_LEN);
        }
        let mut pages = PageSet::from_iter([run]).difference(&but);
        if !is_short {
            pages = present(&pages);
        }
        for run in pages.runs() {
            self.add_nonzero(addr_of(run.first), run.count as usize);
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
