//! Looking through memory for words that could be pointers into a range.

use std::arch::x86_64 as simd;

/// Calls `found` with address and value of each aligned word in `start..start + len` whose value is
/// in `low..high`, in rising order. Words that the ends cut are left out. Allocates nothing.
///
/// # Safety
///
/// - the range is readable. Who writes there meanwhile may be seen, or not
pub(crate) unsafe fn scan_words(
    start: usize,
    len: usize,
    low: usize,
    high: usize,
    found: &mut dyn FnMut(usize, usize),
) {
    let end = (start + len) & !7;
    let start = start.next_multiple_of(8);
    if start >= end || low >= high {
        return;
    }
    // The vectors compare as signed numbers: user space is all in the lower half.
    let middle = if std::is_x86_feature_detected!("avx2") && high <= i64::MAX as usize {
        // SAFETY: the caller's promise; the processor has AVX2.
        unsafe { scan_avx2(start, end, low, high, found) }
    } else {
        start
    };
    // SAFETY: as above.
    unsafe { scan_plain(middle, end, low, high, found) };
}

unsafe fn scan_plain(
    start: usize,
    end: usize,
    low: usize,
    high: usize,
    found: &mut dyn FnMut(usize, usize),
) {
    for at in (start..end).step_by(8) {
        // SAFETY: the caller's promise, aligned. Volatile: others may write it.
        let word = unsafe { (at as *const usize).read_volatile() };
        if word.wrapping_sub(low) < high - low {
            found(at, word);
        }
    }
}

/// As `scan_plain` over whole blocks of 128 bytes; where it ended.
#[target_feature(enable = "avx2")]
unsafe fn scan_avx2(
    start: usize,
    end: usize,
    low: usize,
    high: usize,
    found: &mut dyn FnMut(usize, usize),
) -> usize {
    const BLOCK: usize = 128;
    let below = simd::_mm256_set1_epi64x(low as i64 - 1);
    let above = simd::_mm256_set1_epi64x(high as i64);
    let mut at = start;
    while at + BLOCK <= end {
        let mut any = simd::_mm256_setzero_si256();
        for part in 0..BLOCK / 32 {
            // SAFETY: the caller's promise; loads without alignment.
            let words = unsafe { simd::_mm256_loadu_si256((at + part * 32) as *const _) };
            let within = simd::_mm256_and_si256(
                simd::_mm256_cmpgt_epi64(words, below),
                simd::_mm256_cmpgt_epi64(above, words),
            );
            any = simd::_mm256_or_si256(any, within);
        }
        if simd::_mm256_testz_si256(any, any) == 0 {
            // SAFETY: as above.
            unsafe { scan_plain(at, at + BLOCK, low, high, found) };
        }
        at += BLOCK;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[usize], low: usize, high: usize) {
        for from in 0..words.len().min(40) {
            let part = &words[from..];
            let (start, len) = (part.as_ptr() as usize, size_of_val(part));
            let expected: Vec<_> = (part.iter().enumerate())
                .filter(|&(_, word)| (low..high).contains(word))
                .map(|(index, &word)| (start + index * 8, word))
                .collect();
            let mut got = Vec::new();
            // SAFETY: a slice of ours.
            unsafe { scan_words(start, len, low, high, &mut |at, word| got.push((at, word))) };
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn exactly_the_words_in_the_range_are_found_at_any_offset() {
        let (low, high) = (0x2000_0000_0000, 0x2000_0010_0000);
        let edges = [low - 1, low, low + 1, high - 1, high, high + 1, 0, usize::MAX, 1 << 63, !low];
        let mut x = 1usize;
        let words: Vec<usize> = (0..600)
            .map(|_| {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if x >> 60 < 3 { edges[(x >> 30) % edges.len()] } else { x }
            })
            .collect();
        check(&words, low, high);
        check(&words, 1 << 62, (1 << 63) + 5);
        check(&words, 5, 5);
    }

    #[test]
    fn words_that_the_ends_cut_are_left_out() {
        let words = [7usize; 50];
        let start = words.as_ptr() as usize;
        for (skip, cut, expected) in [(0, 0, 50), (1, 0, 49), (7, 1, 48), (8, 8, 48)] {
            let mut count = 0;
            // SAFETY: within the array.
            unsafe { scan_words(start + skip, 400 - skip - cut, 7, 8, &mut |_, _| count += 1) };
            assert_eq!(count, expected, "{skip} {cut}");
        }
    }
}
