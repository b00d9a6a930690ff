//! How the work is cut up, from the length of the input and the number of workers alone.
//!
//! The input is partitioned in *parts*, the output is sorted in *buckets*, and a bucket is gathered
//! from a piece of every part. Both grow with the square root of the input, so that a piece keeps
//! its length. Short parts and buckets make short pauses (a task that is moved takes its bytes
//! along) but many pieces to read.
//!
//! A task does several parts or buckets one after the other in the same memory, for fresh memory
//! costs more than its filling; at the end one by one, so that all workers finish together.

use crate::format::Format;

/// A part or a bucket of an input that is not large.
const BUCKET_LEN: u64 = 512 << 10;
/// The length of a piece in a large input.
const PIECE_LEN: u64 = 1 << 10;
/// Below this a task costs more than its work.
const BUCKET_LEN_MIN: u64 = 32 << 10;
/// Longer ones could not be addressed within by 32 bits.
const BUCKET_LEN_MAX: u64 = 512 << 20;
/// Parts or buckets of one task at most.
const GROUP_MAX: usize = 8;

/// Parts of the input to partition, and the number of buckets to sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ranges that cover the input, in order. Of lines: a part is the lines that begin in it.
    pub parts: Vec<(u64, u64)>,
    /// How many parts the output is sorted in.
    pub bucket_count: usize,
}

impl Plan {
    /// Cuts an input of `len` bytes for `worker_count` workers; buckets of `bucket_len` if asked.
    pub fn new(len: u64, format: Format, worker_count: usize, bucket_len: Option<u64>) -> Plan {
        let share = len / (8 * worker_count as u64).max(1);
        let chosen =
            len.saturating_mul(PIECE_LEN).isqrt().max(BUCKET_LEN).min(share).max(BUCKET_LEN_MIN);
        let bucket_len = bucket_len.unwrap_or(chosen).clamp(1, BUCKET_LEN_MAX);
        Plan {
            parts: cut(len, format, bucket_len),
            bucket_count: len.div_ceil(bucket_len) as usize,
        }
    }
}

/// Ranges of about `part_len` bytes that cover `len` bytes and cut no record.
pub fn cut(len: u64, format: Format, part_len: u64) -> Vec<(u64, u64)> {
    let unit = match format {
        Format::Records { len, .. } => u64::from(len),
        Format::Lines => 1,
    };
    let step = (part_len / unit).max(1) * unit;
    (0..len.div_ceil(step)).map(|i| (i * step, ((i + 1) * step).min(len))).collect()
}

/// Groups of neighbours for one task each: large ones first, single ones at the end.
pub fn group<T>(items: Vec<T>, lane_count: usize) -> Vec<Vec<T>> {
    let mut groups = Vec::new();
    let mut rest = items.into_iter();
    while rest.len() > 0 {
        let size = (rest.len() / (2 * lane_count).max(1)).clamp(1, GROUP_MAX);
        groups.push(rest.by_ref().take(size).collect());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: Format = Format::Records { len: 100, key: 10 };

    fn check(len: u64, format: Format, bucket_len: Option<u64>) -> usize {
        let plan = Plan::new(len, format, 3, bucket_len);
        let mut at = 0;
        for &(start, end) in &plan.parts {
            assert_eq!(start, at);
            assert!(end > start);
            if let Format::Records { len, .. } = format {
                assert_eq!(start % u64::from(len), 0);
            }
            at = end;
        }
        assert_eq!(at, len);
        plan.parts.len()
    }

    #[test]
    fn parts_cover_the_input_and_cut_no_record() {
        assert_eq!(check(0, RECORDS, None), 0);
        assert_eq!(check(100, RECORDS, None), 1);
        assert_eq!(check(300, RECORDS, Some(1)), 3);
        assert!(check(268_435_400, RECORDS, None) >= 64);
        check(12_345_600, RECORDS, None);
        check(999_999, Format::Lines, None);
        check(1, Format::Lines, None);
    }

    #[test]
    fn a_piece_keeps_its_length_for_huge_inputs() {
        for shift in [30, 34, 38] {
            let len = 1 << shift;
            let plan = Plan::new(len, Format::Lines, 3, None);
            let pieces = plan.parts.len() as u64 * plan.bucket_count as u64;
            // Lengths are rounded down.
            assert!(len / pieces >= PIECE_LEN / 2, "{shift}");
        }
    }

    #[test]
    fn groups_hold_everything_in_order_and_end_with_single_ones() {
        for count in [0, 1, 5, 17, 128, 1000] {
            let groups = group((0..count).collect(), 9);
            assert_eq!(groups.concat(), (0..count).collect::<Vec<_>>());
            assert!(groups.iter().all(|group| (1..=GROUP_MAX).contains(&group.len())));
            assert!(groups.iter().rev().take(9).all(|group| group.len() == 1), "{count}");
        }
    }
}
