//! The two halves of the sort: which bucket an item belongs to, and a bucket sorted in memory.
//!
//! What is moved about are [`Item`]s of 16 bytes; the records themselves are copied once in each
//! half. Every item and every comparison calls `poll`, so that a task can be moved in the middle.

use std::ops::Range;

use crate::format::{Format, Item};
use crate::splitters::Splitter;

/// Finds the items in `data`, in its order.
pub fn items(format: Format, data: &[u8], items: &mut Vec<Item>, poll: impl Fn()) {
    items.clear();
    let mut at = 0;
    while let Some(item) = format.item_at(data, at) {
        poll();
        at = item.end(format);
        items.push(item);
    }
}

/// Sorts the items of `data`; those with equal keys keep their order.
pub fn sort(format: Format, data: &[u8], items: &mut [Item], poll: impl Fn()) {
    items.sort_unstable_by(|a, b| {
        poll();
        format.compare(data, a, b).then_with(|| a.start().cmp(&b.start()))
    });
}

/// Knows where buckets end.
#[derive(Debug)]
pub struct Sieve {
    format: Format,
    splitters: Vec<Splitter>,
    /// The first bytes of the splitters' keys: they mostly decide.
    prefixes: Vec<u64>,
    /// Of each item its bucket.
    buckets: Vec<u32>,
}

impl Sieve {
    /// One bucket more than splitters.
    pub fn new(format: Format, splitters: Vec<Splitter>) -> Sieve {
        let prefixes = splitters.iter().map(Splitter::prefix).collect();
        Sieve { format, splitters, prefixes, buckets: Vec::new() }
    }

    /// Puts the items of `data`, which begins at `base` in the input, in the order of their buckets
    /// into `sieved`; within a bucket they keep their order. Gives the bytes of each bucket.
    pub fn sieve(
        &mut self,
        data: &[u8],
        base: u64,
        items: &[Item],
        sieved: &mut Vec<Item>,
        poll: impl Fn(),
    ) -> Vec<u32> {
        let bucket_count = self.splitters.len() + 1;
        let mut lens = vec![0; bucket_count];
        let mut counts = vec![0_u32; bucket_count];
        self.buckets.clear();
        for item in items {
            poll();
            let bucket = self.bucket_of(data, base, item);
            self.buckets.push(bucket as u32);
            counts[bucket] += 1;
            lens[bucket] += item.range(self.format).len() as u32;
        }
        let mut next = 0;
        for count in &mut counts {
            next += std::mem::replace(count, next);
        }
        sieved.clear();
        sieved.extend_from_slice(items);
        for (item, &bucket) in items.iter().zip(&self.buckets) {
            poll();
            let place = &mut counts[bucket as usize];
            sieved[*place as usize] = *item;
            *place += 1;
        }
        lens
    }

    /// The number of splitters that are not after the item.
    fn bucket_of(&self, data: &[u8], base: u64, item: &Item) -> usize {
        let prefix = item.prefix();
        let first = self.prefixes.partition_point(|&splitter| splitter < prefix);
        if self.prefixes.get(first) != Some(&prefix) {
            return first;
        }
        let is_before = |s: &Splitter| !s.is_after(self.format, data, base, item);
        first + self.splitters[first..].partition_point(is_before)
    }
}

/// The pieces' ends in a file of parts, from their lengths: piece `i` lies between `cuts[i]` and
/// `cuts[i + 1]`.
pub fn cuts(base: u64, lens: &[u32]) -> Vec<u64> {
    let ends = lens.iter().scan(base, |at, &len| {
        *at += u64::from(len);
        Some(*at)
    });
    std::iter::once(base).chain(ends).collect()
}

impl Item {
    /// Its bytes as they stand in a file: a line with its newline.
    #[inline]
    pub fn range(&self, format: Format) -> Range<usize> {
        self.start()..self.end(format)
    }
}
