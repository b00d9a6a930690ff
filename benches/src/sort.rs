//! `sort`: the sort example on 1, 2 and 3 nodes, with and without moves, beside rayon.
//!
//! The example runs as a program of its own (built first, when cargo runs this) and measures itself,
//! from the first look at the input until all of the output is written. rayon does the same work in
//! this process with as many threads: read the file, `par_sort_unstable` the records, write them.
//! The three take turns. The outputs must be equal byte for byte.

use std::collections::HashMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Args;
use rayon::slice::ParallelSliceMut;

use crate::Outcome;
use crate::report::Report;
use crate::stats::Sample;

const RECORD_LEN: usize = 100;
const KEY_LEN: usize = 10;

type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only this number of nodes; otherwise 1, 2 and 3.
    #[arg(long)]
    nodes: Option<u16>,
    /// MiB of records to sort.
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// How often a random task is moved.
    #[arg(long, default_value = "4ms")]
    move_every: String,
    /// Runs of each kind.
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// The medians for one number of nodes.
struct Medians {
    moved: HashMap<String, f64>,
    still_per_s: f64,
    rayon_per_s: f64,
}

pub fn run(options: &Options) -> Outcome {
    let program = build_example()?;
    let folder = Folder::create()?;
    let input = folder.0.join("input");
    let count = options.mib.max(1) * (1 << 20) / RECORD_LEN as u64;
    write_input(&input, count)?;
    let mut report = Report::new(format!(
        "sort of {count} records of {RECORD_LEN} bytes, medians of {} runs in turns",
        options.runs
    ));
    let all = match options.nodes {
        Some(nodes) => vec![nodes.max(1)],
        None => vec![1, 2, 3],
    };
    for &nodes in &all {
        let medians = measure(options, &program, &folder.0, count, nodes)?;
        add(&mut report, &format!("sort.n{nodes}."), &medians);
        if all.last() == Some(&nodes) {
            add(&mut report, "sort.", &medians);
        }
    }
    Ok(report)
}

fn add(report: &mut Report, prefix: &str, medians: &Medians) {
    let moved = |name: &str| medians.moved.get(name).copied().unwrap_or(0.0);
    let per_s = moved("sort.records_per_s");
    let mut line = |name: &str, value, unit, remark: &str| {
        report.add(format!("{prefix}{name}"), value, unit, remark);
    };
    line("records_per_s", per_s, "1/s", "tasks are moved all the time");
    line("records_per_s_unmoved", medians.still_per_s, "1/s", "");
    line("records_per_s_rayon", medians.rayon_per_s, "1/s", "one process, as many threads");
    line("over_rayon", medians.rayon_per_s / per_s, "x", "time over rayon's, moved");
    line("over_rayon_unmoved", medians.rayon_per_s / medians.still_per_s, "x", "");
    line("moves", moved("sort.moves"), "moves", "");
    line("moves_in_sort", moved("sort.moves_in_sort"), "moves", "sort frames on the stack");
    line("pause_us_median", moved("sort.pause_us_median"), "us", "");
    line("pause_us_p99", moved("sort.pause_us_p99"), "us", "");
    line("cpu_share_min", moved("cpu_share_min"), "%", "of the node that did least");
}

fn measure(
    options: &Options,
    program: &Path,
    folder: &Path,
    count: u64,
    nodes: u16,
) -> Result<Medians, Fault> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = usize::from(nodes) * (cores / usize::from(nodes)).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let (input, by_rayon) = (folder.join("input"), folder.join("by-rayon"));
    let example = |name: &str, extra: &[&str]| {
        let output = folder.join(name);
        let figures = run_example(program, &input, &output, nodes, extra)?;
        Ok::<_, Fault>((figures, output))
    };
    let (mut moved, mut still, mut rayon) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..options.runs.max(1) {
        let start = Instant::now();
        pool.install(|| sort_by_rayon(&input, &by_rayon))?;
        rayon.push(count as f64 / start.elapsed().as_secs_f64());
        let (figures, output) = example("by-migrt", &["--move-every", &options.move_every])?;
        moved.push(figures);
        if run == 0 && !is_same(&output, &by_rayon)? {
            return Err(
                format!("{nodes} nodes and rayon sorted the same records differently").into()
            );
        }
        let (figures, _) = example("by-migrt-unmoved", &["--moves", "0"])?;
        still.push(figures.get("sort.records_per_s").copied().unwrap_or(0.0));
    }
    let names: Vec<String> = moved.iter().flat_map(|run| run.keys().cloned()).collect();
    let median = |name: &String| {
        let values: Vec<f64> = moved.iter().filter_map(|run| run.get(name).copied()).collect();
        (name.clone(), Sample::new(values).median())
    };
    Ok(Medians {
        moved: names.iter().map(median).collect(),
        still_per_s: Sample::new(still).median(),
        rayon_per_s: Sample::new(rayon).median(),
    })
}

/// Runs the example; its figures by name, and the least CPU share of a node.
fn run_example(
    program: &Path,
    input: &Path,
    output: &Path,
    nodes: u16,
    extra: &[&str],
) -> Result<HashMap<String, f64>, Fault> {
    let ran = Command::new(program)
        .args(["--plain", "--nodes", &nodes.to_string()])
        .arg("--input")
        .arg(input)
        .arg("--output")
        .arg(output)
        .args(extra)
        .output()?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        return Err(
            format!("the sort example on {nodes} nodes ended with {}: {said}", ran.status).into()
        );
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut figures: HashMap<String, f64> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    let shares = figures.iter().filter(|(name, _)| name.ends_with(".cpu_share"));
    let least = shares.map(|(_, share)| *share).fold(100.0, f64::min);
    figures.insert("cpu_share_min".to_owned(), least);
    Ok(figures)
}

fn sort_by_rayon(input: &Path, output: &Path) -> std::io::Result<()> {
    let mut bytes = fs::read(input)?;
    let (records, _) = bytes.as_chunks_mut::<RECORD_LEN>();
    records.par_sort_unstable_by(|a, b| a[..KEY_LEN].cmp(&b[..KEY_LEN]));
    fs::write(output, &bytes)
}

/// Records of seeded random bytes; their keys differ.
fn write_input(path: &Path, count: u64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut state = 1u64;
    let mut record = [0u8; RECORD_LEN + 4];
    for _ in 0..count {
        for word in record.chunks_exact_mut(8) {
            // Xorshift: the whole record is random.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&record[..RECORD_LEN])?;
    }
    file.flush()
}

fn is_same(one: &Path, other: &Path) -> std::io::Result<bool> {
    Ok(fs::read(one)? == fs::read(other)?)
}

/// The example's program, in the folder that cargo puts examples into.
fn build_example() -> Result<PathBuf, Fault> {
    let here = std::env::current_exe()?;
    let program = here.parent().ok_or("no folder")?.join("examples/sort");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .current_dir(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into()))
            .args(["build", "--release", "-q", "-p", "migrt-examples", "--example", "sort"])
            .status()?;
        if !built.success() {
            return Err("the sort example does not build: see above".into());
        }
    }
    if !program.exists() {
        let hint = "build it with: cargo build --release -p migrt-examples --example sort";
        return Err(format!("{} is missing; {hint}", program.display()).into());
    }
    Ok(program)
}

/// A temporary folder that is removed with its files.
struct Folder(PathBuf);

impl Folder {
    fn create() -> std::io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("migrt-bench-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
