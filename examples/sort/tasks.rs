//! The mobile tasks: what each does from its first byte to its last, with the places where it may
//! be moved.
//!
//! All that a task works on lies in its own heap, so it moves along. Files are open only between
//! two such places. `safepoint` is one load and one branch; `yield_now` also lets others run.

use std::cell::Cell;

use migrt::{migratable, moves, safepoint, yield_now};
use serde::{Deserialize, Serialize};

use crate::bucket::{self, Sieve};
use crate::check::{self, Checked};
use crate::format::Format;
use crate::input::{self, Part};
use crate::output::PartWriter;
use crate::path::SharedPath;
use crate::records;
use crate::splitters::Splitter;

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

/// Parts of the input to partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartJob {
    /// The input.
    pub input: Source,
    /// Ranges of it.
    pub parts: Vec<(u64, u64)>,
    /// Where the partitioned parts go.
    pub parts_file: SharedPath,
    /// Where buckets end.
    pub splitters: Vec<Splitter>,
}

/// Where a bucket comes from and where it goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// Its piece of each part.
    pub pieces: Vec<(u64, u64)>,
    /// Its place in the output.
    pub at: u64,
}

/// Buckets to sort.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SortJob {
    /// What they are made of.
    pub format: Format,
    /// The partitioned parts.
    pub parts_file: SharedPath,
    /// One after the other.
    pub buckets: Vec<Bucket>,
    /// The output so far.
    pub output: SharedPath,
}

/// Parts of a file to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckJob {
    /// The file.
    pub file: Source,
    /// Ranges of it.
    pub parts: Vec<(u64, u64)>,
}

/// How many polls of one task pass until it lets others run: some tens of microseconds of comparisons.
const POLLS_PER_TURN: u32 = 1 << 10;

/// Called at every item and every comparison: the task may be moved here, and now and then it lets
/// others run, so that those that wait for a worker wait in their middle.
fn breath() -> impl Fn() {
    let polls = Cell::new(0_u32);
    move || {
        polls.set(polls.get() + 1);
        if polls.get().is_multiple_of(POLLS_PER_TURN) {
            yield_now();
        } else {
            safepoint();
        }
    }
}

/// Fills a part of a file with records.
#[migratable]
pub fn make_records(job: MakeJob) -> Result<(), String> {
    let Format::Records { len, key } = job.file.format else {
        return Err("only records are made".into());
    };
    let record = u64::from(len);
    let mut writer = PartWriter::new(job.file.path);
    writer.seek(job.range.0)?;
    let mut data = Vec::with_capacity(len as usize);
    for number in job.range.0 / record..job.range.1 / record {
        data.clear();
        records::make(job.seed, number, 1, len as usize, key as usize, &mut data);
        if writer.put(&data)? {
            yield_now();
        }
    }
    writer.flush()
}

/// Reads parts of the input and writes each back in the order of the buckets; gives the borders of
/// the buckets' pieces, and how often it was moved in the middle of sieving, with those frames on
/// its stack.
#[migratable]
pub fn partition(job: PartJob) -> Result<(Vec<Vec<u64>>, u32), String> {
    let format = job.input.format;
    let mut sieve = Sieve::new(format, job.splitters);
    let mut writer = PartWriter::new(job.parts_file);
    let mut part = Part::default();
    let (mut items, mut sieved) = (Vec::new(), Vec::new());
    let mut cuts = Vec::with_capacity(job.parts.len());
    let mut moves_in_sieve = 0;
    for range in job.parts {
        input::read(&job.input.path, format, job.input.len, range, &mut part)?;
        yield_now();
        let moves_before = moves();
        bucket::items(format, &part.data, &mut items, breath());
        let lens = sieve.sieve(&part.data, part.base, &items, &mut sieved, breath());
        moves_in_sieve += moves() - moves_before;
        cuts.push(bucket::cuts(part.base, &lens));
        writer.seek(part.base)?;
        for item in &sieved {
            if writer.put(&part.data[item.range(format)])? {
                yield_now();
            }
        }
    }
    writer.flush()?;
    Ok((cuts, moves_in_sieve))
}

/// Gathers the pieces of buckets, sorts them, and writes them to their places in the output; gives
/// how often it was moved in the middle of a sort, with the frames of the sort on its stack.
#[migratable]
pub fn sort_buckets(job: SortJob) -> Result<u32, String> {
    let format = job.format;
    let mut writer = PartWriter::new(job.output);
    let (mut data, mut items) = (Vec::new(), Vec::new());
    let mut moves_in_sort = 0;
    for bucket in job.buckets {
        input::read_pieces(&job.parts_file, &bucket.pieces, &mut data)?;
        yield_now();
        let moves_before = moves();
        bucket::items(format, &data, &mut items, breath());
        bucket::sort(format, &data, &mut items, breath());
        moves_in_sort += moves() - moves_before;
        writer.seek(bucket.at)?;
        for item in &items {
            if writer.put(&data[item.range(format)])? {
                yield_now();
            }
        }
    }
    writer.flush()?;
    Ok(moves_in_sort)
}

/// Looks at the order and the content of parts of a file.
#[migratable]
pub fn check_parts(job: CheckJob) -> Result<Vec<Checked>, String> {
    let mut part = Part::default();
    let mut checked = Vec::with_capacity(job.parts.len());
    for range in job.parts {
        input::read(&job.file.path, job.file.format, job.file.len, range, &mut part)?;
        yield_now();
        checked.push(check::check(job.file.format, &part, safepoint));
    }
    Ok(checked)
}
