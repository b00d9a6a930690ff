//! Records to sort when no file is given: seeded, so the same bytes at every run, and each record
//! a function of its number alone, so that any task can make any part.
//!
//! ```text
//! | key: random bytes | number: 16 hex digits | letters … | \n |
//! ```

/// Appends records `first..first + count` to `data`.
pub fn make(seed: u64, first: u64, count: u64, len: usize, key: usize, data: &mut Vec<u8>) {
    for number in first..first + count {
        let start = data.len();
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..key.div_ceil(8) {
            data.extend_from_slice(&random.next().to_le_bytes());
        }
        data.truncate(start + key);
        let room = len - key;
        for digit in (0..16.min(room)).rev() {
            data.push(b"0123456789ABCDEF"[(number >> (4 * digit)) as usize & 15]);
        }
        data.resize(start + len, b'a' + (number % 26) as u8);
        if room > 16 {
            data[start + len - 1] = b'\n';
        }
    }
}

/// A small generator of random numbers (splitmix64): the same numbers on all machines, for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_alone_and_in_the_whole() {
        let (mut whole, mut part) = (Vec::new(), Vec::new());
        make(7, 0, 1000, 100, 10, &mut whole);
        make(7, 400, 100, 100, 10, &mut part);
        assert_eq!(whole.len(), 100_000);
        assert_eq!(whole[40_000..50_000], part[..]);
        let mut other = Vec::new();
        make(8, 400, 100, 100, 10, &mut other);
        assert_ne!(part, other);
    }

    #[test]
    fn short_records_are_all_key_or_nearly() {
        for (len, key) in [(1, 1), (8, 8), (10, 10), (12, 10), (26, 10), (27, 10)] {
            let mut data = Vec::new();
            make(1, 5, 3, len, key, &mut data);
            assert_eq!(data.len(), 3 * len, "{len} {key}");
        }
    }
}
