//! Delta: what a returning task need not bring, and that it never misses anything by it.

use std::collections::BTreeMap;

use migrt_proto::{
    Epoch, Generation, NodeId, TaskId,
    transfer::{
        Delta, HAVE_PAGES_MAX, KeptPages, Page, PageFrame, PageHash, PageHave, PageSet, Push,
        PushLimits, Return, Run, Settled, Shelf,
    },
    wire::WireError,
};

fn task(number: u64) -> TaskId {
    TaskId::new(NodeId(0), Generation(0), number)
}

fn kept(pages: &[(u64, u128)]) -> KeptPages {
    KeptPages::new(pages.iter().map(|&(page, hash)| (Page(page), PageHash(hash))).collect())
}

fn set(pages: &[u64]) -> PageSet {
    pages.iter().copied().map(Page).collect()
}

/// Compares pages, each given with what it hashes to now.
fn compare(delta: &mut Delta, now: &[(u64, u128)]) -> Vec<u64> {
    let pages = set(&now.iter().map(|entry| entry.0).collect::<Vec<_>>());
    let hash = |page: Page| now.iter().find(|e| e.0 == page.0).map(|e| PageHash(e.1));
    delta.compare(&pages, hash).pages().map(|page| page.0).collect()
}

#[test]
fn a_page_with_the_hash_that_is_kept_is_not_sent() {
    let mut delta = Delta::new(kept(&[(3, 30), (4, 40), (5, 50), (9, 90)]));
    assert_eq!(compare(&mut delta, &[(3, 30), (4, 41), (5, 50), (6, 60)]), [3, 5]);
    let hashes: Vec<_> = delta.told().among(delta.same()).collect();
    assert_eq!(hashes, [(Page(3), PageHash(30)), (Page(5), PageHash(50))]);
}

#[test]
fn a_page_that_was_written_or_sent_is_not_the_same_even_if_it_has_its_old_hash_again() {
    let mut delta = Delta::new(kept(&[(3, 30), (4, 40)]));
    assert_eq!(compare(&mut delta, &[(3, 30), (4, 40)]), [3, 4]);
    delta.void(&set(&[3]));
    assert_eq!(compare(&mut delta, &[(3, 31)]), [4]);
    assert_eq!(compare(&mut delta, &[(3, 30)]), [3, 4], "nothing of it was sent");
    delta.sends(&set(&[3]));
    assert_eq!(compare(&mut delta, &[(3, 30)]), [4], "the target's was written over");
}

#[test]
fn what_is_neither_same_nor_sent_goes_and_what_is_not_there_is_lost() {
    let mut back = Return::new(kept(&[(1, 10), (2, 20), (3, 30)]));
    back.writes(&set(&[2, 7]));
    let Settled { lost, alive } = back.settle(&set(&[1, 8]), |_| true);
    assert_eq!((lost, alive), (set(&[8]), set(&[1, 2, 7])));
    let (still, void) = back.undo();
    assert_eq!(still.pages(), set(&[1]), "3 was dropped");
    assert_eq!(void, set(&[2, 3, 7, 8]));
}

#[test]
fn pages_with_other_hashes_than_were_told_are_lost_all() {
    let mut back = Return::new(kept(&[(1, 10), (2, 20)]));
    let Settled { lost, alive } = back.settle(&set(&[1, 2]), |_| false);
    assert_eq!((lost, alive), (set(&[1, 2]), set(&[])));
}

#[test]
fn the_oldest_go_first_and_nobody_goes_for_one_that_is_too_long() {
    let mut shelf = Shelf::new(100);
    assert!(shelf.put(task(1), 40).is_empty());
    assert!(shelf.put(task(2), 40).is_empty());
    assert_eq!(shelf.put(task(3), 101), [task(3)]);
    assert_eq!(shelf.held(), 80);
    shelf.touch(task(1));
    assert_eq!(shelf.put(task(4), 50), [task(2)]);
    assert_eq!(shelf.put(task(5), 60), [task(1), task(4)]);
    assert_eq!((shelf.held(), shelf.len()), (60, 1));
    assert!(shelf.put(task(5), 99).is_empty(), "it takes its own place");
    assert_eq!(shelf.take(task(5)), Some(99));
    assert_eq!(shelf.take(task(5)), None);
    assert!(shelf.is_empty() && shelf.held() == 0);
    let mut none = Shelf::new(0);
    assert_eq!(none.put(task(1), 1), [task(1)]);
}

#[test]
fn kept_pages_survive_the_wire_however_many_they_are() {
    for count in [0, 1, HAVE_PAGES_MAX, HAVE_PAGES_MAX + 1, 3 * HAVE_PAGES_MAX] {
        // No two neighbours: the longest list.
        let all = KeptPages::new((0..count).map(|n| (Page(n * 2), PageHash(n.into()))).collect());
        let mut came = Vec::new();
        let frames = PageHave::frames(task(1), Epoch(2), &all);
        for (at, have) in frames.iter().enumerate() {
            assert_eq!(have.is_last, at + 1 == frames.len());
            let mut bytes = Vec::new();
            PageFrame::Have(have.clone()).encode(&mut bytes);
            let Ok(PageFrame::Have(have)) = PageFrame::decode(&bytes) else {
                panic!("{count} pages: frame {at} does not decode");
            };
            came.extend(have.pages());
        }
        assert_eq!(KeptPages::new(came), all);
    }
}

#[test]
fn lists_of_kept_pages_are_checked() {
    let check = |runs: &[(u64, u64)], hash_bytes: usize| {
        let runs = runs.iter().map(|&(first, count)| Run::new(Page(first), count)).collect();
        let hashes = vec![7; hash_bytes];
        let have = PageHave { task: task(1), epoch: Epoch(1), runs, hashes, is_last: true };
        let mut bytes = Vec::new();
        PageFrame::Have(have).encode(&mut bytes);
        PageFrame::decode(&bytes).map(|_| ())
    };
    let flaw = Err(WireError::Malformed { what: "list of kept pages" });
    assert_eq!(check(&[(5, 2), (7, 1)], 48), Ok(()));
    assert_eq!(check(&[(5, 2), (7, 1)], 47), flaw);
    assert_eq!(check(&[(5, 2), (6, 1)], 48), flaw, "they overlap");
    assert_eq!(check(&[(5, 0)], 0), flaw);
    assert_eq!(check(&[(1 << 52, 1)], 16), flaw);
    assert_eq!(check(&[(0, u64::MAX), (0, u64::MAX)], 16), flaw);
    assert_eq!(check(&[(0, 1), (1, u64::MAX)], 16), flaw);
    assert_eq!(check(&[(0, HAVE_PAGES_MAX + 1)], 16), flaw);
}

/// A node that has what a task left: pages and their contents. Zero is no content.
#[derive(Default)]
struct Node {
    place: BTreeMap<u64, u128>,
    kept: KeptPages,
}

/// A task that walks between two nodes, its pages as they are to be, and dice.
struct World {
    nodes: [Node; 2],
    at: usize,
    truth: BTreeMap<u64, u128>,
    next: u128,
    dice: u64,
    /// What was seen, so that a test that plays nothing shows.
    same: u64,
    lost: u64,
    called_off: u64,
    unhashed: u64,
}

const PAGES: u64 = 24;

impl World {
    fn roll(&mut self, end: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % end
    }

    /// The task writes, frees, and allocates again, perhaps what was there before.
    fn work(&mut self) -> PageSet {
        let mut written = PageSet::new();
        for _ in 0..self.roll(6) {
            let page = self.roll(PAGES);
            match self.roll(4) {
                0 => _ = self.truth.remove(&page),
                1 => _ = self.truth.insert(page, u128::from(page) + 1),
                _ => {
                    self.next += 1;
                    self.truth.insert(page, self.next << 20);
                }
            }
            written.insert(Run::one(Page(page)));
        }
        written
    }

    fn live(&self) -> PageSet {
        self.truth.keys().copied().map(Page).collect()
    }

    /// The target drops what it keeps, some of it, or has other bytes there than it has told.
    fn forget(&mut self, node: usize) {
        match self.roll(5) {
            0 => self.nodes[node] = Node::default(),
            1 => {
                let page = self.roll(PAGES);
                let kept = std::mem::take(&mut self.nodes[node].kept);
                self.nodes[node].kept = kept.without(&set(&[page]));
                self.nodes[node].place.remove(&page);
            }
            2 => {
                let page = self.roll(PAGES);
                self.nodes[node].place.insert(page, 5);
                self.rehash(node);
            }
            _ => {}
        }
    }

    fn rehash(&mut self, node: usize) {
        let place = &self.nodes[node].place;
        let list = place.iter().map(|(&page, &bytes)| (Page(page), PageHash(bytes))).collect();
        self.nodes[node].kept = KeptPages::new(list);
    }

    /// One move, in rounds or not, eager or lazy; it may be called off.
    fn travel(&mut self) {
        let (from, to) = (self.at, 1 - self.at);
        let mut delta = Delta::new(self.nodes[to].kept.clone());
        self.forget(to);
        // The target: pages in place, and what is known of them.
        let mut place = std::mem::take(&mut self.nodes[to].place);
        let kept = std::mem::take(&mut self.nodes[to].kept);
        // It may be back before its pages are hashed.
        let is_hashed = self.roll(4) > 0;
        let mut back = Return::new(if is_hashed { kept } else { KeptPages::default() });
        let mut dirty = self.live();
        let mut sent = PageSet::new();
        for _ in 0..self.roll(3) {
            let truth = self.truth.clone();
            let hash = |page: Page| truth.get(&page.0).map(|&bytes| PageHash(bytes));
            dirty.remove_all(&delta.compare(&dirty.intersection(&self.live()), hash).clone());
            self.send(&mut delta, &mut back, &mut place, &dirty, &mut sent);
            dirty = self.work();
            delta.void(&dirty);
        }
        // Frozen.
        let live = self.live();
        let rest = if sent.is_empty() { live.clone() } else { dirty.intersection(&live) };
        let truth = self.truth.clone();
        let hash = |page: Page| truth.get(&page.0).map(|&bytes| PageHash(bytes));
        let same = delta.compare(&rest, hash).clone();
        let gone = same.difference(&live);
        delta.void(&gone);
        let rest = rest.difference(delta.same());
        let is_lazy = sent.is_empty() && self.roll(2) == 0;
        let (now, later) = match is_lazy {
            true => (rest.pages().step_by(2).collect(), rest.pages().skip(1).step_by(2).collect()),
            false => (rest, PageSet::new()),
        };
        self.send(&mut delta, &mut back, &mut place, &now, &mut sent);
        let dead = sent.difference(&live);
        dead.pages().for_each(|page| _ = place.remove(&page.0));
        let same = delta.same().clone();
        let told: Vec<_> = delta.told().among(&same).collect();
        if self.roll(8) == 0 {
            self.called_off += 1;
            let (kept, void) = back.undo();
            void.pages().for_each(|page| _ = place.remove(&page.0));
            self.nodes[to] = Node { place, kept };
            if !is_hashed {
                self.rehash(to);
            }
            return;
        }
        if !is_hashed {
            self.unhashed += 1;
            let here = place.iter().filter(|entry| same.contains(Page(*entry.0)));
            let here = here.map(|(&page, &bytes)| (Page(page), PageHash(bytes)));
            back.keeps(KeptPages::new(here.collect()));
        }
        let Settled { lost, alive } = back.settle(&same, |kept| kept.among(&same).eq(told));
        place.retain(|&page, _| alive.contains(Page(page)));
        self.same += same.len() - lost.len();
        self.lost += lost.len();
        // The rest comes as it is asked for or pushed.
        let limits = PushLimits { chunk_pages: 3, credit: 2, readahead_pages: 1 };
        let mut push = Push::over(later, same, limits);
        lost.runs().for_each(|run| assert_eq!(push.demanded(run).chunk, None, "it is pushed"));
        while let Some(chunk) = push.next_chunk() {
            for page in chunk.pages.pages() {
                assert!(!place.contains_key(&page.0), "page {page:?} came and was there");
                place.insert(page.0, self.truth[&page.0]);
            }
            push.acked(chunk.id);
        }
        assert!(push.is_done());
        assert_eq!(place, self.truth, "the task misses something, or has too much");
        self.nodes[to] = Node { place, kept: KeptPages::default() };
        self.nodes[from].place = self.truth.clone();
        self.rehash(from);
        self.at = to;
    }

    fn send(
        &mut self,
        delta: &mut Delta,
        back: &mut Return,
        place: &mut BTreeMap<u64, u128>,
        pages: &PageSet,
        sent: &mut PageSet,
    ) {
        let pages = pages.intersection(&self.live());
        delta.sends(&pages);
        back.writes(&pages);
        sent.add_all(&pages);
        pages.pages().for_each(|page| _ = place.insert(page.0, self.truth[&page.0]));
    }
}

/// Rules 1 to 4, whatever is dropped between the target's word and the arrival.
#[test]
fn a_task_that_walks_to_and_fro_never_misses_a_page() {
    let (mut same, mut lost, mut called_off, mut unhashed) = (0, 0, 0, 0);
    for seed in 0..2_000 {
        let mut world = World {
            nodes: Default::default(),
            at: 0,
            truth: (0..PAGES).map(|page| (page, u128::from(page) + 1)).collect(),
            next: 1,
            dice: seed,
            same: 0,
            lost: 0,
            called_off: 0,
            unhashed: 0,
        };
        for _ in 0..12 {
            world.travel();
            world.work();
        }
        same += world.same;
        lost += world.lost;
        called_off += world.called_off;
        unhashed += world.unhashed;
    }
    let seen = (same, lost, called_off, unhashed);
    assert!(same > 10_000 && [lost, called_off, unhashed].iter().all(|&n| n > 1_000), "{seen:?}");
}
