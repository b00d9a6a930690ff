//! The bytes of a departed task's pages as they were when it left: what both later versions are
//! compared with.
//!
//! They lie in slots of the region taken for the purpose, not in the node's heap: a scan of node
//! memory must not meet these copies of the task's own pointers and take them for references.

use std::ops::Range;
use std::sync::Arc;

use migrt_iso::{PAGE_LEN, REGION_BASE, SlotClass, SlotId, page, pool};
use migrt_proto::wire::ShipSlot;

use crate::net::Part;

/// Bytes of one slot of copies.
const PART_LEN: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Base {
    /// Pages and where their copies lie, ascending. Numbers, not addresses: this table is node
    /// memory, and an address in it would be a reference to what it describes.
    pages: Vec<(PageNumber, PageNumber)>,
    slots: Vec<SlotId>,
}

/// A page of the region, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PageNumber(u64);

impl PageNumber {
    fn of(addr: usize) -> PageNumber {
        PageNumber(((addr - REGION_BASE) / PAGE_LEN) as u64)
    }

    fn addr(self) -> usize {
        REGION_BASE + self.0 as usize * PAGE_LEN
    }
}

impl Base {
    /// Of a task that has not started.
    pub(crate) fn empty() -> Base {
        Base { pages: Vec::new(), slots: Vec::new() }
    }

    /// Bytes of all pages.
    pub(crate) fn byte_count(&self) -> usize {
        self.pages.len() * PAGE_LEN
    }

    /// The word at `addr` as it was copied.
    pub(crate) fn word(&self, addr: usize) -> Option<usize> {
        let copy = self.page(addr & !(PAGE_LEN - 1))? + addr % PAGE_LEN;
        // SAFETY: within a copied page, aligned as the word itself is.
        Some(unsafe { (copy as *const usize).read() })
    }

    /// Copies the pages of a frozen task, in the order of the list: what is shipped is this copy, so
    /// the two are equal whatever the node's threads do to memory that they reach.
    ///
    /// `None`: this node has no slot left for the copy.
    pub(crate) fn copy(list: &[ShipSlot]) -> Option<Base> {
        let count: usize = list.iter().flat_map(|s| &s.runs).map(|run| run.count as usize).sum();
        let mut base = Base { pages: Vec::with_capacity(count), slots: Vec::new() };
        let mut room = 0..0;
        for item in list {
            let start = SlotId::from_raw(item.slot.0).expect("a slot of this node").base();
            for run in &item.runs {
                let mut from = start + run.first as usize * PAGE_LEN;
                let end = from + run.count as usize * PAGE_LEN;
                while from < end {
                    if room.is_empty() {
                        room = base.more_room((count - base.pages.len()) * PAGE_LEN)?;
                    }
                    let len = room.len().min(end - from);
                    // SAFETY: the source is the frozen task's; the target a slot of ours.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            from as *const u8,
                            room.start as *mut u8,
                            len,
                        );
                    }
                    for page in (0..len).step_by(PAGE_LEN) {
                        let pair = (PageNumber::of(from + page), PageNumber::of(room.start + page));
                        base.pages.push(pair);
                    }
                    room.start += len;
                    from += len;
                }
            }
        }
        base.pages.sort_unstable();
        Some(base)
    }

    /// A slot for `left` bytes or for as many as one part is to have.
    fn more_room(&mut self, left: usize) -> Option<Range<usize>> {
        let class = SlotClass::for_len(left.min(PART_LEN)).expect("a short slot");
        let slot = pool::global().take(class)?;
        self.slots.push(slot);
        let len = left.min(slot.len());
        if len >= 16 * PAGE_LEN && class > pool::WARM_CLASS_MAX {
            // SAFETY: a slot just taken.
            unsafe { page::populate_write(slot.base(), len.next_multiple_of(PAGE_LEN)) };
        }
        Some(slot.base()..slot.base() + len)
    }

    /// The copy as the wire sends it: one part for each of its slots.
    pub(crate) fn parts(self: &Arc<Base>) -> Vec<Part> {
        let mut left = self.pages.len() * PAGE_LEN;
        let mut parts = Vec::with_capacity(self.slots.len());
        for at in 0..self.slots.len() {
            let len = left.min(self.slots[at].len());
            left -= len;
            parts.push(Part::Shared(Box::new(BasePart { base: self.clone(), at, len })));
        }
        parts
    }

    /// Where the copy of the page at `addr` lies.
    pub(crate) fn page(&self, addr: usize) -> Option<usize> {
        let at = self.pages.binary_search_by_key(&PageNumber::of(addr), |p| p.0).ok()?;
        Some(self.pages[at].1.addr())
    }

    /// Addresses of all pages, ascending.
    pub(crate) fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.pages.iter().map(|p| p.0.addr())
    }

    /// The pages that were shipped of `from..to`, as one run.
    pub(crate) fn stack_pages(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        let first = self.pages.partition_point(|p| p.0 < PageNumber::of(from));
        let addr = self.pages.get(first)?.0.addr();
        (addr < to).then(|| (addr, to - addr))
    }
}

impl Drop for Base {
    /// The slots go back without what was in them: as heap of another task it would lie in bytes that
    /// this task never writes, and the audit would find another task's addresses there.
    fn drop(&mut self) {
        let mut left = self.byte_count();
        for &slot in &self.slots {
            let len = left.min(slot.len());
            left -= len;
            if slot.class() <= pool::WARM_CLASS_MAX {
                // SAFETY: a slot of ours that nothing refers to any more (I3).
                unsafe { std::ptr::write_bytes(slot.base() as *mut u8, 0, len) };
            }
            pool::global().give(slot);
        }
    }
}

/// One slot of a base, on the wire.
struct BasePart {
    base: Arc<Base>,
    at: usize,
    len: usize,
}

impl AsRef<[u8]> for BasePart {
    fn as_ref(&self) -> &[u8] {
        let slot = self.base.slots[self.at];
        // SAFETY: the slot is the base's, filled that far, and never written again while it lives.
        unsafe { std::slice::from_raw_parts(slot.base() as *const u8, self.len) }
    }
}
