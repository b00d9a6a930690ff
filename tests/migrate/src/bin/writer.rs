//! `writer STRATEGY HEAP_MIB WRITE_MB_S MOVES [SEED]`: a task that goes on writing its heap, and
//! checking it, while it is moved between two nodes; prints each pause and what was sent.
//!
//! The heap is many blocks of many sizes: some are freed and made anew all the time, so slots and
//! pages come and go between rounds. Every word says where it is and how often it was written, and
//! the task keeps the sum of it all: a lost write, an old page or a page too many shows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use migrt::{Method, NodeId, Strategy};

static STOP: AtomicBool = AtomicBool::new(false);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

struct Heap {
    blocks: Vec<Vec<u64>>,
    sums: Vec<u64>,
    random: Random,
}

impl Heap {
    fn new(bytes: usize, seed: u64) -> Heap {
        let mut heap = Heap { blocks: Vec::new(), sums: Vec::new(), random: Random(seed | 1) };
        let mut left = bytes / 8;
        while left > 0 {
            // Mostly small, a few long.
            let len = match heap.random.below(64) {
                0 => 1 << 17,
                1..8 => 4096 + heap.random.below(4096),
                _ => 16 + heap.random.below(2000),
            };
            let len = len.min(left);
            left -= len;
            let block = heap.fresh(len);
            heap.sums.push(sum(&block));
            heap.blocks.push(block);
        }
        heap
    }

    fn fresh(&mut self, len: usize) -> Vec<u64> {
        let start = self.random.0;
        // Some blocks are zeros: those pages never travel.
        if self.random.below(16) == 0 {
            return vec![0; len];
        }
        (0..len as u64).map(|i| start.wrapping_mul(i | 1)).collect()
    }

    /// Writes so many bytes here and there.
    fn write(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let which = self.random.below(self.blocks.len());
            if self.random.below(50) == 0 {
                // Another block in its place, of another length.
                let len = 16 + self.random.below(self.blocks[which].len() * 2);
                self.blocks[which] = Vec::new();
                let block = self.fresh(len);
                left = left.saturating_sub(len * 8);
                self.sums[which] = sum(&block);
                self.blocks[which] = block;
                continue;
            }
            let at = self.random.below(self.blocks[which].len());
            let value = self.random.0;
            let old = std::mem::replace(&mut self.blocks[which][at], value);
            self.sums[which] = self.sums[which].wrapping_sub(old).wrapping_add(value);
            left = left.saturating_sub(4096);
        }
    }

    fn check(&self) {
        for (block, &wanted) in self.blocks.iter().zip(&self.sums) {
            assert_eq!(
                sum(block),
                wanted,
                "a block of {} words is not as it was written",
                block.len()
            );
        }
    }
}

fn sum(block: &[u64]) -> u64 {
    block.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Writes until it is told to end; how often it has checked everything.
#[migrt::migratable]
fn write(heap: u64, rate: u64, seed: u64) -> (u64, u64) {
    let mut heap = Heap::new(heap as usize, seed);
    let (mut checks, mut written) = (0, 0);
    let mut since = Instant::now();
    let mut moves = migrt::moves();
    while !STOP.load(Ordering::Relaxed) {
        heap.write(64 << 10);
        written += 64 << 10;
        if migrt::moves() != moves {
            moves = migrt::moves();
            heap.check();
            checks += 1;
            since = Instant::now();
            written = 0;
        }
        migrt::safepoint();
        // In step with the rate.
        let due = Duration::from_nanos(written * 1000 / rate.max(1));
        if let Some(early) = due.checked_sub(since.elapsed()) {
            migrt::sleep(early);
        }
    }
    heap.check();
    (checks, u64::from(moves))
}

/// Statics are a node's own: each is told.
#[migrt::migratable]
fn stop_here() {
    STOP.store(true, Ordering::Relaxed);
}

fn main() -> migrt::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, usual: u64| args.get(at).map_or(usual, |n| n.parse().expect("a number"));
    let strategy = match args.first().map_or("auto", String::as_str) {
        "stop" => Strategy::StopCopy,
        "post" => Strategy::PostCopy,
        "pre" => Strategy::PreCopy {
            max_pause: Duration::from_millis(1),
            max_rounds: 12,
            hold_back: true,
        },
        "pre-patient" => {
            Strategy::PreCopy { max_pause: Duration::from_secs(1), max_rounds: 12, hold_back: true }
        }
        "pre-all" => Strategy::PreCopy {
            max_pause: Duration::from_millis(1),
            max_rounds: 12,
            hold_back: false,
        },
        "auto" => Strategy::Auto { max_pause: Duration::from_micros(500) },
        // No pause is short enough: what rounds leave follows.
        "mixed" => Strategy::Auto { max_pause: Duration::ZERO },
        other => panic!("no strategy {other}"),
    };
    let (heap, rate, moves, seed) =
        (number(1, 16) << 20, number(2, 10), number(3, 20), number(4, 1));
    migrt::Builder::new().workers(2).local_nodes(2).run(move || {
        let task = migrt::spawn(write(heap, rate, seed));
        migrt::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        let mut refused = 0;
        for number in 0..moves {
            let since = Instant::now();
            let target = NodeId(((number + 1) % 2) as u16);
            if let Err(why) = task.migrate_by(target, strategy) {
                println!("move {number}: {why}");
                refused += 1;
            } else if moves <= 20 {
                println!("move {number}: {:.1} ms", since.elapsed().as_secs_f64() * 1e3);
            }
            migrt::sleep(Duration::from_millis(5));
        }
        println!("{moves} moves in {:.2} s, {refused} refused", begin.elapsed().as_secs_f64());
        for node in migrt::nodes() {
            migrt::spawn_on(node, stop_here()).join().expect("nothing stops it");
        }
        let (checks, moved) = task.join().expect("it ends when it is told");
        let mut pauses = Vec::new();
        let mut mixed = 0;
        let (mut bytes, mut faults, mut pushed, mut demanded, mut doubled) = (0, 0, 0, 0, 0);
        for (_, metrics) in migrt::cluster_metrics() {
            pauses.extend(metrics.pauses_us);
            bytes += metrics.bytes_shipped;
            faults += metrics.demand_faults;
            pushed += metrics.pages_pushed;
            demanded += metrics.pages_demanded;
            doubled += metrics.pages_doubled;
            let is_mixed =
                |record: &&migrt::MoveRecord| record.method == Method::PostCopy && record.rounds > 0;
            mixed += metrics.moves.iter().filter(is_mixed).count();
            if std::env::var_os("WRITER_RECORDS").is_some() {
                for record in metrics.moves {
                    println!("{record:?}");
                }
            }
        }
        pauses.sort_unstable();
        let at = |part: usize| pauses.get(pauses.len() * part / 100).copied().unwrap_or(0);
        println!("mixed {mixed}");
        println!("{faults} faults, pages: {pushed} pushed, {demanded} demanded, {doubled} doubled");
        println!(
            "writer ok: {moved} moves, {checks} checks, {} MiB sent, pause median {} us, p90 {} us, max {} us",
            bytes >> 20, at(50), at(90), pauses.last().copied().unwrap_or(0)
        );
        assert!(refused < moves / 4 + 1, "too many were refused");
    })
}
