//! Pages by their number in the region, runs of neighbouring ones, and sets of them.
//!
//! ```text
//! region   | page 0 | page 1 | page 2 | ...
//! run      first = 1, count = 2:  pages 1 and 2
//! set      block number -> 1,024 bits          (empty blocks are not kept)
//! ```
//!
//! A set costs what its blocks cost, wherever in the region they lie. A run that is removed, looked up or cut out may
//! be of any length: only blocks that exist are touched. A run that is *inserted* makes blocks, so its length must
//! have been checked by whoever got it from the wire.

use core::{fmt, iter::FusedIterator};
use std::collections::{BTreeMap, btree_map};

use serde::{Deserialize, Serialize};

use super::block::{BLOCK_PAGES, Block};

const PER_BLOCK: u64 = BLOCK_PAGES as u64;

/// There are no pages from here on: with 4 KiB each, 64 bits of address would be full.
pub(super) const PAGE_END: Page = Page(1 << 52);

/// A page, by its number from the region's start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Page(pub u64);

/// Neighbouring pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The first page.
    pub first: Page,
    /// How many.
    pub count: u64,
}

impl Run {
    /// `count` pages from `first` on.
    pub const fn new(first: Page, count: u64) -> Run {
        Run { first, count }
    }

    /// `page` alone.
    pub const fn one(page: Page) -> Run {
        Run { first: page, count: 1 }
    }

    /// The page behind the last one; the highest number there is if the run goes beyond it.
    pub const fn end(self) -> Page {
        Page(self.first.0.saturating_add(self.count))
    }

    /// Whether the run covers `page`.
    pub fn contains(self, page: Page) -> bool {
        self.first <= page && page < self.end()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}+{}", self.first.0, self.count)
    }
}

/// A set of pages.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PageSet {
    blocks: BTreeMap<u64, Block>,
    len: u64,
}

impl PageSet {
    /// The empty set.
    pub const fn new() -> PageSet {
        PageSet { blocks: BTreeMap::new(), len: 0 }
    }

    /// How many pages it has.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `page` is in it.
    pub fn contains(&self, page: Page) -> bool {
        let (number, bit) = split(page.0);
        self.blocks.get(&number).is_some_and(|block| block.contains(bit))
    }

    /// Adds the pages of `run`; how many are new.
    ///
    /// # Panics
    /// If the run ends above 2^52, where no address space has pages.
    pub fn insert(&mut self, run: Run) -> u64 {
        assert!(run.end() <= PAGE_END, "{run:?} lies outside of any address space");
        let mut added = 0;
        let (mut at, end) = (run.first.0, run.end().0);
        while at < end {
            let (number, bit) = split(at);
            let stop = end.min((number + 1) * PER_BLOCK);
            let bits = bit..bit + (stop - at) as u32;
            added += self.blocks.entry(number).or_default().insert(bits);
            at = stop;
        }
        self.len += added;
        added
    }

    /// Takes the pages of `run` out; how many were in it.
    pub fn remove(&mut self, run: Run) -> u64 {
        let mut removed = 0;
        let mut at = run.first;
        // Block by block of those that exist.
        while let Some(number) = self.block_from(at, run.end()) {
            let bits = bits_in(number, run);
            let block = self.blocks.get_mut(&number).expect("it was just found");
            removed += block.remove(bits);
            if block.is_empty() {
                self.blocks.remove(&number);
            }
            at = Page((number + 1) * PER_BLOCK);
        }
        self.len -= removed;
        removed
    }

    /// The number of the first block that has a part of `at..end`.
    fn block_from(&self, at: Page, end: Page) -> Option<u64> {
        if at >= end {
            return None;
        }
        let last = split(end.0 - 1).0;
        self.blocks.range(split(at.0).0..=last).next().map(|(number, _)| *number)
    }

    /// The set's pages as runs, ascending, neighbours joined.
    pub fn runs(&self) -> Runs<'_> {
        let mut blocks = self.blocks.iter();
        let block = blocks.next();
        Runs { blocks, block, bit: 0 }
    }

    /// The set's pages, ascending.
    pub fn pages(&self) -> impl Iterator<Item = Page> {
        self.runs().flat_map(|run| (run.first.0..run.end().0).map(Page))
    }

    /// The lowest page of the set that is `page` or above it.
    pub fn first_from(&self, page: Page) -> Option<Page> {
        let (number, mut bit) = split(page.0);
        for (at, block) in self.blocks.range(number..) {
            if *at != number {
                bit = 0;
            }
            if let Some(found) = block.first_from(bit) {
                return Some(Page(at * PER_BLOCK + u64::from(found)));
            }
        }
        None
    }

    /// The highest page of the set that is `page` or below it.
    pub fn last_to(&self, page: Page) -> Option<Page> {
        let (number, mut bit) = split(page.0);
        for (at, block) in self.blocks.range(..=number).rev() {
            if *at != number {
                bit = BLOCK_PAGES - 1;
            }
            if let Some(found) = block.last_to(bit) {
                return Some(Page(at * PER_BLOCK + u64::from(found)));
            }
        }
        None
    }

    /// How many of the set's pages follow each other from `page` on, counting at most `limit`.
    pub fn run_from(&self, page: Page, limit: u64) -> u64 {
        let mut count = 0;
        while count < limit {
            let (number, bit) = split(page.0 + count);
            let Some(block) = self.blocks.get(&number) else { break };
            let gap = block.gap_from(bit);
            count += u64::from(gap - bit);
            if gap < BLOCK_PAGES {
                break;
            }
        }
        count.min(limit)
    }

    /// The pages of the set that lie in `run`.
    pub fn within(&self, run: Run) -> PageSet {
        let mut part = PageSet::new();
        let mut at = run.first;
        while let Some(number) = self.block_from(at, run.end()) {
            let mut mask = Block::default();
            mask.insert(bits_in(number, run));
            part.put(number, self.blocks[&number].intersection(&mask));
            at = Page((number + 1) * PER_BLOCK);
        }
        part
    }

    /// Adds the pages of `other`.
    pub fn add_all(&mut self, other: &PageSet) {
        for (number, theirs) in &other.blocks {
            let ours = self.blocks.entry(*number).or_default();
            let both = ours.union(theirs);
            self.len += both.len() - ours.len();
            *ours = both;
        }
    }

    /// Takes the pages of `other` out.
    pub fn remove_all(&mut self, other: &PageSet) {
        for (number, theirs) in &other.blocks {
            let Some(ours) = self.blocks.get_mut(number) else { continue };
            let rest = ours.difference(theirs);
            self.len -= ours.len() - rest.len();
            *ours = rest;
            if rest.is_empty() {
                self.blocks.remove(number);
            }
        }
    }

    /// The pages that are in one of the two or in both.
    #[must_use]
    pub fn union(&self, other: &PageSet) -> PageSet {
        let mut all = self.clone();
        all.add_all(other);
        all
    }

    /// The pages that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &PageSet) -> PageSet {
        let mut rest = PageSet::new();
        for (number, ours) in &self.blocks {
            match other.blocks.get(number) {
                Some(theirs) => rest.put(*number, ours.difference(theirs)),
                None => rest.put(*number, *ours),
            }
        }
        rest
    }

    /// The pages that are in both.
    #[must_use]
    pub fn intersection(&self, other: &PageSet) -> PageSet {
        let (few, many) =
            if self.blocks.len() <= other.blocks.len() { (self, other) } else { (other, self) };
        let mut both = PageSet::new();
        for (number, ours) in &few.blocks {
            if let Some(theirs) = many.blocks.get(number) {
                both.put(*number, ours.intersection(theirs));
            }
        }
        both
    }

    /// Takes the `count` lowest pages out, or all if there are fewer.
    pub fn take_first(&mut self, count: u64) -> PageSet {
        self.take_up(Page(0), count)
    }

    /// Takes out the first `count` pages from `from` upward.
    pub fn take_up(&mut self, from: Page, count: u64) -> PageSet {
        let mut taken = PageSet::new();
        let mut at = from;
        while taken.len < count {
            let Some(first) = self.first_from(at) else { break };
            let run = Run::new(first, self.run_from(first, count - taken.len));
            self.remove(run);
            taken.insert(run);
            at = run.end();
        }
        taken
    }

    /// Takes out the first `count` pages from `from` downward.
    pub fn take_down(&mut self, from: Page, count: u64) -> PageSet {
        let mut taken = PageSet::new();
        while taken.len < count {
            let Some(last) = self.last_to(from) else { break };
            self.remove(Run::one(last));
            taken.insert(Run::one(last));
        }
        taken
    }

    fn put(&mut self, number: u64, block: Block) {
        if !block.is_empty() {
            self.len += block.len();
            self.blocks.insert(number, block);
        }
    }
}

fn split(page: u64) -> (u64, u32) {
    (page / PER_BLOCK, (page % PER_BLOCK) as u32)
}

/// The bits of block `number` that `run` covers.
fn bits_in(number: u64, run: Run) -> core::ops::Range<u32> {
    let base = number * PER_BLOCK;
    let from = run.first.0.saturating_sub(base).min(PER_BLOCK);
    let to = run.end().0.saturating_sub(base).min(PER_BLOCK);
    from as u32..to as u32
}

impl fmt::Debug for PageSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.runs()).finish()
    }
}

impl Extend<Run> for PageSet {
    fn extend<T: IntoIterator<Item = Run>>(&mut self, runs: T) {
        for run in runs {
            self.insert(run);
        }
    }
}

impl FromIterator<Run> for PageSet {
    fn from_iter<T: IntoIterator<Item = Run>>(runs: T) -> PageSet {
        let mut set = PageSet::new();
        set.extend(runs);
        set
    }
}

impl FromIterator<Page> for PageSet {
    fn from_iter<T: IntoIterator<Item = Page>>(pages: T) -> PageSet {
        pages.into_iter().map(Run::one).collect()
    }
}

/// The runs of a set, ascending.
#[derive(Clone)]
pub struct Runs<'a> {
    blocks: btree_map::Iter<'a, u64, Block>,
    block: Option<(&'a u64, &'a Block)>,
    bit: u32,
}

impl fmt::Debug for Runs<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.clone()).finish()
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let first = loop {
            let (number, block) = self.block?;
            if let Some(bit) = block.first_from(self.bit) {
                self.bit = bit;
                break number * PER_BLOCK + u64::from(bit);
            }
            self.block = self.blocks.next();
            self.bit = 0;
        };
        // Follow the run, over the edges of blocks if it goes on there.
        loop {
            let (number, block) = self.block?;
            self.bit = block.gap_from(self.bit);
            if self.bit < BLOCK_PAGES {
                let end = number * PER_BLOCK + u64::from(self.bit);
                return Some(Run::new(Page(first), end - first));
            }
            let end = (number + 1) * PER_BLOCK;
            self.block = self.blocks.next();
            self.bit = 0;
            match self.block {
                Some((next, block)) if *next == number + 1 && block.contains(0) => {}
                _ => return Some(Run::new(Page(first), end - first)),
            }
        }
    }
}

impl FusedIterator for Runs<'_> {}
