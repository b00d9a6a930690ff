//! The bytes of a departed task's pages as they were when it left: what was shipped, and what both
//! later versions are compared with.
//!
//! They lie in slots of the region taken for the purpose, not in the node's heap: a scan of node
//! memory must not meet these copies of the task's own pointers and take them for references.
//!
//! ```text
//! stop-copy   copy everything once                    parts in the order of the list
//! pre-copy    copy a round ... copy the rest          a page that comes again overwrites its copy,
//!                                                     once the round before has been written
//! return      the target had it: not sent             *thin*: its hash, and the bytes still in place
//! ```
//!
//! A page that is thin is copied as soon as there is time ([`Base::fill`]), unless the collector finds first
//! that nothing reaches it. If the node has written it by then its bytes as of departure are lost: it is *torn*.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use migrt_iso::{PAGE_LEN, REGION_BASE, SlotId, pool};
use migrt_proto::transfer::{Page, PageHash, PageSet, Run};
use migrt_proto::wire::ShipSlot;

use super::copies::{CopySlot, take_slot};
use super::hashes::Hashes;
use super::thin::Thin;
use crate::migrate::hash;
use crate::net::Part;

/// Bytes that are copied at a time and shown to whoever looks through them: the nearest cache holds
/// them twice.
const COPY_LEN: usize = 16 << 10;
/// So many pages are copied at once.
const FEW: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Base {
    /// Pages and where their copies lie. Numbers, not addresses: this table is node memory, and an
    /// address in it would be a reference to what it describes.
    pages: BTreeMap<Page, Page>,
    /// Pages that were not copied yet, and what they hashed to at the departure.
    thin: Thin,
    /// Pages of which there is no copy and will be none.
    torn: Hashes,
    slots: Vec<Arc<CopySlot>>,
    /// Taken beforehand, and empty still.
    spare: Vec<Arc<CopySlot>>,
    /// What is left of the last slot.
    room: Range<usize>,
    /// Up to where the last slot is to be made present before it is written.
    fill_to: usize,
}

/// The number of the page at `addr`, counted from the region's start.
pub(crate) fn number_of(addr: usize) -> Page {
    Page(((addr - REGION_BASE) / PAGE_LEN) as u64)
}

/// Where a page lies.
pub(crate) fn addr_of(page: Page) -> usize {
    REGION_BASE + page.0 as usize * PAGE_LEN
}

impl Base {
    /// Copies the pages of a frozen task, in the order of the list, and gives the copy as the wire
    /// sends it: what is shipped is this copy, so the two are equal whatever the node's threads do to
    /// memory that they reach.
    ///
    /// `None`: this node has no slot left for the copy.
    pub(crate) fn copy(list: &[ShipSlot]) -> Option<(Base, Vec<Part>)> {
        let mut base = Base::default();
        let mut parts = Parts::lent();
        let count: usize = list.iter().flat_map(|s| &s.runs).map(|run| run.count as usize).sum();
        let mut pages = Vec::with_capacity(count);
        for item in list {
            let start = SlotId::from_raw(item.slot.0).expect("a slot of this node").base();
            for run in &item.runs {
                let from = start + run.first as usize * PAGE_LEN;
                let left = (count - pages.len()) * PAGE_LEN;
                let to = (&mut parts, &mut pages);
                base.copy_new(from, run.count as usize * PAGE_LEN, left, to, &mut |_, _, _| ())?;
            }
        }
        base.pages = pages.into_iter().collect();
        Some((base, parts.list))
    }

    /// Copies a run of pages, over the copies that were made of them before, and appends it to
    /// `parts`. `left`: bytes that this and later calls of the same shipment copy.
    ///
    /// The parts of earlier calls that hold the same pages must have been written.
    pub(crate) fn add(&mut self, run: Run, left: usize, parts: &mut Parts) -> Option<()> {
        let mut page = run.first;
        let mut new = Vec::new();
        while page < run.end() {
            if let Some(&copy) = self.pages.get(&page) {
                let slot = self.slot_of(addr_of(copy));
                // SAFETY: the source is the task's page, the target its copy, which nobody reads now.
                unsafe { copy_bytes(addr_of(page), addr_of(copy), PAGE_LEN) };
                parts.add(slot, addr_of(copy), PAGE_LEN);
                page = Page(page.0 + 1);
                continue;
            }
            let next_known = self.pages.range(page..run.end()).next().map_or(run.end(), |p| *p.0);
            let len = (next_known.0 - page.0) as usize * PAGE_LEN;
            let to = (&mut *parts, &mut new);
            self.copy_new(addr_of(page), len, left.max(len), to, &mut |_, _, _| ())?;
            page = next_known;
        }
        if !self.thin.is_empty() {
            new.iter().for_each(|entry| _ = self.thin.remove(entry.0));
        }
        self.pages.extend(new);
        Some(())
    }

    /// Takes the slots for copies of so many bytes, so that these cannot fail for want of one.
    ///
    /// `None`: there are too few.
    pub(crate) fn reserve(&mut self, len: usize) -> Option<()> {
        let mut left = len;
        while left > 0 {
            let slot = take_slot(left)?;
            left = left.saturating_sub(slot.id.len());
            self.spare.push(slot);
        }
        // The longest ones are used first: those that were taken first.
        self.spare.reverse();
        Some(())
    }

    /// As [`add`](Self::add), but what was copied before is sent as it is: the copies may be on their
    /// way still.
    pub(crate) fn add_once(&mut self, run: Run, left: usize, parts: &mut Parts) -> Option<()> {
        let mut page = run.first;
        let mut new = Vec::new();
        while page < run.end() {
            if let Some(&copy) = self.pages.get(&page) {
                parts.add(self.slot_of(addr_of(copy)), addr_of(copy), PAGE_LEN);
                page = Page(page.0 + 1);
                continue;
            }
            let next_known = self.pages.range(page..run.end()).next().map_or(run.end(), |p| *p.0);
            let len = (next_known.0 - page.0) as usize * PAGE_LEN;
            let to = (&mut *parts, &mut new);
            self.copy_new(addr_of(page), len, left.max(len), to, &mut |_, _, _| ())?;
            page = next_known;
        }
        if !self.thin.is_empty() {
            new.iter().for_each(|entry| _ = self.thin.remove(entry.0));
        }
        self.pages.extend(new);
        Some(())
    }

    /// Another version of a page. The one before stays where it is if the wire may read it once more:
    /// the task can be back before all that was sent is acknowledged.
    pub(crate) fn put(&mut self, page: Page, bytes: &[u8; PAGE_LEN]) -> Option<()> {
        let known = self.pages.get(&page).map(|&copy| addr_of(copy));
        let copy = match known.filter(|&copy| !self.is_lent(copy)) {
            Some(copy) => copy,
            None => {
                if self.room.is_empty() {
                    self.more_room(PAGE_LEN * 16)?;
                }
                let copy = self.room.start;
                self.room.start += PAGE_LEN;
                let slot = self.slots.last().expect("there is room");
                slot.used.store(self.room.start - slot.id.base(), Ordering::Relaxed);
                self.pages.insert(page, number_of(copy));
                copy
            }
        };
        // SAFETY: `bytes` is no part of a copy, and the copy is read by nobody now: no part of its
        // slot is lent, or it lies where nothing was yet.
        unsafe { copy_bytes(bytes.as_ptr() as usize, copy, PAGE_LEN) };
        Some(())
    }

    /// Whether parts that lie in the slot of a copy are on the wire.
    fn is_lent(&mut self, copy: usize) -> bool {
        let slot = self.slots.iter_mut().find(|slot| slot.id.contains(copy));
        Arc::get_mut(slot.expect("copies lie in the base's slots")).is_none()
    }

    /// Copies pages that have no copy yet; `pages` notes where, for [`Base::note`]. `seen` is shown each
    /// few of them: where they lie, where their copy, and how long it is.
    pub(crate) fn copy_new(
        &mut self,
        mut from: usize,
        len: usize,
        left: usize,
        (parts, pages): (&mut Parts, &mut Vec<(Page, Page)>),
        seen: &mut dyn FnMut(usize, usize, usize),
    ) -> Option<()> {
        let (end, mut left) = (from + len, left);
        while from < end {
            if self.room.is_empty() {
                self.more_room(left)?;
            }
            let len = self.room.len().min(end - from);
            let to = self.room.start;
            let slot = self.slots.last().expect("there is room").clone();
            for at in (0..len).step_by(COPY_LEN) {
                let (from, to, len) = (from + at, to + at, COPY_LEN.min(len - at));
                slot.make_present(to + len, self.fill_to);
                // SAFETY: the source is the task's, the target a slot of ours that is read up to `room`.
                unsafe { copy_bytes(from, to, len) };
                seen(from, to, len);
            }
            for page in (0..len).step_by(PAGE_LEN) {
                pages.push((number_of(from + page), number_of(to + page)));
            }
            // Relaxed: read when nobody else has the slot any more.
            slot.used.store(to + len - slot.id.base(), Ordering::Relaxed);
            parts.add(slot, to, len);
            self.room.start += len;
            from += len;
            left -= len;
        }
        Some(())
    }

    /// Where copies lie that were made by [`Base::copy_new`].
    pub(crate) fn note(&mut self, pages: Vec<(Page, Page)>) {
        // In one go: one by one they cost as much as the copies.
        self.pages.append(&mut pages.into_iter().collect());
    }

    /// A slot for `left` bytes or for as many as one slot is to have.
    fn more_room(&mut self, left: usize) -> Option<()> {
        let (slot, is_spare) = match self.spare.pop() {
            Some(slot) => (slot, true),
            None => (take_slot(left)?, false),
        };
        let id = slot.id;
        self.slots.push(slot);
        let len = left.min(id.len());
        let is_long = len >= 16 * PAGE_LEN && id.class() > pool::WARM_CLASS_MAX;
        // Spare room is filled bit by bit, by threads that have no time to make much of it present.
        self.fill_to = match !is_spare && is_long {
            true => id.base() + len.next_multiple_of(PAGE_LEN),
            false => 0,
        };
        self.room = id.base()..id.base() + id.len();
        Some(())
    }

    fn slot_of(&self, copy: usize) -> Arc<CopySlot> {
        let found = self.slots.iter().find(|slot| slot.id.contains(copy));
        found.expect("copies lie in the base's slots").clone()
    }

    /// The page is none of the task's any more: zeros.
    pub(crate) fn remove(&mut self, page: Page) {
        self.pages.remove(&page);
        self.thin.remove(page);
    }

    /// Nothing is there any more of these pages; those that there were.
    pub(crate) fn drop_run(&mut self, run: Run) -> Vec<Page> {
        let all = PageSet::from_iter([run]);
        let copied = self.pages.range(run.first..run.end()).map(|(&page, _)| page);
        let torn = self.torn.range(run.first..run.end()).map(|(&page, _)| page);
        let thin = self.thin.pages().intersection(&all);
        let dropped: Vec<Page> = copied.chain(torn).chain(thin.pages()).collect();
        dropped.iter().for_each(|&page| self.remove(page));
        dropped
    }

    /// Pages that were not sent, since the target had them with these hashes.
    pub(crate) fn note_same(&mut self, pages: Thin) {
        self.thin = pages;
        if self.thin.len() < FEW {
            self.fill(FEW);
        }
    }

    /// Copies up to `max` of the pages that were not copied at the departure. Whether all are done.
    pub(crate) fn fill(&mut self, max: usize) -> bool {
        for _ in 0..max {
            let Some((page, wanted)) = self.thin.pop_first() else { break };
            self.fill_in(page, wanted);
        }
        self.thin.is_empty()
    }

    /// Copies all that were not copied at the departure, but for these.
    pub(crate) fn fill_but(&mut self, same: &PageSet) {
        let wanted = self.thin.pages().difference(same);
        wanted.pages().for_each(|page| self.fill_page(page));
    }

    /// Copies this page, if it was not copied at the departure.
    pub(crate) fn fill_page(&mut self, page: Page) {
        if let Some(wanted) = self.thin.remove(page) {
            self.fill_in(page, wanted);
        }
    }

    fn fill_in(&mut self, page: Page, wanted: PageHash) {
        // SAFETY: a page of the departed task, kept in place. If the node's threads write it at
        // this moment, the copy's hash tells.
        let bytes = unsafe { &*(addr_of(page) as *const [u8; PAGE_LEN]) };
        let is_copied = self.put(page, bytes).is_some();
        if !is_copied || hash::at(addr_of(self.pages[&page])) != wanted {
            self.pages.remove(&page);
            self.torn.insert(page, wanted);
        }
    }

    /// Whether there are pages to be copied yet.
    pub(crate) fn is_thin(&self) -> bool {
        !self.thin.is_empty()
    }

    /// What a page hashed to at the departure that was not copied yet.
    pub(crate) fn thin(&self, page: Page) -> Option<PageHash> {
        self.thin.get(page)
    }

    /// What a page hashed to whose bytes are lost.
    pub(crate) fn torn(&self, page: Page) -> Option<PageHash> {
        self.torn.get(&page).copied()
    }

    /// The hashes of up to `max` pages from `from` on, as of the departure; the copied ones are hashed now.
    pub(crate) fn hashes(&self, from: Page, max: usize) -> Vec<(Page, PageHash)> {
        let copied = self.pages.range(from..).map(|(&page, &copy)| (page, Ok(addr_of(copy))));
        let torn = self.torn.range(from..).map(|(&page, &hash)| (page, hash));
        let known = self.thin.first(from, max).chain(torn).map(|(page, hash)| (page, Err(hash)));
        let mut all: Vec<_> = copied.take(max).chain(known).collect();
        all.sort_unstable_by_key(|entry| entry.0);
        all.truncate(max);
        all.into_iter()
            .map(|(page, hash)| (page, hash.map_or_else(|hash| hash, hash::at)))
            .collect()
    }

    /// Bytes of all pages that were copied.
    pub(crate) fn byte_count(&self) -> usize {
        self.pages.len() * PAGE_LEN
    }

    /// Bytes of all pages.
    pub(crate) fn held_bytes(&self) -> usize {
        (self.pages.len() + self.thin.len() + self.torn.len()) * PAGE_LEN
    }

    /// The word at `addr` as it was copied.
    pub(crate) fn word(&self, addr: usize) -> Option<usize> {
        let copy = self.page(addr & !(PAGE_LEN - 1))? + addr % PAGE_LEN;
        // SAFETY: within a copied page, aligned as the word itself is.
        Some(unsafe { (copy as *const usize).read() })
    }

    /// Where the copy of the page at `addr` lies.
    pub(crate) fn page(&self, addr: usize) -> Option<usize> {
        Some(addr_of(*self.pages.get(&number_of(addr))?))
    }

    /// All its pages.
    pub(crate) fn page_set(&self) -> PageSet {
        let mut all = self.thin.pages().clone();
        all.extend(self.pages.keys().chain(self.torn.keys()).copied().map(Run::one));
        all
    }

    /// The pages that were shipped of `from..to`, as one run.
    pub(crate) fn stack_pages(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        let first = self.pages.range(number_of(from)..).next()?;
        let addr = addr_of(*first.0);
        (addr < to).then(|| (addr, to - addr))
    }
}

/// # Safety
/// Both ranges are mapped, `to` is this thread's alone, and they do not overlap.
unsafe fn copy_bytes(from: usize, to: usize, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len) };
}

/// Copied pages, in the order in which they are sent.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) list: Vec<Part>,
    /// The copies stay as they are until the peer has them (see [`Base::put`]).
    is_lent: bool,
}

impl Parts {
    /// Of copies that no later round overwrites.
    pub(crate) fn lent() -> Parts {
        Parts { list: Vec::new(), is_lent: true }
    }

    fn add(&mut self, slot: Arc<CopySlot>, addr: usize, len: usize) {
        let part = CopyPart { slot, addr, len };
        self.list.push(match self.is_lent {
            true => Part::Lent(Bytes::from_owner(part)),
            false => Part::Shared(Box::new(part)),
        });
    }
}

/// Some of a slot of copies, on the wire.
struct CopyPart {
    slot: Arc<CopySlot>,
    addr: usize,
    len: usize,
}

impl AsRef<[u8]> for CopyPart {
    fn as_ref(&self) -> &[u8] {
        debug_assert!(self.slot.id.contains(self.addr));
        // SAFETY: the slot is kept by this value and was filled there; copies are overwritten only
        // after they were sent (see `Base::add`), or while no part of their slot is left (`Base::put`).
        unsafe { std::slice::from_raw_parts(self.addr as *const u8, self.len) }
    }
}
