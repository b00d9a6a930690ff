//! A task that goes round the nodes again and again and changes some of its pages on the way.
//!
//! `back KIND TRIPS NODES`. Prints `trip N live L sent S same M method` for each trip, and `kept N BYTES` for
//! each node at the end; exit code 1 if a page was wrong.
//!
//! KIND: `rest` changes nothing, `some` one page in a hundred, `all` all; `early` is as `some` but goes on at
//! once, before anybody has looked at what it left; `turns` changes all and goes by rounds and by post-copy in turn; `churn` frees blocks and makes others in their place;
//! `static` leaves some of them in a static of each node, which goes on changing them; `many` is as `some`, with
//! other tasks of the same kind beside it; `zero` has many pages that hold zeros, and frees many; `blank` zeroes every
//! second page before it leaves the first node, and fills it at the second.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrt::Strategy;
use migrt_test_migrate::trip::{self, Seeded, mix, next_node};

/// Of a task: 4 MiB.
const PAGES: usize = 1024;
const WORDS: usize = 512;
/// Until what a departed task has left was looked at, and hashed.
const REST: Duration = Duration::from_millis(1_300);

static SHARED: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());
static STOP: AtomicBool = AtomicBool::new(false);

/// Pages, each in a block of its own or all in one.
struct Heap {
    blocks: Vec<Vec<u64>>,
    sums: Vec<u64>,
    random: Seeded,
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |sum, &word| mix(sum, word))
}

impl Heap {
    fn new(seed: u64, pages_of_block: usize) -> Heap {
        let mut heap = Heap { blocks: Vec::new(), sums: Vec::new(), random: Seeded::new(seed) };
        for _ in 0..PAGES / pages_of_block {
            let block = heap.fresh(pages_of_block * WORDS);
            heap.sums.push(sum(&block));
            heap.blocks.push(block);
        }
        heap
    }

    fn fresh(&mut self, len: usize) -> Vec<u64> {
        (0..len).map(|_| self.random.draw()).collect()
    }

    fn check(&self) -> Result<(), String> {
        for (at, (block, &wanted)) in self.blocks.iter().zip(&self.sums).enumerate() {
            if sum(block) != wanted {
                return Err(format!("block {at} of {} words is wrong", block.len()));
            }
        }
        Ok(())
    }

    /// Writes `count` words, spread over all pages.
    fn write(&mut self, count: usize) {
        let total: usize = self.blocks.iter().map(Vec::len).sum();
        for n in 0..count {
            let mut at =
                n * (total / count) + self.random.below(WORDS as u64) as usize % (total / count);
            let block = self.blocks.iter().position(|block| {
                let is_in = at < block.len();
                at -= if is_in { 0 } else { block.len() };
                is_in
            });
            let block = block.expect("within all words");
            self.blocks[block][at] = self.random.draw();
            self.sums[block] = sum(&self.blocks[block]);
        }
    }

    /// Zeroes every second page, or fills it.
    fn blank(&mut self, is_zero: bool) {
        let random = &mut self.random;
        for page in self.blocks[0].chunks_mut(WORDS).step_by(2) {
            page.iter_mut().for_each(|word| *word = if is_zero { 0 } else { random.draw() });
        }
        self.sums[0] = sum(&self.blocks[0]);
    }

    /// Frees half of the blocks, and makes as many of other lengths.
    fn churn(&mut self, has_zeros: bool) {
        for _ in 0..self.blocks.len() / 2 {
            let at = self.random.below(self.blocks.len() as u64) as usize;
            self.blocks.swap_remove(at);
            self.sums.swap_remove(at);
        }
        while self.blocks.iter().map(Vec::len).sum::<usize>() < PAGES * WORDS {
            let len = 16 + self.random.below(4_000) as usize;
            let block = match has_zeros && self.random.below(2) == 0 {
                true => vec![0; 8 * WORDS],
                false => self.fresh(len),
            };
            self.sums.push(sum(&block));
            self.blocks.push(block);
        }
    }
}

/// Uses what tasks have left in this node's static.
#[migrt::migratable]
fn resident() -> u64 {
    let _here = migrt::pin_here();
    let mut uses = 0;
    while !STOP.load(Ordering::Relaxed) {
        let mut shared = SHARED.lock().expect("not poisoned");
        for (n, block) in shared.iter_mut().enumerate() {
            let len = block.len();
            assert_eq!(block[len - 1], sum(&block[..len - 1]), "a block in the static is broken");
            block[n % (len - 1)] = block[n % (len - 1)].wrapping_add(1);
            block[len - 1] = sum(&block[..len - 1]);
        }
        if shared.len() > 12 {
            shared.remove(0);
        }
        uses += 1;
        drop(shared);
        migrt::sleep(Duration::from_millis(3));
    }
    uses
}

#[migrt::migratable]
fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// There by rounds, back with pages that follow.
fn in_turn(n: u32) -> Strategy {
    let rounds =
        Strategy::PreCopy { max_pause: Duration::from_micros(500), max_rounds: 5, hold_back: true };
    if n.is_multiple_of(2) { rounds } else { Strategy::PostCopy }
}

#[migrt::migratable]
fn walk(kind: String, seed: u64, trips: u32) -> Result<Vec<String>, String> {
    let pages_of_block =
        if matches!(&*kind, "churn" | "static" | "turns" | "zero") { 2 } else { PAGES };
    let mut heap = Heap::new(seed, pages_of_block);
    let mut lines = Vec::new();
    for n in 0..trips {
        if kind == "static" {
            let mut block = heap.fresh(600);
            let last = block.len() - 1;
            block[last] = sum(&block[..last]);
            SHARED.lock().expect("not poisoned").push(block);
        }
        let target = next_node();
        if kind == "turns" {
            migrt::set_strategy(in_turn(n));
        }
        for tries in 1.. {
            match migrt::migrate_to(target) {
                Ok(()) => break,
                // What was changed on both sides refuses a move.
                Err(error) if tries > 50 => return Err(format!("trip {n}: {error}")),
                Err(error) => {
                    lines.push(format!("refused {error}"));
                    migrt::sleep(Duration::from_millis(20));
                }
            }
        }
        if kind == "turns" {
            // Touched late: until then its pages come as they are pushed.
            migrt::sleep(REST);
        }
        heap.check().map_err(|why| format!("trip {n}: {why}"))?;
        let moves = migrt::metrics().moves;
        // Others may have come since; it is their like.
        if let Some(last) = moves.last() {
            lines.push(format!(
                "trip {n} live {} sent {} same {} {:?}",
                last.live_pages, last.sent_pages, last.same_pages, last.method
            ));
        }
        drop(moves);
        if !matches!(&*kind, "early" | "turns") {
            migrt::sleep(REST);
        }
        match &*kind {
            "rest" => {}
            "all" | "turns" => heap.write(PAGES),
            "churn" => heap.churn(false),
            "zero" => heap.churn(true),
            "blank" => heap.blank(n % 2 == 1),
            _ => heap.write(PAGES / 100),
        }
        heap.check().map_err(|why| format!("after trip {n}: {why}"))?;
    }
    Ok(lines)
}

#[migrt::migratable]
fn kept() -> u64 {
    migrt::metrics().bytes_kept
}

fn tour(kind: String, trips: u32) -> Result<(), String> {
    trip::settle();
    let nodes = migrt::nodes();
    let count = if kind == "many" { 6 } else { 1 };
    let residents: Vec<_> = match &*kind {
        "static" => nodes.iter().map(|&node| migrt::spawn_on(node, resident())).collect(),
        _ => Vec::new(),
    };
    let walkers: Vec<_> =
        (0..count).map(|seed| migrt::spawn(walk(kind.clone(), seed + 1, trips))).collect();
    let mut failed = Vec::new();
    for walker in walkers {
        match walker.join() {
            Ok(Ok(lines)) => lines.iter().for_each(|line| println!("{line}")),
            Ok(Err(why)) => failed.push(why),
            Err(error) => failed.push(error.to_string()),
        }
    }
    for &node in &nodes {
        match migrt::spawn_on(node, kept()).join() {
            Ok(bytes) => println!("kept {} {bytes}", node.0),
            Err(error) => failed.push(error.to_string()),
        }
        let stopped = migrt::spawn_on(node, stop()).join();
        failed.extend(stopped.err().map(|error| error.to_string()));
    }
    for resident in residents {
        match resident.join() {
            Ok(0) => failed.push("a resident never came to its static".to_owned()),
            Ok(_) => {}
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, trips, nodes] = &args[..] else {
        eprintln!("back KIND TRIPS NODES");
        return ExitCode::FAILURE;
    };
    let (Ok(trips), Ok(nodes)) = (trips.parse(), nodes.parse()) else {
        eprintln!("no numbers: {args:?}");
        return ExitCode::FAILURE;
    };
    let kind = kind.clone();
    let run = migrt::Builder::new().workers(1).local_nodes(nodes).run(move || tour(kind, trips));
    match run.map_err(|e| e.to_string()).and_then(|result| result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
