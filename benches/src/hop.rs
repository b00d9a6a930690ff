//! `hop`: what it takes a running task to go from one process to another and go on there.
//!
//! Two nodes with one worker each. A task with a heap of seeded random bytes and a live stack hops
//! back and forth; before it leaves and after it has arrived it reads the machine's clock, which both
//! processes share, so each hop is one sample from just before `migrate_to` to running at the other
//! node. After each hop, outside that time, it checks every byte it has touched. In turns with it the
//! bare wire carries the same number of bytes (see `quic`).
//!
//! `pause` is the runtime's own count: from suspended at the source to running at the target.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Args;
use migrt::NodeId;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::clock::machine_ns;
use crate::method::Method;
use crate::pattern::Pattern;
use crate::quic::Wire;
use crate::random::{next, random_bytes};
use crate::report::Report;
use crate::size::{Rate, parse_fraction, parse_rate, parse_size, parse_time};
use crate::stats::Sample;

const PAGE_WORDS: usize = 512;
/// The hops are made in so many turns, with the bare wire's in between.
const TURNS: u32 = 10;
/// Turns before these, which warm both nodes and tell how many bytes a move ships.
const WARM_TURNS: u32 = 2;
/// Hops at the start of a turn that are not counted.
const WARM_HOPS: u32 = 6;
const POLL: Duration = Duration::from_millis(2);

/// Turns that the task may make, and has made: on node 0.
static ALLOWED: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Bytes of heap, such as 64KiB or 1MiB.
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub heap: u64,
    /// The share of the heap's pages that is used: 1, or 1/64.
    #[arg(long, default_value = "1", value_parser = parse_fraction)]
    pub touched: f64,
    /// Bytes that are alive on the stack.
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub stack: u64,
    /// Hops, both ways together: 1,000, or 20 with a strategy.
    #[arg(long)]
    pub hops: Option<u32>,
    /// Others move the task, by this strategy, while it reads and writes its heap; without it the
    /// task moves itself. A rate without a strategy means auto.
    #[arg(long)]
    pub strategy: Option<Method>,
    /// The longest pause that auto and pre-copy are to keep to.
    #[arg(long, default_value = "3ms", value_parser = parse_time)]
    pub max_pause: Duration,
    /// What the task writes, in whole pages: 10MB/s, or max.
    #[arg(long, default_value = "0", value_parser = parse_rate)]
    pub write_rate: Rate,
    /// What the task reads and checks, in whole pages.
    #[arg(long, default_value = "0", value_parser = parse_rate)]
    pub read_rate: Rate,
    /// Which page is next.
    #[arg(long, default_value = "random")]
    pub pattern: Pattern,
    /// Each hop is the first of a task of its own, to a node that knows nothing of it; with a strategy.
    #[arg(long)]
    pub fresh: bool,
}

/// What one traveller is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trip {
    heap_len: usize,
    /// Every so many pages one is used.
    page_step: usize,
    stack_len: usize,
    hops: u32,
    seed: u64,
}

/// What it has seen: nanoseconds of each hop, or what went wrong.
type Seen = Result<Vec<u64>, String>;

#[migrt::migratable]
fn travel(trip: Trip) -> Seen {
    let mut random = trip.seed;
    let words = trip.heap_len / 8;
    let mut heap = vec![0u64; words];
    let mut sum = 0u64;
    for page in (0..words.div_ceil(PAGE_WORDS)).step_by(trip.page_step) {
        for word in heap[page * PAGE_WORDS..].iter_mut().take(PAGE_WORDS) {
            *word = next(&mut random);
            sum = sum.wrapping_add(*word);
        }
    }
    deep(trip.stack_len, &trip, &mut heap, sum)
}

/// Recurses until `left` bytes of stack are alive, then hops; each frame is checked on the way back.
#[inline(never)]
fn deep(left: usize, trip: &Trip, heap: &mut [u64], sum: u64) -> Seen {
    const FRAME_WORDS: usize = 128;
    if left < FRAME_WORDS * 8 {
        return hop_about(trip, heap, sum);
    }
    let mut frame = [0u64; FRAME_WORDS];
    let mut random = trip.seed ^ left as u64;
    frame.iter_mut().for_each(|word| *word = next(&mut random));
    let frame = std::hint::black_box(&mut frame);
    let seen = deep(left - FRAME_WORDS * 8, trip, heap, sum);
    let mut random = trip.seed ^ left as u64;
    if frame.iter().any(|word| *word != next(&mut random)) {
        return Err("a stack frame has changed on the way".to_owned());
    }
    seen
}

fn hop_about(trip: &Trip, heap: &mut [u64], mut sum: u64) -> Seen {
    let mut seen = Vec::with_capacity((trip.hops * TURNS) as usize);
    for turn in 0..TURNS + WARM_TURNS {
        // Each turn begins and ends on node 0, whose statics these are.
        while ALLOWED.load(Ordering::SeqCst) <= turn {
            migrt::sleep(POLL);
        }
        for hop in 0..trip.hops + WARM_HOPS {
            let target = NodeId(1 - migrt::here().0);
            let left = machine_ns();
            migrt::migrate_to(target).map_err(|e| e.to_string())?;
            let arrived = machine_ns();
            if migrt::here() != target {
                return Err(format!("the task is on {} and not on {target}", migrt::here()));
            }
            if turn >= WARM_TURNS && hop >= WARM_HOPS {
                seen.push(arrived.saturating_sub(left));
            }
            let pages = heap.chunks(PAGE_WORDS).step_by(trip.page_step);
            let found = pages.flatten().fold(0u64, |sum, word| sum.wrapping_add(*word));
            if found != sum {
                return Err(format!(
                    "hop {hop}: the heap's checksum is {found:#x} and not {sum:#x}"
                ));
            }
            // The bytes that arrived are written to, and differ at the next hop.
            if let Some(word) = heap.first_mut() {
                *word = word.wrapping_add(1);
                sum = sum.wrapping_add(1);
            }
        }
        DONE.store(turn + 1, Ordering::SeqCst);
    }
    Ok(seen)
}

/// Lets the traveller make its turn and waits until it has.
fn take_turn(turn: u32, traveller: &migrt::JoinHandle<Seen>) -> Result<(), String> {
    ALLOWED.store(turn + 1, Ordering::SeqCst);
    for poll in 1u32.. {
        if DONE.load(Ordering::SeqCst) > turn {
            return Ok(());
        }
        migrt::sleep(POLL);
        // Asking goes over the wire: seldom, so that it is not measured.
        if poll.is_multiple_of(500) && traveller.is_finished() {
            return Err("the task has ended before its time".to_owned());
        }
    }
    unreachable!("polls without end")
}

pub fn run(options: Options) -> Outcome {
    let is_busy = options.write_rate != Rate::NONE || options.read_rate != Rate::NONE;
    if let Some(method) = options.strategy.or(is_busy.then_some(Method::Auto)) {
        if options.touched != 1.0 || options.stack != 0 {
            return Err("--touched and --stack are for a task that moves itself".into());
        }
        return crate::steady::run(options, method);
    }
    migrt::Builder::new().workers(1).local_nodes(2).run(move || measure(&options))?
}

/// Moves, bytes shipped and the pauses of all nodes so far.
fn counts() -> (u64, u64, Vec<(NodeId, Vec<u32>)>) {
    let all = migrt::cluster_metrics();
    let moves = all.iter().map(|(_, m)| m.moves_out).sum();
    let bytes = all.iter().map(|(_, m)| m.bytes_shipped).sum();
    (moves, bytes, all.into_iter().map(|(node, m)| (node, m.pauses_us)).collect())
}

fn measure(options: &Options) -> Outcome {
    let trip = Trip {
        heap_len: options.heap as usize,
        page_step: (1.0 / options.touched).round() as usize,
        stack_len: options.stack as usize,
        hops: options.hops.unwrap_or(1_000).div_ceil(TURNS).next_multiple_of(2).max(2),
        seed: 1,
    };
    let traveller = migrt::spawn(travel(trip.clone()));
    let early = |why: String, traveller: migrt::JoinHandle<Seen>| match traveller.join() {
        Ok(Err(said)) => said,
        Err(error) => error.to_string(),
        Ok(Ok(_)) => why,
    };
    if let Err(why) = take_turn(0, &traveller) {
        return Err(early(why, traveller).into());
    }
    let (moves, bytes, _) = counts();
    if let Err(why) = take_turn(1, &traveller) {
        return Err(early(why, traveller).into());
    }
    let (moves_now, bytes_now, pauses_before) = counts();
    let shipped = ((bytes_now - bytes) as f64 / (moves_now - moves) as f64).round();

    let payload = random_bytes(shipped as usize);
    let mut wire = Wire::open()?;
    let mut exchanges = Vec::new();
    for turn in 0..TURNS {
        if let Err(why) = take_turn(WARM_TURNS + turn, &traveller) {
            return Err(early(why, traveller).into());
        }
        for exchange in 0..trip.hops + WARM_HOPS {
            let took = wire.exchange(&payload)?;
            if exchange >= WARM_HOPS {
                exchanges.push(took.as_nanos() as f64 / 1_000.0);
            }
        }
    }
    let hops = traveller.join()??;
    let hops: Vec<f64> = hops.into_iter().map(|ns| ns as f64 / 1_000.0).collect();
    drop(wire);
    let (_, _, pauses_after) = counts();
    let pauses: Vec<f64> = pauses_after
        .into_iter()
        .flat_map(|(node, now)| {
            let old = pauses_before.iter().find(|(n, _)| *n == node).map_or(0, |(_, p)| p.len());
            now.into_iter().skip(old).map(f64::from).collect::<Vec<_>>()
        })
        .collect();

    let (hops, exchanges, pauses) =
        (Sample::new(hops), Sample::new(exchanges), Sample::new(pauses));
    let mut report = Report::new(format!(
        "one-way move, heap {} B (1 page in {} touched), stack {} B, checksum right at every hop",
        options.heap, trip.page_step, options.stack
    ));
    report.add("hop.move_us_median", hops.median(), "us", hops.spread());
    report.add("hop.move_us_p90", hops.quantile(0.9), "us", "");
    report.add("hop.move_us_p99", hops.quantile(0.99), "us", "");
    report.add("hop.pause_us_median", pauses.median(), "us", "from suspended to running");
    report.add("hop.bytes_shipped", shipped, "B", "pages and header of one move");
    report.add("hop.quic_us_median", exchanges.median(), "us", exchanges.spread());
    report.add("hop.quic_us_p90", exchanges.quantile(0.9), "us", "");
    report.add("hop.quic_us_p99", exchanges.quantile(0.99), "us", "");
    report.add("hop.move_over_quic", hops.median() / exchanges.median(), "x", "of the medians");
    Ok(report)
}
