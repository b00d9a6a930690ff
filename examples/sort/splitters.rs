//! Where one bucket ends and the next begins: keys taken from a random sample of the input.
//!
//! A splitter is a key *and* an offset in the input. Items with equal keys keep the order of the
//! input, so every item has a place of its own in the order (key, offset), and a file of a single
//! key repeated falls into buckets as even as any other.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::format::{Format, Item};
use crate::records::Random;

/// Samples for each bucket: the largest bucket stays within about twice the mean.
const SAMPLES_PER_BUCKET: usize = 16;
/// Bytes of a sampled line that are read; a longer line counts by this much.
const LINE_LEN_MAX: usize = 4096;

/// A place in the order of all items: an item is before it or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Splitter {
    key: Vec<u8>,
    offset: u64,
}

impl Splitter {
    /// A place; the order of the fields is the order of places.
    pub fn new(key: Vec<u8>, offset: u64) -> Splitter {
        Splitter { key, offset }
    }

    /// The first eight bytes of the key, as of an item.
    pub fn prefix(&self) -> u64 {
        crate::format::prefix(&self.key)
    }

    /// Whether an item, whose buffer begins at `base` in the input, comes before this place.
    #[inline]
    pub fn is_after(&self, format: Format, data: &[u8], base: u64, item: &Item) -> bool {
        let order = item.prefix().cmp(&self.prefix()).then_with(|| {
            let key = format.key(item.bytes(data));
            key.cmp(&self.key).then_with(|| (base + item.start() as u64).cmp(&self.offset))
        });
        order == Ordering::Less
    }
}

/// Splitters for `bucket_count` buckets, one fewer than buckets, ascending.
///
/// # Errors
/// The file cannot be read.
pub fn choose(
    file: &File,
    format: Format,
    len: u64,
    bucket_count: usize,
    seed: u64,
) -> io::Result<Vec<Splitter>> {
    if len == 0 || bucket_count < 2 {
        return Ok(Vec::new());
    }
    let mut random = Random::new(seed);
    let mut samples = Vec::with_capacity(bucket_count * SAMPLES_PER_BUCKET);
    for _ in 0..bucket_count * SAMPLES_PER_BUCKET {
        samples.extend(sample(file, format, len, random.below(len))?);
    }
    samples.sort_unstable();
    let mut splitters: Vec<_> = (1..bucket_count)
        .filter_map(|i| samples.get(i * samples.len() / bucket_count).cloned())
        .collect();
    splitters.dedup();
    Ok(splitters)
}

/// The item at or after a byte of the file; of lines, there may be none near.
fn sample(file: &File, format: Format, len: u64, at: u64) -> io::Result<Option<Splitter>> {
    match format {
        Format::Records { len: record, key } => {
            let offset = at - at % u64::from(record);
            let mut bytes = vec![0; key as usize];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Some(Splitter::new(bytes, offset)))
        }
        Format::Lines => {
            let mut bytes = vec![0; (LINE_LEN_MAX as u64).min(len - at) as usize];
            file.read_exact_at(&mut bytes, at)?;
            let Some(newline) = bytes.iter().position(|&b| b == b'\n') else { return Ok(None) };
            let line = Format::Lines.item_at(&bytes, newline + 1);
            Ok(line.map(|l| Splitter::new(l.bytes(&bytes).to_vec(), at + l.start() as u64)))
        }
    }
}
