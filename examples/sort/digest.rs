//! The content of a file, whatever its order: a count and a sum of a hash of each item.
//!
//! Two files with equal digests hold the same records, each as often, up to chance (2^-128 for
//! accidents; it is no protection against an attacker).

use serde::{Deserialize, Serialize};

/// Count and sum; digests of parts add up to the digest of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// How many items.
    pub count: u64,
    sums: [u64; 2],
}

impl Digest {
    /// Counts an item in.
    #[inline]
    pub fn add(&mut self, item: &[u8]) {
        self.count += 1;
        let [a, b] = hash(item);
        self.sums[0] = self.sums[0].wrapping_add(a);
        self.sums[1] = self.sums[1].wrapping_add(b);
    }

    /// Counts all items of another part in.
    pub fn join(&mut self, part: &Digest) {
        self.count += part.count;
        for (sum, other) in self.sums.iter_mut().zip(part.sums) {
            *sum = sum.wrapping_add(other);
        }
    }
}

const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xd6e8_feb8_6659_fd93;

/// Two independent hashes in one pass: each word is multiplied to 128 bits and folded.
#[inline]
fn hash(item: &[u8]) -> [u64; 2] {
    let mut a = FIRST ^ item.len() as u64;
    let mut b = SECOND ^ item.len() as u64;
    let (words, rest) = item.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for word in words.iter().chain(std::iter::once(&last)) {
        let word = u64::from_le_bytes(*word);
        a = fold(a ^ word, SECOND);
        b = fold(b.wrapping_add(word), FIRST) ^ word.rotate_left(29);
    }
    [fold(a, FIRST), fold(b, SECOND)]
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(items: &[&str]) -> Digest {
        let mut digest = Digest::default();
        items.iter().for_each(|item| digest.add(item.as_bytes()));
        digest
    }

    #[test]
    fn order_does_not_matter_but_content_does() {
        assert_eq!(digest(&["one", "two", "", "two"]), digest(&["two", "", "two", "one"]));
        for other in
            [&["one", "two", ""][..], &["one", "one", "", "two"], &["one", "twp", "", "two"]]
        {
            assert_ne!(digest(&["one", "two", "", "two"]), digest(other), "{other:?}");
        }
        assert_ne!(digest(&["a\0"]), digest(&["a"]), "length counts");
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]), "borders count");
    }

    #[test]
    fn parts_add_up() {
        let mut whole = digest(&["a", "b"]);
        whole.join(&digest(&["c"]));
        assert_eq!(whole, digest(&["c", "b", "a"]));
    }
}
