//! Post-copy, the target's half: which pages are missing, who waits for them, and what was asked for.
//!
//! ```text
//!              fault: Ask                    arrived
//!   missing  ------------->  missing, asked  ------>  installed, waiters woken
//!      |                        |      ^
//!      |               link_lost|      |link_back, with the request repeated
//!      |                        v      |
//!      |   fault: LinkDown   missing, waited for, not asked
//!      |
//!      +-- source_lost: never, waiters woken to end as lost
//! ```
//!
//! 1. A page is asked for at most once per link, and only while it is missing.
//! 2. What arrives is installed if it is missing and dropped if it is not: the task may have written it since.
//! 3. A page is no longer missing from the moment `arrived` gives it out. The driver installs before it wakes, and
//!    whoever faults in between is told [`Fault::Present`] and tries again. If it cannot be installed it is given back
//!    (`refused`) before anybody is woken: a page that is neither here nor missing would be taken for zeros.
//!
//! Absent: the pages, and the source's half ([`Push`](super::Push)).

use std::collections::BTreeMap;

use super::{
    frames::ASK_RUN_PAGES_MAX,
    pages::{Page, PageSet, Run},
};

/// The driver's name for a task or thread that waits for a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Waiter(pub u64);

/// What a fault needs.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Send this request; the waiter is noted.
    Ask(Run),
    /// It was asked for before; the waiter is noted.
    AlreadyAsked,
    /// The link is down; the waiter is noted, and [`Missing::link_back`] gives out the request.
    LinkDown,
    /// The page is not missing: try again. The waiter is not noted.
    Present,
    /// It will never come. The waiter is not noted.
    SourceLost,
}

/// How pages came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Pushed.
    Push,
    /// As the answer to a request.
    Demand,
}

/// What to do with pages that came.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arrived {
    /// To install, before anybody is woken. The others must not be.
    pub install: PageSet,
    /// How many of the pages were not missing.
    pub duplicate_count: u64,
    /// To wake, in the order of their pages and then of their faults.
    pub wake: Vec<Waiter>,
}

/// What is left when the source is gone.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceLost {
    /// Pages that will never come.
    pub missing_count: u64,
    /// To wake: they end as lost.
    pub wake: Vec<Waiter>,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MissingCounts {
    /// Requests for a page that somebody waited for, repeated ones not counted.
    pub demand_faults: u64,
    /// Faults on pages that had been asked for, or while the link was down.
    pub shared_faults: u64,
    /// Requests that were repeated after a break.
    pub repeated: u64,
    /// Pages installed that were pushed.
    pub by_push: u64,
    /// Pages installed that were demanded, readahead included.
    pub by_demand: u64,
    /// Pages that came and were not missing.
    pub duplicates: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Linked,
    LinkDown,
    Lost,
}

/// The target's state for one task that has arrived by post-copy.
#[derive(Clone, Debug)]
pub struct Missing {
    missing: PageSet,
    /// Asked for on this link. Part of `missing`.
    asked: PageSet,
    waiters: BTreeMap<Page, Vec<Waiter>>,
    source: Source,
    counts: MissingCounts,
}

impl Missing {
    /// A task without `missing`.
    pub fn new(missing: PageSet) -> Missing {
        Missing {
            missing,
            asked: PageSet::new(),
            waiters: BTreeMap::new(),
            source: Source::Linked,
            counts: MissingCounts::default(),
        }
    }

    /// `waiter` touched `page`.
    pub fn fault(&mut self, page: Page, waiter: Waiter) -> Fault {
        if !self.missing.contains(page) {
            return Fault::Present;
        }
        if self.source == Source::Lost {
            return Fault::SourceLost;
        }
        let waiters = self.waiters.entry(page).or_default();
        let is_new = waiters.is_empty();
        waiters.push(waiter);
        if self.source == Source::LinkDown {
            self.count_fault(is_new);
            Fault::LinkDown
        } else if self.asked.insert(Run::one(page)) == 1 {
            self.count_fault(true);
            Fault::Ask(Run::one(page))
        } else {
            self.count_fault(false);
            Fault::AlreadyAsked
        }
    }

    fn count_fault(&mut self, is_demand: bool) {
        self.counts.demand_faults += u64::from(is_demand);
        self.counts.shared_faults += u64::from(!is_demand);
    }

    /// Pages that will be touched soon (the buffer of a system call): the requests to send for those of `run` that are
    /// missing and not asked for. Nobody is noted as waiting, so a break of the link forgets them.
    pub fn prefetch(&mut self, run: Run) -> Vec<Run> {
        if self.source != Source::Linked {
            return Vec::new();
        }
        let pages = self.missing.within(run).difference(&self.asked);
        self.asked.add_all(&pages);
        requests(&pages)
    }

    /// Pages of `runs` came. Runs of any length and place do no harm here; only what is missing is to be installed.
    pub fn arrived(&mut self, runs: &[Run], way: Way) -> Arrived {
        let mut install = PageSet::new();
        let mut duplicate_count = 0u64;
        for run in runs {
            let part = self.missing.within(*run);
            self.missing.remove_all(&part);
            duplicate_count = duplicate_count.saturating_add(run.count - part.len());
            install.add_all(&part);
        }
        match way {
            Way::Push => self.counts.by_push += install.len(),
            Way::Demand => self.counts.by_demand += install.len(),
        }
        self.counts.duplicates += duplicate_count;
        let wake = self.settle(&install);
        Arrived { install, duplicate_count, wake }
    }

    /// `pages`, which [`arrived`](Missing::arrived) gave out to be installed, could not be: they are missing again, and
    /// not asked for. Those who waited for them have been woken, and fault again.
    pub fn refused(&mut self, pages: &PageSet, way: Way) {
        debug_assert!(
            pages.intersection(&self.missing).is_empty(),
            "given out, and not given back"
        );
        self.missing.add_all(pages);
        match way {
            Way::Push => self.counts.by_push -= pages.len(),
            Way::Demand => self.counts.by_demand -= pages.len(),
        }
    }

    /// The task freed `pages`, or they were written whole: they are not missing any more. Whom to wake.
    pub fn dead(&mut self, pages: &PageSet) -> Vec<Waiter> {
        self.settle(&pages.intersection(&self.missing))
    }

    /// `pages` are not missing any more; takes their waiters out.
    fn settle(&mut self, pages: &PageSet) -> Vec<Waiter> {
        self.missing.remove_all(pages);
        self.asked.remove_all(pages);
        let mut wake = Vec::new();
        for run in pages.runs() {
            while let Some((page, _)) = self.waiters.range(run.first..run.end()).next() {
                let page = *page;
                wake.extend(self.waiters.remove(&page).into_iter().flatten());
            }
        }
        wake
    }

    /// The link broke: requests and answers on it are gone.
    pub fn link_lost(&mut self) {
        if self.source == Source::Linked {
            self.source = Source::LinkDown;
            self.asked = PageSet::new();
        }
    }

    /// The link is back: the requests to send, for every page that somebody waits for.
    pub fn link_back(&mut self) -> Vec<Run> {
        if self.source != Source::LinkDown {
            return Vec::new();
        }
        self.source = Source::Linked;
        self.asked = self.waiters.keys().copied().collect();
        let repeated = requests(&self.asked);
        self.counts.repeated += repeated.len() as u64;
        repeated
    }

    /// The source is gone for good.
    pub fn source_lost(&mut self) -> SourceLost {
        self.source = Source::Lost;
        self.asked = PageSet::new();
        let wake = core::mem::take(&mut self.waiters).into_values().flatten().collect();
        SourceLost { missing_count: self.missing.len(), wake }
    }

    /// The pages that are missing.
    pub fn pages(&self) -> &PageSet {
        &self.missing
    }

    /// Whether every page is there.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// What happened so far.
    pub fn counts(&self) -> MissingCounts {
        self.counts
    }
}

/// `pages` as runs that a request may name.
fn requests(pages: &PageSet) -> Vec<Run> {
    let mut requests = Vec::new();
    for run in pages.runs() {
        let mut first = run.first;
        while first < run.end() {
            let count = (run.end().0 - first.0).min(ASK_RUN_PAGES_MAX);
            requests.push(Run::new(first, count));
            first = Page(first.0 + count);
        }
    }
    requests
}
