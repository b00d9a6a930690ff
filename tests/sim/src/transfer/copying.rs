//! The source's rounds: the task writes while its pages are copied, and a stream that breaks begins again.

use migrt_proto::{
    Micros,
    transfer::{Limits, LinkRate, PageSet, Rounds, Run, Step},
};

use super::{Broken, Transfer};

const PAGE_LEN: u32 = 4096;

impl Transfer {
    /// Rounds until the task is frozen; what is left then, some goes along and some follows.
    pub(super) fn copy_in_rounds(&mut self) {
        let mut rounds = loop {
            match self.try_rounds() {
                Some(rounds) => break rounds,
                None => self.moved.called_off += 1,
            }
        };
        // What it wrote between the last look and the freeze.
        self.run_at_source(3, &mut rounds);
        let dirty = self.take_written();
        let Step::Freeze { .. } = rounds.next(&dirty) else {
            return self.fail("I10", "rounds that had ended went on".to_owned());
        };
        if self.broken != Broken::KeepFreed {
            for page in rounds.retracted().pages() {
                self.target.remove(&page);
            }
        }
        let rest: Vec<_> = rounds.outstanding().pages().collect();
        let head_percent = self.rng.range(0, 101);
        let mut missing = PageSet::new();
        for page in rest {
            // Whatever rounds left of it is old.
            self.target.remove(&page);
            if self.rng.chance(head_percent) {
                self.target.insert(page, self.truth[&page]);
            } else {
                missing.insert(Run::one(page));
            }
        }
        self.freeze(missing);
        for page in self.all.clone() {
            if !self.missing.pages().contains(page) {
                self.check(page);
            }
        }
    }

    /// Rounds up to the one after which the task is to be frozen; `None` if their stream broke.
    fn try_rounds(&mut self) -> Option<Rounds> {
        let limits = Limits {
            max_pause: Micros(self.rng.range(0, 100)),
            goal: Micros(self.rng.range(0, 100)),
            max_rounds: self.rng.range(0, 7) as u32,
            hold_back: self.rng.chance(50),
            page_len: PAGE_LEN,
        };
        let link = LinkRate { bytes_per_s: 1_000_000_000, fixed: Micros(10) };
        let mut rounds = Rounds::new(limits, link);
        // A new try starts with an empty target and every live page.
        self.target.clear();
        self.written = self.truth.keys().copied().collect();
        loop {
            let dirty = self.take_written();
            let Step::Send(pages) = rounds.next(&dirty) else { return Some(rounds) };
            if self.rng.chance(4) {
                return None;
            }
            self.moved.rounds += 1;
            for page in pages.pages() {
                if self.rng.chance(20) {
                    self.write_at_source();
                }
                if let Some(&value) = self.truth.get(&page) {
                    self.target.insert(page, value);
                }
            }
            if self.broken == Broken::ScanLate {
                self.written = PageSet::new();
            }
            rounds.sent(pages.len() * u64::from(PAGE_LEN), Micros(pages.len()));
            self.run_at_source(20, &mut rounds);
        }
    }

    /// What was written since the last call and is alive.
    fn take_written(&mut self) -> PageSet {
        let written = std::mem::take(&mut self.written);
        written.pages().filter(|page| self.truth.contains_key(page)).collect()
    }

    fn write_at_source(&mut self) {
        // Some pages are written much oftener than the others.
        let page = if self.rng.chance(50) { self.all[0] } else { self.some_page() };
        if self.truth.contains_key(&page) || self.rng.chance(30) {
            self.writes += 1;
            self.truth.insert(page, self.writes);
            self.written.insert(Run::one(page));
        }
    }

    /// The task does up to so many things between two looks, of which it may free some at a look.
    fn run_at_source(&mut self, most: u64, rounds: &mut Rounds) {
        for _ in 0..self.rng.range(0, most) {
            self.write_at_source();
        }
        if self.rng.chance(30) {
            let page = self.some_page();
            self.truth.remove(&page);
            rounds.dead(&[page].into_iter().collect());
        }
    }
}
