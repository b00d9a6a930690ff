//! `spawn`: what it costs to start a task, run it and join it.
//!
//! A batch spawns 1,000 tasks that return at once and then joins them in order, so most of them run
//! while their maker waits in its first join: spawn, queue, first step, end, join, nothing else. The
//! bare cost is a corosensei coroutine created on a warm stack, run and dropped.

use std::time::Instant;

use clap::Args;

use crate::report::Report;
use crate::stats::Sample;
use crate::{Outcome, bare};

const BATCH: u64 = 1_000;

/// A kind of task, and one batch of it.
type Kind = (&'static str, fn() -> u64);

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Batches of each kind.
    #[arg(long, default_value_t = 200)]
    pub batches: usize,
    /// Only this kind: local or mobile.
    #[arg(long)]
    pub only: Option<String>,
}

#[migrt::migratable]
fn identity(value: u64) -> u64 {
    value
}

pub fn run(options: &Options) -> Outcome {
    let batches = options.batches.max(1);
    let only = options.only.clone();
    let measure = move || measure(batches, only.as_deref());
    let (samples, sum_right) = migrt::Builder::new().workers(options.workers).run(measure)?;
    if !sum_right {
        return Err("the tasks of a batch did not return what they were given".into());
    }
    let [local, mobile, coroutine] = samples.map(Sample::new);
    let mut report = Report::new(format!("spawn + run + join, {} workers", options.workers));
    report.add("spawn.local_ns", local.median(), "ns", local.spread());
    report.add("spawn.mobile_ns", mobile.median(), "ns", mobile.spread());
    report.add("spawn.corosensei_ns", coroutine.median(), "ns", "create, run and drop a coroutine");
    report.add("spawn.local_over_corosensei", local.median() / coroutine.median(), "x", "");
    report.add("spawn.mobile_over_corosensei", mobile.median() / coroutine.median(), "x", "");
    Ok(report)
}

/// Nanoseconds per task of each batch, by kind, in turns; and whether all sums were right.
fn measure(batches: usize, only: Option<&str>) -> ([Vec<f64>; 3], bool) {
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    let mut right = true;
    // The first batches warm the stacks.
    for batch in 0..batches + 3 {
        let kinds: [Kind; 3] =
            [("local", local_batch), ("mobile", mobile_batch), ("bare", bare_batch)];
        for (kind, (name, run)) in kinds.into_iter().enumerate() {
            if only.is_some_and(|only| only != name) && batch > 3 {
                continue;
            }
            let start = Instant::now();
            right &= run() == (0..BATCH).sum::<u64>();
            if batch >= 3 {
                samples[kind].push(start.elapsed().as_nanos() as f64 / BATCH as f64);
            }
        }
    }
    (samples, right)
}

fn local_batch() -> u64 {
    let tasks: Vec<_> = (0..BATCH).map(|i| migrt::spawn(move || i)).collect();
    tasks.into_iter().map(|task| task.join().unwrap_or(0)).sum()
}

fn mobile_batch() -> u64 {
    let tasks: Vec<_> = (0..BATCH).map(|i| migrt::spawn(identity(i))).collect();
    tasks.into_iter().map(|task| task.join().unwrap_or(0)).sum()
}

fn bare_batch() -> u64 {
    bare::create_and_run(BATCH)
}
