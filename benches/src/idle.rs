//! `idle`: how much memory a parked task holds.
//!
//! Each kind is measured in a process of its own, so that no kind reuses the other's warm memory.
//! The tasks sleep; when the last one has begun to, the growth of the process's resident memory is
//! divided by their number. Then they wake and every result is checked. Handles and timers count.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::Outcome;
use crate::report::Report;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Parked tasks.
    #[arg(long, default_value_t = 100_000)]
    pub tasks: u64,
}

#[derive(Args, Clone, Debug)]
pub struct KindOptions {
    #[arg(long)]
    mobile: bool,
    #[arg(long)]
    tasks: u64,
}

/// Tasks of this process that are about to sleep.
static PARKED: AtomicU64 = AtomicU64::new(0);

/// How long they sleep; they must all be parked in this time.
fn hold(tasks: u64) -> Duration {
    Duration::from_secs(4) + Duration::from_micros(40 * tasks)
}

#[migrt::migratable]
fn park(number: u64, hold: Duration) -> u64 {
    PARKED.fetch_add(1, Ordering::SeqCst);
    migrt::sleep(hold);
    number
}

pub fn run(options: &Options) -> Outcome {
    let mut report =
        Report::new(format!("resident memory of a parked task, {} tasks", options.tasks));
    for (kind, flag) in [("local", None), ("mobile", Some("--mobile"))] {
        let output = Command::new(std::env::current_exe()?)
            .args(["idle-kind", "--plain", "--tasks", &options.tasks.to_string()])
            .args(flag)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let bytes = text.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
        let (true, Some(bytes)) = (output.status.success(), bytes) else {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "the process with {kind} tasks ended with {}: {said}",
                output.status
            )
            .into());
        };
        report.add(
            format!("idle.{kind}_bytes"),
            bytes,
            "B",
            format!("of {} tasks, 1 run", options.tasks),
        );
    }
    report.add(
        "idle.floor_bytes",
        4_096.0,
        "B",
        "one page of stack, the least a stackful task holds",
    );
    Ok(report)
}

pub fn run_kind(options: &KindOptions) -> Outcome {
    let (tasks, mobile) = (options.tasks, options.mobile);
    let bytes = migrt::Builder::new().workers(1).run(move || measure(tasks, mobile))??;
    let mut report = Report::new("one kind");
    report.add("bytes", (bytes as f64 / tasks as f64).round(), "B", "");
    Ok(report)
}

/// Bytes by which the process has grown.
fn measure(tasks: u64, mobile: bool) -> Result<u64, String> {
    // What only the first task needs is not counted.
    migrt::spawn(park(0, Duration::ZERO)).join().map_err(|e| e.to_string())?;
    PARKED.store(0, Ordering::SeqCst);
    let hold = hold(tasks);
    let before = resident_bytes()?;
    let start = Instant::now();
    let (grown, sum) = if mobile {
        let handles: Vec<_> = (0..tasks).map(|i| migrt::spawn(park(i, hold))).collect();
        let grown = wait_and_measure(tasks, start, hold, before)?;
        (grown, handles.into_iter().map(|h| h.join().unwrap_or(0)).sum::<u64>())
    } else {
        let one = |i| {
            migrt::spawn(move || {
                PARKED.fetch_add(1, Ordering::SeqCst);
                migrt::sleep(hold);
                i
            })
        };
        let handles: Vec<_> = (0..tasks).map(one).collect();
        let grown = wait_and_measure(tasks, start, hold, before)?;
        (grown, handles.into_iter().map(|h| h.join().unwrap_or(0)).sum::<u64>())
    };
    if sum != (0..tasks).sum::<u64>() {
        return Err("a parked task did not return its number".to_owned());
    }
    Ok(grown)
}

fn wait_and_measure(
    tasks: u64,
    start: Instant,
    hold: Duration,
    before: u64,
) -> Result<u64, String> {
    while PARKED.load(Ordering::SeqCst) < tasks {
        migrt::sleep(Duration::from_millis(10));
    }
    // The last one has counted itself and parks.
    migrt::sleep(Duration::from_millis(50));
    if start.elapsed() > hold {
        return Err(format!(
            "{tasks} tasks were not parked within {hold:?}: this machine is too busy"
        ));
    }
    Ok(resident_bytes()?.saturating_sub(before))
}

fn resident_bytes() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")
        .map_err(|e| format!("/proc/self/smaps_rollup cannot be read: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib =
        line.and_then(|l| l.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| "/proc/self/smaps_rollup has no Rss line".to_owned())
}
