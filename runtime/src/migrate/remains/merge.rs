//! A task comes back over its own remains: three versions of each word, and which one counts.
//!
//! ```text
//! base (as of departure)   node (now, here)   task (arriving)      result
//! b                        b                  t                    t
//! b                        n                  b                    n    not written at all
//! b                        n                  n                    n
//! b                        n                  t   a count          n + t - b
//! b                        n                  t   anything else    the move is refused
//! ```
//!
//! Pages are merged as they arrive, before the commit, so that the task need not wait for it: a page
//! that comes again in a later round is merged against its version of the round before. If the move
//! is called off, the same merge brings back the version of the departure.
//!
//! The node's threads go on using what they reach while the pages are merged. They reach blocks the
//! task does not change, so there the task's word is the base's and nothing is written; the words
//! that are written belong to blocks of the task alone. Words are stored one by one, never a page.
//! What both have shared in a block, say by an `Arc`, the node sees change with the task's return;
//! a little before the commit, and back if that does not come.
//!
//! A *count* is a word of an `Arc`'s or `Rc`'s: one of the first two of its block, small before and
//! after on both sides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use migrt_iso::arena::Arena;
use migrt_iso::{PAGE_LEN, SlotId};
use migrt_proto::transfer::{Page, PageHash, PageSet, Run};

use super::base::{addr_of, number_of};
use super::{Base, Kept};
use crate::census;
use crate::migrate::hash;
use crate::migrate::pages::run_of;
use crate::symbols;
use crate::task::header::Layout;

const PAGE_WORDS: usize = PAGE_LEN / 8;
/// Counts above are none.
const COUNT_MAX: usize = 1 << 24;

type PageBytes = [u8; PAGE_LEN];
static ZEROS: PageBytes = [0; PAGE_LEN];

/// The arriving pages of a task that has remains here.
#[derive(Debug)]
pub(crate) struct Merge {
    kept: Kept,
    /// The version of each page that was merged last: the base's at first, which stays thin where nothing comes.
    version: Base,
    /// The base's version of pages that have come in another since.
    before: BTreeMap<Page, Box<PageBytes>>,
    /// Pages of the base that have not come: zero, unless they come yet.
    absent: PageSet,
    /// The page that is coming, as far as it has.
    partial: Vec<u8>,
    /// Heads of the lists of remote frees: of the task's heap and of those it had adopted, ascending.
    frees: Vec<usize>,
    /// Words that both sides have changed.
    conflict: Option<usize>,
}

/// One word in three versions.
#[derive(Clone, Copy)]
struct Word {
    base: usize,
    node: usize,
    task: usize,
}

enum Verdict {
    Leave,
    Store(usize),
    Add(usize),
    Conflict,
}

impl Word {
    fn verdict(self, is_count: impl Fn() -> bool) -> Verdict {
        let Word { base, node, task } = self;
        if task == base || task == node {
            Verdict::Leave
        } else if node == base {
            Verdict::Store(task)
        } else if base.max(node).max(task) < COUNT_MAX && is_count() {
            Verdict::Add(task.wrapping_sub(base))
        } else {
            Verdict::Conflict
        }
    }
}

impl Merge {
    /// Of a departed task's remains; pages that do not come are zero in the end.
    pub(crate) fn new(mut kept: Kept) -> Merge {
        let base = kept.base.take().expect("only departed tasks come back");
        let version =
            Arc::try_unwrap(base).expect("a base has one owner once its task is elsewhere");
        let absent = version.page_set();
        let (before, partial) = (BTreeMap::new(), Vec::with_capacity(PAGE_LEN));
        let frees = remote_lists(&kept.slots);
        Merge { kept, version, before, absent, partial, frees, conflict: None }
    }

    /// Copies what was not copied at the departure, be it the same in the end or not.
    pub(crate) fn copy_all(&mut self) {
        self.version.fill(usize::MAX);
    }

    /// The task has given the other slots up: nothing more is merged there.
    pub(crate) fn drop_slots(&mut self, is_named: impl Fn(&SlotId) -> bool) -> Vec<SlotId> {
        let dropped: Vec<SlotId> = self.kept.slots.extract_if(.., |slot| !is_named(slot)).collect();
        for &slot in &dropped {
            for page in self.version.drop_run(run_of(slot)) {
                self.before.remove(&page);
                self.absent.remove(Run::one(page));
            }
        }
        dropped
    }

    /// Takes bytes that belong at `addr`; those of a page come one after the other.
    pub(crate) fn add(&mut self, mut addr: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let page = addr & !(PAGE_LEN - 1);
            let len = bytes.len().min(page + PAGE_LEN - addr);
            let (now, rest) = bytes.split_at(len);
            if let Ok(whole) = now.try_into() {
                self.page(page, whole);
            } else {
                self.partial.extend_from_slice(now);
                if self.partial.len() == PAGE_LEN {
                    let mut whole = std::mem::take(&mut self.partial);
                    self.page(page, whole[..].try_into().expect("a page's length"));
                    whole.clear();
                    self.partial = whole;
                }
            }
            addr += len;
            bytes = rest;
        }
    }

    /// The page is zero, whatever came for it before.
    pub(crate) fn clear(&mut self, page: usize) {
        let (number, version) = (number_of(page), &self.version);
        let is_known = version.page(page).is_some()
            || version.thin(number).is_some()
            || version.torn(number).is_some();
        if is_known {
            self.page(page, &ZEROS);
        }
    }

    /// Pages that do not come, since they are as they were when the task left; `told` is one hash of all
    /// their hashes. `false`: these pages are not known here by that.
    pub(crate) fn keep(&mut self, same: &PageSet, told: u128) -> bool {
        let is_known = match &self.kept.hashes {
            None => same.is_empty(),
            Some(all) => hash::fold(all.among(same)) == told,
        };
        let same = if is_known { same.clone() } else { PageSet::new() };
        self.absent.remove_all(&same);
        // What stays as it was needs no copy to be compared with.
        self.version.fill_but(&same);
        is_known
    }

    /// The hash of a page as the task has it now, if it holds anything.
    pub(crate) fn hash_of(&self, page: Page) -> Option<PageHash> {
        let told = self.version.thin(page).or_else(|| self.version.torn(page));
        told.or_else(|| Some(hash::at(self.version.page(addr_of(page))?)))
    }

    /// All pages have come.
    ///
    /// # Errors
    /// One and the same word was changed on both sides: the static's name.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        for page in std::mem::take(&mut self.absent).pages() {
            self.page(addr_of(page), &ZEROS);
        }
        match self.conflict {
            None => Ok(()),
            Some(addr) => Err(self.explain(addr)),
        }
    }

    /// The move was called off: the remains as they were, with what the node has changed.
    pub(crate) fn undo(mut self) -> Kept {
        for (page, bytes) in std::mem::take(&mut self.before) {
            self.merge(addr_of(page), &bytes);
            if *bytes == ZEROS {
                self.version.remove(page);
            }
        }
        let Merge { mut kept, version, .. } = self;
        kept.base = Some(Arc::new(version));
        kept
    }

    /// The task is back: its copies are of no use any more. Many are given back by a thread of its
    /// own, when the task has begun to run: it takes the kernel milliseconds.
    pub(crate) fn drop_later(self) {
        const MANY: usize = 1 << 20;
        const A_LITTLE: Duration = Duration::from_millis(20);
        if self.version.held_bytes() < MANY {
            return;
        }
        // If there is no thread to be had, it is dropped here.
        let _ = crate::thread::start_clearing("migrt-dropper", move || {
            std::thread::sleep(A_LITTLE);
            drop(self);
        });
    }

    fn page(&mut self, page: usize, task: &PageBytes) {
        let number = number_of(page);
        self.absent.remove(Run::one(number));
        self.version.fill_page(number);
        if let Some(hash) = self.version.torn(number) {
            // The node has changed it, and how it was is lost: the task may not have changed it too.
            if hash::of_bytes(task) != hash {
                self.conflict.get_or_insert(page);
            }
            return;
        }
        let version = bytes_of(&self.version, page);
        if task == version {
            return;
        }
        self.before.entry(number).or_insert_with(|| Box::new(*version));
        self.merge(page, task);
    }

    /// Brings `page` from its last version to the task's. The head of a list of remote frees is
    /// left out if the node has changed it too: the node's frees are carried out then, and blocks
    /// freed from afar at the last moment elsewhere stay allocated.
    fn merge(&mut self, page: usize, task: &PageBytes) {
        let (version, mut conflict) = (bytes_of(&self.version, page), None);
        for at in 0..PAGE_WORDS {
            let word = |bytes: &PageBytes| {
                usize::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"))
            };
            let (base, task) = (word(version), word(task));
            if task == base {
                continue;
            }
            let addr = page + at * 8;
            // SAFETY: a word of a page of this node's slots; others may store to it at this moment,
            // hence an atomic.
            let place = unsafe { &*(addr as *const AtomicUsize) };
            let node = place.load(Ordering::Relaxed);
            if node != base && self.frees.binary_search(&addr).is_ok() {
                continue;
            }
            match (Word { base, node, task }).verdict(|| self.is_count(addr)) {
                Verdict::Leave => {}
                Verdict::Store(task) => place.store(task, Ordering::Relaxed),
                Verdict::Add(by) => {
                    place.fetch_add(by, Ordering::Relaxed);
                }
                Verdict::Conflict => {
                    conflict.get_or_insert(addr);
                }
            }
        }
        self.conflict = self.conflict.or(conflict);
        if self.version.put(number_of(page), task).is_none() {
            // No slot for the copy of a page that was zero: it cannot be undone, so it must not be.
            self.conflict.get_or_insert(page);
        }
    }

    /// Whether the word is one of the first two of its block, as an `Arc`'s counts are.
    fn is_count(&self, addr: usize) -> bool {
        // SAFETY: an address in kept slots, in whose heaps nobody allocates.
        let block = unsafe { Arena::live_block_at(addr) };
        block.is_some_and(|(start, len)| len >= 24 && addr - start < 16)
    }

    /// Says which static leads to the word.
    fn explain(&self, addr: usize) -> String {
        // SAFETY: as in `is_count`.
        let block = unsafe { Arena::live_block_at(addr) };
        let name = block
            .and_then(|(start, len)| static_that_reaches(start, len))
            .or_else(|| self.kept.slots.iter().find_map(|s| static_that_reaches(s.base(), s.len())))
            .unwrap_or("a static of this program");
        let part = if name_is_header(addr, &self.kept.slots) { " (its header)" } else { "" };
        format!(
            "memory that `{name}` reaches was changed by the task and by this node since the task \
             left (the word at {addr:#x}{part}); fill that static before tasks use it (migrt::warm!), \
             or move the task to another node"
        )
    }
}

/// A page as a base has it.
fn bytes_of(base: &Base, page: usize) -> &PageBytes {
    match base.page(page) {
        // SAFETY: a copy of a page, in a slot of the base, which is written by `put` alone.
        Some(copy) => unsafe { &*(copy as *const PageBytes) },
        None => &ZEROS,
    }
}

/// The heads of the lists of remote frees of heaps that lie in remains.
fn remote_lists(slots: &[SlotId]) -> Vec<usize> {
    // SAFETY: kept slots: their memory is there.
    let arena = |slot: &SlotId| unsafe { Arena::of_slot(*slot).and_then(|arena| arena.as_ref()) };
    let mut all: Vec<_> = slots.iter().filter_map(arena).map(Arena::remote_list_addr).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn name_is_header(addr: usize, slots: &[SlotId]) -> bool {
    slots.first().is_some_and(|&slot| addr >= Layout { slot }.header() as usize)
}

/// The name of a static with a word that points into the range.
fn static_that_reaches(start: usize, len: usize) -> Option<&'static str> {
    let mut name = None;
    census::for_each_image_word(start, start + len, &mut |at| {
        if name.is_none() {
            name = symbols::name_of(at);
        }
    });
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(base: usize, node: usize, task: usize, count: bool) -> Option<usize> {
        match (Word { base, node, task }).verdict(|| count) {
            Verdict::Leave => Some(node),
            Verdict::Store(task) => Some(task),
            Verdict::Add(by) => Some(node.wrapping_add(by)),
            Verdict::Conflict => None,
        }
    }

    #[test]
    fn each_line_of_the_table_holds() {
        assert_eq!(verdict(5, 5, 9, false), Some(9));
        assert_eq!(verdict(5, 7, 5, false), Some(7));
        assert_eq!(verdict(5, 7, 7, false), Some(7));
        assert_eq!(verdict(5, 7, 4, true), Some(6));
        assert_eq!(verdict(5, 7, 4, false), None);
        assert_eq!(verdict(5, 7 << 40, 4, true), None, "no count is that high");
    }
}
