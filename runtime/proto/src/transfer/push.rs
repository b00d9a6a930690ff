//! Post-copy, the source's half: every page that stayed behind is sent once, the demanded ones first.
//!
//! ```text
//!             next_chunk, demanded                acked
//!   unsent  ------------------------>  in flight  ------>  there
//!      ^                                   |                 |
//!      +-- lost(chunk), link_lost ---------+                 |
//!      +-- resent(pages that the target says it lacks) ------+
//! ```
//!
//! 1. Push takes pages outward from the **pivots**, the pages that faulted last: newest pivot first, a chunk upward, a
//!    chunk downward, then the next pivot. A fault near a pivot moves it; the oldest of more than [`PIVOTS_MAX`] is
//!    forgotten. Without a pivot it goes upward from the lowest page.
//! 2. At most `credit` pushed chunks are in flight, and only two as long as demands come, for these wait behind what is
//!    on the wire: after a demand [`WARY`] chunks go so. Only `acked`, `lost` and `link_lost` give credit back. Answers to
//!    demands need no credit: they travel on their own stream, before any chunk.
//! 3. A demand for an unsent page is answered at once, with readahead when the faults look like a scan.
//! 4. A demand for a page in the *oldest* pushed chunk, or in an answer to an earlier demand, needs nothing: it is on
//!    the wire's next place. One in a *younger* chunk is sent again, alone, past the chunks before it. So a demand never
//!    waits for more than one chunk, and the price is a duplicate, which the target counts and drops.
//! 5. A demand for a page that is there crossed its acknowledgement: nothing is sent.
//! 6. Nothing is taken as arrived before it is acknowledged. When the link breaks, all that is in flight is unsent
//!    again, and nothing leaves until the link is back; a late acknowledgement of such a chunk is not counted. When one
//!    chunk breaks (its stream was reset), `lost` does this for it, and what had been demanded leaves at once. A target
//!    that finds itself without pages that were acknowledged says so, and `resent` sends them again.
//!
//! Absent: bytes, streams, and the target's half ([`Missing`](super::Missing)).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    pages::{Page, PageSet, Run},
    readahead::Readahead,
};

/// How many pivots are kept.
pub const PIVOTS_MAX: usize = 7;

/// Pushed chunks that go two at a time after a demand.
pub const WARY: u32 = 4;

/// A chunk's number, in the order of sending; answers to demands are numbered along. Comes back as acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkId(pub u64);

/// Pages to send together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Its number.
    pub id: ChunkId,
    /// What to send. Never empty.
    pub pages: PageSet,
}

/// How much is sent at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushLimits {
    /// Most pages of a pushed chunk (1 if 0). A fault waits for one chunk at most, so this times the page length over
    /// the link's rate is the price of bad luck.
    pub chunk_pages: u32,
    /// Most pushed chunks in flight (1 if 0).
    pub credit: u32,
    /// Most pages sent for one demanded page (1 if 0).
    pub readahead_pages: u32,
}

/// The answer to a demand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demanded {
    /// To send on the demand stream, now.
    pub chunk: Option<Chunk>,
    /// Demanded pages that are in flight already and need nothing (rule 4).
    pub on_its_way: u64,
    /// Demanded pages that the target has (rule 5), or that never were the task's.
    pub needless: u64,
}

/// What was sent, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushCounts {
    /// Pages sent by push.
    pub pushed: u64,
    /// Pages sent because they were demanded.
    pub demanded: u64,
    /// Pages sent along with demanded ones.
    pub readahead: u64,
    /// Of all these, pages that had been sent before.
    pub again: u64,
    /// Demands that were answered by a page on its way.
    pub on_its_way: u64,
}

#[derive(Clone, Debug)]
struct Flight {
    pages: PageSet,
    by_demand: bool,
}

/// The source's state for one task that has left by post-copy.
#[derive(Clone, Debug)]
pub struct Push {
    limits: PushLimits,
    /// Every page that stayed behind.
    all: PageSet,
    unsent: PageSet,
    there: PageSet,
    /// Of these, pages that it has from before; some may turn out to be gone.
    kept: PageSet,
    /// Demanded and not there.
    owed: PageSet,
    /// What had left at least once.
    sent_once: PageSet,
    flights: BTreeMap<ChunkId, Flight>,
    bulk_in_flight: u32,
    /// Chunks that go two at a time yet.
    wary: u32,
    is_linked: bool,
    next_id: u64,
    /// Newest first.
    pivots: VecDeque<Page>,
    /// Which pivot and direction is next: `2 * pivot + direction`.
    turn: usize,
    readahead: Readahead,
    counts: PushCounts,
}

impl Push {
    /// The push of `missing`, the pages that stayed behind when the task left.
    pub fn new(missing: PageSet, limits: PushLimits) -> Push {
        let limits = PushLimits {
            chunk_pages: limits.chunk_pages.max(1),
            credit: limits.credit.max(1),
            readahead_pages: limits.readahead_pages.max(1),
        };
        Push {
            limits,
            all: missing.clone(),
            unsent: missing,
            there: PageSet::new(),
            kept: PageSet::new(),
            owed: PageSet::new(),
            sent_once: PageSet::new(),
            flights: BTreeMap::new(),
            bulk_in_flight: 0,
            wary: 0,
            is_linked: true,
            next_id: 0,
            pivots: VecDeque::new(),
            turn: 0,
            readahead: Readahead::new(u64::from(limits.readahead_pages)),
            counts: PushCounts::default(),
        }
    }

    /// As [`Push::new`], for a target that has kept the pages of `same`: they are sent if it turns out that it has
    /// not: if the target demands one.
    pub fn over(missing: PageSet, same: PageSet, limits: PushLimits) -> Push {
        let mut push = Push::new(missing, limits);
        push.all.add_all(&same);
        push.there.add_all(&same);
        push.kept = same;
        push
    }

    /// The target asks for `run`: if it was to have kept any of it, it has not. That is pushed like the rest: until all
    /// is there the target may take no other stream.
    fn lacks(&mut self, run: Run) -> bool {
        let lost = self.kept.within(run);
        self.kept.remove_all(&lost);
        self.resent(&lost);
        !lost.is_empty()
    }

    /// The task touched `page`: push goes on from there (rule 1). [`Push::demanded`] does this by itself.
    pub fn fault(&mut self, page: Page) {
        let near = u64::from(self.limits.chunk_pages);
        self.pivots.retain(|pivot| pivot.0.abs_diff(page.0) > near);
        self.pivots.push_front(page);
        self.pivots.truncate(PIVOTS_MAX);
        self.turn = 0;
    }

    /// The next chunk to push; `None` while all is sent, credit is used up, or the link is down.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        let credit = if self.wary > 0 { self.limits.credit.min(2) } else { self.limits.credit };
        if !self.is_linked || self.bulk_in_flight >= credit || self.unsent.is_empty() {
            return None;
        }
        let count = u64::from(self.limits.chunk_pages);
        let pages = match self.next_direction() {
            (pivot, false) => self.unsent.take_up(pivot, count),
            (pivot, true) => self.unsent.take_down(pivot, count),
        };
        debug_assert!(!pages.is_empty(), "a direction is chosen because it has pages");
        self.counts.pushed += pages.len();
        self.bulk_in_flight += 1;
        Some(self.send(pages, false))
    }

    /// Where the next chunk begins, and whether it goes downward. Some page is unsent.
    fn next_direction(&mut self) -> (Page, bool) {
        let Some(turns) = self.pivots.len().checked_mul(2).filter(|turns| *turns > 0) else {
            return (Page(0), false);
        };
        let turn = self.turn % turns;
        self.turn = turn + 1;
        let (pivot, down) = (self.pivots[turn / 2], turn % 2 == 1);
        // An exhausted direction leaves its turn to the other one; both cannot be.
        let has = |down: bool| {
            if down { self.unsent.last_to(pivot) } else { self.unsent.first_from(pivot) }.is_some()
        };
        (pivot, if has(down) { down } else { !down })
    }

    /// The target asks for the pages of `run` (rules 3 to 5). While the link is down nothing is sent.
    pub fn demanded(&mut self, run: Run) -> Demanded {
        let mut answer = Demanded { chunk: None, on_its_way: 0, needless: 0 };
        if !self.is_linked {
            // From before the break: the target repeats what it still needs when the link is back.
            answer.needless = run.count;
            return answer;
        }
        if self.lacks(run) {
            answer.needless = run.count;
            return answer;
        }
        let wanted = self.all.within(run);
        if let Some(first) = wanted.first_from(run.first) {
            self.wary = WARY;
            self.fault(first);
            self.owed.add_all(&wanted.difference(&self.there));
        }
        let lacked = wanted.difference(&self.there);
        let mut send = self.take_urgent(&lacked);
        answer.on_its_way = lacked.len() - send.len();
        answer.needless = run.count - lacked.len();
        self.counts.on_its_way += answer.on_its_way;
        self.counts.demanded += send.len();
        if run.count == 1 && !send.is_empty() {
            self.read_ahead(run.first, &mut send);
        }
        if !send.is_empty() {
            answer.chunk = Some(self.send(send, true));
        }
        answer
    }

    /// Adds to `send` what follows `page`, if the demands look like a scan.
    fn read_ahead(&mut self, page: Page, send: &mut PageSet) {
        let window = self.readahead.window(page, &self.sent_once);
        let next = Page(page.0 + 1);
        let along = Run::new(next, self.unsent.run_from(next, window - 1));
        self.unsent.remove(along);
        send.insert(along);
        self.counts.readahead += along.count;
    }

    /// Those of `lacked` that have to be sent now: the unsent ones, and those in younger chunks (rules 3 and 4).
    fn take_urgent(&mut self, lacked: &PageSet) -> PageSet {
        let mut urgent = lacked.intersection(&self.unsent);
        let late = self.in_younger_chunks(&lacked.difference(&urgent));
        self.unsent.remove_all(&urgent);
        urgent.add_all(&late);
        urgent
    }

    /// Those of `flying` that only chunks behind the oldest one carry.
    fn in_younger_chunks(&self, flying: &PageSet) -> PageSet {
        let mut late = flying.clone();
        let mut is_oldest = true;
        for flight in self.flights.values() {
            if late.is_empty() {
                break;
            }
            if flight.by_demand || core::mem::take(&mut is_oldest) {
                late.remove_all(&flight.pages);
            }
        }
        late
    }

    fn send(&mut self, pages: PageSet, by_demand: bool) -> Chunk {
        self.counts.again += pages.intersection(&self.sent_once).len();
        self.sent_once.add_all(&pages);
        let id = ChunkId(self.next_id);
        self.next_id += 1;
        self.flights.insert(id, Flight { pages: pages.clone(), by_demand });
        Chunk { id, pages }
    }

    /// The target has installed the chunk. Unknown numbers are passed over (rule 6).
    pub fn acked(&mut self, chunk: ChunkId) {
        if let Some(flight) = self.land(chunk) {
            self.wary = self.wary.saturating_sub(u32::from(!flight.by_demand));
            self.there.add_all(&flight.pages.intersection(&self.all));
            self.owed.remove_all(&flight.pages);
        }
    }

    /// The chunk's stream broke while the link holds: its pages are unsent again (rule 6), and those of them that had
    /// been demanded are to be sent on the demand stream, now.
    pub fn lost(&mut self, chunk: ChunkId) -> Option<Chunk> {
        let flight = self.land(chunk)?;
        self.requeue(&flight.pages);
        let urgent = self.take_urgent(&flight.pages.intersection(&self.owed));
        if urgent.is_empty() {
            return None;
        }
        self.counts.demanded += urgent.len();
        Some(self.send(urgent, true))
    }

    fn land(&mut self, chunk: ChunkId) -> Option<Flight> {
        let flight = self.flights.remove(&chunk)?;
        self.bulk_in_flight -= u32::from(!flight.by_demand);
        Some(flight)
    }

    /// Makes `pages` unsent, apart from those that are there and those that another chunk still carries.
    fn requeue(&mut self, pages: &PageSet) {
        let mut again = pages.intersection(&self.all).difference(&self.there);
        for flight in self.flights.values() {
            again.remove_all(&flight.pages);
        }
        self.unsent.add_all(&again);
    }

    /// The link broke: what is in flight is unsent again, and nothing leaves until [`Push::link_back`].
    pub fn link_lost(&mut self) {
        self.is_linked = false;
        self.bulk_in_flight = 0;
        self.owed = PageSet::new();
        for flight in core::mem::take(&mut self.flights).into_values() {
            self.requeue(&flight.pages);
        }
    }

    /// The link is back.
    pub fn link_back(&mut self) {
        self.is_linked = true;
    }

    /// The target says that it lacks `pages`, whatever was acknowledged: they are sent again, unless they are in
    /// flight. Pages that never were the task's are passed over. How many pages are unsent by this.
    pub fn resent(&mut self, pages: &PageSet) -> u64 {
        let ours = pages.intersection(&self.all);
        self.there.remove_all(&ours);
        let before = self.unsent.len();
        self.requeue(&ours);
        self.unsent.len() - before
    }

    /// The task freed `pages`, or wrote them whole, at the target: it needs them no longer.
    pub fn dead(&mut self, pages: &PageSet) {
        self.all.remove_all(pages);
        self.owed.remove_all(pages);
        self.unsent.remove_all(pages);
        self.there.remove_all(pages);
    }

    /// Pages that the target is not known to have.
    pub fn missing_count(&self) -> u64 {
        self.all.len() - self.there.len()
    }

    /// Whether the target has acknowledged every page: the source's copy may go.
    pub fn is_done(&self) -> bool {
        self.missing_count() == 0
    }

    /// Pushed chunks that are on their way.
    pub fn in_flight(&self) -> u32 {
        self.bulk_in_flight
    }

    /// What was sent so far.
    pub fn counts(&self) -> PushCounts {
        self.counts
    }
}
