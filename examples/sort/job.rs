//! The sort from its files to its figures: `main`'s part, which runs on node 0.
//!
//! ```text
//! make     records, if no file was named
//! sample   splitters from random places of the input
//! parts    parts of the input, in the order of the buckets, to the file of parts
//! buckets  the pieces of each bucket, sorted, to the bucket's place in the output
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
use crate::plan::{Plan, cut, group};
use crate::progress::Progress;
use crate::report::{NodeReport, Report};
use crate::splitters;
use crate::tasks::{
    Bucket, CheckJob, MakeJob, PartJob, SortJob, Source, check_parts, make_records, partition,
    sort_buckets,
};

/// Bytes that a task makes, or checks at a time.
const PART_LEN: u64 = 1 << 20;

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
        let input = args.input.as_deref().map(|path| files::inspect_named_input(path, format));
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
    let parts = TempFile::create(temp_name(&output, "parts"), work.input.sorted_len)?;
    let whole = TempFile::create(temp_name(&output, "whole"), work.input.sorted_len)?;
    let mut report = work.sort(&parts, &whole, &mut progress)?;
    drop(parts);
    work.check(&whole, &mut report, &mut progress)?;
    let begin = Instant::now();
    progress.begin("sync");
    sync(&whole)?;
    report.sync_time = begin.elapsed();
    interrupt::check()?;
    whole.rename(&output)?;
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
    let temp = TempFile::create(temp_name(&path, "whole"), len)?;
    let file = Source { path: temp.shared(), len, format };
    let jobs = cut(len, format, PART_LEN)
        .into_iter()
        .map(|range| MakeJob { file: file.clone(), range, seed: args.seed })
        .collect();
    crew.run(
        jobs,
        &mut progress,
        None,
        |job| job.range.1 - job.range.0,
        |node, job| migrt::spawn_on(node, make_records(job)),
    )?;
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
    /// Sorts into `whole`.
    fn sort(
        &self,
        parts: &TempFile,
        whole: &TempFile,
        progress: &mut Progress,
    ) -> Result<Report, String> {
        let before = migrt::cluster_metrics();
        let begin = Instant::now();
        let limit = if before.len() > 1 { self.args.moves.unwrap_or(u64::MAX) } else { 0 };
        let mover = Mover::start(self.args.move_every, limit, self.args.seed);
        let list = (limit > 0).then(|| mover.list());

        progress.begin("parts");
        let jobs = self.part_jobs(parts, before.len() * self.args.worker_count())?;
        let (cuts, moves_in_sieve): (Vec<_>, Vec<_>) = self
            .crew
            .run(jobs, progress, list.as_ref(), part_len, |node, job| {
                migrt::spawn_on(node, partition(job))
            })?
            .into_iter()
            .unzip();
        progress.begin("buckets");
        let jobs = self.sort_jobs(&cuts.concat(), parts, whole);
        let moves_in_sort =
            self.crew.run(jobs, progress, list.as_ref(), sort_len, |node, job| {
                migrt::spawn_on(node, sort_buckets(job))
            })?;
        let time = begin.elapsed();
        let (moves, refusal) = mover.stop();
        if let Some(why) = refusal {
            eprintln!("sort: {} moves were refused, the first because: {why}", moves.refused);
        }
        Ok(self.report(&before, time, moves, moves_in_sieve.iter().chain(&moves_in_sort).sum()))
    }

    fn part_jobs(&self, parts: &TempFile, worker_count: usize) -> Result<Vec<PartJob>, String> {
        let Input { path, len, .. } = &self.input;
        let plan = Plan::new(*len, self.format, worker_count, self.args.bucket_size);
        let splitters = File::open(path)
            .and_then(|file| {
                splitters::choose(&file, self.format, *len, plan.bucket_count, self.args.seed)
            })
            .map_err(|error| format!("the input {} cannot be read: {error}", path.display()))?;
        let input = Source { path: SharedPath::new(path), len: *len, format: self.format };
        let job = |ranges| PartJob {
            input: input.clone(),
            parts: ranges,
            parts_file: parts.shared(),
            splitters: splitters.clone(),
        };
        Ok(group(plan.parts, self.crew.lane_count()).into_iter().map(job).collect())
    }

    /// `cuts` says of each part where the buckets' pieces lie.
    fn sort_jobs(&self, cuts: &[Vec<u64>], parts: &TempFile, whole: &TempFile) -> Vec<SortJob> {
        let bucket_count = cuts.first().map_or(0, |cuts| cuts.len() - 1);
        let mut at = 0;
        let mut buckets = Vec::with_capacity(bucket_count);
        for bucket in 0..bucket_count {
            let pieces = cuts.iter().map(|cuts| (cuts[bucket], cuts[bucket + 1]));
            let pieces: Vec<_> = pieces.filter(|(start, end)| start < end).collect();
            let len: u64 = pieces.iter().map(|(start, end)| end - start).sum();
            if len > 0 {
                buckets.push(Bucket { pieces, at });
            }
            at += len;
        }
        let job = |buckets| SortJob {
            format: self.format,
            parts_file: parts.shared(),
            buckets,
            output: whole.shared(),
        };
        group(buckets, self.crew.lane_count()).into_iter().map(job).collect()
    }

    /// Reads the input and the output again and compares them.
    fn check(
        &self,
        whole: &TempFile,
        report: &mut Report,
        progress: &mut Progress,
    ) -> Result<(), String> {
        progress.begin("check");
        let begin = Instant::now();
        let mut parts_of = |path: SharedPath, len: u64| {
            let file = Source { path, len, format: self.format };
            let job = |parts| CheckJob { file: file.clone(), parts };
            let parts = cut(len, self.format, PART_LEN);
            let jobs = group(parts, self.crew.lane_count()).into_iter().map(job).collect();
            let checked = self.crew.run(jobs, progress, None, check_len, |node, job| {
                migrt::spawn_on(node, check_parts(job))
            })?;
            Ok::<_, String>(checked.concat())
        };
        let of_input = parts_of(SharedPath::new(&self.input.path), self.input.len)?;
        let of_output = parts_of(whole.shared(), self.input.sorted_len)?;
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
        moves_in_sort: u32,
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
        let shipped = |metrics: &[(NodeId, migrt::Metrics)]| -> u64 {
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
            moves_in_sort,
            bytes_shipped: shipped(&after).saturating_sub(shipped(before)),
            pauses_us: after.iter().flat_map(|(_, metrics)| metrics.pauses_us.clone()).collect(),
        }
    }
}

fn sum(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(start, end)| end - start).sum()
}

fn part_len(job: &PartJob) -> u64 {
    sum(&job.parts)
}

fn sort_len(job: &SortJob) -> u64 {
    job.buckets.iter().map(|bucket| sum(&bucket.pieces)).sum()
}

fn check_len(job: &CheckJob) -> u64 {
    sum(&job.parts)
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
