//! The task at the target and its pages at the source, with a link in between that does what links do.

use std::cmp::Reverse;

use migrt_proto::transfer::{Chunk, ChunkId, Fault, Page, PageSet, Run, Waiter, Way};

use super::{Broken, End, Event, Transfer};

/// Touches of each strand.
const TOUCHES: u32 = 120;
/// After peace, for the slowest chain.
const REST: u64 = 2_000_000;

impl Transfer {
    pub(super) fn follow(&mut self) {
        if self.found.is_some() {
            return;
        }
        for strand in 0..self.strands.len() {
            self.at(0, Event::Touch(strand));
        }
        let first_break = self.rng.range(100, 30_000);
        self.at(first_break, Event::Break);
        if self.rng.chance(5) {
            let dies = self.rng.range(0, 20_000);
            self.at(dies, Event::SourceDied);
        }
        self.pump();
        while let Some(Reverse((at, number))) = self.events.pop() {
            if self.found.is_some() || at > self.peace_at + REST {
                break;
            }
            self.now = at;
            let event = self.bodies.remove(&number).expect("each event has a body");
            self.event(event);
        }
        self.moved.repeated = self.missing.counts().repeated;
        self.moved.doubled = self.missing.counts().duplicates;
        self.rest();
    }

    /// I10: after peace nothing is missing, nobody waits, and the source may forget its copy.
    fn rest(&mut self) {
        if self.found.is_some() || self.is_lost {
            return;
        }
        let waits: Vec<_> = self.strands.iter().filter_map(|strand| strand.waits_for).collect();
        if !waits.is_empty() || !self.missing.is_whole() || !self.push.is_done() {
            let (lacks, owed) = (self.missing.pages().len(), self.push.missing_count());
            let text = format!("{waits:?} are waited for, {lacks} missing, {owed} not known there");
            return self.fail("I10", text);
        }
        for page in self.all.clone() {
            self.check(page);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Touch(strand) => self.touch(strand),
            Event::Chunk { link, id, pages, by_demand } if self.link == Some(link) => {
                self.up(End::Target, link);
                self.arrive(id, &pages, by_demand);
            }
            Event::Ask { link, run } if self.link == Some(link) => {
                self.up(End::Source, link);
                let chunk = self.push.demanded(run).chunk;
                self.send(chunk, true);
                self.pump();
            }
            Event::Ack { link, id } => {
                let is_current = self.link == Some(link);
                if is_current {
                    self.up(End::Source, link);
                }
                // One of a link that is gone may have been on its last hop.
                if is_current || self.rng.chance(20) {
                    self.push.acked(id);
                    self.pump();
                }
            }
            Event::ChunkLost { link, id } if self.link == Some(link) => {
                self.moved.lost_chunks += 1;
                if self.broken != Broken::ForgetChunk {
                    let again = self.push.lost(id);
                    self.send(again, true);
                    self.pump();
                }
            }
            Event::Break => self.break_link(),
            Event::Mend => {
                self.links += 1;
                self.link = Some(self.links);
                for end in [End::Source, End::Target] {
                    let delay = self.rng.range(10, 3_000);
                    self.at(delay, Event::Up { end, link: self.links });
                }
            }
            Event::Down { end, link } => self.down(end, link),
            Event::Up { end, link } if self.link == Some(link) => self.up(end, link),
            Event::SourceDied => self.lose_source(),
            // Went with its link.
            Event::Chunk { .. }
            | Event::Ask { .. }
            | Event::ChunkLost { .. }
            | Event::Up { .. } => {}
        }
    }

    fn touch(&mut self, number: usize) {
        let strand = self.strands[number];
        if self.is_lost || strand.touches >= TOUCHES {
            return;
        }
        let index = match self.rng.range(0, 3) {
            0 => self.rng.range(0, self.all.len() as u64) as usize,
            _ => (strand.next + 1) % self.all.len(),
        };
        let page = strand.waits_for.unwrap_or(self.all[index]);
        self.strands[number].next = index;
        match self.missing.fault(page, Waiter(number as u64)) {
            Fault::Present => {
                self.strands[number].waits_for = None;
                self.strands[number].touches += 1;
                self.check(page);
                self.use_page(page);
                let delay = self.rng.range(1, 2_000);
                self.at(delay, Event::Touch(number));
            }
            Fault::Ask(run) => {
                self.strands[number].waits_for = Some(page);
                self.moved.faults += 1;
                self.ask(run);
            }
            Fault::AlreadyAsked | Fault::LinkDown => {
                self.strands[number].waits_for = Some(page);
            }
            Fault::SourceLost => self.fail("I2", "a lost source without its death".to_owned()),
        }
    }

    /// What the task does with a page that is here; now and then it frees some, here or not.
    fn use_page(&mut self, page: Page) {
        match self.rng.range(0, 20) {
            0..10 => {
                self.writes += 1;
                self.truth.insert(page, self.writes);
                self.target.insert(page, self.writes);
            }
            10 => {
                let run = Run::new(page, self.rng.range(1, 6));
                let dead: PageSet = [run].into_iter().collect();
                for page in dead.pages() {
                    self.truth.remove(&page);
                    self.target.remove(&page);
                }
                let woken = self.missing.dead(&dead);
                self.wake(&woken);
            }
            _ => {}
        }
    }

    fn arrive(&mut self, id: ChunkId, pages: &PageSet, by_demand: bool) {
        let link = self.seen[End::Target as usize].expect("it is up");
        let runs: Vec<Run> = pages.runs().collect();
        let is_read = self.broken != Broken::AckUnread || self.rng.chance(90);
        if is_read {
            let way = if by_demand { Way::Demand } else { Way::Push };
            let arrived = self.missing.arrived(&runs, way);
            let all = self.broken == Broken::InstallAll;
            let install = if all { pages } else { &arrived.install };
            for page in install.pages() {
                self.target.insert(page, self.source[&page]);
            }
            self.wake(&arrived.wake);
        }
        let delay = self.rng.range(10, 2_000);
        self.at(delay, Event::Ack { link, id });
    }

    fn wake(&mut self, woken: &[Waiter]) {
        for waiter in woken {
            let delay = self.rng.range(0, 50);
            self.at(delay, Event::Touch(waiter.0 as usize));
        }
    }

    fn ask(&mut self, run: Run) {
        // Without a link it knows of, the core does not ask.
        let link = self.seen[End::Target as usize].expect("it is up");
        let delay = self.rng.range(10, 2_000);
        self.at(delay, Event::Ask { link, run });
    }

    fn pump(&mut self) {
        while let Some(chunk) = self.push.next_chunk() {
            self.send(Some(chunk), false);
        }
    }

    fn send(&mut self, chunk: Option<Chunk>, by_demand: bool) {
        let Some(Chunk { id, pages }) = chunk else { return };
        if !pages.pages().all(|page| self.source.contains_key(&page)) {
            return self.fail("I4", format!("{pages:?} was sent, and is not all of the task"));
        }
        // A link that broke is one until its end hears of it.
        let link = self.seen[End::Source as usize].unwrap_or(u64::MAX);
        let delay = self.rng.range(10, if by_demand { 1_000 } else { 6_000 });
        if !self.is_peace() && self.rng.chance(3) {
            return self.at(delay, Event::ChunkLost { link, id });
        }
        if self.rng.chance(4) {
            let later = delay + self.rng.range(1, 20_000);
            self.at(later, Event::Chunk { link, id, pages: pages.clone(), by_demand });
        }
        self.at(delay, Event::Chunk { link, id, pages, by_demand });
    }

    fn break_link(&mut self) {
        if self.is_peace() {
            return;
        }
        if let Some(link) = self.link.take() {
            self.moved.breaks += u64::from(!self.missing.is_whole());
            for end in [End::Source, End::Target] {
                let delay = self.rng.range(10, 5_000);
                self.at(delay, Event::Down { end, link });
            }
            let mends = self.rng.range(100, 20_000);
            self.at(mends, Event::Mend);
        }
        let again = self.rng.range(1_000, 60_000);
        self.at(again, Event::Break);
    }

    fn down(&mut self, end: End, link: u64) {
        if self.seen[end as usize] != Some(link) {
            return;
        }
        self.seen[end as usize] = None;
        match end {
            End::Source if self.broken == Broken::ForgetBreak => {}
            End::Source => self.push.link_lost(),
            End::Target => self.missing.link_lost(),
        }
    }

    /// An end learns of a link, and first that the one before is gone.
    fn up(&mut self, end: End, link: u64) {
        if self.seen[end as usize] == Some(link) {
            return;
        }
        if let Some(old) = self.seen[end as usize] {
            self.down(end, old);
        }
        self.seen[end as usize] = Some(link);
        match end {
            End::Source => {
                self.push.link_back();
                self.pump();
            }
            End::Target if !self.is_lost => {
                let asks = self.missing.link_back();
                asks.into_iter().for_each(|run| self.ask(run));
            }
            End::Target => {}
        }
    }

    /// I2: all who wait hear of it, and the count is that of the pages.
    fn lose_source(&mut self) {
        let waits = |strands: &[super::Strand]| -> Vec<u64> {
            let waits =
                |(number, strand): (usize, &super::Strand)| strand.waits_for.map(|_| number as u64);
            strands.iter().enumerate().filter_map(waits).collect()
        };
        let wanted = waits(&self.strands);
        let lacks = self.missing.pages().len();
        if lacks == 0 {
            return;
        }
        let lost = self.missing.source_lost();
        self.moved.sources_lost += 1;
        self.is_lost = true;
        let woken = if self.broken == Broken::WakeNobody { Vec::new() } else { lost.wake };
        // A strand that was woken by its page, and has not run since, still names it.
        for waiter in &wanted {
            let page = self.strands[*waiter as usize].waits_for.expect("it waits");
            let is_told = woken.contains(&Waiter(*waiter));
            if !is_told && self.missing.pages().contains(page) {
                self.fail("I2", format!("strand {waiter} waits for page {} for ever", page.0));
            }
        }
        if lost.missing_count != lacks {
            let text = format!("{} pages were told missing of {lacks}", lost.missing_count);
            self.fail("I2", text);
        }
        if let Some(page) = self.missing.pages().first_from(Page(0))
            && self.missing.fault(page, Waiter(0)) != Fault::SourceLost
        {
            self.fail("I2", "a page of a dead source is waited for".to_owned());
        }
    }
}
