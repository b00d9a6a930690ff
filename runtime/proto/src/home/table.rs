//! A dense table indexed by a growing sequence number: two array accesses per look-up, no hashing, no search.
//!
//! Chunks of [`CHUNK`] neighbours are freed when their last entry goes, so a table with few old and many new entries
//! stays small.
//!
//! A vacant place holds a whole value, the default one, and not an `Option`'s `None`: to write that the compiler may copy
//! what happened to lie on the stack, and who scans the node's memory for addresses would find some here, for as long as
//! the chunk lives.

use std::collections::VecDeque;

const CHUNK: u64 = 256;

#[derive(Debug)]
pub(crate) struct Table<T> {
    chunks: VecDeque<Option<Box<Chunk<T>>>>,
    /// Number of the chunk at the front.
    first: u64,
    next: u64,
    count: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    count: u32,
    is_used: [bool; CHUNK as usize],
    entries: [T; CHUNK as usize],
}

impl<T: Default> Chunk<T> {
    fn new() -> Chunk<T> {
        let entries = std::array::from_fn(|_| T::default());
        Chunk { count: 0, is_used: [false; CHUNK as usize], entries }
    }

    fn get(&self, index: usize) -> Option<&T> {
        self.is_used[index].then(|| &self.entries[index])
    }
}

impl<T: Default> Table<T> {
    /// An empty table whose first entry will have the number 1.
    pub(crate) fn new() -> Table<T> {
        Table { chunks: VecDeque::new(), first: 0, next: 1, count: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds an entry; its number.
    pub(crate) fn push(&mut self, value: T) -> u64 {
        let sequence = self.next;
        self.next += 1;
        let chunk = sequence / CHUNK;
        if self.chunks.is_empty() {
            self.first = chunk;
        }
        while self.first + self.chunks.len() as u64 <= chunk {
            self.chunks.push_back(None);
        }
        let chunk = self.chunks[(chunk - self.first) as usize]
            .get_or_insert_with(|| Box::new(Chunk::new()));
        let index = (sequence % CHUNK) as usize;
        chunk.count += 1;
        chunk.is_used[index] = true;
        chunk.entries[index] = value;
        self.count += 1;
        sequence
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&T> {
        let index = (sequence / CHUNK).checked_sub(self.first)?;
        let chunk = self.chunks.get(usize::try_from(index).ok()?)?.as_ref()?;
        chunk.get((sequence % CHUNK) as usize)
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Option<&mut T> {
        let index = (sequence % CHUNK) as usize;
        let chunk = self.chunk_mut(sequence)?;
        chunk.is_used[index].then(|| &mut chunk.entries[index])
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<T> {
        let chunk = self.chunk_mut(sequence)?;
        let index = (sequence % CHUNK) as usize;
        if !std::mem::take(&mut chunk.is_used[index]) {
            return None;
        }
        let value = std::mem::take(&mut chunk.entries[index]);
        chunk.count -= 1;
        let is_empty = chunk.count == 0;
        self.count -= 1;
        // The chunk that still fills is kept, so that a lone task does not allocate one each time.
        if is_empty && sequence / CHUNK != self.next / CHUNK {
            self.chunks[(sequence / CHUNK - self.first) as usize] = None;
            while let Some(None) = self.chunks.front() {
                self.chunks.pop_front();
                self.first += 1;
            }
        }
        Some(value)
    }

    /// The numbers of all entries, ascending.
    pub(crate) fn sequences(&self) -> Vec<u64> {
        let chunks = self
            .chunks
            .iter()
            .enumerate()
            .filter_map(|(i, chunk)| Some((i as u64 + self.first, chunk.as_ref()?)));
        chunks
            .flat_map(|(number, chunk)| {
                let used = chunk.is_used.iter().enumerate().filter(|(_, is_used)| **is_used);
                used.map(move |(i, _)| number * CHUNK + i as u64)
            })
            .collect()
    }

    fn chunk_mut(&mut self, sequence: u64) -> Option<&mut Chunk<T>> {
        let index = (sequence / CHUNK).checked_sub(self.first)?;
        self.chunks.get_mut(usize::try_from(index).ok()?)?.as_deref_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_number_until_they_are_removed() {
        let mut table = Table::new();
        let numbers: Vec<u64> = (0..2_000).map(|value| table.push(value)).collect();
        assert_eq!(numbers[0], 1);
        for (value, number) in numbers.iter().enumerate() {
            assert_eq!(table.get(*number), Some(&value));
            if value % 3 != 0 {
                assert_eq!(table.remove(*number), Some(value));
                assert_eq!(table.remove(*number), None);
            }
        }
        assert_eq!(table.len(), 667);
        assert_eq!(table.sequences().len(), 667);
        assert!(
            table.get(0).is_none()
                && table.get(u64::MAX).is_none()
                && table.get_mut(9_999).is_none()
        );
    }

    #[test]
    fn chunks_of_the_past_are_freed_though_an_old_entry_stays() {
        let mut table = Table::new();
        let old = table.push(0);
        for value in 1..100_000 {
            let number = table.push(value);
            table.remove(number);
        }
        assert_eq!(table.get(old), Some(&0));
        assert!(table.chunks.iter().flatten().count() <= 2);
        table.remove(old);
        assert!(table.chunks.len() <= 1);
    }
}
