//! The pages of one move, by the cores that the runtime has: rounds while the task runs, then the freeze, then what is left
//! follows by a push and on demand, over links that lose, double, delay and break.
//!
//! ```text
//! rounds (copying)    the task writes and frees at the source; a stream that breaks means: all anew
//! freeze              the target holds what the task had, apart from what is missing
//! follow (ends)       the task reads, writes and frees at the target, each strand of it waiting for its own page
//! peace               nothing breaks any more: every page comes, nobody waits
//! ```
//!
//! A page is a number here: which write it holds. The task knows what it wrote last (`truth`), so every read is a check
//! (I4). [`Broken`] switches off what a driver owes the cores, one thing at a time, to see that the checks can fail.
//! Absent: who may run the task, which the rest of this crate plays.

mod copying;
mod ends;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use migrt_proto::transfer::{ChunkId, Missing, Page, PageSet, Push, PushLimits, Run};

use crate::{check::Violation, rng::Rng};

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing.
    Nothing,
    /// The source looks for written pages after it has copied, so what was written meanwhile is forgotten.
    ScanLate,
    /// The target keeps what came of pages that were freed since (rule 3 of `Rounds`).
    KeepFreed,
    /// The target installs all of a chunk, over what the task has written (rule 2 of `Missing`).
    InstallAll,
    /// The target acknowledges a chunk that it then drops.
    AckUnread,
    /// The source is not told that a chunk's stream broke (rule 6 of `Push`).
    ForgetChunk,
    /// The source is not told that the link broke (rule 6 of `Push`).
    ForgetBreak,
    /// Those who wait are not told that the source is gone.
    WakeNobody,
}

/// What a seed's play amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Rounds that were sent.
    pub rounds: u64,
    /// Tries that broke in a round.
    pub called_off: u64,
    /// Pages that followed the task.
    pub followed: u64,
    /// Faults that had to be asked for.
    pub faults: u64,
    /// Pages that came more than once.
    pub doubled: u64,
    /// Times that the link broke while pages were missing.
    pub breaks: u64,
    /// Requests that were repeated after a break.
    pub repeated: u64,
    /// Chunks whose stream broke.
    pub lost_chunks: u64,
    /// Moves whose source died.
    pub sources_lost: u64,
}

/// Plays the move of `seed`, with one duty of the driver left out, or none.
///
/// # Errors
/// The first violation.
pub fn move_one(seed: u64, broken: Broken) -> Result<Moved, Violation> {
    let mut transfer = Transfer::new(seed, broken);
    transfer.copy_in_rounds();
    transfer.follow();
    match transfer.found {
        Some(violation) => Err(violation),
        None => Ok(transfer.moved),
    }
}

/// Two ends of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Target,
}

#[derive(Clone, Debug)]
enum Event {
    /// A strand of the task touches a page.
    Touch(usize),
    /// Pages arrive at the target.
    Chunk {
        link: u64,
        id: ChunkId,
        pages: PageSet,
        by_demand: bool,
    },
    Ask {
        link: u64,
        run: Run,
    },
    Ack {
        link: u64,
        id: ChunkId,
    },
    /// The source hears that a chunk's stream broke.
    ChunkLost {
        link: u64,
        id: ChunkId,
    },
    Break,
    Mend,
    /// An end hears that the link is gone, or there.
    Down {
        end: End,
        link: u64,
    },
    Up {
        end: End,
        link: u64,
    },
    /// The target hears that the source is dead.
    SourceDied,
}

/// A part of the task that waits by itself: a task with children, or a thread that frees a block of the task's.
#[derive(Clone, Copy, Debug, Default)]
struct Strand {
    waits_for: Option<Page>,
    next: usize,
    touches: u32,
}

struct Transfer {
    rng: Rng,
    now: u64,
    broken: Broken,
    moved: Moved,
    found: Option<Violation>,
    /// Pages that the task has or had.
    all: Vec<Page>,
    /// What the task wrote last. Pages that are not in it are dead.
    truth: BTreeMap<Page, u64>,
    writes: u64,
    written: PageSet,
    source: BTreeMap<Page, u64>,
    target: BTreeMap<Page, u64>,
    limits: PushLimits,
    push: Push,
    missing: Missing,
    strands: Vec<Strand>,
    is_lost: bool,
    /// The link that there is, and what each end takes for it.
    link: Option<u64>,
    links: u64,
    seen: [Option<u64>; 2],
    peace_at: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: HashMap<u64, Event>,
    count: u64,
}

impl Transfer {
    fn new(seed: u64, broken: Broken) -> Transfer {
        let mut rng = Rng::new(seed);
        let mut pages = PageSet::new();
        for _ in 0..rng.range(1, 6) {
            let first = Page(rng.range(0, 3) * 100_000 + rng.range(0, 300));
            pages.insert(Run::new(first, rng.range(1, 120)));
        }
        let limits = PushLimits {
            chunk_pages: rng.range(1, 9) as u32,
            credit: rng.range(1, 5) as u32,
            readahead_pages: rng.range(1, 9) as u32,
        };
        Transfer {
            now: 0,
            broken,
            moved: Moved::default(),
            found: None,
            all: pages.pages().collect(),
            truth: pages.pages().map(|page| (page, 0)).collect(),
            writes: 0,
            written: pages,
            source: BTreeMap::new(),
            target: BTreeMap::new(),
            push: Push::new(PageSet::new(), limits),
            missing: Missing::new(PageSet::new()),
            strands: vec![Strand::default(); rng.range(1, 5) as usize],
            is_lost: false,
            link: Some(0),
            links: 0,
            seen: [Some(0); 2],
            peace_at: rng.range(20_000, 200_000),
            events: BinaryHeap::new(),
            bodies: HashMap::new(),
            count: 0,
            limits,
            rng,
        }
    }

    /// The task is frozen and `missing` stays behind.
    fn freeze(&mut self, missing: PageSet) {
        self.source = self.truth.clone();
        self.moved.followed = missing.len();
        self.push = Push::new(missing.clone(), self.limits);
        self.missing = Missing::new(missing);
    }

    fn fail(&mut self, rule: &'static str, text: String) {
        let text = format!("at {} us: {text}", self.now);
        self.found.get_or_insert(Violation { rule, text });
    }

    /// I4 for one page that is here.
    fn check(&mut self, page: Page) {
        let (is, wanted) = (self.target.get(&page), self.truth.get(&page));
        if is != wanted {
            let text = format!("page {} is {is:?} and was written as {wanted:?}", page.0);
            self.fail("I4", text);
        }
    }

    fn some_page(&mut self) -> Page {
        self.all[self.rng.range(0, self.all.len() as u64) as usize]
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.bodies.insert(self.count, event);
        self.events.push(Reverse((self.now + delay, self.count)));
    }

    fn is_peace(&self) -> bool {
        self.now >= self.peace_at
    }
}
