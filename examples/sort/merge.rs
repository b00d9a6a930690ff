//! Many sorted pieces into one: a tree of losers, one comparison per level for each item.
//!
//! ```text
//!            winner
//!              1            a node keeps the piece that lost there;
//!          2       3        the winner's next item climbs from its leaf
//!        [0][1]  [2][3]     and swaps places with whoever beats it
//! ```

use std::cmp::Ordering;

use crate::format::{Format, Item};

/// Pieces of a buffer, each sorted, merged by [`Merge::next`].
#[derive(Debug)]
pub struct Merge<'a> {
    format: Format,
    data: &'a [u8],
    /// What each piece has next; `None` at its end. As many as leaves.
    heads: Vec<Option<Item>>,
    ends: Vec<u32>,
    /// The piece that lost at each node; the winner of all at 0.
    losers: Vec<u32>,
}

impl<'a> Merge<'a> {
    /// Pieces given by their borders in `data`. Of equal keys, those of the earlier piece go first.
    pub fn new(format: Format, data: &'a [u8], borders: &[(u32, u32)]) -> Merge<'a> {
        let leaf_count = borders.len().next_power_of_two().max(2);
        let mut ends: Vec<u32> = borders.iter().map(|b| b.1).collect();
        ends.resize(leaf_count, 0);
        let mut heads: Vec<_> = borders
            .iter()
            .map(|&(start, end)| format.item_at(&data[..end as usize], start as usize))
            .collect();
        heads.resize(leaf_count, None);
        let mut merge = Merge { format, data, heads, ends, losers: vec![0; leaf_count] };
        let mut winners: Vec<u32> = (0..2 * leaf_count as u32).collect();
        for node in (1..leaf_count).rev() {
            let leaf = |n: u32| if n as usize >= leaf_count { n - leaf_count as u32 } else { n };
            let child = |at: usize| if at >= leaf_count { leaf(at as u32) } else { winners[at] };
            let (a, b) = (child(2 * node), child(2 * node + 1));
            let (winner, loser) = if merge.is_before(b, a) { (b, a) } else { (a, b) };
            winners[node] = winner;
            merge.losers[node] = loser;
        }
        merge.losers[0] = winners[1];
        merge
    }

    /// The next item as it stands in a file; `None` when all pieces are at their end.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an iterator's adapters are not wanted here")]
    pub fn next(&mut self) -> Option<&'a [u8]> {
        let mut winner = self.losers[0];
        let item = self.heads[winner as usize]?;
        let end = self.ends[winner as usize] as usize;
        self.heads[winner as usize] =
            self.format.item_at(&self.data[..end], item.end(self.format));
        let mut node = (winner as usize + self.heads.len()) / 2;
        while node > 0 {
            if self.is_before(self.losers[node], winner) {
                std::mem::swap(&mut self.losers[node], &mut winner);
            }
            node /= 2;
        }
        self.losers[0] = winner;
        Some(item.stored(self.format, self.data))
    }

    #[inline]
    fn is_before(&self, a: u32, b: u32) -> bool {
        match (&self.heads[a as usize], &self.heads[b as usize]) {
            (Some(first), Some(second)) => match self.format.compare(self.data, first, second) {
                Ordering::Less => true,
                Ordering::Equal => a < b,
                Ordering::Greater => false,
            },
            (first, _) => first.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expected: &str) {
        let mut data = Vec::new();
        let mut borders = Vec::new();
        for piece in pieces {
            let start = data.len() as u32;
            data.extend_from_slice(piece.as_bytes());
            borders.push((start, data.len() as u32));
        }
        let mut merge = Merge::new(Format::Lines, &data, &borders);
        let mut merged = Vec::new();
        while let Some(bytes) = merge.next() {
            merged.extend_from_slice(bytes);
        }
        assert_eq!(String::from_utf8(merged).unwrap(), expected, "{pieces:?}");
    }

    #[test]
    fn merges_any_number_of_pieces() {
        check(&[], "");
        check(&[""], "");
        check(&["a\nb\n"], "a\nb\n");
        check(&["a\nc\n", "b\n"], "a\nb\nc\n");
        check(&["", "b\nb\n", "", "a\nb\nz\n", "\n"], "\na\nb\nb\nb\nz\n");
        check(&["1\n4\n7\n", "2\n5\n8\n", "3\n6\n9\n"], "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    }

    #[test]
    fn equal_keys_keep_the_order_of_the_pieces() {
        let format = Format::Records { len: 2, key: 1 };
        let data = b"a1b1a2a3b2a4\xff5";
        let mut merge = Merge::new(format, data, &[(0, 4), (4, 6), (6, 10), (10, 14)]);
        let mut merged = Vec::new();
        while let Some(bytes) = merge.next() {
            merged.extend_from_slice(bytes);
        }
        assert_eq!(merged, b"a1a2a3a4b1b2\xff5");
    }
}
