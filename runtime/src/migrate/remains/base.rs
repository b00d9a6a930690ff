//! The bytes of a departed task's pages as they were when it left: what both later versions are
//! compared with.
//!
//! They lie in slots of the region taken for the purpose, not in the node's heap: a scan of node
//! memory must not meet these copies of the task's own pointers and take them for references.

use migrt_iso::{PAGE_LEN, SlotClass, SlotId, page, pool};
use migrt_proto::wire::ShipSlot;

/// See the module.
#[derive(Debug)]
pub(crate) struct Base {
    /// `(page address, where its copy lies)`, ascending.
    pages: Vec<(usize, usize)>,
    slots: Vec<SlotId>,
}

impl Base {
    /// Copies the pages that were shipped.
    ///
    /// # Panics
    /// If this node has no slot left for the copy.
    pub(crate) fn copy(shipped: &[ShipSlot]) -> Base {
        let mut pages: Vec<usize> = Vec::new();
        for item in shipped {
            let base = SlotId::from_raw(item.slot.0).expect("shipped from here").base();
            for run in &item.runs {
                let first = run.first as usize;
                pages.extend((first..first + run.count as usize).map(|p| base + p * PAGE_LEN));
            }
        }
        pages.sort_unstable();
        let (mut slots, mut room) = (Vec::new(), 0..0);
        let mut copies = Vec::with_capacity(pages.len());
        for (at, &addr) in pages.iter().enumerate() {
            if room.is_empty() {
                let left = (pages.len() - at) * PAGE_LEN;
                let class = SlotClass::for_len(left.min(64 << 20)).expect("64 MiB at most");
                let slot = pool::global().take(class).expect("a slot for the copy of what left");
                slots.push(slot);
                room = slot.base()..slot.base() + slot.len();
            }
            // SAFETY: the source page is the departed task's, not yet given up; the target is ours.
            unsafe {
                std::ptr::copy_nonoverlapping(addr as *const u8, room.start as *mut u8, PAGE_LEN);
            }
            copies.push((addr, room.start));
            room.start += PAGE_LEN;
        }
        Base { pages: copies, slots }
    }

    /// Where the copy of the page at `addr` lies.
    pub(crate) fn page(&self, addr: usize) -> Option<usize> {
        let at = self.pages.binary_search_by_key(&addr, |p| p.0).ok()?;
        Some(self.pages[at].1)
    }

    /// Addresses of all pages, ascending.
    pub(crate) fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.pages.iter().map(|p| p.0)
    }

    /// Empties the pages of `slot` that were not shipped: they were dead.
    pub(crate) fn discard_the_rest(&self, slot: SlotId) {
        let mut from = slot.base();
        let end = slot.base() + slot.len();
        let first = self.pages.partition_point(|p| p.0 < from);
        for &(addr, _) in self.pages[first..].iter().take_while(|p| p.0 < end) {
            if addr > from {
                // SAFETY: dead pages of a slot that is about to be kept.
                unsafe { page::discard(from, addr - from) };
            }
            from = addr + PAGE_LEN;
        }
        if end > from {
            // SAFETY: as above.
            unsafe { page::discard(from, end - from) };
        }
    }

    /// Gives the memory of the copies back.
    pub(crate) fn free(self) {
        for slot in self.slots {
            pool::global().give(slot);
        }
    }
}
