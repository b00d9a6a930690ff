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
//! The node's threads go on using what they reach while the pages are merged. They reach blocks the
//! task does not change, so there the task's word is the base's and nothing is written; the words
//! that are written belong to blocks of the task alone. Words are stored one by one, never a page.
//!
//! A *count* is a word of an `Arc`'s or `Rc`'s: one of the first two of its block, small before and
//! after on both sides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use migrt_iso::arena::Arena;
use migrt_iso::{PAGE_LEN, SlotId};

use super::{Base, Kept};
use crate::census;
use crate::symbols;
use crate::task::header::Layout;

const PAGE_WORDS: usize = PAGE_LEN / 8;
/// Counts above are none.
const COUNT_MAX: usize = 1 << 24;
static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// The arriving pages of a task that has remains here: collected, not yet written.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    bytes: Vec<u8>,
    /// Page address to its place in `bytes`.
    places: HashMap<usize, usize>,
}

impl Staging {
    /// Takes the next bytes, which belong to the page at `addr` (and what follows it).
    pub(crate) fn add(&mut self, addr: usize, bytes: &[u8]) {
        let mut at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let first = addr.next_multiple_of(PAGE_LEN);
        at += first - addr;
        for page in (first..addr + bytes.len()).step_by(PAGE_LEN) {
            self.places.insert(page, at);
            at += PAGE_LEN;
        }
    }

    fn page(&self, addr: usize) -> &[u8] {
        match self.places.get(&addr) {
            Some(&at) => &self.bytes[at..at + PAGE_LEN],
            None => &ZEROS,
        }
    }
}

/// A merge that was found possible.
#[derive(Debug)]
pub(crate) struct Merge {
    kept: Kept,
    staging: Staging,
    pages: Vec<usize>,
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
    /// Looks whether the arriving pages fit over the remains. Nothing is written.
    ///
    /// # Errors
    /// One and the same word was changed on both sides: the remains back, and the static's name.
    pub(crate) fn check(kept: Kept, staging: Staging) -> Result<Merge, (Kept, String)> {
        let mut pages: Vec<usize> = staging.places.keys().copied().collect();
        pages.extend(kept.base().pages());
        pages.sort_unstable();
        pages.dedup();
        let merge = Merge { kept, staging, pages };
        match merge.conflict() {
            None => Ok(merge),
            Some(addr) => {
                let why = merge.explain(addr);
                Err((merge.kept, why))
            }
        }
    }

    fn conflict(&self) -> Option<usize> {
        let mut conflict = None;
        self.each_change(|addr, word| {
            if let Verdict::Conflict = word.verdict(|| self.is_count(addr)) {
                conflict.get_or_insert(addr);
            }
        });
        conflict
    }

    /// Writes the result.
    ///
    /// # Panics
    /// If a word that both sides changed has come up since [`Merge::check`]: memory may be wrong.
    pub(crate) fn apply(self) {
        let mut counts = Vec::new();
        self.each_change(|addr, word| {
            if word.node != word.base
                && let Verdict::Add(by) = word.verdict(|| self.is_count(addr))
            {
                counts.push((addr, by));
            }
        });
        self.each_change(|addr, word| {
            // SAFETY: a word of a page of this node's slots; others may store to it at this moment,
            // hence an atomic.
            let place = unsafe { &*(addr as *const AtomicUsize) };
            if let Some(&(_, by)) = counts.iter().find(|c| c.0 == addr) {
                place.fetch_add(by, Ordering::Relaxed);
                return;
            }
            match word.verdict(|| false) {
                Verdict::Leave => {}
                Verdict::Store(task) => place.store(task, Ordering::Relaxed),
                Verdict::Add(_) | Verdict::Conflict => {
                    panic!("I4: the word at {addr:#x} was changed on both nodes since the check")
                }
            }
        });
    }

    /// The remains, unmerged: the move was called off.
    pub(crate) fn into_kept(self) -> Kept {
        self.kept
    }

    /// Calls `seen` with each word that the task has changed. The head of the list of remote frees is
    /// left out if the node has changed it too: the node's frees are carried out then, and blocks
    /// freed from afar at the last moment elsewhere stay allocated.
    fn each_change(&self, mut seen: impl FnMut(usize, Word)) {
        let base = self.kept.base();
        let frees = self.remote_lists();
        for &page in &self.pages {
            let task = self.staging.page(page);
            let before = base.page(page).unwrap_or(ZEROS.as_ptr() as usize);
            // SAFETY: a copy of a page in a slot of the base, or zeros.
            let before = unsafe { std::slice::from_raw_parts(before as *const u8, PAGE_LEN) };
            if task == before {
                continue;
            }
            for at in 0..PAGE_WORDS {
                let word = |bytes: &[u8]| {
                    usize::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"))
                };
                let (task, base) = (word(task), word(before));
                if task != base {
                    let addr = page + at * 8;
                    // SAFETY: as in `apply`.
                    let node = unsafe { &*(addr as *const AtomicUsize) }.load(Ordering::Relaxed);
                    if node == base || !frees.contains(&addr) {
                        seen(addr, Word { base, node, task });
                    }
                }
            }
        }
    }

    /// The heads of the lists of remote frees: of the task's arena and of those that it had adopted.
    fn remote_lists(&self) -> Vec<usize> {
        // SAFETY: kept slots, whose memory is there.
        let arena =
            |slot: &SlotId| unsafe { Arena::of_slot(*slot).and_then(|arena| arena.as_ref()) };
        let mut all: Vec<_> =
            self.kept.slots.iter().filter_map(arena).map(Arena::remote_list_addr).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether the word is one of the first two of its block, as an `Arc`'s counts are.
    fn is_count(&self, addr: usize) -> bool {
        // SAFETY: an address in kept slots, whose arenas nobody changes.
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

impl Kept {
    fn base(&self) -> &Base {
        self.base.as_deref().expect("only departed tasks come back")
    }
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
