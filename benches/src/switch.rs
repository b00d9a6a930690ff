//! `switch`: what one yield costs, with so many tasks that take turns.
//!
//! Each task yields so often that starting and joining it do not count. The bare cost is a resume and
//! a suspend of a corosensei coroutine over as many of them, in a ring.

use std::time::Instant;

use clap::Args;

use crate::report::Report;
use crate::stats::Sample;
use crate::{Outcome, bare};

/// Yields of all tasks together in one run.
const YIELDS: u64 = 1_000_000;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Tasks that take turns.
    #[arg(long, default_value_t = 2)]
    pub tasks: u64,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Runs of each kind.
    #[arg(long, default_value_t = 15)]
    pub runs: usize,
}

#[migrt::migratable]
fn take_turns(number: u64, yields: u64) -> u64 {
    for _ in 0..yields {
        migrt::yield_now();
    }
    number
}

pub fn run(options: &Options) -> Outcome {
    let (tasks, runs) = (options.tasks.max(1), options.runs.max(1));
    let measured =
        migrt::Builder::new().workers(options.workers).run(move || measure(tasks, runs))?;
    let (samples, right) = measured;
    if !right {
        return Err("a task that yielded did not return its number".into());
    }
    let [local, mobile, coroutine] = samples.map(Sample::new);
    let mut report = Report::new(format!("one yield, {tasks} tasks, {} workers", options.workers));
    report.add("switch.local_ns", local.median(), "ns", local.spread());
    report.add("switch.mobile_ns", mobile.median(), "ns", mobile.spread());
    report.add("switch.corosensei_ns", coroutine.median(), "ns", coroutine.spread());
    report.add("switch.local_over_corosensei", local.median() / coroutine.median(), "x", "");
    report.add("switch.mobile_over_corosensei", mobile.median() / coroutine.median(), "x", "");
    Ok(report)
}

fn measure(tasks: u64, runs: usize) -> ([Vec<f64>; 3], bool) {
    let each = (YIELDS / tasks).max(1);
    let expected = (0..tasks).sum::<u64>();
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    let mut right = true;
    for run in 0..=runs {
        let ring = bare::Ring::new(tasks, each);
        let mut turn = |kind: usize, work: &mut dyn FnMut() -> u64| {
            let start = Instant::now();
            right &= work() == expected;
            if run > 0 {
                samples[kind].push(start.elapsed().as_nanos() as f64 / (tasks * each) as f64);
            }
        };
        turn(0, &mut || {
            let tasks: Vec<_> = (0..tasks)
                .map(|i| {
                    migrt::spawn(move || {
                        for _ in 0..each {
                            migrt::yield_now();
                        }
                        i
                    })
                })
                .collect();
            tasks.into_iter().map(|task| task.join().unwrap_or(0)).sum()
        });
        turn(1, &mut || {
            let tasks: Vec<_> = (0..tasks).map(|i| migrt::spawn(take_turns(i, each))).collect();
            tasks.into_iter().map(|task| task.join().unwrap_or(0)).sum()
        });
        let mut ring = Some(ring);
        turn(2, &mut || ring.take().map_or(0, bare::Ring::run));
    }
    (samples, right)
}
