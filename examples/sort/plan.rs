//! How the work is cut up, from the length of the input and the number of workers alone.
//!
//! Each run of the input is sorted by one task, and each bucket of keys is merged by one task. A
//! merge reads a piece of every run, so runs and buckets grow with the square root of the input:
//! then a piece keeps a useful length (64 KiB and more) whatever the size of the file. A short
//! input is cut finer, so that every worker has something to do.

use crate::format::Format;

/// Runs are no longer than the offsets inside them can say.
const RUN_LEN_MAX: u64 = 1 << 30;
/// Below this a task costs more than its work.
const RUN_LEN_MIN: u64 = 64 << 10;
/// Bytes of a piece of a run in a bucket, times the runs' length over the pieces' length squared.
const PIECE_LEN: u64 = 16 << 10;

/// Runs to sort, as byte ranges of the input, and the number of buckets to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ranges that cover the input, in order. Of lines: a run takes the lines that begin in it.
    pub ranges: Vec<(u64, u64)>,
    /// How many parts the output is merged in.
    pub bucket_count: usize,
}

impl Plan {
    /// Cuts an input of `len` bytes for `worker_count` workers; runs of `run_len` bytes if asked.
    pub fn new(len: u64, format: Format, worker_count: usize, run_len: Option<u64>) -> Plan {
        let share = len / (4 * worker_count as u64).max(1);
        let chosen = (len.saturating_mul(PIECE_LEN).isqrt())
            .max(2 << 20)
            .min(share)
            .clamp(RUN_LEN_MIN, RUN_LEN_MAX);
        let run_len = run_len.unwrap_or(chosen).clamp(1, RUN_LEN_MAX);
        let ranges = cut(len, format, run_len);
        Plan { bucket_count: ranges.len(), ranges }
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

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: Format = Format::Records { len: 100, key: 10 };

    fn check(len: u64, format: Format, run_len: Option<u64>) -> usize {
        let plan = Plan::new(len, format, 3, run_len);
        let mut at = 0;
        for &(start, end) in &plan.ranges {
            assert_eq!(start, at);
            assert!(end > start);
            if let Format::Records { len, .. } = format {
                assert_eq!(start % u64::from(len), 0);
            }
            at = end;
        }
        assert_eq!(at, len);
        plan.ranges.len()
    }

    #[test]
    fn ranges_cover_the_input_and_cut_no_record() {
        assert_eq!(check(0, RECORDS, None), 0);
        assert_eq!(check(100, RECORDS, None), 1);
        assert_eq!(check(300, RECORDS, Some(1)), 3);
        assert!(check(268_435_400, RECORDS, None) >= 64);
        check(12_345_600, RECORDS, None);
        check(999_999, Format::Lines, None);
        check(1, Format::Lines, None);
    }

    #[test]
    fn a_piece_keeps_a_useful_length_for_huge_inputs() {
        let len = 1 << 40;
        let runs = check(len, Format::Lines, None) as u64;
        assert!(len / runs / runs >= 4 << 10, "{runs}");
    }
}
