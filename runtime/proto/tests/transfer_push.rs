//! Post-copy between the two halves, over a link that loses chunks and breaks: every page comes, in time.

use std::collections::{BTreeMap, VecDeque};

use migrt_proto::transfer::{
    Chunk, ChunkId, Fault, Missing, Page, PageSet, Push, PushLimits, Run, WARY, Waiter, Way,
};
use proptest::prelude::*;

const LIMITS: PushLimits = PushLimits { chunk_pages: 8, credit: 3, readahead_pages: 16 };

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The task touches the page with this index among all that were missing.
    Touch(u16),
    /// It touches the page after the last one.
    TouchNext,
    Prefetch(u16, u8),
    /// The source hands chunks to the link.
    Push,
    Chunk,
    Answer,
    Ask,
    Ack,
    LoseChunk,
    LoseAnswer,
    Break,
    Mend,
    /// An acknowledgement from before a break comes after all.
    LateAck,
}

fn event(with_loss: bool) -> impl Strategy<Value = Event> {
    let sound = prop_oneof![
        4 => any::<u16>().prop_map(Event::Touch),
        4 => Just(Event::TouchNext),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(at, count)| Event::Prefetch(at, count)),
        4 => Just(Event::Push),
        5 => Just(Event::Chunk),
        5 => Just(Event::Answer),
        5 => Just(Event::Ask),
        5 => Just(Event::Ack),
    ];
    let broken = prop_oneof![
        Just(Event::LoseChunk),
        Just(Event::LoseAnswer),
        Just(Event::Break),
        Just(Event::Mend),
        Just(Event::Mend),
        Just(Event::LateAck),
    ];
    (sound, broken, 0..7u32).prop_map(
        move |(sound, broken, which)| {
            if with_loss && which == 0 { broken } else { sound }
        },
    )
}

fn pages() -> impl Strategy<Value = PageSet> {
    let run = (prop_oneof![0..200u64, 1000..1100u64, 9_000_000..9_000_100u64], 1..40u64);
    proptest::collection::vec(run, 1..8).prop_map(|runs| {
        runs.into_iter().map(|(first, count)| Run::new(Page(first), count)).collect()
    })
}

/// The two halves and what is between them. Answers overtake chunks: they have a stream of their own, with priority.
struct Pair {
    all: Vec<Page>,
    source: Push,
    target: Missing,
    chunks: VecDeque<Chunk>,
    answers: VecDeque<Chunk>,
    asks: VecDeque<Run>,
    acks: VecDeque<ChunkId>,
    late_acks: VecDeque<ChunkId>,
    is_linked: bool,
    last: usize,
    chunks_delivered: u64,
    /// Demanded pages, and how many chunks had been delivered when the source heard of the demand.
    demanded: BTreeMap<Page, u64>,
    installed: PageSet,
    woken: u64,
    noted: u64,
}

impl Pair {
    fn new(pages: PageSet) -> Pair {
        Pair {
            all: pages.pages().collect(),
            source: Push::new(pages.clone(), LIMITS),
            target: Missing::new(pages),
            chunks: VecDeque::new(),
            answers: VecDeque::new(),
            asks: VecDeque::new(),
            acks: VecDeque::new(),
            late_acks: VecDeque::new(),
            is_linked: true,
            last: 0,
            chunks_delivered: 0,
            demanded: BTreeMap::new(),
            installed: PageSet::new(),
            woken: 0,
            noted: 0,
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Touch(index) => self.touch(usize::from(index) % self.all.len()),
            Event::TouchNext => self.touch((self.last + 1) % self.all.len()),
            Event::Prefetch(index, count) => {
                let first = self.all[usize::from(index) % self.all.len()];
                let asks = self.target.prefetch(Run::new(first, u64::from(count)));
                self.ask(asks);
            }
            Event::Push => self.push(),
            Event::Chunk => self.deliver(false),
            Event::Answer => self.deliver(true),
            Event::Ask => self.deliver_ask(),
            Event::Ack => {
                if let Some(ack) = self.acks.pop_front() {
                    self.source.acked(ack);
                }
            }
            Event::LoseChunk => {
                let lost = self.chunks.pop_front();
                self.lose(lost);
            }
            Event::LoseAnswer => {
                let lost = self.answers.pop_front();
                self.lose(lost);
            }
            Event::Break if self.is_linked => {
                self.is_linked = false;
                self.chunks.clear();
                self.answers.clear();
                self.asks.clear();
                self.late_acks.append(&mut self.acks);
                self.demanded.clear();
                self.source.link_lost();
                self.target.link_lost();
                assert_eq!(self.source.next_chunk(), None, "nothing leaves over a broken link");
            }
            Event::Mend if !self.is_linked => {
                self.is_linked = true;
                self.source.link_back();
                let asks = self.target.link_back();
                self.ask(asks);
            }
            Event::Break | Event::Mend => {}
            Event::LateAck => {
                if let Some(ack) = self.late_acks.pop_front() {
                    self.source.acked(ack);
                }
            }
        }
    }

    fn touch(&mut self, index: usize) {
        self.last = index;
        let page = self.all[index];
        let is_missing = self.target.pages().contains(page);
        self.noted += u64::from(is_missing);
        match self.target.fault(page, Waiter(page.0)) {
            Fault::Ask(run) => {
                assert!(self.is_linked && run == Run::one(page));
                self.ask(vec![run]);
            }
            Fault::AlreadyAsked => assert!(is_missing && self.is_linked),
            Fault::LinkDown => assert!(is_missing && !self.is_linked),
            Fault::Present => assert!(!is_missing),
            Fault::SourceLost => unreachable!(),
        }
    }

    fn ask(&mut self, asks: Vec<Run>) {
        for run in asks {
            assert_eq!(
                self.target.pages().within(run).len(),
                run.count,
                "asks for what is missing"
            );
            self.asks.push_back(run);
        }
    }

    fn push(&mut self) {
        while let Some(chunk) = self.source.next_chunk() {
            assert!((1..=u64::from(LIMITS.chunk_pages)).contains(&chunk.pages.len()));
            self.chunks.push_back(chunk);
            assert!(self.chunks.len() <= LIMITS.credit as usize, "bulk in flight is bounded");
        }
    }

    fn deliver_ask(&mut self) {
        let Some(run) = self.asks.pop_front() else { return };
        let answer = self.source.demanded(run);
        for page in self.target.pages().within(run).pages() {
            self.demanded.entry(page).or_insert(self.chunks_delivered);
        }
        let here = answer.chunk.as_ref().map_or(0, |chunk| chunk.pages.within(run).len());
        assert_eq!(here + answer.on_its_way + answer.needless, run.count, "{run:?}: {answer:?}");
        self.answers.extend(answer.chunk);
    }

    fn deliver(&mut self, answer: bool) {
        // The priority of the demand stream.
        let (queue, way) = if answer || !self.answers.is_empty() {
            (&mut self.answers, Way::Demand)
        } else {
            (&mut self.chunks, Way::Push)
        };
        let Some(chunk) = queue.pop_front() else { return };
        self.chunks_delivered += u64::from(way == Way::Push);
        let runs: Vec<Run> = chunk.pages.runs().collect();
        let arrived = self.target.arrived(&runs, way);
        assert_eq!(arrived.install.len() + arrived.duplicate_count, chunk.pages.len());
        assert!(self.installed.intersection(&arrived.install).is_empty(), "installed once");
        self.installed.add_all(&arrived.install);
        for waiter in &arrived.wake {
            assert!(arrived.install.contains(Page(waiter.0)));
        }
        self.woken += arrived.wake.len() as u64;
        for page in arrived.install.pages() {
            if let Some(since) = self.demanded.remove(&page) {
                let behind = self.chunks_delivered - since;
                assert!(behind <= 1, "{page:?} came {behind} chunks after its demand");
            }
        }
        self.acks.push_back(chunk.id);
    }

    /// A stream was reset; the source hears of it.
    fn lose(&mut self, chunk: Option<Chunk>) {
        let Some(chunk) = chunk else { return };
        let again = self.source.lost(chunk.id);
        for page in chunk.pages.pages() {
            if let Some(since) = self.demanded.get_mut(&page) {
                *since = self.chunks_delivered;
                let carried = |chunks: &VecDeque<Chunk>| {
                    chunks.iter().any(|chunk| chunk.pages.contains(page))
                };
                let is_resent = again.as_ref().is_some_and(|chunk| chunk.pages.contains(page));
                assert!(
                    is_resent || carried(&self.answers) || carried(&self.chunks),
                    "{page:?} is waited for"
                );
            }
        }
        self.answers.extend(again);
    }

    /// Lets everything run to its end.
    fn drain(&mut self) {
        self.step(Event::Mend);
        for _ in 0..10 * self.all.len() + 100 {
            for event in [Event::Push, Event::Ask, Event::Answer, Event::Chunk, Event::Ack] {
                self.step(event);
            }
        }
        assert!(self.target.is_whole() && self.source.is_done(), "{:?}", self.target.pages());
        assert_eq!(self.installed.len(), self.all.len() as u64);
        assert_eq!(self.woken, self.noted, "nobody waits any more");
        let counts = self.target.counts();
        assert_eq!(counts.by_push + counts.by_demand, self.all.len() as u64);
        assert_eq!(self.source.next_chunk(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_loss_every_page_is_sent_once_but_for_those_that_were_waited_for(
        pages in pages(), events in proptest::collection::vec(event(false), 0..300),
    ) {
        let mut pair = Pair::new(pages);
        for event in events {
            pair.step(event);
        }
        pair.drain();
        let (sent, came) = (pair.source.counts(), pair.target.counts());
        prop_assert_eq!(sent.pushed + sent.demanded + sent.readahead, pair.all.len() as u64 + sent.again);
        prop_assert_eq!(came.duplicates, sent.again);
        prop_assert!(sent.again <= sent.demanded, "only demanded pages are sent twice");
        prop_assert_eq!(came.repeated, 0);
    }

    #[test]
    fn over_a_link_that_loses_and_breaks_every_page_comes(
        pages in pages(), events in proptest::collection::vec(event(true), 0..300),
    ) {
        let mut pair = Pair::new(pages);
        for event in events {
            pair.step(event);
        }
        pair.drain();
    }

    #[test]
    fn without_demands_every_page_is_pushed_exactly_once_in_order(pages in pages()) {
        let mut push = Push::new(pages.clone(), LIMITS);
        let mut order = Vec::new();
        while let Some(chunk) = push.next_chunk() {
            order.extend(chunk.pages.pages());
            push.acked(chunk.id);
        }
        prop_assert!(order.into_iter().eq(pages.pages()));
        prop_assert!(push.is_done());
    }
}

fn pages_of(runs: &[(u64, u64)]) -> PageSet {
    runs.iter().map(|(first, count)| Run::new(Page(*first), *count)).collect()
}

/// The first page of each pushed chunk.
fn pushed(push: &mut Push, chunks: usize) -> Vec<u64> {
    let mut firsts = Vec::new();
    for _ in 0..chunks {
        let chunk = push.next_chunk().expect("a chunk");
        firsts.push(chunk.pages.first_from(Page(0)).expect("a page").0);
        push.acked(chunk.id);
    }
    firsts
}

#[test]
fn push_spreads_outward_from_the_newest_pivots() {
    let mut push = Push::new(pages_of(&[(0, 1000)]), LIMITS);
    assert_eq!(pushed(&mut push, 2), [0, 8], "upward as long as nothing faulted");
    push.fault(Page(500));
    assert_eq!(pushed(&mut push, 4), [500, 492, 508, 484]);
    push.fault(Page(100));
    assert_eq!(pushed(&mut push, 8), [100, 92, 516, 476, 108, 84, 524, 468]);
    push.fault(Page(104));
    assert_eq!(pushed(&mut push, 4), [116, 76, 532, 460], "a near fault moves its pivot");
}

#[test]
fn the_oldest_of_many_pivots_is_forgotten() {
    let mut push = Push::new(pages_of(&[(0, 100_000)]), LIMITS);
    for fault in 1..=9 {
        push.fault(Page(fault * 10_000));
    }
    let firsts = pushed(&mut push, 16);
    assert_eq!(firsts[..4], [90_000, 89_992, 80_000, 79_992]);
    assert!(firsts.iter().all(|first| *first > 29_000), "{firsts:?}");
    assert_eq!(firsts[14..], [90_008, 89_984], "then round again");
}

#[test]
fn at_an_edge_push_goes_the_other_way_only() {
    let mut push = Push::new(pages_of(&[(100, 32)]), LIMITS);
    push.fault(Page(100));
    assert_eq!(pushed(&mut push, 4), [100, 108, 116, 124]);
    assert!(push.is_done());
}

#[test]
fn a_page_in_a_younger_chunk_is_sent_past_the_older_ones() {
    let mut push = Push::new(pages_of(&[(0, 100)]), LIMITS);
    let chunks: Vec<Chunk> = core::iter::from_fn(|| push.next_chunk()).collect();
    assert_eq!(chunks.len(), 3, "credit");
    let oldest = push.demanded(Run::one(Page(3)));
    assert_eq!((oldest.chunk, oldest.on_its_way), (None, 1));
    let younger = push.demanded(Run::one(Page(12)));
    assert_eq!(younger.chunk.expect("sent again").pages.pages().next(), Some(Page(12)));
    let again = push.demanded(Run::one(Page(12)));
    assert_eq!((again.chunk, again.on_its_way), (None, 1), "the answer is on its way");
    assert_eq!(push.counts().again, 1);
    push.acked(chunks[1].id);
    let there = push.demanded(Run::one(Page(13)));
    assert_eq!((there.chunk, there.needless), (None, 1), "it crossed the acknowledgement");
    let foreign = push.demanded(Run::new(Page(100), 1000));
    assert_eq!((foreign.chunk, foreign.needless), (None, 1000), "not the task's");
}

#[test]
fn as_long_as_demands_come_chunks_go_two_at_a_time() {
    let mut push = Push::new(pages_of(&[(0, 1000)]), LIMITS);
    let answer = push.demanded(Run::one(Page(500))).chunk.expect("unsent");
    let mut older = push.next_chunk().expect("unsent");
    for _ in 0..WARY {
        let younger = push.next_chunk().expect("two may be on their way");
        assert_eq!(push.next_chunk(), None, "a demand would wait for it");
        push.acked(older.id);
        older = younger;
    }
    push.acked(answer.id);
    push.acked(older.id);
    let chunks: Vec<Chunk> = core::iter::from_fn(|| push.next_chunk()).collect();
    assert_eq!(chunks.len(), LIMITS.credit as usize, "nobody waits any more");
}

#[test]
fn a_scan_is_read_ahead_of() {
    let mut push = Push::new(pages_of(&[(0, 1000)]), LIMITS);
    let mut at = 0;
    let mut answers = Vec::new();
    while at < 200 {
        let answer = push.demanded(Run::one(Page(at))).chunk.expect("unsent");
        answers.push(answer.pages.len());
        at += answer.pages.len();
    }
    assert_eq!(answers[..6], [1, 2, 4, 8, 16, 16]);
    assert_eq!(answers.len(), 16, "demands for 200 pages, without any push")
}

#[test]
fn what_the_target_lacks_after_all_is_sent_again() {
    let pages = pages_of(&[(10, 20)]);
    let mut push = Push::new(pages.clone(), LIMITS);
    pushed(&mut push, 3);
    assert!(push.is_done());
    assert_eq!(push.resent(&pages_of(&[(12, 2), (500, 9)])), 2, "only what was the task's");
    assert!(!push.is_done());
    assert_eq!(push.missing_count(), 2);
    assert_eq!(pushed(&mut push, 1), [12]);
    assert!(push.is_done());
}

#[test]
fn pages_that_died_at_the_target_are_not_sent() {
    let mut push = Push::new(pages_of(&[(0, 20)]), LIMITS);
    let mut missing = Missing::new(pages_of(&[(0, 20)]));
    let first = push.next_chunk().expect("a chunk");
    assert_eq!(missing.fault(Page(5), Waiter(1)), Fault::Ask(Run::one(Page(5))));
    let dead = pages_of(&[(4, 12)]);
    push.dead(&dead);
    assert_eq!(missing.dead(&dead), [Waiter(1)]);
    let runs: Vec<Run> = first.pages.runs().collect();
    let arrived = missing.arrived(&runs, Way::Push);
    assert_eq!((arrived.install.len(), arrived.duplicate_count), (4, 4), "the dead are dropped");
    push.acked(first.id);
    assert_eq!(push.missing_count(), 4);
    assert_eq!(pushed(&mut push, 1), [16]);
    assert!(push.is_done());
}

#[test]
fn what_could_not_be_installed_is_missing_again_and_asked_for_again() {
    let mut missing = Missing::new(pages_of(&[(0, 20)]));
    assert_eq!(missing.fault(Page(5), Waiter(1)), Fault::Ask(Run::one(Page(5))));
    let arrived = missing.arrived(&[Run::new(Page(0), 10)], Way::Push);
    assert_eq!(arrived.wake, [Waiter(1)]);
    missing.refused(&pages_of(&[(4, 6)]), Way::Push);
    assert_eq!((missing.pages().len(), missing.counts().by_push), (16, 4));
    assert_eq!(missing.fault(Page(5), Waiter(1)), Fault::Ask(Run::one(Page(5))), "asked anew");
    assert_eq!(missing.fault(Page(3), Waiter(2)), Fault::Present, "the others are there");
    let arrived = missing.arrived(&[Run::new(Page(0), 20)], Way::Push);
    assert_eq!((arrived.install.len(), arrived.duplicate_count), (16, 4));
    assert!(missing.is_whole());
}

#[test]
fn a_lost_source_wakes_all_who_wait_and_says_what_is_missing() {
    let mut missing = Missing::new(pages_of(&[(0, 50)]));
    assert_eq!(missing.fault(Page(9), Waiter(1)), Fault::Ask(Run::one(Page(9))));
    assert_eq!(missing.fault(Page(9), Waiter(2)), Fault::AlreadyAsked);
    missing.link_lost();
    assert_eq!(missing.fault(Page(3), Waiter(3)), Fault::LinkDown);
    let lost = missing.source_lost();
    assert_eq!((lost.missing_count, lost.wake), (50, vec![Waiter(3), Waiter(1), Waiter(2)]));
    assert_eq!(missing.fault(Page(9), Waiter(4)), Fault::SourceLost);
    assert_eq!(missing.fault(Page(60), Waiter(4)), Fault::Present);
    assert_eq!(missing.link_back(), []);
}
