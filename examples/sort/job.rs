//! The sort from its files to its figures: `main`'s part, which runs on node 0.
//!
//! ```text
//! make     records, if no file was named
//! sample   splitters from random places of the input
//! runs     parts of the input, sorted, to the file of runs
//! merges   the pieces of each bucket, to the bucket's place in the output
//! check    both files again: order, and the same items
//! sync, rename
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migrt::NodeId;

use crate::args::Args;
use crate::check;
use crate::crew::Crew;
use crate::digest::Digest;
use crate::files::{self, Input};
use crate::format::Format;
use crate::interrupt;
use crate::mover::{Mover, Moves};
use crate::output::{TempFile, TempFolder, temp_name};
use crate::path::SharedPath;
use crate::plan::{Plan, cut};
use crate::progress::Progress;
use crate::report::{NodeReport, Report};
use crate::splitters;
use crate::tasks::{
    CheckJob, MakeJob, MergeJob, RunJob, Source, check_part, make_records, merge_bucket, sort_run,
};

/// Bytes that a task makes or checks.
const PART_LEN: u64 = 2 << 20;

/// The files that the user named, looked at before anything is started.
#[derive(Debug)]
pub struct Named {
    format: Format,
    input: Option<Input>,
    output: Option<PathBuf>,
}

impl Named {
    /// Looks at them.
    ///
    /// # Errors
    /// One of them cannot be used; the text says which, why, and what to do.
    pub fn inspect(args: &Args) -> Result<Named, String> {
        let format = args.format()?;
        let input = args.input.as_deref().map(|path| files::inspect_input(path, format));
        let input = input.transpose()?;
        let output = args.output.as_deref();
        let output = output.map(|path| files::inspect_output(path, input.as_ref())).transpose()?;
        Ok(Named { format, input, output })
    }
}

/// Sorts; gives the figures, and the folder of kept files if there is one.
///
/// # Errors
/// What went wrong. No temporary file is left then, and the output is as it was before.
pub fn sort(args: &Args, named: Named) -> Result<(Report, Option<PathBuf>), String> {
    interrupt::catch();
    let folder = match (&named.input, &named.output) {
        (Some(_), Some(_)) => None,
        _ => Some(TempFolder::create(args.keep)?),
    };
    let made_path = |name: &str| folder.as_ref().map(|folder| folder.path().join(name));
    let output = named.output.or_else(|| made_path("sorted")).expect("a folder without an output");
    let crew = Crew::new(args.worker_count());
    let (input, mut progress) = match named.input {
        Some(input) => {
            let progress = Progress::new(input.len, 4, !args.plain);
            (input, progress)
        }
        None => {
            let path = made_path("records").expect("a folder without an input");
            make(args, named.format, path, &crew)?
        }
    };
    let work = Work { args, format: named.format, input, crew: &crew };
    let runs = TempFile::create(temp_name(&output, "runs"), work.input.sorted_len)?;
    let part = TempFile::create(temp_name(&output, "part"), work.input.sorted_len)?;
    let mut report = work.sort(&runs, &part, &mut progress)?;
    drop(runs);
    work.check(&part, &mut report, &mut progress)?;
    let begin = Instant::now();
    progress.begin("sync");
    sync(&part)?;
    report.sync_time = begin.elapsed();
    interrupt::check()?;
    part.rename(&output)?;
    Ok((report, folder.filter(|_| args.keep).map(|folder| folder.path().to_owned())))
}

/// Makes a file of records to sort.
fn make(
    args: &Args,
    format: Format,
    path: PathBuf,
    crew: &Crew,
) -> Result<(Input, Progress), String> {
    let record = u64::from(args.records);
    let len = args.size / record * record;
    let mut progress = Progress::new(len, 5, !args.plain);
    progress.begin("make");
    let temp = TempFile::create(temp_name(&path, "part"), len)?;
    let file = Source { path: temp.shared(), len, format };
    let jobs = cut(len, format, PART_LEN)
        .into_iter()
        .map(|range| MakeJob { file: file.clone(), range, seed: args.seed })
        .collect();
    crew.run(jobs, &mut progress, None, |job| job.range.1 - job.range.0, |node, job| {
        migrt::spawn_on(node, make_records(job))
    })?;
    temp.rename(&path)?;
    Ok((Input { path, len, sorted_len: len }, progress))
}

/// An input and those who sort it.
struct Work<'a> {
    args: &'a Args,
    format: Format,
    input: Input,
    crew: &'a Crew,
}

impl Work<'_> {
    /// Sorts into `part`.
    fn sort(
        &self,
        runs: &TempFile,
        part: &TempFile,
        progress: &mut Progress,
    ) -> Result<Report, String> {
        let Work { args, .. } = *self;
        let before = migrt::cluster_metrics();
        let begin = Instant::now();
        let limit = if before.len() > 1 { args.moves.unwrap_or(u64::MAX) } else { 0 };
        let mover = Mover::start(args.move_every, limit, args.seed);
        let list = (limit > 0).then(|| mover.list());

        progress.begin("runs");
        let jobs = self.run_jobs(runs, before.len() * args.worker_count())?;
        let run_count = jobs.len() as u64;
        let sorted = self.crew.run(
            jobs,
            progress,
            list.as_ref(),
            |job| job.range.1 - job.range.0,
            |node, job| migrt::spawn_on(node, sort_run(job)),
        )?;
        progress.begin("merges");
        let cuts: Vec<_> = sorted.iter().map(|done| &done.value[..]).collect();
        let jobs = self.merge_jobs(&cuts, runs, part);
        let merge_count = jobs.len() as u64;
        let merged = self.crew.run(
            jobs,
            progress,
            list.as_ref(),
            |job| job.pieces.iter().map(|(start, end)| end - start).sum(),
            |node, job| migrt::spawn_on(node, merge_bucket(job)),
        )?;
        let time = begin.elapsed();
        let (moves, refusal) = mover.stop();
        if let (Some(why), true) = (refusal, moves.refused > 0) {
            eprintln!("sort: {} moves were refused, the first because: {why}", moves.refused);
        }
        let moved_in_sort = sorted.iter().filter(|done| done.moved).count()
            + merged.iter().filter(|done| done.moved).count();
        Ok(self.report(&before, time, moves, moved_in_sort as u64, run_count + merge_count))
    }

    fn run_jobs(&self, runs: &TempFile, worker_count: usize) -> Result<Vec<RunJob>, String> {
        let Input { path, len, .. } = &self.input;
        let plan = Plan::new(*len, self.format, worker_count, self.args.run_size);
        let splitters = File::open(path)
            .and_then(|file| {
                splitters::choose(&file, self.format, *len, plan.bucket_count, self.args.seed)
            })
            .map_err(|error| format!("the input {} cannot be read: {error}", path.display()))?;
        let input = Source { path: SharedPath::new(path), len: *len, format: self.format };
        let job = |range| RunJob {
            input: input.clone(),
            range,
            runs: runs.shared(),
            splitters: splitters.clone(),
        };
        Ok(plan.ranges.into_iter().map(job).collect())
    }

    /// One for each bucket that is not empty.
    fn merge_jobs(&self, cuts: &[&[u64]], runs: &TempFile, part: &TempFile) -> Vec<MergeJob> {
        let bucket_count = cuts.first().map_or(0, |cuts| cuts.len() - 1);
        let mut at = 0;
        let mut jobs = Vec::with_capacity(bucket_count);
        for bucket in 0..bucket_count {
            let pieces: Vec<_> = cuts
                .iter()
                .map(|cuts| (cuts[bucket], cuts[bucket + 1]))
                .filter(|(start, end)| start < end)
                .collect();
            let len: u64 = pieces.iter().map(|(start, end)| end - start).sum();
            if len > 0 {
                let (runs, output) = (runs.shared(), part.shared());
                jobs.push(MergeJob { format: self.format, runs, pieces, output, at });
            }
            at += len;
        }
        jobs
    }

    /// Reads the input and the output again and compares them.
    fn check(
        &self,
        part: &TempFile,
        report: &mut Report,
        progress: &mut Progress,
    ) -> Result<(), String> {
        progress.begin("check");
        let begin = Instant::now();
        let mut parts_of = |path: SharedPath, len: u64| {
            let file = Source { path, len, format: self.format };
            let jobs = cut(len, self.format, PART_LEN)
                .into_iter()
                .map(|range| CheckJob { file: file.clone(), range })
                .collect();
            let done = self.crew.run(jobs, progress, None, |job| job.range.1 - job.range.0, |node, job| {
                migrt::spawn_on(node, check_part(job))
            })?;
            Ok::<_, String>(done.into_iter().map(|done| done.value).collect::<Vec<_>>())
        };
        let of_input = parts_of(SharedPath::new(&self.input.path), self.input.len)?;
        let of_output = parts_of(part.shared(), self.input.sorted_len)?;
        let mut expected = Digest::default();
        of_input.iter().for_each(|part| expected.join(&part.digest));
        check::conclude(&of_output, &expected).map_err(|wrong| {
            format!(
                "{wrong}; it was thrown away. If the input {} was not written to meanwhile, this \
                 is a bug of migrt: please report it",
                self.input.path.display()
            )
        })?;
        report.count = expected.count;
        report.check_time = begin.elapsed();
        Ok(())
    }

    /// The figures so far; what comes later is zero.
    fn report(
        &self,
        before: &[(NodeId, migrt::Metrics)],
        time: Duration,
        moves: Moves,
        moved_in_sort: u64,
        task_count: u64,
    ) -> Report {
        let after = migrt::cluster_metrics();
        let nodes = after.iter().map(|(node, now)| {
            let then = before.iter().find(|(other, _)| other == node).map(|(_, then)| then);
            let (tasks, cpu_us) = then.map_or((0, 0), |then| (then.tasks_ended, then.cpu_us));
            NodeReport {
                node: node.0,
                tasks: now.tasks_ended.saturating_sub(tasks),
                cpu: Duration::from_micros(now.cpu_us.saturating_sub(cpu_us)),
            }
        });
        let sum = |metrics: &[(NodeId, migrt::Metrics)]| -> u64 {
            metrics.iter().map(|(_, metrics)| metrics.bytes_shipped).sum()
        };
        Report {
            format: self.format,
            count: 0,
            len: self.input.sorted_len,
            time,
            sync_time: Duration::ZERO,
            check_time: Duration::ZERO,
            nodes: nodes.collect(),
            moves,
            moved_in_sort,
            task_count,
            bytes_shipped: sum(&after).saturating_sub(sum(before)),
            pauses_us: after.iter().flat_map(|(_, metrics)| metrics.pauses_us.clone()).collect(),
        }
    }
}

/// Waits until the file is on the disk: on a thread of its own, for a worker must not stand still.
fn sync(file: &TempFile) -> Result<(), String> {
    let path = file.shared();
    let thread = std::thread::spawn(move || sync_file(path.as_path()));
    while !thread.is_finished() {
        migrt::sleep(Duration::from_millis(1));
    }
    thread.join().expect("it does not panic")
}

fn sync_file(path: &Path) -> Result<(), String> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| {
        format!("{} cannot be brought to the disk: {error}; look at the disk", path.display())
    })
}
