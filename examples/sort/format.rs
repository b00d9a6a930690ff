//! What the sort sorts: fixed-length records with a key in front, or lines of text.
//!
//! An item is one record or one line (without its newline) inside a buffer. It carries the first
//! eight bytes of its key as a number, so that most comparisons never look at the buffer. Lines
//! compare as `LC_ALL=C sort` does: byte by byte, a shorter line before its own continuation.

use std::cmp::Ordering;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

/// How a file is cut into items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Records of `len` bytes, ordered by their first `key` bytes.
    Records {
        /// Bytes of a record.
        len: u32,
        /// Bytes of its key.
        key: u64,
    },
    /// Lines that end in `\n`, ordered by all their bytes.
    Lines,
}

/// One record or line of a buffer: 16 bytes that are sorted in its place.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    prefix: u64,
    start: u32,
    len: u32,
}

impl Format {
    /// The part of a record or line that decides its place.
    pub fn key(self, item: &[u8]) -> &[u8] {
        match self {
            Format::Records { key, .. } => &item[..key as usize],
            Format::Lines => item,
        }
    }

    /// The item that begins at `start`; `None` at the end of `data`.
    #[inline]
    pub fn item_at(self, data: &[u8], start: usize) -> Option<Item> {
        let rest = data.get(start..).filter(|rest| !rest.is_empty())?;
        let len = match self {
            Format::Records { len, .. } => (len as usize).min(rest.len()),
            Format::Lines => line_len(rest),
        };
        let prefix = prefix(self.key(&rest[..len]));
        Some(Item { prefix, start: start as u32, len: len as u32 })
    }

    /// Which of two items comes first; items with equal keys are `Equal`.
    #[inline]
    pub fn compare(self, data: &[u8], a: &Item, b: &Item) -> Ordering {
        a.prefix.cmp(&b.prefix).then_with(|| match self {
            // The prefix was the whole key.
            Format::Records { key, .. } if key <= 8 => Ordering::Equal,
            _ => self.key(a.bytes(data)).cmp(self.key(b.bytes(data))),
        })
    }

    /// The newline that follows a line.
    pub fn tail_len(self) -> usize {
        usize::from(self == Format::Lines)
    }
}

impl Item {
    /// Where it begins in its buffer.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Where the next one begins.
    #[inline]
    pub fn end(&self, format: Format) -> usize {
        self.start as usize + self.len as usize + format.tail_len()
    }

    /// The record, or the line without its newline.
    #[inline]
    pub fn bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.start as usize..][..self.len as usize]
    }

    /// The key's first eight bytes as a number.
    pub fn prefix(&self) -> u64 {
        self.prefix
    }
}

/// The first eight bytes as a number that orders as they do; a shorter key is filled with zeros.
#[inline]
pub fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut chunk = [0; 8];
            chunk[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(chunk)
        }
    }
}

/// Bytes before the newline, or all.
fn line_len(rest: &[u8]) -> usize {
    let mut reader = rest;
    let taken = reader.skip_until(b'\n').expect("a slice can be read");
    if taken > 0 && rest[taken - 1] == b'\n' { taken - 1 } else { taken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_lines(a: &str, b: &str, expected: Ordering) {
        let data = format!("{a}\n{b}\n").into_bytes();
        let first = Format::Lines.item_at(&data, 0).unwrap();
        let second = Format::Lines.item_at(&data, first.end(Format::Lines)).unwrap();
        assert_eq!(Format::Lines.compare(&data, &first, &second), expected, "{a:?} {b:?}");
        assert_eq!(Format::Lines.compare(&data, &second, &first), expected.reverse());
    }

    #[test]
    fn lines_compare_as_bytes() {
        check_lines("", "a", Ordering::Less);
        check_lines("ab", "ab\0", Ordering::Less);
        check_lines("ab", "ab\x01", Ordering::Less);
        check_lines("abcdefgh", "abcdefgh\0", Ordering::Less);
        check_lines("abcdefghi", "abcdefghj", Ordering::Less);
        check_lines("Z", "a", Ordering::Less);
        check_lines("z", "\u{e4}", Ordering::Less);
        check_lines("same line of text", "same line of text", Ordering::Equal);
    }

    #[test]
    fn records_compare_by_key_only() {
        let format = Format::Records { len: 12, key: 10 };
        let data = b"0123456789zz0123456789aa0123456788zz";
        let at = |i: usize| format.item_at(data, i * 12).unwrap();
        assert_eq!(format.compare(data, &at(0), &at(1)), Ordering::Equal);
        assert_eq!(format.compare(data, &at(2), &at(1)), Ordering::Less);
        assert!(format.item_at(data, 36).is_none());
    }
}
