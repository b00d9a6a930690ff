//! `compare`: the strategies beside each other, for tasks that mostly read and that mostly write.
//!
//! Workloads, parameters and claims are fixed in `docs/performance.md`; the constants here are those.
//! Each run is a fresh task that is watched at rest, moved once to the other node, and watched on.
//! All strategies take turns, so that a slow minute of the machine falls on each of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::claims;
use crate::load::{Load, PAGE_LEN, Wish};
use crate::log::Progress;
use crate::method::Method;
use crate::mover::{Hop, Mover};
use crate::pattern::Pattern;
use crate::report::Report;
use crate::stats::Sample;
use crate::steady::loss;
use crate::time_line;
use crate::{Fault, Outcome};

const HEAP_LEN: usize = 64 << 20;
const PAGES: usize = HEAP_LEN / PAGE_LEN;
const MAX_PAUSE: Duration = Duration::from_millis(2);
/// Watched before the move, and after it.
const REST: Duration = Duration::from_millis(300);

/// A task of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    /// Bytes per second.
    read: u64,
    write: u64,
    pattern: Pattern,
}

pub const WORKLOADS: [Workload; 3] = [
    Workload { name: "read", read: 400_000_000, write: 4_000_000, pattern: Pattern::Random },
    Workload { name: "write", read: 40_000_000, write: 400_000_000, pattern: Pattern::Random },
    Workload { name: "hot", read: 40_000_000, write: 400_000_000, pattern: Pattern::Hot },
];

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the time-lines go, one SVG for each run.
    #[arg(long)]
    pub svg: Option<PathBuf>,
    /// Runs of each strategy with each task.
    #[arg(long, default_value_t = 5)]
    pub runs: u32,
    /// Only these strategies.
    #[arg(long, value_delimiter = ',')]
    pub strategies: Vec<Method>,
}

/// What one run came to. Shares are in percent, times in microseconds.
#[derive(Clone, Debug)]
pub struct Run {
    pub pages_moved: f64,
    pub rounds: f64,
    pub pause: f64,
    pub total: f64,
    /// Of its progress, from the order until all pages were there.
    pub slowdown: f64,
    pub faults: f64,
}

/// The runs of one strategy with one task.
#[derive(Clone, Debug)]
pub struct Cell {
    pub workload: &'static str,
    pub method: Method,
    pub runs: Vec<Run>,
}

impl Cell {
    pub fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        Sample::new(self.runs.iter().map(of).collect()).median()
    }
}

pub fn run(options: Options) -> Outcome {
    let mut report = Report::new(format!(
        "strategies compared: {} MiB, pause up to {MAX_PAUSE:?}, medians of {} runs, contents right",
        HEAP_LEN >> 20,
        options.runs
    ));
    let wanted = if options.strategies.is_empty() { &Method::ALL[..] } else { &options.strategies };
    let methods = wanted.to_vec();
    if let Some(dir) = &options.svg {
        std::fs::create_dir_all(dir)?;
    }
    let cells = migrt::Builder::new()
        .workers(2)
        .local_nodes(2)
        .run(move || measure(&methods, &options))??;
    for cell in &cells {
        let name =
            |figure: &str| format!("compare.{}.{}.{figure}", cell.workload, cell.method.name());
        let mut add = |figure: &str, unit, of: &dyn Fn(&Run) -> f64| {
            let sample = Sample::new(cell.runs.iter().map(of).collect());
            let range = format!("{:.2} to {:.2}", sample.quantile(0.0), sample.quantile(1.0));
            report.add(name(figure), sample.median(), unit, range);
        };
        add("moved_over_used", "x", &|run| run.pages_moved);
        add("rounds", "1", &|run| run.rounds);
        add("pause_us", "us", &|run| run.pause);
        add("total_us", "us", &|run| run.total);
        add("slowdown", "%", &|run| run.slowdown);
        add("faults_over_set", "%", &|run| run.faults);
    }
    table(&cells).into_iter().for_each(|line| report.note(line));
    claims::check(&cells).into_iter().for_each(|line| report.note(line));
    Ok(report)
}

fn measure(methods: &[Method], options: &Options) -> Result<Vec<Cell>, Fault> {
    let cell = |workload: Workload, method| {
        (workload, Cell { workload: workload.name, method, runs: Vec::new() })
    };
    let mut cells: Vec<_> =
        WORKLOADS.iter().flat_map(|&w| methods.iter().map(move |&m| cell(w, m))).collect();
    // The first warms both nodes.
    for number in 0..=options.runs {
        for (workload, cell) in &mut cells {
            let (hop, progress) = one_move(workload, cell.method)?;
            if number == 0 {
                continue;
            }
            cell.runs.push(evaluate(workload, &hop, &progress)?);
            if let Some(dir) = &options.svg {
                let title = format!("{} task, {}", workload.name, cell.method.name());
                let path =
                    dir.join(format!("{}-{}-{number}.svg", workload.name, cell.method.name()));
                std::fs::write(path, time_line::draw(&title, &hop, &progress))?;
            }
        }
    }
    Ok(cells.into_iter().map(|(_, cell)| cell).collect())
}

fn one_move(workload: &Workload, method: Method) -> Result<(Hop, Progress), Fault> {
    let &Workload { read, write, pattern, .. } = workload;
    let mut mover = Mover::start(Load { pages: PAGES, read, write, pattern, seed: 1, since: 0 })?;
    let moved = mover.hop(method.strategy(MAX_PAUSE), REST);
    let hop = match moved {
        Ok(hop) => hop,
        // The task's own word says more than that it could not be moved.
        Err(why) => return Err(mover.finish().err().unwrap_or(why)),
    };
    migrt::sleep(REST);
    mover.ask(Wish::Check)?;
    let (_, progress) = mover.finish()?;
    Ok((hop, progress))
}

fn evaluate(workload: &Workload, hop: &Hop, progress: &Progress) -> Result<Run, Fault> {
    let record = &hop.record;
    let (_, resumed) = hop.pause(progress).ok_or("the task's log does not show its arrival")?;
    let touched = progress.at(hop.over).0 - progress.at(resumed).0;
    let set = workload.pattern.touched(touched as u64, PAGES as u64);
    let faults = if record.faults == 0 { 0.0 } else { 100.0 * record.faults as f64 / set };
    Ok(Run {
        pages_moved: record.sent_pages as f64 / record.live_pages.max(1) as f64,
        rounds: record.rounds.into(),
        pause: hop.stood_us(progress),
        total: hop.total_us(),
        slowdown: loss(progress, hop.rest, (hop.ordered, hop.over)).ok_or("it made no progress")?,
        faults,
    })
}

/// The talk's table.
fn table(cells: &[Cell]) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "{:<6} {:<13} {:>10} {:>7} {:>10} {:>10} {:>10} {:>11}",
            "task",
            "strategy",
            "moved/used",
            "rounds",
            "pause ms",
            "total ms",
            "slower %",
            "faults/set"
        ),
    ];
    lines.extend(cells.iter().map(|cell| {
        format!(
            "{:<6} {:<13} {:>10.2} {:>7.0} {:>10.2} {:>10.1} {:>10.1} {:>9.1} %",
            cell.workload,
            cell.method.name(),
            cell.median(|run| run.pages_moved),
            cell.median(|run| run.rounds),
            cell.median(|run| run.pause) / 1e3,
            cell.median(|run| run.total) / 1e3,
            cell.median(|run| run.slowdown),
            cell.median(|run| run.faults),
        )
    }));
    lines.push(String::new());
    lines
}
