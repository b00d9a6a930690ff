//! The mobile tasks: what each does from its first byte to its last, with the places where it may
//! be moved.
//!
//! All that a task works on lies in its own heap, so it moves along. Files are open only between
//! two such places. `safepoint` is one load and one branch; `yield_now` also lets others run.

use std::collections::BTreeSet;

use migrt::{here, migratable, safepoint, yield_now};
use serde::{Deserialize, Serialize};

use crate::check::{self, Checked};
use crate::format::Format;
use crate::merge::Merge;
use crate::output::PartWriter;
use crate::path::SharedPath;
use crate::splitters::Splitter;
use crate::{input, records, run};

/// A file and its length.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Where it is.
    pub path: SharedPath,
    /// Bytes.
    pub len: u64,
    /// What it is cut into.
    pub format: Format,
}

/// Records to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MakeJob {
    /// The file they go to.
    pub file: Source,
    /// Bytes of it to fill.
    pub range: (u64, u64),
    /// The same seed gives the same file.
    pub seed: u64,
}

/// A run to sort.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunJob {
    /// The input.
    pub input: Source,
    /// Bytes of it to sort.
    pub range: (u64, u64),
    /// The file of runs.
    pub runs: SharedPath,
    /// Where buckets end.
    pub splitters: Vec<Splitter>,
}

/// A bucket to merge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MergeJob {
    /// What it is made of.
    pub format: Format,
    /// The file of runs.
    pub runs: SharedPath,
    /// The bucket's piece of each run.
    pub pieces: Vec<(u64, u64)>,
    /// The output so far.
    pub output: SharedPath,
    /// Where the bucket goes.
    pub at: u64,
}

/// A part of a file to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckJob {
    /// The file.
    pub file: Source,
    /// Bytes of it.
    pub range: (u64, u64),
}

/// What a task has to say at its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done<T> {
    /// What it was asked for.
    pub value: T,
    /// Whether it was on another node at the end of its sort or merge than at its begin: it was
    /// moved with the frames of the sort on its stack.
    pub moved: bool,
}

/// Fills a part of a file with records.
#[migratable]
pub fn make_records(job: MakeJob) -> Result<Done<()>, String> {
    let Format::Records { len, key } = job.file.format else {
        return Err("only records are made".into());
    };
    let record = u64::from(len);
    let mut writer = PartWriter::new(job.file.path, job.range.0);
    let mut data = Vec::with_capacity(len as usize);
    for number in job.range.0 / record..job.range.1 / record {
        data.clear();
        records::make(job.seed, number, 1, len as usize, key as usize, &mut data);
        if writer.put(&data)? {
            yield_now();
        }
    }
    writer.finish()?;
    Ok(Done { value: (), moved: false })
}

/// Reads a part of the input, sorts it, and writes it to the file of runs; gives the borders of the
/// buckets in it.
#[migratable]
pub fn sort_run(job: RunJob) -> Result<Done<Vec<u64>>, String> {
    let format = job.input.format;
    let part = input::read(&job.input.path, format, job.input.len, job.range)?;
    yield_now();
    let mut items = run::items(format, &part, safepoint);
    yield_now();
    let begin = here();
    run::sort(format, &part, &mut items, safepoint);
    let moved = here() != begin;
    yield_now();
    let mut writer = PartWriter::new(job.runs, part.base);
    let cuts = run::write(format, &part, &items, &job.splitters, |bytes| {
        if writer.put(bytes)? {
            yield_now();
        }
        safepoint();
        Ok(())
    })?;
    writer.finish()?;
    Ok(Done { value: cuts, moved })
}

/// Merges the pieces of one bucket and writes it to its place in the output.
#[migratable]
pub fn merge_bucket(job: MergeJob) -> Result<Done<()>, String> {
    let (data, borders) = input::read_pieces(&job.runs, &job.pieces)?;
    yield_now();
    let mut nodes = BTreeSet::new();
    nodes.insert(here());
    let mut merge = Merge::new(job.format, &data, &borders);
    let mut writer = PartWriter::new(job.output, job.at);
    while let Some(bytes) = merge.next() {
        if writer.put(bytes)? {
            nodes.insert(here());
            yield_now();
        }
    }
    nodes.insert(here());
    writer.finish()?;
    Ok(Done { value: (), moved: nodes.len() > 1 })
}

/// Looks at the order and the content of a part of a file.
#[migratable]
pub fn check_part(job: CheckJob) -> Result<Done<Checked>, String> {
    let part = input::read(&job.file.path, job.file.format, job.file.len, job.range)?;
    yield_now();
    Ok(Done { value: check::check(job.file.format, &part, safepoint), moved: false })
}
