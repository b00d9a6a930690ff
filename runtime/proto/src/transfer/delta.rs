//! Delta: what a task that comes back need not bring, since the target has kept it.
//!
//! ```text
//! target   keeps pages of a task that left                      [`Shelf`]: within a budget, the oldest go first
//! target   tells what it keeps, each page with its hash         [`KeptPages`]
//! source   a page has that hash now: it is *same*, not sent     [`Delta`]
//! target   same but not kept any more: *lost*, asked for        [`Return`]
//!          kept, but neither same nor sent: dead, dropped
//! ```
//!
//! 1. A page is the same only if its hash, as of the freeze or of a time since which it was not written, is the one that
//!    the target told.
//! 2. Once the source has sent any version of a page, the target's is overwritten: it is not the same any more.
//! 3. What the target tells is no promise. It may drop pages between its word and the task's arrival; then they are lost,
//!    and the task is not ready before they have come.
//! 4. A page that was overwritten by a try which came to nothing is kept no longer.
//!
//! Absent: the bytes, how they are hashed, who asks whom.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pages::{Page, PageSet, Run};
use crate::id::TaskId;

/// A hash of a page's bytes, wide enough that equal hashes mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PageHash(pub u128);

/// Pages that a node keeps of a task, and their hashes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptPages {
    /// Ascending.
    list: Vec<(Page, PageHash)>,
}

impl KeptPages {
    /// Of pages in any order; of a page that is given twice the last hash counts.
    pub fn new(mut list: Vec<(Page, PageHash)>) -> KeptPages {
        if !list.is_sorted_by(|a, b| a.0 < b.0) {
            list.reverse();
            list.sort_by_key(|entry| entry.0);
            list.dedup_by_key(|entry| entry.0);
        }
        KeptPages { list }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.list.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The hash of `page`, if it is kept.
    pub fn get(&self, page: Page) -> Option<PageHash> {
        let at = self.list.binary_search_by_key(&page, |entry| entry.0).ok()?;
        Some(self.list[at].1)
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Page, PageHash)> {
        self.list.iter().copied()
    }

    /// Those of them that are in `pages`, ascending.
    pub fn among(&self, pages: &PageSet) -> impl Iterator<Item = (Page, PageHash)> {
        let mut rest = &self.list[..];
        pages.runs().flat_map(move |run| {
            rest = &rest[rest.partition_point(|entry| entry.0 < run.first)..];
            let (these, behind) = rest.split_at(rest.partition_point(|entry| entry.0 < run.end()));
            rest = behind;
            these.iter().copied()
        })
    }

    /// Without their hashes.
    pub fn pages(&self) -> PageSet {
        let mut pages = PageSet::new();
        let mut run: Option<Run> = None;
        for &(page, _) in &self.list {
            match &mut run {
                Some(run) if run.end() == page => run.count += 1,
                _ => {
                    pages.extend(run.replace(Run::one(page)));
                }
            }
        }
        pages.extend(run);
        pages
    }

    /// Those of them that are not in `gone`.
    #[must_use]
    pub fn without(mut self, gone: &PageSet) -> KeptPages {
        self.list.retain(|entry| !gone.contains(entry.0));
        self
    }
}

/// The source's state for one try of a move to a node that keeps pages of the task.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    kept: Arc<KeptPages>,
    same: PageSet,
    /// Rule 2.
    sent: PageSet,
}

impl Delta {
    /// The target keeps these.
    pub fn new(kept: KeptPages) -> Delta {
        Delta { kept: Arc::new(kept), same: PageSet::new(), sent: PageSet::new() }
    }

    /// Whether the target keeps anything.
    pub fn keeps_any(&self) -> bool {
        !self.kept.is_empty()
    }

    /// What the target has said of `page`.
    pub fn kept(&self, page: Page) -> Option<PageHash> {
        self.kept.get(page)
    }

    /// Compares `pages`; `hash_of` tells what one hashes to now (rule 1), and is asked for kept pages alone, in
    /// ascending order. `None`: it holds nothing.
    pub fn compare(
        &mut self,
        pages: &PageSet,
        mut hash_of: impl FnMut(Page) -> Option<PageHash>,
    ) -> &PageSet {
        self.same.remove_all(pages);
        let mut run: Option<Run> = None;
        for (page, wanted) in self.kept.iter() {
            let may_be = pages.contains(page) && !self.sent.contains(page);
            if !may_be || hash_of(page) != Some(wanted) {
                continue;
            }
            match &mut run {
                Some(run) if run.end() == page => run.count += 1,
                _ => self.same.extend(run.replace(Run::one(page))),
            }
        }
        self.same.extend(run);
        &self.same
    }

    /// `pages` are sent.
    pub fn sends(&mut self, pages: &PageSet) {
        self.same.remove_all(pages);
        self.sent.add_all(pages);
    }

    /// `pages` were written, or are dead or zero: what was found out of them is void.
    pub fn void(&mut self, pages: &PageSet) {
        self.same.remove_all(pages);
    }

    /// The pages that the target is to find where they are.
    pub fn same(&self) -> &PageSet {
        &self.same
    }

    /// All that the target has told, the hashes of the [same](Self::same) among them.
    pub fn told(&self) -> Arc<KeptPages> {
        self.kept.clone()
    }
}

/// The target's state for one try of a move of a task of which it keeps pages in place.
#[derive(Clone, Debug, Default)]
pub struct Return {
    kept: KeptPages,
    written: PageSet,
}

/// What is left to do when the source has named all pages.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The source takes them for kept, and they are not: to be asked for.
    pub lost: PageSet,
    /// Pages that hold something by then; all others are zero, or come yet.
    pub alive: PageSet,
}

impl Return {
    /// These are kept.
    pub fn new(kept: KeptPages) -> Return {
        Return { kept, written: PageSet::new() }
    }

    /// It is known only now what is kept. Written pages are none of it, whatever they hash to.
    pub fn keeps(&mut self, kept: KeptPages) {
        self.kept = kept;
    }

    /// The pages that were kept, written since or not.
    pub fn kept(&self) -> PageSet {
        self.kept.pages()
    }

    /// Pages come, or are cleared: from now on they are not what they were.
    pub fn writes(&mut self, pages: &PageSet) {
        self.written.add_all(pages);
    }

    /// The source has named all that it sends, and `same`; `is_as_told` tells whether the kept pages of `same` have
    /// the hashes that the source has seen (rule 3).
    pub fn settle(
        &mut self,
        same: &PageSet,
        is_as_told: impl FnOnce(&KeptPages) -> bool,
    ) -> Settled {
        let kept = self.kept().difference(&self.written);
        let mut lost = same.difference(&kept);
        if lost.is_empty() && !is_as_told(&self.kept) {
            lost = same.clone();
        }
        let alive = self.written.union(same).difference(&lost);
        // What is not among them goes, and what is lost is overwritten.
        self.written.add_all(&kept.difference(same));
        self.written.add_all(&lost);
        Settled { lost, alive }
    }

    /// The try came to nothing: what is still kept (rule 4), and what holds something else now.
    pub fn undo(self) -> (KeptPages, PageSet) {
        (self.kept.without(&self.written), self.written)
    }
}

/// Whose pages are kept, within a budget: the oldest go first.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    budget: u64,
    held: u64,
    /// Oldest first.
    order: VecDeque<(TaskId, u64)>,
}

impl Shelf {
    /// An empty one.
    pub fn new(budget: u64) -> Shelf {
        Shelf { budget, held: 0, order: VecDeque::new() }
    }

    /// Keeps `bytes` of a task, in place of what was kept of it. Whose pages are to be dropped: that may be the task's
    /// own, if they are more than there may be at all.
    pub fn put(&mut self, task: TaskId, bytes: u64) -> Vec<TaskId> {
        self.take(task);
        if bytes > self.budget {
            return vec![task];
        }
        self.order.push_back((task, bytes));
        self.held += bytes;
        let mut dropped = Vec::new();
        while self.held > self.budget {
            let (oldest, bytes) = self.order.pop_front().expect("what is held is somebody's");
            self.held -= bytes;
            dropped.push(oldest);
        }
        dropped
    }

    /// The task's pages are not kept any more. How many bytes that were.
    pub fn take(&mut self, task: TaskId) -> Option<u64> {
        let at = self.order.iter().position(|entry| entry.0 == task)?;
        let (_, bytes) = self.order.remove(at).expect("just found");
        self.held -= bytes;
        Some(bytes)
    }

    /// The task's pages were asked after: it is about to come, so they go last.
    pub fn touch(&mut self, task: TaskId) {
        if let Some(bytes) = self.take(task) {
            self.order.push_back((task, bytes));
            self.held += bytes;
        }
    }

    /// Bytes kept.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How many tasks' pages are kept.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
