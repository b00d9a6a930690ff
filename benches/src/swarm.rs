//! `swarm`: many small tasks to another node at once.
//!
//! Each holds random bytes and sleeps; all are ordered to the other node at the same time, each by a
//! caller of its own (or by fewer callers, each one task after the other: `--callers`). The time is from the first order until the last has arrived; beside it the bare
//! wire carries as many bytes as were sent. There and back, in turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use migrt::{JoinHandle, NodeId, Strategy};

use crate::method::Method;
use crate::mover::bytes_shipped;
use crate::quic::Wire;
use crate::random::{next, random_bytes};
use crate::report::Report;
use crate::size::{parse_size, parse_time};
use crate::stats::Sample;
use crate::{Fault, Outcome};

#[derive(Args, Clone, Debug)]
pub struct Options {
    #[arg(long, default_value_t = 64)]
    pub tasks: u64,
    /// Random bytes that each holds.
    #[arg(long, default_value = "64KiB", value_parser = parse_size)]
    pub heap: u64,
    #[arg(long, default_value = "auto")]
    pub strategy: Method,
    #[arg(long, default_value = "3ms", value_parser = parse_time)]
    pub max_pause: Duration,
    /// Callers that share the tasks; as many as tasks if not given.
    #[arg(long)]
    pub callers: Option<usize>,
    /// There and back so many times.
    #[arg(long, default_value_t = 20)]
    pub trips: u32,
}

static END: AtomicBool = AtomicBool::new(false);
/// Rarely awake, so that none runs while all move.
const POLL: Duration = Duration::from_millis(500);
/// Turns before those that count.
const WARM: u32 = 2;

#[migrt::migratable]
fn hold(heap: u64, seed: u64) -> bool {
    let words = |seed: u64| (0..heap / 8).scan(seed, |state, _| Some(next(state)));
    let bytes: Vec<u64> = words(seed).collect();
    while !END.load(Ordering::Relaxed) {
        migrt::sleep(POLL);
    }
    words(seed).eq(bytes.iter().copied())
}

#[migrt::migratable]
fn end_here() {
    END.store(true, Ordering::Relaxed);
}

pub fn run(options: Options) -> Outcome {
    migrt::Builder::new().workers(2).local_nodes(2).run(move || measure(&options))?
}

fn measure(options: &Options) -> Outcome {
    let strategy = options.strategy.strategy(options.max_pause);
    let mut tasks: Vec<JoinHandle<bool>> =
        (1..=options.tasks).map(|seed| migrt::spawn(hold(options.heap, seed))).collect();
    migrt::sleep(Duration::from_millis(300));
    let callers = options.callers.unwrap_or(tasks.len()).max(1);
    let mut wire = Wire::open()?;
    let (mut totals, mut exchanges, mut pauses, mut sent) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..2 * (options.trips + WARM) {
        let target = NodeId(((turn + 1) % 2) as u16);
        let before = bytes_shipped();
        let took;
        (tasks, took) = move_all(tasks, callers, target, strategy)?;
        let byte_count = bytes_shipped() - before;
        let payload = random_bytes(byte_count as usize);
        wire.exchange(&payload)?;
        let exchange = wire.exchange(&payload)?;
        let mut longest = 0;
        for task in &tasks {
            let record = task.info()?.last_move.ok_or("a task has no record of its move")?;
            longest = longest.max(record.pause_us);
            if turn >= 2 * WARM {
                pauses.push(record.pause_us as f64);
            }
        }
        if turn >= 2 * WARM {
            totals.push(took.as_nanos() as f64 / 1e3);
            exchanges.push(exchange.as_nanos() as f64 / 1e3);
            sent.push(byte_count as f64);
        }
    }
    for node in migrt::nodes() {
        migrt::spawn_on(node, end_here()).join()?;
    }
    for task in tasks {
        if !task.join()? {
            return Err("a task's bytes are not those that it was filled with".into());
        }
    }
    let (totals, exchanges) = (Sample::new(totals), Sample::new(exchanges));
    let pauses = Sample::new(pauses);
    let mut report = Report::new(format!(
        "{} tasks with {} KiB of random bytes each, to the other node at once by {}",
        options.tasks,
        options.heap >> 10,
        options.strategy.name()
    ));
    report.add("swarm.total_us_median", totals.median(), "us", totals.spread());
    report.add("swarm.total_us_p90", totals.quantile(0.9), "us", "");
    report.add("swarm.pause_us_median", pauses.median(), "us", pauses.spread());
    report.add("swarm.pause_us_p99", pauses.quantile(0.99), "us", "");
    report.add("swarm.pause_us_max", pauses.quantile(1.0), "us", "");
    report.add("swarm.bytes_shipped", Sample::new(sent).median(), "B", "");
    report.add("swarm.quic_us_median", exchanges.median(), "us", exchanges.spread());
    report.add("swarm.total_over_quic", totals.median() / exchanges.median(), "x", "");
    Ok(report)
}

/// Orders all at once, and waits until all are there.
fn move_all(
    tasks: Vec<JoinHandle<bool>>,
    callers: usize,
    target: NodeId,
    strategy: Strategy,
) -> Result<(Vec<JoinHandle<bool>>, Duration), Fault> {
    let since = Instant::now();
    let mut shares: Vec<Vec<_>> = (0..callers).map(|_| Vec::new()).collect();
    tasks.into_iter().enumerate().for_each(|(n, task)| shares[n % callers].push(task));
    let move_share = move |share: Vec<JoinHandle<bool>>| {
        (share.iter().try_for_each(|task| task.migrate_by(target, strategy)), share)
    };
    let callers: Vec<_> =
        shares.into_iter().map(|share| migrt::spawn(move || move_share(share))).collect();
    let mut tasks = Vec::new();
    let mut moved = Ok(());
    for caller in callers {
        let (result, share) = caller.join()?;
        moved = moved.and(result);
        tasks.extend(share);
    }
    let took = since.elapsed();
    moved?;
    Ok((tasks, took))
}
